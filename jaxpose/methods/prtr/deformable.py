"""Deformable transformers (Zhu et al., Deformable DETR, ICLR 2021): attention to a few places of several maps.

References are the places that queries look from, as fractions of the maps, and every head learns offsets from there.
They have the shape [B, Q, L, 2] for Q queries and L maps, in which axes of batch and maps may be 1.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from jaxpose.methods.prtr.deform_attention import deformable_attention
from jaxpose.methods.prtr.transformer import AttentionLayer, LayerStack
from jaxpose.nn import initializers
from jaxpose.ops.arrays import EXACT
from jaxpose.types import Array

Shapes = tuple[tuple[int, int], ...]
"""(rows, columns) of the maps whose cells are the tokens, in their order."""


def xavier_conv(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """U(+-sqrt(6 / (fan in + fan out))) for a convolution kernel [h, w, in, out]."""
    bound = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return initializers.uniform(bound)(key, shape, dtype)


def cell_centers(shapes: Shapes, valid_ratios: Array | None = None) -> Array:
    """References of the tokens themselves: the middles of their cells.

    Args:
      shapes: (rows, columns) of the maps.
      valid_ratios: [B, L, 2] shares (width, height) of each map that are not padding; references are then fractions of
        the part without padding, translated to each map. None for maps without padding.

    Returns:
      [B, T, L, 2] references (x, y), or [1, T, 1, 2] without `valid_ratios`.
    """
    grids = []
    for rows, columns in shapes:
        x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        grids.append(np.stack([x, y], -1).reshape(-1, 2).astype(np.float32))
    if valid_ratios is None:
        return np.concatenate(grids)[None, :, None]
    own = [grid / valid_ratios[:, level, None] for level, grid in enumerate(grids)]
    return jnp.concatenate(own, 1)[:, :, None] * valid_ratios[:, None]


def logit(x: Array, floor: float = 1e-5) -> jax.Array:
    """The inverse of the sigmoid for x clamped to [0, 1], with x and 1 - x at least `floor`."""
    x = jnp.clip(x, 0, 1)
    return jnp.log(jnp.maximum(x, floor) / jnp.maximum(1 - x, floor))


def ring(heads: int, levels: int, points: int) -> np.ndarray:
    """First offsets [heads * levels * points * 2]: each head looks in its own direction, point p at p + 1 cells."""
    angle = 2 * np.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction = direction / np.abs(direction).max(-1, keepdims=True)
    steps = np.arange(1, points + 1)[:, None]
    offsets = np.broadcast_to(direction[:, None, None] * steps, (heads, levels, points, 2))
    return offsets.reshape(-1).astype(np.float32)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention.

    Attributes:
      heads: attention heads, a divisor of the width.
      points: number of places that each head reads on every map.
      dtype: compute precision; places and weights are computed in float32.
    """

    heads: int = 8
    points: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, query: jax.Array, reference: jax.Array, tokens: jax.Array, shapes: Shapes, inside: jax.Array | None = None
    ) -> jax.Array:
        """The features that queries read.

        Args:
          query: [B, Q, D] queries.
          reference: [B, Q, L, 2] references (x, y), or [B, Q, L, 4] boxes (cx, cy, w, h) in whose size offsets are
            measured instead of in cells. Axes B and L may be 1.
          tokens: [B, T, D] tokens, the cells of all maps.
          shapes: (rows, columns) of the L maps.
          inside: [B, T] bool, False for padding, which counts as 0.

        Returns:
          [B, Q, D] features.
        """
        batch, queries, width = query.shape
        levels = len(shapes)
        dense = functools.partial(
            nn.Dense, width, kernel_init=initializers.xavier_uniform, bias_init=initializers.zeros, dtype=self.dtype
        )
        values = dense(name="value")(tokens)
        if inside is not None:
            values = jnp.where(inside[..., None], values, 0)
        values = values.reshape(batch, -1, self.heads, width // self.heads)
        weights = nn.Dense(
            self.heads * levels * self.points,
            kernel_init=initializers.zeros,
            bias_init=initializers.zeros,
            precision=EXACT,
            name="weights",
        )(query)
        weights = nn.softmax(weights.reshape(batch, queries, self.heads, -1))
        weights = weights.reshape(batch, queries, self.heads, levels, self.points)
        locations = self._locations(query, reference.astype(jnp.float32), shapes)
        self.sow("intermediates", "attention", (locations, weights))
        read = deformable_attention(values, shapes, locations, weights)
        return dense(name="out")(read)

    def _locations(self, query: jax.Array, reference: jax.Array, shapes: Shapes) -> jax.Array:
        """[B, Q, H, L, P, 2], fractions of the maps."""
        levels = len(shapes)
        first = ring(self.heads, levels, self.points)
        offsets = nn.Dense(
            len(first),
            kernel_init=initializers.zeros,
            bias_init=lambda key, shape, dtype=jnp.float32: jnp.asarray(first, dtype),
            precision=EXACT,
            name="offsets",
        )(query)
        offsets = offsets.reshape(*query.shape[:2], self.heads, levels, self.points, 2)
        reference = reference[:, :, None, :, None]
        if reference.shape[-1] == 4:
            return reference[..., :2] + offsets / self.points * reference[..., 2:] * 0.5
        cells = np.array(shapes, np.float32)[:, None, ::-1]
        return reference + offsets / cells


class DeformableEncoderLayer(AttentionLayer):
    """Every token reads a few places around it on all maps; then a feed-forward part.

    Attributes:
      points: number of places that each head reads on every map.
    """

    points: int = 4

    @nn.compact
    def __call__(self, x, position, reference, shapes: Shapes, inside: jax.Array | None, train: bool) -> jax.Array:
        def self_attention(y):
            attention = DeformableAttention(self.heads, self.points, self.dtype, name="self_attention")
            return attention(y + position, reference, y, shapes, inside)

        x = self.residual(x, self_attention, "norm1", train)
        return self.residual(x, lambda y: self.feed(y, train), "norm2", train)


class DeformableDecoderLayer(AttentionLayer):
    """Self-attention among queries, which then read a few places of the maps each; then a feed-forward part.

    Normalizations are numbered as in the checkpoints: the one after self-attention is the second.

    Attributes:
      points: number of places that each head reads on every map.
    """

    points: int = 4

    @nn.compact
    def __call__(
        self, x, query_position, reference, memory, shapes: Shapes, inside: jax.Array | None, train: bool
    ) -> jax.Array:
        def self_attention(y):
            return self.attend(y + query_position, y + query_position, y, None, train, "self_attention")

        def cross_attention(y):
            attention = DeformableAttention(self.heads, self.points, self.dtype, name="cross_attention")
            return attention(y + query_position, reference, memory, shapes, inside)

        x = self.residual(x, self_attention, "norm2", train)
        x = self.residual(x, cross_attention, "norm1", train)
        return self.residual(x, lambda y: self.feed(y, train), "norm3", train)


class DeformableEncoder(LayerStack):
    """A stack of encoder layers, without a final normalization.

    Attributes:
      points: number of places that each head reads on every map.
    """

    points: int = 4

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        position: jax.Array,
        reference: jax.Array,
        shapes: Shapes,
        inside: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Encodes the tokens of several maps.

        Args:
          tokens: [B, T, D] tokens, the cells of all maps.
          position: [T, D] or [B, T, D] encoding of the tokens' positions, added to queries.
          reference: [B or 1, T, L or 1, 2] references of the tokens, see `cell_centers`.
          shapes: (rows, columns) of the maps.
          inside: [B, T] bool, False for padding.
          train: True for dropout.

        Returns:
          [B, T, D] encoded tokens.
        """
        position = position.astype(self.dtype)
        for index in range(self.layers):
            layer = DeformableEncoderLayer(**self.layer_fields(), points=self.points, name=f"layer{index}")
            tokens = layer(tokens, position, reference, shapes, inside, train)
        return tokens


class DeformableDecoder(LayerStack):
    """A stack of decoder layers, without a normalization of what they put out.

    Attributes:
      points: number of places that each head reads on every map.
    """

    points: int = 4

    @nn.compact
    def __call__(
        self,
        contents: jax.Array,
        queries: jax.Array,
        reference: jax.Array,
        memory: jax.Array,
        shapes: Shapes,
        inside: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Decodes a set of queries.

        Args:
          contents: [Q, D] features from which the queries start.
          queries: [Q, D] positional term of the queries.
          reference: [B or 1, Q, L or 1, 2] references of the queries.
          memory: [B, T, D] encoded tokens.
          shapes: (rows, columns) of the maps.
          inside: [B, T] bool, False for padding.
          train: True for dropout.

        Returns:
          [layers, B, Q, D] outputs of every layer.
        """
        x = jnp.broadcast_to(contents, (memory.shape[0], *contents.shape)).astype(self.dtype)
        queries, outputs = queries.astype(self.dtype), []
        for index in range(self.layers):
            layer = DeformableDecoderLayer(**self.layer_fields(), points=self.points, name=f"layer{index}")
            x = layer(x, queries, reference, memory, shapes, inside, train)
            outputs.append(x)
        return jnp.stack(outputs)
