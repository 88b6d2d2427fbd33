"""The hourglass of basic blocks (Law and Deng, ECCV 2018) that mmpose calls Hourglass-52."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn.hrnet import ConvNorm, upsample_nearest
from jaxpose.nn.resnet import BasicBlock

WIDTHS = (256, 256, 384, 384, 384, 512)
"""Channels of each level, finest first."""
BLOCKS = (2, 2, 2, 2, 2, 4)
"""Number of residual blocks at each place of a level."""


class BasicHourglass(nn.Module):
    """A stem, one hourglass, and a convolution.

    Attributes:
      widths: channels of each level, finest first.
      blocks: number of residual blocks at each place of a level.
      dtype: compute precision.
    """

    widths: tuple[int, ...] = WIDTHS
    blocks: tuple[int, ...] = BLOCKS
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> list[jax.Array]:
        """[B, H, W, 3] -> [[B, H / 4, W / 4, widths[0]]]; sides divisible by 4 * 2^(levels - 1)."""
        x = ConvNorm(self.widths[0] // 2, 7, 2, dtype=self.dtype, name="stem_conv")(image.astype(self.dtype), train)
        x = BasicBlock(self.widths[0], 2, dtype=self.dtype, name="stem_block")(x, train)
        x = self._level(x, 0, train)
        return [ConvNorm(self.widths[0], dtype=self.dtype, name="out")(x, train)]

    def _level(self, x: jax.Array, level: int, train: bool) -> jax.Array:
        """A level with all that lie below it: [B, h, w, widths[level]] -> the same."""
        if level + 1 == len(self.widths):
            return self._blocks(x, f"level{level}", (self.widths[level],) * self.blocks[level], 1, train)
        mine, below, count = self.widths[level], self.widths[level + 1], self.blocks[level]
        across = self._blocks(x, f"level{level}_across", (mine,) * count, 1, train)
        down = self._blocks(x, f"level{level}_down", (below,) * count, 2, train)
        inner = self._level(down, level + 1, train)
        up = self._blocks(inner, f"level{level}_up", (below,) * (count - 1) + (mine,), 1, train)
        return across + upsample_nearest(up, 2)

    def _blocks(self, x: jax.Array, name: str, widths: tuple[int, ...], stride: int, train: bool) -> jax.Array:
        for index, width in enumerate(widths):
            block = BasicBlock(width, stride if index == 0 else 1, dtype=self.dtype, name=f"{name}_{index}")
            x = block(x, train)
        return x
