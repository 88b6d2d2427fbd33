"""Boxes, crops and the affine maps between an image and a crop.

Every function takes NumPy arrays (on the host) or JAX arrays and tracers (on device) and returns the same kind.
Points are (x, y) in pixel indices, boxes (x, y, w, h), sizes (width, height). Affine maps are 2 x 3 matrices that act
on (x, y, 1). They are applied by multiply and add, never by a matrix unit, so that an accelerator keeps float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array


def _namespace(*values):
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def clip_boxes(boxes: Array, image_size: tuple[Array | float, Array | float]) -> tuple[Array, Array]:
    """Boxes cut at the image border by the rule of the COCO top-down pipelines.

    The far corner is the last pixel inside the box, so a clipped box is one pixel narrower and lower than its
    annotation.

    Args:
      boxes: [..., 4] (x, y, w, h) in pixels.
      image_size: (width, height).

    Returns:
      The clipped boxes [..., 4], and a mask [...] that is False where nothing of the box lies inside the image.
    """
    xp = _namespace(boxes, *image_size)
    x, y, w, h = (boxes[..., i] for i in range(4))
    left, top = xp.maximum(x, 0), xp.maximum(y, 0)
    right = xp.minimum(left + xp.maximum(w - 1, 0), image_size[0] - 1)
    bottom = xp.minimum(top + xp.maximum(h - 1, 0), image_size[1] - 1)
    inside = (right >= left) & (bottom >= top)
    return xp.stack([left, top, right - left, bottom - top], -1), inside


def widen_to_aspect(size: Array, aspect: float) -> Array:
    """The smallest (width, height) [..., 2] with width / height = `aspect` that holds `size` [..., 2]."""
    xp = _namespace(size)
    w, h = size[..., 0], size[..., 1]
    return xp.stack([xp.maximum(w, h * aspect), xp.maximum(h, w / aspect)], -1)


def box_to_center_size(boxes: Array, aspect: float, padding: float = 1.25) -> tuple[Array, Array]:
    """Centre and size of the region to crop around a person's box.

    Args:
      boxes: [..., 4] (x, y, w, h) in pixels.
      aspect: width / height of the crop; the shorter side is enlarged to it.
      padding: factor by which the region exceeds the box.

    Returns:
      center [..., 2] and size [..., 2] (width, height), both in pixels. The original code calls size / 200 "scale".
    """
    center = boxes[..., :2] + boxes[..., 2:] * 0.5
    return center, widen_to_aspect(boxes[..., 2:], aspect) * padding


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
      keypoints: [K, 2] pixels.
      visible: [K], positive where a joint counts.
      upper_body: indices of the joints of the upper half.
      prefer_upper: which half to try first.
      aspect: width / height of the crop.
      padding: factor by which the region exceeds the extent of the joints.

    Returns:
      (center [2], size [2]) in pixels, or None where fewer than two joints are left.
    """
    is_upper = np.zeros(len(keypoints), bool)
    is_upper[list(upper_body)] = True
    upper, lower = keypoints[is_upper & (visible > 0)], keypoints[~is_upper & (visible > 0)]
    take_upper = len(upper) > 2 if prefer_upper else len(lower) <= 2
    chosen = upper if take_upper else (lower if len(lower) > 2 else upper)
    if len(chosen) < 2:
        return None
    return chosen.mean(0), widen_to_aspect(chosen.max(0) - chosen.min(0), aspect) * padding


def crop_affine(
    center: Array,
    size: Array,
    crop_size: tuple[int, int],
    rotation: Array | float = 0.0,
    mirror: Array | bool = False,
    half_pixel: bool = False,
) -> Array:
    """The map from image pixels to crop pixels.

    p' = s R (p - center) + (width, height) / 2 with s = crop width / region width; the region's height is not used.
    The top-down family applies this to pixel indices. With `half_pixel` it holds for p + 1/2 and p' + 1/2, the places
    of pixel centres when an image is seen as a continuous plane, so that the borders of region and crop coincide.
    Mirroring turns the person about the vertical line through `center` before the rotation, which equals mirroring
    the whole image and the centre with it.

    Args:
      center: [..., 2] pixels of the image.
      size: [..., 2] (width, height) of the region in pixels of the image.
      crop_size: (width, height) of the crop.
      rotation: [...] degrees; positive turns the content counter-clockwise on the screen.
      mirror: [...] bool.
      half_pixel: whether pixel i is at i + 1/2 rather than at i.

    Returns:
      [..., 2, 3].
    """
    half = 0.5 if half_pixel else 0.0
    xp = _namespace(center, size, rotation, mirror)
    radians = xp.asarray(rotation, center.dtype) * (np.pi / 180)
    scale = crop_size[0] / size[..., 0]
    cos, sin = scale * xp.cos(radians), scale * xp.sin(radians)
    side = xp.where(xp.asarray(mirror), -1, 1).astype(center.dtype)
    rows = []
    x, y = center[..., 0] - half, center[..., 1] - half
    for a, b, middle in ((cos * side, sin, crop_size[0] * 0.5 - half), (-sin * side, cos, crop_size[1] * 0.5 - half)):
        rows.append(xp.stack(xp.broadcast_arrays(a, b, middle - a * x - b * y), -1))
    return xp.stack(rows, -2)


def invert_affine(matrix: Array) -> Array:
    """The inverse of affine maps [..., 2, 3]."""
    xp = _namespace(matrix)
    a, b, tx = (matrix[..., 0, i] for i in range(3))
    c, d, ty = (matrix[..., 1, i] for i in range(3))
    determinant = a * d - b * c
    rows = [xp.stack([d, -b, b * ty - d * tx], -1), xp.stack([-c, a, c * tx - a * ty], -1)]
    return xp.stack(rows, -2) / determinant[..., None, None]


def apply_affine(matrix: Array, points: Array) -> Array:
    """Points mapped by affine maps.

    Args:
      matrix: [..., 2, 3].
      points: [..., K, 2] with the leading axes of `matrix`.

    Returns:
      [..., K, 2].
    """
    xp = _namespace(matrix, points)
    x, y = points[..., 0], points[..., 1]
    m = matrix[..., None, :, :]
    return xp.stack([m[..., i, 0] * x + m[..., i, 1] * y + m[..., i, 2] for i in range(2)], -1)
