"""Poses of people in images, as a Python call.

    predictor = jaxpose.load(workdir, detector=workdir_of_a_detector)
    for people in predictor(images):
        people.keypoints, people.scores, people.person_score, people.boxes

Top-down methods need boxes of people, from a detector or from the caller. The command `jaxpose predict` is built on it.
"""

import collections
import copy
import dataclasses
import functools
import itertools
import logging
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpose import sharding
from jaxpose.data.build import person_crop
from jaxpose.data.views import PersonCrop
from jaxpose.errors import DataError, NonFiniteError
from jaxpose.evaluation.people import People, not_finite, people_of, rows_of, with_good_boxes
from jaxpose.evaluation.suppression import Suppression
from jaxpose.inference.requests import (
    CropPreprocessor,
    ImagePreprocessor,
    ModelInput,
    Picture,
    Preprocessor,
    Request,
    stack,
)
from jaxpose.methods.base import Method
from jaxpose.methods.bottom_up import ImageInput
from jaxpose.methods.lifting import SequenceInput
from jaxpose.types import Detections, Poses, Variables

logger = logging.getLogger(__name__)

FindBoxes = Callable[[Picture], tuple[np.ndarray, np.ndarray]]
"""A detector: picture -> boxes [N, 4] (x, y, w, h) in its pixels, and their scores [N]."""

Failed = Callable[[Picture, DataError], None]
"""What becomes of a picture that cannot be used."""

MAX_WAITING = 4
"""So many batches of crops or canvases are held back at most until one of their size is full."""


def load(
    workdir: str | pathlib.Path,
    step: int | None = None,
    batch_size: int = 16,
    changes: Mapping[str, Any] | None = None,
    detector: "str | pathlib.Path | Predictor | None" = None,
    box_threshold: float = 0.3,
    like: str = "",
) -> "Predictor":
    """A predictor from what a run learned (averaged parameters where it keeps an average) or from released weights.

    Args:
      workdir: folder of a run, file of weights, their name in the zoo, or a repository of the Hugging Face hub as
        "hf://ORG/NAME" or "hf://ORG/NAME@REVISION".
      step: step of the checkpoint; the newest good one if None.
      batch_size: number of crops or images that go through the network at once, in the detector too.
      changes: new values of fields of the run's config: {"method.flip_test": False, "evaluate.pose_nms.file": FILE}.
      detector: detector that finds people for a top-down method: its predictor, or a source as `workdir`.
      box_threshold: least score of the boxes that a run finds; others are left out, with the poses in them.
      like: config of released weights that says what their entries can't, such as "heatmap:coco_w32_384"; that of the
        zoo's table if empty.

    Raises:
      CheckpointError: no run or no good checkpoint there, or a file that cannot be used.
      ConfigError: a change of a field that there is not, or one that makes another network.
      DataError: a detector for a method that finds people by itself, or one that finds no boxes; a run that looks at
        no pictures (see `jaxpose.inference.lifter`).

    Examples:
      >>> import tempfile
      >>> from jaxpose import load_config, train
      >>> from jaxpose.methods.heatmap import tiny
      >>> folder = tempfile.mkdtemp()
      >>> config = load_config("heatmap", {"data.dir": folder, "data.marionettes.train": 8, "evaluate.every": 0})
      >>> config.data.marionettes.validation = config.train.batch_size = config.evaluate.batch_size = 8
      >>> config.train.steps = 1
      >>> config.method.update(tiny.FIELDS["heatmap"])
      >>> state = train(config, f"{folder}/run")
      >>> predictor = load(f"{folder}/run", batch_size=8)
      >>> people = predictor([np.zeros((120, 160, 3), np.uint8)])[0]
      >>> people.keypoints.shape
      (1, 16, 2)
    """
    from jaxpose.runs.reader import open_network

    content = open_network(workdir, step, changes, like)
    config, method, variables = content.config, content.method, content.variables
    if isinstance(method, SequenceInput):
        raise DataError(f"{workdir} lifts 2D joints to 3D and looks at no pictures; jaxpose lift reads it")
    if content.about.is_drawn:
        _warn_of_drawn_people()
    predictor = Predictor(
        method,
        variables,
        crop=person_crop(config.data, method) if method.takes_boxes else None,
        batch_size=batch_size,
        suppression=Suppression.create(config.evaluate, method.joints.num_joints),
        box_threshold=box_threshold,
        distance=tuple(config.data.clips.distance),
    )
    if detector is None:
        return predictor
    if not predictor.takes_boxes:
        raise DataError(f"{workdir} looks at whole images and finds people by itself; detector {detector} has no use")
    if not isinstance(detector, Predictor):
        detector = load(detector, batch_size=batch_size, box_threshold=box_threshold)
    return predictor.with_detector(detector)


@functools.cache
def _warn_of_drawn_people() -> None:
    """Says once in a process what such weights are good for."""
    logger.warning(
        "these weights learned from marionettes, drawn people, and find little in photographs; "
        "`jaxpose zoo` lists weights that know those"
    )


class Predictor:
    """Finds poses in images, or boxes if the method is a detector.

    Compiled once for crops of people; for whole images, once for each size of canvas.

    Args:
      method: method of the run.
      variables: parameters and statistics of its network.
      crop: geometry of crops, as in training, for top-down methods; None for 1.25 times people's boxes.
      batch_size: number of crops or images at once; raised to a multiple of the number of devices.
      suppression: suppression of duplicates among an image's people.
      box_threshold: least score of the boxes that the method finds; others are left out, with the poses in them.
      distance: (previous, next) distances of the first frames that are too far, as in training, for methods that look
        at clips.

    Attributes:
      takes_boxes: whether the method is top-down and so needs boxes; if not, it finds people by itself.
      is_detector: whether the method is a detector, which finds boxes without poses.
      detector: predictor that finds people where the caller gives no boxes; see `with_detector`.
      preprocess: function from a request to its model inputs.

    Examples:
      >>> from jaxpose import methods
      >>> from jaxpose.methods.heatmap import tiny
      >>> fields = {"skeleton": "mpii", "backbone": "resnet18"} | tiny.FIELDS["heatmap"]
      >>> method = methods.create({"name": "heatmap"} | fields)
      >>> predictor = Predictor(method, method.init(jax.random.key(0)), batch_size=8)
      >>> boxes = [np.array([[10, 20, 30, 60], [80, 20, 30, 60]])]
      >>> people = predictor([np.zeros((120, 160, 3), np.uint8)], boxes)[0]
      >>> people.scores.shape
      (2, 16)
    """

    def __init__(
        self,
        method: Method,
        variables: Variables,
        *,
        crop: PersonCrop | None = None,
        batch_size: int = 16,
        suppression: Suppression = Suppression(),  # noqa: B008
        box_threshold: float = 0.3,
        distance: tuple[int, int] = (2, 2),
    ):
        self._mesh = mesh = sharding.make_mesh(types.SimpleNamespace(fsdp=1))
        self.method, self.variables = method, variables
        self.skeleton = method.joints
        self.takes_boxes, self.distance = method.takes_boxes, distance
        self.is_detector = not method.finds_poses
        self.detector: Predictor | None = None
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self.preprocess = _preprocessor(method, crop)
        self._suppression, self._box_threshold = suppression, box_threshold
        copied, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        self._predict = jax.jit(method.predict, in_shardings=(copied, split), out_shardings=copied)

    def with_detector(self, detector: "Predictor") -> "Predictor":
        """The same predictor, which asks another one where people are.

        Raises:
          DataError: this one finds people by itself, or the other one finds no boxes.
        """
        if not self.takes_boxes:
            name = type(self.method).__name__
            raise DataError(f"a detector is given, but {name} looks at whole images and finds people by itself")
        if not detector.is_detector:
            name = type(detector.method).__name__
            raise DataError(f"the detector's method is {name}, which finds poses; expected one that finds boxes (detr)")
        other = copy.copy(self)
        other.detector = detector
        return other

    def __call__(
        self,
        pictures: Sequence[np.ndarray],
        boxes: Sequence[np.ndarray] | None = None,
        box_scores: Sequence[np.ndarray] | None = None,
    ) -> list[People]:
        """The people of each image.

        Args:
          pictures: images [H, W, 3] uint8 RGB, of any size.
          boxes: [N, 4] boxes (x, y, w, h) of the people of each image; if None, a top-down method asks its detector, or
            takes each image as one box if it has none.
          box_scores: [N] scores of the boxes of each image; 1 if None.

        Raises:
          DataError: images, boxes or scores that do not fit each other, or boxes for a method that takes none.
        """
        for name, values in {"boxes": boxes, "box_scores": box_scores}.items():
            if values is not None and not self.takes_boxes:
                raise DataError(f"{name} are given, but this method looks at whole images and finds people by itself")
            if values is not None and len(values) != len(pictures):
                raise DataError(f"{name} are for {len(values)} images, but there are {len(pictures)}")

        named = [Picture(f"number {i}", np.asarray(image), id=i) for i, image in enumerate(pictures)]
        if boxes is None:
            return [people for _, people in self.stream(named)]
        if box_scores is None:
            box_scores = [np.ones(len(own)) for own in boxes]
        given = [(np.asarray(own, np.float32).reshape(-1, 4), np.asarray(s)) for own, s in zip(boxes, box_scores)]
        return [people for _, people in self.stream(named, lambda picture: given[picture.id or 0])]

    def stream(
        self,
        pictures: Iterable[Picture],
        find_boxes: FindBoxes | None = None,
        most: int | None = None,
        failed: Failed | None = None,
    ) -> Iterator[tuple[Picture, People]]:
        """Pictures with their people, in order, for any number of pictures.

        Batches are filled across pictures, in the detector as in the pose stage and in suppression; the next one is
        read while the device works on the last. A bounded number of pictures is held.

        Args:
          pictures: files, a video's frames, ...
          find_boxes: function from a picture to boxes of its people, for top-down methods; None for the detector, or
            one box around everything if there is none.
          most: number of pictures, besides those of a batch, that either stage holds before batches that are not full
            go to the device; 8 batches of one person each if None.
          failed: function that is told of a picture that cannot be used, which is then left out; None to raise.

        Raises:
          DataError: a picture or box that cannot be used, without `failed`.
          NonFiniteError: the network's outputs are NaN or infinite.
        """
        waiting: collections.deque[Request] = collections.deque()
        pending: dict[Any, list[ModelInput]] = {}
        running: _Running | None = None
        most = most or 2 * MAX_WAITING * self.batch_size
        together = 1 if self.is_detector else self.batch_size  # boxes wait for nothing: no duplicates are removed
        for request in self.requests(pictures, find_boxes, most, failed):
            if (looks := self.looks(request, failed)) is None:
                continue
            waiting.append(request)
            for each in looks:
                inputs = pending.setdefault(each.shapes, [])
                inputs.append(each)
                if len(inputs) == self.batch_size:
                    running = self._advance(running, pending.pop(each.shapes))
            while sum(map(len, pending.values())) > MAX_WAITING * self.batch_size:
                running = self._advance(running, pending.pop(next(iter(pending))))
            yield from self._finished(waiting, together)
            if len(waiting) > most:  # the oldest has an input of a rare size
                running = self._drain(running, pending)
                yield from self._finished(waiting)
        self._drain(running, pending)
        yield from self._finished(waiting)

    def requests(
        self,
        pictures: Iterable[Picture],
        find_boxes: FindBoxes | None = None,
        most: int | None = None,
        failed: Failed | None = None,
    ) -> Iterator[Request]:
        """Pictures with the boxes to look at; arguments as for `stream`."""
        if self.takes_boxes and find_boxes is None and self.detector is not None:
            boxed = (
                (p, found.boxes, found.person_score) for p, found in self.detector.stream(pictures, None, most, failed)
            )
        else:
            find = find_boxes if self.takes_boxes and find_boxes is not None else whole_image
            boxed = ((picture, *find(picture)) for picture in pictures)
        for picture, boxes, scores in boxed:
            try:
                request = Request.open(picture, boxes, scores)
            except DataError as error:
                _fail(picture, error, failed)
            else:
                yield request

    def looks(self, request: Request, failed: Failed | None = None) -> list[ModelInput] | None:
        """The model inputs of a request; None if its picture cannot be used, of which `failed` was told."""
        try:
            return list(self.preprocess(request))
        except DataError as error:
            _fail(request.picture, error, failed)
            return None

    def _drain(self, running: "_Running | None", pending: dict[Any, list[ModelInput]]) -> None:
        """Collects everything that is under way."""
        while pending:
            running = self._advance(running, pending.pop(next(iter(pending))))
        self._advance(running, [])

    def _advance(self, running: "_Running | None", inputs: list[ModelInput]) -> "_Running | None":
        """Sends inputs of one shape to the device, then collects what it was working on before."""
        started = self._start(inputs) if inputs else None
        if running is not None:
            self._collect(running)
        return started

    def _start(self, inputs: list[ModelInput]) -> "_Running":
        batch = stack(inputs, self.batch_size)
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            return _Running(inputs, self._predict(self.variables, {"source": batch}))

    def _collect(self, running: "_Running") -> None:
        """Hands what was found in a batch to the requests that asked for it."""
        inputs = running.inputs
        found = jax.tree.map(lambda values: values[: len(inputs)], jax.device_get(running.found))
        if len(broken := np.flatnonzero(not_finite(found))):
            raise NonFiniteError(
                f"image {inputs[broken[0]].request.picture.name}: the network gives NaN or infinite numbers; "
                "its parameters are unusable, take an earlier --step"
            )
        rows = rows_of(found, self.preprocess.shown(inputs) | {"index": np.arange(len(inputs))})
        if self.method.finds_boxes:
            rows = with_good_boxes(rows, self._box_threshold)
        ends = np.searchsorted(rows["index"], np.arange(len(inputs) + 1))
        for each, first, end in zip(inputs, ends[:-1], ends[1:], strict=True):
            each.request.found[each.number] = {name: values[first:end] for name, values in rows.items()}
            each.request.missing -= 1

    def _finished(self, waiting: collections.deque[Request], least: int = 1) -> Iterator[tuple[Picture, People]]:
        """The oldest requests with their people, if at least so many of them are done; a batch of them at a time."""
        while True:
            done = list(itertools.takewhile(lambda request: not request.missing, waiting))[: self.batch_size]
            if len(done) < least or not done:
                return
            for _ in done:
                waiting.popleft()
            joints = 0 if self.is_detector else self.skeleton.num_joints
            parts = [request.parts() for request in done]
            people = people_of(parts, joints, self.skeleton.sigmas, self._suppression)
            yield from zip((request.picture for request in done), people, strict=True)


def _preprocessor(method: Method, crop: PersonCrop | None) -> Preprocessor:
    if method.takes_boxes:
        return CropPreprocessor(method, crop)
    if isinstance(method, ImageInput):
        return ImagePreprocessor(method)
    raise DataError(f"{type(method).__name__} takes a {method.input_kind}; prediction looks at pictures")


def _fail(picture: Picture, error: DataError, failed: Failed | None) -> None:
    if failed is None:
        raise error
    failed(picture, error)


def whole_image(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """One box around everything."""
    height, width = picture.image.shape[:2]
    return np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)


@dataclasses.dataclass(frozen=True)
class _Running:
    """A batch that the device works on.

    Attributes:
      inputs: rows of the batch.
      found: arrays that the device will give.
    """

    inputs: list[ModelInput]
    found: Poses | Detections
