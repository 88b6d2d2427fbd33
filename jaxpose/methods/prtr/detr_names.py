"""Names in DETR's checkpoints (`detr-r50-e632da11.pth`, `detr-r101-2c7b67e5.pth` and their dilated siblings)."""

from jaxpose.methods.prtr.detr import DETR
from jaxpose.nn.names import CONV, DETR_TRANSFORMER, HRNET, LINEAR, RESNET, TABLE, Rule, nest

DETECTOR = (
    *nest(DETR_TRANSFORMER, r"transformer\.", ""),
    Rule(r"query_embed", "queries", TABLE),
    Rule(r"input_proj", "input_projection", CONV),
    Rule(r"class_embed", "class_head", LINEAR),
    Rule(r"bbox_embed\.layers\.(\d)", r"box_head/layer\1", LINEAR),
)
"""Rules of the parts after the backbone."""


def rules(method: DETR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    backbone = HRNET if method.backbone.startswith("hrnet") else RESNET
    return (*nest(backbone, r"backbone\.(?:0\.)?body\.", "backbone"), *nest(DETECTOR, "", "detector"))
