"""The vision transformer of ViTPose: patches in, a map of tokens out."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.nn import initializers

SMALL = initializers.normal(0.02)
"""First values of matrices and of the table of positions."""


class Attention(nn.Module):
    """Attention of all tokens to all tokens.

    Attributes:
      heads: number of heads.
      implementation: of `jax.nn.dot_product_attention`: "xla", or "cudnn" for flash attention on GPUs in bfloat16.
      dtype: compute precision; weights are added up in float32.
    """

    heads: int
    implementation: str = "xla"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        width = x.shape[-1]
        split = functools.partial(nn.DenseGeneral, (self.heads, width // self.heads), dtype=self.dtype)
        query, key, value = (split(kernel_init=SMALL, name=name)(x) for name in ("query", "key", "value"))
        implementation: Any = self.implementation
        attended = jax.nn.dot_product_attention(query, key, value, implementation=implementation)  # [B, T, heads, D']
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=SMALL, name="out")(attended)


class Experts(nn.Module):
    """The second layer of a block's MLP, of which each data set has a part of its own (ViTPose+, section 3.5).

    Attributes:
      features: number D of output features.
      experts: number of experts; without any this is a linear layer.
      own: number of output features that an expert gives, the last ones; 0 without experts.
      dtype: compute precision.
    """

    features: int
    experts: int = 0
    own: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, expert: jax.Array | int = 0) -> jax.Array:
        """[B, T, H] -> [B, T, D].

        Args:
          x: [B, T, H] hidden features.
          expert: number of the expert, one for all examples or [B].
        """
        linear = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=SMALL)
        shared = linear(self.features - self.own, name="fc2")(x)
        if not self.experts:
            return shared
        layers = [linear(self.own, name=f"expert{number}") for number in range(self.experts)]
        if isinstance(expert, int) and not self.is_initializing():
            return jnp.concatenate([shared, layers[expert](x)], -1)
        chosen = jax.nn.one_hot(jnp.broadcast_to(expert, x.shape[:1]), self.experts, dtype=self.dtype)
        own = sum(chosen[:, number, None, None] * layer(x) for number, layer in enumerate(layers))
        return jnp.concatenate([shared, own], -1)


class Block(nn.Module):
    """A layer: attention and an MLP, each after a norm and beside a path around it.

    Attributes:
      heads: number of heads.
      drop_path: probability with which an example skips a part in training (rng "dropout").
      experts: number of experts.
      own: number of features that an expert gives.
      epsilon: number added to the variance in norms.
      implementation: see `Attention`.
      dtype: compute precision; norms work in float32.
    """

    heads: int
    drop_path: float = 0.0
    experts: int = 0
    own: int = 0
    epsilon: float = 1e-6
    implementation: str = "xla"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, expert: jax.Array | int = 0, train: bool = False) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        width = x.shape[-1]
        wide = jnp.promote_types(self.dtype, jnp.float32)
        skip = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        normed = nn.LayerNorm(self.epsilon, dtype=wide, name="norm1")(x).astype(self.dtype)
        x = x + skip(Attention(self.heads, self.implementation, self.dtype, name="attention")(normed))
        normed = nn.LayerNorm(self.epsilon, dtype=wide, name="norm2")(x).astype(self.dtype)
        hidden = nn.Dense(4 * width, dtype=self.dtype, kernel_init=SMALL, name="fc1")(normed)
        hidden = nn.gelu(hidden, approximate=False)
        return x + skip(Experts(width, self.experts, self.own, self.dtype, name="mlp")(hidden, expert))


class VisionTransformer(nn.Module):
    """Patches of an image as tokens, attended to by each other layer after layer.

    Attributes:
      width: number D of features of a token.
      layers: number of layers.
      heads: number of heads.
      patch: side of a patch in pixels.
      margin: number of pixels by which the first patch begins before the image.
      drop_path: probability of skipping the last layer's parts in training; it rises with depth from 0.
      experts, own: see `Experts`.
      epsilon: number added to the variance in norms.
      implementation: see `Attention`.
      rematerialize: whether layers are computed again for the gradient, which takes a third more time and keeps only
        their inputs.
      dtype: compute precision.
    """

    width: int
    layers: int
    heads: int
    patch: int = 16
    margin: int = 2
    drop_path: float = 0.0
    experts: int = 0
    own: int = 0
    epsilon: float = 1e-6
    implementation: str = "xla"
    rematerialize: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, expert: jax.Array | int = 0) -> jax.Array:
        """Normalised [B, H, W, 3] -> [B, H / patch, W / patch, D] float32.

        The table of positions has a row for a class that there is no token of; it is added to all tokens.
        """
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding=self.margin,
            dtype=self.dtype,
            kernel_init=SMALL,
            name="patch_embed",
        )(image)  # [B, h, w, D]
        height, width = x.shape[1:3]
        x = rearrange(x, "b h w d -> b (h w) d")
        positions = self.param("positions", SMALL, (1, 1 + height * width, self.width))
        x = x + (positions[:, 1:] + positions[:, :1]).astype(x.dtype)
        options = self.experts, self.own, self.epsilon, self.implementation, self.dtype
        static = (2, 3) if isinstance(expert, int) else (3,)
        block = nn.remat(Block, static_argnums=static) if self.rematerialize else Block
        for index in range(self.layers):
            rate = self.drop_path * index / max(self.layers - 1, 1)
            x = block(self.heads, rate, *options, name=f"block{index}")(x, expert, train)
        x = nn.LayerNorm(self.epsilon, dtype=jnp.promote_types(self.dtype, jnp.float32), name="norm")(x)
        return rearrange(x, "b (h w) d -> b h w d", h=height)
