"""RMPE (ICCV 2017) and AlphaPose."""

from jaxpose.methods.rmpe.method import RMPE

__all__ = ["RMPE"]
