"""AlphaPose's heads, which raise resolution by turning channels into pixels (dense upsampling convolution)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.heads import heatmap_conv
from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.resnet import conv


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Channels into pixels: [..., H, W, C f^2] -> [..., H f, W f, C].

    Channel c f^2 + i f + j becomes pixel (y f + i, x f + j) of channel c, PyTorch's order.
    """
    return rearrange(x, "... h w (c i j) -> ... (h i) (w j) c", i=factor, j=factor)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Pixels into channels, the inverse of `pixel_shuffle`: [..., H f, W f, C] -> [..., H, W, C f^2]."""
    return rearrange(x, "... (h i) (w j) c -> ... h w (c i j)", i=factor, j=factor)


class _Head(nn.Module):
    """Base of both heads.

    Attributes:
      num_joints: number K of joints.
      dtype: compute precision; the last convolution works in float32.
    """

    num_joints: int
    dtype: Dtype = jnp.float32

    def conv_norm(self, x: jax.Array, features: int, train: bool, suffix: str) -> jax.Array:
        """3x3 convolution without bias, batch normalization, ReLU."""
        x = conv(features, 3, dtype=self.dtype, kernel_init=initializers.torch_kernel, name=f"conv{suffix}")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{suffix}")(x, train))

    def maps(self, x: jax.Array) -> jax.Array:
        """The last convolution, 3x3."""
        return heatmap_conv(self.num_joints, 3, name="conv_out")(x.astype(jnp.float32))


class FastPoseHead(_Head):
    """Head that raises the resolution eightfold: shuffle, then twice convolution, norm, ReLU and shuffle.

    Attributes:
      wide: True for four times the channels in the second convolution, as AlphaPose's CONV_DIM 256 has it; False for
        twice, as in the first.
    """

    wide: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, 8 H, 8 W, K] float32; C divisible by 16."""
        x = pixel_shuffle(x, 2)
        for index, growth in ((1, 2), (2, 4 if self.wide else 2)):
            x = pixel_shuffle(self.conv_norm(x, growth * x.shape[-1], train, str(index)), 2)
        return self.maps(x)


class FastPoseDUCHead(_Head):
    """Head of three stages: shuffle, and some convolutions, the last of them to twice the channels.

    Attributes:
      convolutions: number of convolutions in each stage.
    """

    convolutions: tuple[int, int, int] = (4, 2, 1)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, 8 H, 8 W, K] float32; C divisible by 16."""
        for stage, count in enumerate(self.convolutions, 1):
            x = pixel_shuffle(x, 2)
            channels = x.shape[-1]
            for index in range(count):
                features = 2 * channels if index == count - 1 else channels
                x = self.conv_norm(x, features, train, f"{stage}_{index}")
        return self.maps(x)
