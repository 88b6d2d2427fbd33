"""Images that a subcommand looks at, the run that it looks with, and boxes of people from a file."""

import argparse
import collections
import contextlib
import dataclasses
import logging
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from jaxpose.cli import command, config_flags
from jaxpose.cli.files import first_replaced, free_name, image_name
from jaxpose.data import images, suspicions
from jaxpose.data.sources import coco
from jaxpose.errors import DataError, ImageError, JaxposeError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json
from jaxpose.inference.predictor import FindBoxes, Picture, Predictor, load
from jaxpose.runs import startup

logger = logging.getLogger(__name__)

GIVE_ANNOTATIONS = "give --annotations that list it"


# --- the command line ---


def add_inputs(parser: argparse.ArgumentParser, what: str = "images, or folders with images in any subfolder") -> None:
    """Adds the arguments that `open_inputs` and `load_predictor` read.

    Args:
      parser: parser of the subcommand.
      what: kinds of inputs, for the help page.
    """
    add = parser.add_argument
    add("workdir", help=command.SOURCE)
    add("inputs", type=pathlib.Path, nargs="+", help=what)
    add("--output", type=pathlib.Path, required=True, help="folder to write to")
    people = parser.add_mutually_exclusive_group()
    detector = "a detector, given as WORKDIR is, which finds the boxes of people that a top-down method needs"
    people.add_argument("--detector", metavar="WORKDIR", help=detector)
    people.add_argument("--boxes", type=pathlib.Path, help="COCO detection file with these boxes")
    add("--annotations", type=pathlib.Path, help="COCO annotation file with the image ids of files")
    threshold = "least score of a box; others, and poses in them, are left out (default %(default)s)"
    add("--box-threshold", type=finite, default=0.3, help=threshold)
    add("--step", type=int, help="step of the checkpoint (default: the newest good one)")
    alike = "config that says what the entries of released weights can't, such as heatmap:coco_w32_384 (default: known)"
    add("--as", dest="like", default="", metavar="CONFIG", help=alike)
    config_flags.add_changes(parser)


def finite(text: str) -> float:
    """A flag's value as a finite number."""
    try:
        return fields.number({"": text}, "")
    except FieldError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number") from error


# --- images ---


@dataclasses.dataclass(frozen=True)
class File:
    """An image file and the picture that is written of it.

    Attributes:
      path: path of the image as it was given or found.
      overlay: path of the picture, relative to the output folder.
    """

    path: pathlib.Path
    overlay: pathlib.PurePath


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The images that a command line names.

    Attributes:
      files: image files, sorted by path.
      ids: {path: image id or None}.
      failed: {input: reason why it could not be used}; grows while pictures are read.
      find_boxes: boxes of --boxes, or None.
    """

    files: list[File]
    ids: dict[pathlib.Path, int | None]
    failed: dict[str, str]
    find_boxes: FindBoxes | None

    def pictures(self, without: Collection[pathlib.Path] = ()) -> Iterator[Picture]:
        """Decodes files one by one under a progress bar, but for some; those that cannot be read go to `failed`."""
        with logging_redirect_tqdm():
            for file in tqdm([f for f in self.files if f.path not in without], unit="image", disable=None):
                try:
                    image = images.decode(images.read(file.path), str(file.path))
                except ImageError as error:
                    self.failed[str(file.path)] = error.why
                    continue
                yield Picture(str(file.path), image, self.ids[file.path])

    def fail(self, picture: Picture, error: JaxposeError) -> None:
        """Adds a picture to `failed`."""
        self.failed[picture.name] = str(error).removeprefix(f"image {picture.name}: ")

    def report(self, done: int) -> int:
        """Logs the inputs that could not be used, beside `done` that could; returns the exit status."""
        for name, why in self.failed.items():
            logger.error("%s: %s", name, why)
        if self.failed:
            logger.error("%d of %d inputs could not be used", len(self.failed), done + len(self.failed))
        return 1 if self.failed else 0


def open_inputs(options: argparse.Namespace, written: Sequence[str], read: Sequence[pathlib.Path] = ()) -> Inputs:
    """Finds the images that the command line names.

    Args:
      options: options of `add_inputs`.
      written: names of files that will be written to the output folder, besides pictures.
      read: files that will be read, besides images.

    Raises:
      DataError: an unusable file of boxes or annotations, or an input that would be replaced.
    """
    files, failed = find_images(options.inputs, options.output)
    ids = image_ids([f.path for f in files], options.annotations)
    find_boxes = None
    if options.boxes and files:
        for file in [f for f in files if ids[f.path] is None]:
            failed[str(file.path)] = f"has no image id of its own to find its boxes by; {GIVE_ANNOTATIONS}"
        files = [f for f in files if ids[f.path] is not None]
        find_boxes = Boxes(options.boxes, [ids[f.path] for f in files], options.box_threshold)
    protect_inputs(options, files, [*(f.overlay for f in files), *written], read)
    return Inputs(files, ids, failed, find_boxes)


def find_images(inputs: Sequence[pathlib.Path], output: pathlib.Path) -> tuple[list[File], dict[str, str]]:
    """The image files among `inputs`, sorted by path, each once, and {input: reason} of those that cannot be used.

    Folders are searched with all their subfolders, but for `output`, which may lie in one.
    """
    found: dict[pathlib.Path, tuple[pathlib.Path, pathlib.PurePath]] = {}
    failed: dict[str, str] = {}
    for given in inputs:
        if given.is_dir():
            inside = [path for path in images.find(given) if not path.resolve().is_relative_to(output.resolve())]
            for path in inside:
                found.setdefault(path.resolve(), (path, path.relative_to(given)))
            if not inside:
                failed[str(given)] = f"the folder holds no image ({', '.join(images.SUFFIXES)})"
        elif given.exists():
            found.setdefault(given.resolve(), (given, pathlib.PurePath(given.name)))
        else:
            failed[str(given)] = "there is no such file or folder"
    taken: set[str] = set()
    return [File(path, free_name(image_name(relative), taken)) for path, relative in sorted(found.values())], failed


def protect_inputs(
    options: argparse.Namespace,
    files: Sequence[File],
    written: Sequence[str | pathlib.PurePath],
    read: Sequence[pathlib.Path] = (),
) -> None:
    """Raises DataError if anything that will be written would replace something that is read."""
    if options.output.exists() and not options.output.is_dir():
        raise DataError(f"--output {options.output} is a file; give a folder")
    others = [p for p in (options.boxes, options.annotations) if p]
    runs = [pathlib.Path(source) for source in (options.workdir, options.detector) if source]
    others += [path for run in runs for path in (run.iterdir() if run.is_dir() else [run])]
    sources = [*(f.path for f in files), *others, *read]
    if replaced := first_replaced([options.output / name for name in written], sources):
        raise DataError(f"--output {options.output} would replace the input {replaced}; give another")


def image_ids(paths: Sequence[pathlib.Path], annotations: pathlib.Path | None) -> dict[pathlib.Path, int | None]:
    """The id of each image: from an annotation file, else the last digits in the file's name.

    None for an image that has no such id, or shares it with another one.

    Args:
      paths: paths of images.
      annotations: COCO file; its "file_name" may have folders, which then have to agree.

    Raises:
      DataError: no annotation file.
    """
    if annotations is None:
        digits = {path: re.findall(r"\d+", path.stem)[-1:] for path in paths}
        ids = {path: int(found[0]) if found and len(found[0]) < 19 else None for path, found in digits.items()}
    else:
        listed = _listed_images(annotations)
        ids = {path: _listed_id(path, listed.get(path.name, [])) for path in paths}
    users = collections.Counter(ids.values())
    return {path: image_id if users[image_id] == 1 else None for path, image_id in ids.items()}


def _listed_images(annotations: pathlib.Path) -> dict[str, list[tuple[tuple[str, ...], int]]]:
    """{name of a file: [(parts of its path, image id), ...]} of an annotation file."""
    content = read_json(annotations)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{annotations}: field 'images': expected a list; is this a COCO annotation file?")
    listed: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for position, image in enumerate(content["images"]):
        if not isinstance(image, dict):
            raise DataError(f"{annotations}: image {position} (counted from 0) is {fields.shown(image)}")
        try:
            parts = pathlib.PurePosixPath(fields.text(image, "file_name")).parts
            image_id = fields.whole(image, "id", least=0)
        except FieldError as error:
            raise DataError(f"{annotations}: image {position} (counted from 0): {error}") from error
        listed.setdefault(parts[-1] if parts else "", []).append((parts, image_id))
    return listed


def _listed_id(path: pathlib.Path, candidates: list[tuple[tuple[str, ...], int]]) -> int | None:
    fitting = [(len(parts), image_id) for parts, image_id in candidates if path.parts[-len(parts) :] == parts]
    return max(fitting)[1] if fitting else None


class Boxes:
    """The boxes of a COCO detection file by the id of the picture; a `FindBoxes`.

    Args:
      detections: COCO detection file.
      ids: image ids of all pictures that will be asked for; all that the file names if None.
      threshold: least score of a box.

    Raises:
      DataError: not a detection file.
    """

    def __init__(self, detections: pathlib.Path, ids: Sequence[int | None] | None, threshold: float):
        ids = _ids_of_boxes(detections) if ids is None else ids
        found = coco.read_detections(detections, np.array(ids, np.int64))
        self._path, self._found, self._good = detections, found, found["score"] >= threshold
        self._row_of = {image_id: row for row, image_id in enumerate(ids)}
        self._watch = suspicions.Watch(detections)
        self._asked: set[Any] = set()

    def __call__(self, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of a picture and their scores; none if the file has none."""
        self._asked.add(picture.id)
        own = self._good & (self._found["image"] == self._row_of.get(picture.id, -1))
        self._watch.add(self._found["box"][own], (picture.image.shape[1], picture.image.shape[0]))
        return self._found["box"][own], self._found["score"][own]

    def tell_unused(self, name: str) -> None:
        """Logs how many boxes are of frames that the video `name` turned out not to have."""
        never = {row: i for i, row in self._row_of.items() if i is not None and i not in self._asked}
        rows = [row for row in self._found["image"].tolist() if row in never]
        if rows:
            named = sorted({never[row] for row in rows})
            some = ", ".join(map(str, named[:5])) + (", ..." if len(named) > 5 else "")
            logger.warning("%s: %d boxes are of frames that %s does not have: %s", self._path, len(rows), name, some)
        self._asked.clear()


def _ids_of_boxes(detections: pathlib.Path) -> list[int]:
    """The image ids that a detection file names, sorted; `coco.read_detections` tells of those that are none."""
    content = read_json(detections)
    found: set[Any] = set()
    for record in content if isinstance(content, list) else []:
        with contextlib.suppress(FieldError):
            if isinstance(record, dict):
                found.add(fields.whole(record, "image_id", least=0))
    return sorted(found)


# --- the run ---


def load_predictor(options: argparse.Namespace, batch_size: int) -> Predictor:
    """The predictor of the run that the command line names, with its detector.

    Args:
      options: options of `add_inputs`.
      batch_size: number of people or images that go through the network at once.

    Raises:
      CheckpointError, ConfigError: a run that cannot be loaded, or changes that do not fit it.
      DataError: boxes or a detector for a method that finds people by itself.
    """
    startup.start()
    predictor = load(
        options.workdir,
        options.step,
        batch_size,
        config_flags.changes(options),
        detector=options.detector,
        box_threshold=options.box_threshold,
        like=options.like,
    )
    if options.boxes and not predictor.takes_boxes:
        raise DataError(f"--boxes {options.boxes}: {options.workdir} looks at whole images and finds people by itself")
    if predictor.takes_boxes and not (options.boxes or options.detector):
        logger.info(
            "%s looks at one person at a time, and takes each image for one; "
            "--detector RUN finds people, --boxes FILE says where they are",
            options.workdir,
        )
    return predictor
