"""The smallest network of DEKR, for tests."""

FIELDS = {
    "dekr": {
        "input_size": 64,
        "max_people": 2,
        "backbone": "hrnet_w4",
        "backbone_stages": (1, 1, 1),
        "backbone_blocks": 1,
        "stem_width": 4,
        "stem_blocks": 1,
        "offset_features": 2,
        "offset_blocks": 1,
    }
}
"""Fields of each method by its name."""
