"""Finds poses in videos and follows each person.

    jaxpose track WORKDIR video.mp4 folder_of_frames ... --output DIR [--detector WORKDIR] [--smooth]

Of a video it writes DIR/NAME.mp4, with the people drawn on every frame, and DIR/NAME.json, a list with one object a
person and frame:
  frame        number of the frame, from 0, or as the frames of a folder are numbered
  time         time of the frame in seconds from the first one, by its stamp; for a folder by --rate
  image_id     id of the frame: its number, or for a folder as `jaxpose predict` has it for images
  skeleton     name of the joints' skeleton, by which jaxpose lift knows them
  category_id  1
  keypoints    x, y, score of each joint, pixels of the frame
  score        score of the person
  person_box   x, y, w, h that was looked at, or of the joints where the method finds people by itself
  track_id     number of the person in the whole video, from 1; null for somebody too doubtful to be followed

NAME.mp4 shows each frame as long as the video does. With PyAV (pip install av) it is H.264, which browsers and phones
play; without, MPEG-4 Part 2, which players such as VLC and mpv play, but most browsers don't.
"""

import argparse
import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from jaxpose.cli import command, inputs
from jaxpose.cli.files import free_name, make_folder
from jaxpose.cli.partial import FILES, Partial, open_partial, stamp
from jaxpose.errors import DataError, ImageError, StorageError
from jaxpose.evaluation.tracking import OneEuro, TrackerOptions
from jaxpose.inference import video
from jaxpose.inference.predictor import People, Picture, Predictor
from jaxpose.viz import draw_boxes, draw_poses

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 1 if any video could not be used."""
    return command.run(_parser(), _run, arguments)


def _parser() -> command.Parser:
    parser = command.Parser("track", __doc__, fields=True)
    inputs.add_inputs(parser, "videos, or folders that each hold the frames of one video")
    add_tracking(parser)
    parser.set_defaults(video=True)
    return parser


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `open_videos` and `follow_all` read, besides those of `add_inputs` and `video`."""
    add = parser.add_argument
    rate = "frames a second of folders of frames (default %(default)s)"
    add("--rate", type=_rate, default=video.DEFAULT_RATE, help=rate)
    add("--smooth", action="store_true", help="steady the joints of people in videos (one-euro filter)")
    add(
        "--birth",
        type=inputs.finite,
        default=0.3,
        help="least score of a person who begins a track (default %(default)s)",
    )
    add(
        "--threshold",
        type=inputs.finite,
        default=0.3,
        help="least score of a joint that is drawn (default %(default)s)",
    )
    add("--resume", action="store_true", help="go on with a command that was stopped: skip what is done already")
    batch_size = "people or images that go through the network at once (default %(default)s)"
    add("--batch-size", type=command.positive, default=16, help=batch_size)


def _rate(text: str) -> float:
    rate = inputs.finite(text)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of frames a second; expected one above 0")
    return rate


def _run(options: argparse.Namespace) -> int:
    videos, failed = open_videos(options)
    for path in options.inputs:
        failed[str(path)] = "is no video; jaxpose predict looks at images" if path.exists() else "there is no such file"
    options.inputs = []
    opened = inputs.open_inputs(options, [*FILES, *written(videos)], read(videos))
    opened.failed.update(failed)
    done = 0
    if videos:
        predictor = inputs.load_predictor(options, options.batch_size)
        make_folder(options.output)
        partial = open_partial(predictor, options)
        done = follow_all(videos, predictor, options, opened.failed, partial)
        partial.remove()
    return opened.report(done)


@dataclasses.dataclass(frozen=True)
class Video:
    """A video and the files that are written of it.

    Attributes:
      name: name of both files, without suffix.
      footage: frames of the video.
      find_boxes: boxes of --boxes, or None.
    """

    name: str
    footage: video.VideoFile | video.FrameFolder
    find_boxes: inputs.Boxes | None

    @property
    def files(self) -> list[pathlib.Path]:
        """The files that are read."""
        footage = self.footage
        return [f for _, f in footage.files] if isinstance(footage, video.FrameFolder) else [footage.path]


def written(videos: Sequence[Video]) -> list[str]:
    """The names of all files that are written of videos."""
    return [f"{each.name}{end}" for each in videos for end in (".mp4", ".json")]


def read(videos: Sequence[Video]) -> list[pathlib.Path]:
    """The files that are read of videos."""
    return [file for each in videos for file in each.files]


def open_videos(options: argparse.Namespace, reserved: Sequence[str] = ()) -> tuple[list[Video], dict[str, str]]:
    """The videos among the inputs, and {input: reason} of those that cannot be used.

    Takes them out of `options.inputs`. Folders are videos if `options.video` says so.

    Args:
      options: options of `inputs.add_inputs` and `add_tracking`.
      reserved: names, without suffix, of files that are written besides.

    Raises:
      DataError: an unusable file of boxes or annotations.
    """
    folders = [path for path in options.inputs if options.video and path.is_dir()]
    paths = [path for path in dict.fromkeys(options.inputs) if path in folders or video.is_video(path)]
    options.inputs = [path for path in options.inputs if path not in paths]
    files = [file for folder in folders for _, file in video.numbered_files(folder)]
    ids = inputs.image_ids(files, options.annotations) if files else {}
    videos: list[Video] = []
    failed: dict[str, str] = {}
    taken = set(reserved)
    for path in paths:
        try:
            footage = video.FrameFolder(path, options.rate, ids) if path in folders else video.VideoFile(path)
            find_boxes = _boxes_of_frames(footage, options) if options.boxes else None
        except ImageError as error:
            failed[str(path)] = error.why
            continue
        name = path.resolve().name if path in folders else path.stem
        videos.append(Video(str(free_name(pathlib.PurePath(name), taken)), footage, find_boxes))
    return videos, failed


def _boxes_of_frames(footage: video.VideoFile | video.FrameFolder, options: argparse.Namespace) -> inputs.Boxes:
    """The boxes of --boxes for the frames of a video, by their ids.

    Raises:
      ImageError: a frame has no id.
      DataError: not a detection file.
    """
    if isinstance(footage, video.VideoFile):
        return inputs.Boxes(options.boxes, None, options.box_threshold)
    ids = [footage.ids[file] for _, file in footage.files]
    if None in ids:
        file = footage.files[ids.index(None)][1]
        why = f"{file.name} has no image id of its own to find its boxes by; {inputs.GIVE_ANNOTATIONS}"
        raise ImageError(str(file), why)
    return inputs.Boxes(options.boxes, ids, options.box_threshold)


def follow_all(
    videos: Sequence[Video],
    predictor: Predictor,
    options: argparse.Namespace,
    failed: dict[str, str],
    partial: Partial,
) -> int:
    """Writes the people of videos; returns how many videos could be used, and adds the others to `failed`."""
    done = 0
    for each in videos:
        name, written = each.footage.name, [options.output / f"{each.name}{end}" for end in (".mp4", ".json")]
        try:
            line = _line(each, options)
            if partial.done.get(name) == line and all(path.is_file() for path in written):
                logger.info("%s: is done already, see %s", name, written[1])
            else:
                _follow(each, predictor, options)
                partial.add(line)
            done += 1
        except (DataError, StorageError) as error:
            failed[name] = str(error)
    return done


def _line(each: Video, options: argparse.Namespace) -> dict[str, Any]:
    """What must be as it was for the files of a video to hold still.

    Raises:
      ImageError: a file vanished.
    """
    try:
        stamps = [stamp(file) for file in each.files]
    except OSError as error:
        raise ImageError(each.footage.name, f"cannot be read ({error.strerror or error})") from error
    flags = {f"--{name}": getattr(options, name) for name in ("rate", "smooth", "birth")}
    return {"name": each.footage.name, "stamp": stamps, "written": each.name} | flags


def _follow(each: Video, predictor: Predictor, options: argparse.Namespace) -> None:
    """Writes the people of a video.

    Raises:
      ImageError: none of its frames can be decoded, or one has another size.
    """

    def draw(found: video.TrackedFrame) -> np.ndarray:
        return draw_people(found.frame, found.people, predictor, options, found.track_id)

    footage, tracks = each.footage, TrackerOptions(birth=options.birth, smoothing=OneEuro() if options.smooth else None)
    with logging_redirect_tqdm():
        found = video.follow(predictor, footage, tracks, each.find_boxes)
        found = tqdm(found, total=footage.length, unit="frame", disable=None)
        frames, people = video.record(found, options.output / each.name, footage.rate, draw)
    if each.find_boxes:
        each.find_boxes.tell_unused(footage.name)
    logger.info("%d people in %d frames of %s -> %s", people, frames, footage.name, options.output / each.name)


def draw_people(
    picture: Picture,
    people: People,
    predictor: Predictor,
    options: argparse.Namespace,
    track_id: np.ndarray | None = None,
) -> np.ndarray:
    """The picture with poses, or with boxes from a detector.

    Args:
      picture: image in which people were found.
      people: people of the image.
      predictor: predictor that found them.
      options: options with `threshold`, `boxes` and `detector`; boxes are drawn if they came from elsewhere.
      track_id: [N] numbers of the people in a video, by which they are coloured.

    Returns:
      [H, W, 3] uint8 RGB.
    """
    if predictor.is_detector:
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
