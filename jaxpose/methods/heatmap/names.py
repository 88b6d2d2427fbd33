"""Names in the released checkpoints of SimpleBaselines and HRNet (`pose_resnet_*.pth`, `pose_hrnet_*.pth`)."""

from jaxpose.methods.heatmap.method import Heatmap
from jaxpose.nn.names import DECONV_HEAD, HRNET, RESNET, Rule, nest


def rules(method: Heatmap) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    return (*nest(HRNET if method.is_hrnet else RESNET, "", "backbone"), *nest(DECONV_HEAD, "", "head"))
