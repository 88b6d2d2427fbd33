"""Associative embedding (Newell et al., NIPS 2017): tags that are alike within a person and differ between people.

A network puts out maps of tags beside those of its heatmaps. In training, tags are read where the joints truly are;
`embedding_loss` pulls the tags of a person to their mean and pushes the means of different people apart.
"""

import jax
import jax.numpy as jnp

from jaxpose.ops import heatmaps
from jaxpose.types import Array

PUSHES = ("exp", "max")
"""Penalties of the distance d between the tags of two people: exp(-d^2) or max(0, 1 - |d|)."""


# --- places of joints ---


def append_center(keypoints: Array, visible: Array) -> tuple[jax.Array, jax.Array]:
    """People with one more joint in the middle of the labelled ones, as HigherHRNet's option "with center" has it.

    The sum goes over all joints and the divisor counts the labelled ones, so those without label have to be (0, 0).

    Args:
      keypoints: [..., K, 2] joints in any unit.
      visible: [..., K] visibility, positive where a joint is labelled.

    Returns:
      The joints [..., K + 1, 2] and their visibility [..., K + 1]; somebody without labels has the centre (0, 0) with
      visibility 0.
    """
    keypoints, visible = jnp.asarray(keypoints), jnp.asarray(visible)
    count = jnp.sum(visible > 0, axis=-1, keepdims=True)
    center = jnp.where(count > 0, jnp.sum(keypoints, axis=-2) / jnp.maximum(count, 1), 0)
    found = (count > 0).astype(visible.dtype)
    return jnp.concatenate([keypoints, center[..., None, :]], -2), jnp.concatenate([visible, found], -1)


def person_sigma(length: Array, sigma: float = 2.0, base: float = 256.0, whole: bool = False) -> jax.Array:
    """Deviations of heatmap targets that grow with the person: `sigma` for one of `base` pixels.

    Args:
      length: [...] longer side of each person's box in pixels.
      sigma: standard deviation in pixels of the map of a person of length `base`.
      base: length in pixels.
      whole: True to add a half and round to a whole number, the even one of two equally near.

    Returns:
      [...] float32 standard deviations in pixels of the map.
    """
    deviation = jnp.asarray(length, jnp.float32) / base * sigma
    return jnp.round(deviation + 0.5) if whole else deviation


def joint_index(keypoints: Array, visible: Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The pixels at which the tags of joints are read.

    Args:
      keypoints: [..., K, 2] joints in pixels of the map.
      visible: [..., K] visibility, positive where a joint is labelled.
      size: (width, height) of the map in pixels.

    Returns:
      The index [..., K] int32 of the pixel, y * width + x, and a mask [..., K] of the joints that are used; see
      `heatmaps.joint_pixels`.
    """
    pixels, used = heatmaps.joint_pixels(keypoints, visible, size)
    pixels = pixels.astype(jnp.int32)
    return pixels[..., 1] * size[0] + pixels[..., 0], used


def tags_at(tags: Array, index: Array) -> jax.Array:
    """Tags [B, N, K] that maps [B, H, W, K], or [B, H, W, 1] shared by all joints, have at `index` [B, N, K]."""
    batch, people, joints = index.shape
    flat = tags.reshape(batch, -1, tags.shape[-1])
    if flat.shape[-1] == 1:
        index = index.reshape(batch, -1, 1)
        return jnp.take_along_axis(flat, index, axis=1, mode="clip").reshape(batch, people, joints)
    return jnp.take_along_axis(flat, index, axis=1, mode="clip")


# --- the loss ---


def embedding_loss(tags: Array, used: Array, push: str = "exp") -> tuple[jax.Array, jax.Array]:
    """Losses that drive the tags of an image's people apart, and those of each person together.

    With means t_n over the joints of N people (those with a joint that is used): pull is the mean over people of the
    mean squared distance of their tags from t_n; push is half the mean over ordered pairs of different people of
    exp(-(t_n - t_m)^2) or of max(0, 1 - |t_n - t_m|). Without pairs, or without anybody, they are 0.

    Args:
      tags: [..., N, K] tags at the joints' places.
      used: [..., N, K] bool, the joints that are used.
      push: penalty of the distance between people, "exp" or "max".

    Returns:
      The losses push [...] and pull [...].

    Raises:
      ValueError: another kind of push.
    """
    if push not in PUSHES:
        raise ValueError(f"push is {push!r}; it can be {', '.join(map(repr, PUSHES))}")
    tags = jnp.asarray(tags)
    tags = tags.astype(jnp.promote_types(tags.dtype, jnp.float32))
    joints, people = jnp.sum(used, axis=-1), jnp.any(used, axis=-1)
    number = jnp.sum(people, axis=-1)

    def mean_of_joints(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(used, values, 0), axis=-1) / jnp.maximum(joints, 1)

    mean = mean_of_joints(tags)
    pull = jnp.sum(mean_of_joints(jnp.square(tags - mean[..., None])), axis=-1) / jnp.maximum(number, 1)
    difference = mean[..., :, None] - mean[..., None, :]
    pairs = people[..., :, None] & people[..., None, :] & ~jnp.eye(people.shape[-1], dtype=bool)
    closeness = jnp.exp(-jnp.square(difference)) if push == "exp" else _hinge(1 - jnp.abs(difference))
    total = jnp.sum(jnp.where(pairs, closeness, 0), axis=(-2, -1))
    return 0.5 * total / jnp.maximum(number * (number - 1), 1), pull


def _hinge(x: jax.Array) -> jax.Array:
    """max(0, x) with slope 1 at 0, as PyTorch's clamp has it."""
    return jnp.where(x >= 0, x, 0)
