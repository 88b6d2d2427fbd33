"""Object keypoint similarity between detections, and the score by which persons are ranked."""

import jax
import jax.numpy as jnp

from jaxpose.types import Array

_EPS = 2.220446049250313e-16
"""Spacing of float64 at 1, which the original evaluation adds to areas."""


def pairwise_oks(keypoints: Array, area: Array, sigmas: Array, counted: Array | None = None) -> jax.Array:
    """OKS between every two poses of an image, as non-maximum suppression uses it.

    Unlike the OKS of an evaluation, all joints count, and the area is the mean of both poses' areas:
    oks[i, j] = mean_k exp(-|p_ik - p_jk|^2 / (2 (2 sigma_k)^2 ((area_i + area_j) / 2 + eps))).

    Args:
      keypoints: [..., N, K, 2] pixels.
      area: [..., N] pixels^2; the original code takes the enlarged crop box.
      sigmas: [K] per-joint constants of the skeleton.
      counted: [..., N, K] bool, the joints that count. Only the mask of the second pose j is looked at (the original
        code's `in_vis_thre` does so, whatever its text intends); no counted joint gives 0. None counts all joints.

    Returns:
      [..., N, N] float32, in [0, 1]; row i the pose that is kept, column j the candidate.
    """
    keypoints = jnp.asarray(keypoints, jnp.float32)
    area = jnp.asarray(area, jnp.float32)
    variances = jnp.square(2 * jnp.asarray(sigmas, jnp.float32))
    squared = jnp.sum(jnp.square(keypoints[..., :, None, :, :] - keypoints[..., None, :, :, :]), axis=-1)
    mean_area = (area[..., :, None] + area[..., None, :]) / 2 + _EPS
    similarity = jnp.exp(-squared / variances / mean_area[..., None] / 2)
    if counted is None:
        return jnp.mean(similarity, axis=-1)
    mask = jnp.asarray(counted)[..., None, :, :]
    return jnp.sum(jnp.where(mask, similarity, 0), axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def person_score(scores: Array, box_score: Array, threshold: float = 0.2) -> jax.Array:
    """The score by which top-down methods rank persons: box score x mean score of the confident joints.

    Args:
      scores: [..., K] joint scores.
      box_score: [...] score of the person's box.
      threshold: joints at or below it are left out; a person without any other joint scores 0.

    Returns:
      [...] float32.
    """
    scores = jnp.asarray(scores, jnp.float32)
    confident = scores > threshold
    total = jnp.sum(jnp.where(confident, scores, 0), axis=-1)
    return jnp.asarray(box_score, jnp.float32) * total / jnp.maximum(jnp.sum(confident, axis=-1), 1)


def proposal_score(scores: Array, box_score: Array) -> jax.Array:
    """AlphaPose's score of a person: mean joint score + box score + 1.25 x best joint score; up to about 3.25.

    Args:
      scores: [..., K] joint scores, after pose NMS where it is used.
      box_score: [...] score of the person's box; 0 for true boxes, which have none.

    Returns:
      [...] float32.
    """
    scores = jnp.asarray(scores, jnp.float32)
    return jnp.mean(scores, axis=-1) + jnp.asarray(box_score, jnp.float32) + 1.25 * jnp.max(scores, axis=-1)
