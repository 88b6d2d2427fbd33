"""The smallest heatmap network, for tests."""

FIELDS = {
    "heatmap": {
        "input_size": (32, 32),
        "backbone_width": 4,
        "backbone_stages": (1, 1),
        "deconv_layers": 1,
        "deconv_features": 4,
    }
}
"""Fields of each method by its name."""
