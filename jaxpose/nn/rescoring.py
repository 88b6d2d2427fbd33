"""The network that foretells how good a pose is."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import lecun_uniform
from flax.typing import Dtype


class RescoringNet(nn.Module):
    """Features of a pose -> the OKS that it is expected to have with the person it shows.

    The last layer is linear, so the result may leave [0, 1].

    Attributes:
      hidden: width of the two hidden layers.
      dtype: compute precision.
    """

    hidden: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """[..., size] -> [...] float32."""
        for i, width in enumerate((self.hidden, self.hidden)):
            dense = nn.Dense(width, dtype=self.dtype, kernel_init=lecun_uniform(), name=f"layer{i}")
            features = nn.relu(dense(features))
        out = nn.Dense(1, dtype=self.dtype, kernel_init=lecun_uniform(), name="layer2")(features)
        return out[..., 0].astype(jnp.float32)
