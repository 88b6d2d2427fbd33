"""Data sets, crops and the input pipeline."""
