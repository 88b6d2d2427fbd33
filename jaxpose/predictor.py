"""Poses of people in images, as a Python call.

predictor = jaxpose.load(workdir)
for people in predictor(images, boxes):
    people.keypoints, people.scores, people.person_score

The command `python -m jaxpose.predict` is built on it.
"""

import collections
import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpose import sharding
from jaxpose.data import whole_images
from jaxpose.data.annotations import tight_boxes
from jaxpose.data.streams import person_crop
from jaxpose.data.transforms import PersonCrop
from jaxpose.errors import DataError, NonFiniteError
from jaxpose.methods.base import Method
from jaxpose.metrics.suppression import Suppression, suppress
from jaxpose.types import Variables

FindBoxes = Callable[["Picture"], tuple[np.ndarray, np.ndarray]]
"""A detector: picture -> boxes [N, 4] (x, y, w, h) in its pixels, and their scores [N]."""

MAX_WAITING = 4
"""So many batches of pictures are held back at most until one of their size is full."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image in which to look for people: a file, a video's frame, or what a caller passes.

    Attributes:
      name: for messages.
      image: [H, W, 3] uint8 RGB.
      id: of the image in an annotation or detection file, if any.
    """

    name: str
    image: np.ndarray
    id: int | None = None


@dataclasses.dataclass(frozen=True)
class People:
    """The people of one image, by falling score.

    Attributes:
      keypoints: [N, K, 2] pixels of the image.
      scores: [N, K] of the joints, in [0, 1].
      person_score: [N].
      boxes: [N, 4] (x, y, w, h), where each was looked for, or around the joints where the whole image was.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    person_score: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.person_score)


def load(
    workdir: str | pathlib.Path,
    step: int | None = None,
    batch_size: int = 16,
    changes: Mapping[str, Any] | None = None,
) -> "Predictor":
    """A predictor from what a run learned: averaged parameters where it keeps an average.

    Args:
      workdir: folder of a run.
      step: of the checkpoint; the newest good one if None.
      batch_size: crops or images that go through the network at once.
      changes: {"method.flip_test": False, "evaluate.pose_nms.file": FILE, ...}, fields of the run's config that are to
        differ now.

    Raises:
      CheckpointError: no run or no good checkpoint there.
      ConfigError: a change of a field that there is not, or one that makes another network.
    """
    from jaxpose.checkpoint import load_for_inference

    config, method, variables = load_for_inference(workdir, step, changes)
    return Predictor(
        method,
        variables,
        crop=person_crop(config.data, method) if method.sees == "person" else None,
        batch_size=batch_size,
        suppression=Suppression.create(config.evaluate, method.joints.num_joints),
    )


def whole_image(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """One box around everything."""
    height, width = picture.image.shape[:2]
    return np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)


class Predictor:
    """Finds poses in images. Compiled once for crops of people; for whole images, once for each size of canvas.

    Args:
      method: the paper.
      variables: its parameters and statistics.
      crop: how people are cut out, as in training, for methods that see one; None for 1.25 times their boxes.
      batch_size: crops or images at once; raised to a multiple of the number of devices.
      suppression: of duplicates among an image's people.

    Attributes:
      takes_boxes: whether the method wants to be told where people are; if not, it finds them.
    """

    def __init__(
        self,
        method: Method,
        variables: Variables,
        *,
        crop: PersonCrop | None = None,
        batch_size: int = 16,
        suppression: Suppression = Suppression(),  # noqa: B008
    ):
        self._mesh = mesh = sharding.make_mesh(types.SimpleNamespace(fsdp=1))
        self.skeleton = method.joints
        self.takes_boxes = method.sees == "person"
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._looks = CropLooks(method, crop) if self.takes_boxes else ImageLooks(method)
        self._variables = variables
        self._suppress = functools.partial(suppress, sigmas=self.skeleton.sigmas, suppression=suppression)
        copied, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        self._predict = jax.jit(method.predict, in_shardings=(copied, split), out_shardings=copied)

    def __call__(
        self,
        pictures: Sequence[np.ndarray],
        boxes: Sequence[np.ndarray] | None = None,
        box_scores: Sequence[np.ndarray] | None = None,
    ) -> list[People]:
        """The people of each image.

        Args:
          pictures: [H, W, 3] uint8 RGB each, of any size.
          boxes: for each image, [N, 4] (x, y, w, h) of people; without, a method that sees one person looks at each
            image as one box.
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
            if boxes is None:
                return whole_image(picture)
            own = np.asarray(boxes[picture.id], np.float32).reshape(-1, 4)
            return own, np.ones(len(own)) if box_scores is None else np.asarray(box_scores[picture.id])

        named = (Picture(f"number {i}", np.asarray(image), id=i) for i, image in enumerate(pictures))
        return [people for _, people in self.stream(named, find)]

    def stream(
        self, pictures: Iterable[Picture], find_boxes: FindBoxes = whole_image
    ) -> Iterator[tuple[Picture, People]]:
        """Pictures with their people, in order, for any number of pictures.

        Batches are filled across pictures; the next one is read while the device works on the last.

        Args:
          pictures: files, a video's frames, ...
          find_boxes: where the people of a picture are; not asked by methods that see whole images.

        Raises:
          DataError: a picture or box that cannot be used.
          NonFiniteError: the network's outputs are NaN or infinite.
        """
        waiting: collections.deque[_Job] = collections.deque()
        pending: dict[Any, list[_Look]] = {}
        running: _Running | None = None
        for picture in pictures:
            job = _open(picture, *(find_boxes(picture) if self.takes_boxes else whole_image(picture)))
            waiting.append(job)
            for look in self._looks(job):
                looks = pending.setdefault(look.shapes, [])
                looks.append(look)
                if len(looks) == self.batch_size:
                    running = self._advance(running, pending.pop(look.shapes))
            while sum(map(len, pending.values())) > MAX_WAITING * self.batch_size:
                running = self._advance(running, pending.pop(next(iter(pending))))
            yield from self._done(waiting)
        for looks in pending.values():
            running = self._advance(running, looks)
        self._advance(running, [])
        yield from self._done(waiting)

    def _advance(self, running: "_Running | None", looks: "list[_Look]") -> "_Running | None":
        """Sends looks of one shape to the device, then collects what it was working on before."""
        started = self._start(looks) if looks else None
        if running is not None:
            self._finish(running)
        return started

    def _start(self, looks: "list[_Look]") -> "_Running":
        batch = {
            name: np.zeros((self.batch_size, *np.shape(value)), np.asarray(value).dtype)
            for name, value in looks[0].fields.items()
        }
        for row, look in enumerate(looks):
            for name, value in look.fields.items():
                batch[name][row] = value
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            return _Running(looks, self._predict(self._variables, {"source": batch}))

    def _finish(self, running: "_Running") -> None:
        """Hands the poses of a batch to the pictures that they were found in."""
        poses = jax.device_get(running.poses)
        for row, look in enumerate(running.looks):
            valid = poses.valid[row]
            found = [poses.keypoints[row][valid], poses.scores[row][valid], poses.person_score[row][valid]]
            if not all(np.isfinite(values).all() for values in found):
                raise NonFiniteError(
                    f"image {look.job.picture.name}: the network gives NaN or infinite numbers; "
                    "its parameters are unusable, take an earlier --step"
                )
            look.job.found[look.number] = found
            look.job.missing -= 1

    def _done(self, waiting: "collections.deque[_Job]") -> Iterator[tuple[Picture, People]]:
        while waiting and not waiting[0].missing:
            job = waiting.popleft()
            yield job.picture, self._collect(job)

    def _collect(self, job: "_Job") -> People:
        """All people of a picture, without duplicates."""
        joints = self.skeleton.num_joints
        looks = range(len(job.boxes))
        number = np.repeat(np.arange(len(job.boxes)), [len(job.found[n][2]) for n in looks])
        empty = [np.zeros((0, joints, 2), np.float32), np.zeros((0, joints), np.float32), np.zeros(0, np.float32)]
        columns = zip(empty, *(job.found[n] for n in looks), strict=True)
        keypoints, scores, person_score = (np.concatenate(column) for column in columns)
        box = job.boxes[number] if self.takes_boxes else tight_boxes(keypoints, np.ones(scores.shape))
        rows = {
            "image_id": np.zeros(len(number), np.int64),
            "index": number,
            "keypoints": keypoints,
            "scores": scores,
            "person_score": person_score,
            "area": self._looks.area(box),
            "box": box,
            "box_score": job.scores[number],
        }
        rows = self._suppress(rows)
        order = np.argsort(-rows["person_score"], kind="stable")
        return People(*(rows[name][order] for name in ("keypoints", "scores", "person_score", "box")))


class CropLooks:
    """Cuts the people of a picture out of it.

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
        height, width = self._blank["image"].shape[:2]
        self._crop = crop or PersonCrop((width, height))

    def __call__(self, job: "_Job") -> "Iterator[_Look]":
        for number, (box, score) in enumerate(zip(job.boxes, job.scores, strict=True)):
            canvas, to_image = self._crop.crop(job.picture.image, box)
            seen = {"image": canvas, "to_image": to_image, "person_score": score, "valid": np.True_}
            yield _Look(job, number, self._blank | seen)

    def area(self, box: np.ndarray) -> np.ndarray:
        """[N] square pixels that were looked at for boxes [N, 4]."""
        return self._crop.view(box).size.prod(-1)


class ImageLooks:
    """Lays a whole picture on the canvases of a method that finds people by itself."""

    def __init__(self, method: Method):
        self._method = method

    def __call__(self, job: "_Job") -> "Iterator[_Look]":
        image = job.picture.image
        layout = self._method.layout(image.shape[1], image.shape[0])
        yield _Look(job, 0, whole_images.lay_out(image, layout, self._method.scales) | {"valid": np.True_})

    def area(self, box: np.ndarray) -> np.ndarray:
        """[N] square pixels of boxes [N, 4] around people."""
        return box[:, 2:].prod(-1)


def _open(picture: Picture, boxes: np.ndarray, scores: np.ndarray) -> "_Job":
    """A picture and its boxes, found fit to be looked at."""
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
    return _Job(picture, np.asarray(boxes, np.float32), np.asarray(scores, np.float32), missing=len(boxes))


@dataclasses.dataclass
class _Job:
    """A picture whose people are being looked for."""

    picture: Picture
    boxes: np.ndarray
    scores: np.ndarray
    missing: int
    found: dict[int, list[np.ndarray]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Look:
    """A row of a batch: what the device is shown of a job's box."""

    job: _Job
    number: int
    fields: dict[str, Any]

    @property
    def shapes(self) -> tuple:
        """Looks of equal shapes share a batch."""
        return tuple(np.shape(value) for name, value in self.fields.items() if name.startswith("image"))


@dataclasses.dataclass(frozen=True)
class _Running:
    looks: list[_Look]
    poses: Any
