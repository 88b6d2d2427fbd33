"""Smooth random motion inside joint limits: gait, everyday actions built from key poses, and free movement.

A `Motion` is a pure function of time in seconds; a still picture samples it once, a clip many times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxpose.marionettes.body import (
    ANGLE,
    ANGLES,
    HIGHEST,
    JOINTS,
    LOWEST,
    SEGMENT,
    Shape,
    Skeleton3D,
    contacts,
    pose_body,
)
from jaxpose.marionettes.exact import Random, dot, sincos, transform

TWO_PI = 6.283185307179586

# Action -> angle: (mean, spread) in degrees. `both_` sets both sides alike, `one_` and `other_` a random side and its
# opposite; angles that are not named keep the relaxed stance.
_STANCE = {
    "both_shoulder_flex": (2.0, 9.0),
    "both_shoulder_abduct": (11.0, 4.0),
    "both_shoulder_twist": (-8.0, 10.0),
    "both_elbow": (18.0, 9.0),
    "both_forearm_twist": (15.0, 12.0),
    "both_wrist": (4.0, 8.0),
    "both_hip_flex": (4.0, 5.0),
    "both_hip_abduct": (5.0, 3.0),
    "both_hip_twist": (9.0, 5.0),
    "both_knee": (7.0, 4.0),
    "pitch": (0.0, 2.0),
    "roll": (0.0, 2.0),
    "spine_flex": (3.0, 4.0),
    "spine_side": (0.0, 4.0),
    "spine_twist": (0.0, 7.0),
    "head_flex": (3.0, 8.0),
    "head_side": (0.0, 4.0),
    "head_twist": (0.0, 18.0),
}
ACTIONS: dict[str, dict[str, tuple[float, float]]] = {
    "stand": {},
    "reach": {
        "one_shoulder_flex": (105.0, 32.0),
        "one_shoulder_abduct": (15.0, 14.0),
        "one_elbow": (18.0, 14.0),
        "head_flex": (-8.0, 10.0),
        "spine_flex": (8.0, 8.0),
    },
    "wave": {
        "one_shoulder_flex": (12.0, 14.0),
        "one_shoulder_abduct": (86.0, 16.0),
        "one_shoulder_twist": (78.0, 14.0),
        "one_elbow": (84.0, 26.0),
        "one_forearm_twist": (-20.0, 25.0),
    },
    "arms_up": {
        "both_shoulder_flex": (152.0, 14.0),
        "both_shoulder_abduct": (12.0, 12.0),
        "both_elbow": (22.0, 18.0),
        "head_flex": (-12.0, 10.0),
    },
    "star": {
        "both_shoulder_abduct": (96.0, 16.0),
        "both_shoulder_flex": (0.0, 12.0),
        "both_elbow": (10.0, 9.0),
        "both_hip_abduct": (22.0, 3.0),
    },
    "hands_on_hips": {
        "both_shoulder_flex": (-16.0, 7.0),
        "both_shoulder_abduct": (44.0, 7.0),
        "both_shoulder_twist": (-42.0, 9.0),
        "both_elbow": (92.0, 9.0),
    },
    "carry": {
        "both_shoulder_flex": (26.0, 12.0),
        "both_shoulder_twist": (-12.0, 10.0),
        "both_elbow": (84.0, 14.0),
    },
    "phone": {
        "one_shoulder_flex": (42.0, 9.0),
        "one_shoulder_abduct": (22.0, 8.0),
        "one_shoulder_twist": (4.0, 10.0),
        "one_elbow": (134.0, 7.0),
    },
    "squat": {
        "pitch": (26.0, 7.0),
        "both_hip_flex": (104.0, 9.0),
        "both_hip_abduct": (16.0, 7.0),
        "both_knee": (98.0, 12.0),
        "spine_flex": (18.0, 8.0),
        "both_shoulder_flex": (72.0, 20.0),
        "both_elbow": (28.0, 18.0),
        "head_flex": (-20.0, 10.0),
    },
    "sit": {
        "pitch": (-4.0, 4.0),
        "both_hip_flex": (86.0, 5.0),
        "both_hip_abduct": (8.0, 4.0),
        "both_knee": (84.0, 12.0),
        "spine_flex": (12.0, 8.0),
        "both_shoulder_flex": (30.0, 10.0),
        "both_elbow": (54.0, 14.0),
    },
    "bend": {
        "pitch": (34.0, 12.0),
        "both_hip_flex": (42.0, 10.0),
        "both_knee": (14.0, 10.0),
        "spine_flex": (44.0, 12.0),
        "both_shoulder_flex": (62.0, 22.0),
        "both_elbow": (16.0, 12.0),
        "head_flex": (-10.0, 14.0),
    },
    "lunge": {
        "pitch": (6.0, 5.0),
        "one_hip_flex": (72.0, 12.0),
        "one_knee": (72.0, 12.0),
        "other_hip_flex": (-16.0, 5.0),
        "other_knee": (30.0, 14.0),
        "both_shoulder_flex": (22.0, 30.0),
        "both_elbow": (46.0, 24.0),
    },
    "kick": {
        "pitch": (-9.0, 5.0),
        "one_hip_flex": (70.0, 16.0),
        "one_knee": (22.0, 16.0),
        "one_shoulder_flex": (-24.0, 10.0),
        "other_shoulder_flex": (48.0, 18.0),
        "both_shoulder_abduct": (30.0, 14.0),
        "other_knee": (14.0, 8.0),
    },
    "kneel": {
        "one_hip_flex": (84.0, 6.0),
        "one_knee": (88.0, 8.0),
        "other_hip_flex": (-4.0, 5.0),
        "other_knee": (92.0, 8.0),
        "both_shoulder_flex": (30.0, 18.0),
        "both_elbow": (40.0, 20.0),
    },
    "dance": {
        "both_shoulder_flex": (50.0, 48.0),
        "both_shoulder_abduct": (42.0, 32.0),
        "both_shoulder_twist": (10.0, 30.0),
        "both_elbow": (62.0, 34.0),
        "both_hip_flex": (20.0, 18.0),
        "both_hip_abduct": (13.0, 9.0),
        "both_knee": (30.0, 20.0),
        "spine_side": (0.0, 12.0),
        "spine_twist": (0.0, 18.0),
        "roll": (0.0, 8.0),
    },
}
GAITS = ("walk", "run")
STILL_WEIGHTS = {
    **{"stand": 1.4, "reach": 1.3, "wave": 1.0, "arms_up": 0.8, "star": 0.7, "hands_on_hips": 0.8, "carry": 0.8},
    **{"phone": 0.5, "squat": 0.8, "sit": 0.8, "bend": 0.7, "lunge": 0.8, "kick": 0.8, "kneel": 0.5, "dance": 2.2},
    **{"walk": 2.4, "run": 1.4},
}
CLIP_WEIGHTS = {
    **{"walk": 3.0, "run": 1.6, "dance": 2.0, "wave": 1.0, "reach": 1.0, "squat": 0.8, "kick": 0.8, "star": 0.8},
}


@dataclasses.dataclass(frozen=True)
class Motion:
    """A named movement; `angles(times)` gives [T, 31] joint angles in degrees at times [T] in seconds."""

    action: str
    angles: Callable[[np.ndarray], np.ndarray]


def random_motion(rng: Random, shape: Shape, action: str, keys: int = 1) -> Motion:
    """A movement of one person.

    Args:
      rng: stream to draw from.
      shape: proportions of the person, by which hands are kept out of the body.
      action: a key of ACTIONS or one of GAITS.
      keys: number of key poses to pass through, one every 0.5 to 1.1 s; 1 holds a pose.

    Returns:
      A function of time that stays inside the joint limits.
    """
    sway = _sway(rng, 2.2)
    base = _gait(rng, run=action == "run") if action in GAITS else _through_keys(rng, shape, action, keys)

    def angles(times: np.ndarray) -> np.ndarray:
        return np.clip(base(times) + sway(times), LOWEST, HIGHEST)

    return Motion(action, angles)


def _sway(rng: Random, degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    """Slow band-limited noise on every angle: three sines below 0.7 Hz."""
    frequency = rng.array(0.08, 0.7, 3, len(ANGLES))
    phase = rng.array(0.0, TWO_PI, 3, len(ANGLES))
    size = rng.array(0.2, 1.0, 3, len(ANGLES)) * degrees
    size[:, ANGLE["pitch"]] *= 0.3
    size[:, ANGLE["roll"]] *= 0.3

    def angles(times: np.ndarray) -> np.ndarray:
        wave = sincos(phase + frequency * (TWO_PI * times)[:, None, None])[0] * size
        return (wave[:, 0] + wave[:, 1]) + wave[:, 2]

    return angles


def _draw(rng: Random, action: str) -> np.ndarray:
    """One key pose [31] of an action, before limits."""
    pose = np.zeros(len(ANGLES))
    one, other = ("left", "right") if rng.chance(0.5) else ("right", "left")
    for table in (_STANCE, ACTIONS[action]):
        for name, (mean, spread) in table.items():
            group, _, rest = name.partition("_")
            draw = rng.bell(2)
            if group == "both":
                pose[ANGLE[f"left_{rest}"]] = mean + spread * draw[0]
                pose[ANGLE[f"right_{rest}"]] = mean + spread * draw[1]
            else:
                side = {"one": f"{one}_{rest}", "other": f"{other}_{rest}"}.get(group, name)
                pose[ANGLE[side]] = mean + spread * draw[0]
    pose = np.clip(pose, LOWEST, HIGHEST)
    for side in (one, other):  # soles level with the floor as far as the ankle allows
        tilt = pose[ANGLE["pitch"]] - pose[ANGLE[f"{side}_hip_flex"]] + pose[ANGLE[f"{side}_knee"]]
        pose[ANGLE[f"{side}_ankle"]] = -tilt
    return np.clip(pose, LOWEST, HIGHEST)


def _depth_inside(point: np.ndarray, centre: np.ndarray, frame: np.ndarray, radii: tuple) -> np.ndarray:
    """1 at the centre of an ellipsoid, 0 on its surface and outside; for points [T, N, 3]."""
    offset = point - centre[:, None]
    local = transform(np.swapaxes(frame, -1, -2)[:, None], offset) / np.array(radii)
    return np.maximum(1.0 - dot(local, local), 0.0)


def collision(shape: Shape, body: Skeleton3D) -> np.ndarray:
    """How deep hands and forearms sink into the trunk, the head and the thighs, [T]; 0 is free."""
    points = []
    for side in ("left", "right"):
        elbow, wrist = body.origin[:, SEGMENT[f"{side}_forearm"]], body.origin[:, SEGMENT[f"{side}_hand"]]
        hand = SEGMENT[f"{side}_hand"]
        finger = wrist + transform(body.rotation[:, hand], np.array([0.0, -0.8 * shape.hand, 0.0]))
        points += [elbow, 0.5 * (elbow + wrist), wrist, 0.5 * (wrist + finger), finger]
    points = np.stack(points, axis=1)
    arm = shape.arm_radii[2] + 8.0
    chest = (shape.chest_half[0] + arm, 0.75 * shape.chest, shape.chest_half[1] + arm)
    belly = (shape.waist_half[0] + arm, 1.1 * shape.belly, shape.waist_half[1] + 12.0 + arm)
    hips = (shape.pelvis_half[0] + arm, shape.pelvis_half[1] + arm, shape.pelvis_half[1] + arm)
    skull = tuple(r * 1.05 + 0.5 * arm for r in shape.head)
    thorax, head, pelvis = SEGMENT["thorax"], SEGMENT["head"], SEGMENT["pelvis"]
    middle = body.origin[:, thorax] + transform(body.rotation[:, thorax], np.array([0.0, 0.55 * shape.chest, 0.0]))
    face = body.origin[:, head] + transform(body.rotation[:, head], np.array([0.0, 0.6 * shape.head[1], 0.0]))
    parts = [
        (middle, body.rotation[:, thorax], chest),
        (body.origin[:, thorax], body.rotation[:, SEGMENT["spine"]], belly),
        (body.origin[:, pelvis], body.rotation[:, pelvis], hips),
        (face, body.rotation[:, head], skull),
    ]
    for side in ("left", "right"):
        thigh = SEGMENT[f"{side}_thigh"]
        centre = body.origin[:, thigh] + transform(body.rotation[:, thigh], np.array([0.0, -0.45 * shape.thigh, 0.0]))
        round_thigh = shape.leg_radii[0] + arm
        parts.append((centre, body.rotation[:, thigh], (round_thigh, 0.6 * shape.thigh, round_thigh)))
    worst = np.zeros(len(points))
    for centre, frame, radii in parts:
        inside = _depth_inside(points, centre, frame, radii)
        for k in range(inside.shape[1]):
            worst = np.maximum(worst, inside[:, k])
    return worst


_MASSES = (  # share of the body's mass that sits halfway between two joints
    *(("pelvis", "pelvis", 0.14), ("spine", "thorax", 0.33), ("head", "head", 0.08)),
    *((f"{s}_elbow", f"{s}_elbow", 0.05) for s in ("left", "right")),
    *((f"{s}_hip", f"{s}_knee", 0.115) for s in ("left", "right")),
    *((f"{s}_knee", f"{s}_ankle", 0.06) for s in ("left", "right")),
)


def overhang(shape: Shape, body: Skeleton3D) -> np.ndarray:
    """How far [T, 3] the centre of mass lies from the middle of what touches the floor, mm."""
    centre = np.zeros((len(body.joints), 3))
    for start, end, mass in _MASSES:
        centre = centre + (0.5 * mass) * (body.joints[:, JOINTS.index(start)] + body.joints[:, JOINTS.index(end)])
    points = contacts(shape, body)
    touch = np.maximum(80.0 - (points[..., 1] - points[..., 1].min(axis=1)[:, None]), 0.0)[..., None]
    total, support = np.zeros((len(points), 1)), np.zeros((len(points), 3))
    for k in range(points.shape[1]):
        total = total + touch[:, k]
        support = support + touch[:, k] * points[:, k]
    return centre - support / total


def _balanced(shape: Shape, poses: np.ndarray) -> np.ndarray:
    """Leans poses [T, 31] about the hips, and turns the ankles along, until the mass is nearly above the feet."""
    poses = poses.copy()
    for _ in range(2):
        gap = overhang(shape, pose_body(shape, poses)) * (70.0 / shape.height)  # mm to degrees
        lean, tilt = np.clip(gap[:, 2], -12.0, 12.0), np.clip(gap[:, 0], -8.0, 8.0)
        poses[:, ANGLE["pitch"]] -= lean
        poses[:, ANGLE["roll"]] += tilt
        for side in ("left", "right"):
            poses[:, ANGLE[f"{side}_ankle"]] += lean
    return np.clip(poses, LOWEST, HIGHEST)


def _key_poses(rng: Random, shape: Shape, action: str, count: int) -> np.ndarray:
    """`count` key poses [count, 31], each the best of several draws at keeping the arms out of the body."""
    tries = 5
    poses = np.stack([_draw(rng, action) for _ in range(count * tries)])
    worst = collision(shape, pose_body(shape, poses)).reshape(count, tries)
    best = poses.reshape(count, tries, -1)[np.arange(count), np.argmin(worst, axis=1)]
    return best if action in ("sit", "star") else _balanced(shape, best)  # on a stool, or astride


def _through_keys(rng: Random, shape: Shape, action: str, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Minimum-jerk moves from key pose to key pose; still actions come back to the stance in between."""
    keys = _key_poses(rng, shape, action, count)
    if count > 1 and action in ("wave", "reach", "squat", "kick", "arms_up", "bend", "star"):
        rest = _key_poses(rng, shape, "stand", count)
        keys = np.where((np.arange(count) % 2 == 0)[:, None], keys, rest)
    gaps = rng.array(0.5, 1.1, count)
    marks = [0.0]
    for gap in gaps.tolist():
        marks.append(marks[-1] + gap)
    start = np.array(marks[:-1])

    def angles(times: np.ndarray) -> np.ndarray:
        out = np.broadcast_to(keys[0], (len(times), len(ANGLES))).copy()
        for k in range(1, count):
            u = np.clip((times - start[k]) / gaps[k], 0.0, 1.0)[:, None]
            out += (u * u * u * (10.0 + u * (6.0 * u - 15.0))) * (keys[k] - keys[k - 1])
        return out

    return angles


def _gait(rng: Random, run: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Walking or running: joint angles over the gait cycle as sums of smooth bumps."""
    cadence = rng.uniform(1.25, 1.6) if run else rng.uniform(0.75, 1.1)
    start = rng.uniform(0.0, 1.0)
    stride = rng.uniform(34.0, 48.0) if run else rng.uniform(21.0, 30.0)
    swing = rng.uniform(78.0, 105.0) if run else rng.uniform(46.0, 60.0)
    arm = rng.uniform(28.0, 45.0) if run else rng.uniform(10.0, 28.0)
    elbow = rng.uniform(75.0, 100.0) if run else rng.uniform(10.0, 32.0)
    lean = rng.uniform(8.0, 18.0) if run else rng.uniform(0.0, 5.0)
    wide = rng.uniform(8.0, 15.0)
    ahead = 0.3 if run else 0.12
    head = rng.bell(3) * np.array([7.0, 3.0, 15.0])

    def wave(phase: np.ndarray) -> np.ndarray:
        return sincos(TWO_PI * (phase - np.floor(phase)))[1]

    def bump(phase: np.ndarray) -> np.ndarray:
        half = 0.5 + 0.5 * wave(phase)
        return half * half * half

    def angles(times: np.ndarray) -> np.ndarray:
        out = np.zeros((len(times), len(ANGLES)))

        def put(name: str, value: np.ndarray | float) -> None:
            out[:, ANGLE[name]] = value

        cycle = start + cadence * times
        for side, shift in (("left", 0.0), ("right", 0.5)):
            c = cycle + shift
            put(f"{side}_hip_flex", stride * wave(c - 0.92) + ahead * stride + 0.5 * lean)
            put(f"{side}_knee", 7.0 + swing * bump(c - 0.72) + (26.0 if run else 13.0) * bump(c - 0.14))
            put(f"{side}_ankle", 13.0 * bump(c - 0.58) - 14.0 * bump(c - 0.80) - 5.0 * bump(c - 0.33))
            put(f"{side}_hip_abduct", 2.0)
            put(f"{side}_hip_twist", 5.0)
            put(f"{side}_shoulder_flex", -arm * wave(c - 0.94) + 0.2 * arm)
            put(f"{side}_shoulder_abduct", wide)
            put(f"{side}_shoulder_twist", -12.0)
            put(f"{side}_elbow", elbow - 0.35 * arm * wave(c - 0.94))
            put(f"{side}_forearm_twist", 10.0)
        put("pitch", lean)
        put("spine_flex", 3.0)
        put("spine_twist", 0.28 * stride * wave(cycle - 0.94))
        put("yaw", -0.12 * stride * wave(cycle - 0.94))
        put("roll", 2.5 * wave(cycle - 0.2))
        put("head_flex", head[0] - 0.4 * lean)
        put("head_side", head[1])
        put("head_twist", head[2])
        return out

    return angles


def stand_on_floor(shape: Shape, body: Skeleton3D) -> np.ndarray:
    """Path of the pelvis [T, 3] that keeps the body on the floor and what touches the floor in its place."""
    points = contacts(shape, body)
    lowest = points[..., 1].min(axis=1)
    root = np.zeros((len(points), 3))
    root[:, 1] = -lowest
    touch = np.maximum(25.0 - (points[..., 1] - lowest[:, None]), 0.0)  # within 25 mm of the floor
    weight = touch[1:] * touch[:-1]
    weight += 1e-9 * (touch[1:] + touch[:-1])
    total, moved = np.zeros(len(weight)), np.zeros((len(weight), 3))
    for k in range(points.shape[1]):
        total = total + weight[:, k]
        moved = moved + weight[:, k, None] * (points[1:, k] - points[:-1, k])
    step = moved / total[:, None]
    for t in range(len(step)):
        root[t + 1, 0] = root[t, 0] - step[t, 0]
        root[t + 1, 2] = root[t, 2] - step[t, 2]
    return root
