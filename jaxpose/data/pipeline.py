"""Batches as a function of (seed, step), whatever the number of workers, processes or restarts.

Training draws an endless, reshuffled-every-epoch stream; its element at a global position is a pure function of
(seed, position), and step s of global batch size G holds positions s * G ... (s + 1) * G - 1. So a resumed run asks
for step s and needs no saved iterator. Evaluation walks every example exactly once and pads the last batch.
"""

import collections
import dataclasses
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np

from jaxpose.data import images
from jaxpose.data.people import People
from jaxpose.data.proposals import PoseGuidedProposals, inside
from jaxpose.data.sources import Source
from jaxpose.data.transforms import NO_AUGMENTATION, Augmentation, PersonCrop, View
from jaxpose.errors import ConfigError, DataError, ImageError

logger = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.01


@dataclasses.dataclass
class PersonExamples:
    """People of a source as examples of `methods.base.person_spec`, padding fields included.

    Attributes:
      source: where the images are.
      people: the boxes to look at.
      crop: how.
      augmentation: random views, for training.
      proposals: random boxes in place of the true ones, for training (RMPE).
      proposals_from: the step of training from which on there are random boxes.
      centered: add "centered_keypoints" [K, 2] and "centered_visible" [K]: the joints as the crop of the true box shows
        them, turned and mirrored like the example; of a patch, as the example itself shows them.
      skip_bad_images: replace an unreadable image's example by the next one in the data set (counted, named in the
        log), as long as no more than a hundredth of the data set is bad. If False, raise.
    """

    source: Source
    people: People
    crop: PersonCrop
    augmentation: Augmentation = NO_AUGMENTATION
    proposals: PoseGuidedProposals | None = None
    proposals_from: int = 0
    centered: bool = False
    skip_bad_images: bool = False

    def __post_init__(self):
        self._lock = threading.Lock()
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.people)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def load(self, i: int, rng: np.random.Generator | None, step: int = 0) -> dict[str, np.ndarray]:
        """Example i; with `rng`, a random view of it for a step of training."""
        while True:
            row = int(self.people.image[i])
            try:
                name = str(self.source.annotations.file_name[row])
                image = images.decode(self.source.read(row), name)
                return self._example(i, image, rng, step)
            except ImageError as error:
                self._note_bad(error)
                i = (i + 1) % len(self)

    def _example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> dict[str, np.ndarray]:
        joints = self.source.annotations.skeleton
        keypoints, visible = self.people.keypoints[i], self.people.visibility[i]
        view = centered = self.crop.view(self.people.box[i])
        region, patch = None, False
        if rng is not None:
            if self.proposals is not None and step >= self.proposals_from:
                size = image.shape[1], image.shape[0]
                proposal = self.proposals.draw(self.people.box[i], keypoints, visible, size, rng)
                grown = dataclasses.replace(self.crop, padding=self.crop.padding / (1 + 2 * self.proposals.growth))
                view, centered = grown.view(proposal.box), grown.view(proposal.centered)
                region, patch = proposal.centered_region, proposal.centered is proposal.box
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
        examples: PersonExamples,
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
    examples: PersonExamples, *, batch_size: int, process: tuple[int, int] = (0, 1), threads: int = 4
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order: batch b holds examples b * G ... of which this process gets its block.

    All processes get the same number of batches; rows beyond the last example are zeros with `valid` False.

    Args:
      examples: what to walk.
      batch_size: G, global; a multiple of the process count.
      process: (index, count).
      threads: that decode.
    """
    local = batch_size // process[1]
    batches = -(-len(examples) // batch_size)
    padding = {k: np.zeros_like(v) for k, v in examples.load(0, None).items()}

    def row(position: int) -> dict[str, np.ndarray]:
        return examples.load(position, None) if position < len(examples) else padding

    def collect(rows: list) -> dict[str, np.ndarray]:
        return {k: np.stack([r.result()[k] for r in rows]) for k in padding}

    with ThreadPoolExecutor(threads) as pool:
        pending: collections.deque = collections.deque()
        for b in range(batches):
            first = b * batch_size + process[0] * local
            pending.append([pool.submit(row, p) for p in range(first, first + local)])
            if len(pending) > 2:
                yield collect(pending.popleft())
        while pending:
            yield collect(pending.popleft())


@dataclasses.dataclass(frozen=True)
class _Positions:
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> int:
        return int(i)


class _Load(grain.transforms.RandomMap):
    def __init__(self, examples: PersonExamples):
        self.examples = examples

    def random_map(self, element: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        step, i = element
        return self.examples.load(i, rng, step)


def _mark_flags_parsed() -> None:
    """Grain's workers read absl flags, which nobody has parsed outside `absl.app.run`."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
