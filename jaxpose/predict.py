"""Poses of people in images, as a Python call and as a command.

    predictor = jaxpose.load(workdir)
    for people in predictor(images, boxes):
        people.keypoints, people.scores, people.person_score

    python -m jaxpose.predict WORKDIR image.jpg folder ... --output DIR [--boxes detections.json]

The command writes an overlay of every image to DIR, and DIR/poses.json: a list of one object a person, images in order
of path, an image's people by falling score, with
  file_name    path of the image as it was found
  image_id     from --annotations, else the last digits in the file's name; null if there are none, or not its own
  category_id  1
  keypoints    x, y, score of each joint, pixels of the image
  score        of the person
  person_box   x, y, w, h that was looked at
This is the format of COCO results (with two more fields), so COCO tools read it.
"""

import argparse
import collections
import dataclasses
import functools
import json
import logging
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxpose import sharding
from jaxpose.data import images
from jaxpose.data.sources import coco
from jaxpose.data.streams import person_crop
from jaxpose.data.transforms import PersonCrop
from jaxpose.errors import DataError, ImageError, JaxposeError, NonFiniteError
from jaxpose.methods.base import Method
from jaxpose.metrics.suppression import Suppression, suppress
from jaxpose.skeleton import Skeleton
from jaxpose.types import Variables
from jaxpose.viz import draw_poses

logger = logging.getLogger(__name__)

FindBoxes = Callable[["Picture"], tuple[np.ndarray, np.ndarray]]
"""A detector: picture -> boxes [N, 4] (x, y, w, h) in its pixels, and their scores [N]."""


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
      boxes: [N, 4] (x, y, w, h), where each was looked for.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    person_score: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.person_score)


def load(workdir: str | pathlib.Path, step: int | None = None, batch_size: int = 16) -> "Predictor":
    """A predictor from what a run learned: averaged parameters where it keeps an average.

    Args:
      workdir: folder of a run.
      step: of the checkpoint; the newest good one if None.
      batch_size: crops that go through the network at once.

    Raises:
      CheckpointError: no run or no good checkpoint there.
    """
    from jaxpose.checkpoint import load_for_inference

    config, method, variables = load_for_inference(workdir, step)
    return Predictor(
        method,
        variables,
        crop=person_crop(config.data, method),
        batch_size=batch_size,
        suppression=Suppression.create(config.evaluate),
    )


def whole_image(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """One box around everything."""
    height, width = picture.image.shape[:2]
    return np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)


class Predictor:
    """Finds poses in images. Compiled once, for batches of `batch_size` crops.

    Args:
      method: the paper.
      variables: its parameters and statistics.
      crop: how people are cut out, as in training; None for 1.25 times their boxes.
      batch_size: crops at once; raised to a multiple of the number of devices.
      suppression: of duplicates among an image's people.
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
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._blank = _blank_batch(method, self.batch_size)
        height, width = self._blank["image"].shape[1:3]
        self._crop = crop or PersonCrop((width, height))
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
          boxes: for each image, [N, 4] (x, y, w, h) of people; without, each image is looked at as one box.
          box_scores: for each image, [N] of its boxes; 1 if not given.

        Raises:
          DataError: images, boxes or scores that do not fit each other.
        """
        for name, values in {"boxes": boxes, "box_scores": box_scores}.items():
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
          find_boxes: where the people of a picture are.

        Raises:
          DataError: a picture or box that cannot be used.
          NonFiniteError: the network's outputs are NaN or infinite.
        """
        waiting: collections.deque[_Job] = collections.deque()
        crops: list[_Crop] = []
        running: _Running | None = None
        for picture in pictures:
            job = self._open(picture, *find_boxes(picture))
            waiting.append(job)
            for number in range(len(job.boxes)):
                crops.append(self._cut(job, number))
                if len(crops) == self.batch_size:
                    started = self._start(crops)
                    self._finish(running)
                    running, crops = started, []
            yield from self._done(waiting)
        self._finish(running)
        self._finish(self._start(crops) if crops else None)
        yield from self._done(waiting)

    def _open(self, picture: Picture, boxes: np.ndarray, scores: np.ndarray) -> "_Job":
        image = picture.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(
                f"image {picture.name}: is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3] in RGB"
            )
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

    def _cut(self, job: "_Job", number: int) -> "_Crop":
        canvas, to_image = self._crop.crop(job.picture.image, job.boxes[number])
        return _Crop(job, number, canvas, to_image)

    def _start(self, crops: "list[_Crop]") -> "_Running":
        """Sends crops to the device, without waiting for it."""
        batch = {name: values.copy() for name, values in self._blank.items()}
        count = len(crops)
        batch["image"][:count] = [crop.canvas for crop in crops]
        batch["to_image"][:count] = [crop.to_image for crop in crops]
        batch["person_score"][:count] = [crop.job.scores[crop.number] for crop in crops]
        batch["valid"][:count] = True
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            return _Running(crops, self._predict(self._variables, {"source": batch}))

    def _finish(self, running: "_Running | None") -> None:
        """Hands the poses of a batch to the pictures that they were found in."""
        if running is None:
            return
        poses = jax.device_get(running.poses)
        for row, crop in enumerate(running.crops):
            valid = poses.valid[row]
            found = [poses.keypoints[row][valid], poses.scores[row][valid], poses.person_score[row][valid]]
            if not all(np.isfinite(values).all() for values in found):
                raise NonFiniteError(
                    f"image {crop.job.picture.name}: the network gives NaN or infinite numbers; "
                    "its parameters are unusable, take an earlier --step"
                )
            crop.job.found[crop.number] = found
            crop.job.missing -= 1

    def _done(self, waiting: "collections.deque[_Job]") -> Iterator[tuple[Picture, People]]:
        while waiting and not waiting[0].missing:
            job = waiting.popleft()
            yield job.picture, self._collect(job)

    def _collect(self, job: "_Job") -> People:
        """All people of a picture, without duplicates."""
        joints = self.skeleton.num_joints
        box = np.repeat(np.arange(len(job.boxes)), [len(job.found[b][2]) for b in range(len(job.boxes))])
        empty = [np.zeros((0, joints, 2), np.float32), np.zeros((0, joints), np.float32), np.zeros(0, np.float32)]
        columns = zip(empty, *(job.found[b] for b in range(len(job.boxes))), strict=True)
        keypoints, scores, person_score = (np.concatenate(column) for column in columns)
        rows = {
            "image_id": np.zeros(len(box), np.int64),
            "index": box,
            "keypoints": keypoints,
            "scores": scores,
            "person_score": person_score,
            "area": self._crop.view(job.boxes[box]).size.prod(-1),
            "box": job.boxes[box],
            "box_score": job.scores[box],
        }
        rows = self._suppress(rows)
        order = np.argsort(-rows["person_score"], kind="stable")
        return People(*(rows[name][order] for name in ("keypoints", "scores", "person_score", "box")))


@dataclasses.dataclass
class _Job:
    """A picture whose people are being looked for."""

    picture: Picture
    boxes: np.ndarray
    scores: np.ndarray
    missing: int
    found: dict[int, list[np.ndarray]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Crop:
    job: _Job
    number: int
    canvas: np.ndarray
    to_image: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Running:
    crops: list[_Crop]
    poses: Any


def _blank_batch(method: Method, batch_size: int) -> dict[str, np.ndarray]:
    spec = method.spec(batch_size)
    needed = {"image", "to_image", "person_score", "valid"}
    if not needed <= set(spec.get("source", {})):
        found = {stream: sorted(fields) for stream, fields in spec.items()}
        raise DataError(f"{type(method).__name__} takes {found}; prediction makes crops of people ({sorted(needed)})")
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in spec["source"].items()}


# --- the command ---


@dataclasses.dataclass(frozen=True)
class _File:
    """An image file and what is written for it.

    Attributes:
      path: as it was given or found.
      overlay: where its picture goes, relative to the output folder.
    """

    path: pathlib.Path
    overlay: pathlib.PurePath


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 1 if any image could not be used."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logger.setLevel(logging.INFO)
    try:
        return _run(options)
    except JaxposeError as error:
        logger.error("%s", error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxpose.predict",
        description="Finds poses in images; writes overlays and poses.json.",
    )
    add = parser.add_argument
    add("workdir", type=pathlib.Path, help="folder of a trained run")
    add("inputs", type=pathlib.Path, nargs="+", help="images, or folders that are searched with all their subfolders")
    add("--output", type=pathlib.Path, required=True, help="folder to write to")
    add("--boxes", type=pathlib.Path, help="COCO detection file with people's boxes; without, an image is one box")
    add("--annotations", type=pathlib.Path, help="COCO annotation file that says which file has which image id")
    add("--box_threshold", type=float, default=0.3, help="boxes that score lower are left out (default %(default)s)")
    add("--threshold", type=float, default=0.3, help="joints that score lower are not drawn (default %(default)s)")
    add("--batch_size", type=_positive, default=16, help="people at once (default %(default)s)")
    add("--step", type=int, help="of the checkpoint (default: the newest good one)")
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    from tqdm.contrib.logging import logging_redirect_tqdm

    from jaxpose import runtime

    files, failed = find_images(options.inputs, options.output)
    ids = image_ids([f.path for f in files], options.annotations)
    find_boxes = whole_image
    if options.boxes:
        for file in [f for f in files if ids[f.path] is None]:
            failed[str(file.path)] = "has no image id of its own to find its boxes by; give --annotations that list it"
        files = [f for f in files if ids[f.path] is not None]
        find_boxes = read_boxes(options.boxes, [ids[f.path] for f in files], options.box_threshold)
    _protect_inputs(options, files)
    records: list[dict] = []
    done = 0
    if files:
        runtime.start()
        predictor = load(options.workdir, options.step, options.batch_size)
        options.output.mkdir(parents=True, exist_ok=True)
        overlays = {str(f.path): options.output / f.overlay for f in files}
        with logging_redirect_tqdm():
            for picture, people in predictor.stream(_read(files, ids, failed), find_boxes):
                drawn = people.boxes if options.boxes else None
                _write_overlay(overlays[picture.name], picture, people, predictor.skeleton, options.threshold, drawn)
                records += _records(picture, people)
                done += 1
        _write_records(options.output / "poses.json", records)
    logger.info("%d people in %d images -> %s", len(records), done, options.output)
    for name, why in failed.items():
        logger.error("%s: %s", name, why)
    if failed:
        logger.error("%d of %d inputs could not be used", len(failed), done + len(failed))
    return 1 if failed else 0


def find_images(inputs: Sequence[pathlib.Path], output: pathlib.Path) -> tuple[list[_File], dict[str, str]]:
    """The image files among `inputs`, sorted by path, each once, and what could not be used: {input: why}.

    Folders are searched with all their subfolders, but for `output`, which may lie in one.
    """
    found: dict[pathlib.Path, tuple[pathlib.Path, pathlib.PurePath]] = {}
    failed: dict[str, str] = {}
    for given in inputs:
        if given.is_dir():
            inside = [path for path in given.rglob("*") if path.suffix.lower() in images.SUFFIXES and path.is_file()]
            inside = [path for path in inside if not path.resolve().is_relative_to(output.resolve())]
            for path in inside:
                found.setdefault(path.resolve(), (path, path.relative_to(given)))
            if not inside:
                failed[str(given)] = f"the folder holds no image ({', '.join(images.SUFFIXES)})"
        elif given.exists():
            found.setdefault(given.resolve(), (given, pathlib.PurePath(given.name)))
        else:
            failed[str(given)] = "there is no such file or folder"
    taken: set[pathlib.PurePath] = set()
    files = []
    for path, relative in sorted(found.values()):
        files.append(_File(path, _free(_overlay_name(relative), taken)))
    return files, failed


def _overlay_name(relative: pathlib.PurePath) -> pathlib.PurePath:
    """Same name for the formats that overlays are written in, else with .png added."""
    kept = relative.suffix.lower() in (".jpg", ".jpeg", ".png")
    return relative if kept else relative.with_name(relative.name + ".png")


def _free(path: pathlib.PurePath, taken: set[pathlib.PurePath]) -> pathlib.PurePath:
    names = (path if i == 1 else path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, len(taken) + 2))
    name = next(n for n in names if n not in taken)
    taken.add(name)
    return name


def _protect_inputs(options: argparse.Namespace, files: list[_File]) -> None:
    """Raises DataError if anything that will be written would replace something that is read."""
    read = [f.path for f in files] + [p for p in (options.boxes, options.annotations) if p]
    sources = {path.resolve() for path in read}
    if options.output.exists() and not options.output.is_dir():
        raise DataError(f"--output {options.output} is a file; give a folder")
    for name in [*(f.overlay for f in files), "poses.json"]:
        if (options.output / name).resolve() in sources:
            raise DataError(f"--output {options.output} would replace the input {options.output / name}; give another")


def image_ids(paths: Sequence[pathlib.Path], annotations: pathlib.Path | None) -> dict[pathlib.Path, int | None]:
    """The id of each image: from an annotation file, else the last digits in the file's name.

    None for an image that has no such id, or shares it with another one.

    Args:
      paths: of images.
      annotations: COCO file; its "file_name" may have folders, which then have to agree.

    Raises:
      DataError: no annotation file.
    """
    if annotations is None:
        digits = {path: re.findall(r"\d+", path.stem)[-1:] for path in paths}
        ids = {path: int(found[0]) if found and len(found[0]) < 19 else None for path, found in digits.items()}
    else:
        content = coco.read_json(annotations)
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise DataError(f"{annotations}: field 'images': expected a list; is this a COCO annotation file?")
        listed: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for image in content["images"]:
            parts = pathlib.PurePosixPath(image["file_name"]).parts
            listed.setdefault(parts[-1], []).append((parts, int(image["id"])))
        ids = {path: _listed_id(path, listed.get(path.name, [])) for path in paths}
    users = collections.Counter(ids.values())
    return {path: image_id if users[image_id] == 1 else None for path, image_id in ids.items()}


def _listed_id(path: pathlib.Path, candidates: list[tuple[tuple[str, ...], int]]) -> int | None:
    fitting = [(len(parts), image_id) for parts, image_id in candidates if path.parts[-len(parts) :] == parts]
    return max(fitting)[1] if fitting else None


def read_boxes(detections: pathlib.Path, ids: Sequence[int], threshold: float) -> FindBoxes:
    """The boxes of a COCO detection file that score at least `threshold`, by the id of the picture.

    Raises:
      DataError: not a detection file.
    """
    found = coco.read_detections(detections, np.array(ids, np.int64))
    good = found["score"] >= threshold
    row_of = {image_id: row for row, image_id in enumerate(ids)}

    def find(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
        own = good & (found["image"] == row_of[picture.id])
        return found["box"][own], found["score"][own]

    return find


def _read(files: list[_File], ids: dict[pathlib.Path, int | None], failed: dict[str, str]) -> Iterator[Picture]:
    """Decodes files one by one under a progress bar; those that cannot be read go to `failed`."""
    from tqdm import tqdm

    for file in tqdm(files, unit="image", disable=None):
        try:
            image = images.decode(images.read(file.path), str(file.path), upright=True)
        except ImageError as error:
            failed[str(file.path)] = error.why
            continue
        yield Picture(str(file.path), image, ids[file.path])


def _write_overlay(
    path: pathlib.Path,
    picture: Picture,
    people: People,
    skeleton: Skeleton,
    threshold: float,
    boxes: np.ndarray | None,
) -> None:
    import cv2

    drawn = draw_poses(
        picture.image,
        people.keypoints,
        people.scores,
        people.person_score,
        skeleton=skeleton,
        threshold=threshold,
        boxes=boxes,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(path.suffix, drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not written:
        raise DataError(f"{path}: the overlay cannot be encoded")
    path.write_bytes(data.tobytes())


def _records(picture: Picture, people: People) -> list[dict]:
    """The people of a picture as poses.json has them."""
    triples = np.concatenate([people.keypoints.round(2), people.scores[..., None].round(4)], axis=-1, dtype=np.float64)
    return [
        {
            "file_name": pathlib.Path(picture.name).as_posix(),
            "image_id": picture.id,
            "category_id": 1,
            "keypoints": [round(v, 4) for v in triples[i].reshape(-1).tolist()],
            "score": round(float(people.person_score[i]), 6),
            "person_box": [round(v, 2) for v in people.boxes[i].tolist()],
        }
        for i in range(len(people))
    ]


def _write_records(path: pathlib.Path, records: list[dict]) -> None:
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    path.write_text(f"[\n{lines}\n]\n" if records else "[]\n")


if __name__ == "__main__":
    sys.exit(main())
