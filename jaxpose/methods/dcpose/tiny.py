"""The smallest network of DCPose, for tests."""

FIELDS = {
    "dcpose": {
        "input_size": (32, 32),
        "backbone": "resnet18",
        "backbone_width": 4,
        "backbone_stages": (1, 1),
        "deconv_layers": 1,
        "deconv_features": 4,
        "combination_features": 4,
        "dilations": (1, 2),
    }
}
"""Fields of each method by its name."""
