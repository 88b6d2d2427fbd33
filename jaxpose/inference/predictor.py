"""Poses of people in images, as a Python call.

predictor = jaxpose.load(workdir, detector=workdir_of_a_detector)
for people in predictor(images):
    people.keypoints, people.scores, people.person_score, people.boxes

A method that looks at one person at a time is told where people are by a detector, or by the caller. The command
`jaxpose predict` is built on it.
"""

import collections
import copy
import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpose import sharding
from jaxpose.data.annotations import tight_boxes
from jaxpose.data.build import person_crop
from jaxpose.data.examples import images
from jaxpose.data.views import PersonCrop
from jaxpose.errors import DataError, NonFiniteError
from jaxpose.evaluation.suppression import Suppression, suppress
from jaxpose.methods.base import Method
from jaxpose.methods.lifting import SequenceInput
from jaxpose.types import Detections, Poses, Variables

FindBoxes = Callable[["Picture"], tuple[np.ndarray, np.ndarray]]
"""A detector: picture -> boxes [N, 4] (x, y, w, h) in its pixels, and their scores [N]."""

MAX_WAITING = 4
"""So many batches of crops or canvases are held back at most until one of their size is full."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image in which to look for people: a file, a video's frame, or what a caller passes.

    Attributes:
      name: for messages.
      image: [H, W, 3] uint8 RGB.
      id: of the image in an annotation or detection file, if any.
      around: of a video's frame, the one before and the one after it, of the same size, for methods that look at clips
        (`jaxpose.inference.video` fills it in); None where there are none, and the image takes their place.
      margin: how many frames away those are.
    """

    name: str
    image: np.ndarray
    id: int | None = None
    around: tuple[np.ndarray, np.ndarray] | None = None
    margin: tuple[float, float] = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class People:
    """The people of one image, by falling score.

    Attributes:
      keypoints: [N, K, 2] pixels of the image; from a detector, which knows of no joints, K is 0.
      scores: [N, K] of the joints, in [0, 1].
      person_score: [N].
      boxes: [N, 4] (x, y, w, h), where each was looked for, or which the method itself found, or else that of the
        joints where the whole image was looked at.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    person_score: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.person_score)

    def to_coco(self) -> list[dict[str, Any]]:
        """One object a person in COCO's format of results, rounded: "category_id" 1, "keypoints" (x, y, score of each
        joint), "score" and "person_box" (x, y, w, h). Without joints there is "bbox" in place of keypoints and box."""
        points = np.concatenate([self.keypoints.round(2), self.scores[..., None].round(4)], axis=-1, dtype=np.float64)
        records = []
        for i in range(len(self)):
            box = [round(v, 2) for v in self.boxes[i].tolist()]
            joints = [round(v, 4) for v in points[i].reshape(-1).tolist()]
            found = {"keypoints": joints} if joints else {"bbox": box}
            found |= {"score": round(float(self.person_score[i]), 6)}
            records.append({"category_id": 1} | found | ({"person_box": box} if joints else {}))
        return records


def load(
    workdir: str | pathlib.Path,
    step: int | None = None,
    batch_size: int = 16,
    changes: Mapping[str, Any] | None = None,
    detector: "str | pathlib.Path | Predictor | None" = None,
    box_threshold: float = 0.3,
) -> "Predictor":
    """A predictor from what a run learned: averaged parameters where it keeps an average.

    Args:
      workdir: folder of a run.
      step: of the checkpoint; the newest good one if None.
      batch_size: crops or images that go through the network at once, in the detector too.
      changes: {"method.flip_test": False, "evaluate.pose_nms.file": FILE, ...}, fields of the run's config that are to
        differ now.
      detector: finds people for a method that looks at one at a time: a run, or what `load` made of one.
      box_threshold: boxes that a run finds with a lower score are left out, with the poses in them.

    Raises:
      CheckpointError: no run or no good checkpoint there.
      ConfigError: a change of a field that there is not, or one that makes another network.
      DataError: a detector for a method that finds people by itself, or one that finds no boxes; a run that looks at
        no pictures (see `jaxpose.inference.lifter`).
    """
    from jaxpose.runs.checkpoint import load_for_inference

    config, method, variables = load_for_inference(workdir, step, changes)
    if isinstance(method, SequenceInput):
        raise DataError(f"{workdir} lifts 2D joints to 3D and looks at no pictures; jaxpose lift reads it")
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


def whole_image(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """One box around everything."""
    height, width = picture.image.shape[:2]
    return np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)


class Predictor:
    """Finds poses in images, or boxes if the method is a detector.

    Compiled once for crops of people; for whole images, once for each size of canvas.

    Args:
      method: the paper.
      variables: its parameters and statistics.
      crop: how people are cut out, as in training, for methods that see one; None for 1.25 times their boxes.
      batch_size: crops or images at once; raised to a multiple of the number of devices.
      suppression: of duplicates among an image's people.
      box_threshold: boxes that the method finds with a lower score are left out, with the poses in them.
      distance: (previous, next), for methods that look at clips: of the first frames that are too far, as in training.

    Attributes:
      takes_boxes: whether the method wants to be told where people are; if not, it finds them.
      finds_boxes: whether it is a detector, which finds boxes without poses.
      detector: finds people where the caller does not say where they are; see `with_detector`.
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
        self.finds_boxes = not method.finds_poses
        self.detector: Predictor | None = None
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self.looks = CropLooks(method, crop) if method.takes_boxes else ImageLooks(method)
        self._suppress = functools.partial(suppress, sigmas=self.skeleton.sigmas, suppression=suppression)
        self._box_threshold = box_threshold
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
        if not detector.finds_boxes:
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
          pictures: [H, W, 3] uint8 RGB each, of any size.
          boxes: for each image, [N, 4] (x, y, w, h) of people; without, a method that sees one person asks its
            detector, or looks at each image as one box if it has none.
          box_scores: for each image, [N] of its boxes; 1 if not given.

        Raises:
          DataError: images, boxes or scores that do not fit each other, or boxes for a method that takes none.
        """
        for name, values in {"boxes": boxes, "box_scores": box_scores}.items():
            if values is not None and not self.takes_boxes:
                raise DataError(f"{name} are given, but this method looks at whole images and finds people by itself")
            if values is not None and len(values) != len(pictures):
                raise DataError(f"{name} are for {len(values)} images, but there are {len(pictures)}")

        def find(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
            own = np.asarray(boxes[picture.id], np.float32).reshape(-1, 4)
            return own, np.ones(len(own)) if box_scores is None else np.asarray(box_scores[picture.id])

        named = (Picture(f"number {i}", np.asarray(image), id=i) for i, image in enumerate(pictures))
        return [people for _, people in self.stream(named, None if boxes is None else find)]

    def stream(
        self, pictures: Iterable[Picture], find_boxes: FindBoxes | None = None, most: int | None = None
    ) -> Iterator[tuple[Picture, People]]:
        """Pictures with their people, in order, for any number of pictures.

        Batches are filled across pictures, in the detector as in the pose stage; the next one is read while the device
        works on the last. A bounded number of pictures is held.

        Args:
          pictures: files, a video's frames, ...
          find_boxes: where the people of a picture are, for methods that see one person; None for the detector, or
            everything if there is none.
          most: so many pictures, and those of a batch, are held by either stage before batches that are not full go to
            the device; 8 batches of one person each if None.

        Raises:
          DataError: a picture or box that cannot be used.
          NonFiniteError: the network's outputs are NaN or infinite.
        """
        waiting: collections.deque[Job] = collections.deque()
        pending: dict[Any, list[Look]] = {}
        running: _Running | None = None
        most = most or 2 * MAX_WAITING * self.batch_size
        for job in self.jobs(pictures, find_boxes, most):
            waiting.append(job)
            for look in self.looks(job):
                looks = pending.setdefault(look.shapes, [])
                looks.append(look)
                if len(looks) == self.batch_size:
                    running = self._advance(running, pending.pop(look.shapes))
            while sum(map(len, pending.values())) > MAX_WAITING * self.batch_size:
                running = self._advance(running, pending.pop(next(iter(pending))))
            yield from self._done(waiting)
            if len(waiting) > most:  # the oldest has a look of a rare size
                running = self._drain(running, pending)
                yield from self._done(waiting)
        self._drain(running, pending)
        yield from self._done(waiting)

    def jobs(
        self, pictures: Iterable[Picture], find_boxes: FindBoxes | None = None, most: int | None = None
    ) -> "Iterator[Job]":
        """Pictures with the boxes to look at; arguments as for `stream`."""
        if self.takes_boxes and find_boxes is None and self.detector is not None:
            for picture, people in self.detector.stream(pictures, most=most):
                yield open_job(picture, people.boxes, people.person_score)
            return
        find = find_boxes if self.takes_boxes and find_boxes is not None else whole_image
        for picture in pictures:
            yield open_job(picture, *find(picture))

    def _drain(self, running: "_Running | None", pending: "dict[Any, list[Look]]") -> None:
        """Collects everything that is under way."""
        while pending:
            running = self._advance(running, pending.pop(next(iter(pending))))
        self._advance(running, [])

    def _advance(self, running: "_Running | None", looks: "list[Look]") -> "_Running | None":
        """Sends looks of one shape to the device, then collects what it was working on before."""
        started = self._start(looks) if looks else None
        if running is not None:
            self._finish(running)
        return started

    def _start(self, looks: "list[Look]") -> "_Running":
        batch = stack(looks, self.batch_size)
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            return _Running(looks, self._predict(self.variables, {"source": batch}))

    def _finish(self, running: "_Running") -> None:
        """Hands what was found in a batch to the pictures that it was found in."""
        found = jax.device_get(running.found)
        columns = columns_of(found)
        for row, look in enumerate(running.looks):
            valid = found.valid[row]
            own = {name: values[row][valid] for name, values in columns.items()}
            if not all(np.isfinite(values).all() for values in own.values()):
                raise NonFiniteError(
                    f"image {look.job.picture.name}: the network gives NaN or infinite numbers; "
                    "its parameters are unusable, take an earlier --step"
                )
            look.job.found[look.number] = own
            look.job.missing -= 1

    def _done(self, waiting: "collections.deque[Job]") -> Iterator[tuple[Picture, People]]:
        while waiting and not waiting[0].missing:
            job = waiting.popleft()
            yield job.picture, self._collect_boxes(job) if self.finds_boxes else self._collect(job)

    def _collect_boxes(self, job: "Job") -> People:
        """All usable boxes of a picture."""
        found = self._usable(job.found[0])
        boxes, scores = found["box"], found["box_score"]
        order = np.argsort(-scores, kind="stable")
        none = np.zeros((len(order), 0), np.float32)
        return People(np.zeros((len(order), 0, 2), np.float32), none, scores[order], boxes[order])

    def _usable(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows whose boxes have an area and score well enough, if the method finds boxes."""
        if "box" not in found:
            return found
        good = (found["box_score"] >= self._box_threshold) & (found["box"][:, 2:] > 0).all(-1)
        return {name: values[good] for name, values in found.items()}

    def _collect(self, job: "Job") -> People:
        """All people of a picture, without duplicates."""
        joints = self.skeleton.num_joints
        looks = [self._usable(job.found[n]) for n in range(len(job.boxes))]
        number = np.repeat(np.arange(len(looks)), [len(own["person_score"]) for own in looks])
        empty = {"keypoints": (0, joints, 2), "scores": (0, joints), "person_score": (0,)}
        rows = {
            name: np.concatenate([np.zeros(shape, np.float32), *(own[name] for own in looks)])
            for name, shape in empty.items()
        }
        box = job.boxes[number] if self.takes_boxes else tight_boxes(rows["keypoints"], np.ones(rows["scores"].shape))
        own_box = not self.takes_boxes and "box" in looks[0]
        rows |= {
            "image_id": np.zeros(len(number), np.int64),
            "index": number,
            "area": self.looks.area(box),
            "box": looks[0]["box"] if own_box else box,
            "box_score": looks[0]["box_score"] if own_box else job.scores[number],
        }
        rows = self._suppress(rows)
        order = np.argsort(-rows["person_score"], kind="stable")
        return People(*(rows[name][order] for name in ("keypoints", "scores", "person_score", "box")))


def columns_of(found: Poses | Detections) -> dict[str, np.ndarray]:
    """{name of a row's field: [B, N, ...]} of what a method found."""
    if isinstance(found, Detections):
        return {"box": found.boxes, "box_score": found.scores}
    columns = {"keypoints": found.keypoints, "scores": found.scores, "person_score": found.person_score}
    return columns if found.detections is None else columns | columns_of(found.detections)


class CropLooks:
    """Cuts the people of a picture out of it and, for methods that look at clips, out of the frames around it.

    Args:
      method: whose crops they are.
      crop: see `Predictor`.

    Raises:
      DataError: the method does not take crops.
    """

    def __init__(self, method: Method, crop: PersonCrop | None):
        spec = method.spec(1)
        needed = {"image", "to_image", "person_score", "valid"}
        if not needed <= set(spec.get("source", {})):
            found = {stream: sorted(fields) for stream, fields in spec.items()}
            raise DataError(
                f"{type(method).__name__} takes {found}; prediction makes crops of people ({sorted(needed)})"
            )
        self._blank = {name: np.zeros(leaf.shape[1:], leaf.dtype) for name, leaf in spec["source"].items()}
        *frames, height, width, _ = self._blank["image"].shape
        self._sees_clips = bool(frames)
        self._crop = crop or PersonCrop((width, height))

    def __call__(self, job: "Job") -> "Iterator[Look]":
        for number, (box, score) in enumerate(zip(job.boxes, job.scores, strict=True)):
            canvas, to_image = self._crop.crop(job.picture.image, box)
            seen = {"image": canvas, "to_image": to_image, "person_score": score, "valid": np.True_}
            if self._sees_clips:
                seen |= self._clip(job.picture, canvas, box)
            yield Look(job, number, self._blank | seen)

    def _clip(self, picture: Picture, canvas: np.ndarray, box: np.ndarray) -> dict[str, np.ndarray]:
        """ "image" [3, H, W, 3] and "margin" [2] of the crop `canvas` of a picture's box."""
        around = picture.around or (picture.image, picture.image)
        others = [canvas if image is picture.image else self._crop.crop(image, box)[0] for image in around]
        return {"image": np.stack([canvas, *others]), "margin": np.array(picture.margin, np.float32)}

    def area(self, box: np.ndarray) -> np.ndarray:
        """[N] square pixels that were looked at for boxes [N, 4]."""
        return self._crop.view(box).size.prod(-1)


class ImageLooks:
    """Lays a whole picture on the canvases of a method that finds people by itself."""

    def __init__(self, method: Method):
        self._method = method

    def __call__(self, job: "Job") -> "Iterator[Look]":
        image = job.picture.image
        layout = self._method.layout(image.shape[1], image.shape[0])
        yield Look(job, 0, images.lay_out(image, layout, self._method.scales) | {"valid": np.True_})

    def area(self, box: np.ndarray) -> np.ndarray:
        """[N] square pixels of boxes [N, 4] around people."""
        return box[:, 2:].prod(-1)


def open_job(picture: Picture, boxes: np.ndarray, scores: np.ndarray) -> "Job":
    """A picture and its boxes, found fit to be looked at.

    Raises:
      DataError: a picture or box that cannot be used.
    """
    image = picture.image
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(f"image {picture.name}: is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3] in RGB")
    if np.shape(boxes) != (len(scores), 4):
        raise DataError(f"image {picture.name}: boxes {np.shape(boxes)} and scores {np.shape(scores)} do not fit")
    usable = np.isfinite(boxes).all(-1) & np.isfinite(scores) & (np.asarray(boxes)[:, 2:] > 0).all(-1)
    if not usable.all():
        first = int(np.flatnonzero(~usable)[0])
        raise DataError(
            f"image {picture.name}: box {first} is {np.asarray(boxes)[first].tolist()} with score {scores[first]}; "
            "expected finite x, y and positive w, h"
        )
    return Job(picture, np.asarray(boxes, np.float32), np.asarray(scores, np.float32), missing=len(boxes))


def stack(looks: "Sequence[Look]", rows: int) -> dict[str, np.ndarray]:
    """The fields of looks of equal shapes as those of a batch; rows beyond them are zero, and so not valid."""
    fields = {
        name: np.zeros((rows, *np.shape(value)), np.asarray(value).dtype) for name, value in looks[0].fields.items()
    }
    for row, look in enumerate(looks):
        for name, value in look.fields.items():
            fields[name][row] = value
    return fields


@dataclasses.dataclass
class Job:
    """A picture whose people are being looked for.

    Attributes:
      picture: where.
      boxes: [N, 4] of it that are looked at.
      scores: [N] of them.
      missing: how many of them are still to be looked at.
      found: {number of the box: the rows of `columns_of` that were found there}.
    """

    picture: Picture
    boxes: np.ndarray
    scores: np.ndarray
    missing: int
    found: dict[int, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Look:
    """A row of a batch: what the device is shown of a job's box.

    Attributes:
      job: whose.
      number: of the box.
      fields: of the example.
    """

    job: Job
    number: int
    fields: dict[str, Any]

    @property
    def shapes(self) -> tuple:
        """Looks of equal shapes share a batch."""
        return tuple(np.shape(value) for name, value in self.fields.items() if name.startswith("image"))


@dataclasses.dataclass(frozen=True)
class _Running:
    looks: list[Look]
    found: Any
