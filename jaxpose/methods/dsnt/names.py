"""Names in checkpoints of dsnt-pose2d (`model.pth`) and in those of W. Yang's stacked hourglasses."""

from jaxpose.methods.dsnt.method import DSNT
from jaxpose.nn.names import BATCH_NORM, CONV, LINEAR, Rule, nest


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


def rules(method: DSNT) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint. Hourglass entries start with "hg." or, in W. Yang's files, do not."""
    return nest(HOURGLASS, r"(?:hg\.)?", "backbone") if method.backbone == "hourglass" else RESNET
