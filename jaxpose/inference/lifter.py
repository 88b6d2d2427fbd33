"""From 2D joints to 3D, as a Python call.

    lifter = lifter.load("runs/anatomy3d")
    lifted = lifter(keypoints, size)            # [T, K, 3] pixels and scores of one person, frame by frame
    lifted.joints, lifted.valid                 # [T, K, 3] millimetres from the root, [T]

`tracks` reads what `jaxpose predict` found in a video. The command `jaxpose lift` is built on both.
"""

import contextlib
import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data.examples import sequences
from jaxpose.errors import DataError, NonFiniteError
from jaxpose.files import fields
from jaxpose.files.arrays import read_npz
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json
from jaxpose.methods.lifting import SequenceInput
from jaxpose.ops import cameras
from jaxpose.skeleton import OTHER_NAMES, Skeleton
from jaxpose.types import Variables

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Lifted:
    """The 3D poses of one person.

    Attributes:
      joints: [T, K, 3] float32 joints in millimetres from the root, along the camera's axes (x right, y down, z
        forward).
      valid: [T] bool mask of the frames with a pose; the others' joints mean nothing.
    """

    joints: np.ndarray
    valid: np.ndarray


def load(workdir: str | pathlib.Path, step: int | None = None, changes: Mapping[str, Any] | None = None) -> "Lifter":
    """A lifter from what a run learned; arguments as for `jaxpose.load`.

    Raises:
      CheckpointError: no run or no good checkpoint there.
      ConfigError: a change that cannot be made.
      DataError: the run's method does not look at sequences.
    """
    from jaxpose.runs.reader import load_for_inference

    config, method, variables = load_for_inference(workdir, step, changes)
    if not isinstance(method, SequenceInput):
        raise DataError(f"{workdir} takes a {method.input_kind}, no sequence of 2D joints; use jaxpose predict")
    return Lifter(config, method, variables)


class Lifter:
    """Lifts the 2D joints of one person at a time. Videos of similar length share a compiled program.

    Args:
      config: config of the run.
      method: method that looks at sequences.
      variables: variables of its network.

    Examples:
      >>> from jaxpose import methods
      >>> from jaxpose.methods.anatomy3d import tiny
      >>> method = methods.create({"name": "anatomy3d"} | tiny.FIELDS["anatomy3d"])
      >>> lifter = Lifter(None, method, method.init(jax.random.key(0)))
      >>> lifted = lifter(np.random.default_rng(0).uniform(0, 1, (20, 17, 3)), size=(640, 480))
      >>> lifted.joints.shape, bool(lifted.valid.all())
      ((20, 17, 3), True)
    """

    def __init__(self, config: Any, method: SequenceInput, variables: Variables):
        self.config, self.method, self.variables = config, method, variables
        self._predict = jax.jit(method.predict)
        self._measure = jax.jit(lambda variables, stream: method.measure(variables, stream["window"], stream["frames"]))

    @property
    def skeleton(self) -> Skeleton:
        """Of 2D and 3D joints."""
        return self.method.joints

    def __call__(
        self,
        keypoints: np.ndarray,
        size: tuple[int, int],
        lengths: np.ndarray | None = None,
        times: np.ndarray | None = None,
    ) -> Lifted:
        """The 3D poses of a person whom a camera at rest sees.

        Args:
          keypoints: [T, K, 3] (x, y, score), pixels of the picture, score in [0, 1].
          size: (width, height) of the picture.
          lengths: [N] lengths of the person's bones in metres, if they are known, such as from `measure` of another
            video.
          times: [T] times of the frames in seconds, rising. Joints are brought to the rate of the videos that the run
            was trained with, `method.rate`, and back, on lines. Frames of that rate if None.

        Raises:
          DataError: another shape, or numbers that are not finite.
          NonFiniteError: the network's numbers are not.
        """
        if times is not None and not at_rate(times, self.method.rate):
            moments = moments_between(times, self.method.rate)
            logger.info("%d frames are lifted as %d, %g a second", len(times), len(moments), self.method.rate)
            lifted = self(between(keypoints, times, moments), size, lengths)
            joints = between(lifted.joints, moments, times).astype(np.float32)
            return Lifted(joints, between(lifted.valid, moments, times) > 0.999)
        stream = self._stream(keypoints, size)
        if lengths is not None:
            stream["lengths"] = np.asarray(lengths, np.float32)[None]
        poses = jax.device_get(self._predict(self.variables, {"source": stream}))
        joints, valid = poses.keypoints[0, : len(keypoints)], poses.valid[0, : len(keypoints)]
        if not np.isfinite(joints[valid]).all():
            raise NonFiniteError("the network's 3D joints are not finite; the run's checkpoint is of no use")
        return Lifted(joints, valid)

    def measure(self, keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The lengths [N] in metres of the bones `ops.bones.Tree.bones`, read from the frames of a video.

        Arguments and errors are those of the call; a method that knows no bones is a DataError.
        """
        if not self.method.measures_bones:
            raise DataError("the run's method knows no bones, so it cannot measure them")
        lengths = jax.device_get(self._measure(self.variables, self._stream(keypoints, size)))
        return lengths[0, min(len(keypoints), lengths.shape[1]) - 1]

    def _stream(self, keypoints: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """A batch of the one video, padded to a length that others share."""
        keypoints = np.asarray(keypoints, np.float32)
        joints = self.skeleton.num_joints
        if keypoints.ndim != 3 or keypoints.shape[1:] != (joints, 3) or not len(keypoints):
            raise DataError(
                f"keypoints have shape {keypoints.shape}, expected (frames, {joints}, 3): x, y and score of the "
                f"joints of {self.skeleton.name!r}"
            )
        if not np.isfinite(keypoints).all():
            frame = int(np.argmin(np.isfinite(keypoints).all((1, 2))))
            raise DataError(f"keypoints of frame {frame} are not finite; leave the frame out, `fill` closes gaps")
        screen = cameras.normalize_screen(keypoints[..., :2], size)
        sequence = np.concatenate([screen, keypoints[..., 2:]], -1, dtype=np.float32)
        count, field = len(sequence), self.method.receptive_field
        length, first = sequences.padded_length(count), -sequences.frames_before(field, self.method.causal)
        return {
            "window": sequences.window(sequence, first, length + field - 1)[None],
            "frames": (np.arange(length) < count)[None],
            "valid": np.ones(1, bool),
        }


# --- time ---

ALIKE = 0.02
"""Largest share of a frame's time by which steps of time may differ from those of the rate."""


def at_rate(times: np.ndarray, rate: float) -> bool:
    """Whether frames at times [T] in seconds are as far apart as `rate` frames a second."""
    return bool(np.all(np.abs(np.diff(times) * rate - 1) < ALIKE))


def moments_between(times: np.ndarray, rate: float) -> np.ndarray:
    """[T'] times in seconds at `rate` frames a second, from the first to the last of `times` [T] or just after it.

    Raises:
      DataError: `times` are not finite or don't rise, or there would be more than `MOST_FRAMES`.

    Examples:
      >>> moments_between(np.array([2.0, 2.1]), 25.0).round(2).tolist()
      [2.0, 2.04, 2.08, 2.12]
    """
    times = np.asarray(times, np.float64)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise DataError("times of frames have to be finite and to rise")
    count = np.ceil((times[-1] - times[0]) * rate - 1e-6) + 1
    if count > MOST_FRAMES:
        raise DataError(
            f"frames from {times[0]:.10g} to {times[-1]:.10g} seconds are {count:.10g} at {rate:g} a second; at most "
            f"{MOST_FRAMES:,} can be lifted. Are times in seconds?"
        )
    return times[0] + np.arange(int(count)) / rate


def between(values: np.ndarray, times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Values [T, ...] at rising times [T], on lines between them, at other moments [T']; the nearest beyond the ends.

    Examples:
      >>> between(np.array([0.0, 10.0]), np.array([0.0, 1.0]), np.array([0.25, 0.5, 2.0])).tolist()
      [2.5, 5.0, 10.0]
    """
    values = np.asarray(values, np.float64)
    at = np.interp(moments, times, np.arange(len(times)))
    before = np.minimum(at.astype(int), max(len(times) - 2, 0))
    share = (at - before).reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[before] + share * values[np.minimum(before + 1, len(times) - 1)]


# --- 2D joints of other programs ---

MOST_FRAMES = 10**6
"""Most frames from the first to the last in which a person is."""
SPARSEST = 1000
"""Most frames for each of a person's objects."""
_WITH_BODY = {136: 26}
"""{number of joints: number of those that begin it}: Halpe's 136 joints begin with the 26 of its body."""


@dataclasses.dataclass(frozen=True)
class Track:
    """One person's 2D joints in a video.

    Attributes:
      name: name of the person, for files and messages.
      first: number of the first frame.
      keypoints: [T, K, 3] joints (x, y, score) in pixels, frame by frame from there.
      seen: [T] bool mask of the frames in which the person was found; `fill` made up the others.
      times: [T] times of the frames in seconds, if the file tells.
    """

    name: str
    first: int
    keypoints: np.ndarray
    seen: np.ndarray
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keypoints)

    def times_at(self, rate: float) -> np.ndarray:
        """[T] times of the frames in seconds: the file's, else those of `rate` frames a second."""
        return (self.first + np.arange(len(self))) / rate if self.times is None else self.times


def tracks(path: str | pathlib.Path, skeleton: Skeleton) -> list[Track]:
    """The people of a video's file, by falling number of frames; see `PoseFile`.

    Args:
      path: JSON or .npz file.
      skeleton: joints that it holds.

    Raises:
      DataError: as `PoseFile` and `PoseFile.tracks`.
    """
    return PoseFile(path).tracks(skeleton)


class PoseFile:
    """2D joints of the people in a video: what `jaxpose track` writes, AlphaPose's results, or COCO results.

    A JSON file is a list with one object a person and frame. Of each `keypoints` counts (x, y, score of each joint).
    The frame is its `frame`, else its `image_id`, a whole number or a name that ends with one; objects without either
    are one person, numbered as they come. The person is its `track_id`, else its `idx`. Objects without the one that
    others have belong to nobody, and are left out. If none has one, the file shows a single person: where objects have
    `frame`, the best by `score` in each; else a second one in an image is an error. `time` (seconds) and `skeleton`
    (name) are read if they are there.

    A .npz file instead has the array "keypoints" [T, K, 3] (x, y, score) of one person, from frame 0 on.

    Args:
      path: JSON or .npz file.

    Raises:
      DataError: not such a file.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self._is_array = self.path.suffix.lower() == ".npz"
        self._array = _read_array(self.path) if self._is_array else np.zeros((0, 0, 3))
        self._entries = [] if self._is_array else _read_entries(self.path)

    def skeleton(self, own: Skeleton, name: str | None = None) -> Skeleton:
        """The skeleton of the joints in the file.

        Args:
          own: skeleton that the joints are wanted in.
          name: name of the file's skeleton, if that is known.

        Raises:
          DataError: the file is of another skeleton, of several, or could be of more than one.
          ConfigError: no skeleton has such a name.
        """
        stated = self._stated()
        if name and stated and name != stated:
            raise DataError(f"{self.path}: its joints are those of {stated!r}, but --joints says {name!r}")
        if name or stated:
            return own if own.name == (name or stated) else skeletons.get(name or stated or "")
        count = self._count_joints()
        known = skeletons.SKELETONS | {own.name: own}
        fit = [each for each in known.values() if each.num_joints == count]
        if len(fit) != 1:
            names = _listed([each.name for each in fit]) or "those of no known skeleton"
            raise DataError(f"{self.path}: {count} joints could be {names}; say which by --joints")
        if fit[0] != own:
            logger.info("%s: %d joints are taken for those of %r (--joints)", self.path, count, fit[0].name)
        return fit[0]

    def _stated(self) -> str | None:
        stated: dict[str, int] = {}
        for row, entry in enumerate(self._entries):
            with _named(self.path, row):
                if found := fields.text(entry, "skeleton", missing=None):
                    stated.setdefault(found, row)
        if len(stated) > 1:
            where = _listed([f"{name!r} (object {row})" for name, row in stated.items()], "and")
            raise DataError(f"{self.path}: joints of several skeletons, {where}; lift one at a time")
        return next(iter(stated), None)

    def _count_joints(self) -> int:
        if self._is_array:
            return self._array.shape[1]
        counts: dict[int, int] = {}
        for row, entry in enumerate(self._entries):
            with _named(self.path, row):
                numbers = fields.numbers(entry, "keypoints", missing=())
            counts.setdefault(len(numbers), row)
        if len(counts) != 1:
            where = _listed([f"{count} (object {row})" for count, row in counts.items()], "and")
            raise DataError(f"{self.path}: 'keypoints' of several lengths, {where or 'none'}; expected one skeleton")
        (numbers,) = counts
        if not numbers or numbers % 3:
            raise DataError(f"{self.path}: 'keypoints' has {numbers} numbers, expected x, y and score of each joint")
        return _WITH_BODY.get(numbers // 3, numbers // 3)

    def tracks(self, skeleton: Skeleton) -> list[Track]:
        """The people of the file, by falling number of frames.

        Args:
          skeleton: joints that it holds.

        Raises:
          DataError: other joints, unusable fields, frames far apart, a person twice in a frame, or nobody.
        """
        if self._is_array:
            return [_array_track(self.path, self._array, skeleton)]
        people: dict[str, dict[int, _Seen]] = {}
        frame_of, person_of = _frames(self.path, self._entries), _people(self.path, self._entries)
        own_format, followed = _has(self._entries, "frame"), _has_key(self._entries, ("track_id", "idx"))
        nobody = doubled = 0
        for row, (entry, frame, name) in enumerate(zip(self._entries, frame_of, person_of, strict=True)):
            if name is None:
                nobody += 1
                continue
            mine, found = people.setdefault(name, {}), _seen(self.path, row, entry, skeleton)
            if frame in mine and followed:
                raise DataError(
                    f"{self.path}: object {row}: person {name} is in frame {frame} for the second time; give people "
                    "tracks of their own (track_id or idx), or lift one person at a time"
                )
            if frame in mine and not own_format:
                raise DataError(
                    f"{self.path}: object {row}: two people in one image (frame {frame}); give tracks (idx or "
                    "track_id), or lift one person at a time"
                )
            doubled += frame in mine
            if frame not in mine or found.score > mine[frame].score:
                mine[frame] = found
        if not people:
            raise DataError(
                f"{self.path}: nobody is followed in it; expected objects with 'track_id', 'frame' and 'keypoints'"
            )
        if nobody:
            logger.info("%s: %d of %d objects belong to nobody who is followed", self.path, nobody, len(frame_of))
        if doubled:
            logger.warning("%s: no 'track_id'; %d objects that score less than another of their frame are left out",
                           self.path, doubled)  # fmt: skip
        found = [_track(self.path, name, mine) for name, mine in people.items()]
        return sorted(found, key=lambda track: -int(track.seen.sum()))


class _Seen(NamedTuple):
    """A person in a frame: score, joints [K, 3], and the frame's time if it is known."""

    score: float
    keypoints: np.ndarray
    time: float | None


@contextlib.contextmanager
def _named(path: pathlib.Path, row: int) -> Iterator[None]:
    """Turns what is wrong with a field into a DataError that names file and object."""
    try:
        yield
    except FieldError as error:
        raise DataError(f"{path}: object {row}: {error}") from error


def _listed(names: Sequence[str], word: str = "or") -> str:
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _has(entries: Sequence[Mapping], name: str) -> bool:
    return any(entry.get(name) is not None for entry in entries)


def _has_key(entries: Sequence[Mapping], names: Sequence[str]) -> str | None:
    """The first of the fields that any object has, be it null."""
    return next((name for name in names if any(name in entry for entry in entries)), None)


def _read_entries(path: pathlib.Path) -> list[dict]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{path}: expected a list of objects, as jaxpose track writes of a video")
    return content


def _read_array(path: pathlib.Path) -> np.ndarray:
    keypoints = read_npz(path, ["keypoints"])["keypoints"]
    if keypoints.ndim != 3 or keypoints.shape[2] != 3 or not keypoints.size or keypoints.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: field 'keypoints' is {keypoints.dtype} of shape {keypoints.shape}, expected numbers of shape "
            "(frames, joints, 3): x, y and score"
        )
    return keypoints


def _array_track(path: pathlib.Path, keypoints: np.ndarray, skeleton: Skeleton) -> Track:
    if keypoints.shape[1] != skeleton.num_joints or not (np.abs(keypoints) <= fields.LARGEST).all():
        raise DataError(
            f"{path}: field 'keypoints' has shape {keypoints.shape}, expected (frames, {skeleton.num_joints}, 3) "
            f"finite numbers: x, y and score of the joints of {skeleton.name!r}; --joints names another skeleton"
        )
    if len(keypoints) > MOST_FRAMES:
        raise DataError(f"{path}: has {len(keypoints):,} frames; at most {MOST_FRAMES:,} are lifted at once")
    return Track(path.stem, 0, fill(keypoints), np.any(keypoints[..., 2] > 0, axis=-1))


def _frames(path: pathlib.Path, entries: Sequence[Mapping]) -> list[int]:
    """Numbers of the frames that objects are of."""
    if _has(entries, "frame"):
        return [_field(path, row, fields.whole, entry, "frame", least=0) for row, entry in enumerate(entries)]
    if not _has(entries, "image_id"):
        if len({name for name in _people(path, entries) if name}) > 1:
            raise DataError(f"{path}: several people, but no 'frame' or 'image_id' that tells in which frame they are")
        return list(range(len(entries)))
    found = [_frame_of_image(path, row, entry) for row, entry in enumerate(entries)]
    first: dict[int, Any] = {}
    for row, (number, entry) in enumerate(zip(found, entries, strict=True)):
        if first.setdefault(number, entry["image_id"]) != entry["image_id"]:
            raise DataError(
                f"{path}: object {row}: images {fields.shown(first[number])} and {fields.shown(entry['image_id'])} "
                f"are both frame {number}; lift the images of one video at a time"
            )
    return found


def _frame_of_image(path: pathlib.Path, row: int, entry: Mapping) -> int:
    """The whole number that an `image_id` is or ends with."""
    value = entry.get("image_id")
    if not isinstance(value, str):
        return _field(path, row, fields.whole, entry, "image_id", least=0)
    digits = re.search(r"(?<!\d)\d{1,18}$", pathlib.PurePosixPath(value).stem, re.ASCII)
    if digits is None:
        raise DataError(
            f"{path}: object {row}: field 'image_id' is {fields.shown(value)}, expected the number of a frame, or a "
            "name that ends with it, such as 12.jpg"
        )
    return int(digits[0])


def _people(path: pathlib.Path, entries: Sequence[Mapping]) -> list[str | None]:
    """Names of the people that objects are of; None for nobody."""
    name = _has_key(entries, ("track_id", "idx"))
    if name is None:
        return ["1"] * len(entries)
    return [_person(path, row, entry, name) for row, entry in enumerate(entries)]


def _person(path: pathlib.Path, row: int, entry: Mapping, name: str) -> str | None:
    value = entry.get(name)
    while name == "idx" and isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[\d.]+", value):
        return _field(path, row, fields.text, {name: value}, name)
    number = _field(path, row, fields.whole, {name: value}, name, missing=None)
    return None if number is None else str(number)


def _field(path: pathlib.Path, row: int, read: Callable, *arguments: Any, **options: Any) -> Any:
    with _named(path, row):
        return read(*arguments, **options)


def _seen(path: pathlib.Path, row: int, entry: Mapping, skeleton: Skeleton) -> _Seen:
    with _named(path, row):
        numbers = fields.numbers(entry, "keypoints")
        score, time = fields.number(entry, "score", missing=1.0), fields.number(entry, "time", missing=None, least=0)
    if _WITH_BODY.get(len(numbers) // 3) == skeleton.num_joints and not len(numbers) % 3:
        numbers = numbers[: 3 * skeleton.num_joints]
    if len(numbers) != 3 * skeleton.num_joints:
        raise DataError(
            f"{path}: object {row}: field 'keypoints' has {len(numbers)} numbers, expected {3 * skeleton.num_joints}: "
            f"x, y and score of the joints of {skeleton.name!r}; --joints names another skeleton"
        )
    return _Seen(score, numbers.reshape(-1, 3), time)


def _track(path: pathlib.Path, name: str, frames: Mapping[int, _Seen]) -> Track:
    first, last = min(frames), max(frames)
    length = last - first + 1
    if length > min(MOST_FRAMES, SPARSEST * len(frames)):
        raise DataError(
            f"{path}: person {name} is in {len(frames)} frames from {first} to {last}; a person's frames may span "
            f"{MOST_FRAMES:,} at most, and {SPARSEST:,} for each one with the person. Are they frames of one video?"
        )
    keypoints, seen = np.zeros((length, *frames[first].keypoints.shape)), np.zeros(length, bool)
    for frame, found in frames.items():
        keypoints[frame - first], seen[frame - first] = found.keypoints, True
    return Track(name, first, fill(keypoints), seen, _times(path, name, frames, length))


def _times(path: pathlib.Path, name: str, frames: Mapping[int, _Seen], length: int) -> np.ndarray | None:
    """Times [T] of a person's frames, those between others on a line; None if any is missing."""
    numbers = sorted(frames)
    known = [frames[number].time for number in numbers]
    if None in known:
        return None
    times = np.array(known, np.float64)
    if (wrong := np.flatnonzero(np.diff(times) <= 0)).size:
        frame = numbers[int(wrong[0]) + 1]
        raise DataError(f"{path}: person {name}: 'time' does not rise towards frame {frame}; expected seconds")
    return np.interp(np.arange(length), np.array(numbers) - numbers[0], times)


def fill(keypoints: np.ndarray) -> np.ndarray:
    """Joints [T, K, 3] (x, y, score) with those that score 0 put where they were before and after in turn, on a line.

    Their score stays 0. Before a joint is first seen and after it was last seen, it stays where it then was; one that
    is never seen comes to the middle of the others.
    """
    filled, time = np.array(keypoints, np.float64), np.arange(len(keypoints))
    known = filled[..., 2] > 0
    for joint in range(filled.shape[1]):
        if (mine := known[:, joint]).any():
            for axis in range(2):
                filled[:, joint, axis] = np.interp(time, time[mine], filled[mine, joint, axis])
    never = ~known.any(0)
    _put_in_the_middle(filled, np.asarray(never))
    return filled


def _put_in_the_middle(keypoints: np.ndarray, never: np.ndarray) -> None:
    if never.any() and not never.all():
        keypoints[..., never, :2] = keypoints[..., ~never, :2].mean(-2, keepdims=True)


_BETWEEN: Mapping[str, Sequence[Mapping[str, float]]] = {
    "pelvis": [{"left_hip": 0.5, "right_hip": 0.5}],
    "thorax": [{"left_shoulder": 0.5, "right_shoulder": 0.5}],
    "spine": [{"pelvis": 0.5, "thorax": 0.5}],
    "head": [{"left_ear": 0.5, "right_ear": 0.5}, {"neck": 0.4, "head_top": 0.6}, {"nose": 1.0}],
    "neck": [{"thorax": 0.6, "head": 0.4}, {"thorax": 0.8, "head_top": 0.2}],
    "head_top": [{"thorax": -0.6, "head": 1.6}],
}
"""Where joints that a skeleton lacks are, roughly, by joints that it has: weights that add up to 1. The first rule
counts whose joints are all there."""
_SAME_PLACE = OTHER_NAMES | {other: name for name, other in OTHER_NAMES.items()}


def joint_map(source: Skeleton, target: Skeleton, seen: np.ndarray | None = None) -> np.ndarray:
    """[K', K] that makes the joints of `target` of those of `source`, those that it lacks by a rule of thumb.

    Args:
      source: skeleton of the joints that there are.
      target: skeleton of the joints that are made.
      seen: [K] bool mask of the joints that are ever seen; the others make a joint only where nothing else does. None
        for all.

    Raises:
      DataError: there is no rule for a joint.
    """
    every = np.ones(source.num_joints, bool)
    rows = []
    for joint in target.joints:
        row = _weights(joint, source, every if seen is None else seen)
        row = _weights(joint, source, every) if row is None else row
        if row is None:
            raise DataError(f"the joints of {source.name!r} do not tell where {joint!r} of {target.name!r} is")
        rows.append(row)
    return np.stack(rows)


def _weights(joint: str, source: Skeleton, seen: np.ndarray, above: tuple[str, ...] = ()) -> np.ndarray | None:
    """Weights [K] of the joints that tell where one is; None if those that are seen don't.

    Args:
      joint: name of the joint.
      source: skeleton of the joints that there are.
      seen: [K] bool mask of the joints that count.
      above: names of the joints that are being made of this one.
    """
    for name in (joint, _SAME_PLACE.get(joint)):
        if name in source.joints and seen[source.index(name)]:
            return np.eye(source.num_joints)[source.index(name)]
    for rule in () if joint in above else _BETWEEN.get(joint, ()):
        parts = [_weights(other, source, seen, (*above, joint)) for other in rule]
        if all(part is not None for part in parts):
            return np.sum([weight * part for weight, part in zip(rule.values(), parts) if part is not None], axis=0)
    return None


def convert(keypoints: np.ndarray, source: Skeleton, target: Skeleton) -> np.ndarray:
    """Joints [..., K, 3] (x, y, score) of one skeleton as [..., K', 3] of another; the least sure of those that tell
    where a joint is gives its score. Joints that score 0 everywhere tell nothing; where nothing else does, a joint
    comes to the middle of the others, with score 0.
    """
    seen = np.asarray((keypoints[..., 2] > 0).reshape(-1, source.num_joints).any(0))
    rule = joint_map(source, target, seen)
    scores = np.where(rule != 0, keypoints[..., None, :, 2], np.inf).min(-1)
    made = np.concatenate([rule @ keypoints[..., :2], scores[..., None]], -1)
    _put_in_the_middle(made, np.any((rule != 0) & ~seen, axis=-1))
    return made


def to_json(track: Track, lifted: Lifted, rate: float) -> Sequence[dict]:
    """One object for each frame in which the person was seen and has a pose; see `jaxpose.cli.lift`."""
    times = track.times_at(rate)
    entries = []
    for t in np.flatnonzero(track.seen & lifted.valid).tolist():
        place = {"frame": track.first + t, "time": round(float(times[t]), 4), "track_id": track.name}
        joints = lifted.joints[t].astype(np.float64).round(1).tolist()
        entries.append(place | {"joints": joints, "scores": track.keypoints[t, :, 2].round(4).tolist()})
    return entries
