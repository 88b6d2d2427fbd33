"""Names in checkpoints of dsnt-pose2d (`model.pth`), in W. Yang's stacked hourglasses, and mmpose's.

mmpose has transposed convolutions behind its ResNet (`ipr_res50_dsnt-*.pth`).
"""

import logging

import numpy as np

from jaxpose.methods.dsnt.method import DSNT
from jaxpose.nn import names as shared
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV_HEAD, LINEAR, Kind, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes


def _residual(module: str, path: str) -> tuple[Rule, ...]:
    """Rules of the residual modules whose names match `module`."""
    return (
        Rule(rf"{module}\.(?P<part>conv\d)", rf"{path}/\g<part>", CONV),
        Rule(rf"{module}\.(?P<part>bn\d)", rf"{path}/\g<part>", BATCH_NORM),
        Rule(rf"{module}\.downsample\.0", f"{path}/shortcut", CONV),
    )


HOURGLASS = (
    Rule("conv1", "stem_conv", CONV),
    Rule("bn1", "stem_bn", BATCH_NORM),
    *_residual(r"layer([123])\.0", r"stem_residual\1"),
    *_residual(r"hg\.(\d+)\.hg\.(\d+)\.0\.(\d+)", r"hourglass\1/level\2_across_\3"),
    *_residual(r"hg\.(\d+)\.hg\.(\d+)\.1\.(\d+)", r"hourglass\1/level\2_down_\3"),
    *_residual(r"hg\.(\d+)\.hg\.(\d+)\.2\.(\d+)", r"hourglass\1/level\2_up_\3"),
    *_residual(r"hg\.(\d+)\.hg\.(0)\.3\.(\d+)", r"hourglass\1/level\2_bottom_\3"),
    *_residual(r"res\.(\d+)\.(\d+)", r"residual\1_\2"),
    Rule(r"fc\.(\d+)\.0", r"linear\1_conv", CONV),
    Rule(r"fc\.(\d+)\.1", r"linear\1_bn", BATCH_NORM),
    Rule(r"score\.(\d+)", r"score\1", CONV),
    Rule(r"fc_\.(\d+)", r"remix\1_features", CONV),
    Rule(r"score_\.(\d+)", r"remix\1_score", CONV),
)
"""W. Yang's stacked hourglass, `nn.hourglass.Hourglass` with `STEM_BEARPAW`."""


def _stage(number: int) -> tuple[Rule, ...]:
    """torchvision's stage `number`, which is called fcn.(number + 3)."""
    block, path = rf"fcn\.{number + 3}\.(\d+)", rf"backbone/layer{number}_\1"
    return (
        Rule(rf"{block}\.(conv\d)", rf"{path}/\2", CONV),
        Rule(rf"{block}\.(bn\d)", rf"{path}/\2", BATCH_NORM),
        Rule(rf"{block}\.downsample\.0", f"{path}/downsample_conv", CONV),
        Rule(rf"{block}\.downsample\.1", f"{path}/downsample_bn", BATCH_NORM),
    )


RESNET = (
    Rule(r"fcn\.0", "backbone/conv1", CONV),
    Rule(r"fcn\.1", "backbone/bn1", BATCH_NORM),
    *(rule for number in (1, 2, 3, 4) for rule in _stage(number)),
    Rule("hm_conv", "head", CONV),
    Rule("out_fc", "regressor", LINEAR),
)
"""dsnt-pose2d's ResNets, whose parts are numbered as in a sequence."""


logger = logging.getLogger(__name__)

PLACES: Kind = {"linspace_x": (), "linspace_y": ()}
"""Places of the cells, which mmpose keeps as parameters."""

DECONV_RESNET = (
    *nest(shared.RESNET, r"backbone\.", "backbone"),
    *nest(DECONV_HEAD, r"head\.simplebaseline_head\.", "deconv"),
    Rule("head", "", PLACES),
)
"""mmpose's ResNet with transposed convolutions."""


def prepare(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries as they are; the log says if mmpose's places of cells are not those that it starts with and keeps."""
    for name in ("head.linspace_x", "head.linspace_y"):
        places = state_dict.get(name, np.zeros(0)).reshape(-1)
        if not np.allclose(places, np.arange(len(places)) / max(len(places), 1)):
            logger.warning("%s is not i / %d at cell i, which is taken all the same", name, len(places))
    return state_dict


def rules(method: DSNT) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint. Hourglass entries start with "hg." or, in W. Yang's files, do not."""
    if method.backbone == "hourglass":
        return nest(HOURGLASS, r"(?:hg\.)?", "backbone")
    return DECONV_RESNET if method.deconv_layers else RESNET


def recognize(shapes: Shapes) -> Recognized | None:
    """A numbered ResNet, an hourglass that makes maps of its own, or mmpose's ResNet with transposed convolutions."""
    if (numbered := _numbered(shapes)) is not None:
        return numbered
    inner = recognition.under(shapes, "hg.") if "hg.conv1.weight" in shapes else shapes
    if "hg.0.hg.0.0.0.conv1.weight" in inner and "score.0.weight" in inner:
        stacks, modules = (recognition.count(inner, rf"hg\.{level}") for level in (r"(\d+)\.", r"0\.hg\.0\.0\.(\d+)\."))
        width = inner["score.0.weight"][1]
        fields = {"backbone": "hourglass", "stacks": stacks, "modules": modules, "backbone_width": width, "dilate": 0}
        usual = {} if inner is not shapes else {"strategy": "gauss", "regularizer": "none"}
        return Recognized(fields, "dsnt:mpii_hourglass", inner["score.0.weight"][0], usual)
    head = recognition.under(shapes, "head.simplebaseline_head.")
    fields, last = recognition.resnet(recognition.under(shapes, "backbone.")), head.get("final_layer.weight", ())
    if fields is None or len(last) != 4:
        return None
    layers = sum(f"deconv_layers.{3 * i}.weight" in head for i in range(6))
    fields |= {"deconv_layers": layers, "deconv_features": last[1], "dilate": 0}
    return Recognized(fields, "dsnt:coco_r50", last[0])


def _numbered(shapes: Shapes) -> Recognized | None:
    """dsnt-pose2d's ResNet; the size of its maps is told by a fully connected layer alone, else it is the recipe's."""
    numbers = {"fcn.0.": "conv1.", "fcn.1.": "bn1."} | {f"fcn.{n + 3}.": f"layer{n}." for n in (1, 2, 3, 4)}
    trunk = {
        ours + name.removeprefix(theirs): shape
        for name, shape in shapes.items()
        for theirs, ours in numbers.items()
        if name.startswith(theirs)
    }
    fields, maps = recognition.resnet(trunk), shapes.get("hm_conv.weight", ())
    if fields is None or len(maps) != 4:
        return None
    if (regressor := shapes.get("out_fc.weight")) is not None:
        dilate = next((stages for stages in range(4) if (7 << stages) ** 2 == regressor[1]), 0)
        fields |= {"strategy": "fc", "dilate": dilate}
    return Recognized(fields, "dsnt:mpii", maps[0])
