"""Anatomy-aware 3D human pose estimation (2021)."""

from jaxpose.methods.anatomy3d.method import Anatomy3D

__all__ = ["Anatomy3D"]
