"""Published lists of single people or hands, a record each: their shuffled splits, and their records as annotations.

Such data sets come without lists of their parts. Those are made by a shuffle with a fixed seed of Python's generator
(`part_rows`) or by draws from it (`drawn_rows`), which have to be repeated exactly.
"""

import dataclasses
import pathlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.data import images, square_boxes
from jaxpose.data.annotations import Annotations, Skipped, tight_boxes
from jaxpose.data.formats.coco import AREA_OF_BOX
from jaxpose.data.sources import Source, require_folder
from jaxpose.data.sources.folder import picture_sizes
from jaxpose.errors import ConfigError, DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError, shown
from jaxpose.files.json_files import read_json
from jaxpose.skeleton import Skeleton

PARTS = ("train", "test", "all")
SEED = 42
"""Seed of Python's generator in the code that split the lists."""
TEST_SHARE = 0.2
"""Share of a list that is its test part, if that is not too long."""
MOST_TESTED = 3200
"""Greatest number of records of a test part."""


def locate(data: Any, split: str, what: str, annotations: str, pictures: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The path of the annotations and the folder of the pictures that `config.data.<split>` names.

    Args:
      data: `config.data`.
      split: "train" or "validation".
      what: description of the folder that belongs in `data.dir`, for messages.
      annotations: usual value of `data.<split>.annotations`, for messages.
      pictures: usual value of `data.<split>.images`, for messages.

    Raises:
      ConfigError: a field is missing, or names no folder.
    """
    root = require_folder(data.dir, "data.dir", what)
    if split not in data or not data[split].annotations:
        raise ConfigError(f"config.data.{split}.annotations is missing: as a rule it is {annotations!r}")
    folder = require_folder(str(root / data[split].images), f"data.{split}.images", f"the folder {pictures!r}")
    return root / data[split].annotations, folder


def choice(data: Any, split: str, field: str, values: Sequence[str], default: str) -> str:
    """The value of `config.data.<split>.<field>`, or the default where it is missing or empty.

    Raises:
      ConfigError: it is none of the values.
    """
    found = (data[split].get(field, "") if split in data else "") or default
    if found not in values:
        raise ConfigError(f"config.data.{split}.{field} is {found!r}; it can be one of {', '.join(values)}")
    return found


def part_of(data: Any, split: str) -> str:
    """The value of `config.data.<split>.part`, one of `PARTS`; by default "train" for training, else "test"."""
    return choice(data, split, "part", PARTS, {"train": "train"}.get(split, "test"))


def part_rows(count: int, part: str) -> np.ndarray:
    """Rows [N] of the records of a part, in the order of the shuffled list.

    The test part is the first fifth of that list, but no more than 3,200 records, the training part the rest.
    """
    rows = list(range(count))
    random.Random(SEED).shuffle(rows)
    tested = min(int(count * TEST_SHARE), MOST_TESTED)
    return np.array({"train": rows[tested:], "test": rows[:tested], "all": rows}[part], np.int64)


def drawn_rows(count: int) -> np.ndarray:
    """3,200 rows of a list at random, with replacement."""
    return np.array(random.Random(SEED).choices(range(count), k=MOST_TESTED), np.int64)


def read_list(path: str | pathlib.Path, names: Sequence[str]) -> list[dict]:
    """The records of a JSON list.

    Raises:
      DataError: the file is missing, or no list of records that have the fields `names`.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content or not all(isinstance(r, dict) for r in content):
        raise DataError(f"{path}: expected a list of records with {list(names)}; is it the right file?")
    for i, record in enumerate(content):
        if missing := [field for field in names if field not in record]:
            raise DataError(
                f"{path}: record {i} has the fields {shown(sorted(record))}, but not {missing}; fetch it again"
            )
    return content


def texts(records: Sequence[Mapping[str, Any]], field: str, where: Any) -> list[str]:
    """A field of all records as text.

    Raises:
      DataError: it is something else somewhere; `where` names the file.
    """
    found = []
    for i, record in enumerate(records):
        try:
            found.append(fields.text(record, field))
        except FieldError as error:
            raise DataError(f"{where}: record {i}: {error}; fetch the file again") from error
    return found


def stack(rows: Sequence[Any], shape: tuple[int, ...], where: str) -> np.ndarray:
    """[N, *shape] float64 from nested lists of numbers, in which those that are too large to be pixels are NaN.

    Raises:
      DataError: one of them is something else; `where` names what they are.
    """
    arrays = []
    for i, row in enumerate(rows):
        try:
            array = np.asarray(row, np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.array("no numbers")
        if array.shape != shape:
            found = array.shape or array
            raise DataError(f"{where}: record {i} has {found}, expected numbers of shape {shape}; fetch the file again")
        arrays.append(np.where(np.abs(array) <= fields.LARGEST, array, np.nan))
    return np.array(arrays, np.float64).reshape(len(arrays), *shape)


def log_not_finite(where: str, names: Sequence[str]) -> None:
    """Says which records are skipped because a joint is NaN or infinite."""
    skipped = Skipped(where)
    for name in names:
        skipped.add("a joint is not finite", name)
    skipped.log()


@dataclasses.dataclass(frozen=True)
class SinglePeople:
    """One person, or hand, a row.

    Attributes:
      folder: folder of the images.
      names: [N] file names in the folder; several rows may have the same.
      keypoints: [N, K, 2] joints in pixels of the image; a row that is not finite is skipped.
      visibility: [N, K] visibility as in `Annotations`; None if all joints are visible.
      mirror: [N] bool as in `Annotations`; None if nobody is looked at mirrored.
    """

    folder: pathlib.Path
    names: Sequence[str]
    keypoints: np.ndarray
    visibility: np.ndarray | None = None
    mirror: np.ndarray | None = None

    def image_sizes(self, remedy: str) -> np.ndarray:
        """[N, 2] (width, height) of every row's image; raises as `picture_sizes`."""
        unique = list(dict.fromkeys(self.names))
        sizes: Mapping[str, np.ndarray] = dict(zip(unique, picture_sizes(self.folder, unique, remedy)))
        return np.array([sizes[name] for name in self.names], np.int32).reshape(-1, 2)

    @property
    def finite(self) -> np.ndarray:
        """[N] bool, rows that can be used."""
        return np.all(np.isfinite(self.keypoints), axis=(1, 2))

    def squares(self, sizes: np.ndarray) -> np.ndarray:
        """`square_boxes.square_box` around all joints of every row that can be used, in images of `sizes` [N, 2]."""
        keypoints = np.where(self.finite[:, None, None], self.keypoints, 0)
        return square_boxes.square_box(square_boxes.tight_box(keypoints), sizes)

    def source(self, where: Any, skeleton: Skeleton, sizes: np.ndarray, boxes: np.ndarray | None = None) -> Source:
        """The rows as people of their images, in the order of the rows.

        Args:
          where: name of the list, for messages.
          skeleton: skeleton of the keypoints.
          sizes: [N, 2] sizes (width, height) of the images in pixels.
          boxes: [N, 4] boxes (x, y, w, h) in pixels of the images; None for whole images.

        Raises:
          DataError: nobody is left.
        """
        annotations, folder = self._annotations(str(where), skeleton, sizes, boxes), self.folder

        def read(i: int) -> bytes:
            return images.read(folder / str(annotations.file_name[i]))

        return Source(name=str(where), annotations=annotations, read=read)

    def _annotations(self, where: str, skeleton: Skeleton, sizes: np.ndarray, boxes: np.ndarray | None) -> Annotations:
        visibility = np.full(self.keypoints.shape[:2], 2) if self.visibility is None else self.visibility
        usable = self._usable(where, visibility, sizes)
        if not usable.any():
            raise DataError(f"{where}: none of the {len(usable)} people that it lists can be used; the log says why")
        if boxes is None:
            boxes = np.concatenate([np.zeros_like(sizes), sizes], -1)
        mirror = np.zeros(len(usable), bool) if self.mirror is None else self.mirror
        names = [name for name, use in zip(self.names, usable) if use]
        rows = (self.keypoints, visibility, mirror, boxes, sizes)
        return _columns(skeleton, names, *(column[usable] for column in rows))

    def _usable(self, where: str, visibility: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """[N] bool; False, and named in the log, for joints that are no positions, or far outside the image."""
        finite, limits = self.finite, sizes[:, None]
        beyond = (self.keypoints < -limits) | (self.keypoints > 2 * limits)
        far = finite & np.any(beyond & (visibility > 0)[..., None], axis=(1, 2))
        skipped = Skipped(where)
        for reason, rows in (("a joint is not finite", ~finite), ("a joint lies far outside the image", far)):
            for row in np.flatnonzero(rows).tolist():
                skipped.add(reason, self.names[row])
        skipped.log()
        return finite & ~far


def _columns(
    skeleton: Skeleton,
    names: list[str],
    keypoints: np.ndarray,
    visibility: np.ndarray,
    mirror: np.ndarray,
    boxes: np.ndarray,
    sizes: np.ndarray,
) -> Annotations:
    unique = list(dict.fromkeys(names))
    images = {name: row for row, name in enumerate(unique)}
    person_image = np.array([images[name] for name in names], np.int32)
    _, first = np.unique(person_image, return_index=True)
    extent = tight_boxes(keypoints, visibility)[:, 2:]
    return Annotations(
        skeleton=skeleton,
        image_id=np.arange(1, len(unique) + 1, dtype=np.int64),
        file_name=np.array(unique, np.str_),
        width=sizes[first, 0],
        height=sizes[first, 1],
        person_image=person_image,
        person_id=np.arange(1, len(names) + 1, dtype=np.int64),
        box=boxes.astype(np.float32),
        keypoints=np.where(visibility[..., None] > 0, keypoints, 0).astype(np.float32),
        visibility=visibility.astype(np.uint8),
        area=(AREA_OF_BOX * np.maximum(extent, 1).prod(-1)).astype(np.float32),
        crowd=np.zeros(len(names), bool),
        track_id=np.full(len(names), -1, np.int64),
        clip_boxes=False,
        mirror=mirror,
    )
