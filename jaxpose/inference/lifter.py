"""From 2D joints to 3D, as a Python call.

    lifter = lifter.load("runs/anatomy3d")
    lifted = lifter(keypoints, size)            # [T, K, 3] pixels and scores of one person, frame by frame
    lifted.joints, lifted.valid                 # [T, K, 3] millimetres from the root, [T]

`tracks` reads what `jaxpose predict` found in a video. The command `jaxpose lift` is built on both.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpose.data.examples import sequences
from jaxpose.errors import DataError, NonFiniteError
from jaxpose.methods.lifting import SequenceInput
from jaxpose.ops import cameras
from jaxpose.skeleton import Skeleton
from jaxpose.types import Variables


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

    def __call__(self, keypoints: np.ndarray, size: tuple[int, int], lengths: np.ndarray | None = None) -> Lifted:
        """The 3D poses of a person whom a camera at rest sees.

        Args:
          keypoints: [T, K, 3] (x, y, score), pixels of the picture, score in [0, 1]; consecutive frames at the rate of
            the data that the run was trained with.
          size: (width, height) of the picture.
          lengths: [N] lengths of the person's bones in metres, if they are known, such as from `measure` of another
            video.

        Raises:
          DataError: another shape, or numbers that are not finite.
          NonFiniteError: the network's numbers are not.
        """
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


# --- 2D joints of other programs ---


@dataclasses.dataclass(frozen=True)
class Track:
    """One person's 2D joints in a video.

    Attributes:
      name: name of the person, for files and messages.
      first: number of the first frame.
      keypoints: [T, K, 3] joints (x, y, score) in pixels, frame by frame from there.
      seen: [T] bool mask of the frames in which the person was found; `fill` made up the others.
    """

    name: str
    first: int
    keypoints: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.keypoints)


def tracks(path: str | pathlib.Path, skeleton: Skeleton) -> list[Track]:
    """The people of a video's JSON file as `jaxpose predict` writes it, by falling number of frames.

    A .npz file instead has the array "keypoints" [T, K, 3] (x, y, score) of one person, from frame 0 on.

    Of each object `keypoints` counts (x, y, score of each joint), `track_id` and `frame`. Without `track_id` the best
    by `score` in every frame is taken for one and the same person; without `frame` they are numbered as they come.
    Objects with `track_id` null belong to nobody, and are left out.

    Args:
      path: JSON or .npz file.
      skeleton: joints that it holds.

    Raises:
      DataError: not such a file, other joints, a person twice in a frame, or nobody.
    """
    if pathlib.Path(path).suffix == ".npz":
        return [_array_track(path, skeleton)]
    people: dict[str, dict[int, tuple[float, np.ndarray]]] = {}
    for row, entry in enumerate(_entries(path)):
        where = f"{path}: object {row}"
        if "track_id" in entry and entry["track_id"] is None:
            continue
        frame = _integer(entry.get("frame", row), f"{where}: field 'frame'")
        name = str(entry.get("track_id", 1))
        score, mine = float(entry.get("score", 1)), people.setdefault(name, {})
        if frame in mine and "track_id" in entry:
            raise DataError(f"{where}: person {name} is in frame {frame} for the second time")
        if frame not in mine or score > mine[frame][0]:
            mine[frame] = score, _keypoints(entry, skeleton, where)
    if not people:
        raise DataError(f"{path}: nobody is followed in it; expected objects with 'track_id', 'frame' and 'keypoints'")
    found = [_track(name, {frame: points for frame, (_, points) in mine.items()}) for name, mine in people.items()]
    return sorted(found, key=lambda track: -int(track.seen.sum()))


def _array_track(path: str | pathlib.Path, skeleton: Skeleton) -> Track:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keypoints = arrays["keypoints"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if keypoints.shape[1:] != (skeleton.num_joints, 3) or not len(keypoints) or not np.isfinite(keypoints).all():
        raise DataError(
            f"{path}: field 'keypoints' has shape {keypoints.shape}, expected (frames, {skeleton.num_joints}, 3) "
            f"finite numbers: x, y and score of the joints of {skeleton.name!r}; --joints names another skeleton"
        )
    return Track(pathlib.Path(path).stem, 0, fill(keypoints), (keypoints[..., 2] > 0).any(-1))


def _entries(path: str | pathlib.Path) -> list[dict]:
    try:
        content = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{path}: expected a list of objects, as jaxpose predict writes of a video")
    return content


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where} is {value!r}, expected a whole number")
    return value


def _keypoints(entry: dict, skeleton: Skeleton, where: str) -> np.ndarray:
    """[K, 3] of an object."""
    try:
        numbers = np.asarray(entry["keypoints"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: has no usable field 'keypoints': {error!r}") from error
    if numbers.shape != (3 * skeleton.num_joints,) or not np.isfinite(numbers).all():
        raise DataError(
            f"{where}: field 'keypoints' holds {numbers.size} numbers, expected {3 * skeleton.num_joints} finite ones: "
            f"x, y and score of the joints of {skeleton.name!r}; --joints names another skeleton"
        )
    return numbers.reshape(-1, 3)


def _track(name: str, frames: dict[int, np.ndarray]) -> Track:
    first, last = min(frames), max(frames)
    keypoints = np.zeros((last - first + 1, *frames[first].shape))
    seen = np.zeros(len(keypoints), bool)
    for frame, points in frames.items():
        keypoints[frame - first], seen[frame - first] = points, True
    return Track(name, first, fill(keypoints), seen)


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
    if never.any() and not never.all():
        filled[:, never, :2] = filled[:, ~never, :2].mean(1, keepdims=True)
    return filled


_BETWEEN: Mapping[str, Mapping[str, float]] = {
    "pelvis": {"left_hip": 0.5, "right_hip": 0.5},
    "thorax": {"left_shoulder": 0.5, "right_shoulder": 0.5},
    "spine": {"pelvis": 0.5, "thorax": 0.5},
    "head": {"left_ear": 0.5, "right_ear": 0.5},
    "neck": {"thorax": 0.6, "head": 0.4},
    "head_top": {"thorax": -0.6, "head": 1.6},
}
"""Where joints that a skeleton lacks are, roughly, by joints that it has: weights that add up to 1."""


def joint_map(source: Skeleton, target: Skeleton) -> np.ndarray:
    """[K', K] that makes the joints of `target` of those of `source`, those that it lacks by a rule of thumb.

    Raises:
      DataError: there is no rule for a joint.
    """

    def weights(joint: str) -> np.ndarray:
        if joint in source.joints:
            return np.eye(source.num_joints)[source.index(joint)]
        if joint not in _BETWEEN:
            raise DataError(f"the joints of {source.name!r} do not tell where {joint!r} of {target.name!r} is")
        return np.sum([weight * weights(other) for other, weight in _BETWEEN[joint].items()], axis=0)

    return np.stack([weights(joint) for joint in target.joints])


def convert(keypoints: np.ndarray, source: Skeleton, target: Skeleton) -> np.ndarray:
    """Joints [..., K, 3] (x, y, score) of one skeleton as [..., K', 3] of another; the least sure of those that tell
    where a joint is gives its score.
    """
    rule = joint_map(source, target)
    scores = np.where(rule != 0, keypoints[..., None, :, 2], np.inf).min(-1)
    return np.concatenate([rule @ keypoints[..., :2], scores[..., None]], -1)


def to_json(track: Track, lifted: Lifted, rate: float) -> Sequence[dict]:
    """One object for each frame in which the person was seen and has a pose; see `jaxpose.cli.lift`."""
    entries = []
    for t in np.flatnonzero(track.seen & lifted.valid).tolist():
        place = {"frame": track.first + t, "time": round((track.first + t) / rate, 4), "track_id": track.name}
        joints = lifted.joints[t].astype(np.float64).round(1).tolist()
        entries.append(place | {"joints": joints, "scores": track.keypoints[t, :, 2].round(4).tolist()})
    return entries
