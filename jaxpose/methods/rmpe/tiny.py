"""The smallest network of RMPE, for tests."""

FIELDS = {
    "rmpe": {
        "input_size": (32, 32),
        "backbone_width": 4,
        "deconv_features": 4,
        "localization_width": 4,
        "localization_stages": (1, 1),
    }
}
"""Fields of each method by its name."""
