"""Names in checkpoints of end-to-end PRTR, as its notebook would write them; none was ever released."""

import numpy as np

from jaxpose.methods.prtr.detr_names import DETECTOR
from jaxpose.methods.prtr.sequential_prtr import SequentialPRTR
from jaxpose.nn.names import CONV, DETR_TRANSFORMER, HRNET, LINEAR, RESNET, TABLE, Kind, Rule, linear_kernel, nest


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
