"""The smallest network of RegDA, for tests."""

FIELDS = {
    "regda": {
        "input_size": (32, 32),
        "backbone_width": 4,
        "backbone_stages": (1, 1),
        "deconv_features": (4,),
        "deconv_kernels": (4,),
    }
}
"""Fields of each method by its name."""
