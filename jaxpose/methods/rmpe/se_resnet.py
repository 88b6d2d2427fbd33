"""Residual networks as AlphaPose has them: squeeze and excitation, deformable convolutions, and no strided taps.

They hold what torchvision's networks hold, under the same names, and a little more.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.methods.rmpe.fastpose import pixel_unshuffle
from jaxpose.nn import initializers
from jaxpose.nn.resnet import STAGES, Bottleneck, ResNet, conv
from jaxpose.ops.arrays import EXACT
from jaxpose.ops.deform import deform_conv


class SqueezeExcitation(nn.Module):
    """Channels scaled by a gate that their means decide (Hu et al., CVPR 2018), here without reduction.

    Attributes:
      dtype: compute precision of the scaling; the gate is computed in float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        channels = x.shape[-1]

        def linear(name: str) -> nn.Dense:
            bias = initializers.torch_bias(channels)
            start = initializers.torch_kernel
            return nn.Dense(channels, kernel_init=start, bias_init=bias, precision=EXACT, name=name)

        gate = nn.relu(linear("linear1")(x.astype(jnp.float32).mean((1, 2))))
        gate = nn.sigmoid(linear("linear2")(gate))
        return x * gate[:, None, None].astype(self.dtype)


class DeformConv(nn.Module):
    """A 3x3 deformable convolution without bias, one offset group; see `ops.deform.deform_conv`.

    Attributes:
      features: output channels.
      stride: stride of the regular grid of taps.
      dtype: compute precision; positions are float32.
    """

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, offsets: jax.Array) -> jax.Array:
        """[B, H, W, C] and offsets [B, h, w, 18], pixels -> [B, h, w, features]."""
        kernel = self.param("kernel", initializers.torch_kernel, (3, 3, x.shape[-1], self.features))
        return deform_conv(x.astype(self.dtype), offsets, kernel, stride=self.stride, padding=1)


class SEBottleneck(Bottleneck):
    """A bottleneck with options.

    Attributes:
      squeeze: True to scale the residual by `SqueezeExcitation`.
      deformable: True to let the 3x3 convolution move its taps, without dilation.
      shuffle: True to fold 2x2 pixels into channels where the 3x3 convolution would have a stride of 2.
    """

    squeeze: bool = False
    deformable: bool = False
    shuffle: bool = False

    def spatial(self, x: jax.Array) -> jax.Array:
        """The 3x3 convolution, deformable or of folded pixels."""
        if self.deformable:
            offsets = nn.Conv(
                18,
                (3, 3),
                self.stride,
                padding=1,
                kernel_init=initializers.torch_kernel,
                bias_init=initializers.torch_bias(9 * x.shape[-1]),
                precision=EXACT,
                name="conv2_offset",
            )(x.astype(jnp.float32))
            return DeformConv(self.features, self.stride, self.dtype, name="conv2")(x, offsets)
        if self.shuffle and self.stride == 2:
            init = initializers.torch_kernel
            return conv(self.features, 3, dtype=self.dtype, kernel_init=init, name="conv2")(pixel_unshuffle(x, 2))
        return super().spatial(x)

    def rescale(self, x: jax.Array) -> jax.Array:
        """The residual, scaled by its gate."""
        return SqueezeExcitation(self.dtype, name="se")(x) if self.squeeze else x


class SEResNet(ResNet):
    """A residual network of bottlenecks, with squeeze and excitation in the first block of every stage.

    Attributes:
      deformable: True for each stage with deformable 3x3 convolutions.
      shuffle: True to fold pixels into channels instead of a stride, see `SEBottleneck`.
    """

    block: type[nn.Module] = SEBottleneck
    deformable: tuple[bool, ...] = (False, False, False, False)
    shuffle: bool = False

    def fresh_parts(self) -> tuple[str, ...]:
        """The gates, the offsets and the kernels of folded pixels."""
        unshuffled = (r"layer[2-4]_0/conv2/kernel",) if self.shuffle else ()
        return (r"layer\d_0/se/.*", r"layer\d_\d+/conv2_offset/.*", *unshuffled)

    def unused_entries(self) -> tuple[str, ...]:
        """The strided convolutions, which unshuffled pixels replace."""
        return (r"layer[2-4]\.0\.conv2\.weight",) if self.shuffle else ()

    def block_fields(self, stage: int, index: int) -> dict:
        """The options of an `SEBottleneck`."""
        return {"squeeze": index == 0, "deformable": self.deformable[stage], "shuffle": self.shuffle}


def se_resnet(depth: int, **fields: Any) -> SEResNet:
    """The network of a published depth: 50, 101 or 152.

    Raises:
      ValueError: another depth.
    """
    known = {d: sizes for d, (sizes, block) in STAGES.items() if block is Bottleneck}
    if depth not in known:
        raise ValueError(f"there is no residual network of bottlenecks of depth {depth}; known depths: {list(known)}")
    fields.setdefault("stage_sizes", known[depth])
    return SEResNet(**fields)
