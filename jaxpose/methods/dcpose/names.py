"""Names in the released checkpoint of DCPose (`PoseTrack17_DCPose.pth`)."""

import numpy as np

from jaxpose.errors import CheckpointError
from jaxpose.methods.dcpose.method import DCPose
from jaxpose.methods.heatmap import names as heatmap_names
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes

ROUGH = "rough_pose_estimation_net."

CHAINS = {
    "diff_temporal_fuse": "fusion",
    "support_temporal_fuse": "merger",
    "offset_mask_combine_conv": "combination",
}
"""Chains of residual steps blocks in the original, and what they are called here."""


def prepare(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The entries of a checkpoint as they are.

    Raises:
      CheckpointError: the file is a network for single frames, such as those that training starts from.
    """
    if not any(name.startswith(ROUGH) for name in state_dict):
        raise CheckpointError(
            f"no entry begins with {ROUGH!r}, so this is no checkpoint of DCPose. If it is a network for single frames "
            "(pose_hrnet_*.pth), name it in config.init_from."
        )
    return state_dict


def rules(method: DCPose) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    chains = (rule for theirs, ours in CHAINS.items() for rule in _chain(theirs, f"refinement/{ours}"))
    warps = (rule for index, dilation in enumerate(method.dilations) for rule in _warp(index, dilation))
    return (*nest(heatmap_names.rules(method), r"rough_pose_estimation_net\.", ""), *chains, *warps)


def _chain(module: str, path: str) -> tuple[Rule, ...]:
    block = rf"{module}\.layers\.(\d+)"
    return tuple(
        Rule(rf"{block}\.{theirs}\.{layer}", rf"{path}/block\1/{ours}/{layer}", kind)
        for theirs, ours in ((r"conv_bn_relu(1|3|2_\d_\d)", r"conv\2"), ("downsample", "downsample"))
        for layer, kind in (("conv", CONV), ("bn", BATCH_NORM))
    )


def _warp(index: int, dilation: int) -> tuple[Rule, ...]:
    path = f"refinement/correction/dilation{dilation}"
    return (
        Rule(rf"(offsets|masks)_list\.{index}\.0", rf"{path}/\1", CONV),
        Rule(rf"modulated_deform_conv_list\.{index}\.deform_conv", path, CONV),
    )


def recognize(shapes: Shapes) -> Recognized | None:
    """A network of heatmaps for single frames, and chains of residual steps blocks that refine them."""
    rough = heatmap_names.recognize(recognition.under(shapes, ROUGH))
    fusion = shapes.get("diff_temporal_fuse.layers.0.conv_bn_relu3.conv.weight", ())
    if rough is None or len(fusion) != 4:
        return None
    fields = {name: value for name, value in rough.fields.items() if not name.startswith("deconv")}
    return Recognized(fields, "dcpose:posetrack17", rough.joints)
