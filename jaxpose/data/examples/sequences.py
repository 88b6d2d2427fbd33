"""Sequences of 2D keypoints with 3D truth, and the examples that methods of 3D lifting learn from.

A video shows one person before one fixed camera. 2D keypoints are normalised screen coordinates (u, v): u runs from -1
to 1 over the picture's width, and v in the same unit; beside them stands the detector's confidence in [0, 1]. 3D is in
metres and in the camera's frame (x right, y down, z forward), with all joints relative to the skeleton's root. World
frames have z up. Everything is in memory; windows are cut when they are asked for.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from jaxpose.data.examples.base import Example, Examples
from jaxpose.data.sources import opener
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import Skeleton
from jaxpose.types import Poses

MILLIMETRES = 1000.0
"""In a metre."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """What took a video; see `jaxpose.ops.cameras`.

    Attributes:
      name: name of the camera.
      size: (width, height) of the picture in pixels.
      intrinsics: [9] float32 in normalised screen units: fx, fy, cx, cy, k1, k2, k3, p1, p2.
      orientation: [4] float32 unit quaternion (w, x, y, z), camera to world.
      position: [3] float32 metres in the world.
    """

    name: str
    size: tuple[int, int]
    intrinsics: np.ndarray
    orientation: np.ndarray
    position: np.ndarray


Z_UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64)
"""Turns a world with y up into one with z up."""


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion [4] float32 (w, x, y, z), w not negative, of a rotation matrix [3, 3]."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat(canonical=True)
    return np.array([w, x, y, z], np.float32)


@dataclasses.dataclass(frozen=True)
class Video:
    """One person before one camera, for T frames.

    Attributes:
      subject: who.
      action: name of the action; a number after a space tells takes apart ("Walking 1").
      camera: camera that sees it.
      keypoints: [T, K, 3] float32 (u, v, score).
      joints: [T, K, 3] float32 metres in the camera's frame, relative to the root, which is 0.
      root: [T, 3] float32 metres in the camera's frame.
    """

    subject: str
    action: str
    camera: Camera
    keypoints: np.ndarray
    joints: np.ndarray
    root: np.ndarray

    def __len__(self) -> int:
        return len(self.keypoints)

    def __str__(self) -> str:
        return f"{self.subject} {self.action} camera {self.camera.name}"

    @classmethod
    def of_joints(
        cls, subject: str, action: str, camera: Camera, keypoints: np.ndarray, joints: np.ndarray, root: int
    ) -> "Video":
        """A video of joints [T, K, 3] in metres in the camera's frame, of which joint number `root` is the root."""
        origin = joints[:, root]
        keypoints, relative = keypoints.astype(np.float32), (joints - origin[:, None]).astype(np.float32)
        return cls(subject, action, camera, keypoints, relative, origin.astype(np.float32))

    def world(self) -> np.ndarray:
        """[T, K, 3] joints in metres in the world."""
        joints = self.joints + self.root[:, None]
        return cameras.camera_to_world(joints, self.camera.orientation, self.camera.position)


def action_of(action: str) -> str:
    """The action without the number of the take: "Walking 1" -> "Walking"."""
    name, _, take = action.rpartition(" ")
    return name if name and take.isdigit() else action


@dataclasses.dataclass(frozen=True)
class SequenceSource:
    """One split of a data set of videos.

    Attributes:
      name: name of the data set, for messages.
      skeleton: skeleton of 2D and 3D joints; `ops.bones.TREES` knows its tree.
      rate: frames a second.
      videos: all of them.
    """

    name: str
    skeleton: Skeleton
    rate: float
    videos: tuple[Video, ...]

    def __post_init__(self):
        """Raises `DataError` if there is nothing, or a video is not as it should be."""
        if not self.videos:
            raise DataError(f"{self.name}: has no video")
        joints = self.skeleton.num_joints
        for video in self.videos:
            frames = len(video)
            for field, tail in (("keypoints", (joints, 3)), ("joints", (joints, 3)), ("root", (3,))):
                values = getattr(video, field)
                if values.shape != (frames, *tail) or not frames:
                    raise DataError(
                        f"{self.name}: {video}: field {field!r} has shape {values.shape}, expected (frames, "
                        f"{', '.join(map(str, tail))}) with as many frames as 'keypoints', and one or more of them"
                    )
                if not np.isfinite(values).all():
                    frame = int(np.argmin(np.isfinite(values).reshape(frames, -1).all(-1)))
                    raise DataError(f"{self.name}: {video}: field {field!r} is not finite in frame {frame}; repair it")

    @property
    def tree(self) -> bones.Tree:
        """Parents and bones of the joints."""
        return bones.TREES[self.skeleton.name]

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> Video:
        return self.videos[i]


def open_sequences(data: Any, split: str, *, progress: bool = True) -> SequenceSource:
    """The videos of the data set that `config.data.source` names; see `jaxpose.data.sources`.

    Args:
      data: `config.data`.
      split: "train" or "validation".
      progress: True to show a bar where data have to be made first.

    Raises:
      ConfigError: unknown source, one without sequences, or a field that it needs is missing.
      DataError: a file of the data set is not what it should be.
    """
    found = opener(data.source, "open_sequences")(data, split, progress=progress)
    if not isinstance(found, SequenceSource):
        raise ConfigError(
            f"config.data.source is {data.source!r}, which opens a {type(found).__name__}; expected a "
            "jaxpose.data.examples.sequences.SequenceSource"
        )
    return found


# --- what examples are made of ---


def window(values: np.ndarray, first: int, length: int) -> np.ndarray:
    """Frames first, first + 1, ... of a video, `length` of them; before its start and after its end, its edge frames.

    Args:
      values: [T, ...].
      first: may be negative, or beyond the end.
      length: number of frames of the window.

    Returns:
      [length, ...], a view where the video has all of the frames.
    """
    end = first + length
    if first >= 0 and end <= len(values):
        return values[first:end]
    return values[np.clip(np.arange(first, end), 0, len(values) - 1)]


def frames_before(receptive_field: int, causal: bool) -> int:
    """How many frames of a window lie before the one that it is about."""
    return receptive_field - 1 if causal else (receptive_field - 1) // 2


def draw(frames: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Numbers of `count` frames of a video, without replacement.

    A video with fewer frames than that gives all of them again and again, the last round in part, so that no frame
    comes more often than another by more than one.

    Args:
      frames: number of frames of the video.
      count: number of frames to draw.
      rng: None takes frames at even distances.
    """
    if rng is None:
        return np.arange(count) * max(frames, count) // count % frames
    rounds = [rng.permutation(frames) for _ in range(count // frames)]
    rounds.append(rng.choice(frames, count % frames, replace=False))
    return np.concatenate(rounds)


def mirror(points: np.ndarray, flip_index: np.ndarray) -> np.ndarray:
    """Points [..., K, C] as a mirror shows them: the first coordinate changes its sign, and left and right their place.

    Args:
      points: (u, v), (u, v, score) or (x, y, z) in the camera's frame.
      flip_index: [K] of the skeleton.
    """
    mirrored = np.take(points, flip_index, axis=-2)  # several times as fast as indexing
    mirrored[..., 0] *= -1
    return mirrored


# --- examples ---


@dataclasses.dataclass
class SequenceExamples(Examples):
    """Windows around every frame of every video, and the same mirrored: what Anatomy3D trains on.

    Attributes:
      source: the videos.
      receptive_field: rf, frames of a window; odd, unless causal.
      drawn: R, frames that are drawn from all of the video (for the lengths of bones); 0 for none.
      causal: a window ends at its frame instead of having it in the middle.
      mirror: whether every window comes mirrored, too.
    """

    source: SequenceSource
    receptive_field: int
    drawn: int = 50
    causal: bool = False
    mirror: bool = True

    def __post_init__(self):
        check_receptive_field(self.receptive_field, self.causal)
        if self.drawn < 0:
            raise ConfigError(f"the number of drawn frames is {self.drawn}; expected 0 or more")
        self._ends = np.cumsum([len(video) for video in self.source.videos])

    def __len__(self) -> int:
        return int(self._ends[-1]) * (2 if self.mirror else 1)

    def locate(self, i: int) -> tuple[int, int, bool]:
        """Number of the video, frame in it, and whether it is mirrored, of example i; mirrored ones come last."""
        mirrored, position = divmod(int(i), int(self._ends[-1]))
        video = int(np.searchsorted(self._ends, position, side="right"))
        return video, position - int(self._ends[video]) + len(self.source[video]), bool(mirrored)

    def load(self, i: int, rng: np.random.Generator | None, step: int = 0) -> Example:
        """Example i, of which `rng` draws frames; see `sample` for its fields, beside "index" and "valid"."""
        del step
        video, frame, mirrored = self.locate(i)
        example = self.sample(video, frame, mirrored, draw(len(self.source[video]), self.drawn, rng))
        return example | {"index": np.int32(i), "valid": np.bool_(True)}

    def sample(self, video: int, frame: int, mirrored: bool, drawn: np.ndarray) -> Example:
        """The fields of an example.

        Args:
          video: number of the video.
          frame: frame that the window is about.
          mirrored: whether left and right are exchanged.
          drawn: [R] numbers of frames of the same video.

        Returns:
          window [rf, K, 3] (u, v, score), edge frames repeated beyond the ends of the video; joints_3d [rf, K, 3]
          metres relative to the root, of the same frames; drawn [R, K, 2] (u, v) and drawn_3d [R, K, 3]; camera [9],
          the normalised intrinsics; all float32.
        """
        shown, first = self.source[video], frame - frames_before(self.receptive_field, self.causal)
        example = {
            "window": window(shown.keypoints, first, self.receptive_field),
            "joints_3d": window(shown.joints, first, self.receptive_field),
            "drawn": shown.keypoints[drawn][..., :2],
            "drawn_3d": shown.joints[drawn],
        }
        camera = shown.camera.intrinsics
        if mirrored:
            flip = self.source.skeleton.flip_index
            example = {field: mirror(values, flip) for field, values in example.items()}
            camera = cameras.mirror_intrinsics(camera)
        return example | {"camera": camera}

    def names(self, index: Sequence[int] | np.ndarray) -> list[str]:
        """Which videos and frames examples show, for messages."""
        places = (self.locate(i) for i in index)
        return [f"{self.source[v]} frame {t}{' mirrored' * mirrored}" for v, t, mirrored in places]


def check_receptive_field(frames: int, causal: bool) -> None:
    """Raises `ConfigError` for a window that has no frame to be about."""
    if frames < 1 or (frames % 2 == 0 and not causal):
        raise ConfigError(
            f"the receptive field is {frames} frames; expected 1 or more, and an odd number if not causal"
        )


def padded_length(frames: int) -> int:
    """The length of the bucket for sequences of that many frames: 64, 96, 128, 192, 256, 384, ..."""
    length = 64
    while length < frames:
        length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
    return length


@dataclasses.dataclass
class WholeSequences(Examples):
    """Whole videos to be lifted frame by frame: what evaluation goes through.

    Attributes:
      source: the videos.
      receptive_field: rf.
      causal: whether a window ends at its frame instead of having it in the middle.
    """

    source: SequenceSource
    receptive_field: int
    causal: bool = False

    def __post_init__(self):
        check_receptive_field(self.receptive_field, self.causal)

    def __len__(self) -> int:
        return len(self.source)

    def bucket(self, i: int) -> int:
        """The padded length of video i: fields of videos with equal ones have equal shapes."""
        return padded_length(len(self.source[i]))

    def load(self, i: int, rng: np.random.Generator | None = None, step: int = 0) -> Example:
        """Video i.

        Returns:
          window [T + rf - 1, K, 3] float32 (u, v, score), in which the window of frame t starts at t: edge frames are
          repeated before the start (rf - 1 times if causal, else half as often) and after the end; T is the padded
          length. frames [T] bool, which are the video's own; index; valid.
        """
        del rng, step
        video, length = self.source[i], self.bucket(i)
        first = -frames_before(self.receptive_field, self.causal)
        return {
            "window": window(video.keypoints, first, length + self.receptive_field - 1),
            "frames": np.arange(length) < len(video),
            "index": np.int32(i),
            "valid": np.bool_(True),
        }

    def rows(self, found: Poses, index: np.ndarray) -> dict[str, Any]:
        """What `metrics.mpjpe` wants to know of the valid frames [B, T] of the videos `index` [B].

        Returns:
          One row a frame: index (of the video), frame, keypoints and truth [n, K, 3] millimetres relative to the root,
          scores [n, K], subject, action (without the number of the take), camera.
        """
        shown, frame = np.nonzero(found.valid)
        number = np.asarray(index)[shown]
        truth = [self.source[i].joints[frame[shown == b]] for b, i in enumerate(index)]

        def told(what: Any) -> np.ndarray:
            names = [what(self.source[i]) for i in index]
            return np.array(names, np.str_)[shown]

        return {
            "index": number,
            "frame": frame,
            "keypoints": found.keypoints[found.valid],
            "scores": found.scores[found.valid],
            "truth": np.concatenate(truth) * np.float32(MILLIMETRES),
            "subject": told(lambda video: video.subject),
            "action": told(lambda video: action_of(video.action)),
            "camera": told(lambda video: video.camera.name),
        }

    def names(self, index: Sequence[int] | np.ndarray) -> list[str]:
        """Which videos examples are, for messages."""
        return [str(self.source[int(i)]) for i in index]


def options(kind: type, data: Any, source: str) -> Any:
    """`config.data.<source>` as a dataclass; fields that are not there have their defaults.

    Raises:
      ConfigError: a field that `kind` has not.
    """
    fields = dict(data.get(source, {}))
    known = [field.name for field in dataclasses.fields(kind)]
    if strange := sorted(set(fields) - set(known)):
        raise ConfigError(f"config.data.{source} has the fields {strange}; it can have {', '.join(known)}")
    return kind(**fields)
