"""Adaptive convolutions, many small ones side by side: DEKR's branches (Geng et al., CVPR 2021, section 3.3).

Every joint has a branch of its own, a few channels wide. The branches run as one: feature maps are [B, H, W, K, F], and
parameters have a leading axis K.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.initializers import Initializer
from jaxpose.nn.normalization import BatchNorm
from jaxpose.ops.arrays import EXACT
from jaxpose.ops.deform import affine_offsets, deform_conv

_IN_AXES: Any = (3, None)  # Flax declares an int, but takes one for each argument
BranchNorm = nn.vmap(
    BatchNorm,
    in_axes=_IN_AXES,
    out_axes=3,
    variable_axes={"params": 0, "batch_stats": 0},
    split_rngs={"params": False},
)
"""Batch normalization of [B, H, W, K, F] whose parameters and statistics are [K, F]."""


class BranchConv(nn.Module):
    """A convolution of stride 1 in every branch, with padding that keeps the resolution, of what tells places.

    Attributes:
      features: output channels of a branch.
      size: side of the kernel, odd.
      dtype: compute type; float32 stays so on every device.
      kernel_init: first values of the kernel; it sees the shape of all branches together.
    """

    features: int
    size: int = 3
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, K, F] -> [B, H, W, K, features]."""
        branches, channels = x.shape[3:]
        shape = (branches, self.size, self.size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", initializers.zeros, (branches, self.features))
        return branch_conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


def branch_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolutions that see one branch each, as one convolution that sees all of them through a kernel full of zeros.

    A grouped convolution would multiply less, but its gradient takes XLA:CPU forty times as long, and a matrix unit is
    busy with 128 channels at a time anyway.

    Args:
      x: [B, H, W, K, F] features of the branches.
      kernel: [K, h, w, F, O] weights of the branches.

    Returns:
      [B, H, W, K, O] features of the branches.
    """
    branches = x.shape[3]
    if kernel.shape[1:3] == (1, 1):
        return jnp.einsum("bhwkf,kfo->bhwko", x, kernel[:, 0, 0], precision=EXACT)
    diagonal = jnp.einsum("kijfo,kl->ijkflo", kernel, jnp.eye(branches, dtype=kernel.dtype), precision=EXACT)
    out = jax.lax.conv_general_dilated(
        rearrange(x, "b h w k f -> b h w (k f)"),
        rearrange(diagonal, "i j k f l o -> i j (k f) (l o)"),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=EXACT,
    )
    return rearrange(out, "b h w (k o) -> b h w k o", k=branches)


class AdaptiveBlock(nn.Module):
    """A 3x3 convolution whose taps an affine map of their own moves at every cell; norm, shortcut and ReLU.

    Tap (gy, gx) in {-1, 0, 1}^2 of cell (y, x) reads at (y, x) + A (gy, gx) + t. A and t start at 0, as in the
    original, so that at first all nine taps read the cell itself.

    Attributes:
      dtype: compute precision; A, t and the positions are float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, K, F] -> the same shape."""
        branches, features = x.shape[3:]
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        transform = BranchConv(4, dtype=precise.dtype, name="transform")(precise)
        translation = BranchConv(2, dtype=precise.dtype, name="translation")(precise)
        torch_default = initializers.uniform(1 / math.sqrt(9 * features))
        kernel = self.param("kernel", torch_default, (branches, 3, 3, features, features))
        y = deform_conv(
            rearrange(x.astype(self.dtype), "b h w k f -> b h w (k f)"),
            rearrange(affine_offsets(transform, translation), "b h w k n -> b h w (k n)"),
            rearrange(kernel, "k i j f o -> i j f (k o)"),
            padding=1,
        )
        y = rearrange(y, "b h w (k f) -> b h w k f", k=branches)
        return nn.relu(BranchNorm(dtype=self.dtype, name="bn")(y, train) + x)
