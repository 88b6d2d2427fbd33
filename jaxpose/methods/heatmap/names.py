"""Names in released checkpoints: SimpleBaselines' and HRNet's (`pose_resnet_*.pth`, `pose_hrnet_*.pth`), and mmpose's.

mmpose has the same names behind "backbone." and "head." ("keypoint_head." in its versions 0.x).
"""

from jaxpose.methods.heatmap.method import Heatmap
from jaxpose.nn.names import DECONV_HEAD, HRNET, RESNET, Rule, nest


def rules(method: Heatmap) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    backbone = nest(HRNET if method.is_hrnet else RESNET, r"(?:backbone\.)?", "backbone")
    return (*backbone, *nest(DECONV_HEAD, r"(?:(?:keypoint_)?head\.)?", "head"))
