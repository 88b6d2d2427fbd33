"""Released weights: what there is, which network a file is of, and opening it."""
