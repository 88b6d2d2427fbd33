"""Sequences without pictures: 3D motion, its projection, and the keypoints that a 2D detector would find."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxpose.marionettes.body import JOINTS, Shape, random_shape
from jaxpose.marionettes.camera import Camera, look_at, orbit
from jaxpose.marionettes.config import SPLITS, MarionettesConfig
from jaxpose.marionettes.exact import Random
from jaxpose.marionettes.figure import dress, place
from jaxpose.marionettes.motion import ACTIONS, GAITS
from jaxpose.marionettes.staging import perform
from jaxpose.marionettes.visibility import labelled, seen

FRAME_RATE = 50.0  # Hz
SUBJECTS = {"train": 8, "validation": 4}
_SUBJECT_STREAM = 2**31  # sets the streams of people apart from those of sequences


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One person who performs one action for T frames before a fixed camera.

    Attributes:
      joints_2d: [T, 25, 3] float32 exact joints (x, y) in pixels, and visibility 2 (seen), 1 (hidden) or 0 (outside the
        picture).
      detections: [T, 25, 2] float32 joints (x, y) in pixels as a detector would give them: noise that grows where the
        joint is hidden and lasts for some frames.
      visibility_score: [T, 25] float32 confidence of the detector, 0 to 1.
      joints_3d: [T, 25, 3] float32 joints in mm in the camera's frame.
      intrinsics: [3, 3] float32 matrix of the camera in pixels.
      rotation: [3, 3] float32 rotation from the world to the camera.
      translation: [3] float32 mm, from the world to the camera.
      subject: number of the person; the splits share none.
      action: name of the action.
    """

    joints_2d: np.ndarray
    detections: np.ndarray
    visibility_score: np.ndarray
    joints_3d: np.ndarray
    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    subject: int
    action: str


def subject_shape(config: MarionettesConfig, split: str, number: int) -> Shape:
    """The body of a subject (numbered from 0 in each split)."""
    return random_shape(Random(config.seed, SPLITS.index(split), _SUBJECT_STREAM, number))


def _fixed_camera(rng: Random, joints: np.ndarray, config: MarionettesConfig) -> Camera:
    """A camera from any side that keeps the whole path [T, 25, 3] in view."""
    low, high = joints.min(axis=(0, 1)), joints.max(axis=(0, 1))
    target = 0.5 * (low + high)
    span = float(np.max(high - low))
    distance = 0.5 * span + rng.uniform(2800.0, 5000.0)
    position = orbit(target, rng.uniform(-180.0, 180.0), rng.uniform(-2.0, 22.0), distance)
    position[1] = max(float(position[1]), 250.0)
    trial = look_at(position, target, 1.0, (0.0, 0.0))
    flat = np.abs(trial.to_pixels(trial.to_camera(joints))).max(axis=(0, 1))
    focal = min(0.5 * config.width / float(flat[0]), 0.5 * config.height / float(flat[1])) * rng.uniform(0.75, 0.92)
    centre = (0.5 * (config.width - 1), 0.5 * (config.height - 1))
    return look_at(position, target, focal, centre, float(rng.bell(1)[0]))


def _lasting(rng: Random, frames: int, memory: float) -> np.ndarray:
    """Noise [frames, 25, 2] of unit variance whose neighbours in time correlate by `memory`."""
    fresh = rng.bell(frames, len(JOINTS), 2)
    keep = float(np.sqrt(1.0 - memory * memory))
    for t in range(1, frames):
        fresh[t] = memory * fresh[t - 1] + keep * fresh[t]
    return fresh


def detect(rng: Random, joints_2d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detections [T, 25, 2] and confidences [T, 25] for exact joints with visibility [T, 25, 3]."""
    frames = len(joints_2d)
    head, foot = joints_2d[:, JOINTS.index("head_top"), :2], joints_2d[:, JOINTS.index("pelvis"), :2]
    gap = head - foot
    size = np.sqrt(gap[:, 0] * gap[:, 0] + gap[:, 1] * gap[:, 1]) + 1.0
    hidden = joints_2d[..., 2] < 2.0
    spread = np.where(hidden, 0.085, 0.016) * size[:, None]
    error = _lasting(rng, frames, 0.85) * spread[..., None]
    error += rng.bell(frames, len(JOINTS), 2) * (0.3 * spread)[..., None]
    miss = np.sqrt(error[..., 0] * error[..., 0] + error[..., 1] * error[..., 1]) / size[:, None]
    score = np.where(hidden, 0.62, 0.95) - 2.2 * miss + 0.05 * rng.bell(frames, len(JOINTS))
    return joints_2d[..., :2] + error, np.clip(score, 0.01, 0.999)


def sequence(config: MarionettesConfig, split: str, index: int) -> Sequence:
    """Sequence number `index` of a split: a pure function of its arguments, bit-identical on every machine.

    Raises:
      IndexError: there is no such sequence.
      ValueError: the scene is not `sequence`.
    """
    if config.scene != "sequence":
        raise ValueError(f"MarionettesConfig.scene: found {config.scene!r}, expected 'sequence'")
    if not 0 <= index < config.count(split):
        raise IndexError(f"marionettes {split}: found index {index}, expected 0 to {config.count(split) - 1}")
    rng = Random(config.seed, SPLITS.index(split), index, 0)
    number = rng.integer(0, SUBJECTS[split])
    shape = subject_shape(config, split, number)
    action = rng.choice((*ACTIONS, *GAITS, *GAITS, *GAITS))
    times = np.arange(config.frames) / FRAME_RATE
    turn = rng.choice((-1.0, 1.0)) * (rng.uniform(40.0, 90.0) if action in GAITS else rng.uniform(0.0, 25.0))
    body, root = perform(rng, shape, action, rng.uniform(-180.0, 180.0), times, np.zeros(3), turn)
    world = body.joints + root[:, None]
    camera = _fixed_camera(rng, world, config)
    joints = camera.to_camera(world)
    pixels = camera.to_pixels(joints)
    figure = dress(shape, rng)
    posed = (place(figure, body, t, root[t], 0, 0) for t in range(len(times)))
    solids = (now.moved(camera.rotation, camera.translation) for now in posed)
    visible = np.concatenate([seen(joints[t : t + 1], now, [shape]) for t, now in enumerate(solids)])
    flat = labelled(pixels, visible, config.width, config.height)
    detections, score = detect(rng, flat)
    return Sequence(
        joints_2d=flat.astype(np.float32),
        detections=detections.astype(np.float32),
        visibility_score=score.astype(np.float32),
        joints_3d=joints.astype(np.float32),
        intrinsics=camera.intrinsics.astype(np.float32),
        rotation=camera.rotation.astype(np.float32),
        translation=camera.translation.astype(np.float32),
        subject=number if split == "train" else SUBJECTS["train"] + number,
        action=action,
    )
