"""The smallest network of the anatomy-aware method, for tests."""

FIELDS = {"anatomy3d": {"widths": (3, 3), "channels": 8, "num_drawn": 4, "skeleton": "h36m"}}
"""Fields of each method by its name."""
