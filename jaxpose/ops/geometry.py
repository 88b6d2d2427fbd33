"""Boxes, crops and the affine maps between an image and a crop.

Every function takes NumPy arrays (on the host) or JAX arrays and tracers (on device) and returns the same kind.
Points are (x, y) in pixel indices, boxes (x, y, w, h), sizes (width, height). Affine maps are 2 x 3 matrices that act
on (x, y, 1). They are applied by multiply and add, never by a matrix unit, so that an accelerator keeps float32.
"""

import numpy as np

from jaxpose.ops.arrays import SameArray, namespace
from jaxpose.types import Array

LEAST_SIDE = 1e-3
"""Shortest side of a region around a box in pixels: the map from a region without a side would be infinite."""


def clip_boxes(boxes: SameArray, image_size: tuple[Array | float, Array | float]) -> tuple[SameArray, SameArray]:
    """Boxes cut at the image border by the rule of the COCO top-down pipelines.

    The far corner is the last pixel inside the box, so a clipped box is one pixel narrower and lower than its
    annotation.

    Args:
      boxes: [..., 4] boxes (x, y, w, h) in pixels.
      image_size: (width, height) of the image in pixels.

    Returns:
      The clipped boxes [..., 4], and a mask [...] that is False where nothing of the box lies inside the image. A box
      of which one column or row of pixels lies inside has no area, and is no region to crop (`LEAST_SIDE`).
    """
    xp = namespace(boxes, *image_size)
    x, y, w, h = (boxes[..., i] for i in range(4))
    left, top = xp.maximum(x, 0), xp.maximum(y, 0)
    right = xp.minimum(left + xp.maximum(w - 1, 0), image_size[0] - 1)
    bottom = xp.minimum(top + xp.maximum(h - 1, 0), image_size[1] - 1)
    inside = (right >= left) & (bottom >= top)
    return xp.stack([left, top, right - left, bottom - top], -1), inside


def widen_to_aspect(size: SameArray, aspect: float) -> SameArray:
    """The smallest (width, height) [..., 2] with width / height = `aspect` that holds `size` [..., 2]."""
    xp = namespace(size)
    w, h = size[..., 0], size[..., 1]
    return xp.stack([xp.maximum(w, h * aspect), xp.maximum(h, w / aspect)], -1)


def box_to_center_size(boxes: SameArray, aspect: float, padding: float = 1.25) -> tuple[SameArray, SameArray]:
    """Centre and size of the region to crop around a person's box.

    Args:
      boxes: [..., 4] boxes (x, y, w, h) in pixels.
      aspect: width / height of the crop; the shorter side is enlarged to it.
      padding: factor by which the region exceeds the box.

    Returns:
      The centre [..., 2] and the size [..., 2] (width, height), both in pixels, of `LEAST_SIDE` or more. The original
      code calls size / 200 "scale".
    """
    xp = namespace(boxes)
    center = xp.add(boxes[..., :2], boxes[..., 2:] * 0.5)
    size = xp.maximum(widen_to_aspect(boxes[..., 2:], aspect), LEAST_SIDE)
    return center, xp.multiply(size, padding)


def half_body_box(
    keypoints: np.ndarray,
    visible: np.ndarray,
    upper_body: tuple[int, ...],
    prefer_upper: bool,
    aspect: float,
    padding: float = 1.5,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre and size of a region around the visible joints of the upper or the lower body (host only).

    The preferred half is taken if more than two of its joints are visible. Otherwise the lower one is taken if it has
    more than two, and the upper one if it has not.

    Args:
      keypoints: [K, 2] joints in pixels.
      visible: [K] visibility, positive where a joint counts.
      upper_body: indices of the joints of the upper half.
      prefer_upper: True to try the upper half first, False for the lower.
      aspect: width / height of the crop.
      padding: factor by which the region exceeds the extent of the joints.

    Returns:
      (center [2], size [2]) in pixels, or None where fewer than two joints are left, or all at one place.
    """
    is_upper = np.zeros(len(keypoints), bool)
    is_upper[list(upper_body)] = True
    upper, lower = keypoints[is_upper & (visible > 0)], keypoints[~is_upper & (visible > 0)]
    take_upper = len(upper) > 2 if prefer_upper else len(lower) <= 2
    chosen = upper if take_upper else (lower if len(lower) > 2 else upper)
    if len(chosen) < 2 or not (extent := chosen.max(0) - chosen.min(0)).any():
        return None
    return chosen.mean(0), widen_to_aspect(extent, aspect) * padding


def crop_affine(
    center: SameArray,
    size: SameArray,
    crop_size: tuple[int, int],
    rotation: Array | float = 0.0,
    mirror: Array | bool = False,
    half_pixel: bool = False,
    unbiased: bool = False,
) -> SameArray:
    """The map from image pixels to crop pixels.

    p' = s R (p - center) + (width, height) / 2 with s = crop width / region width; the region's height is not used.
    The top-down family applies this to pixel indices. With `half_pixel` it holds for p + 1/2 and p' + 1/2, the places
    of pixel centres when an image is seen as a continuous plane, so that the borders of region and crop coincide.
    With `unbiased` the corner pixels of the crop lie on the corners of the region, along each axis by itself:
    s = (crop side - 1) / region side, and (width - 1, height - 1) / 2 is added (UDP, Huang et al., CVPR 2020).
    Mirroring turns the person about the vertical line through `center` before the rotation, which equals mirroring
    the whole image and the centre with it.

    Args:
      center: [..., 2] centre of the region in pixels of the image.
      size: [..., 2] (width, height) of the region in pixels of the image.
      crop_size: (width, height) of the crop in pixels.
      rotation: [...] angle in degrees; positive turns the content counter-clockwise on the screen.
      mirror: [...] bool, True to exchange left and right.
      half_pixel: True if pixel i is at i + 1/2 rather than at i.
      unbiased: True for UDP's map.

    Returns:
      [..., 2, 3] affine maps.

    Examples:
      >>> to_crop = crop_affine(np.array([100.0, 50.0]), np.array([40.0, 80.0]), (20, 40))
      >>> apply_affine(to_crop, np.array([[80.0, 10.0], [100.0, 50.0]])).tolist()
      [[0.0, 0.0], [10.0, 20.0]]
      >>> apply_affine(invert_affine(to_crop), np.array([[10.0, 20.0]])).tolist()
      [[100.0, 50.0]]
    """
    half = 0.5 if half_pixel else 0.0
    xp = namespace(center, size, rotation, mirror)
    radians = xp.asarray(rotation, center.dtype) * (np.pi / 180)
    extent = [side - 1 if unbiased else side for side in crop_size]
    scale_x = extent[0] / size[..., 0]
    scale_y = extent[1] / size[..., 1] if unbiased else scale_x
    cos, sin = xp.cos(radians), xp.sin(radians)
    side = xp.where(xp.asarray(mirror), -1, 1).astype(center.dtype)
    rows = []
    x, y = center[..., 0] - half, center[..., 1] - half
    for a, b, middle in (
        (scale_x * cos * side, scale_x * sin, extent[0] * 0.5 - half),
        (-(scale_y * sin) * side, scale_y * cos, extent[1] * 0.5 - half),
    ):
        rows.append(xp.stack(xp.broadcast_arrays(a, b, middle - a * x - b * y), -1))
    return xp.stack(rows, -2)


def invert_affine(matrix: SameArray) -> SameArray:
    """The inverse of affine maps [..., 2, 3]."""
    xp = namespace(matrix)
    a, b, tx = (matrix[..., 0, i] for i in range(3))
    c, d, ty = (matrix[..., 1, i] for i in range(3))
    determinant = a * d - b * c
    rows = [xp.stack([d, -b, b * ty - d * tx], -1), xp.stack([-c, a, c * tx - a * ty], -1)]
    return xp.stack(rows, -2) / determinant[..., None, None]


def apply_affine(matrix: SameArray, points: SameArray) -> SameArray:
    """Points mapped by affine maps.

    Args:
      matrix: [..., 2, 3] affine maps.
      points: [..., K, 2] points (x, y) with the leading axes of `matrix`.

    Returns:
      [..., K, 2] mapped points.
    """
    xp = namespace(matrix, points)
    x, y = points[..., 0], points[..., 1]
    m = matrix[..., None, :, :]
    return xp.stack([m[..., i, 0] * x + m[..., i, 1] * y + m[..., i, 2] for i in range(2)], -1)
