"""Poses of people in images and videos as a command.

    jaxpose predict WORKDIR image.jpg folder ... --output DIR [--detector WORKDIR | --boxes detections.json]
    jaxpose predict WORKDIR video.mp4 ... --output DIR [--detector WORKDIR] [--smooth]

Of images it writes an overlay of every image to DIR, and DIR/poses.json: a list of one object a person, images in order
of path, an image's people by falling score, with
  file_name    path of the image as it was found
  image_id     from --annotations, else the last digits in the file's name; null if there are none, or not its own
  category_id  1
  keypoints    x, y, score of each joint, pixels of the image
  score        of the person
  person_box   x, y, w, h that was looked at, or of the joints where the method finds people by itself
This is the format of COCO results (with two more fields), so COCO tools read it.

A method that looks at one person at a time is told where people are by a run of a detector, or by a file of detections;
without either it takes each image for one person. If WORKDIR itself is a detector's, the overlays show boxes, and
instead of poses.json there is DIR/boxes.json, with `bbox` (x, y, w, h) for `keypoints` and `person_box`: COCO
detections, which --boxes reads.

Of a video (a file, or with --video a folder of frames) it writes DIR/NAME.mp4, with who was found drawn on every frame,
and DIR/NAME.json: one object a person and frame, with
  frame        number of the frame, from 0, or as the frames of a folder are numbered
  time         of the frame in seconds
  image_id     of the frame: its number, or for a folder as for images
  track_id     the same for a person over the whole video, from 1; null for somebody too doubtful to be followed
and category_id, keypoints, score and person_box as above.
"""

import argparse
import collections
import dataclasses
import json
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxpose.data import images
from jaxpose.data.sources import coco
from jaxpose.errors import DataError, ImageError, JaxposeError
from jaxpose.evaluation.tracking import OneEuro, TrackerOptions
from jaxpose.inference import video
from jaxpose.inference.predictor import FindBoxes, People, Picture, Predictor, load
from jaxpose.viz import draw_boxes, draw_poses

logger = logging.getLogger(__name__)

_GIVE_ANNOTATIONS = "give --annotations that list it"


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
    """The command; returns its exit status: 0, or 1 if any image or video could not be used."""
    return run_command(_run, _parser().parse_args(arguments), logger)


def run_command(run: Callable[[argparse.Namespace], int], options: argparse.Namespace, *loggers: logging.Logger) -> int:
    """The exit status of `run`, or 1 with the message of its `JaxposeError`. `loggers` inform, all others warn."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for each in loggers:
        each.setLevel(logging.INFO)
    try:
        return run(options)
    except JaxposeError as error:
        loggers[0].error("%s", error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxpose predict",
        description="Finds poses in images and videos; writes overlays, and poses as JSON. From a detector: boxes.",
    )
    add_inputs(parser, ", or videos")
    add = parser.add_argument
    add("--video", action="store_true", help="each folder holds the frames of one video")
    add("--rate", type=float, default=video.DEFAULT_RATE, help="of folders' frames a second (default %(default)s)")
    add("--smooth", action="store_true", help="steady the joints of people in videos (one-euro filter)")
    add("--birth", type=float, default=0.3, help="score of a person who begins a track (default %(default)s)")
    add("--threshold", type=float, default=0.3, help="joints that score lower are not drawn (default %(default)s)")
    add("--batch_size", type=positive, default=16, help="people or images at once (default %(default)s)")
    return parser


def add_inputs(parser: argparse.ArgumentParser, more: str = "") -> None:
    """The arguments that say what is looked at with which run; `open_inputs` and `load_predictor` read them.

    Args:
      parser: to add them to.
      more: what else inputs can be, for the help.
    """
    add = parser.add_argument
    add("workdir", type=pathlib.Path, help="folder of a trained run")
    add(
        "inputs",
        type=pathlib.Path,
        nargs="+",
        help=f"images, folders that are searched with all their subfolders{more}",
    )
    add("--output", type=pathlib.Path, required=True, help="folder to write to")
    people = parser.add_mutually_exclusive_group()
    people.add_argument(
        "--detector",
        type=pathlib.Path,
        help="folder of a detector's run that finds people, for a method that sees one person at a time",
    )
    people.add_argument("--boxes", type=pathlib.Path, help="COCO detection file with people's boxes, for the same")
    add("--annotations", type=pathlib.Path, help="COCO annotation file that says which file has which image id")
    add(
        "--box_threshold",
        type=float,
        default=0.3,
        help="lower-scored boxes, and poses in them, are left out (default %(default)s)",
    )
    add(
        "--set",
        action="append",
        default=[],
        type=change,
        metavar="FIELD=VALUE",
        help="a field of the run's config to change, such as method.flip_test=false; may be given again",
    )
    add("--step", type=int, help="of the checkpoint (default: the newest good one)")


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return int(text)


def change(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, with a value in JSON or, if it is none, as it stands."""
    field, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _run(options: argparse.Namespace) -> int:
    videos, failed = _open_videos(options)
    read = [f for v in videos for f in v.files]
    written = ["poses.json"] if options.boxes else ["poses.json", "boxes.json"]
    written += [f"{v.name}{end}" for v in videos for end in (".mp4", ".json")]
    inputs = open_inputs(options, written, read)
    inputs.failed.update(failed)
    done = 0
    if inputs.files or videos:
        predictor = load_predictor(options, options.batch_size)
        options.output.mkdir(parents=True, exist_ok=True)
        done += _predict_images(inputs, predictor, options) if inputs.files else 0
        for each in videos:
            try:
                _predict_video(each, predictor, options)
                done += 1
            except ImageError as error:
                inputs.failed[each.footage.name] = str(error)
    return inputs.report(done)


def _predict_images(inputs: "Inputs", predictor: Predictor, options: argparse.Namespace) -> int:
    """Writes what is found in images; returns how many could be used."""
    records: list[dict] = []
    done = 0
    overlays = {str(f.path): options.output / f.overlay for f in inputs.files}
    for picture, people in predictor.stream(inputs.pictures(), inputs.find_boxes):
        write_image(overlays[picture.name], _overlay(picture, people, predictor, options))
        records += _records(picture, people)
        done += 1
    _write_records(options.output / ("boxes.json" if predictor.finds_boxes else "poses.json"), records)
    logger.info("%d people in %d images -> %s", len(records), done, options.output)
    return done


# --- videos ---


@dataclasses.dataclass(frozen=True)
class _Video:
    """A video and what is written for it.

    Attributes:
      name: of both files, without suffix.
      footage: its frames.
      find_boxes: of --boxes.
    """

    name: str
    footage: video.Footage
    find_boxes: FindBoxes | None

    @property
    def files(self) -> list[pathlib.Path]:
        """That are read."""
        footage = self.footage
        return [f for _, f in footage.files] if isinstance(footage, video.FrameFolder) else [footage.path]


def _open_videos(options: argparse.Namespace) -> tuple[list[_Video], dict[str, str]]:
    """The videos among the inputs, which then holds the images alone, and why others cannot be used: {input: why}.

    Raises:
      DataError: an unusable file of boxes or annotations.
    """
    folders = [path for path in options.inputs if options.video and path.is_dir()]
    paths = [path for path in dict.fromkeys(options.inputs) if path in folders or video.is_video(path)]
    options.inputs = [path for path in options.inputs if path not in paths]
    files = [file for folder in folders for _, file in video.numbered_files(folder)]
    ids = image_ids(files, options.annotations) if files else {}
    videos: list[_Video] = []
    failed: dict[str, str] = {}
    taken: set[pathlib.PurePath] = set()
    for path in paths:
        try:
            footage = video.FrameFolder(path, options.rate, ids) if path in folders else video.VideoFile(path)
            find_boxes = _boxes_of_frames(footage, options) if options.boxes else None
        except ImageError as error:
            failed[str(path)] = error.why
            continue
        name = path.resolve().name if path in folders else path.stem
        videos.append(_Video(str(_free(pathlib.PurePath(name), taken)), footage, find_boxes))
    return videos, failed


def _boxes_of_frames(footage: video.Footage, options: argparse.Namespace) -> FindBoxes:
    """The boxes of --boxes for the frames of a video, by their ids.

    Raises:
      ImageError: a frame has no id.
      DataError: not a detection file.
    """
    if isinstance(footage, video.VideoFile):
        return read_boxes(options.boxes, range(footage.length or 10**6), options.box_threshold)
    ids = [footage.ids[file] for _, file in footage.files]
    if None in ids:
        file = footage.files[ids.index(None)][1]
        raise ImageError(str(file), f"{file.name} has no image id of its own to find its boxes by; {_GIVE_ANNOTATIONS}")
    return read_boxes(options.boxes, ids, options.box_threshold)


def _predict_video(each: _Video, predictor: Predictor, options: argparse.Namespace) -> None:
    """Writes what is found in a video.

    Raises:
      ImageError: none of its frames can be decoded, or one has another size.
    """
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    def draw(found: video.TrackedFrame) -> np.ndarray:
        return _overlay(found.frame, found.people, predictor, options, found.track_id)

    footage, tracks = each.footage, TrackerOptions(birth=options.birth, smoothing=OneEuro() if options.smooth else None)
    with logging_redirect_tqdm():
        found = video.follow(predictor, footage, tracks, each.find_boxes)
        found = tqdm(found, total=footage.length, unit="frame", disable=None)
        frames, people = video.record(found, options.output / each.name, footage.rate, draw)
    logger.info("%d people in %d frames of %s -> %s", people, frames, footage.name, options.output / each.name)


# --- images ---


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a command looks at.

    Attributes:
      files: the images.
      ids: {path: image id or None}.
      failed: {input: why it could not be used}; grows while pictures are read.
      find_boxes: of --boxes.
    """

    files: list[_File]
    ids: dict[pathlib.Path, int | None]
    failed: dict[str, str]
    find_boxes: FindBoxes | None

    def pictures(self) -> Iterator[Picture]:
        """Decodes files one by one under a progress bar; those that cannot be read go to `failed`."""
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        with logging_redirect_tqdm():
            for file in tqdm(self.files, unit="image", disable=None):
                try:
                    image = images.decode(images.read(file.path), str(file.path), upright=True)
                except ImageError as error:
                    self.failed[str(file.path)] = error.why
                    continue
                yield Picture(str(file.path), image, self.ids[file.path])

    def report(self, done: int) -> int:
        """Says what could not be used, beside `done` images that could; returns the exit status."""
        for name, why in self.failed.items():
            logger.error("%s: %s", name, why)
        if self.failed:
            logger.error("%d of %d inputs could not be used", len(self.failed), done + len(self.failed))
        return 1 if self.failed else 0


def open_inputs(options: argparse.Namespace, written: Sequence[str], read: Sequence[pathlib.Path] = ()) -> Inputs:
    """Finds the images that the command line names.

    Args:
      options: of `add_inputs`.
      written: files that the command will write to the output folder, besides overlays.
      read: files that it will read, besides images.

    Raises:
      DataError: an unusable file of boxes or annotations, or an input that would be replaced.
    """
    files, failed = find_images(options.inputs, options.output)
    ids = image_ids([f.path for f in files], options.annotations)
    find_boxes = None
    if options.boxes and files:
        for file in [f for f in files if ids[f.path] is None]:
            failed[str(file.path)] = f"has no image id of its own to find its boxes by; {_GIVE_ANNOTATIONS}"
        files = [f for f in files if ids[f.path] is not None]
        find_boxes = read_boxes(options.boxes, [ids[f.path] for f in files], options.box_threshold)
    _protect_inputs(options, files, written, read)
    return Inputs(files, ids, failed, find_boxes)


def load_predictor(options: argparse.Namespace, batch_size: int) -> Predictor:
    """The predictor of the run that the command line names, with its detector.

    Raises:
      CheckpointError, ConfigError: of a run.
      DataError: boxes or a detector for a method that finds people by itself.
    """
    from jaxpose.runs import startup

    startup.start()
    predictor = load(
        options.workdir,
        options.step,
        batch_size,
        dict(options.set),
        detector=options.detector,
        box_threshold=options.box_threshold,
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


def _protect_inputs(
    options: argparse.Namespace, files: list[_File], written: Sequence[str], read: Sequence[pathlib.Path]
) -> None:
    """Raises DataError if anything that will be written would replace something that is read."""
    others = [p for p in (options.boxes, options.annotations) if p]
    sources = {path.resolve() for path in [*(f.path for f in files), *others, *read]}
    if options.output.exists() and not options.output.is_dir():
        raise DataError(f"--output {options.output} is a file; give a folder")
    for name in [*(f.overlay for f in files), *written]:
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


def _overlay(
    picture: Picture,
    people: People,
    predictor: Predictor,
    options: argparse.Namespace,
    track_id: np.ndarray | None = None,
) -> np.ndarray:
    """The picture with what was found; boxes are drawn where somebody else than the method gave them."""
    if predictor.finds_boxes:
        return draw_boxes(picture.image, people.boxes, people.person_score)
    return draw_poses(
        picture.image,
        people.keypoints,
        people.scores,
        people.person_score,
        skeleton=predictor.skeleton,
        threshold=options.threshold,
        boxes=people.boxes if options.boxes or options.detector else None,
        track_id=track_id,
    )


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    options = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
    written, data = cv2.imencode(path.suffix, image[..., ::-1], options)
    if not written:
        raise DataError(f"{path}: the overlay cannot be encoded")
    path.write_bytes(data.tobytes())


def _records(picture: Picture, people: People) -> list[dict]:
    """The people of a picture as poses.json has them, or boxes.json where there are no joints."""
    place = {"file_name": pathlib.Path(picture.name).as_posix(), "image_id": picture.id}
    return [place | person for person in people.to_coco()]


def _write_records(path: pathlib.Path, records: list[dict]) -> None:
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    path.write_text(f"[\n{lines}\n]\n" if records else "[]\n")


if __name__ == "__main__":
    sys.exit(main())
