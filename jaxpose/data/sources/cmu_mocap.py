"""CMU's motion capture before simulated cameras: real motion for 3D lifting, free for all uses.

Expected under `data.dir`, as mocap.cs.cmu.edu gives it:

  subjects/01/01.asf    the figure of subject 01
  subjects/01/01_01.amc, 01_02.amc, ...    its clips, 120 frames a second

`data.<split>.clips` = ("01_01", ...) chooses clips. Without it, of every subject's clips in order of their names each
fourth is held out for validation, and the others train. `config.data.cmu_mocap` are the `Options`.

The figure has more joints than Human3.6M's 17 (`skeleton.H36M`). Those are taken from it as follows; "end" is that of
the bone in the .asf file.

  pelvis      midway between the hips; the figure's own root is 10 cm above it
  hip         end of hipjoint           shoulder  end of clavicle
  knee        end of femur              elbow     end of humerus
  ankle       end of tibia              wrist     end of wrist: the forearm is radius and wrist, with its twist in
  spine       end of lowerback                    between; the hand bends after them
  thorax      end of thorax, where neck and clavicles begin
  neck        end of lowerneck
  head_top    end of head

The back bends in more places than the two bones pelvis-spine-thorax have, so that their ends come up to a tenth nearer.
As in Human3.6M, a person's bones keep their length: each points where the motion has it, with the length of the
figure at rest.
"""

import dataclasses
import logging
import pathlib
import re
import zlib
from typing import Any

import numpy as np
import scipy.signal
import tqdm

from jaxpose.data.examples import sequences
from jaxpose.data.examples.sequences import Z_UP, Camera, SequenceSource, Video, quaternion
from jaxpose.data.formats import asf
from jaxpose.data.sources import require_folder
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import H36M

logger = logging.getLogger(__name__)

HELD_OUT = 4
"""Of so many clips of a subject, the last one is for validation."""

_ENDS = {"hip": "hipjoint", "knee": "femur", "ankle": "tibia", "shoulder": "clavicle", "elbow": "humerus",
         "wrist": "wrist"}  # fmt: skip
_CENTRAL = {"spine": "lowerback", "thorax": "thorax", "neck": "lowerneck", "head_top": "head"}
BONE_OF = _CENTRAL | {f"{side}_{joint}": side[0] + bone for joint, bone in _ENDS.items() for side in ("left", "right")}
"""{joint of Human3.6M: bone of the .asf file at whose end it is}; the pelvis is between the hips."""


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.data.cmu_mocap`.

    Attributes:
      captured_rate: frames a second of the files.
      rate: frames a second of the videos; in between, joints are interpolated.
      cameras: number of cameras around each clip.
      seed: seed of cameras and detector.
      noise: standard deviation of the 2D keypoints that are seen, as a share of the person's height.
      hidden_noise: standard deviation of the 2D keypoints that are hidden, as a share of the person's height.
      hidden: share of the time that a joint is hidden.
      hidden_seconds: mean length in seconds of the times in which a joint is hidden.
    """

    captured_rate: float = 120.0
    rate: float = 50.0
    cameras: int = 4
    seed: int = 0
    noise: float = 0.012
    hidden_noise: float = 0.06
    hidden: float = 0.08
    hidden_seconds: float = 0.4

    def __post_init__(self):
        checks = (
            ("captured_rate", self.captured_rate > 0, "more than 0"),
            ("rate", 0 < self.rate <= self.captured_rate, "more than 0, and at most captured_rate"),
            ("cameras", self.cameras >= 1, "1 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("noise", self.noise >= 0, "0 or more"),
            ("hidden_noise", self.hidden_noise >= 0, "0 or more"),
            ("hidden", 0 <= self.hidden < 1, "0 to less than 1"),
            ("hidden_seconds", self.hidden_seconds > 0, "more than 0"),
        )
        for field, good, expected in checks:
            if not good:
                raise ConfigError(f"config.data.cmu_mocap.{field} is {getattr(self, field)!r}; expected {expected}")


def open_sequences(data: Any, split: str, *, progress: bool = True) -> SequenceSource:
    """The split that `config.data` describes; see the top of this file.

    Raises:
      ConfigError: the folder or an option is not as it should be.
      DataError: a file is missing, damaged, or of another figure.
    """
    if data.skeleton != H36M.name:
        raise ConfigError(
            f"config.data.skeleton is {data.skeleton!r}, but CMU's videos are given that of {H36M.name!r}"
        )
    root = require_folder(data.dir, "data.dir", "the folder that holds subjects/01/01.asf and so on")
    options = sequences.options(Options, data, "cmu_mocap")
    wanted = tuple(data.get(split, {}).get("clips", ()))
    clips = _clips(root, split, wanted)
    figures: dict[pathlib.Path, asf.Figure] = {}
    videos = []
    for path in tqdm.tqdm(clips, desc=f"motion capture {split}", unit=" clips", disable=not progress):
        if path.parent not in figures:
            figures[path.parent] = asf.read_figure(path.parent / f"{path.parent.name}.asf")
        videos += clip_videos(path, figures[path.parent], options)
    logger.info("%s: %d clips of %d people, %d cameras each", root, len(clips), len(figures), options.cameras)
    return SequenceSource(f"{root} ({split})", H36M, options.rate, tuple(videos))


def _clips(root: pathlib.Path, split: str, wanted: tuple[str, ...]) -> list[pathlib.Path]:
    """Files of the clips of a split, in order."""
    subjects = sorted(path for path in root.glob("subjects/*") if path.is_dir())
    found = {path.stem: path for subject in subjects for path in _ordered(subject.glob("*.amc"))}
    if not found:
        raise DataError(f"{root}: has no clips; expected subjects/01/01_01.amc and so on")
    if lost := [clip for clip in wanted if clip not in found]:
        raise ConfigError(f"config.data.{split}.clips names {lost}; {root} has {', '.join(found)}")
    if wanted:
        return [found[clip] for clip in wanted]
    chosen = []
    for subject in subjects:
        clips = _ordered(subject.glob("*.amc"))
        chosen += [clip for i, clip in enumerate(clips) if (i % HELD_OUT == HELD_OUT - 1) == (split != "train")]
    if not chosen:
        raise ConfigError(
            f"{root}: no subject has {HELD_OUT} clips, so that none is held out; name clips in "
            f"config.data.{split}.clips"
        )
    return chosen


def _ordered(paths: Any) -> list[pathlib.Path]:
    """Paths in the order of the numbers in their names: 02_9 before 02_10."""
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)] + [path.stem])


def clip_videos(path: pathlib.Path, figure: asf.Figure, options: Options) -> list[Video]:
    """A video of a clip from each of its cameras; a pure function of file, figure and options.

    Raises:
      DataError: the file is damaged, or the figure lacks bones.
    """
    world = resample(joints_of(figure, figure.pose(asf.read_clip(path, figure))), options.captured_rate, options.rate)
    world = with_lengths(world, rest_lengths(figure))
    if not np.isfinite(world).all():
        raise DataError(f"{path}: joints of {figure.path} lie on each other, so that bones have no direction")
    clip = zlib.crc32(path.stem.encode())
    videos = []
    for number in range(options.cameras):
        rng = np.random.default_rng([options.seed, clip, number])
        seen = random_camera(world, number, options.cameras, rng)
        joints = cameras.world_to_camera(world, seen.orientation, seen.position)
        keypoints = detect(joints, seen.intrinsics, options, rng)
        videos.append(Video.of_joints(path.parent.name, path.stem, seen, keypoints, joints, root=0))
    return videos


# --- from the figure to 17 joints ---


def joints_of(figure: asf.Figure, ends: dict[str, np.ndarray]) -> np.ndarray:
    """The joints of `skeleton.H36M` [..., 17, 3] in metres, z up, from where the figure's bones end.

    Raises:
      DataError: the figure lacks a bone that is needed.
    """
    if missing := sorted(set(BONE_OF.values()) - set(ends)):
        raise DataError(f"{figure.path}: has no bones {missing}; expected the names of CMU's figures")
    places = {joint: ends[bone] for joint, bone in BONE_OF.items()}
    places["pelvis"] = (places["left_hip"] + places["right_hip"]) / 2
    return np.stack([places[joint] for joint in H36M.joints], -2) @ Z_UP.T


def rest_lengths(figure: asf.Figure) -> np.ndarray:
    """[16] lengths in metres of the bones of `ops.bones.H36M` in the figure at rest."""
    return np.linalg.norm(bones.vectors(bones.H36M, joints_of(figure, figure.rest())), axis=-1)


def with_lengths(joints: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Joints [T, 17, 3] whose bones point where they did and have these lengths [16]; the pelvis stays."""
    vectors = bones.vectors(bones.H36M, joints)
    with np.errstate(invalid="ignore", divide="ignore"):
        vectors = vectors * (lengths / np.linalg.norm(vectors, axis=-1))[..., None]
    return joints[:, :1] + np.einsum("kn,tnc->tkc", bones.H36M.paths, vectors)


def resample(values: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """Values [T, ...] at another number of frames a second, from the first frame on, by linear interpolation."""
    times = np.arange(int((len(values) - 1) * wanted / rate + 1e-9) + 1) * (rate / wanted)
    before = np.minimum(times.astype(int), max(len(values) - 2, 0))
    after = np.minimum(before + 1, len(values) - 1)
    share = (times - before).reshape(-1, *[1] * (values.ndim - 1))
    return values[before] * (1 - share) + values[after] * share


# --- cameras ---

_SCREEN = 0.92
"""Largest |u| and |v| of any joint of a clip."""


def random_camera(joints: np.ndarray, number: int, count: int, rng: np.random.Generator) -> Camera:
    """One of `count` cameras around a motion: it looks at the middle from 4 metres or more and has all of it in view.

    Args:
      joints: [T, K, 3] joints in metres in the world, z up.
      number: number of the camera, from 0.
      count: number of cameras, which stand about evenly around the motion.
      rng: generator to draw from.
    """
    low, high = joints.min((0, 1)), joints.max((0, 1))
    target = (low + high) / 2
    azimuth = 2 * np.pi * (number + rng.uniform(-0.35, 0.35)) / count
    elevation, roll = np.radians(rng.uniform(-2, 18)), np.radians(rng.normal(0, 1))
    focal = rng.uniform(2.1, 2.5)
    backward = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    to_world = np.stack([right, np.cross(-backward, right), -backward], -1) @ asf.euler_matrix("z", np.array([roll]))
    seen = (joints - target) @ to_world
    nearest = focal / _SCREEN * np.abs(seen[..., :2]).max(-1) - seen[..., 2]
    distance = max(float(nearest.max()), 4.0) * rng.uniform(1, 1.3)
    intrinsics = np.array([focal, focal, 0, 0, 0, 0, 0, 0, 0], np.float32)
    position = (target + distance * backward).astype(np.float32)
    return Camera(str(number), (1000, 1000), intrinsics, quaternion(to_world), position)


# --- the 2D detector ---

_HEIGHT = 1.7
"""Metres; the noise is a share of how large that appears."""

_LASTING = 0.85
"""Correlation of the noise of a frame with that of the next one at 50 frames a second."""


def detect(joints: np.ndarray, intrinsics: np.ndarray, options: Options, rng: np.random.Generator) -> np.ndarray:
    """The 2D keypoints that a simulated detector finds of a motion.

    Its errors are normal and last for some frames. A joint that is hidden for a while has larger ones. The score is the
    lower the larger the error is, and lower for hidden joints, but for some noise.

    Args:
      joints: [T, K, 3] joints in metres in the camera's frame.
      intrinsics: [9] normalised intrinsics of the camera.
      options: noise of the detector.
      rng: generator to draw from.

    Returns:
      [T, K, 3] keypoints (u, v, score).
    """
    shape = joints.shape[:2]
    exact = cameras.project(joints, intrinsics)
    height = intrinsics[0] * _HEIGHT / joints[:, :, 2].mean(-1)
    unseen = hidden(shape, options.hidden, options.hidden_seconds * options.rate, rng)
    spread = np.where(unseen, options.hidden_noise, options.noise)
    memory = _LASTING ** (50 / options.rate)
    error = lasting_noise((*shape, 2), memory, rng) * spread[..., None]
    miss = np.linalg.norm(error, axis=-1)
    score = np.where(unseen, 0.65, 0.95) - 2.5 * miss + rng.normal(0, 0.04, shape)
    return np.concatenate([exact + error * height[:, None, None], np.clip(score, 0.01, 0.999)[..., None]], -1)


def lasting_noise(shape: tuple[int, ...], memory: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise [T, ...] of unit variance, of which frames at a distance of n correlate by `memory` ** n."""
    fresh = rng.standard_normal(shape)
    keep = np.sqrt(1 - memory**2)
    fresh[0] /= keep
    return np.asarray(scipy.signal.lfilter([keep], [1, -memory], fresh, axis=0))


def hidden(shape: tuple[int, int], share: float, frames: float, rng: np.random.Generator) -> np.ndarray:
    """[T, K] bool, True where a joint is hidden: a Markov chain for each joint.

    Args:
      shape: number of frames and of joints, (T, K).
      share: share of hidden ones among all joints and frames; less than 1.
      frames: mean number of frames that a joint stays hidden; at least 1 / (1 - share), that of independent frames.
      rng: generator to draw from.
    """
    end = min(1 / frames, 1 - share)
    begin = end * share / (1 - share)
    drawn = rng.random(shape)
    hides, shows = drawn < begin, drawn >= 1 - end  # others leave things as they are
    hides[0], shows[0] = drawn[0] < share, True
    decided = np.maximum.accumulate(np.where(hides | shows, np.arange(shape[0])[:, None], 0), axis=0)
    return np.take_along_axis(hides, decided, axis=0)
