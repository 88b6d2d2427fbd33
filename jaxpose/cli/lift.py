"""Turns the 2D joints of people in videos into 3D joints, and draws them.

    jaxpose predict RUN_2D dance.mp4 --output found
    jaxpose lift WORKDIR found/dance.json --video dance.mp4 --output DIR [--joints coco] [--format gif]
    jaxpose lift WORKDIR --validation 0 3 --output DIR

The first form lifts every person that was followed in a video: the JSON file that predict or track wrote of it, or one
with the same fields `frame`, `track_id` and `keypoints` (x, y, score of each joint) by another program. AlphaPose's
results and COCO results do as well: `image_id` (a number, or a name that ends with one) then is the frame, and `idx`
the person; without tracks an image must show one person. --video shows the frames beside the 3D pose; without it,
--size says how large they are. Our own files tell their skeleton; of others the number of joints does, or --joints.
Joints that it lacks are put between others. A .npz file with "keypoints" [T, K, 3] (x, y, score) of one person is read
too. The camera must be at rest. Joints are brought to the 50 frames a second of training by the frames' times.

The second form lifts videos of the run's own validation split, by number, and draws the true poses too.

It writes to DIR, for each person, dance_ID.mp4 or .gif (the picture or the 2D joints, and the 3D pose from two sides)
and dance_ID.png (some of its frames); and dance_3d.json, a list with one object a person and frame:
  frame     number of the frame
  time      time of the frame in seconds, as the file has it, else by --rate
  track_id  number of the person, as text; in the second form the video's name, with files called validation_N.mp4
  joints    (x, y, z) of each joint: millimetres to the right, down and away from the camera, from the root
  scores    scores of the 2D joints

With PyAV (pip install av) an .mp4 is H.264, which browsers and phones play; without, MPEG-4 Part 2, which players such
as VLC and mpv play, but most browsers don't. A .gif plays everywhere.
"""

import argparse
import dataclasses
import functools
import logging
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.cli import command, config_flags
from jaxpose.cli.files import first_replaced, free_name, make_folder, write_image, write_list
from jaxpose.data.examples.sequences import MILLIMETRES, open_sequences
from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.metrics.mpjpe import mpjpe
from jaxpose.files.whole import whole
from jaxpose.inference import lifter
from jaxpose.inference.lifter import Lifted, Lifter, Track
from jaxpose.inference.video import DEFAULT_RATE, open_footage
from jaxpose.ops import cameras
from jaxpose.runs import startup
from jaxpose.skeleton import Skeleton
from jaxpose.viz import animation, overlay, poses_3d

logger = logging.getLogger(__name__)

SIDE = 400
"""Side of each part of a picture in pixels."""
LONGEST_NAME = 100
"""Most letters of a person's name in the name of a file."""
STILLS = 5
"""Number of frames on the sheet of a track."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A person to lift, with the camera and video.

    Attributes:
      file: name of the files that are written, without folder and suffix.
      track: 2D joints of the run's skeleton.
      size: (width, height) of the picture in pixels.
      rate: frames a second.
      footage: function that gives the numbered frames; None shows 2D joints alone.
      truth: [T, K, 3] true joints in millimetres from the root, if they are known.
      orientation: [4] orientation of the camera, if it is known.
    """

    file: str
    track: Track
    size: tuple[int, int]
    rate: float
    footage: Callable[[], Iterator[tuple[int, np.ndarray]]] | None = None
    truth: np.ndarray | None = None
    orientation: np.ndarray | None = None

    @property
    def times(self) -> np.ndarray:
        """[T] times of the frames in seconds: the file's own, else by the rate."""
        return self.track.times_at(self.rate)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 1 if it could not be done."""
    return command.run(_parser(), _run, arguments)


def _parser() -> command.Parser:
    parser = command.Parser("lift", __doc__, fields=True)
    add = parser.add_argument
    add("workdir", help=f"network that lifts sequences: {command.SOURCE}")
    add("poses", type=pathlib.Path, nargs="?", help="JSON file of the people of a video, or .npz")
    add("--validation", type=int, nargs="+", metavar="N", help="videos of the run's validation split instead, from 0")
    add("--output", type=pathlib.Path, required=True, help="folder to write to")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--video", type=pathlib.Path, help="the video: a file, or a folder of frames")
    where.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="size of the video's frames in pixels")
    add("--rate", type=float, default=0.0, help="frames a second (default: that of --video, else 30)")
    add("--joints", choices=sorted(skeletons.SKELETONS), help="skeleton of the file's joints, if the file doesn't tell")
    add("--people", type=command.positive, default=8, help="most people, those seen longest (default %(default)s)")
    add("--format", choices=("mp4", "gif", "none"), default="mp4", help="format of animations (default %(default)s)")
    add("--step", type=int, help="step of the checkpoint (default: the newest good one)")
    config_flags.add_changes(parser)
    return parser


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 1280x720")
    return int(found[1]), int(found[2])


def _run(options: argparse.Namespace) -> int:
    if (options.poses is None) == (options.validation is None):
        raise ConfigError("give either a JSON file of poses or --validation")
    if not 0 <= options.rate < math.inf:
        raise ConfigError(f"--rate {options.rate}: expected a positive number of frames a second")
    startup.start()
    loaded = lifter.load(options.workdir, options.step, config_flags.changes(options))
    scenes = _validation_scenes(loaded, options) if options.validation else _video_scenes(loaded, options)
    written = options.output / f"{options.poses.stem if options.poses else 'validation'}_3d.json"
    animations = [_animation(scene, options) for scene in scenes]
    _protect_inputs(options, [written, *animations, *(path.with_suffix(".png") for path in animations)])
    make_folder(options.output)
    entries: list[dict] = []
    for scene in scenes:
        lifted = loaded(scene.track.keypoints, scene.size, times=scene.times)
        entries += lifter.to_json(scene.track, lifted, scene.rate)
        _draw(scene, lifted, loaded.skeleton, options)
        error = ""
        if scene.truth is not None:
            seen = lifted.valid
            error = f", MPJPE {mpjpe(lifted.joints[seen], scene.truth[seen]).mean():.1f} mm"
        logger.info("%s: %d frames%s", scene.track.name, len(scene.track), error)
    write_list(written, entries)
    logger.info("%d people -> %s", len(scenes), options.output)
    return 0


def _animation(scene: Scene, options: argparse.Namespace) -> pathlib.Path:
    return options.output / f"{scene.file}.{options.format}"


def _protect_inputs(options: argparse.Namespace, written: Sequence[pathlib.Path]) -> None:
    """Raises DataError if anything that will be written would replace something that is read."""
    read = [path for path in (options.poses, options.video) if path]
    if options.video and options.video.is_dir():
        read += options.video.iterdir()
    if replaced := first_replaced(written, read):
        raise DataError(f"--output {options.output} would replace the input {replaced}; give another")


# --- people to lift ---


def _validation_scenes(loaded: Lifter, options: argparse.Namespace) -> list[Scene]:
    source = open_sequences(loaded.config.data, "validation")
    if strangers := [number for number in options.validation if not 0 <= number < len(source)]:
        raise DataError(f"--validation {strangers}: {source.name} has videos 0 to {len(source) - 1}")
    scenes = []
    for number in options.validation:
        video = source[number]
        pixels = cameras.screen_to_pixels(video.keypoints[..., :2], video.camera.size)
        keypoints = np.concatenate([pixels, video.keypoints[..., 2:]], -1)
        track = Track(str(video), 0, keypoints, np.ones(len(video), bool))
        truth, rate = MILLIMETRES * video.joints, options.rate or source.rate
        known = {"truth": truth, "orientation": video.camera.orientation}
        scenes.append(Scene(f"validation_{number}", track, video.camera.size, rate, **known))
    return scenes


def _video_scenes(loaded: Lifter, options: argparse.Namespace) -> list[Scene]:
    poses = lifter.PoseFile(options.poses)
    joints = poses.skeleton(loaded.skeleton, options.joints)
    people = poses.tracks(joints)
    if len(people) > options.people:
        logger.info(
            "%s: %d people; the %d seen longest are lifted (--people)", options.poses, len(people), options.people
        )
        people = people[: options.people]
    size, rate, footage = options.size, options.rate or DEFAULT_RATE, None
    if options.video:
        video = open_footage(options.video)
        rate = options.rate or video.rate
        size = next(iter(video)).image.shape[1::-1]
        footage = lambda: ((frame.number, frame.image) for frame in video)  # noqa: E731
    if size is None:
        raise DataError(f"{options.poses}: how large the video's pictures are is not known; give --video or --size")
    scenes = []
    taken: set[str] = set()
    for person in people:
        keypoints = person.keypoints
        if joints != loaded.skeleton:
            keypoints = lifter.convert(keypoints, joints, loaded.skeleton)
        track = dataclasses.replace(person, keypoints=keypoints)
        name = re.sub(r"[^\w.-]+", "_", person.name)[:LONGEST_NAME]
        name = str(free_name(pathlib.PurePath(f"{options.poses.stem}_{name}"), taken))
        scenes.append(Scene(name, track, tuple(size), rate, footage))
    return scenes


# --- pictures ---


def _draw(scene: Scene, lifted: Lifted, skeleton: Skeleton, options: argparse.Namespace) -> None:
    """The animation and the sheet of one person."""
    level = functools.partial(_level, orientation=scene.orientation)
    joints, truth = level(lifted.joints), None if scene.truth is None else level(scene.truth)
    shown = joints[lifted.valid]
    view = poses_3d.Viewpoint.around(shown if truth is None else np.concatenate([shown, truth]), side=SIDE)
    file = _animation(scene, options)
    chosen = set(np.linspace(0, len(scene.track) - 1, min(STILLS, len(scene.track))).round().astype(int).tolist())
    stills: list[np.ndarray] = []

    def pictures() -> Iterator[np.ndarray]:
        for t, left in enumerate(_beside(scene, skeleton)):
            true = None if truth is None else truth[t]
            yield poses_3d.side_by_side(left, joints[t] if lifted.valid[t] else None, skeleton, view, true)

    def kept() -> Iterator[np.ndarray]:
        for t, picture in enumerate(pictures()):
            if t in chosen:
                stills.append(picture)
            yield picture

    if options.format == "none":
        for _ in kept():
            pass
    else:
        with whole(file) as unfinished:
            animation.write_animation(unfinished, kept(), scene.rate, scene.track.times)
    write_image(file.with_suffix(".png"), overlay.panel(stills, columns=1))


def _level(joints: np.ndarray, orientation: np.ndarray | None) -> np.ndarray:
    return joints if orientation is None else poses_3d.levelled(joints, orientation)


def _beside(scene: Scene, skeleton: Skeleton) -> Iterator[np.ndarray]:
    """The left part of every frame's picture: the frame with the 2D joints on it, or the joints alone."""
    track = scene.track
    region = poses_3d.square_around(track.keypoints[..., :2])
    images = scene.footage() if scene.footage else iter(())
    frame = next(images, None)
    for number, keypoints in enumerate(track.keypoints, start=track.first):
        while frame is not None and frame[0] < number:
            frame = next(images, None)
        points, scores = keypoints[:, :2], keypoints[:, 2]
        if frame is not None and frame[0] == number:
            drawn = overlay.draw_poses(frame[1], points[None], scores[None], skeleton=skeleton)
            yield poses_3d.fit(drawn, SIDE)
        else:
            yield poses_3d.draw_keypoints(points, scores, region, skeleton, SIDE)
