"""The smallest network of DSNT, for tests."""

FIELDS = {"dsnt": {"input_size": (32, 32), "backbone_width": 4, "backbone_stages": (1, 1), "dilate": 1}}
"""Fields of each method by its name."""
