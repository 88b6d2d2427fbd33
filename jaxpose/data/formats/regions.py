"""Regions of images with people whom nobody labelled: kept as the annotation file has them, drawn when needed."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from jaxpose.files.fields import LARGEST

Segmentation = list | dict
"""COCO's forms: polygons [[x, y, x, y, ...], ...], or run lengths {"size": [H, W], "counts": numbers or a string}."""
MOST_PIXELS = 1 << 27
"""Most pixels of an image whose regions are drawn: 134 million, as many as a mask has bytes."""

_MOST_CHARACTERS = 7  # of a number of up to MOST_PIXELS and its sign


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
    """True for a region of an image of that size: polygons of three corners or more, or complete run lengths.

    Run lengths are decoded here, without making a mask, so that nothing is found out in the middle of a training. No
    region of an image of more than `MOST_PIXELS` is drawable, for its mask would fill the memory.
    """
    if width * height > MOST_PIXELS:
        return False
    if isinstance(segmentation, dict):
        size, counts = (segmentation.get(field) for field in ("size", "counts"))
        runs = _compressed(counts, width * height) if isinstance(counts, str) else counts
        return _are_whole(size) and size == [height, width] and _are_whole(runs) and sum(runs) == width * height
    return isinstance(segmentation, list) and bool(segmentation) and all(map(_is_polygon, segmentation))


def _are_whole(values: Any) -> TypeGuard[list[int]]:
    """Whether a value is a list of whole numbers from 0."""
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _compressed(text: str, most: int) -> list[int] | None:
    """The numbers of COCO's compressed run lengths; None where the text is no such, or numbers exceed `most`.

    Six bits a character, counted from "0": five of the number, the lowest first, and one that says that more follow.
    The highest of its bits is the sign. From the fourth number on, the one before the last is to be added.
    """
    if not text or not text.isascii():
        return None
    bits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(bits & 32 == 0)
    if not ((bits >= 0) & (bits < 64)).all() or not len(last) or last[-1] != len(bits) - 1:
        return None
    first = np.concatenate([[0], last[:-1] + 1])
    if (length := last - first + 1).max() > _MOST_CHARACTERS:
        return None
    place = np.arange(len(bits)) - np.repeat(first, length)
    runs = np.add.reduceat((bits & 31) << 5 * place, first) - ((bits[last] & 16) >> 4 << 5 * length)
    for each in (runs[1::2], runs[2::2]):
        np.cumsum(each, out=each)
    return runs.tolist() if runs.min() >= 0 and runs.max() <= most else None


def _is_polygon(corners: Any) -> bool:
    return (
        isinstance(corners, list)
        and len(corners) >= 6
        and len(corners) % 2 == 0
        and all(type(value) in (int, float) and abs(value) <= LARGEST for value in corners)
    )
