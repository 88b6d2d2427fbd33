"""Residual steps blocks (Cai et al., ECCV 2020) in the form that DCPose's head is made of.

A block splits its channels into four branches. Each branch has one convolution more than the one before it, and each
convolution also sees what its neighbour in the branch before put out, so receptive fields of many sizes come together.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.resnet import conv

BRANCHES = 4
SMALL_NORMAL = initializers.normal(0.001)
"""Initializer of the kernels."""


class ConvUnit(nn.Module):
    """A convolution with a bias, batch normalization and, unless `relu` is False, ReLU.

    The bias has no effect that the normalization leaves, but the original's checkpoints hold one.

    Attributes:
      features: output channels.
      size: side of the kernel.
      relu: True to rectify the result.
      dtype: compute precision.
    """

    features: int
    size: int = 3
    relu: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        layer = functools.partial(conv, use_bias=True, dtype=self.dtype, kernel_init=SMALL_NORMAL, name="conv")
        x = BatchNorm(dtype=self.dtype, name="bn")(layer(self.features, self.size)(x), train)
        return nn.relu(x) if self.relu else x


class ResidualStepsBlock(nn.Module):
    """Four branches of 1 to 4 convolutions, joined, and a shortcut.

    A branch has 26/64 of the input's channels, rounded down.

    Attributes:
      features: output channels.
      project: True for a 1x1 convolution as the shortcut, False for the input itself, which then has `features`
        channels.
      dtype: compute precision.
    """

    features: int
    project: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features], nowhere negative."""
        width = x.shape[-1] * 26 // 64
        unit = functools.partial(ConvUnit, dtype=self.dtype)
        parts = jnp.split(unit(BRANCHES * width, 1, name="conv1")(x, train), BRANCHES, axis=-1)
        ends, before = [], []
        for row, y in enumerate(parts, start=1):
            branch = []
            for column in range(1, row + 1):
                y = y + before[column - 1] if column < row else y
                y = unit(width, name=f"conv2_{row}_{column}")(y, train)
                branch.append(y)
            before = branch
            ends.append(y)
        y = unit(self.features, 1, relu=False, name="conv3")(jnp.concatenate(ends, -1), train)
        if self.project:
            x = unit(self.features, 1, relu=False, name="downsample")(x, train)
        return nn.relu(y + x)


class ResidualStepsChain(nn.Module):
    """Residual steps blocks one after the other, of which the first has a 1x1 convolution as shortcut.

    Attributes:
      features: output channels.
      blocks: number of blocks.
      dtype: compute precision.
    """

    features: int
    blocks: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features]."""
        x = x.astype(self.dtype)
        for index in range(self.blocks):
            block = ResidualStepsBlock(self.features, project=index == 0, dtype=self.dtype, name=f"block{index}")
            x = block(x, train)
        return x
