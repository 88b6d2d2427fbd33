"""Heads that raise the resolution of a backbone's last map and make heatmaps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.initializers import Initializer
from jaxpose.nn.normalization import BatchNorm
from jaxpose.ops.arrays import EXACT

SMALL_NORMAL = initializers.normal(0.001)
"""Initial kernels of both kinds of convolution here."""

DECONV_PADDING = {2: (1, 1), 3: (1, 2), 4: (2, 2)}
"""Padding of a transposed convolution by size of its kernel, such that it doubles the resolution exactly."""


class Deconv(nn.Module):
    """A transposed convolution of stride 2 that doubles the resolution: [B, H, W, C] -> [B, 2 H, 2 W, features].

    Equal to PyTorch's with padding 1, 1, 0 and output padding 0, 1, 0 for sizes 4, 3, 2. The kernel [h, w, in, out] is
    stored as it is convolved, which is PyTorch's turned by half a circle.

    Attributes:
      features: output channels.
      size: side of the kernel, 4, 3 or 2.
      use_bias: True for a bias.
      dtype: compute precision.
      kernel_init: first values of the kernel.
    """

    features: int
    size: int = 4
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = initializers.normal(0.001)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2 H, 2 W, features].

        Raises:
          ValueError: another size of kernel.
        """
        if self.size not in DECONV_PADDING:
            raise ValueError(f"no transposed convolution of size {self.size}; known sizes: {sorted(DECONV_PADDING)}")
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.size == 4:
            x = jax.lax.platform_dependent(x, kernel, cpu=_interleaved, default=_dilated)
        else:
            x = _dilated(x, kernel)
        if not self.use_bias:
            return x
        return x + self.param("bias", initializers.zeros, (self.features,)).astype(self.dtype)


def _dilated(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution as a convolution of `x` with zeros between its pixels."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=(DECONV_PADDING[len(kernel)],) * 2,
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _interleaved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_dilated` for size 4 without the zeros: a 2x2 convolution makes the four pixels that one pixel becomes.

    Its gradient takes XLA:CPU a fifth of the time.
    """
    batch, height, width, channels = x.shape
    phases = rearrange(kernel, "(h i) (w j) c k -> h w c (i j k)", i=2, j=2)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = jax.lax.conv_general_dilated(padded, phases, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = rearrange(y, "b h w (i j k) -> i j b h w k", i=2, j=2)
    parts = jnp.stack([y[i, j, :, i : i + height, j : j + width] for i in range(2) for j in range(2)])
    return rearrange(parts, "(i j) b h w k -> b (h i) (w j) k", i=2, j=2)


def heatmap_conv(num_joints: int, size: int = 1, name: str | None = None) -> nn.Conv:
    """The last convolution of a heatmap network, with weights N(0, .001^2) and a bias of 0 at the start.

    It has no compute type of its own and works in that of its input and weights, so give it float32, which it keeps on
    every device.
    """
    return nn.Conv(
        num_joints,
        (size, size),
        padding=size // 2,
        kernel_init=SMALL_NORMAL,
        bias_init=initializers.zeros,
        precision=EXACT,
        name=name,
    )


class DeconvHead(nn.Module):
    """Transposed convolutions, each with batch normalization and ReLU, and a 1x1 convolution (Xiao et al., ECCV 2018).

    Attributes:
      num_joints: number K of joints.
      layers: number of transposed convolutions; each doubles the resolution.
      features: output channels of each transposed convolution.
      kernel: side of their kernels, 4, 3 or 2.
      use_bias: True for transposed convolutions with a bias.
      final_kernel: side of the last convolution's kernel, odd.
      dtype: compute precision; the last convolution works in float32 at least.
    """

    num_joints: int
    layers: int = 3
    features: int = 256
    kernel: int = 4
    use_bias: bool = False
    final_kernel: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H * 2^layers, W * 2^layers, K] float32."""
        x = x.astype(self.dtype)
        for index in range(self.layers):
            x = Deconv(self.features, self.kernel, self.use_bias, self.dtype, name=f"deconv{index}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{index}")(x, train))
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        return heatmap_conv(self.num_joints, self.final_kernel, name="final_layer")(x)
