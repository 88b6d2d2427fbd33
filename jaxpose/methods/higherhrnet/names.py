"""Names in the released checkpoints of HigherHRNet (`pose_higher_hrnet_w32_512.pth` and its siblings).

Files trained in half precision put "1." before every name and hold float16; reading them takes care of both.
"""

from jaxpose.methods.higherhrnet.method import HigherHRNet
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV, HRNET, Rule, nest


def rules(method: HigherHRNet) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    maps = (Rule(rf"final_layers\.{stage}", f"maps{stage}", CONV) for stage in range(method.deconv_layers + 1))
    stages = (rule for stage in range(1, method.deconv_layers + 1) for rule in _stage(stage, method.deconv_blocks))
    return (*nest(HRNET, "", "backbone"), *nest((*maps, *stages), "", "head"))


def _stage(stage: int, blocks: int) -> tuple[Rule, ...]:
    """A sequence in which the transposed convolution with its norm is number 0, and each block has a number."""
    layers = rf"deconv_layers\.{stage - 1}"
    return (
        Rule(rf"{layers}\.0\.0", f"deconv{stage}", DECONV),
        Rule(rf"{layers}\.0\.1", f"bn{stage}", BATCH_NORM),
        *(Rule(rf"{layers}\.{i + 1}\.0\.(conv\d)", rf"block{stage}_{i}/\1", CONV) for i in range(blocks)),
        *(Rule(rf"{layers}\.{i + 1}\.0\.(bn\d)", rf"block{stage}_{i}/\1", BATCH_NORM) for i in range(blocks)),
    )
