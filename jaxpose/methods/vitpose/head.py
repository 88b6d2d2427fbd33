"""The simple head of ViTPose; the classic one is that of SimpleBaselines (`nn.heads.DeconvHead`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn.heads import heatmap_conv


class SimpleHead(nn.Module):
    """The map, enlarged, and one convolution (ViTPose, section 3.1).

    Attributes:
      num_joints: number K of joints.
      scale: factor by which the map is enlarged.
      dtype: compute precision; the convolution works in float32 at least.
    """

    num_joints: int
    scale: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, scale H, scale W, K] float32."""
        del train
        batch, height, width, features = x.shape
        x = nn.relu(x.astype(jnp.promote_types(self.dtype, jnp.float32)))
        x = jax.image.resize(x, (batch, self.scale * height, self.scale * width, features), "linear")
        return heatmap_conv(self.num_joints, 3, name="final_layer")(x)
