"""DCPose: deep dual consecutive network for human pose estimation (CVPR 2021)."""

from jaxpose.methods.dcpose.method import DCPose

__all__ = ["DCPose"]
