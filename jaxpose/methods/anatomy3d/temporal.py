"""Convolutional networks over time for sequences of joints [B, T, ...].

A convolution over time is written as a linear layer of its taps, the frames that it sees, side by side: one matrix
product, whose taps lie next to each other for a window that shrinks to one frame ("strided"), or apart for a sequence
that keeps its length ("dilated"). Both give the same numbers for a frame and the window around it.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.nn import initializers
from jaxpose.nn.normalization import BatchNorm
from jaxpose.ops.arrays import EXACT


def strided_taps(x: jax.Array, width: int) -> jax.Array:
    """[..., T width, C] -> [..., T, width C]: every frame once."""
    return rearrange(x, "... (t w) c -> ... t (w c)", w=width)


def dilated_taps(x: jax.Array, width: int, dilation: int) -> jax.Array:
    """[..., T, C] -> [..., T - (width - 1) dilation, width C]: at t the frames t, t + dilation, ..."""
    last = x.shape[-2] - (width - 1) * dilation
    return jnp.concatenate([x[..., i * dilation : i * dilation + last, :] for i in range(width)], -1)


def spans(widths: Sequence[int]) -> list[int]:
    """Frames that the result of each convolution sees: the product of the widths up to it."""
    return [math.prod(widths[: i + 1]) for i in range(len(widths))]


def dense(
    features: int,
    fan_in: int,
    dtype: Dtype,
    bias: bool = True,
    name: str | None = None,
    precision: jax.lax.Precision | None = None,
) -> nn.Dense:
    """A linear layer with the initial values that PyTorch gives one with `fan_in` inputs."""
    return nn.Dense(
        features,
        use_bias=bias,
        dtype=dtype,
        kernel_init=initializers.uniform(1 / math.sqrt(fan_in)),
        bias_init=initializers.torch_bias(fan_in),
        precision=precision,
        name=name,
    )


def head(features: int, fan_in: int, name: str | None = None) -> nn.Dense:
    """A linear layer whose results are positions: in float32, and exactly so on every accelerator."""
    return dense(features, fan_in, jnp.float32, name=name, precision=EXACT)


class TemporalModule(nn.Module):
    """Base of the networks over time.

    Attributes:
      channels: number C of channels.
      dropout: dropout rate after every ReLU.
      dtype: compute precision.
    """

    channels: int
    dropout: float = 0.25
    dtype: Dtype = jnp.float32

    def layer(
        self, x: jax.Array, train: bool, name: str, *, bias: bool = False, decay: jax.Array | float = 0.9
    ) -> jax.Array:
        """[..., F] -> [..., C]: linear layer, batch norm (`decay` is the weight of the old average), ReLU, dropout."""
        x = dense(self.channels, x.shape[-1], self.dtype, bias, name)(x)
        return self.activate(x, train, f"{name}_bn", decay)

    def activate(self, x: jax.Array, train: bool, name: str, decay: jax.Array | float = 0.9) -> jax.Array:
        """Batch norm, ReLU and dropout, the part of `layer` after the linear layer."""
        x = nn.relu(BatchNorm(dtype=self.dtype, decay=decay, name=name)(x, train))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class GatedTrunk(TemporalModule):
    """Residual convolutions over time, the first of which are gated by the confidence of each joint.

    Attributes:
      widths: odd numbers of taps of the convolutions; their product is the receptive field.
      causal: True for skip connections that take the last frame that a convolution sees instead of the one in the
        middle.
      gated: False to take no notice of confidences, as VideoPose3D (Pavllo et al., CVPR 2019) does.
    """

    widths: Sequence[int] = (3, 3, 3)
    causal: bool = False
    gated: bool = True

    @nn.compact
    def __call__(
        self, window: jax.Array, train: bool = False, strided: bool = True, decay: jax.Array | float = 0.9
    ) -> list[jax.Array]:
        """Features after every convolution.

        Args:
          window: [B, F, K, 3] joints (u, v, score) in normalised screen coordinates.
          train: True for dropout and the statistics of the batch.
          strided: True if each convolution sees every frame once, and F is the receptive field; False for dilated
            convolutions, where F is the receptive field or longer.
          decay: weight of the old running average in all norms but that of the gate.

        Returns:
          List of features [B, F_i, C], one for each width. With the product s_i of the widths up to it, F_i is F / s_i
          if strided and F + 1 - s_i if dilated.
        """
        keypoints = rearrange(window[..., :2], "b f k c -> b f (k c)").astype(self.dtype)
        scores = window[..., 2].astype(self.dtype)
        taps = self.taps if strided else self.spread_taps
        feature = self.layer(taps(keypoints, 0), train, "expand", decay=decay)
        features, x = [feature], feature
        if self.gated:
            gate = self.layer(taps(scores, 0), train, "score")
            x = jnp.concatenate([feature, gate * feature], -1)
        for i in range(1, len(self.widths)):
            hidden = self.layer(taps(x, i), train, f"conv{i}", decay=decay)
            hidden = self.layer(hidden, train, f"linear{i}", decay=decay)
            x = self.middle(taps(features[-1], i), i) + hidden
            features.append(x)
        return features

    def taps(self, x: jax.Array, index: int) -> jax.Array:
        """Taps of convolution `index` where every frame is seen once."""
        return strided_taps(x, self.widths[index])

    def spread_taps(self, x: jax.Array, index: int) -> jax.Array:
        """Taps of convolution `index` where the sequence keeps its length."""
        return dilated_taps(x, self.widths[index], math.prod(self.widths[:index]))

    def middle(self, taps: jax.Array, index: int) -> jax.Array:
        """The tap that a skip connection takes, [..., C] of [..., width C]."""
        return middle_tap(taps, self.widths[index], self.causal)


def middle_tap(taps: jax.Array, width: int, causal: bool) -> jax.Array:
    """The middle one of `width` taps side by side, or with `causal` the last: [..., width C] -> [..., C]."""
    return jnp.split(taps, width, -1)[width - 1 if causal else width // 2]


class Contexts(TemporalModule):
    """Contributions of the trunk's features to each convolution of a `Propagation`.

    At inference these numbers are shared by all frames that look at them, so they are computed once.

    Attributes:
      widths: numbers of taps of the trunk's convolutions.
    """

    widths: Sequence[int] = (3, 3, 3)

    @nn.compact
    def __call__(self, features: Sequence[jax.Array], strided: bool = True) -> list[jax.Array]:
        """[B, F_i, C] for each but the last of the trunk's features -> the same with the frames of the next."""
        contexts = []
        for i, width in enumerate(self.widths[1:]):
            x = features[i].astype(self.dtype)
            taps = strided_taps(x, width) if strided else dilated_taps(x, width, spans(self.widths)[i])
            fan_in = 2 * width * self.channels
            contexts.append(dense(self.channels, fan_in, self.dtype, False, f"conv{i}")(taps))
        return contexts


class Propagation(TemporalModule):
    """Carries the top feature of a window back over the features of all levels, from fine to coarse.

    The convolutions see what comes from the level above and the trunk's features of that level, side by side. Their
    second half is in `Contexts`.

    Attributes:
      widths: numbers of taps of the trunk's convolutions.
      causal: True for skip connections as in a causal trunk, see `GatedTrunk`.
    """

    widths: Sequence[int] = (3, 3, 3)
    causal: bool = False

    @nn.compact
    def __call__(self, top: jax.Array, contexts: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """One feature of a window.

        Args:
          top: [..., C] last feature of the trunk.
          contexts: contexts [..., n_i, C] of the window, where n_i is the number of frames after convolution i.
          train: True for dropout and the statistics of the batch.

        Returns:
          [..., C] feature.
        """
        x = top[..., None, :].astype(self.dtype)
        for i, (width, context) in enumerate(zip(self.widths[1:], contexts, strict=True)):
            x = jnp.repeat(x, width, -2) if i == 0 else x  # the top feature is the same at every frame
            taps = strided_taps(x, width)
            fan_in = 2 * taps.shape[-1]
            own = dense(self.channels, fan_in, self.dtype, False, f"conv{i}")(taps)
            hidden = self.activate(own + context, train, f"conv{i}_bn")
            hidden = self.layer(hidden, train, f"linear{i}")
            x = middle_tap(taps, width, self.causal) + hidden
        return x[..., 0, :]


class FrameNetwork(TemporalModule):
    """A residual network that looks at every frame by itself.

    Attributes:
      blocks: number of residual blocks of two layers.
      outputs: number of results for each frame.
    """

    blocks: int = 2
    outputs: int = 51

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[..., F] -> [..., outputs] float32."""
        x = self.layer(x.astype(self.dtype), train, "linear0", bias=True)
        for i in range(self.blocks):
            hidden = self.layer(x, train, f"linear{2 * i + 1}", bias=True)
            x = x + self.layer(hidden, train, f"linear{2 * i + 2}", bias=True)
        return head(self.outputs, self.channels, "out")(x.astype(jnp.float32))


# --- attention over frames ---

NEVER = -1e30
"""Logit of a frame that attention leaves out."""


def attend(logits: jax.Array, lengths: jax.Array, frames: jax.Array | None = None) -> jax.Array:
    """Bone lengths averaged over frames, separately for every bone.

    Args:
      logits: [..., T, N] logits of the frames' weights.
      lengths: [..., T, N] bone lengths.
      frames: [..., T] bool, the frames that count; None for all.

    Returns:
      [..., N] bone lengths.
    """
    logits = logits if frames is None else jnp.where(frames[..., None], logits, NEVER)
    return (jax.nn.softmax(logits, axis=-2) * lengths).sum(-2)


def attend_so_far(logits: jax.Array, lengths: jax.Array, frames: jax.Array) -> jax.Array:
    """`attend` [B, T, N] over the frames up to each frame."""

    def join(early, late):
        top = jnp.maximum(early[0], late[0])
        weights = jnp.exp(early[0] - top), jnp.exp(late[0] - top)
        return top, *(weights[0] * a + weights[1] * b for a, b in zip(early[1:], late[1:], strict=True))

    logits = jnp.where(frames[..., None], logits, NEVER)
    _, total, weight = jax.lax.associative_scan(join, (logits, lengths, jnp.ones_like(lengths)), axis=1)
    return total / weight


def attend_to_some(logits: jax.Array, lengths: jax.Array, frames: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """`attend` [B, N] over `count` of the frames, drawn without replacement; over all where there are not more."""
    noise = jnp.where(frames, jax.random.uniform(key, frames.shape), -1)
    least = jax.lax.top_k(noise, min(count, frames.shape[-1]))[0][..., -1:]
    return attend(logits, lengths, frames & (noise >= least))
