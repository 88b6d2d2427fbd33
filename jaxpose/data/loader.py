"""Batches as a function of (seed, step), whatever the number of workers, processes or restarts.

Training draws an endless, reshuffled-every-epoch stream; its element at a global position is a pure function of
(seed, position), and step s of global batch size G holds positions s * G ... (s + 1) * G - 1. So a resumed run asks
for step s and needs no saved iterator. Evaluation walks every example exactly once and pads the last batch.
"""

import collections
import dataclasses
import logging
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import grain
import numpy as np

from jaxpose.data.examples.base import Examples
from jaxpose.errors import ConfigError

logger = logging.getLogger(__name__)


class TrainStream:
    """Endless training batches of this process's share, starting at any step.

    Args:
      examples: examples to draw from.
      seed: seed of order and augmentation.
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
      examples: examples to go through.
      batch_size: G, global; a multiple of the process count.
      process: (index, count).
      threads: number of threads that decode.
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

    def __getitem__(self, index: int) -> int:
        return int(index)


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
