"""RegDA: unsupervised domain adaptation (CVPR 2021)."""

from jaxpose.methods.regda.method import RegDA

__all__ = ["RegDA"]
