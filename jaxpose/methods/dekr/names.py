"""Names in the released checkpoints of DEKR (`pose_dekr_*.pth`), and mmpose's.

The original has one module for each joint's branch; here all branches are one, so `prepare` stacks their entries first.

mmpose has one grouped convolution for all branches. Its taps' affine map is written without the regular grid and holds
the translation, its vectors lead from the cell to the joint, and its files have the network that rescores poses.
"""

import collections
import logging
import re

import numpy as np
from einops import rearrange

from jaxpose.errors import CheckpointError
from jaxpose.methods.dekr.method import DEKR
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, HRNET, Kind, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.skeleton import CROWDPOSE

logger = logging.getLogger(__name__)

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

    mmpose's become those of the original on the way.

    "offset_feature_layers.JOINT.BLOCK.NAME" becomes "offset_feature_layers.BLOCK.NAME" with a leading axis K.

    Raises:
      CheckpointError: a joint lacks an entry that others have, or has it in another shape, or taps are elsewhere.
    """
    if recognition.is_mmpose(_shapes(state_dict)):
        return _from_mmpose(state_dict)
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


# --- mmpose's ---

_HEATMAP = "head.heatmap_conv_layers."
_OFFSET = "head.displacement_conv_layers."
_RESCORING = "head.rescore_net."
_SAME = {
    f"{_HEATMAP}0.conv.": "transition_heatmap.0.",
    f"{_HEATMAP}0.bn.": "transition_heatmap.1.",
    f"{_HEATMAP}1.": "head_heatmap.0.0.",
    f"{_HEATMAP}2.": "head_heatmap.1.",
    f"{_OFFSET}0.conv.": "transition_offset.0.",
    f"{_OFFSET}0.bn.": "transition_offset.1.",
    "backbone.": "",
}
"""{how names begin there: how they begin in the original}."""


def _from_mmpose(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries of mmpose's file under the original's names, with those of all branches stacked.

    Raises:
      CheckpointError: the head is another one.
    """
    last = f"{_OFFSET}{recognition.count(_shapes(state_dict), re.escape(_OFFSET) + r'([0-9]+)[.]') - 1}."
    joints = len(state_dict.get(f"{last}bias", ())) // 2
    if not joints:
        raise CheckpointError(f"there is no {_OFFSET}*.bias of the last layer, so this is no checkpoint of DEKR")
    prepared = {}
    for name, array in state_dict.items():
        begins = next((begin for begin in _SAME if name.startswith(begin)), None)
        if name.startswith(last):
            prepared[f"offset_final_layer.{name.removeprefix(last)}"] = -_stacked(array, joints)
        elif begins is not None:
            prepared[_SAME[begins] + name.removeprefix(begins)] = array
        elif name.startswith(_OFFSET):
            prepared |= _block(name, array, joints)
        elif not name.startswith(_RESCORING):
            prepared[name] = array
    if any(name.startswith(_RESCORING) for name in state_dict):
        logger.info("left out %s*, which rescores poses; jaxpose convert --rescorer makes a file of it", _RESCORING)
    return prepared


def _block(name: str, array: np.ndarray, joints: int) -> dict[str, np.ndarray]:
    """An entry of an adaptive block: for each joint the affine map is (a, b, ty, c, d, tx), less the identity."""
    number, _, entry = name.removeprefix(_OFFSET).partition(".")
    block = f"offset_feature_layers.{int(number) - 1}."
    if entry == "regular_matrix":
        return {}
    if not array.ndim:
        return {f"{block}{entry.replace('norm.', 'bn.')}": array}
    stacked = _stacked(array, joints)
    if not entry.startswith("transform_matrix_conv."):
        return {f"{block}{entry.replace('norm.', 'bn.')}": stacked}
    leaf = entry.rpartition(".")[2]
    affine = stacked[:, [0, 1, 3, 4]]
    if leaf == "bias":
        affine = affine + np.eye(2, dtype=affine.dtype).reshape(-1)
    return {f"{block}transform_matrix_conv.{leaf}": affine, f"{block}translation_conv.{leaf}": stacked[:, [2, 5]]}


def _stacked(array: np.ndarray, joints: int) -> np.ndarray:
    """Channels of all joints, one after the other, [K C, ...] -> [K, C, ...]."""
    if len(array) % joints:
        raise CheckpointError(f"an entry of shape {array.shape} cannot be shared by {joints} joints")
    return rearrange(array, "(k c) ... -> k c ...", k=joints)


def _shapes(state_dict: dict[str, np.ndarray]) -> Shapes:
    return {name: array.shape for name, array in state_dict.items()}


def recognize(shapes: Shapes) -> Recognized | None:
    """An HRNet with one head for heatmaps and one with a branch for each joint."""
    trunk, head = recognition.trunk_and_head(shapes)
    maps = head.get("heatmap_conv_layers.2.weight") or head.get("head_heatmap.1.weight")
    fields = recognition.hrnet(trunk)
    if fields is None or maps is None or len(maps) != 4:
        return None
    joints = maps[0] - 1
    grouped = "heatmap_conv_layers.2.weight" in head
    pattern = r"displacement_conv_layers\.(\d+)\." if grouped else r"offset_feature_layers\.0\.(\d+)\."
    taps = head.get("displacement_conv_layers.1.adapt_conv.weight") or head.get(
        "offset_feature_layers.0.0.adapt_conv.weight"
    )
    if taps is None or len(taps) != 4:
        return None
    fields |= {"offset_blocks": recognition.count(head, pattern) - 2 * grouped, "offset_features": taps[1]}
    if maps[1] != trunk["stage2.0.branches.0.0.conv1.weight"][0]:
        fields["heatmap_features"] = maps[1]
    wide = "_w48" if fields["backbone"] == "hrnet_w48" else ""
    return Recognized(fields, f"dekr:{'crowdpose' if joints == CROWDPOSE.num_joints else 'coco'}{wide}", joints)


def rules(method: DEKR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint that went through `prepare`."""
    return (*nest(HRNET, "", "backbone"), *HEADS)
