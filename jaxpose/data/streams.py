"""From `config.data` to the batches of a method: which source, which people, which crop."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax

from jaxpose.data import people
from jaxpose.data.pipeline import PersonExamples, TrainStream, evaluation_batches
from jaxpose.data.sources import open_source
from jaxpose.data.transforms import NO_AUGMENTATION, Augmentation, PersonCrop
from jaxpose.methods.base import Method
from jaxpose.types import Batch

logger = logging.getLogger(__name__)


def process() -> tuple[int, int]:
    """(index, count) of this process."""
    return jax.process_index(), jax.process_count()


def person_examples(config: Any, method: Method, split: str) -> PersonExamples:
    """The people of a split as `config.data` asks for them.

    Training looks at true boxes with augmentation and skips unreadable images. Evaluation looks at true boxes, or at
    those of the detection file `data.<split>.boxes`, and an unreadable image is an error.
    """
    data = config.data
    source = open_source(data, split, progress=jax.process_index() == 0)
    boxes = data[split].get("boxes", "") if split in data else ""
    seen = people.detected(source.annotations, boxes) if boxes else people.annotated(source.annotations, source.name)
    _, height, width, _ = method.spec(1)["source"]["image"].shape
    train = split == "train"
    if train and getattr(method, "flip_test", False) and not data.augmentation.mirror:
        logger.warning(
            "config.method.flip_test averages with mirrored crops, but config.data.augmentation.mirror is 0: "
            "training shows none. Set one of them."
        )
    logger.info("%s: %d images, %d people", source.name, len(source), len(seen))
    return PersonExamples(
        source=source,
        people=seen,
        crop=PersonCrop((width, height), data.padding),
        augmentation=Augmentation(**data.augmentation) if train else NO_AUGMENTATION,
        skip_bad_images=train,
    )


@dataclasses.dataclass
class TrainBatches:
    """Iterator over training batches of this process: {"source": fields}."""

    config: Any
    examples: PersonExamples
    step: int

    def __post_init__(self):
        data = self.config.data
        self._stream = TrainStream(
            self.examples,
            seed=self.config.seed,
            batch_size=self.config.train.batch_size,
            step=self.step,
            process=process(),
            workers=data.workers,
            threads=data.threads,
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return {"source": next(self._stream)}

    def describe(self, batch: Batch) -> str:
        """Which images are in a batch, for messages."""
        rows = self.examples.people.image[batch["source"]["index"]]
        names = [str(n) for n in self.examples.source.annotations.file_name[rows]]
        return ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")

    def close(self) -> None:
        self._stream.close()


def evaluation_stream(config: Any, examples: PersonExamples) -> Iterator[Batch]:
    """Every example of a split once, in batches of `config.evaluate.batch_size`."""
    batches = evaluation_batches(
        examples, batch_size=config.evaluate.batch_size, process=process(), threads=config.data.threads
    )
    return ({"source": batch} for batch in batches)
