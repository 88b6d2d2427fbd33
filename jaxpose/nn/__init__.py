"""Flax modules that papers share. They hold no loss and touch no data."""
