"""Which network a checkpoint is of, told by the names and shapes of its entries."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxpose.nn.resnet import STAGES, BasicBlock, Bottleneck

Shapes = Mapping[str, tuple[int, ...]]
"""{name of an entry: its shape}."""


@dataclasses.dataclass(frozen=True)
class Recognized:
    """A network that a checkpoint is of.

    Attributes:
      fields: fields of the method that entries tell.
      config: config of such networks, which says what entries can't, such as "heatmap:coco".
      joints: number of joints; None where entries don't tell.
      usual: fields that entries don't tell, and in which such files usually differ from the config.
    """

    fields: Mapping[str, Any]
    config: str
    joints: int | None = None
    usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The entries whose names begin with `prefix`, without it.

    Examples:
      >>> under({"backbone.conv1.weight": (64, 3, 7, 7), "head.bias": (17,)}, "backbone.")
      {'conv1.weight': (64, 3, 7, 7)}
    """
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def trunk_and_head(shapes: Shapes) -> tuple[Shapes, Shapes]:
    """The entries of a backbone and of its head, without prefixes: as mmpose names them, or all together.

    mmpose puts "backbone." before the one and "head." ("keypoint_head." in its versions 0.x) before the other.
    """
    if not is_mmpose(shapes):
        return shapes, shapes
    return under(shapes, "backbone."), under(shapes, "keypoint_head.") or under(shapes, "head.")


def is_mmpose(shapes: Shapes) -> bool:
    """Whether entries have the prefixes of mmpose."""
    return any(name.startswith("backbone.") for name in shapes)


def has(shapes: Shapes, names: Mapping[str, int]) -> bool:
    """Whether there are entries of these names with so many axes each.

    Examples:
      >>> has({"head.weight": (17, 256, 1, 1)}, {"head.weight": 4})
      True
    """
    return all(len(shapes.get(name, ())) == axes for name, axes in names.items())


def count(shapes: Shapes, pattern: str) -> int:
    """How many numbers a pattern's group takes among the names that begin so, counted from 0 without a gap.

    Examples:
      >>> count({"layer.0.bias": (), "layer.0.weight": (), "layer.1.bias": (), "layer.3.bias": ()}, r"layer.(\\d+)")
      2
    """
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return next(number for number in range(len(found) + 1) if number not in found)


def resnet(shapes: Shapes) -> dict[str, Any] | None:
    """Fields `backbone`, `backbone_width`, `backbone_stages` of torchvision's ResNet; None if it is another network."""
    stem = shapes.get("conv1.weight")
    sizes = tuple(count(shapes, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in range(1, 5))
    while sizes and not sizes[-1]:
        sizes = sizes[:-1]
    if stem is None or not sizes or any(name.startswith("stage") for name in shapes):
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    block = Bottleneck if bottleneck else BasicBlock
    depths = [depth for depth, published in STAGES.items() if published == (sizes, block)]
    depth = depths[0] if depths else (50 if bottleneck else 18)
    return {
        "backbone": f"resnet{depth}",
        "backbone_width": 0 if stem[0] == 64 else stem[0],
        "backbone_stages": () if depths else sizes,
    }


def hrnet(shapes: Shapes) -> dict[str, Any] | None:
    """Fields `backbone` and `backbone_stages` of an HRNet; None if it is another network."""
    finest = shapes.get("stage2.0.branches.0.0.conv1.weight")
    modules = tuple(count(shapes, rf"stage{stage}\.(\d+)\.branches\.") for stage in (2, 3, 4))
    if finest is None or not all(modules):
        return None
    return {"backbone": f"hrnet_w{finest[0]}", "backbone_stages": () if modules == (1, 4, 3) else modules}
