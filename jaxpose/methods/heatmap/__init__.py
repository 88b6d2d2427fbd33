"""Heatmap baselines: SimpleBaselines (ECCV 2018) and HRNet (CVPR 2019)."""

from jaxpose.methods.heatmap.method import Heatmap

__all__ = ["Heatmap"]
