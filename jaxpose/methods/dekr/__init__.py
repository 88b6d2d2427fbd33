"""DEKR: disentangled keypoint regression (CVPR 2021)."""

from jaxpose.methods.dekr.method import DEKR

__all__ = ["DEKR"]
