"""Names in PRTR's two-stage checkpoints (`pose_transformer_res50_384x288.pth` and its siblings)."""

from typing import Any

from jaxpose.methods.prtr import detr_names
from jaxpose.methods.prtr.method import PRTR
from jaxpose.nn.names import (
    CONV,
    DETR_TRANSFORMER,
    HRNET,
    HRNET_CLASSIFICATION,
    LAYER_NORM,
    LINEAR,
    RESNET,
    TABLE,
    Kind,
    Rule,
    keep,
    nest,
)
from jaxpose.nn.recognition import Recognized, Shapes

UNUSED: Kind = {"weight": (), "bias": ()}

PLAIN = (
    *nest(DETR_TRANSFORMER, r"transformer\.", ""),
    Rule(r"query_embed", "queries", TABLE),
    Rule(r"input_proj", "input_projection", CONV),
    Rule(r"class_embed", "class_head", LINEAR),
    Rule(r"kpt_embed\.layers\.(\d)", r"keypoint_head/layer\1", LINEAR),
)
"""Rules of the parts after the backbone."""

_ATTENTION = r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(self|cross)_attn"
_OURS = r"\1/layer\2/\3_attention"


def deformable(layers: int) -> tuple[Rule, ...]:
    """Rules of the parts after the backbone in the deformable variant.

    Its heads are stored once for each of `layers` decoder layers, though they are one. The last copy counts, as it did
    when the original code read a checkpoint.
    """
    last = layers - 1
    return (
        *nest(DETR_TRANSFORMER, r"transformer\.", ""),
        Rule(rf"{_ATTENTION}\.sampling_offsets", f"{_OURS}/offsets", LINEAR),
        Rule(rf"{_ATTENTION}\.attention_weights", f"{_OURS}/weights", LINEAR),
        Rule(rf"{_ATTENTION}\.value_proj", f"{_OURS}/value", LINEAR),
        Rule(rf"{_ATTENTION}\.output_proj", f"{_OURS}/out", LINEAR),
        Rule(r"transformer", "level_vectors", {"level_embed": (("", keep),)}),
        Rule(r"transformer\.reference_points", "reference_points", LINEAR),
        Rule(r"query_embed", "queries", TABLE),
        Rule(r"input_proj\.(\d+)\.0", r"project\1_conv", CONV),
        Rule(r"input_proj\.(\d+)\.1", r"project\1_norm", LAYER_NORM),
        Rule(rf"class_embed\.{last}", "class_head", LINEAR),
        Rule(rf"kpt_embed\.{last}\.layers\.(\d)", r"keypoint_head/layer\1", LINEAR),
        Rule(r"class_embed\.\d+", "", UNUSED),
        Rule(r"kpt_embed\.\d+\.layers\.\d", "", UNUSED),
    )


def rules(method: PRTR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint. Older files lack the "0" in "backbone.0.body"."""
    backbone = HRNET + HRNET_CLASSIFICATION if method.backbone.startswith("hrnet") else RESNET
    return (
        *nest(backbone, r"backbone\.(?:0\.)?body\.", "backbone"),
        Rule(r"backbone\.1\.row_embed", "position/row", TABLE),
        Rule(r"backbone\.1\.col_embed", "position/column", TABLE),
        *(deformable(method.decoder_layers) if method.deformable else PLAIN),
    )


def recognize(shapes: Shapes) -> Recognized | None:
    """A backbone, DETR's transformer, plain or deformable, classes and coordinates of joints."""
    fields = detr_names.backbone_and_stacks(shapes)
    deformable = "kpt_embed.0.layers.0.weight" in shapes
    classes = shapes.get("class_embed.0.weight" if deformable else "class_embed.weight", ())
    if fields is None or len(classes) != 2 or not (deformable or "kpt_embed.layers.0.weight" in shapes):
        return None
    joints, hrnet = classes[0] - 1, fields["backbone"].startswith("hrnet")
    fields["positional"] = "learned" if "backbone.1.row_embed.weight" in shapes else "sine"
    if deformable:
        fields |= {"deformable": True, **_points(shapes)}
    return Recognized(fields, f"prtr:{_recipe(fields, deformable)}", joints, {"channels": "rgb" if hrnet else "bgr"})


def _points(shapes: Shapes) -> dict[str, Any]:
    """Maps and places that the eight heads of the deformable variant look at."""
    levels = shapes["transformer.level_embed"][0]
    rows = {
        stack: shapes[f"transformer.{stack}.layers.0.{kind}_attn.attention_weights.weight"][0]
        for stack, kind in (("encoder", "self"), ("decoder", "cross"))
    }
    return {"feature_levels": levels} | {f"{stack}_points": n // (PRTR.heads * levels) for stack, n in rows.items()}


def _recipe(fields: dict[str, Any], deformable: bool) -> str:
    if deformable:
        return "deformable_coco"
    return {"hrnet_w32": "coco_w32", "resnet101": "coco_r101"}.get(fields["backbone"], "coco")
