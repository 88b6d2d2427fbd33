"""Stacked hourglass networks (Newell et al., ECCV 2016).

Every hourglass pools its input to a few cells and comes back to full resolution, with a branch across at each level.
Each stack scores every joint anew and passes its features and scores on to the next.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.hrnet import upsample_nearest
from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.pooling import max_pool
from jaxpose.ops.arrays import EXACT

STEM_NEWELL = (64, 128, 128)
"""Channels before the trunk in Newell's network, which RMPE uses."""
STEM_BEARPAW = (64, 128, 256)
"""Channels before the trunk in W. Yang's port, whose checkpoints are public and which DSNT uses."""


def conv(
    x: jax.Array,
    features: int,
    size: int = 1,
    stride: int = 1,
    dtype: Dtype = jnp.float32,
    *,
    name: str,
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """A square convolution of `x` with bias, symmetric padding and PyTorch's default initial values."""
    layer = nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        dtype=dtype,
        kernel_init=initializers.torch_kernel,
        bias_init=initializers.torch_bias(size * size * x.shape[-1]),
        precision=precision,
        name=name,
    )
    return layer(x)


class Residual(nn.Module):
    """A bottleneck that normalizes before it convolves. The shortcut is a 1x1 convolution where channels change.

    Attributes:
      features: output channels; half of them inside.
      dtype: compute precision.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = x
        for index, (width, size) in enumerate(
            ((self.features // 2, 1), (self.features // 2, 3), (self.features, 1)), 1
        ):
            y = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{index}")(y, train))
            y = conv(y, width, size, dtype=self.dtype, name=f"conv{index}")
        if x.shape[-1] != self.features:
            x = conv(x, self.features, dtype=self.dtype, name="shortcut")
        return x + y


class HourglassLevels(nn.Module):
    """One hourglass: down to 1 / 2^depth of the resolution and up again. Level 0 is the innermost.

    Attributes:
      features: channels, kept throughout.
      depth: number of levels.
      modules: number of residual modules at each place.
      dtype: compute precision.
    """

    features: int
    depth: int = 4
    modules: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, features] -> the same shape; H and W divisible by 2^depth."""

        def residuals(x: jax.Array, level: int, branch: str) -> jax.Array:
            for index in range(self.modules):
                x = Residual(self.features, self.dtype, name=f"level{level}_{branch}_{index}")(x, train)
            return x

        across = []
        for level in reversed(range(self.depth)):
            across.append(residuals(x, level, "across"))
            x = residuals(max_pool(x, 2), level, "down")
        x = residuals(x, 0, "bottom")
        for level in range(self.depth):
            x = across.pop() + upsample_nearest(residuals(x, level, "up"), 2)
        return x


class Hourglass(nn.Module):
    """Hourglasses in a row, each with its own maps.

    Attributes:
      num_joints: number K of joints.
      stacks: number of hourglasses.
      features: channels of the trunk.
      modules: number of residual modules at each place of an hourglass and after it.
      depth: number of levels of an hourglass.
      stem: channels of the first convolution and of the first two residual modules, `STEM_NEWELL` or `STEM_BEARPAW`.
      dtype: compute precision; the maps are float32.
    """

    num_joints: int
    stacks: int = 1
    features: int = 256
    modules: int = 1
    depth: int = 4
    stem: tuple[int, int, int] = STEM_NEWELL
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> list[jax.Array]:
        """Maps of every stack, first to last.

        Args:
          image: [B, H, W, 3] images, both sides divisible by 2^(depth + 2).
          train: True to normalize by the statistics of the batch.

        Returns:
          List of `stacks` float32 maps [B, H / 4, W / 4, K].

        Raises:
          ValueError: a side that does not divide.
        """
        multiple = 2 ** (self.depth + 2)
        if image.shape[1] % multiple or image.shape[2] % multiple:
            raise ValueError(
                f"an hourglass of depth {self.depth} takes images with sides that are multiples of {multiple}, "
                f"but this one has {image.shape[2]} x {image.shape[1]}"
            )
        x = self._stem(image.astype(self.dtype), train)
        maps = []
        for stack in range(self.stacks):
            y = HourglassLevels(self.features, self.depth, self.modules, self.dtype, name=f"hourglass{stack}")(x, train)
            y = self._residuals(y, stack, train)
            y = conv(y, self.features, dtype=self.dtype, name=f"linear{stack}_conv")
            y = nn.relu(BatchNorm(dtype=self.dtype, name=f"linear{stack}_bn")(y, train))
            maps.append(conv(y.astype(jnp.float32), self.num_joints, name=f"score{stack}", precision=EXACT))
            if stack + 1 < self.stacks:
                x = x + conv(y, self.features, dtype=self.dtype, name=f"remix{stack}_features")
                x = x + conv(maps[-1], self.features, dtype=self.dtype, name=f"remix{stack}_score")
        return maps

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, 3] -> [B, H / 4, W / 4, features]."""
        x = conv(x, self.stem[0], 7, 2, dtype=self.dtype, name="stem_conv")
        x = nn.relu(BatchNorm(dtype=self.dtype, name="stem_bn")(x, train))
        x = max_pool(Residual(self.stem[1], self.dtype, name="stem_residual1")(x, train), 2)
        x = Residual(self.stem[2], self.dtype, name="stem_residual2")(x, train)
        return Residual(self.features, self.dtype, name="stem_residual3")(x, train)

    def _residuals(self, x: jax.Array, stack: int, train: bool) -> jax.Array:
        for index in range(self.modules):
            x = Residual(self.features, self.dtype, name=f"residual{stack}_{index}")(x, train)
        return x
