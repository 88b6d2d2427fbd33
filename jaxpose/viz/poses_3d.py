"""3D poses drawn from any side, over a floor, with the true pose behind the predicted one.

Poses are in millimetres with x to the right, y straight down and z away from the camera that saw them. Methods give
them so, once `levelled` has undone the camera's tilt (without its orientation, poses stay as tilted as the camera was).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpose.ops import cameras
from jaxpose.skeleton import Skeleton
from jaxpose.viz.overlay import DARK, LIMB_COLORS, MIN_SIDE, draw_poses, limb_side, panel, stroke

BACKGROUND = (28, 30, 36)
LINES = (58, 62, 72)
SHADOW = (16, 17, 21)
TRUTH = (206, 210, 218)
"""RGB of a true pose."""
GRID = 500.0
"""Millimetres between the lines of the floor."""
_NEAR = 4.0
"""Distance of the viewer from the middle, in extents; the perspective is the stronger the smaller it is."""


@dataclasses.dataclass(frozen=True)
class Viewpoint:
    """The place from which a pose is looked at, and the part of space that is seen.

    Attributes:
      azimuth: angle around the person in degrees, 0 for the side from which the camera saw it; with 90 one looks along
        the camera's x axis.
      elevation: angle above the horizon in degrees.
      centre: point (x, y, z) in millimetres that is in the middle of the picture.
      extent: distance in millimetres from there to the picture's border.
      floor: height y of the floor in millimetres; NaN for no floor.
      side: width and height of the picture in pixels.
    """

    azimuth: float = 0.0
    elevation: float = 14.0
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    extent: float = 1200.0
    floor: float = float("nan")
    side: int = 480

    @classmethod
    def around(cls, poses: np.ndarray, **fields: Any) -> "Viewpoint":
        """A viewpoint from which all poses are seen at any azimuth, on a floor below the lowest joint.

        Args:
          poses: [..., K, 3] poses in millimetres; joints with infinite or NaN numbers count for nothing.
          **fields: attributes of the viewpoint to use instead of those that follow from the poses.
        """
        points = np.asarray(poses, np.float64).reshape(-1, 3)
        points = points[np.isfinite(points).all(-1)]
        if not len(points):
            return cls(**fields)
        low, high = np.percentile(points, (0.5, 99.5), axis=0)
        reach = np.linalg.norm(points[:, ::2] - (low + high)[::2] / 2, axis=-1)
        extent = 1.12 * max(np.percentile(reach, 99.5), (high - low)[1] / 2)
        centre, extent = tuple((low + high) / 2), float(max(extent, 1.0))
        return cls(**({"centre": centre, "extent": extent, "floor": float(high[1])} | fields))

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [..., 3] in pixels [..., 2], and the scale [...] at which things appear there, 1 in the middle."""
        turn, tilt = np.radians(self.azimuth), np.radians(self.elevation)
        x, y, z = np.moveaxis(np.asarray(points, np.float64) - self.centre, -1, 0)
        x, z = np.cos(turn) * x + np.sin(turn) * z, np.cos(turn) * z - np.sin(turn) * x
        y, z = np.cos(tilt) * y - np.sin(tilt) * z, np.cos(tilt) * z + np.sin(tilt) * y
        size = _NEAR / np.maximum(_NEAR + z / self.extent, 0.2)
        pixels = np.stack([x, y], -1) * (size * self.side / 2 / self.extent)[..., None] + (self.side - 1) / 2
        return pixels, size


def levelled(points: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Points [..., 3] in a camera's frame, turned by as little as brings the world's vertical upright.

    Args:
      points: [..., 3] points with x to the right, y down, z forward.
      orientation: [4] unit quaternion (w, x, y, z) from the camera to a world with z up.
    """
    down = cameras.rotate(cameras.conjugate(np.asarray(orientation, np.float64)), np.array([0.0, 0.0, -1.0]))
    axis, cosine = np.cross(down, [0.0, 1.0, 0.0]), down[1]
    if cosine < -1 + 1e-6:  # upside down: any half turn that keeps the direction of view
        return np.asarray(points) * [-1.0, -1.0, 1.0]
    half = np.append(1 + cosine, axis)
    return cameras.rotate(half / np.linalg.norm(half), np.asarray(points, np.float64))


def draw_pose_3d(
    joints: np.ndarray,
    skeleton: Skeleton,
    view: Viewpoint,
    truth: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """A picture of a pose: left limbs orange, right ones blue, what is far away darker, with a shadow on the floor.

    Args:
      joints: [K, 3] joints in millimetres; those that are not finite are left out.
      skeleton: skeleton of the joints, whose limbs are drawn.
      view: viewpoint of the picture.
      truth: [K, 3] true joints in millimetres, drawn behind, thin and pale; None for none.
      scores: [K] confidence in [0, 1], shown as opacity; None for 1.

    Returns:
      [side, side, 3] uint8 RGB picture.

    Raises:
      ValueError: poses that do not fit the skeleton.
    """
    for name, values in (("joints", joints), ("truth", truth)):
        if values is not None and np.shape(values) != (skeleton.num_joints, 3):
            raise ValueError(f"{name} has shape {np.shape(values)}, expected {(skeleton.num_joints, 3)}")
    canvas = np.full((view.side, view.side, 3), BACKGROUND, np.uint8)
    if np.isfinite(view.floor):
        _draw_floor(canvas, view)
        _draw_shadow(canvas, np.asarray(joints), skeleton, view)
    width = max(2.0, view.side / 85)
    if truth is not None:
        _draw_limbs(canvas, truth, np.ones(len(truth)), skeleton, view, 0.4 * width, TRUTH)
    _draw_limbs(canvas, joints, np.ones(len(joints)) if scores is None else scores, skeleton, view, width)
    return canvas


def side_by_side(
    picture: np.ndarray,
    joints: np.ndarray | None,
    skeleton: Skeleton,
    view: Viewpoint,
    truth: np.ndarray | None = None,
    azimuths: Sequence[float] = (0.0, 90.0),
) -> np.ndarray:
    """The camera's picture and the 3D pose from several sides, in a row.

    Args:
      picture: [side, side, 3] uint8 RGB picture, from `fit` or `draw_keypoints`.
      joints: [K, 3] joints as for `draw_pose_3d`; None where there is no pose.
      skeleton: skeleton of the joints.
      view: viewpoint of the 3D pose, but for the azimuth.
      truth: [K, 3] true joints as for `draw_pose_3d`.
      azimuths: angle of each side in degrees.

    Returns:
      [H, W, 3] uint8 RGB picture, of one size for all pictures of the same `view.side`.
    """
    nowhere = np.full((skeleton.num_joints, 3), np.nan)
    pose = nowhere if joints is None else joints
    views = [dataclasses.replace(view, azimuth=azimuth) for azimuth in azimuths]
    row = [picture, *(draw_pose_3d(pose, skeleton, each, truth) for each in views)]
    names = ["seen", *(f"3D, {azimuth:g} degrees round" if azimuth else "3D, from the camera" for azimuth in azimuths)]
    return panel(row, columns=len(row), captions=names)


def draw_keypoints(
    keypoints: np.ndarray, scores: np.ndarray, region: tuple[float, ...], skeleton: Skeleton, side: int = 480
) -> np.ndarray:
    """2D joints without their picture.

    Args:
      keypoints: [K, 2] joints in pixels of the missing picture.
      scores: [K] confidence in [0, 1].
      region: part (x, y, w, h) of the missing picture that is shown; see `square_around`.
      skeleton: skeleton of the joints, whose limbs are drawn.
      side: width and height of the result in pixels.

    Returns:
      [side, side, 3] uint8 RGB picture.
    """
    scale = max(side, MIN_SIDE) / max(region[2:])
    width, height = (max(1, round(length * scale)) for length in region[2:])
    canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
    points = (np.asarray(keypoints, np.float64) - region[:2] + 0.5) * scale - 0.5
    drawn = draw_poses(canvas, points[None], np.asarray(scores)[None], skeleton=skeleton, threshold=0.0)
    return fit(drawn, side)


def square_around(points: np.ndarray, margin: float = 0.15) -> tuple[float, float, float, float]:
    """The square (x, y, w, h) around points [..., 2], with a margin on each side as a share of their extent."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    length = float(max((1 + 2 * margin) * (high - low).max(), 1.0))
    x, y = ((low + high - length) / 2).tolist()
    return x, y, length, length


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture scaled so that its longer side has `side` pixels, in the middle of a square: [side, side, 3] uint8."""
    import cv2

    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale != 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = cv2.resize(picture, size, interpolation=how)
    height, width = picture.shape[:2]
    square = np.full((side, side, 3), BACKGROUND, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def _draw_floor(canvas: np.ndarray, view: Viewpoint) -> None:
    """A square of grid lines below the middle, which stay at their places on the floor."""
    reach = GRID * max(1, round(0.9 * view.extent / GRID))
    x, _, z = view.centre
    ticks = np.arange(-reach, reach + 1, GRID)
    edge = np.full_like(ticks, reach)
    for borders in (((ticks, -edge), (ticks, edge)), ((-edge, ticks), (edge, ticks))):
        ends = [view.project(np.stack([x + a, np.full_like(a, view.floor), z + b], -1))[0] for a, b in borders]
        for start, end in zip(*ends, strict=True):
            _line(canvas, start, end, LINES, 1)


def _draw_shadow(canvas: np.ndarray, joints: np.ndarray, skeleton: Skeleton, view: Viewpoint) -> None:
    below = joints * [1, 0, 1] + [0, view.floor, 0]
    pixels, _ = view.project(below)
    for a, b in skeleton.limb_indices:
        if np.isfinite(pixels[[a, b]]).all():
            _line(canvas, pixels[a], pixels[b], SHADOW, max(2, view.side // 130))


def _line(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, color, width: int) -> None:
    import cv2

    first, last = ([int(v) for v in np.round(np.clip(point, -4e3, 2e4) * 16)] for point in (start, end))
    cv2.line(canvas, first, last, color, width, cv2.LINE_AA, shift=4)


def _draw_limbs(
    canvas: np.ndarray,
    joints: np.ndarray,
    scores: np.ndarray,
    skeleton: Skeleton,
    view: Viewpoint,
    width: float,
    color=None,
) -> None:
    """Limbs from the farthest to the nearest, in one colour or by side."""
    pixels, size = view.project(joints)
    limbs = [limb for limb in skeleton.limb_indices if np.isfinite(pixels[list(limb)]).all()]
    for a, b in sorted(limbs, key=lambda limb: size[list(limb)].mean()):
        near = float(size[[a, b]].mean())
        opacity = 0.3 + 0.7 * float(np.clip(min(scores[a], scores[b]), 0, 1))
        paint = _shade(color or LIMB_COLORS[limb_side(skeleton, (a, b))], near)
        thick = width * near
        stroke(canvas, pixels[a], pixels[b], thick + 2.2, DARK, 0.8 * opacity)
        stroke(canvas, pixels[a], pixels[b], thick, paint, opacity)
        for joint in (a, b) if color is None else ():
            stroke(canvas, pixels[joint], pixels[joint], 0.62 * thick, _shade((255, 255, 255), near), opacity)


def _shade(color: tuple[int, int, int], near: float) -> tuple[float, ...]:
    """The colour of something near (1) or far away (less), where it is darker."""
    light = np.clip(0.5 + 2.2 * (near - 0.8), 0.45, 1.0)
    return tuple(light * np.array(color) + (1 - light) * np.array(BACKGROUND))
