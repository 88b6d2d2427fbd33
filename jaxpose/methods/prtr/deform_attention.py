"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3)."""

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxpose.ops.sampling import sample, to_pixels
from jaxpose.types import Array


def deformable_attention(
    values: Array, shapes: tuple[tuple[int, int], ...], locations: Array, weights: Array
) -> jax.Array:
    """Weighted sums of values that every query reads at a few places of maps of several resolutions.

    Values are interpolated bilinearly, with zeros outside the maps.

    Args:
      values: [B, T, H, C] values of the cells of all maps, map after map and row after row, for each of H heads.
      shapes: (rows, columns) of each of the L maps.
      locations: [B, Q, H, L, P, 2] places (x, y) as fractions of each map; the middle of its first cell is half a cell
        from 0.
      weights: [B, Q, H, L, P] weights of the places.

    Returns:
      [B, Q, H * C] sums in the type of `values`, heads side by side.

    Raises:
      ValueError: the maps do not have T cells together, or the locations are for another number of maps.
    """
    cells = [rows * columns for rows, columns in shapes]
    if values.shape[1] != sum(cells):
        raise ValueError(f"there are {values.shape[1]} values, but maps of {shapes} (rows, columns) have {sum(cells)}")
    if locations.shape[3] != len(shapes):
        raise ValueError(f"locations are for {locations.shape[3]} maps, but there are {len(shapes)}")
    batch, heads = values.shape[0], values.shape[2]
    total, first = jnp.float32(0), 0
    for level, (rows, columns) in enumerate(shapes):
        part = values[:, first : first + cells[level]]
        maps = rearrange(part, "b (i j) h c -> (b h) i j c", i=rows)
        points = to_pixels(2 * locations[:, :, :, level] - 1, (columns, rows), "centers")
        points = rearrange(points, "b q h p xy -> (b h) q p xy")
        read = sample(maps, points, dense=points.shape[1] * points.shape[2] >= cells[level])
        weight = rearrange(weights[:, :, :, level], "b q h p -> (b h) q p 1")
        total += (weight.astype(jnp.float32) * read.astype(jnp.float32)).sum(-2)
        first += cells[level]
    return rearrange(total, "(b h) q c -> b q (h c)", b=batch, h=heads).astype(values.dtype)
