"""Boxes as detectors handle them: three forms, the overlap of two, and the boxes of a resized, cut or mirrored image.

  box     (x, y, w, h), the library's own form
  center  (cx, cy, w, h), what networks put out
  corner  (x0, y0, x1, y1)

Functions take NumPy arrays (on the host) or JAX arrays and tracers (on device) and return the same kind.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops.arrays import SameArray, namespace
from jaxpose.types import Array


def _joined(first: Array, second: Array) -> Any:
    return namespace(first, second).concatenate([first, second], -1)


# --- forms ---


def box_to_center(boxes: SameArray) -> SameArray:
    """[..., 4] (x, y, w, h) -> (cx, cy, w, h)."""
    return _joined(boxes[..., :2] + boxes[..., 2:] / 2, boxes[..., 2:])


def center_to_box(boxes: SameArray) -> SameArray:
    """[..., 4] (cx, cy, w, h) -> (x, y, w, h)."""
    return _joined(boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:])


def center_to_corner(boxes: SameArray) -> SameArray:
    """[..., 4] (cx, cy, w, h) -> (x0, y0, x1, y1)."""
    return _joined(boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2)


def corner_to_center(boxes: SameArray) -> SameArray:
    """[..., 4] (x0, y0, x1, y1) -> (cx, cy, w, h)."""
    return _joined((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2])


def box_to_corner(boxes: SameArray) -> SameArray:
    """[..., 4] (x, y, w, h) -> (x0, y0, x1, y1)."""
    return _joined(boxes[..., :2], boxes[..., :2] + boxes[..., 2:])


def corner_to_box(boxes: SameArray) -> SameArray:
    """[..., 4] (x0, y0, x1, y1) -> (x, y, w, h)."""
    return _joined(boxes[..., :2], boxes[..., 2:] - boxes[..., :2])


# --- overlap ---


def box_iou(a: SameArray, b: SameArray, extra: float = 0.0) -> SameArray:
    """Intersection over union of boxes (x, y, w, h), in the precision of the boxes.

    Args:
      a, b: [..., 4] boxes; leading axes broadcast: `box_iou(a[:, None], b[None])` compares each with each.
      extra: pixels added to every width and height, 1 where a box includes its last column and row of pixels.

    Returns:
      [...] IoU in [0, 1]; 0 for boxes without area.
    """
    xp = namespace(a, b)
    intersection = _intersection(box_to_corner(a), box_to_corner(b), extra)
    area_a, area_b = (xp.prod(boxes[..., 2:] + extra, axis=-1) for boxes in (a, b))
    return _over_union(intersection, area_a + area_b)[0]


def corner_iou(a: Array, b: Array) -> tuple[jax.Array, jax.Array]:
    """Intersection over union of boxes of corner form in float32, and the union's area.

    Args:
      a, b: [..., 4] boxes of corner form; leading axes broadcast.

    Returns:
      The IoU [...], 0 for boxes without area, and the area [...] of the union.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    return _over_union(_intersection(a, b), _area(a) + _area(b))


def _intersection(a: Array, b: Array, extra: float = 0.0) -> Any:
    """Common area [...] of boxes [..., 4] of corner form."""
    xp = namespace(a, b)
    common = xp.minimum(a[..., 2:], b[..., 2:]) - xp.maximum(a[..., :2], b[..., :2])
    common = common + extra if extra else common
    return xp.prod(xp.maximum(common, 0), axis=-1)


def _over_union(intersection: Any, areas: Any) -> tuple[Any, Any]:
    """IoU and union [...] of two boxes with this intersection [...] and sum of areas [...]."""
    union = areas - intersection
    return intersection / namespace(union).where(union > 0, union, 1), union


def generalized_iou(a: Array, b: Array) -> jax.Array:
    """IoU less the part of the smallest common enclosure that neither box covers (Rezatofighi et al., CVPR 2019).

    Args:
      a, b: [..., 4] boxes of corner form; leading axes broadcast.

    Returns:
      [...] generalised IoU in (-1, 1].
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    overlap, union = corner_iou(a, b)
    extent = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    enclosure = jnp.prod(jnp.maximum(extent, 0), axis=-1)
    return overlap - (enclosure - union) / jnp.where(enclosure > 0, enclosure, 1)


def _area(corners: jax.Array) -> jax.Array:
    return jnp.prod(corners[..., 2:] - corners[..., :2], axis=-1)


# --- boxes of a resized, cut or mirrored image ---


def fitted_size(width: int, height: int, short: int, longest: int | None = None) -> tuple[int, int]:
    """The (width, height) to which DETR resizes an image.

    The short side becomes `short`, or less where the long side would exceed `longest`; the long side follows, rounded
    down. An image whose short side has that length already keeps its size.

    Args:
      width, height: size of the image in pixels.
      short: wanted length of the short side in pixels.
      longest: largest length of the long side in pixels, which rounding of the short side can exceed by a little; None
        for any length.
    """
    least, most = min(width, height), max(width, height)
    if longest is not None and most / least * short > longest:
        short = max(1, round(longest * least / most))
    if least == short:
        return width, height
    other = int(short * most / least)
    return (short, other) if width < height else (other, short)


def mirror_corners(corners: SameArray, width: Array | float) -> SameArray:
    """Boxes [..., 4] of corner form in an image of this width with left and right exchanged."""
    x0, y0, x1, y1 = (corners[..., i] for i in range(4))
    return namespace(corners, width).stack([width - x1, y0, width - x0, y1], -1)


def cut_corners(corners: SameArray, window: tuple[float, float, float, float]) -> tuple[SameArray, SameArray]:
    """Boxes in a part of their image.

    Args:
      corners: [..., 4] boxes of corner form.
      window: (x, y, w, h) of the part.

    Returns:
      The boxes [..., 4] clipped to the part, counted from its corner, and a mask [...] of those of which something is
      left.
    """
    xp = namespace(corners)
    left, top, width, height = window
    origin = np.array([left, top, left, top], np.float32)
    limit = np.array([width, height, width, height], np.float32)
    moved = xp.clip(corners - origin, 0, limit)
    return moved, (moved[..., 2:] > moved[..., :2]).all(-1)


def scale_corners(corners: SameArray, old: tuple[float, float], new: tuple[float, float]) -> SameArray:
    """Boxes [..., 4] of corner form after their image was resized from (width, height) `old` to `new`."""
    factor = np.array(new, np.float32) / np.array(old, np.float32)
    return namespace(corners).multiply(corners, np.concatenate([factor, factor]))
