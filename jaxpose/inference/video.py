"""People in videos: frames in, poses with track ids out, however long the video is.

    predictor = jaxpose.load("runs/dcpose", detector="runs/detector")
    for found in video.follow(predictor, "dance.mp4"):
        found.frame.number, found.track_id, found.people.keypoints

Frames are decoded one by one, go through the network in batches, and are forgotten when their people have been handed
out: how many are held depends on the size of a batch, not on the length of the video. The command
`jaxpose predict RUN dance.mp4 --output DIR` is built on it.
"""

import abc
import collections
import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np

from jaxpose.data import images
from jaxpose.data.examples.clips import neighbours
from jaxpose.errors import ImageError
from jaxpose.evaluation.tracking import Tracker, TrackerOptions
from jaxpose.files.whole import whole
from jaxpose.inference.predictor import FindBoxes, People, Picture, Predictor
from jaxpose.methods.top_down import ClipInput
from jaxpose.viz import animation

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
DEFAULT_RATE = 30.0
"""Frames a second where a video does not tell."""
_RESOLUTION = 0.001
"""Seconds to which some formats round the times of frames."""
_EVEN = 0.003
"""Seconds by which distances of evenly spaced frames may differ."""
_DIGITS = "0123456789"
_MOST_DIGITS = 18


@dataclasses.dataclass(frozen=True)
class Frame(Picture):
    """A picture of a video.

    Attributes:
      number: number of the frame in the video, rising; numbers are left out where frames are missing.
      time: time of the frame in seconds from the first one; None where only the rate tells.
    """

    number: int = 0
    time: float | None = None


@dataclasses.dataclass(frozen=True)
class TrackedFrame:
    """A frame and who is in it.

    Attributes:
      frame: frame of the video.
      time: time of the frame in seconds.
      people: people in it by falling score; their keypoints are smoothed if the tracker does.
      track_id: [N] ids from 1, the same for a person over the frames of the video; -1 for those too doubtful to begin a
        track.
      skeleton: name of the skeleton of their joints, if they have any.
    """

    frame: Frame
    time: float
    people: People
    track_id: np.ndarray
    skeleton: str | None = None


# --- reading ---


class Footage(abc.ABC):
    """A video that is read frame by frame, as often as it is iterated over.

    Attributes:
      name: name for messages.
      rate: frames a second.
    """

    name: str
    rate: float

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames in order of time.

        Raises:
          ImageError: there is none that can be decoded.
        """

    @property
    @abc.abstractmethod
    def length(self) -> int | None:
        """The number of frames as the video states it, which is a hint and may be wrong; None if it does not."""


class VideoFile(Footage):
    """A video in one file. A frame's id is its number, from 0; its time is that of its stamp, not of the stated rate.

    Args:
      path: file that OpenCV can decode.

    Raises:
      ImageError: it cannot be opened.
    """

    def __init__(self, path: str | pathlib.Path):
        import cv2

        self.path, self.name = pathlib.Path(path), str(path)
        with self._opened() as capture:
            rate, length = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = rate if np.isfinite(rate) and rate > 0 else DEFAULT_RATE
        self._length = int(length) if np.isfinite(length) and length > 0 else None
        self._told: set[str] = set()

    @property
    def length(self) -> int | None:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        import cv2

        clock = _Clock(self.rate)
        with self._opened() as capture:
            while (image := _next_image(capture)) is not None:
                time, number = clock.next(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000), clock.number
                yield Frame(f"{self.name} (frame {number})", image, id=number, number=number, time=time)
        if clock.number < 0:
            raise ImageError(self.name, "none of its frames can be decoded; fetch it again, or write it as MP4")
        for remark in clock.remarks():
            if remark not in self._told:
                logger.info("%s: %s", self.name, remark)
                self._told.add(remark)

    @contextlib.contextmanager
    def _opened(self) -> Iterator:
        import cv2

        if not self.path.is_file():
            raise ImageError(self.name, "there is no such file")
        capture = cv2.VideoCapture(self.name)
        try:
            if not capture.isOpened():
                raise ImageError(self.name, "is no video that can be decoded; fetch it again, or write it as MP4")
            yield capture
        finally:
            capture.release()


class _Clock:
    """Times of a video's frames by their stamps; from a stamp on that does not rise, by the rate.

    Attributes:
      number: number of the last frame, from 0; -1 before the first one.
    """

    def __init__(self, rate: float):
        self.number, self._rate, self._time, self._first = -1, rate, 0.0, 0.0
        self._broken: tuple[int, float] | None = None
        self._steps = (np.inf, 0.0)

    def next(self, stamp: float) -> float:
        """The time in seconds of the next frame from the first one, which is later than that of the one before.

        Args:
          stamp: stamp of the frame in seconds.
        """
        self.number += 1
        if self.number == 0:
            self._first = stamp if np.isfinite(stamp) else 0.0
            return 0.0
        time, even = stamp - self._first, self.number / self._rate
        if abs(time - even) <= _RESOLUTION:
            time = even
        if self._broken is None and not self._time < time < np.inf:
            self._broken = self.number - 1, self._time
        if self._broken is not None:
            number, since = self._broken
            time = since + (self.number - number) / self._rate
        least, most = self._steps
        self._steps = min(least, time - self._time), max(most, time - self._time)
        self._time = time
        return time

    def remarks(self) -> Iterator[str]:
        """What users should know of the times."""
        if self._broken is not None:
            yield f"times of frames do not rise after frame {self._broken[0]}; then there are {self._rate:g} a second"
        least, most = self._steps
        if most - least > _EVEN:
            yield f"frames are {1000 * least:.0f} to {1000 * most:.0f} ms apart"


def _next_image(capture) -> np.ndarray | None:
    good, image = capture.read()
    return np.ascontiguousarray(image[..., ::-1]) if good else None


class FrameFolder(Footage):
    """A folder of pictures that are the frames of one video, numbered by the digits that their names end with.

    Frames are the pictures with the pattern of names that more than half of all share: what stands before the number;
    where one number would come twice, the suffix too, then also how many digits there are. If no pattern is so common,
    the names that end with a number are frames, if they are more than half and each number comes once; else all
    pictures are, numbered from 0 in order of their names. Pictures that are no frames or cannot be decoded are named in
    the log and left out, and it says where numbers of names are not used.

    Args:
      path: folder with the frames.
      rate: frames a second.
      ids: {file: id of the image in an annotation or detection file}.

    Raises:
      ImageError: it holds no picture.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        rate: float = DEFAULT_RATE,
        ids: dict[pathlib.Path, int | None] | None = None,
    ):
        self.path, self.name, self.rate, self.ids = pathlib.Path(path), str(path), rate, ids or {}
        self.files, strays = _frames_and_strays(self.path)
        if strays:
            named = ", ".join(file.name for file in strays[:5]) + (", ..." if len(strays) > 5 else "")
            logger.warning(
                "%s: %d pictures whose names are unlike the others' are no frames: %s", path, len(strays), named
            )
        if any(_number(file) not in (None, number) for number, file in self.files):
            logger.warning("%s: numbers in names are of no use; frames are numbered from 0 in order of names", path)
        if not self.files:
            raise ImageError(self.name, f"the folder holds no frame ({', '.join(images.SUFFIXES)})")

    @property
    def length(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        size, found = None, 0
        for number, file in self.files:
            try:
                image = images.decode(images.read(file), str(file))
            except ImageError as error:
                logger.warning("%s: the frame is left out: %s", file, error.why)
                continue
            size, found = size or image.shape, found + 1
            if image.shape != size:
                sizes = (f"{shape[1]} x {shape[0]}" for shape in (image.shape, size))
                why = "is {} pixels, but the frames before it are {}; a folder holds one video"
                raise ImageError(str(file), why.format(*sizes))
            yield Frame(str(file), image, id=self.ids.get(file), number=number)
        if not found:
            raise ImageError(self.name, f"none of its {len(self.files)} frames can be decoded")


def numbered_files(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """The frames of a folder with their numbers, see `FrameFolder`, in order."""
    return _frames_and_strays(folder)[0]


def _frames_and_strays(folder: pathlib.Path) -> tuple[list[tuple[int, pathlib.Path]], list[pathlib.Path]]:
    """The numbered frames of a folder in order, and its other pictures."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in images.SUFFIXES and f.is_file())
    shown = [file for file in files if not file.name.startswith(".")]
    chosen = next(filter(None, (_most(shown, pattern) for pattern in _PATTERNS)), None)
    numbered = list(enumerate(shown)) if chosen is None else sorted((_number(file) or 0, file) for file in chosen)
    frames = {file for _, file in numbered}
    return numbered, [file for file in files if file not in frames]


_PATTERNS: Sequence[Callable[[pathlib.Path], Hashable]] = (
    lambda file: file.stem.rstrip(_DIGITS),
    lambda file: (file.stem.rstrip(_DIGITS), file.suffix),
    lambda file: (file.stem.rstrip(_DIGITS), file.suffix, len(file.stem)),
    lambda file: None,
)
"""What names of frames share, from loose to strict; then nothing but that they end with a number."""


def _most(files: Sequence[pathlib.Path], pattern: Callable[[pathlib.Path], Hashable]) -> list[pathlib.Path] | None:
    """The files with the commonest pattern, if they are more than half and each has a number of its own."""
    groups: dict[Hashable, list[pathlib.Path]] = {}
    for file in files:
        if _number(file) is not None:
            groups.setdefault(pattern(file), []).append(file)
    most = max(groups.values(), key=len, default=[])
    fits = 2 * len(most) > len(files) and len({_number(file) for file in most}) == len(most)
    return most if fits else None


def _number(file: pathlib.Path) -> int | None:
    """The number that the name of a file ends with."""
    digits = file.stem[len(file.stem.rstrip(_DIGITS)) :]
    return int(digits) if 0 < len(digits) <= _MOST_DIGITS else None


def is_video(path: pathlib.Path) -> bool:
    """Whether a file is named like a video."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_footage(path: str | pathlib.Path, rate: float = DEFAULT_RATE) -> Footage:
    """A video file, or a folder of frames, of which there are `rate` a second.

    Raises:
      ImageError: it cannot be opened, or holds no frame.
    """
    path = pathlib.Path(path)
    return FrameFolder(path, rate) if path.is_dir() else VideoFile(path)


# --- finding and following ---


def with_neighbours(frames: Iterable[Frame], distance: tuple[int, int]) -> Iterator[Frame]:
    """Frames with those before and after them that a method for clips looks at, by `data.examples.clips.neighbours`.

    A frame comes when those after it are known; fewer than the sum of distances are held.

    Args:
      frames: frames of one video, in order.
      distance: (previous, next) distances of the first frames that are too far.
    """
    held: collections.deque[Frame] = collections.deque()
    done = 0  # so many of them have been handed out, and may still be looked at
    for frame in frames:
        held.append(frame)
        while done < len(held) and frame.number >= held[done].number + distance[1] - 1:
            yield _with_neighbours(held, done, distance)
            done += 1
            while done > distance[0] - 1:
                held.popleft()
                done -= 1
    for row in range(done, len(held)):
        yield _with_neighbours(held, row, distance)


def _with_neighbours(held: Sequence[Frame], row: int, distance: tuple[int, int]) -> Frame:
    by_number = {frame.number: frame.image for frame in held}
    found = neighbours(held[row].number, np.array(list(by_number)), distance, None)
    around = by_number[found.previous], by_number[found.next]
    return dataclasses.replace(held[row], around=around, margin=tuple(found.margin.tolist()))


def follow(
    predictor: Predictor,
    footage: Footage | Iterable[Frame] | str | pathlib.Path,
    options: TrackerOptions = TrackerOptions(),  # noqa: B008
    find_boxes: FindBoxes | None = None,
) -> Iterator[TrackedFrame]:
    """The people of a video's frames, in order, and who of them is who.

    A method for clips sees each frame's neighbours. The people of a detector have boxes and no joints.

    Args:
      predictor: predictor that finds them.
      footage: video, path of one, or any frames, of which there are then 30 a second.
      options: rules by which people are followed, and smoothing of their poses.
      find_boxes: function from a frame to boxes of its people; see `Predictor.stream`.

    Raises:
      ImageError: no frame can be decoded, or one has another size.
      DataError, NonFiniteError: as `Predictor.stream`.

    Examples:
      >>> from jaxpose import methods
      >>> import jax
      >>> from jaxpose.inference.predictor import Predictor
      >>> from jaxpose.methods.heatmap import tiny
      >>> fields = {"skeleton": "mpii", "backbone": "resnet18"} | tiny.FIELDS["heatmap"]
      >>> method = methods.create({"name": "heatmap"} | fields)
      >>> predictor = Predictor(method, method.init(jax.random.key(0)), batch_size=8)
      >>> frames = [Frame(f"frame {i}", np.zeros((120, 160, 3), np.uint8), number=i) for i in range(3)]
      >>> [(found.frame.number, len(found.people)) for found in follow(predictor, frames)]
      [(0, 1), (1, 1), (2, 1)]
    """
    if isinstance(footage, str | pathlib.Path):
        footage = open_footage(footage)
    rate = getattr(footage, "rate", DEFAULT_RATE)
    if predictor.is_detector:
        tracker = Tracker(np.zeros(0), dataclasses.replace(options, oks=0.0), rate)
    else:
        tracker = Tracker(np.asarray(predictor.skeleton.sigmas), options, rate)
    skeleton = None if predictor.is_detector else predictor.skeleton.name
    sees_clips = isinstance(predictor.method, ClipInput)
    frames = with_neighbours(footage, predictor.distance) if sees_clips else footage
    for frame, people in predictor.stream(frames, find_boxes, most=2 * predictor.batch_size):
        assert isinstance(frame, Frame)
        fields = people.keypoints, people.scores, people.person_score, people.boxes
        time = frame.number / rate if frame.time is None else frame.time
        tracked = tracker.update(*fields, frame.number, time)
        people = dataclasses.replace(people, keypoints=tracked.keypoints)
        yield TrackedFrame(frame, time, people, tracked.track_id, skeleton)


# --- writing ---

Draw = Callable[[TrackedFrame], np.ndarray]
"""The picture [H, W, 3] uint8 RGB of a frame with what was found."""


def record(found: Iterable[TrackedFrame], path: pathlib.Path, rate: float, draw: Draw) -> tuple[int, int]:
    """Writes what was found in a video: PATH.mp4 with pictures, and PATH.json with one object a person and frame.

    An object has `frame`, its number; `time` in seconds; `image_id`, if the frame has one; `track_id`, or null without
    a track; `skeleton`, the name of the joints' skeleton; and the fields of `People.to_coco`. Frames are in order, a
    frame's people by falling score, and the video shows each as long as it was in its source. Either file gets its name
    when it is complete.

    Args:
      found: frames as `follow` gives them; taken one by one.
      path: path of both files, without suffix.
      rate: frames a second.
      draw: function that makes the pictures, all of one size.

    Returns:
      The number of frames, and that of people over all frames.

    Raises:
      DataError: the video cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = people = 0
    shown, listed = (path.with_name(path.name + suffix) for suffix in (".mp4", ".json"))
    with (
        whole(shown) as film_file,
        whole(listed) as list_file,
        animation.film(film_file, rate) as film,
        list_file.open("w") as text,
    ):
        for each in found:
            film(draw(each), each.time)
            for entry in _entries(each):
                text.write((",\n" if people else "[\n") + json.dumps(entry, allow_nan=False))
                people += 1
            frames += 1
        text.write("\n]\n" if people else "[]\n")
    return frames, people


def _entries(found: TrackedFrame) -> Iterator[dict]:
    place: dict = {"frame": found.frame.number, "time": round(found.time, 4), "image_id": found.frame.id}
    if found.skeleton:
        place["skeleton"] = found.skeleton
    for track_id, person in zip(found.track_id.tolist(), found.people.to_coco(), strict=True):
        yield place | {"track_id": track_id if track_id >= 0 else None} | person
