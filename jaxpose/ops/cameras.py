"""Cameras of 3D poses: world and camera frame, projection with lens distortion, normalised screen coordinates.

Every function takes NumPy arrays (on the host) or JAX arrays and tracers (on device) and returns the same kind. Points
are (x, y, z) with x to the right, y down and z forward in the camera frame. Normalised screen coordinates (u, v) have
u from -1 to 1 over the picture's width, and v in the same unit, from -h / w to h / w.

Intrinsics are nine numbers, fx, fy, cx, cy, k1, k2, k3, p1, p2: focal lengths and principal point, in pixels or in
normalised screen units, then radial and tangential distortion. Orientations are unit quaternions (w, x, y, z) that turn
the camera frame into the world frame; positions are those of the camera in the world.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array


def _namespace(*values):
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def _lead(array: Array, points: Array) -> Array:
    """`array` [..., C] with axes of size 1 before the last, so that its leading axes are the first of `points`."""
    return array.reshape(*array.shape[:-1], *[1] * (points.ndim - array.ndim), array.shape[-1])


# --- orientation ---


def conjugate(quaternion: Array) -> Array:
    """The inverse [..., 4] of unit quaternions (w, x, y, z)."""
    return quaternion * np.array([1, -1, -1, -1], np.float32)


def rotate(quaternion: Array, points: Array) -> Array:
    """Points [..., 3] turned by unit quaternions [..., 4], whose leading axes are the first of `points`."""
    xp = _namespace(quaternion, points)
    quaternion = _lead(quaternion, points)
    w, axis = quaternion[..., :1], quaternion[..., 1:]
    once = xp.cross(axis, points)
    return points + 2 * (w * once + xp.cross(axis, once))


def world_to_camera(points: Array, orientation: Array, position: Array) -> Array:
    """World points [..., 3] in the frame of cameras.

    Args:
      points: [..., 3].
      orientation: [..., 4] quaternions; leading axes are the first of `points`.
      position: [..., 3] in the unit of `points`, likewise.
    """
    return rotate(conjugate(orientation), points - _lead(position, points))


def camera_to_world(points: Array, orientation: Array, position: Array) -> Array:
    """The inverse of `world_to_camera`."""
    return rotate(orientation, points) + _lead(position, points)


# --- projection ---


def project(points: Array, intrinsics: Array, distort: bool = True) -> Array:
    """Where the camera sees points, in the unit of its intrinsics.

    x / z and y / z are clamped to [-1, 1]. Distortion is that of the original code, in which the tangential part is
    (p . q) q + p r^2 for the point q = (x / z, y / z) at radius r.

    Args:
      points: [..., 3] in the camera frame; those at depth 0 or behind the camera have no meaningful image.
      intrinsics: [..., 9]; leading axes are the first of `points`.
      distort: whether the lens distorts.

    Returns:
      [..., 2].
    """
    xp = _namespace(points, intrinsics)
    intrinsics = _lead(intrinsics, points)
    focal, center = intrinsics[..., :2], intrinsics[..., 2:4]
    flat = xp.clip(points[..., :2] / points[..., 2:], -1, 1)
    if distort:
        k1, k2, k3 = (intrinsics[..., i, None] for i in (4, 5, 6))
        tangential = intrinsics[..., 7:9]
        square = (flat * flat).sum(-1, keepdims=True)
        radial = 1 + square * (k1 + square * (k2 + square * k3))
        flat = flat * (radial + (tangential * flat).sum(-1, keepdims=True)) + tangential * square
    return focal * flat + center


# --- normalised screen coordinates ---


def normalize_screen(pixels: Array, size: tuple[float, float]) -> Array:
    """Pixels [..., 2] in normalised screen coordinates: x 2 / w - (1, h / w).

    Args:
      pixels: [..., 2].
      size: (width, height) of the picture.
    """
    width, height = float(size[0]), float(size[1])
    return pixels * (2 / width) - np.array([1, height / width], np.float32)


def screen_to_pixels(screen: Array, size: tuple[float, float]) -> Array:
    """The inverse of `normalize_screen`."""
    width, height = float(size[0]), float(size[1])
    return (screen + np.array([1, height / width], np.float32)) * (width / 2)


def normalize_intrinsics(intrinsics: Array, size: tuple[float, float]) -> Array:
    """Intrinsics [..., 9] in pixels as those of normalised screen coordinates.

    Args:
      intrinsics: [..., 9].
      size: (width, height) of the picture.
    """
    xp = _namespace(intrinsics)
    focal, center, distortion = intrinsics[..., :2], intrinsics[..., 2:4], intrinsics[..., 4:]
    return xp.concatenate([focal * (2 / float(size[0])), normalize_screen(center, size), distortion], -1)


def mirror_intrinsics(intrinsics: Array) -> Array:
    """Normalised intrinsics [..., 9] of the camera that sees the mirrored world: cx and p1 change their sign."""
    return intrinsics * np.array([1, 1, -1, 1, 1, 1, 1, -1, 1], np.float32)
