"""Heads that raise the resolution of a backbone's last map and make heatmaps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.initializers import Initializer
from jaxpose.nn.normalization import BatchNorm

SMALL_NORMAL = initializers.normal(0.001)
"""Initial kernels of both kinds of convolution here."""

DECONV_PADDING = {2: (1, 1), 3: (1, 2), 4: (2, 2)}
"""What a transposed convolution of each kernel size is padded with, so that it doubles the resolution exactly."""


def deconv(
    features: int,
    size: int = 4,
    use_bias: bool = False,
    dtype: Dtype = jnp.float32,
    kernel_init: Initializer = SMALL_NORMAL,
    name: str | None = None,
) -> nn.ConvTranspose:
    """A transposed convolution of stride 2 that doubles the resolution: [B, H, W, C] -> [B, 2 H, 2 W, features].

    Equal to PyTorch's with padding 1, 1, 0 and output padding 0, 1, 0 for sizes 4, 3, 2. The kernel [h, w, in, out] is
    stored as it is convolved, which is PyTorch's turned by half a circle.

    Raises:
      ValueError: another size.
    """
    if size not in DECONV_PADDING:
        raise ValueError(f"no transposed convolution of size {size}; known sizes: {sorted(DECONV_PADDING)}")
    return nn.ConvTranspose(
        features,
        (size, size),
        strides=(2, 2),
        padding=(DECONV_PADDING[size],) * 2,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=initializers.zeros,
        name=name,
    )


def heatmap_conv(num_joints: int, size: int = 1, name: str | None = None) -> nn.Conv:
    """The last convolution of a heatmap network, with weights N(0, .001^2) and a bias of 0 at the start.

    It has no compute precision of its own and works in that of its input and weights, so give it float32.
    """
    return nn.Conv(
        num_joints,
        (size, size),
        padding=size // 2,
        kernel_init=SMALL_NORMAL,
        bias_init=initializers.zeros,
        name=name,
    )


class DeconvHead(nn.Module):
    """Transposed convolutions, each with batch normalization and ReLU, and a 1x1 convolution (Xiao et al., ECCV 2018).

    Attributes:
      num_joints: K.
      layers: transposed convolutions; each doubles the resolution.
      features: channels of each.
      kernel: size of each, 4, 3 or 2.
      use_bias: whether they have a bias.
      final_kernel: size of the last convolution, odd.
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
            x = deconv(self.features, self.kernel, self.use_bias, self.dtype, name=f"deconv{index}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{index}")(x, train))
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        return heatmap_conv(self.num_joints, self.final_kernel, name="final_layer")(x)
