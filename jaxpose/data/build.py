"""From `config.data` to the batches of a method: which source, which people or images, which view."""

import dataclasses
import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxpose import skeleton as skeletons
from jaxpose.data.detections import simulate_detections
from jaxpose.data.examples import person_boxes
from jaxpose.data.examples.base import Examples
from jaxpose.data.examples.clips import ClipExamples, Videos, confident
from jaxpose.data.examples.detection import DetectionImages
from jaxpose.data.examples.images import EvaluationImages, ImageExamples, TrainingImages
from jaxpose.data.examples.people import PersonExamples
from jaxpose.data.examples.sequences import SequenceExamples, SequenceSource, WholeSequences, open_sequences
from jaxpose.data.loader import TrainStream, evaluation_batches
from jaxpose.data.proposals import PoseGuidedProposals
from jaxpose.data.sources import Source, coco, open_source
from jaxpose.data.views import (
    NO_AUGMENTATION,
    Augmentation,
    CanvasAugmentation,
    CornerCanvas,
    DetectionAugmentation,
    PersonCrop,
)
from jaxpose.errors import ConfigError
from jaxpose.methods.base import Method
from jaxpose.methods.bottom_up import CanvasInput, DetectionInput, ImageInput
from jaxpose.methods.lifting import SequenceInput
from jaxpose.methods.top_down import ClipInput, CropInput
from jaxpose.types import Batch, Spec, Stream

logger = logging.getLogger(__name__)


def process() -> tuple[int, int]:
    """(index, count) of this process."""
    return jax.process_index(), jax.process_count()


def train_examples(config: Any, method: Method) -> dict[str, Examples]:
    """The examples of every stream of the method, {stream: examples}.

    A stream reads what `config.data` says, changed by the fields of `config.data.streams[stream]` where there are any.

    Raises:
      JaxposeError: about `config.data` or what it names, or a method for which there are no examples.
    """
    _opener(method)
    sources: dict[str, Source | SequenceSource] = {}
    examples = {}
    names = list(method.spec(1))
    for stranger in sorted(set(config.data.streams) - set(names)):
        logger.warning("config.data.streams.%s changes nothing: the method has the streams %s", stranger, names)
    for name in names:
        data = stream_data(config.data, name)
        _check_joints(data, method, name)
        where = str({k: v for k, v in data.items() if k not in _LOOKS})
        if where not in sources:
            sources[where] = _open(data, method, "train")
        examples[name] = open_examples(data, method, "train", name, sources[where])
    return examples


def stream_data(data: Any, stream: str) -> Any:
    """`config.data` as a stream of training sees it.

    Raises:
      ConfigError: `data.streams[stream]` changes a field that there is not.
    """
    changed = data.copy_and_resolve_references()
    changes = data.streams.get(stream, {})
    unknown = set(changes) - set(data)
    for field in ("augmentation", "canvas", "clips", "detection", "proposals"):
        unknown |= {f"{field}.{inner}" for inner in set(changes.get(field, {})) - set(data[field])}
    if unknown:
        raise ConfigError(
            f"config.data.streams.{stream} has the fields {sorted(unknown)}, which config.data has not; "
            f"it can change {', '.join(sorted(set(data) - {'streams'}))}"
        )
    with changed.unlocked():
        changed.update(changes)
    return changed


_LOOKS = (
    "augmentation", "canvas", "clips", "detection", "proposals",
    "padding", "half_pixel", "antialias", "streams", "threads", "workers",
)  # fmt: skip
"""Fields of `config.data` that do not say where the data are."""


_MESSAGES = ("index", "valid")
"""Fields of every batch, by which messages name its examples."""


def evaluation_examples(config: Any, method: Method) -> Examples:
    """What is evaluated: the people, or images, of the validation split.

    That of `config.data`, or with `config.evaluate.stream` that of a stream of training.

    Raises:
      JaxposeError: as `train_examples`; or the method has no such stream.
    """
    _opener(method)
    data, stream = config.data, config.evaluate.stream
    if stream:
        if stream not in (names := list(method.spec(1))):
            raise ConfigError(f"config.evaluate.stream is {stream!r}; the method has the streams {', '.join(names)}")
        data = stream_data(data, stream)
    _check_joints(data, method, "source")
    return open_examples(data, method, "validation", "source", _open(data, method, "validation"))


def _check_joints(data: Any, method: Method, stream: str) -> None:
    """Raises ConfigError if a stream has labels of other joints than the method's; before any data is made or read."""
    known = skeletons.get(data.skeleton).name
    if known != method.skeleton and {"keypoints", "joints_3d"} & set(method.spec(1)[stream]):
        raise ConfigError(
            f"config.method.skeleton is {method.skeleton!r}, but config.data.skeleton asks for the joints of "
            f"{known!r}; set both to the same"
        )


def _open(data: Any, method: Method, split: str) -> Source | SequenceSource:
    """The split of the source that has the method's kind of input."""
    opened = open_sequences if isinstance(method, SequenceInput) else open_source
    return opened(data, split, progress=jax.process_index() == 0)


def open_examples(data: Any, method: Method, split: str, stream: str, source: Source | SequenceSource) -> Examples:
    """The examples of a split in the form that the method takes."""
    if split == "train":
        _warn_unmirrored(data, method)
    return _opener(method)(data, method, split, stream, source)


def _warn_unmirrored(data: Any, method: Method) -> None:
    if isinstance(method, CropInput | CanvasInput) and method.flip_test:
        views = "augmentation" if isinstance(method, CropInput) else "canvas"
        if not data[views].mirror:
            logger.warning(
                "config.method.flip_test averages with mirrored images, but config.data.%s.mirror is 0: "
                "training shows none. Set one of them.",
                views,
            )


def _opener(method: Method) -> Callable[..., Examples]:
    """The function that opens the examples of a method's kind of input.

    Raises:
      ConfigError: the method is of no known kind.
    """
    kinds = {
        ClipInput: clip_examples,
        CropInput: person_examples,
        DetectionInput: detection_examples,
        CanvasInput: canvas_examples,
        SequenceInput: sequence_examples,
    }
    for kind, opener in kinds.items():
        if isinstance(method, kind):
            return opener
    raise ConfigError(
        f"config.method: {type(method).__name__} takes a {method.input_kind or 'kind of input of its own'}; training "
        f"and evaluation know methods of the kinds {', '.join(kind.__name__ for kind in kinds)}"
    )


def canvas_examples(data: Any, method: CanvasInput, split: str, stream: str, source: Source) -> ImageExamples:
    """The images of a split, for a method that is trained on square canvases.

    Training looks at random views as `data.canvas` asks for them, and skips unreadable images. Evaluation looks at
    whole images, and an unreadable one is an error.
    """
    if split != "train":
        return _whole_images(method, source)
    examples = TrainingImages(
        source,
        max_people=method.max_people,
        size=method.input_size,
        mask_strides=method.mask_strides,
        augmentation=CanvasAugmentation(**data.canvas),
        skip_bad_images=True,
    )
    _log_counts(examples)
    return examples


def detection_examples(data: Any, method: DetectionInput, split: str, stream: str, source: Source) -> ImageExamples:
    """The images of a split, for a method that learns boxes; as `canvas_examples`, with views by `data.detection`."""
    if split != "train":
        return _whole_images(method, source)
    width, height = method.input_size
    examples = DetectionImages(
        source,
        max_people=method.max_people,
        canvas=CornerCanvas((width, height), method.short_side, method.long_side),
        augmentation=DetectionAugmentation(**data.detection),
        joints="keypoints" in method.spec(1)[stream],
        skip_bad_images=True,
    )
    _log_counts(examples)
    return examples


def _whole_images(method: ImageInput, source: Source) -> EvaluationImages:
    examples = EvaluationImages(source, max_people=method.max_people, layout=method.layout, scales=method.scales)
    _log_counts(examples)
    return examples


def _log_counts(examples: ImageExamples) -> None:
    source = examples.source
    logger.info("%s: %d images with %d people", source.name, len(examples), source.annotations.num_people)


def sequence_examples(
    data: Any, method: SequenceInput, split: str, stream: str, source: SequenceSource
) -> SequenceExamples | WholeSequences:
    """The videos of a split, for a method that lifts 2D joints: windows to train on, whole videos to evaluate."""
    field, causal = method.receptive_field, method.causal
    logger.info("%s: %d videos with %d frames", source.name, len(source), sum(map(len, source.videos)))
    if split != "train":
        return WholeSequences(source, field, causal)
    return SequenceExamples(source, field, drawn=method.spec(1)[stream]["drawn"].shape[1], causal=causal)


def person_examples(data: Any, method: CropInput, split: str, stream: str, source: Source) -> PersonExamples:
    """The people of a split as `config.data` asks for them.

    Training looks at true boxes with augmentation, or at random ones, and skips unreadable images. Evaluation looks at
    true boxes, and an unreadable image is an error. Both look at other boxes where `data.<split>.boxes` names them: a
    file of detections, "simulated" for those that `data.simulated` describes, or "image" for images of single people
    each of which is one box, whether or not its person has labels. Detections that score less than
    `data.<split>.box_threshold` are left out.
    """
    return PersonExamples(**_person_fields(data, method, split, stream, source))


def clip_examples(data: Any, method: ClipInput, split: str, stream: str, source: Source) -> ClipExamples:
    """The people of the frames of videos, each with the frames before and after it that `data.examples.clips` asks for.

    Which images are a video's frames is said by the data set (`data.sources.posetrack`), or by their folders and
    names; see `clips.Videos`. All else is as for `person_examples`.
    """
    videos = Videos.of(source.annotations)
    logger.info("%s: %d videos", source.name, len(videos))
    fields = _person_fields(data, method, split, stream, source)
    return ClipExamples(**fields, videos=videos, distance=tuple(data.clips.distance))


def _person_fields(data: Any, method: Method, split: str, stream: str, source: Source) -> dict[str, Any]:
    train = split == "train"
    seen = choose_people(data, split, source)
    logger.info("%s: %d images, %d people", source.name, len(source), len(seen))
    return {
        "source": source,
        "people": seen,
        "crop": person_crop(data, method),
        "augmentation": Augmentation(**data.augmentation) if train else NO_AUGMENTATION,
        "proposals": open_proposals(data.proposals, source) if train else None,
        "proposals_from": data.proposals.from_step,
        "centered": train and "centered_keypoints" in method.spec(1)[stream],
        "skip_bad_images": train,
    }


def person_crop(data: Any, method: Method) -> PersonCrop:
    """How people are cut out of images for a method."""
    *_, height, width, _ = method.spec(1)["source"]["image"].shape
    return PersonCrop((width, height), data.padding, data.half_pixel, data.antialias, data.unbiased)


def choose_people(data: Any, split: str, source: Source) -> person_boxes.PersonBoxes:
    """The boxes of a split; see `person_examples`."""
    boxes = data[split].get("boxes", "") if split in data else ""
    if not boxes:
        return person_boxes.annotated(source.annotations, source.name)
    if boxes == "image":
        return person_boxes.whole_images(source.annotations, source.name)
    if boxes == "simulated":
        found = simulate_detections(source.annotations, **data.simulated)
    else:
        found = coco.read_detections(boxes, source.annotations.image_id, source.annotations.sizes)
    found = confident(found, data[split].get("box_threshold", 0.0))
    return person_boxes.detected(source.annotations, found, boxes)


def open_proposals(config: Any, source: Source) -> PoseGuidedProposals | None:
    """The random boxes that `config.data.proposals` describes, if any."""
    if config.file:
        return PoseGuidedProposals.read(config.file).for_skeleton(source.annotations.skeleton)
    return PoseGuidedProposals.single(config.rule) if config.rule else None


@dataclasses.dataclass
class TrainBatches:
    """Iterator over training batches of this process: {stream: fields}.

    What a stream's examples know, but the method does not ask for, goes no further: the labels of a target domain,
    which many data sets have, are in no batch.

    Attributes:
      config: the whole config.
      examples: examples of every stream.
      step: the first batch is that of this step.
      spec: fields that the method asks for.
    """

    config: Any
    examples: dict[str, Examples]
    step: int
    spec: Spec

    def __post_init__(self):
        data = self.config.data
        self._streams = {
            name: TrainStream(
                examples,
                seed=self.config.seed if name == "source" else zlib.crc32(f"{name} {self.config.seed}".encode()),
                batch_size=self.config.train.batch_size,
                step=self.step,
                process=process(),
                workers=data.workers,
                threads=data.threads,
            )
            for name, examples in self.examples.items()
        }

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return {name: self._asked_for(name, next(stream)) for name, stream in self._streams.items()}

    def _asked_for(self, stream: str, fields: Stream) -> Stream:
        names = {*self.spec[stream], *_MESSAGES}
        return {name: values for name, values in fields.items() if name in names}

    def describe(self, batch: Batch) -> str:
        """Which images are in a batch, for messages."""
        names = []
        for stream, examples in self.examples.items():
            names += examples.names(batch[stream]["index"])
        return ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


def evaluation_stream(config: Any, examples: Examples) -> Iterator[Batch]:
    """Every example of a split once, in batches of `config.evaluate.batch_size`."""
    batches = evaluation_batches(
        examples, batch_size=config.evaluate.batch_size, process=process(), threads=config.data.threads
    )
    return ({"source": batch} for batch in batches)
