"""The shapes that travel through the library: batches, poses and array specifications.

Conventions used everywhere:
  B batch, N people of one image (padded), K keypoints of the skeleton, H and W rows and columns.
  A point is (x, y). Pixel coordinates are indices: the centre of the top-left pixel is (0, 0).
  A box is (x, y, w, h) in pixels, a size is (width, height), an image is [H, W, 3] in RGB.
  Visibility: 0 not labelled, 1 labelled but hidden, 2 visible.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray
Stream = dict[str, Any]
"""One stream of a batch: {field: array with leading axis B}."""
Batch = dict[str, Stream]
"""What a step consumes: {stream: {field: array}}. Most methods have the single stream "source"."""
Spec = dict[str, dict[str, jax.ShapeDtypeStruct]]
"""Shapes and dtypes of a batch, B included."""
Variables = dict[str, Any]
"""Linen variables: {"params": ..., "batch_stats": ...}."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Poses:
    """People found in a batch of images, padded to a fixed number N.

    Attributes:
      keypoints: [B, N, K, 2] in pixels of the original image, or [B, N, K, 3] in millimetres.
      scores: [B, N, K] confidence of each keypoint, in [0, 1].
      person_score: [B, N] confidence of the person, by which people are ranked.
      valid: [B, N] bool; everything else about an invalid row is meaningless.
    """

    keypoints: Array
    scores: Array
    person_score: Array
    valid: Array


def synthetic_batch(spec: Spec, seed: int = 0) -> Batch:
    """A batch of random numbers that fits `spec`: bytes for integers, [0, 1) for floats, True for booleans."""
    rng = np.random.default_rng(seed)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.bool_):
            return np.ones(leaf.shape, bool)
        if np.issubdtype(leaf.dtype, np.integer):
            return rng.integers(0, 256, leaf.shape).astype(leaf.dtype)
        return rng.random(leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, spec)
