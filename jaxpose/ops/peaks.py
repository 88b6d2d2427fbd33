"""Peaks of heatmaps: the highest local maxima of every map, batched, under jit.

Maps are [B, H, W, J], channels last. Positions are (x, y) in pixel indices of the map.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpose.types import Array

_STRIP = 32
"""Rows that are searched at a time; a strip of maps fits a processor's cache."""
_SEGMENT = 32
"""Neighbouring pixels of a row of which only the best peak is known at first."""


def each_entry(function: Callable, arrays: Any) -> Any:
    """`function` of every entry: one after the other on a CPU, where that is faster, else all at once."""
    return jax.lax.platform_dependent(arrays, cpu=functools.partial(jax.lax.map, function), default=jax.vmap(function))


def read(maps: jax.Array, positions: jax.Array) -> jax.Array:
    """Values of each joint's map at its pixels.

    Args:
      maps: [B, H, W, J, ...] maps; J may be 1 for a map that all joints share.
      positions: [B, N, J, 2] positions (x, y) in pixels, cut to whole pixels and to the map.

    Returns:
      [B, N, J, ...] values.
    """
    height, width, joints = maps.shape[1:4]
    x, y = positions[..., 0].astype(jnp.int32), positions[..., 1].astype(jnp.int32)
    image = jnp.arange(maps.shape[0])[:, None, None]
    joint = jnp.arange(positions.shape[2]) % joints
    return maps[image, jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1), joint]


def read_peaks(maps: jax.Array, positions: jax.Array) -> jax.Array:
    """`read` for positions in the order of `peaks`: [B, J, K, 2] -> [B, J, K, ...]."""
    return jnp.swapaxes(read(maps, jnp.swapaxes(positions, 1, 2)), 1, 2)


def local_maxima(heatmaps: Array, window: int) -> jax.Array:
    """Maps of which pixels that equal the maximum of the square `window` around them stay, and the others become 0.

    All pixels of a plateau stay. Beyond the border there is nothing. No NaN stays, nor what has one in its window.

    Args:
      heatmaps: [..., H, W, J] maps.
      window: side of the square, an odd number of pixels.

    Returns:
      [..., H, W, J] maps.
    """
    heatmaps, margin = jnp.asarray(heatmaps), window // 2
    border = [(0, 0)] * (heatmaps.ndim - 3) + [(margin, margin), (margin, margin), (0, 0)]
    return _inner_maxima(jnp.pad(heatmaps, border, constant_values=-jnp.inf), window)


def _inner_maxima(heatmaps: jax.Array, window: int) -> jax.Array:
    """`local_maxima` where windows lie inside the maps: [..., H + window - 1, W + window - 1, J] -> [..., H, W, J]."""
    joints, margin = heatmaps.shape[-1], window // 2
    height, width = (size - 2 * margin for size in heatmaps.shape[-3:-1])
    flat = heatmaps.reshape(*heatmaps.shape[:-2], -1)  # long rows, so that neighbours are read side by side
    largest = _sliding_max(_sliding_max(flat, -2, window, 1), -1, window, joints)
    center = flat[..., margin : margin + height, margin * joints : (margin + width) * joints]
    return jnp.where(center == largest, center, 0).reshape(*center.shape[:-1], width, joints)


def _sliding_max(values: jax.Array, axis: int, window: int, step: int) -> jax.Array:
    """Maxima of every `window` entries, each `step` from the next, along an axis that gets so much shorter."""
    shifted = lambda start, size: jax.lax.slice_in_dim(values, start * step, start * step + size, axis=axis)  # noqa: E731
    size, covered = values.shape[axis], 1
    while 2 * covered <= window:
        size -= covered * step
        values = jnp.maximum(shifted(0, size), shifted(covered, size))
        covered *= 2
    size -= (window - covered) * step
    return jnp.maximum(shifted(0, size), shifted(window - covered, size))


def peaks(heatmaps: Array, count: int, window: int = 5) -> tuple[jax.Array, jax.Array]:
    """The `count` highest positive peaks of each map, highest first; of equal ones the first in row-major order.

    Selection goes from rows to segments of rows to pixels: whatever is not among the best `count` of a level has
    `count` better peaks elsewhere, so nothing is lost.

    Args:
      heatmaps: [B, H, W, J] maps.
      count: number K of peaks of each map.
      window: side of the square in which a peak is the maximum, see `local_maxima`.

    Returns:
      The positions [B, J, K, 2] int32 (x, y) in pixels and the values [B, J, K]; zeros where there are fewer peaks.
    """
    heatmaps = jnp.asarray(heatmaps, jnp.float32)
    best = _segment_peaks(heatmaps, window)  # [B, J, rows, segments]
    rows = _best(jnp.max(best, -1), count)
    segments = _best(jnp.take_along_axis(best, rows[..., None], 2).reshape(*rows.shape[:2], -1), count)
    row = jnp.take_along_axis(rows, segments // best.shape[3], -1)
    column = segments % best.shape[3] * _SEGMENT
    pixels = _segment_pixels(heatmaps, row, column, window)  # [B, J, segments, _SEGMENT]
    flat = pixels.reshape(*rows.shape[:2], -1)
    values, place = jax.lax.top_k(flat, min(count, flat.shape[-1]))
    segment, offset = place // _SEGMENT, place % _SEGMENT
    x, y = (jnp.take_along_axis(start, segment, -1) for start in (column, row))
    found = values > 0
    positions = jnp.where(found[..., None], jnp.stack([x + offset, y], -1), 0)
    missing = [(0, 0), (0, 0), (0, count - values.shape[-1])]
    return jnp.pad(positions, [*missing, (0, 0)]), jnp.pad(jnp.where(found, values, 0), missing)


def _best(values: jax.Array, count: int) -> jax.Array:
    """Indices of the `count` largest along the last axis, the lower among equals; in rising order."""
    return jnp.sort(jax.lax.top_k(values, min(count, values.shape[-1]))[1], axis=-1)


def _segment_peaks(heatmaps: jax.Array, window: int) -> jax.Array:
    """[B, H, W, J] -> [B, J, rows, segments], the best peak of each segment, 0 for none; rows are filled up."""
    batch, height, width, joints = heatmaps.shape
    margin, strips = window // 2, -(-height // _STRIP)
    lines = heatmaps.reshape(batch * height, width, joints)
    columns = (margin, margin + -width % _SEGMENT)

    def search(strip: jax.Array) -> jax.Array:
        rows = strip % strips * _STRIP + jnp.arange(-margin, _STRIP + margin)
        inside = lines[strip // strips * height + jnp.clip(rows, 0, height - 1)]  # rows of the border come twice
        maxima = _inner_maxima(jnp.pad(inside, [(0, 0), columns, (0, 0)], constant_values=-jnp.inf), window)
        best = jnp.max(maxima.reshape(_STRIP, -1, _SEGMENT, joints), 2)
        return jnp.where((rows < height)[margin : margin + _STRIP, None, None], best, 0)

    best = each_entry(search, jnp.arange(batch * strips))
    return jnp.moveaxis(best.reshape(batch, strips * _STRIP, -1, joints), -1, 1)


def _segment_pixels(heatmaps: jax.Array, row: jax.Array, column: jax.Array, window: int) -> jax.Array:
    """Peaks in segments that begin at (column, row), both [B, J, N]: [B, J, N, _SEGMENT] values, 0 for no peak."""
    height, width = heatmaps.shape[1:3]
    margin, joints = window // 2, row.shape[1]
    y = row[..., None] + jnp.arange(-margin, margin + 1)
    x = column[..., None] + jnp.arange(-margin, _SEGMENT + margin)
    image, joint = jnp.arange(len(row))[:, None, None, None, None], jnp.arange(joints)[:, None, None, None]
    rows, columns = jnp.clip(y, 0, height - 1)[..., :, None], jnp.clip(x, 0, width - 1)[..., None, :]
    maxima = _inner_maxima(heatmaps[image, rows, columns, joint][..., None], window)[..., 0, :, 0]
    inside = (row < height)[..., None] & (x < width)[..., margin : margin + _SEGMENT]
    return jnp.where(inside, maxima, 0)
