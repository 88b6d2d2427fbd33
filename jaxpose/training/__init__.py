"""The one training loop, optimizers over parameter groups, and runs in a row."""
