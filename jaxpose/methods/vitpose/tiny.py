"""The smallest ViTPose, for tests."""

FIELDS = {"vitpose": {"input_size": (32, 32), "size": "", "width": 16, "layers": 2, "heads": 2, "head_features": 4}}
"""Fields of each method by its name."""
