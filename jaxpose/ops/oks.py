"""Object keypoint similarity (OKS), and the scores by which people are ranked."""

import jax
import jax.numpy as jnp

from jaxpose.ops.arrays import SameArray, namespace
from jaxpose.types import Array

_EPS = 2.220446049250313e-16
"""Spacing of float64 at 1, which the original evaluation adds to areas."""


def keypoint_similarity(squared: SameArray, area: Array, sigmas: Array, counted: Array | None = None) -> SameArray:
    """OKS from distances: the mean over joints of exp(-d_k^2 / (2 (2 sigma_k)^2 (area + eps))).

    In the precision of the distances: float64 with NumPy on the host, where COCO's evaluation is followed to the last
    bit, and float32 on device.

    Args:
      squared: [..., K] squared distances d^2 of joints in pixels^2.
      area: [...] area of the person in pixels^2.
      sigmas: [K] OKS constants of the skeleton's joints.
      counted: [..., K] bool, the joints that count; None for all.

    Returns:
      [...] OKS in [0, 1]; 0 without a joint that counts.
    """
    xp = namespace(squared, area)
    similarity = xp.exp(-squared / xp.square(2 * sigmas) / (area + _EPS)[..., None] / 2)
    if counted is None:
        return xp.mean(similarity, axis=-1)
    return xp.sum(xp.where(counted, similarity, 0), axis=-1) / xp.maximum(xp.sum(counted, axis=-1), 1)


def pairwise_oks(keypoints: Array, area: Array, sigmas: Array, counted: Array | None = None) -> jax.Array:
    """OKS between every two poses of an image, as non-maximum suppression uses it.

    Unlike the OKS of an evaluation, all joints count, and the area is the mean of both poses' areas:
    oks[i, j] = mean_k exp(-|p_ik - p_jk|^2 / (2 (2 sigma_k)^2 ((area_i + area_j) / 2 + eps))).

    Args:
      keypoints: [..., N, K, 2] poses in pixels.
      area: [..., N] areas of the people in pixels^2; the original code takes those of the enlarged crop boxes.
      sigmas: [K] OKS constants of the skeleton's joints.
      counted: [..., N, K] bool, the joints that count. Only the mask of the second pose j is looked at (the original
        code's `in_vis_thre` does so, whatever its text intends); no counted joint gives 0. None counts all joints.

    Returns:
      [..., N, N] float32 OKS in [0, 1]; row i the pose that is kept, column j the candidate.

    Examples:
      >>> import numpy as np
      >>> poses = np.array([[[0.0, 0.0]], [[2.0, 0.0]], [[50.0, 0.0]]])
      >>> print(np.asarray(pairwise_oks(poses, np.full(3, 100.0), np.array([0.1]))).round(3))
      [[1.    0.607 0.   ]
       [0.607 1.    0.   ]
       [0.    0.    1.   ]]
    """
    keypoints, area, sigmas = (jnp.asarray(a, jnp.float32) for a in (keypoints, area, sigmas))
    squared = jnp.sum(jnp.square(keypoints[..., :, None, :, :] - keypoints[..., None, :, :, :]), axis=-1)
    mean_area = area[..., :, None] / 2 + area[..., None, :] / 2
    return keypoint_similarity(squared, mean_area, sigmas, None if counted is None else counted[..., None, :, :])


def person_score(scores: Array, box_score: Array, threshold: float = 0.2) -> jax.Array:
    """The score by which top-down methods rank people: box score x mean score of the confident joints.

    Args:
      scores: [..., K] scores of the joints.
      box_score: [...] score of the person's box.
      threshold: largest score of a joint that is left out; a person without any other joint scores 0.

    Returns:
      [...] float32 scores of the people.
    """
    scores = jnp.asarray(scores, jnp.float32)
    confident = scores > threshold
    total = jnp.sum(jnp.where(confident, scores, 0), axis=-1)
    return jnp.asarray(box_score, jnp.float32) * total / jnp.maximum(jnp.sum(confident, axis=-1), 1)


def proposal_score(scores: Array, box_score: Array) -> jax.Array:
    """AlphaPose's score of a person: mean joint score + box score + 1.25 x best joint score; up to about 3.25.

    Args:
      scores: [..., K] scores of the joints, after pose NMS where it is used.
      box_score: [...] score of the person's box; 0 for true boxes, which have none.

    Returns:
      [...] float32 scores of the people.
    """
    scores = jnp.asarray(scores, jnp.float32)
    return jnp.mean(scores, axis=-1) + jnp.asarray(box_score, jnp.float32) + 1.25 * jnp.max(scores, axis=-1)
