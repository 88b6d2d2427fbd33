"""Residual networks (He et al., CVPR 2016) as the stem of pose networks: no pooling and no classifier at the end.

The layout is that of the common ImageNet checkpoints: the stride of a bottleneck sits on its 3x3 convolution, and
padding is symmetric.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn.initializers import Initializer, kaiming_normal, zeros
from jaxpose.nn.normalization import NORMS
from jaxpose.nn.pooling import max_pool


def conv(
    features: int,
    size: int,
    stride: int = 1,
    dilation: int = 1,
    use_bias: bool = False,
    dtype: Dtype = jnp.float32,
    kernel_init: Initializer = kaiming_normal,
    name: str | None = None,
    precision: jax.lax.Precision | None = None,
) -> nn.Conv:
    """A square convolution with symmetric padding that keeps the resolution at stride 1."""
    padding = dilation * (size // 2)
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=padding,
        kernel_dilation=dilation,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=zeros,
        precision=precision,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Attributes:
      features: base width; the output has `features * expansion` channels.
      stride: stride of the first 3x3 convolution and the shortcut.
      dilations: dilations of the two 3x3 convolutions; only the first counts for a `Bottleneck`.
      norm: kind of normalization, "batch" or "frozen".
      dtype: compute precision.
    """

    expansion = 1

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    norm: str = "batch"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(NORMS[self.norm], dtype=self.dtype)
        y = conv(self.features, 3, self.stride, self.dilations[0], dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.features, 3, 1, self.dilations[1], dtype=self.dtype, name="conv2")(y)
        y = norm(name="bn2")(y, train)
        return nn.relu(y + self.shortcut(x, norm, train))

    def shortcut(self, x: jax.Array, norm: Callable, train: bool) -> jax.Array:
        """The input in the shape of the output: itself, or a 1x1 convolution of it."""
        features = self.features * self.expansion
        if self.stride == 1 and x.shape[-1] == features:
            return x
        x = conv(features, 1, self.stride, dtype=self.dtype, name="downsample_conv")(x)
        return norm(name="downsample_bn")(x, train)


class Bottleneck(BasicBlock):
    """A 3x3 convolution between two 1x1 convolutions, the last four times wider, and a shortcut."""

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(NORMS[self.norm], dtype=self.dtype)
        y = conv(self.features, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = nn.relu(norm(name="bn2")(self.spatial(y), train))
        y = conv(self.features * self.expansion, 1, dtype=self.dtype, name="conv3")(y)
        y = norm(name="bn3")(y, train)
        return nn.relu(self.rescale(y) + self.shortcut(x, norm, train))

    def spatial(self, x: jax.Array) -> jax.Array:
        """The 3x3 convolution, which variants of the network replace."""
        return conv(self.features, 3, self.stride, self.dilations[0], dtype=self.dtype, name="conv2")(x)

    def rescale(self, x: jax.Array) -> jax.Array:
        """The residual before the shortcut is added, which variants of the network scale."""
        return x


class ResNet(nn.Module):
    """A residual network that returns the maps of its four stages (fewer if `stage_sizes` is shorter).

    Attributes:
      stage_sizes: number of blocks in each stage.
      block: kind of block, `BasicBlock` or `Bottleneck`.
      width: channels of the stem and base width of the first stage; doubled from stage to stage.
      norm: kind of normalization, "batch" or "frozen".
      dilate: number of stages at the end that keep their input's resolution. In the i-th of them (from 0) every 3x3
        convolution but the first is dilated by 2^(i+1).
      frozen_stages: number of stages, from the first on, that no gradient reaches, nor the stem; 0 trains everything.
      dtype: compute precision.
    """

    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    block: type[nn.Module] = Bottleneck
    width: int = 64
    norm: str = "batch"
    dilate: int = 0
    frozen_stages: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> list[jax.Array]:
        """[B, H, W, 3] -> maps of strides 4, 8, 16, 32 (undilated)."""
        x = conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(x.astype(self.dtype))
        x = nn.relu(NORMS[self.norm](dtype=self.dtype, name="bn1")(x, train))
        x = max_pool(x)
        maps = []
        for stage in range(len(self.stage_sizes)):
            x = self._stage(stage, x, train)
            if stage + 1 == self.frozen_stages:
                x = jax.lax.stop_gradient(x)
            maps.append(x)
        return maps

    def fresh_parts(self) -> tuple[str, ...]:
        """Regular expressions for the paths of variables that torchvision's network of this depth has not."""
        return ()

    def unused_entries(self) -> tuple[str, ...]:
        """Regular expressions for the entries of torchvision's network of this depth that have no place here."""
        return ()

    def _stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        dilated = stage - (len(self.stage_sizes) - self.dilate)
        dilation = 2 ** (dilated + 1) if dilated >= 0 else 1
        for index in range(self.stage_sizes[stage]):
            first = index == 0
            x = self.block(
                features=self.width * 2**stage,
                stride=2 if first and stage > 0 and dilated < 0 else 1,
                dilations=(1 if first else dilation, dilation),
                norm=self.norm,
                dtype=self.dtype,
                name=f"layer{stage + 1}_{index}",
                **self.block_fields(stage, index),
            )(x, train)
        return x

    def block_fields(self, stage: int, index: int) -> dict:
        """Further fields of a block, which variants of the network give."""
        return {}


STAGES: dict[int, tuple[tuple[int, ...], type[BasicBlock]]] = {
    18: ((2, 2, 2, 2), BasicBlock),
    34: ((3, 4, 6, 3), BasicBlock),
    50: ((3, 4, 6, 3), Bottleneck),
    101: ((3, 4, 23, 3), Bottleneck),
    152: ((3, 8, 36, 3), Bottleneck),
}
"""Blocks per stage and block type by depth."""


def resnet(depth: int, **fields) -> ResNet:
    """The residual network of a published depth: 18, 34, 50, 101 or 152.

    Raises:
      ValueError: another depth.
    """
    if depth not in STAGES:
        raise ValueError(f"there is no residual network of depth {depth}; known depths: {sorted(STAGES)}")
    stage_sizes, block = STAGES[depth]
    return ResNet(**({"stage_sizes": stage_sizes, "block": block} | fields))
