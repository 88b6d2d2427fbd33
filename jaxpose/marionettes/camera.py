"""Pinhole cameras: world mm -> camera mm (x right, y down, z forward) -> pixels (first pixel centred at (0, 0))."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxpose.marionettes.exact import DEGREE, cross, product, rot_z, sincos, transform, unit
from jaxpose.marionettes.render import Rays


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole: x_camera = rotation @ x_world + translation, pixel = focal * (x/z, y/z) + centre."""

    focal: float
    centre: tuple[float, float]
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3] mm

    @property
    def intrinsics(self) -> np.ndarray:
        """Matrix [3, 3] from the camera's frame to pixels."""
        return np.array([[self.focal, 0.0, self.centre[0]], [0.0, self.focal, self.centre[1]], [0.0, 0.0, 1.0]])

    @property
    def position(self) -> np.ndarray:
        """The pinhole [3] in the world, mm."""
        return -transform(self.rotation.T, self.translation)

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points [..., 3] in the camera frame, mm."""
        return transform(self.rotation, points) + self.translation

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Camera-frame points [..., 3] in pixels [..., 2]."""
        scale = self.focal / points[..., 2:]
        return points[..., :2] * scale + np.array(self.centre)

    def rays(self, width: int, height: int, samples: int, shift: tuple[float, float] = (0.0, 0.0)) -> Rays:
        """Rays of a width x height picture with samples^2 rays a pixel; `shift` moves them by parts of a pixel."""

        def axis(count: int, centre: float, offset: float) -> np.ndarray:
            pixel = (np.arange(count * samples) + 0.5) / samples - 0.5 + offset
            return ((pixel - centre) / self.focal).astype(np.float32)

        return Rays(axis(width, self.centre[0], shift[0]), axis(height, self.centre[1], shift[1]), True)


def look_at(
    position: np.ndarray, target: np.ndarray, focal: float, centre: tuple[float, float], roll: float = 0.0
) -> Camera:
    """A camera at `position` (world mm) that has `target` at its principal point; `roll` in degrees."""
    forward = unit(target - position)
    right = unit(cross(forward, np.array([0.0, 1.0, 0.0])))
    rotation = product(rot_z(roll), np.stack([right, cross(forward, right), forward]))
    return Camera(focal, centre, rotation, -transform(rotation, position))


def orbit(target: np.ndarray, azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """The point at a distance (mm) from the target; azimuth 0 is on the +z side, angles in degrees."""
    sin_a, cos_a = sincos(azimuth * DEGREE)
    sin_e, cos_e = sincos(elevation * DEGREE)
    direction = np.array([float(sin_a * cos_e), float(sin_e), float(cos_a * cos_e)])
    return np.asarray(target, np.float64) + distance * direction
