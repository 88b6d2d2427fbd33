"""Positional encodings of feature maps for attention (Carion et al., ECCV 2020, appendix A.4), and their masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.nn.initializers import unit_uniform
from jaxpose.ops.arrays import SameArray, namespace


def sine_encoding(inside: SameArray, channels: int, temperature: float = 1e4, normalize: bool = True) -> SameArray:
    """Sines and cosines of row and column numbers.

    Rows and columns are counted from one over the cells that are `inside`, and scaled to (0, 2 pi]. The first half of
    the channels encodes y, the second x; sine and cosine alternate within each.

    Args:
      inside: [..., H, W] bool, False where the map is padding. A NumPy array gives a NumPy constant.
      channels: number of channels of the result, divisible by four.
      temperature: ratio of the longest to the shortest period.
      normalize: False to leave the counts unscaled.

    Returns:
      [..., H, W, channels] float32 encoding.
    """
    xp = namespace(inside)
    half = channels // 2
    period = temperature ** (np.arange(half) // 2 * 2 / half)
    parts = []
    for axis in (-2, -1):
        count = xp.cumsum(inside, axis, dtype=np.float32)
        if normalize:
            last = xp.take(count, np.array([-1]), axis)
            count = count / (last + 1e-6) * (2 * np.pi)
        angle = count[..., None] / period.astype(np.float32)
        parts.append(xp.where(np.arange(half) % 2 == 0, xp.sin(angle), xp.cos(angle)))
    return xp.concatenate(parts, -1).astype(np.float32)


def shrink_mask(inside: SameArray, height: int, width: int) -> SameArray:
    """A mask of an image at the resolution of a feature map.

    Cell i of n takes the value of pixel floor(i m / n) of m, in float32, as nearest interpolation in PyTorch has it.

    Args:
      inside: [..., H, W] bool, the mask of the image.
      height, width: size of the map in cells.

    Returns:
      [..., height, width] bool, the mask of the map.
    """
    rows, columns = (_nearest(*sizes) for sizes in ((inside.shape[-2], height), (inside.shape[-1], width)))
    return namespace(inside).asarray(inside[..., rows[:, None], columns])


def _nearest(pixels: int, cells: int) -> np.ndarray:
    step = np.float32(pixels) / np.float32(cells)
    return np.minimum((np.arange(cells, dtype=np.float32) * step).astype(np.int32), pixels - 1)


class LearnedEncoding(nn.Module):
    """One learned vector for every column and every row.

    Attributes:
      channels: number of channels of the encoding; the first half encodes the column, the second the row.
      cells: size of the tables, the largest map that can be encoded.
    """

    channels: int
    cells: int = 50

    @nn.compact
    def __call__(self, height: int, width: int) -> jax.Array:
        """The encoding [height, width, channels] of a map.

        Raises:
          ValueError: the map exceeds the tables.
        """
        if max(height, width) > self.cells:
            raise ValueError(
                f"a map of {width} x {height} cells exceeds the learned positional tables of {self.cells}: "
                "use the sine encoding or a smaller input_size"
            )
        half = self.channels // 2
        columns = self.param("column", unit_uniform, (self.cells, half))
        rows = self.param("row", unit_uniform, (self.cells, half))
        x = jnp.broadcast_to(columns[None, :width], (height, width, half))
        y = jnp.broadcast_to(rows[:height, None], (height, width, half))
        return jnp.concatenate([x, y], -1)


class CropEncoding(nn.Module):
    """The encoding of cells in crops of one size (PRTR, end to end): half of it fixed, a quarter learned for each axis.

    Attributes:
      channels: number of channels of the encoding, divisible by eight. The first half are the sines of
        `sine_encoding`, then come learned vectors of the row and of the column.
    """

    channels: int

    @nn.compact
    def __call__(self, height: int, width: int) -> jax.Array:
        """The encoding [height, width, channels] of crops of this many cells."""
        quarter = self.channels // 4
        rows = self.param("row", unit_uniform, (height, quarter))
        columns = self.param("column", unit_uniform, (width, quarter))
        fixed = jnp.asarray(sine_encoding(np.ones((height, width), bool), self.channels // 2))
        y = jnp.broadcast_to(rows[:, None], (height, width, quarter))
        x = jnp.broadcast_to(columns[None], (height, width, quarter))
        return jnp.concatenate([fixed, y, x], -1)
