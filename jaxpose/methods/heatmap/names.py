"""Names in released checkpoints: SimpleBaselines' and HRNet's (`pose_resnet_*.pth`, `pose_hrnet_*.pth`), and mmpose's.

mmpose has the same names behind "backbone." and "head." ("keypoint_head." in its versions 0.x).
"""

import dataclasses

from jaxpose.methods.heatmap.hourglass import WIDTHS
from jaxpose.methods.heatmap.method import Heatmap
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV_HEAD, HRNET, RESNET, Rule, nest

UNUSED = dict.fromkeys(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), ())
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
