"""The contract of examples, and what those share that show images of a source."""

import abc
import dataclasses
import logging
import math
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jaxpose.data import images
from jaxpose.data.sources import Source
from jaxpose.errors import DataError, ImageError

logger = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.01
"""Largest share of unreadable images in a data set that training skips."""


Example = dict[str, Any]
"""Fields of one example: {name: NumPy array or scalar}; `Method.spec` says which a method asks for."""


class Examples(abc.ABC):
    """Model inputs of a split with their labels, one by one and in any order."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def load(self, i: int, rng: np.random.Generator | None, step: int = 0) -> Example:
        """Fields of example i; with `rng`, of a random view of it for a step of training."""

    @abc.abstractmethod
    def names(self, index: Sequence[int] | np.ndarray) -> list[str]:
        """Names of the examples `index` [B], for messages."""

    def shown(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """{name: [B, ...]} columns about what the examples `index` [B] show, for `evaluation.people.rows_of`.

        Raises:
          NotImplementedError: the examples are no people or images to evaluate.
        """
        raise NotImplementedError(f"{type(self).__name__} show no people in images that could be evaluated")

    def bucket(self, i: int) -> Hashable:
        """Bucket of example i; examples of equal buckets have fields of equal shapes in evaluation."""
        return None


@dataclasses.dataclass
class ImageBackedExamples(Examples):
    """Examples that each show one image of a source.

    Attributes:
      source: data set of the images.
      skip_bad_images: whether an unreadable image's example is replaced by the next one in the data set (counted, named
        in the log), as long as no more than a hundredth of the data set is bad. If False, it is an error.
    """

    source: Source
    skip_bad_images: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        self._lock = threading.Lock()
        self.bad: dict[str, str] = {}
        self.noted: dict[str, set[str]] = {}

    @abc.abstractmethod
    def image_rows(self, index: Any) -> Any:
        """Rows of the images that examples show, by the examples' indices: a number, or an array of them."""

    @abc.abstractmethod
    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> Example:
        """Fields of example i, whose image is [H, W, 3] uint8 RGB; other arguments as for `load`."""

    def names(self, index: Sequence[int] | np.ndarray) -> list[str]:
        """File names of the images of the examples `index` [B]."""
        return [str(name) for name in self.source.annotations.file_name[self.image_rows(index)]]

    def load(self, i: int, rng: np.random.Generator | None, step: int = 0) -> Example:
        while True:
            try:
                return self.example(i, self.picture(int(self.image_rows(i))), rng, step)
            except ImageError as error:
                self._note_bad(error)
                i = (i + 1) % len(self)

    def picture(self, row: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB of the image in a row, of the size that its labels say; see `images.decode_labelled`."""
        a = self.source.annotations
        name, size = str(a.file_name[row]), (int(a.width[row]), int(a.height[row]))
        image, notes = images.decode_labelled(self.source.read(row), name, size)
        for note in notes:
            self._note(note, name)
        return image

    def _note(self, note: str, name: str) -> None:
        """Says in the log what is odd about pictures: of the first, the tenth, the hundredth, and so on."""
        with self._lock:
            names = self.noted.setdefault(note, set())
            known = name in names
            names.add(name)
            count = len(names)
        if not known and math.log10(count).is_integer():
            logger.warning("%s: %d pictures so far %s (%s)", self.source.name, count, note, name)

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if k != "_lock"}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = threading.Lock()

    def _note_bad(self, error: ImageError) -> None:
        if not self.skip_bad_images:
            raise error
        with self._lock:
            if error.name in self.bad:
                return
            self.bad[error.name] = error.why
            count, limit = len(self.bad), max(1, MAX_BAD_SHARE * len(self.source))
        logger.warning("%s: skipped an example (%d so far): %s", self.source.name, count, error)
        if count > limit:
            raise DataError(
                f"{self.source.name}: {count} of {len(self.source)} images cannot be read, more than "
                f"{MAX_BAD_SHARE:.0%}; the last one is {error.name}: {error.why}. Repair the data set."
            )
