"""Names in PRTR's two-stage checkpoints (`pose_transformer_res50_384x288.pth` and its siblings)."""

from jaxpose.convert.rules import (
    CONV,
    DETR_TRANSFORMER,
    HRNET,
    HRNET_CLASSIFICATION,
    LINEAR,
    RESNET,
    TABLE,
    Rule,
    nest,
)
from jaxpose.methods.prtr import PRTR


def rules(method: PRTR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint. Older files lack the "0" in "backbone.0.body"."""
    backbone = HRNET + HRNET_CLASSIFICATION if method.backbone.startswith("hrnet") else RESNET
    return (
        *nest(backbone, r"backbone\.(?:0\.)?body\.", "backbone"),
        *nest(DETR_TRANSFORMER, r"transformer\.", ""),
        Rule(r"backbone\.1\.row_embed", "position/row", TABLE),
        Rule(r"backbone\.1\.col_embed", "position/column", TABLE),
        Rule(r"query_embed", "queries", TABLE),
        Rule(r"input_proj", "input_projection", CONV),
        Rule(r"class_embed", "class_head", LINEAR),
        Rule(r"kpt_embed\.layers\.(\d)", r"keypoint_head/layer\1", LINEAR),
    )
