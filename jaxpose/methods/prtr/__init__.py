"""PRTR: pose recognition with cascade transformers (CVPR 2021), in two stages or end to end."""

from jaxpose.methods.prtr.method import PRTR

__all__ = ["PRTR"]
