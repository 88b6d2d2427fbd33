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

from jaxpose.errors import DataError

Array = jax.Array | np.ndarray
Stream = dict[str, Any]
"""One stream of a batch: {field: array with leading axis B}."""
Batch = dict[str, Stream]
"""One batch of a training step: {stream: {field: array}}. Most methods have the single stream "source"."""
Spec = dict[str, dict[str, jax.ShapeDtypeStruct]]
"""Shapes and dtypes of a batch, B included."""
Variables = dict[str, Any]
"""Linen variables: {"params": ..., "batch_stats": ...}."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes found in a batch of images, padded to a fixed number N.

    Attributes:
      boxes: [B, N, 4] boxes (x, y, w, h) in pixels of the original image.
      scores: [B, N] probabilities of the boxes' classes.
      labels: [B, N] int32 classes of the boxes, the likeliest besides "nothing".
      valid: [B, N] bool, True for a person in an image that counts.

    Examples:
      >>> valid = np.array([[True, False]])
      >>> found = Detections(np.zeros((1, 2, 4)), np.array([[0.9, 0.2]]), np.zeros((1, 2), int), valid)
      >>> found.scores[found.valid].tolist()
      [0.9]
    """

    boxes: Array
    scores: Array
    labels: Array
    valid: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Poses:
    """People found in a batch of images, padded to a fixed number N.

    Attributes:
      keypoints: [B, N, K, 2] joints in pixels of the original image, or [B, N, K, 3] in millimetres.
      scores: [B, N, K] confidence of each keypoint, in [0, 1].
      person_score: [B, N] confidence of the person, by which people are ranked.
      valid: [B, N] bool; everything else about an invalid row is meaningless.
      detections: the boxes in which the people were found, row by row, of methods that find boxes first; else None.

    Examples:
      >>> found = Poses(np.zeros((1, 2, 17, 2)), np.ones((1, 2, 17)), np.ones((1, 2)), np.array([[True, False]]))
      >>> found.keypoints[found.valid].shape
      (1, 17, 2)
    """

    keypoints: Array
    scores: Array
    person_score: Array
    valid: Array
    detections: Detections | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerViews:
    """Views of L decoder layers on the K joints of M people, in pixels of the canvas.

    The query of a joint is the one that is chosen for it after the last layer.

    Attributes:
      keypoints: [L, M, K, 2] joints after each layer; NaN for layers without a head.
      scores: [M, K] scores of the joints.
      person_score: [M] scores of the people; 0 for padding.
      places: [L or 1, M, K or 1, S, 2] positions that each joint's query reads.
      weights: [L, M, K, S] attention to the places, means over the heads with the sum 1.
      regions: [M, 4] (x, y, w, h) parts of the canvas in which the people were looked for, between borders of pixels.
      grid: (rows, columns) of the map whose cells the places are, row by row; None for free places.
    """

    keypoints: Array
    scores: Array
    person_score: Array
    places: Array
    weights: Array
    regions: Array
    grid: tuple[int, int] | None = dataclasses.field(metadata={"static": True})

    def of(self, person: int) -> "LayerViews":
        """The views of one person, without the axis M."""
        axes = {"keypoints": 1, "scores": 0, "person_score": 0, "places": 1, "weights": 1, "regions": 0}
        own = {name: getattr(self, name).take(person, axis) for name, axis in axes.items()}
        return LayerViews(**own, grid=self.grid)


MOST_CANVAS_SIDE = 1 << 16
"""Most pixels of a side of a canvas in inference: long strips, enlarged to a usual height, would fill the memory."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout of an image of some size on canvases for inference, one for each test scale.

    Attributes:
      sizes: (width, height) of each canvas in pixels.
      to_canvas: [2, 3] affine maps from image to canvas pixels, one for each canvas.
      base: index of the canvas in whose pixels poses are decoded.

    Raises:
      DataError: a canvas has a side of more than `MOST_CANVAS_SIDE`.
    """

    sizes: tuple[tuple[int, int], ...]
    to_canvas: tuple[np.ndarray, ...]
    base: int = 0

    def __post_init__(self):
        width, height = max(self.sizes, key=max)
        if max(width, height) > MOST_CANVAS_SIDE:
            raise DataError(
                f"the canvas of an image of this shape has {width:,} x {height:,} pixels; the limit is "
                f"{MOST_CANVAS_SIDE:,} a side. Cut the image into parts, or leave it out"
            )


@dataclasses.dataclass(frozen=True)
class PaddedLayout(Layout):
    """A layout whose canvas the image does not fill.

    Attributes:
      extent: (width, height) of the image on the canvas in pixels; it lies at the canvas' top left corner.
    """

    extent: tuple[int, int] = (0, 0)


def image_field(scale: float) -> str:
    """The field of a stream that holds the images of a test scale; "image" for scale 1."""
    return "image" if scale == 1 else f"image_x{scale:g}"


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
