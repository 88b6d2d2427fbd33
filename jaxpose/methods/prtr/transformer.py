"""The transformer of DETR (Carion et al., ECCV 2020): positions are added to queries and keys in every layer."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.ops.arrays import EXACT

LayerNorm = functools.partial(
    nn.LayerNorm, epsilon=1e-5, use_fast_variance=False, scale_init=initializers.ones, bias_init=initializers.zeros
)


def linear(
    features: int,
    fan_in: int,
    kernel_init: initializers.Initializer = initializers.torch_kernel,
    dtype: Dtype = jnp.float32,
    name: str | None = None,
    precision: jax.lax.Precision | None = None,
) -> nn.Dense:
    """A dense layer whose bias starts as in PyTorch; `fan_in` is the size of its input."""
    bias_init = initializers.torch_bias(fan_in)
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name, precision=precision)


def head(features: int, fan_in: int, name: str | None = None) -> nn.Dense:
    """A `linear` layer of a head: in float32, on every device."""
    return linear(features, fan_in, name=name, precision=EXACT)


def pointwise(features: int, fan_in: int, dtype: Dtype = jnp.float32, name: str | None = None) -> nn.Conv:
    """A 1x1 convolution that starts as in PyTorch; `fan_in` is the number of its input's channels."""
    return nn.Conv(
        features,
        (1, 1),
        dtype=dtype,
        kernel_init=initializers.torch_kernel,
        bias_init=initializers.torch_bias(fan_in),
        name=name,
    )


class AttentionLayer(nn.Module):
    """Base of encoder and decoder layers.

    Attributes:
      heads: number of attention heads.
      feedforward: hidden width of the feed-forward part.
      dropout: dropout rate after attention and feed-forward parts and of attention weights (rng "dropout").
      pre_norm: True to normalize the input of each part instead of its sum with the shortcut.
      dtype: compute precision; softmax and normalization work in float32.
    """

    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.0
    pre_norm: bool = False
    dtype: Dtype = jnp.float32

    def residual(self, x: jax.Array, part: Callable, norm_name: str, train: bool) -> jax.Array:
        """x + part(x), normalized before or after."""
        norm = LayerNorm(dtype=self.dtype, name=norm_name)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        return x + drop(part(norm(x))) if self.pre_norm else norm(x + drop(part(x)))

    def attend(self, query, key, value, mask: jax.Array | None, train: bool, name: str) -> jax.Array:
        """Attention of the queries [B, Q, D] to the keys [B, T, D]: values [B, Q, D]."""
        return nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            kernel_init=initializers.xavier_fused,
            out_kernel_init=initializers.xavier_uniform,
            bias_init=initializers.zeros,
            dropout_rate=self.dropout,
            deterministic=not train,
            broadcast_dropout=False,
            force_fp32_for_softmax=True,
            name=name,
        )(inputs_q=query, inputs_k=key, inputs_v=value, mask=mask, sow_weights=True)

    def feed(self, x: jax.Array, train: bool) -> jax.Array:
        """The feed-forward part: [..., D] -> [..., D]."""
        width = x.shape[-1]
        y = nn.relu(linear(self.feedforward, width, initializers.xavier_uniform, self.dtype, "linear1")(x))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return linear(width, self.feedforward, initializers.xavier_uniform, self.dtype, "linear2")(y)


class EncoderLayer(AttentionLayer):
    """Self-attention over the tokens of a map, then a feed-forward part."""

    @nn.compact
    def __call__(self, x: jax.Array, position: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        def self_attention(y):
            return self.attend(y + position, y + position, y, mask, train, "self_attention")

        x = self.residual(x, self_attention, "norm1", train)
        return self.residual(x, lambda y: self.feed(y, train), "norm2", train)


class DecoderLayer(AttentionLayer):
    """Self-attention among queries, attention to the encoded map, then a feed-forward part."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        query_position: jax.Array,
        position: jax.Array,
        mask: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        def self_attention(y):
            return self.attend(y + query_position, y + query_position, y, None, train, "self_attention")

        def cross_attention(y):
            return self.attend(y + query_position, memory + position, memory, mask, train, "cross_attention")

        x = self.residual(x, self_attention, "norm1", train)
        x = self.residual(x, cross_attention, "norm2", train)
        return self.residual(x, lambda y: self.feed(y, train), "norm3", train)


class LayerStack(nn.Module):
    """Base of stacks of layers.

    Attributes:
      layers: number of layers.
      heads, feedforward, dropout, pre_norm, dtype: fields of every layer, see `AttentionLayer`.
    """

    layers: int = 6
    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.0
    pre_norm: bool = False
    dtype: Dtype = jnp.float32

    def layer_fields(self) -> dict:
        """Fields of every layer by name."""
        names = ("heads", "feedforward", "dropout", "pre_norm", "dtype")
        return {name: getattr(self, name) for name in names}


class Encoder(LayerStack):
    """A stack of encoder layers; with `pre_norm` one more normalization follows."""

    @nn.compact
    def __call__(
        self, tokens: jax.Array, position: jax.Array, inside: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Encodes the tokens of a map.

        Args:
          tokens: [B, T, D] tokens, the cells of the map.
          position: [T, D] or [B, T, D] encoding of the tokens' positions, added to queries and keys.
          inside: [B, T] bool, False for padding, which nothing attends to.
          train: True for dropout.

        Returns:
          [B, T, D] encoded tokens.
        """
        position, mask = position.astype(self.dtype), key_mask(inside)
        for index in range(self.layers):
            tokens = EncoderLayer(**self.layer_fields(), name=f"layer{index}")(tokens, position, mask, train)
        return LayerNorm(dtype=self.dtype, name="norm")(tokens) if self.pre_norm else tokens


class Decoder(LayerStack):
    """A stack of decoder layers; one normalization is shared by the outputs of all of them."""

    @nn.compact
    def __call__(
        self,
        queries: jax.Array,
        memory: jax.Array,
        position: jax.Array,
        inside: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Decodes a set of queries that start from zeros.

        Args:
          queries: [Q, D] positional term of the queries.
          memory: [B, T, D] encoded tokens.
          position: [T, D] or [B, T, D] encoding of the tokens' positions.
          inside: [B, T] bool, False for padding.
          train: True for dropout.

        Returns:
          [L, B, Q, D] normalized outputs of every layer.
        """
        queries, position, mask = queries.astype(self.dtype), position.astype(self.dtype), key_mask(inside)
        norm = LayerNorm(dtype=self.dtype, name="norm")
        x = jnp.zeros((memory.shape[0], *queries.shape), self.dtype)
        outputs = []
        for index in range(self.layers):
            layer = DecoderLayer(**self.layer_fields(), name=f"layer{index}")
            x = layer(x, memory, queries, position, mask, train)
            outputs.append(norm(x))
        return jnp.stack(outputs)


def key_mask(inside: jax.Array | None) -> jax.Array | None:
    """Mask [B, 1, 1, T] for attention over keys, from one [B, T] of tokens."""
    return None if inside is None else inside[:, None, None, :]


class MLP(nn.Module):
    """The head of positions: linear layers with ReLU between them, in float32 on every device.

    Attributes:
      features: output width of every layer.
      starts_at_zero: True for a last layer whose weights and bias are 0 at first, so that the result is.
    """

    features: tuple[int, ...]
    starts_at_zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.features):
            name, last = f"layer{index}", index + 1 == len(self.features)
            if last and self.starts_at_zero:
                zeros = initializers.zeros
                return nn.Dense(width, kernel_init=zeros, bias_init=zeros, name=name, precision=EXACT)(x)
            x = head(width, x.shape[-1], name=name)(x)
            x = x if last else nn.relu(x)
        return x
