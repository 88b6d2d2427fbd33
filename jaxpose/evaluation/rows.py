"""Rows, the tables that metrics collect: columns of equal length, checked as they come in, in an order of their own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from jaxpose.errors import DataError
from jaxpose.ops.arrays import fits_float32

Rows = dict[str, np.ndarray]
"""{name of a column: array with one entry a person, box or frame}."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a metric's rows.

    Attributes:
      dtype: type of the array.
      tail: shape behind the leading axis; "K" stands for the number of joints.
      optional: whether rows can lack it; if some updates do, it is left out of all.
      label: whether it comes from the data set and not from a network.
    """

    dtype: type
    tail: tuple[int | str, ...] = ()
    optional: bool = False
    label: bool = False


IMAGE_ID = INDEX = Column(np.int64)


@dataclasses.dataclass
class Collected:
    """The part of a metric that collects rows until `compute`: `class Mine(Collected, Metric)`."""

    columns: ClassVar[dict[str, Column]]
    """Columns of the rows; among them "index", the position of an example in the data set."""
    things: ClassVar[str] = "poses"
    """Name of the rows in messages, in the plural."""
    order: ClassVar[tuple[str, ...]] = ("image_id", "index")
    """Columns by which rows are ordered, so that numbers do not depend on batches or processes."""
    several: ClassVar[bool] = True
    """Whether an example can have several rows, which then come in one update."""

    _blocks: list[Rows] = dataclasses.field(default_factory=list, init=False, repr=False)

    def update(self, rows: Mapping[str, Any]) -> None:
        """Adds n rows.

        Args:
          rows: arrays [n, ...] without padding, those of `columns`; others are ignored.

        Raises:
          DataError: a field is missing, has another shape, or holds a number that is not finite.
        """
        self._blocks.append(self._checked(rows))

    def merge(self, other: Self) -> None:
        """Adds all rows of another metric, such as another process's."""
        self._blocks.extend(other._blocks)

    def rows(self) -> Rows:
        """All rows so far in order. What `update` takes, so that processes can exchange it.

        Raises:
          DataError: an example came in twice, or rows have different numbers of joints.
        """
        blocks = [block for block in self._blocks if len(block["index"])] or self._blocks[:1] or [self._nothing()]
        joints = sorted({block["keypoints"].shape[1] for block in blocks if "keypoints" in block})
        if len(joints) > 1:
            raise DataError(f"{self.things} with {joints} joints were added to one metric; use one metric a skeleton")
        names = [name for name in self.columns if all(name in block for block in blocks)]
        rows = {name: np.concatenate([block[name] for block in blocks]) for name in names}
        lengths = [len(block["index"]) for block in blocks]
        updates = np.repeat(np.arange(len(blocks)), lengths) if self.several else np.arange(sum(lengths))
        _forbid_repeats(rows["index"], updates)
        order = np.lexsort([rows[name] for name in reversed(self.order)])
        return {name: values[order] for name, values in rows.items()}

    def _num_joints(self, rows: Mapping[str, Any]) -> int:
        """K, which the scores of joints tell."""
        return (np.shape(rows.get("scores", ())) or (0,))[-1]

    def _nothing(self) -> Rows:
        joints = self._num_joints({})
        return {
            name: np.zeros((0, *_tail(column, joints)), column.dtype)
            for name, column in self.columns.items()
            if not column.optional
        }

    def _checked(self, rows: Mapping[str, Any]) -> Rows:
        needed = [name for name, column in self.columns.items() if not column.optional]
        if missing := [name for name in needed if name not in rows]:
            raise DataError(f"{self.things} lack the fields {missing}; expected {needed}")
        arrays = {name: np.array(rows[name], column.dtype) for name, column in self.columns.items() if name in rows}
        count, joints = np.size(arrays["index"]), self._num_joints(rows)
        for name, values in arrays.items():
            expected = (count, *_tail(self.columns[name], joints))
            if values.shape != expected:
                raise DataError(
                    f"field {name!r} has shape {values.shape}, expected {expected} for {count} {self.things}"
                )
        for name in arrays:
            self._check_finite(arrays, name)
        return arrays

    def _check_finite(self, arrays: Rows, name: str) -> None:
        count = len(arrays["index"])
        bad = ~fits_float32(arrays[name]).reshape(count, -1).all(-1) if count else np.zeros(0, bool)
        if not bad.any():
            return
        example = f"example {arrays['index'][bad][0]}"
        where = f"image {arrays['image_id'][bad][0]} ({example})" if "image_id" in arrays else example
        source = "the network's outputs or weights hold NaN or infinite numbers"
        raise DataError(
            f"{where}: field {name!r} is not finite in {int(bad.sum())} {self.things}; "
            + ("fix the labels" if self.columns[name].label else source)
        )


def _tail(column: Column, joints: int) -> tuple[int, ...]:
    return tuple(joints if isinstance(side, str) else side for side in column.tail)


def _forbid_repeats(index: np.ndarray, updates: np.ndarray) -> None:
    """A second update with an example [n] means that padding or a repeated example was counted."""
    seen = np.unique(np.stack([index, updates]), axis=1)[0]
    repeated = seen[1:][seen[1:] == seen[:-1]]
    if len(repeated):
        raise DataError(
            f"example {repeated[0]} (and {len(np.unique(repeated)) - 1} others) was added more than once; "
            "leave out the padding of the last batch, and evaluate each example once"
        )
