"""Batches as a function of (seed, step), whatever the number of workers, processes or restarts.

Training draws an endless, reshuffled-every-epoch stream; its element at a global position is a pure function of
(seed, position), and step s of global batch size G holds positions s * G ... (s + 1) * G - 1. So a resumed run asks
for step s and needs no saved iterator. Evaluation walks every example exactly once and pads the last batch.
"""

import abc
import collections
import dataclasses
import logging
import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from jaxpose.data import images
from jaxpose.data.examples.boxes import People
from jaxpose.data.proposals import PoseGuidedProposals, inside
from jaxpose.data.sources import Source
from jaxpose.data.views import NO_AUGMENTATION, Augmentation, PersonCrop, View
from jaxpose.errors import ConfigError, DataError, ImageError
from jaxpose.types import Poses

logger = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.01


@dataclasses.dataclass
class Examples(abc.ABC):
    """What a method learns from or is evaluated on, one by one and in any order.

    Attributes:
      source: where the images are.
      skip_bad_images: replace an unreadable image's example by the next one in the data set (counted, named in the
        log), as long as no more than a hundredth of the data set is bad. If False, raise.
    """

    source: Source
    skip_bad_images: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        self._lock = threading.Lock()
        self.bad: dict[str, str] = {}

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image_rows(self, index: Any) -> Any:
        """Rows of the images that examples show, by the examples' indices: a number, or an array of them."""

    @abc.abstractmethod
    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> dict[str, np.ndarray]:
        """Example i, of which [H, W, 3] uint8 RGB is the image; arguments as for `load`."""

    @abc.abstractmethod
    def rows(self, poses: Poses, index: np.ndarray) -> dict[str, np.ndarray]:
        """What metrics want to know of the valid poses [B, N] that were found in the examples `index` [B]."""

    def bucket(self, i: int) -> Hashable:
        """Examples with equal buckets have fields of equal shapes in evaluation."""
        return None

    def names(self, index: np.ndarray) -> list[str]:
        """File names of the images of examples, for messages."""
        return [str(name) for name in self.source.annotations.file_name[self.image_rows(index)]]

    def load(self, i: int, rng: np.random.Generator | None, step: int = 0) -> dict[str, np.ndarray]:
        """Example i; with `rng`, a random view of it for a step of training."""
        while True:
            row = int(self.image_rows(i))
            try:
                name = str(self.source.annotations.file_name[row])
                image = images.decode(self.source.read(row), name)
                return self.example(i, image, rng, step)
            except ImageError as error:
                self._note_bad(error)
                i = (i + 1) % len(self)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state):
        self.__dict__.update(state)
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


@dataclasses.dataclass
class PersonExamples(Examples):
    """People of a source as examples of `methods.base.person_spec`, padding fields included.

    Attributes:
      people: the boxes to look at.
      crop: how.
      augmentation: random views, for training.
      proposals: random boxes in place of the true ones, for training (RMPE).
      proposals_from: the step of training from which on there are random boxes.
      centered: add "centered_keypoints" [K, 2] and "centered_visible" [K]: the joints as the crop of the true box shows
        them, turned and mirrored like the example; of a patch, as the example itself shows them.
    """

    people: People
    crop: PersonCrop
    augmentation: Augmentation = NO_AUGMENTATION
    proposals: PoseGuidedProposals | None = None
    proposals_from: int = 0
    centered: bool = False

    def __len__(self) -> int:
        return len(self.people)

    def image_rows(self, index: Any) -> Any:
        return self.people.image[index]

    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> dict[str, np.ndarray]:
        joints = self.source.annotations.skeleton
        keypoints, visible = self.people.keypoints[i], self.people.visibility[i]
        view = centered = self.crop.view(self.people.box[i])
        region, patch = None, False
        if rng is not None and self.proposals is not None and step >= self.proposals_from:
            size = image.shape[1], image.shape[0]
            proposal = self.proposals.draw(self.people.box[i], keypoints, visible, size, rng)
            grown = dataclasses.replace(self.crop, padding=self.crop.padding / (1 + 2 * self.proposals.growth))
            view, centered = grown.view(proposal.box), grown.view(proposal.centered)
            region, patch = proposal.centered_region, proposal.centered is proposal.box
        view = dataclasses.replace(view, mirror=bool(self.people.mirror[i]))
        if rng is not None:
            view = self.augmentation(view, keypoints, visible, joints, rng)
        example = self.crop.example(image, view, keypoints, visible, joints)
        if self.centered:
            counted = visible if region is None else visible * inside(region, keypoints)
            centered = view if patch else View(centered.center, centered.size, view.rotation, view.mirror)
            example["centered_keypoints"], example["centered_visible"] = self.crop.joints(
                centered, keypoints, counted, joints
            )
        example["person_score"] = np.float32(self.people.score[i])
        example["index"] = np.int32(i)
        example["valid"] = np.bool_(True)
        return example

    def rows(self, poses: Poses, index: np.ndarray) -> dict[str, np.ndarray]:
        """The poses with the box each was looked for in and, of true boxes, the person's labels."""
        example = np.broadcast_to(index[:, None], poses.valid.shape)[poses.valid]
        people, annotations = self.people, self.source.annotations
        view = dataclasses.replace(self.crop.view(people.box[example]), mirror=people.mirror[example])
        return {
            "image_id": annotations.image_id[people.image[example]],
            "index": example,
            "keypoints": poses.keypoints[poses.valid],
            "scores": poses.scores[poses.valid],
            "person_score": poses.person_score[poses.valid],
            "area": view.size.prod(-1),
            "box": people.box[example],
            "box_score": people.score[example],
            "truth": people.keypoints[example],
            "visibility": people.visibility[example],
            "head_size": people.head_size[example],
            "to_crop": self.crop.affine(view),
        }


class TrainStream:
    """Endless training batches of this process's share, starting at any step.

    Args:
      examples: what to draw from.
      seed: of order and augmentation.
      batch_size: global.
      step: the first batch is that of this step.
      process: (index, count) of this process among those that share a global batch.
      workers: Grain worker processes; 0 reads in threads, which is as fast where decoding dominates.
      threads: reading threads (per worker).
      prefetch: batches to hold ready.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        seed: int,
        batch_size: int,
        step: int = 0,
        process: tuple[int, int] = (0, 1),
        workers: int = 0,
        threads: int = 4,
        prefetch: int = 4,
    ):
        if batch_size % process[1]:
            raise ConfigError(f"config.train.batch_size is {batch_size}, not a multiple of {process[1]} processes")
        stream = grain.MapDataset.source(_Positions(len(examples))).seed(seed).shuffle().repeat(None)
        stream = stream.map_with_index(lambda position, i: (position // batch_size, i))
        elastic = grain.experimental.ElasticIterator(
            stream.random_map(_Load(examples)),
            global_batch_size=batch_size,
            shard_options=grain.sharding.ShardOptions(shard_index=process[0], shard_count=process[1]),
            read_options=grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch),
            multiprocessing_options=grain.MultiprocessingOptions(num_workers=workers) if workers else None,
        )
        if workers:
            _mark_flags_parsed()
        self._shared = workers > 0
        self._iterator = iter(elastic)
        self._iterator.set_state({"global_next_index": step * batch_size})

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._iterator)
        return {k: np.array(v) for k, v in batch.items()} if self._shared else batch  # gives shared memory back

    def close(self) -> None:
        """Stops threads and workers."""
        self._iterator.close()


def evaluation_batches(
    examples: Examples, *, batch_size: int, process: tuple[int, int] = (0, 1), threads: int = 4
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once: those of the first one's bucket in order, then those of the next bucket, and so on.

    Batch b of a bucket holds its examples b * G ... of which this process gets its block. All processes get the same
    number of batches of the same shapes; rows beyond a bucket's last example are zeros with `valid` False.

    Args:
      examples: what to walk.
      batch_size: G, global; a multiple of the process count.
      process: (index, count).
      threads: that decode.
    """
    local = batch_size // process[1]

    def collect(results: list[Future], bucket: list[int]) -> dict[str, np.ndarray]:
        rows = [result.result() for result in results]
        blank = {k: np.zeros_like(v) for k, v in (rows[0] if rows else examples.load(bucket[0], None)).items()}
        rows += [blank] * (local - len(rows))
        return {k: np.stack([row[k] for row in rows]) for k in blank}

    with ThreadPoolExecutor(threads) as pool:
        pending: collections.deque = collections.deque()
        for bucket in _buckets(examples):
            for first in range(0, len(bucket), batch_size):
                share = bucket[first : first + batch_size][process[0] * local :][:local]
                pending.append(([pool.submit(examples.load, i, None) for i in share], bucket))
                if len(pending) > 2:
                    yield collect(*pending.popleft())
        while pending:
            yield collect(*pending.popleft())


def _buckets(examples: Examples) -> list[list[int]]:
    """Indices of the examples of each bucket, buckets in order of first appearance."""
    buckets: dict[Hashable, list[int]] = {}
    for i in range(len(examples)):
        buckets.setdefault(examples.bucket(i), []).append(i)
    return list(buckets.values())


@dataclasses.dataclass(frozen=True)
class _Positions:
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> int:
        return int(i)


class _Load(grain.transforms.RandomMap):
    def __init__(self, examples: Examples):
        self.examples = examples

    def random_map(self, element: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        step, i = element
        return self.examples.load(i, rng, step)


def _mark_flags_parsed() -> None:
    """Grain's workers read absl flags, which nobody has parsed outside `absl.app.run`."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
