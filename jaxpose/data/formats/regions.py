"""Regions of images with people whom nobody labelled: kept as the annotation file has them, drawn when needed."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Segmentation = list | dict
"""COCO's forms: polygons [[x, y, x, y, ...], ...], or run lengths {"size": [H, W], "counts": numbers or a string}."""


@dataclasses.dataclass(frozen=True)
class Regions:
    """Any number of regions for each image of a data set, packed; made by `pack`.

    Attributes:
      image: [R] int32 row of the image of each region, rising.
      offset: [R + 1] int64 position in `text` at which each region begins, and the length of `text`.
      text: [M] uint8 JSON of the regions, one after the other.
    """

    image: np.ndarray
    offset: np.ndarray
    text: np.ndarray

    @classmethod
    def pack(cls, image: Sequence[int] | np.ndarray, segmentations: Sequence[Segmentation]) -> "Regions":
        """Regions in any order.

        Args:
          image: [R] rows of their images.
          segmentations: [R] regions.
        """
        rows = np.asarray(image, np.int32).reshape(len(segmentations))
        order = np.argsort(rows, kind="stable")
        texts = [json.dumps(segmentations[i], separators=(",", ":")).encode() for i in order]
        offset = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return cls(rows[order], offset, np.frombuffer(b"".join(texts), np.uint8))

    def __len__(self) -> int:
        return len(self.image)

    def of(self, image: int) -> list[Segmentation]:
        """The regions of an image, as they were packed."""
        first, end = np.searchsorted(self.image, [image, image + 1])
        return [json.loads(self.text[self.offset[r] : self.offset[r + 1]].tobytes()) for r in range(first, end)]

    def mask(self, image: int, width: int, height: int) -> np.ndarray | None:
        """[height, width] bool, True inside the regions of an image; None if it has none."""
        segmentations = self.of(image)
        return draw(segmentations, width, height) if segmentations else None


def draw(segmentations: Sequence[Segmentation], width: int, height: int) -> np.ndarray:
    """[height, width] bool, True where any of the regions is, pixel by pixel as COCO's own tools draw them."""
    from hotcoco import mask

    parts = [mask.frPyObjects(segmentation, height, width) for segmentation in segmentations]
    runs = [run for part in parts for run in (part if isinstance(part, list) else [part])]
    return mask.decode(mask.merge(runs)).astype(bool) if runs else np.zeros((height, width), bool)


def is_drawable(segmentation: Any, width: int, height: int) -> bool:
    """True for a region of an image of that size: polygons of three corners or more, or complete run lengths."""
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        complete = isinstance(counts, str) or (isinstance(counts, list) and sum(counts) == width * height)
        return complete and list(segmentation.get("size", ())) == [height, width]
    return isinstance(segmentation, list) and bool(segmentation) and all(map(_is_polygon, segmentation))


def _is_polygon(corners: Any) -> bool:
    return (
        isinstance(corners, list)
        and len(corners) >= 6
        and len(corners) % 2 == 0
        and all(isinstance(v, int | float) and math.isfinite(v) for v in corners)
    )
