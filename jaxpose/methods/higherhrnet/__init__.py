"""HigherHRNet (CVPR 2020)."""

from jaxpose.methods.higherhrnet.method import HigherHRNet

__all__ = ["HigherHRNet"]
