"""Square boxes around joints, as the data sets of domain adaptation (RegDA) cut hands and people out.

Boxes are (left, upper, right, lower) in pixels. Those that cut are whole numbers and include their last column and row.
Float64 on the host.
"""

import numpy as np


def tight_box(keypoints: np.ndarray) -> np.ndarray:
    """The smallest box [..., 4] around joints [..., K, 2], all of which count."""
    keypoints = np.asarray(keypoints, np.float64)
    return np.concatenate([keypoints.min(-2), keypoints.max(-2)], axis=-1)


def square_box(box: np.ndarray, size: np.ndarray | tuple[int, int], scale: float = 1.5) -> np.ndarray:
    """The square box around the same middle, `scale` times as long as the longer side, moved into the image.

    It is as large as the image allows. Sides and positions are rounded, halves to the even number.

    Args:
      box: [..., 4].
      size: [..., 2] (width, height) of the image.
      scale: of the longer side.

    Returns:
      [..., 4] int64.
    """
    box, size = np.asarray(box, np.float64), np.asarray(size)
    extent = box[..., 2:] - box[..., :2]
    side = np.minimum(np.round(scale * extent.max(-1, keepdims=True)), size.min(-1, keepdims=True))
    corner = np.round((box[..., :2] + box[..., 2:] - side) / 2)
    corner = np.clip(corner, 0, size - side)
    return np.concatenate([corner, corner + side - 1], axis=-1).astype(np.int64)


def cut_region(box: np.ndarray, mirrored: np.ndarray | bool = False) -> np.ndarray:
    """What the original code cuts out for whole numbers (left, upper, right, lower), as (x, y, w, h) [..., 4] float32.

    It takes right - left columns, so that the last one and the last row of the box stay outside. Of a mirrored region
    it counts columns from the last one that is inside; measured at the centres of pixels, as in a crop by pixel
    indices, that region begins a pixel further left.
    """
    corner, side = box[..., :2].astype(np.float32), (box[..., 2:] - box[..., :2]).astype(np.float32)
    shift = np.stack(np.broadcast_arrays(np.asarray(mirrored, np.float32), np.float32(0)), -1)
    return np.concatenate([corner - shift, side], axis=-1)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What boxes [..., 4] share; a box of which left is after right, or upper below lower, where they share nothing."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return np.concatenate([low, high], axis=-1)


def area(box: np.ndarray) -> np.ndarray:
    """Pixels [...] of boxes [..., 4] that include their last column and row; 0 where a side is not positive."""
    return np.maximum(box[..., 2:] - box[..., :2] + 1, 0).prod(-1)


def back_project(keypoints: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Joints in the camera's frame.

    Args:
      keypoints: [..., K, 2] pixels.
      intrinsics: [3, 3] of a pinhole camera.
      depth: [..., K] along the optical axis, in any unit.

    Returns:
      [..., K, 3] in the unit of `depth`.
    """
    rays = np.concatenate([keypoints, np.ones_like(keypoints[..., :1])], axis=-1)
    return rays @ np.linalg.inv(intrinsics).T * np.asarray(depth)[..., None]


def project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Pixels [..., K, 2] of points [..., K, 3] in the camera's frame, by intrinsics [..., 3, 3]; see `back_project`."""
    screen = np.asarray(points) @ np.swapaxes(np.asarray(intrinsics), -1, -2)
    return screen[..., :2] / screen[..., 2:]
