"""Cameras of 3D poses: world and camera frame, projection with lens distortion, normalised screen coordinates.

Every function takes NumPy arrays (on the host) or JAX arrays and tracers (on device) and returns the same kind. Points
are (x, y, z) with x to the right, y down and z forward in the camera frame. Normalised screen coordinates (u, v) have
u from -1 to 1 over the image's width, and v in the same unit, from -h / w to h / w.

Intrinsics are nine numbers, fx, fy, cx, cy, k1, k2, k3, p1, p2: focal lengths and principal point, in pixels or in
normalised screen units, then radial and tangential distortion. Orientations are unit quaternions (w, x, y, z) that turn
the camera frame into the world frame; positions are those of the camera in the world.
"""

from typing import Any

import numpy as np

from jaxpose.ops.arrays import SameArray, namespace
from jaxpose.types import Array


def _lead(array: Array, points: Array) -> Any:
    """`array` [..., C] with axes of size 1 before the last, so that its leading axes are the first of `points`."""
    return array.reshape(*array.shape[:-1], *[1] * (points.ndim - array.ndim), array.shape[-1])


# --- orientation ---


def conjugate(quaternion: SameArray) -> SameArray:
    """The inverse [..., 4] of unit quaternions (w, x, y, z)."""
    return namespace(quaternion).multiply(quaternion, np.array([1, -1, -1, -1], np.float32))


def rotate(quaternion: SameArray, points: SameArray) -> SameArray:
    """Points [..., 3] turned by unit quaternions [..., 4], whose leading axes are the first of `points`."""
    xp = namespace(quaternion, points)
    turn = _lead(quaternion, points)
    w, axis = turn[..., :1], turn[..., 1:]
    once = xp.cross(axis, points)
    return xp.add(points, 2 * (w * once + xp.cross(axis, once)))


def world_to_camera(points: SameArray, orientation: SameArray, position: SameArray) -> SameArray:
    """World points [..., 3] in the frame of cameras.

    Args:
      points: [..., 3] points (x, y, z) of the world.
      orientation: [..., 4] quaternions (w, x, y, z) of the cameras; leading axes are the first of `points`.
      position: [..., 3] places of the cameras in the world, in the unit of `points`; leading axes likewise.

    Returns:
      [..., 3] points in the camera frame.
    """
    return rotate(conjugate(orientation), namespace(points, position).subtract(points, _lead(position, points)))


def camera_to_world(points: SameArray, orientation: SameArray, position: SameArray) -> SameArray:
    """The inverse of `world_to_camera`."""
    return namespace(points, orientation, position).add(rotate(orientation, points), _lead(position, points))


# --- projection ---


def project(points: SameArray, intrinsics: SameArray, distort: bool = True) -> SameArray:
    """Positions at which a camera sees points, in the unit of its intrinsics.

    x / z and y / z are clamped to [-1, 1]. Distortion is that of the original code, in which the tangential part is
    (p . q) q + p r^2 for the point q = (x / z, y / z) at radius r.

    Args:
      points: [..., 3] points (x, y, z) in the camera frame; those at depth 0 or behind the camera have no meaningful
        image.
      intrinsics: [..., 9] intrinsics of the cameras; leading axes are the first of `points`.
      distort: False for a lens without distortion.

    Returns:
      [..., 2] positions (x, y) in the unit of the intrinsics.
    """
    xp = namespace(points, intrinsics)
    lens = _lead(intrinsics, points)
    focal, center = lens[..., :2], lens[..., 2:4]
    flat = xp.clip(points[..., :2] / points[..., 2:], -1, 1)
    if distort:
        k1, k2, k3 = (lens[..., i, None] for i in (4, 5, 6))
        tangential = lens[..., 7:9]
        square = (flat * flat).sum(-1, keepdims=True)
        radial = 1 + square * (k1 + square * (k2 + square * k3))
        flat = flat * (radial + (tangential * flat).sum(-1, keepdims=True)) + tangential * square
    return focal * flat + center


# --- normalised screen coordinates ---


def normalize_screen(pixels: SameArray, size: tuple[float, float]) -> SameArray:
    """Pixels [..., 2] in normalised screen coordinates: x 2 / w - (1, h / w).

    Args:
      pixels: [..., 2] positions (x, y) in pixels.
      size: (width, height) of the image in pixels.

    Returns:
      [..., 2] positions (u, v).
    """
    width, height = float(size[0]), float(size[1])
    return namespace(pixels).subtract(pixels * (2 / width), np.array([1, height / width], np.float32))


def screen_to_pixels(screen: SameArray, size: tuple[float, float]) -> SameArray:
    """The inverse of `normalize_screen`."""
    width, height = float(size[0]), float(size[1])
    return namespace(screen).multiply(screen + np.array([1, height / width], np.float32), width / 2)


def normalize_intrinsics(intrinsics: SameArray, size: tuple[float, float]) -> SameArray:
    """Intrinsics [..., 9] in pixels as those of normalised screen coordinates.

    Args:
      intrinsics: [..., 9] intrinsics in pixels.
      size: (width, height) of the image in pixels.

    Returns:
      [..., 9] intrinsics in normalised screen units.
    """
    xp = namespace(intrinsics)
    focal, center, distortion = intrinsics[..., :2], intrinsics[..., 2:4], intrinsics[..., 4:]
    return xp.concatenate([focal * (2 / float(size[0])), normalize_screen(center, size), distortion], -1)


def mirror_intrinsics(intrinsics: SameArray) -> SameArray:
    """Normalised intrinsics [..., 9] of the camera that sees the mirrored world: cx and p1 change their sign."""
    return namespace(intrinsics).multiply(intrinsics, np.array([1, 1, -1, 1, 1, 1, 1, -1, 1], np.float32))
