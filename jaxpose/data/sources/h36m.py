"""Human3.6M in the common .npz form of VideoPose3D: world joints, 2D detections, and how sure a detector was.

Expected under `data.dir`:

  data_3d_h36m.npz             "positions_3d": {subject: {action: [T, 32, 3] metres in the world}}, 50 frames a second
  data_2d_h36m_DETECTOR.npz    "positions_2d": {subject: {action: 4 cameras of [T or more, 17, 2] pixels}}, "metadata"
  score.pkl                    {"SUBJECT_ACTION.CAMERA": [T, 17] or [T, 17, 1] confidence in [0, 1]}

with data.h36m.detector = "cpn_ft_h36m_dbb" (the one of published numbers) and data.h36m.scores = "score.pkl". The
detector "gt" is the exact projection of the 3D joints, which needs no file of 2D keypoints; as in the original program,
their confidence is that of the scores. Without a file of scores (data.h36m.scores = "") it is 1. data.<split>.subjects
and data.<split>.actions choose; without them training has S1, S5, S6, S7, S8 and validation S9, S11, with all actions.

The files are pickles inside; they are read without running them (see `jaxpose.data.formats.pickles`).
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.data.examples import sequences
from jaxpose.data.examples.sequences import Camera, SequenceSource, Video
from jaxpose.data.formats import pickles
from jaxpose.data.sources import require_folder
from jaxpose.errors import ConfigError, DataError
from jaxpose.files import fields
from jaxpose.ops import cameras
from jaxpose.skeleton import H36M

logger = logging.getLogger(__name__)

RATE = 50.0
"""Frames a second."""

SUBJECTS = {"train": ("S1", "S5", "S6", "S7", "S8"), "validation": ("S9", "S11")}
"""The usual split."""

KEPT = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""Of the 32 joints of motion capture, in the order of `skeleton.H36M`."""

_LENSES = {  # size; focal lengths, principal point in pixels; radial, then tangential distortion
    "54138969": ((1000, 1002), (1145.0494, 1143.7811, 512.54150, 515.45148),
                 (-0.20709892, 0.24777518, -0.0030751503, -0.00097569887, -0.0014244716)),
    "55011271": ((1000, 1000), (1149.6757, 1147.5916, 508.84863, 508.06491),
                 (-0.19421363, 0.24040854, 0.0068199756, -0.0016190266, -0.0027408944)),
    "58860488": ((1000, 1000), (1149.1407, 1148.7989, 519.81583, 501.40265),
                 (-0.20833819, 0.25548801, -0.0024604974, 0.0014843870, -0.00075999933)),
    "60457274": ((1000, 1002), (1145.5114, 1144.7739, 514.96820, 501.88202),
                 (-0.19838409, 0.21832368, -0.0089478074, -0.00058720558, -0.0018133620)),
}  # fmt: skip
_POSES = {  # of the cameras in the order of _LENSES: orientation (w, x, y, z) to the world, position in metres
    "S1": (
        (0.14070565, -0.15007018, -0.7552408, 0.62232804, 1.841107, 4.9552846, 1.5634454),
        (0.6157188, -0.7648363, -0.14833826, 0.11794741, 1.7612785, -5.0780067, 1.6062651),
        (0.14651473, -0.14647852, 0.76530236, -0.60941756, -1.8467777, 5.2150464, 1.4919724),
        (0.58340085, -0.7853162, 0.14548823, -0.14749594, -1.7947897, -3.722699, 1.5748928),
    ),
    "S5": (
        (0.14673772, -0.16237096, -0.7551893, 0.6178939, 2.0973916, 4.8809447, 1.6057324),
        (0.61597586, -0.7626792, -0.15728192, 0.1189815, 2.0317008, -5.167933, 1.6129231),
        (0.14291371, -0.12907842, 0.7678385, -0.6110143, -1.6205949, 5.1716585, 1.496437),
        (0.592048, -0.7814218, 0.12747486, -0.15036418, -1.6371737, -3.8673174, 1.5470332),
    ),
    "S6": (
        (0.13378978, -0.15692396, -0.75710905, 0.61988795, 1.9354517, 4.9502454, 1.6180838),
        (0.61471975, -0.7628813, -0.16174768, 0.11819245, 1.9698039, -5.128739, 1.6327788),
        (0.15299481, -0.13529131, 0.76460963, -0.6112781, -1.7695965, 5.1853614, 1.4769934),
        (0.59161013, -0.7804774, 0.1283227, -0.15615939, -1.7216687, -3.8841314, 1.5404879),
    ),
    "S7": (
        (0.14352418, -0.16313368, -0.75483286, 0.6188825, 1.9745129, 4.9263544, 1.5978327),
        (0.6141673, -0.76382625, -0.15966456, 0.117792994, 1.9370584, -5.11979, 1.6315665),
        (0.1455006, -0.12874816, 0.76605165, -0.61271393, -1.7418112, 5.2082496, 1.4648246),
        (0.5912848, -0.78217643, 0.12445474, -0.15196487, -1.7347106, -3.8324213, 1.548583),
    ),
    "S8": (
        (0.14110588, -0.15589868, -0.75619173, 0.61964405, 2.150652, 4.896161, 1.6119046),
        (0.61696017, -0.7647668, -0.1484635, 0.11158158, 2.2199655, -5.148453, 1.613044),
        (0.1471444, -0.1337712, 0.76701283, -0.61003697, -1.5712216, 5.1370187, 1.4981761),
        (0.59278244, -0.78258705, 0.12147816, -0.14631996, -1.4769133, -3.8967412, 1.5479722),
    ),
    "S9": (
        (0.15540588, -0.15548216, -0.75320953, 0.6199595, 2.0444584, 4.9351172, 1.4812275),
        (0.6187845, -0.7634735, -0.14132239, 0.11933968, 1.9909598, -5.123811, 1.5688049),
        (0.13357827, -0.13671005, 0.76894546, -0.61007386, -1.6709921, 5.211986, 1.5283879),
        (0.5879399, -0.7823407, 0.14276144, -0.1479487, -1.6960435, -3.8270998, 1.5914127),
    ),
    "S11": (
        (0.15232472, -0.1544232, -0.75475633, 0.619107, 2.0984402, 4.9265547, 1.5002786),
        (0.61894494, -0.7600917, -0.15300633, 0.12552583, 2.0831823, -4.912173, 1.5610787),
        (0.14943229, -0.15650228, 0.7681234, -0.60263044, -1.6098154, 5.1773357, 1.5378968),
        (0.58942515, -0.7818877, 0.13991211, -0.14715362, -1.590738, -3.854169, 1.5780176),
    ),
}


def camera(subject: str, name: str) -> Camera:
    """The calibrated camera `name` ("54138969", ...) as it stood for a subject ("S1", "S5" ... "S9", "S11").

    Raises:
      KeyError: there is none.
    """
    size, pinhole, distortion = _LENSES[name]
    pose = np.array(_POSES[subject][list(_LENSES).index(name)], np.float32)
    pixels = np.array((*pinhole, *distortion), np.float32)
    return Camera(name, size, cameras.normalize_intrinsics(pixels, size).astype(np.float32), pose[:4], pose[4:])


CAMERAS = tuple(_LENSES)
"""Names of the cameras, in the order of the files."""


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.data.h36m`.

    Attributes:
      detector: name of the 2D detector, with which the file of its keypoints ends; "gt" for exact keypoints.
      scores: file of the detector's confidence; empty if there is none.
    """

    detector: str = "cpn_ft_h36m_dbb"
    scores: str = "score.pkl"


def open_sequences(data: Any, split: str, *, progress: bool = True) -> SequenceSource:
    """The split that `config.data` describes; see the top of this file.

    Raises:
      ConfigError: the folder, a subject or an action is none of the data set's.
      DataError: a file is missing, damaged, or not what it should be.
    """
    del progress
    if data.skeleton != H36M.name:
        raise ConfigError(
            f"config.data.skeleton is {data.skeleton!r}, but Human3.6M's videos have that of {H36M.name!r}"
        )
    root = require_folder(data.dir, "data.dir", "the folder that holds data_3d_h36m.npz")
    chosen = sequences.options(Options, data, "h36m")
    wanted = data.get(split, {})
    subjects = tuple(wanted.get("subjects", ())) or SUBJECTS[split]
    actions = tuple(wanted.get("actions", ()))
    world = read_world(root / "data_3d_h36m.npz", subjects)
    detections = _Detections.open(root, chosen)
    videos = [
        _video(subject, action, name, joints, detections)
        for subject in subjects
        for action, joints in world[subject].items()
        if not actions or sequences.action_of(action) in actions
        for name in CAMERAS
    ]
    if not videos:
        raise ConfigError(
            f"config.data.{split}.actions is {actions}; subjects {subjects} have "
            f"{sorted({sequences.action_of(a) for s in subjects for a in world[s]})}"
        )
    logger.info("%s: %d videos of %s, 2D keypoints of %s", root, len(videos), ", ".join(subjects), chosen.detector)
    return SequenceSource(f"{root} ({split})", H36M, RATE, tuple(videos))


def _video(subject: str, action: str, name: str, world: np.ndarray, detections: "_Detections") -> Video:
    seen = camera(subject, name)
    joints = cameras.world_to_camera(world, seen.orientation, seen.position)
    keypoints = detections(subject, action, seen, joints)
    return Video.of_joints(subject, action, seen, keypoints, joints, root=0)


def read_world(path: str | pathlib.Path, subjects: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """The 17 joints of the subjects' motions: {subject: {action: [T, 17, 3] float32 metres in the world}}.

    Raises:
      ConfigError: the file or the calibration lacks a subject.
      DataError: the file is missing, damaged, or not what it should be.
    """
    positions = _mapping(pickles.read_npz_object(path, "positions_3d"), f"{path}: 'positions_3d'")
    known = sorted(set(positions) & set(_POSES))
    if strangers := sorted(set(subjects) - set(known)):
        raise ConfigError(f"config.data asks for the subjects {strangers}; {path} and its cameras have {known}")
    world = {}
    for subject in subjects:
        where = f"{path}: 'positions_3d' of {subject}"
        motions = _mapping(positions[subject], where)
        if strange := [action for action in motions if not isinstance(action, str)]:
            raise DataError(f"{where} has the key {fields.shown(strange[0])}, expected names of actions")
        world[subject] = {action: keep_joints(motion, f"{where}, {action!r}") for action, motion in motions.items()}
    return world


def keep_joints(motion: np.ndarray, where: str = "joints") -> np.ndarray:
    """[T, 17, 3] float32 of the 32 joints [T, 32, 3] of motion capture; `where` is for messages.

    Raises:
      DataError: another shape.
    """
    motion = _array(motion, where)
    shape = motion.shape
    if len(shape) != 3 or shape[1:] != (32, 3) or not shape[0]:
        raise DataError(f"{where} has shape {shape}, expected (frames, 32, 3); is it the original file?")
    return motion.astype(np.float32)[:, KEPT]


@dataclasses.dataclass(frozen=True)
class _Detections:
    """2D keypoints with scores; without positions they are exact, and without scores those are 1."""

    path: pathlib.Path
    positions: Mapping[str, Any] | None
    scores: "_Scores | None"

    @classmethod
    def open(cls, root: pathlib.Path, chosen: Options) -> "_Detections":
        path, positions = root / f"data_2d_h36m_{chosen.detector}.npz", None
        if chosen.detector != "gt":
            _check_layout(path, pickles.read_npz_object(path, "metadata"))
            positions = _mapping(pickles.read_npz_object(path, "positions_2d"), f"{path}: 'positions_2d'")
        return cls(path, positions, _Scores.open(root / chosen.scores) if chosen.scores else None)

    def __call__(self, subject: str, action: str, seen: Camera, joints: np.ndarray) -> np.ndarray:
        """[T, 17, 3] (u, v, score) of joints [T, 17, 3] in the camera's frame."""
        score = np.ones((*joints.shape[:2], 1), np.float32)
        if self.scores is not None:
            score = self.scores(f"{subject}_{action}.{CAMERAS.index(seen.name)}", len(joints))
        if self.positions is None:
            return np.concatenate([cameras.project(joints, seen.intrinsics), score], -1)
        views = _mapping(self.positions.get(subject), f"{self.path}: 'positions_2d' of {subject}").get(action)
        where = f"{self.path}: 'positions_2d' of {subject}, {action!r}"
        if not isinstance(views, list | tuple | np.ndarray) or len(views) != len(CAMERAS):
            found = "is missing" if views is None else f"has {len(views)} cameras" if _counts(views) else "is no list"
            raise DataError(f"{where} {found}, expected {len(CAMERAS)} cameras; fetch the file again")
        pixels = _frames(views[CAMERAS.index(seen.name)], 2, f"{where}, camera {seen.name}")
        if len(pixels) < len(joints):
            raise DataError(
                f"{where}, camera {seen.name} has {len(pixels)} frames, expected at least the {len(joints)} of 3D "
                "joints; the files do not belong together"
            )
        return np.concatenate([cameras.normalize_screen(pixels[: len(joints)], seen.size), score], -1)


@dataclasses.dataclass(frozen=True)
class _Scores:
    """A detector's confidence, {"SUBJECT_ACTION.CAMERA": [T, 17] or [T, 17, 1]}."""

    path: pathlib.Path
    values: Mapping[str, Any]

    @classmethod
    def open(cls, path: pathlib.Path) -> "_Scores":
        return cls(path, _mapping(pickles.read_pickle(path), str(path)))

    def __call__(self, key: str, frames: int) -> np.ndarray:
        """[frames, 17, 1] confidence; a missing tail repeats the last frame."""
        if key not in self.values:
            raise DataError(
                f"{self.path}: has no {key!r}, only {len(self.values)} others such as "
                f"{next(iter(self.values), '')!r}; fetch the original file, or set "
                "config.data.h36m.scores to '' for scores of 1"
            )
        values = _array(self.values[key], f"{self.path}: {key!r}")
        values = _frames(values[..., None] if values.ndim == 2 else values, 1, f"{self.path}: {key!r}")
        if not (values.min() >= 0 and values.max() <= 1):
            raise DataError(
                f"{self.path}: {key!r} is from {values.min():g} to {values.max():g}, expected 0 to 1: confidences"
            )
        return sequences.window(values, 0, frames)


def _frames(values: Any, width: int, where: str) -> np.ndarray:
    values = _array(values, where)
    if values.shape[1:] != (H36M.num_joints, width) or not len(values):
        raise DataError(f"{where} has shape {values.shape}, expected (frames, {H36M.num_joints}, {width})")
    return values.astype(np.float32)


def _counts(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _numbers(value: Any) -> list[int] | None:
    """A list of whole numbers; None for anything else."""
    if not _counts(value) or not all(isinstance(item, int | np.integer) for item in value):
        return None
    return [int(item) for item in value]


def _array(value: Any, where: str) -> np.ndarray:
    """An array of numbers that float32 can hold, NaN among them.

    Raises:
      DataError: it is something else.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, MemoryError) as error:
        raise DataError(f"{where} is no array of numbers ({error}); is it the original file?") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{where} is an array of {array.dtype}, expected numbers; is it the original file?")
    if (np.abs(array) > fields.LARGEST).any():
        raise DataError(f"{where} has numbers beyond {fields.LARGEST:g}, expected metres, pixels or scores")
    return array


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is a {type(value).__name__}, expected a dictionary; is it the original file?")
    return value


def _check_layout(path: pathlib.Path, metadata: Any) -> None:
    """Only keypoints in the order of the 3D joints will do: detectors trained on COCO have others."""
    sides = [[i for i, side in enumerate(H36M.sides) if side == name] for name in ("left", "right")]
    found = _mapping(metadata, f"{path}: 'metadata'").get("keypoints_symmetry")
    if found is None or not _counts(found) or [_numbers(side) for side in found] != sides:
        shown = fields.shown(found)
        raise DataError(
            f"{path}: 'metadata' has keypoints_symmetry {shown}, expected {sides}, the left and right joints of "
            "Human3.6M; take a file of keypoints in its order, such as cpn_ft_h36m_dbb"
        )
