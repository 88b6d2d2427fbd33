"""Square boxes around joints, by which data sets of single people and hands are cut out.

Boxes are (left, upper, right, lower) in pixels, float64 on the host. Boxes to cut by are whole numbers and include
their last column and row.
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
      box: [..., 4] boxes in pixels.
      size: [..., 2] sizes (width, height) of the images in pixels.
      scale: side of the square / longer side of the box.

    Returns:
      [..., 4] int64 boxes to cut by.
    """
    box, size = np.asarray(box, np.float64), np.asarray(size)
    extent = box[..., 2:] - box[..., :2]
    side = np.minimum(np.round(scale * extent.max(-1, keepdims=True)), size.min(-1, keepdims=True))
    corner = np.round((box[..., :2] + box[..., 2:] - side) / 2)
    corner = np.clip(corner, 0, size - side)
    return np.concatenate([corner, corner + side - 1], axis=-1).astype(np.int64)


def cut_region(box: np.ndarray, mirrored: np.ndarray | bool = False) -> np.ndarray:
    """The region (x, y, w, h) [..., 4] float32 that cropping by a box to cut by shows.

    Cropping takes right - left columns, so that the last one and the last row of the box stay outside. In a mirrored
    image, columns count from the last one that is inside; measured at the centres of pixels, as in a crop by pixel
    indices, that region begins a pixel further left.

    Args:
      box: [..., 4] boxes to cut by.
      mirrored: [...] bool, True where the image is mirrored before it is cut.
    """
    corner, side = box[..., :2].astype(np.float32), (box[..., 2:] - box[..., :2]).astype(np.float32)
    shift = np.stack(np.broadcast_arrays(np.asarray(mirrored, np.float32), np.float32(0)), -1)
    return np.concatenate([corner - shift, side], axis=-1)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The common part [..., 4] of two boxes; left is after right, or upper below lower, if there is none."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return np.concatenate([low, high], axis=-1)


def area(box: np.ndarray) -> np.ndarray:
    """Number [...] of pixels in boxes [..., 4], the last column and row included; 0 where a side is not positive."""
    return np.maximum(box[..., 2:] - box[..., :2] + 1, 0).prod(-1)


def back_project(keypoints: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Joints in the camera's frame.

    Args:
      keypoints: [..., K, 2] joints in pixels.
      intrinsics: [3, 3] matrix of a pinhole camera, in pixels.
      depth: [..., K] distances along the optical axis, in any unit.

    Returns:
      [..., K, 3] joints in the unit of `depth`.
    """
    rays = np.concatenate([keypoints, np.ones_like(keypoints[..., :1])], axis=-1)
    return rays @ np.linalg.inv(intrinsics).T * np.asarray(depth)[..., None]


def project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points [..., K, 3] of the camera's frame in pixels [..., K, 2], by intrinsics [..., 3, 3]; see `back_project`."""
    screen = np.asarray(points) @ np.swapaxes(np.asarray(intrinsics), -1, -2)
    return screen[..., :2] / screen[..., 2:]
