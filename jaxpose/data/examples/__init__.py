"""What methods learn from and are evaluated on, one kind of input a file."""
