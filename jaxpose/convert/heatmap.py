"""Names in the released checkpoints of SimpleBaselines and HRNet (`pose_resnet_*.pth`, `pose_hrnet_*.pth`)."""

from jaxpose.convert.rules import DECONV_HEAD, HRNET, RESNET, Rule, nest
from jaxpose.methods.heatmap import Heatmap


def rules(method: Heatmap) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    return (*nest(HRNET if method.is_hrnet else RESNET, "", "backbone"), *nest(DECONV_HEAD, "", "head"))
