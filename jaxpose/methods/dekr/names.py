"""Names in the released checkpoints of DEKR (`pose_dekr_*.pth`).

The original has one module for each joint's branch; here all branches are one, so `prepare` stacks their entries first.
"""

import collections
import re

import numpy as np

from jaxpose.errors import CheckpointError
from jaxpose.methods.dekr.method import DEKR
from jaxpose.nn.names import BATCH_NORM, CONV, HRNET, Kind, Rule, nest

_BRANCH = re.compile(r"(offset_feature_layers|offset_final_layer)\.(\d+)\.(.+)")
_TAPS = np.stack([g.reshape(-1) for g in np.mgrid[-1:2, -1:2]])
"""[2, 9] where the taps of a 3x3 kernel are, rows (y) first."""


def branch_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[K, out, in, h, w] -> [K, h, w, in, out]."""
    return array.transpose(0, 3, 4, 2, 1) if array.ndim == 5 else array


BRANCH_CONV: Kind = {"weight": (("kernel", branch_kernel),), "bias": CONV["bias"]}

HEADS = (
    Rule(r"transition_(heatmap|offset)\.0", r"\1_transition/conv", CONV),
    Rule(r"transition_(heatmap|offset)\.1", r"\1_transition/bn", BATCH_NORM),
    Rule(r"head_heatmap\.0\.0\.(conv\d)", r"heatmap_block/\1", CONV),
    Rule(r"head_heatmap\.0\.0\.(bn\d)", r"heatmap_block/\1", BATCH_NORM),
    Rule(r"head_heatmap\.1", "heatmap_final", CONV),
    Rule(r"offset_feature_layers\.(\d)\.transform_matrix_conv", r"offset_block\1/transform", BRANCH_CONV),
    Rule(r"offset_feature_layers\.(\d)\.translation_conv", r"offset_block\1/translation", BRANCH_CONV),
    Rule(r"offset_feature_layers\.(\d)\.adapt_conv", r"offset_block\1", BRANCH_CONV),
    Rule(r"offset_feature_layers\.(\d)\.bn", r"offset_block\1/bn", BATCH_NORM),
    Rule("offset_final_layer", "offset_final", BRANCH_CONV),
)
"""Both heads, with the branches stacked."""


def prepare(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries of a checkpoint with those of all branches stacked, and without the constant places of the taps.

    "offset_feature_layers.JOINT.BLOCK.NAME" becomes "offset_feature_layers.BLOCK.NAME" with a leading axis K.

    Raises:
      CheckpointError: a joint lacks an entry that others have, or has it in another shape, or taps are elsewhere.
    """
    prepared, branches = {}, collections.defaultdict(dict)
    for name, array in state_dict.items():
        found = _BRANCH.fullmatch(name)
        if found is None:
            prepared[name] = array
        elif found[3].endswith("regular_matrix"):
            _check_taps(name, array)
        else:
            branches[f"{found[1]}.{found[3]}"][int(found[2])] = array
    joints = 1 + max((joint for arrays in branches.values() for joint in arrays), default=-1)
    for name, arrays in branches.items():
        if missing := sorted(set(range(joints)) - arrays.keys()):
            raise CheckpointError(f"the checkpoint has {joints} joints, but {name} is missing for joints {missing}")
        if len(shapes := {array.shape for array in arrays.values()}) > 1:
            raise CheckpointError(f"{name} differs in shape from joint to joint: {sorted(shapes)}")
        prepared[name] = np.stack([arrays[joint] for joint in range(joints)])
    return prepared


def _check_taps(name: str, array: np.ndarray) -> None:
    if not np.array_equal(array, _TAPS):
        raise CheckpointError(
            f"{name} is {array.tolist()}; only the places of a 3x3 kernel are known, {_TAPS.tolist()}"
        )


def rules(method: DEKR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint that went through `prepare`."""
    return (*nest(HRNET, "", "backbone"), *HEADS)
