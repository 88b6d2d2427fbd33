"""Names in checkpoints of end-to-end PRTR, as its notebook would write them; none was ever released."""

import numpy as np

from jaxpose.methods.prtr import detr_names
from jaxpose.methods.prtr.detr_names import DETECTOR
from jaxpose.methods.prtr.sequential_prtr import SequentialPRTR
from jaxpose.nn import recognition
from jaxpose.nn.names import CONV, DETR_TRANSFORMER, HRNET, LINEAR, RESNET, TABLE, Kind, Rule, linear_kernel, nest
from jaxpose.nn.recognition import Recognized, Shapes


def _last_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in] -> [in, out], the first output becoming the last."""
    return np.roll(array, -1, axis=0).T


def _last_bias(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out], the first becoming the last."""
    return np.roll(array, -1)


BACKGROUND_FIRST: Kind = {"weight": (("kernel", _last_kernel),), "bias": (("bias", _last_bias),)}
"""A classifier whose class 0 means "no keypoint"."""
COLUMNS: Kind = {"weight": (("", linear_kernel),)}
"""A table whose vectors are columns."""
CONSTANTS: Kind = {"x_interpolate": (), "y_interpolate": (), "mask": (), "pe": ()}


POSE = (
    *nest(DETR_TRANSFORMER, r"transformer\.", ""),
    Rule(r"query_embed", "queries", TABLE),
    Rule(r"input_proj", "input_projection", CONV),
    Rule(r"class_predictor", "class_head", BACKGROUND_FIRST),
    Rule(r"coord_predictor\.layers\.(\d)", r"keypoint_head/layer\1", LINEAR),
)
"""The transformer of joints."""


def rules(method: SequentialPRTR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint. There, "row_embed" encodes columns and "col_embed" rows."""
    backbone = HRNET if method.backbone.startswith("hrnet") else RESNET
    return (
        *nest(backbone, r"backbone\.(?:0\.)?body\.", "backbone"),
        *nest(DETECTOR, "", "detector"),
        *nest(POSE, r"transformer_kpt\.", "pose"),
        Rule(r"row_embed", "position/column", COLUMNS),
        Rule(r"col_embed", "position/row", COLUMNS),
        Rule(r"(?:transformer_kpt)?", "", CONSTANTS),
    )


def recognize(shapes: Shapes) -> Recognized | None:
    """A detector, and a transformer of joints on crops of the backbone's maps."""
    fields, pose = detr_names.detector_fields(shapes), recognition.under(shapes, "transformer_kpt.")
    stacks = detr_names.stack_fields(recognition.under(pose, "transformer."))
    classes, rows, columns = (
        pose.get("class_predictor.weight", ()),
        shapes.get("row_embed.weight", ()),
        shapes.get("col_embed.weight", ()),
    )
    if fields is None or stacks is None or not len(classes) == len(rows) == len(columns) == 2:
        return None
    sizes = ("hidden_dim", "feedforward", "encoder_layers", "decoder_layers")
    fields |= {f"keypoint_{name.removeprefix('hidden_')}": stacks[name] for name in sizes}
    if fields["num_queries"] < SequentialPRTR.top_people:
        fields["top_people"] = fields["num_queries"]
    fields["keypoint_queries"] = pose["query_embed.weight"][0]
    fields["crop_size"] = (rows[1], columns[1])
    fields["levels"] = _levels(shapes["input_proj.weight"][1], pose["input_proj.weight"][1])
    return Recognized(fields, "prtr:sequential_coco", classes[0] - 1)


def _levels(coarsest: int, together: int) -> tuple[int, ...]:
    """Maps of a backbone whose channels, which double from one to the next, add up to so many.

    Examples:
      >>> _levels(2048, 512 + 1024 + 2048)
      (1, 2, 3)
    """
    return tuple(level for level in range(4) if together & (coarsest >> (3 - level)))
