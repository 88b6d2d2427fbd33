"""A stand-in for a person detector: boxes that are displaced, doubled, missing or of nobody."""

from collections.abc import Iterator

import numpy as np

from jaxpose.data.annotations import Annotations
from jaxpose.ops.boxes import box_iou, box_to_corner

Found = tuple[int, np.ndarray, np.ndarray]
"""Row of an image, boxes [N, 4] (x, y, w, h) in its pixels, and their scores [N]."""


def simulate_detections(
    annotations: Annotations,
    seed: int,
    copies: int = 3,
    jitter: float = 0.1,
    misses: float = 0.0,
    false_positives: float = 0.0,
) -> dict[str, np.ndarray]:
    """Boxes as a poor detector would find them: displaced, several a person, some of nobody, some people without.

    A person's boxes depend on `seed` and the person's id alone, an image's false ones on `seed` and the image's id. All
    lie within the image. A true detection scores about its overlap with the true box, a false one less than .5.

    Args:
      annotations: labels with the true boxes; crowd regions and people without a box get no detections.
      seed: seed of all draws.
      copies: number of boxes a person.
      jitter: standard deviation of each side's displacement, in units of the true width or height.
      misses: probability that a person is not found at all.
      false_positives: expected number of false boxes an image.

    Returns:
      {"image": [D] int32 rows, "box": [D, 4] float32 (x, y, w, h), "score": [D] float32}, by image, as
      `sources.coco.read_detections` gives them.
    """
    found = [*_true_boxes(annotations, seed, copies, jitter, misses)]
    if false_positives:
        found += _false_boxes(annotations, seed, false_positives)
    rows = np.array([row for row, boxes, _ in found for _ in boxes], np.int32)
    order = np.argsort(rows, kind="stable")
    return {
        "image": rows[order],
        "box": np.concatenate([np.zeros((0, 4)), *(boxes for _, boxes, _ in found)]).astype(np.float32)[order],
        "score": np.concatenate([np.zeros(0), *(scores for *_, scores in found)]).astype(np.float32)[order],
    }


def _true_boxes(a: Annotations, seed: int, copies: int, jitter: float, misses: float) -> Iterator[Found]:
    for person in np.flatnonzero(~a.crowd & (a.box[:, 2:] > 0).all(-1)):
        row = int(a.person_image[person])
        rng = np.random.default_rng([seed, 0, int(a.person_id[person])])
        if rng.random() < misses:
            continue
        box = a.box[person].astype(np.float64)
        moved = box_to_corner(box) + jitter * rng.standard_normal((copies, 4)) * np.tile(box[2:], 2)
        boxes = _within_image(moved, _size(a, row))
        yield row, boxes, box_iou(boxes, box) * rng.uniform(0.9, 1, copies)


def _false_boxes(a: Annotations, seed: int, expected: float) -> Iterator[Found]:
    for row in range(a.num_images):
        rng = np.random.default_rng([seed, 1, int(a.image_id[row])])
        count = int(rng.poisson(expected))
        low, extent = rng.random((2, count, 2)) * _size(a, row)
        boxes = _within_image(np.concatenate([low, low + 0.5 * extent], -1), _size(a, row))
        yield row, boxes, 0.5 * rng.random(count)


def _size(a: Annotations, row: int) -> np.ndarray:
    """[2] (width, height) of an image."""
    return np.array([a.width[row], a.height[row]], np.float64)


def _within_image(corners: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) -> (x, y, w, h) within an image of size [2], with sides of 2 pixels or more."""
    low = np.clip(corners[..., :2], 0, np.maximum(size - 2, 0))
    high = np.minimum(np.maximum(corners[..., 2:], low + 2), size)
    return np.concatenate([low, high - low], -1)
