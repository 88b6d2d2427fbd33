"""Names in the released checkpoints of HigherHRNet (`pose_higher_hrnet_w32_512.pth` and its siblings), and mmpose's.

mmpose has the same names behind "backbone." and "head." ("keypoint_head." in its versions 0.x). Its HRNet with
associative embedding has one resolution alone, whose maps are called after the last layer.

Files trained in half precision put "1." before every name and hold float16; reading them takes care of both.
"""

from jaxpose.methods.higherhrnet.method import HigherHRNet
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV, HRNET, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.skeleton import CROWDPOSE, SKELETONS


def rules(method: HigherHRNet) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    maps = [Rule(rf"final_layers\.{stage}", f"maps{stage}", CONV) for stage in range(method.deconv_layers + 1)]
    if not method.deconv_layers:
        maps.append(Rule("final_layer", "maps0", CONV))
    stages = (rule for stage in range(1, method.deconv_layers + 1) for rule in _stage(stage, method.deconv_blocks))
    backbone = nest(HRNET, r"(?:backbone\.)?", "backbone")
    return (*backbone, *nest((*maps, *stages), r"(?:(?:keypoint_)?head\.)?", "head"))


def recognize(shapes: Shapes) -> Recognized | None:
    """An HRNet with maps of joints and tags, at one resolution or more."""
    trunk, head = recognition.trunk_and_head(shapes)
    fields, first = recognition.hrnet(trunk), head.get("final_layers.0.weight") or head.get("final_layer.weight")
    if fields is None or first is None or len(first) != 4:
        return None
    joints = first[0] // 2
    if "final_layers.0.weight" not in head and joints not in {skeleton.num_joints for skeleton in SKELETONS.values()}:
        return None
    fields |= {"deconv_layers": max(recognition.count(head, r"final_layers\.(\d+)\.") - 1, 0), "final_kernel": first[2]}
    if (deconv := head.get("deconv_layers.0.0.0.weight")) is not None:
        fields |= {"deconv_features": deconv[1], "deconv_kernel": deconv[2]}
        fields["deconv_blocks"] = recognition.count(head, r"deconv_layers\.0\.(\d+)\.") - 1
        fields["deconv_concat"] = deconv[0] != trunk["stage2.0.branches.0.0.conv1.weight"][0]
    return Recognized(fields, f"higherhrnet:{'crowdpose' if joints == CROWDPOSE.num_joints else 'coco'}", joints)


def _stage(stage: int, blocks: int) -> tuple[Rule, ...]:
    """A sequence in which the transposed convolution with its norm is number 0, and each block has a number."""
    layers = rf"deconv_layers\.{stage - 1}"
    return (
        Rule(rf"{layers}\.0\.0", f"deconv{stage}", DECONV),
        Rule(rf"{layers}\.0\.1", f"bn{stage}", BATCH_NORM),
        *(Rule(rf"{layers}\.{i + 1}\.0\.(conv\d)", rf"block{stage}_{i}/\1", CONV) for i in range(blocks)),
        *(Rule(rf"{layers}\.{i + 1}\.0\.(bn\d)", rf"block{stage}_{i}/\1", BATCH_NORM) for i in range(blocks)),
    )
