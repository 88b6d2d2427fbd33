"""Boxes as detectors handle them: their three forms, how two overlap, and what an image's transforms do to them.

  box     (x, y, w, h), the library's own form
  center  (cx, cy, w, h), what networks put out
  corner  (x0, y0, x1, y1)

Functions take NumPy arrays (on the host) or JAX arrays and tracers (on device) and return the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array


def _namespace(*values):
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def _joined(first: Array, second: Array) -> Array:
    return _namespace(first, second).concatenate([first, second], -1)


# --- forms ---


def box_to_center(boxes: Array) -> Array:
    """[..., 4] (x, y, w, h) -> (cx, cy, w, h)."""
    return _joined(boxes[..., :2] + boxes[..., 2:] / 2, boxes[..., 2:])


def center_to_box(boxes: Array) -> Array:
    """[..., 4] (cx, cy, w, h) -> (x, y, w, h)."""
    return _joined(boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:])


def center_to_corner(boxes: Array) -> Array:
    """[..., 4] (cx, cy, w, h) -> (x0, y0, x1, y1)."""
    return _joined(boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2)


def corner_to_center(boxes: Array) -> Array:
    """[..., 4] (x0, y0, x1, y1) -> (cx, cy, w, h)."""
    return _joined((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2])


def box_to_corner(boxes: Array) -> Array:
    """[..., 4] (x, y, w, h) -> (x0, y0, x1, y1)."""
    return _joined(boxes[..., :2], boxes[..., :2] + boxes[..., 2:])


def corner_to_box(boxes: Array) -> Array:
    """[..., 4] (x0, y0, x1, y1) -> (x, y, w, h)."""
    return _joined(boxes[..., :2], boxes[..., 2:] - boxes[..., :2])


# --- overlap ---


def iou(a: Array, b: Array) -> tuple[jax.Array, jax.Array]:
    """Intersection over union of boxes of corner form, and the union's area.

    Args:
      a, b: [..., 4] whose leading axes broadcast: `iou(a[:, None], b[None])` compares each with each.

    Returns:
      [...] each. Two boxes without area have an IoU of 0.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    common = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    intersection = jnp.prod(jnp.maximum(common, 0), axis=-1)
    union = _area(a) + _area(b) - intersection
    return intersection / jnp.where(union > 0, union, 1), union


def generalized_iou(a: Array, b: Array) -> jax.Array:
    """IoU less the part of the smallest common enclosure that neither box covers (Rezatofighi et al., CVPR 2019).

    Args:
      a, b: [..., 4] of corner form whose leading axes broadcast.

    Returns:
      [...] in (-1, 1].
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    overlap, union = iou(a, b)
    extent = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    enclosure = jnp.prod(jnp.maximum(extent, 0), axis=-1)
    return overlap - (enclosure - union) / jnp.where(enclosure > 0, enclosure, 1)


def _area(corners: jax.Array) -> jax.Array:
    return jnp.prod(corners[..., 2:] - corners[..., :2], axis=-1)


# --- what an image's transforms do ---


def fitted_size(width: int, height: int, short: int, longest: int | None = None) -> tuple[int, int]:
    """The (width, height) to which DETR resizes an image.

    The short side becomes `short`, or less where the long side would exceed `longest`; the long side follows, rounded
    down. An image whose short side has that length already keeps its size.

    Args:
      width, height: of the image in pixels.
      short: wanted length of the short side.
      longest: length that the long side may have, which rounding of the short side can exceed by a little.
    """
    least, most = min(width, height), max(width, height)
    if longest is not None and most / least * short > longest:
        short = max(1, round(longest * least / most))
    if least == short:
        return width, height
    other = int(short * most / least)
    return (short, other) if width < height else (other, short)


def mirror_corners(corners: Array, width: Array | float) -> Array:
    """Boxes [..., 4] of corner form in an image of this width with left and right exchanged."""
    x0, y0, x1, y1 = (corners[..., i] for i in range(4))
    return _namespace(corners, width).stack([width - x1, y0, width - x0, y1], -1)


def cut_corners(corners: Array, window: tuple[float, float, float, float]) -> tuple[Array, Array]:
    """Boxes in a part of their image.

    Args:
      corners: [..., 4] of corner form.
      window: (x, y, w, h) of the part.

    Returns:
      The boxes [..., 4] clipped to the part, from its corner on, and a mask [...] of those of which something is left.
    """
    xp = _namespace(corners)
    left, top, width, height = window
    origin = np.array([left, top, left, top], np.float32)
    limit = np.array([width, height, width, height], np.float32)
    moved = xp.clip(corners - origin, 0, limit)
    return moved, (moved[..., 2:] > moved[..., :2]).all(-1)


def scale_corners(corners: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """Boxes [..., 4] of corner form after their image was resized from (width, height) `old` to `new`."""
    factor = np.array(new, np.float32) / np.array(old, np.float32)
    return corners * np.concatenate([factor, factor])
