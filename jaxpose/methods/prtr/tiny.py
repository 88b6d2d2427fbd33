"""The smallest networks of PRTR's three methods, for tests."""

TRANSFORMER = {"hidden_dim": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16}
RESNET = {
    "backbone": "resnet18",
    "backbone_width": 4,
    "backbone_stages": (1, 1, 1, 1),
    "frozen_norm": False,
    "frozen_stages": 0,
}
DETECTOR = {
    **RESNET,
    **TRANSFORMER,
    "input_size": (64, 64),
    "short_side": 64,
    "long_side": 64,
    "max_people": 3,
    "num_queries": 5,
    "dilation": True,
}
POSE_IN_BOXES = {
    "levels": (2, 3),
    "crop_size": (3, 4),
    "top_people": 3,
    "keypoint_dim": 16,
    "keypoint_heads": 2,
    "keypoint_encoder_layers": 1,
    "keypoint_decoder_layers": 1,
    "keypoint_feedforward": 16,
    "keypoint_queries": 18,
}

FIELDS = {
    "prtr": {"input_size": (32, 32), "backbone_width": 4, "backbone_stages": (1, 1), **TRANSFORMER},
    "detr": DETECTOR,
    "sequential_prtr": {**DETECTOR, **POSE_IN_BOXES},
}
"""Fields of each method by its name."""
CONFIGS = {"prtr": "prtr:coco_laptop", "detr": "prtr:detector", "sequential_prtr": "prtr:sequential"}
"""Configs that the fields go into, where a method's config is not called like the method."""
