"""Names in released checkpoints: SimpleBaselines' and HRNet's (`pose_resnet_*.pth`, `pose_hrnet_*.pth`), and mmpose's.

mmpose has the same names behind "backbone." and "head." ("keypoint_head." in its versions 0.x).
"""

import dataclasses
from typing import Any

from jaxpose.methods.heatmap.hourglass import WIDTHS
from jaxpose.methods.heatmap.method import HOURGLASS, Heatmap
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV_HEAD, HRNET, RESNET, Kind, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.skeleton import MPII, SKELETONS

UNUSED: Kind = dict.fromkeys(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), ())
"""Entries between hourglasses, which a file of one hourglass has all the same."""

_BLOCK = {"conv": CONV, "bn": BATCH_NORM}


def _blocks(module: str, path: str) -> tuple[Rule, ...]:
    """Rules of the residual blocks whose names match `module`, which captures no group, and end with a number."""
    inner = [(rf"({part}\d)", r"\2", kind) for part, kind in _BLOCK.items()]
    inner += [(r"downsample\.0", "downsample_conv", CONV), (r"downsample\.1", "downsample_bn", BATCH_NORM)]
    return tuple(Rule(rf"{module}\.(\d+)\.{name}", rf"{path}_\1/{ours}", kind) for name, ours, kind in inner)


def _hourglass(levels: int) -> tuple[Rule, ...]:
    """mmpose's hourglass, in which a level is called after the way to it."""
    rules = [
        Rule(r"stem\.0\.conv", "stem_conv/conv", CONV),
        Rule(r"stem\.0\.bn", "stem_conv/bn", BATCH_NORM),
        Rule(r"out_convs\.0\.conv", "out/conv", CONV),
        Rule(r"out_convs\.0\.bn", "out/bn", BATCH_NORM),
        Rule(r"inters\..*", "", UNUSED),
    ]
    rules += [dataclasses.replace(r, path=r.path.replace(r"_\1", "")) for r in _blocks(r"stem\.1", "stem_block")]
    for level in range(levels):
        way = r"hourglass_modules\.0" + r"\.low2" * level
        if level + 1 == levels:
            rules += _blocks(way, f"level{level}")
        for name, ours in (("up1", "across"), ("low1", "down"), ("low3", "up")) if level + 1 < levels else ():
            rules += _blocks(rf"{way}\.{name}", f"level{level}_{ours}")
    return tuple(rules)


BACKBONES = {"resnet": RESNET, "hrnet": HRNET, "hourglass": _hourglass(len(WIDTHS))}


def rules(method: Heatmap) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    backbone = nest(BACKBONES[method.family], r"(?:backbone\.)?", "backbone")
    last = Rule(r"head\.multi_final_layers\.0", "head/final_layer", CONV)
    return (*backbone, *nest(DECONV_HEAD, r"(?:(?:keypoint_)?head\.)?", "head"), last)


def recognize(shapes: Shapes) -> Recognized | None:
    """A ResNet with transposed convolutions, an HRNet or an hourglass, and a last convolution for maps."""
    trunk, head = recognition.trunk_and_head(shapes)
    last = head.get("final_layer.weight") or head.get("multi_final_layers.0.weight")
    if last is None or len(last) != 4 or _has_tags(last[0]):
        return None
    fields = _backbone(trunk, head)
    if fields is None:
        return None
    if last[2] != 1:
        fields["final_kernel"] = last[2]
    usual: dict[str, Any] = {"decoding": "mmpose", "channels": "rgb"} if recognition.is_mmpose(shapes) else {}
    if fields["backbone"] == HOURGLASS:
        usual["input_size"] = (256, 256)
    hrnet = "_w32" if fields["backbone"].startswith("hrnet") else ""
    config = f"heatmap:mpii{hrnet}" if last[0] == MPII.num_joints else f"heatmap:coco{hrnet}"
    return Recognized(fields, config, last[0], usual)


def _has_tags(maps: int) -> bool:
    """Whether maps are those of two kinds, as bottom-up networks make for joints and tags."""
    known = {skeleton.num_joints for skeleton in SKELETONS.values()}
    return maps not in known and maps / 2 in known


def _backbone(trunk: Shapes, head: Shapes) -> dict[str, Any] | None:
    if (fields := recognition.hrnet(trunk)) is not None:
        others = ("transition_heatmap", "offset_", "deconv_layers", "diff_temporal_fuse")
        return None if any(name.startswith(others) for name in (*trunk, *head)) else fields
    if "hourglass_modules.0.up1.0.conv1.weight" in trunk:
        return {"backbone": HOURGLASS}
    first = head.get("deconv_layers.0.weight")
    if first is None or (fields := recognition.resnet(trunk)) is None:
        return None
    layers = sum(f"deconv_layers.{3 * i}.weight" in head for i in range(6))
    fields |= {"deconv_layers": layers, "deconv_features": first[1], "deconv_kernel": first[2]}
    return fields | {"deconv_bias": "deconv_layers.0.bias" in head}
