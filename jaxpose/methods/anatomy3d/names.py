"""Names in Anatomy3D's checkpoints: entry `model_pos` of `pretrained_h36m_cpn_243frame.bin` and of training's files.

Of the baseline without bones and without a gate, which is the network of VideoPose3D, the names are mmpose's.
"""

import numpy as np

from jaxpose.errors import CheckpointError
from jaxpose.methods.anatomy3d.method import Anatomy3D
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, LINEAR, Kind, Rule, keep
from jaxpose.nn.recognition import Recognized, Shapes


def taps_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in, width] of a convolution over time -> [width in, out] of a linear layer of its taps."""
    return array.transpose(2, 1, 0).reshape(-1, len(array)) if array.ndim == 3 else array


def own_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The half that sees the level above, which comes first: `taps_kernel` of [out, in / 2, width]."""
    return taps_kernel(array[:, : array.shape[1] // 2] if array.ndim == 3 else array, shape)


def context_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The half that sees the trunk's features: `taps_kernel` of [out, in / 2, width]."""
    return taps_kernel(array[:, array.shape[1] // 2 :] if array.ndim == 3 else array, shape)


TAPS: Kind = {"weight": (("kernel", taps_kernel),), "bias": (("bias", keep),)}
OWN_TAPS: Kind = {"weight": (("kernel", own_kernel),)}
CONTEXT_TAPS: Kind = {"weight": (("kernel", context_kernel),)}
"""A convolution of the second sub-network is divided here, and so has two rules."""


def _level(index: int) -> tuple[Rule, ...]:
    """Convolution `index` of the trunk from 1, with the second sub-network's `index` - 1, and the two layers of each.

    The frame network has a residual block of two layers for each of these.
    """
    over_time, pointwise, below = 2 * index - 2, 2 * index - 1, index - 1
    return (
        Rule(rf"layers_conv\.{over_time}", f"trunk/conv{index}", TAPS),
        Rule(rf"layers_bn\.{over_time}", f"trunk/conv{index}_bn", BATCH_NORM),
        Rule(rf"layers_conv\.{pointwise}", f"trunk/linear{index}", TAPS),
        Rule(rf"layers_bn\.{pointwise}", f"trunk/linear{index}_bn", BATCH_NORM),
        Rule(rf"layers_conv1\.{over_time}", f"propagation/conv{below}", OWN_TAPS),
        Rule(rf"layers_conv1\.{over_time}", f"contexts/conv{below}", CONTEXT_TAPS),
        Rule(rf"layers_bn1\.{over_time}", f"propagation/conv{below}_bn", BATCH_NORM),
        Rule(rf"layers_conv1\.{pointwise}", f"propagation/linear{below}", TAPS),
        Rule(rf"layers_bn1\.{pointwise}", f"propagation/linear{below}_bn", BATCH_NORM),
    )


def _frame(levels: int) -> tuple[Rule, ...]:
    """The network of bone lengths, whose last linear layer is counted like the others."""
    hidden = (
        rule
        for i in range(2 * levels - 1)
        for rule in (
            Rule(rf"layers_convbone\.{i}", f"frame/linear{i}", LINEAR),
            Rule(rf"layers_bnbone\.{i}", f"frame/linear{i}_bn", BATCH_NORM),
        )
    )
    return (*hidden, Rule(rf"layers_convbone\.{2 * levels - 1}", "frame/out", LINEAR))


def _fusion(suffix: str, out: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f"lengthlinear{suffix}", f"{path}/length", LINEAR),
        Rule(f"directlinear{suffix}", f"{path}/direction", TAPS),
        Rule(out, f"{path}/out", TAPS),
    )


def _video_pose(blocks: int) -> tuple[Rule, ...]:
    """mmpose's VideoPose3D: a stem, blocks of two convolutions, and the head."""
    places = [("expand_conv", "expand")]
    for i in range(blocks):
        places += [(rf"tcn_blocks\.{i}\.conv1\.0", f"conv{i + 1}"), (rf"tcn_blocks\.{i}\.conv2\.0", f"linear{i + 1}")]
    parts = (("conv", "", TAPS), ("bn", "_bn", BATCH_NORM))
    trunk = (
        Rule(rf"backbone\.{module}\.{part}", f"trunk/{path}{suffix}", kind)
        for module, path in places
        for part, suffix, kind in parts
    )
    return (*trunk, Rule(r"head\.conv", "joints", TAPS))


def recognize(shapes: Shapes) -> Recognized | None:
    """Anatomy3D's convolutions over time with the network of bone lengths, or VideoPose3D's with a head."""
    trunk, head = recognition.trunk_and_head(shapes)
    direct = "expand_conv.conv.weight" in trunk and "conv.weight" in head
    stem = trunk.get("expand_conv.conv.weight" if direct else "expand_conv.weight", ())
    if len(stem) != 3 or not (direct or "boneatt.weight" in shapes):
        return None
    name = "tcn_blocks.{}.conv1.0.conv.weight" if direct else "layers_conv.{}.weight"
    number = recognition.count(trunk, name.replace(".", r"\.").format(r"(\d+)"))
    convolutions = [trunk[name.format(i)] for i in range(0, number, 1 if direct else 2)]
    widths = tuple(shape[2] for shape in (stem, *convolutions))
    fields = {"widths": widths, "channels": stem[0]} | ({"direct": True, "gated": False} if direct else {})
    return Recognized(fields, f"anatomy3d:h36m{'_direct' if direct else ''}", stem[1] // 2)


def rules(method: Anatomy3D) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint.

    Raises:
      CheckpointError: the gated baseline without bones, which nobody has released.
    """
    if method.direct and method.gated:
        raise CheckpointError("config.method.direct is True, but checkpoints hold bones; convert with direct=False")
    if method.direct:
        return _video_pose(len(method.widths) - 1)
    return (
        Rule("expand_conv", "trunk/expand", TAPS),
        Rule("expand_bn", "trunk/expand_bn", BATCH_NORM),
        Rule("expand_convscore", "trunk/score", TAPS),
        Rule("expand_bnscore", "trunk/score_bn", BATCH_NORM),
        *(rule for index in range(1, len(method.widths)) for rule in _level(index)),
        *_frame(len(method.widths)),
        Rule("boneatt", "attention", LINEAR),
        Rule("shrink_direct_([12])", r"direction\1", TAPS),
        *_fusion("", "shrink", "fusion"),
        *_fusion("_1", "shrink_js_1", "shift1"),
        *_fusion("_2", "shrink_js_2", "shift2"),
    )
