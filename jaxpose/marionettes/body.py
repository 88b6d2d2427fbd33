"""The articulated body: proportions of one person, joint limits, and forward kinematics.

World frame: millimetres, y up, the floor is y = 0. Body frame at rest: x to the person's left, y up, z forward, arms
hanging, feet pointing forward. Every segment's frame coincides with the body frame at rest.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxpose.marionettes.exact import DEGREE, Random, axis_rotation, product, sincos, transform
from jaxpose.skeleton import MARIONETTE

JOINTS = MARIONETTE.joints
SEGMENTS = (
    *("pelvis", "spine", "thorax", "neck", "head"),
    *("left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm", "left_hand", "right_hand"),
    *("left_thigh", "right_thigh", "left_shin", "right_shin", "left_foot", "right_foot", "skirt"),
)
SEGMENT = {name: i for i, name in enumerate(SEGMENTS)}

_SIDE_LIMITS = {
    "shoulder_flex": (-45.0, 170.0),
    "shoulder_abduct": (-10.0, 120.0),
    "shoulder_twist": (-70.0, 90.0),
    "elbow": (2.0, 145.0),
    "forearm_twist": (-60.0, 80.0),
    "wrist": (-45.0, 50.0),
    "hip_flex": (-25.0, 120.0),
    "hip_abduct": (-12.0, 55.0),
    "hip_twist": (-20.0, 40.0),
    "knee": (2.0, 140.0),
    "ankle": (-20.0, 40.0),
}
LIMITS: dict[str, tuple[float, float]] = {
    "yaw": (-1e4, 1e4),
    "pitch": (-30.0, 90.0),
    "roll": (-25.0, 25.0),
    "spine_flex": (-25.0, 75.0),
    "spine_side": (-32.0, 32.0),
    "spine_twist": (-45.0, 45.0),
    "head_flex": (-40.0, 45.0),
    "head_side": (-28.0, 28.0),
    "head_twist": (-70.0, 70.0),
    **{f"left_{name}": limit for name, limit in _SIDE_LIMITS.items()},
    **{f"right_{name}": limit for name, limit in _SIDE_LIMITS.items()},
}
ANGLES = tuple(LIMITS)
ANGLE = {name: i for i, name in enumerate(ANGLES)}
LOWEST = np.array([low for low, _ in LIMITS.values()])
HIGHEST = np.array([high for _, high in LIMITS.values()])


@dataclasses.dataclass(frozen=True)
class Shape:
    """Proportions of one person; lengths, radii and half-widths in millimetres."""

    height: float
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shin: float
    ankle_height: float
    foot: float
    shoulder_half: float
    hip_half: float
    belly: float  # pelvis centre to spine joint
    chest: float  # spine joint to the shoulder line
    neck_base: float  # shoulder line to the base of the neck
    neck: float  # base of the neck to the pivot of the head
    head: tuple[float, float, float]  # half width, half height, half depth
    arm_radii: tuple[float, float, float]  # shoulder, elbow, wrist
    leg_radii: tuple[float, float, float]  # hip, knee, ankle
    chest_half: tuple[float, float]  # half width, half depth
    waist_half: tuple[float, float]
    pelvis_half: tuple[float, float]
    bust: float  # 0 for none


class Skeleton3D(NamedTuple):
    """Posed segments: `rotation` [T, S, 3, 3] (columns are the segment's axes), `origin` [T, S, 3] and `joints`
    [T, 25, 3] in millimetres, in the order of SEGMENTS and JOINTS."""

    rotation: np.ndarray
    origin: np.ndarray
    joints: np.ndarray


def random_shape(rng: Random) -> Shape:
    """Draws a person: stature, proportions around anthropometric means, and build."""
    child = rng.chance(0.12)
    curvy = rng.uniform(0.0, 1.0)
    height = rng.uniform(1050.0, 1450.0) if child else rng.uniform(1560.0, 1900.0) - 70.0 * curvy
    girth = rng.uniform(0.84, 1.0) + (rng.uniform(0.0, 0.35) if rng.chance(0.35) else rng.uniform(0.0, 0.12))
    wobble = 1.0 + 0.035 * rng.bell(14)
    s, g = height / 1700.0, height / 1700.0 * girth
    thick = 0.5 + 0.5 * girth  # limbs grow slower than the belly
    limb = height / 1700.0 * thick * (1.0 - 0.06 * curvy)
    head = 1.0 + (1700.0 / height - 1.0) * 0.62
    return Shape(
        height=height,
        upper_arm=0.182 * height * wobble[0],
        forearm=0.150 * height * wobble[1],
        hand=0.106 * height * wobble[2],
        thigh=0.245 * height * wobble[3],
        shin=0.240 * height * wobble[4],
        ankle_height=0.046 * height,
        foot=0.118 * height * wobble[5],
        shoulder_half=(0.116 - 0.014 * curvy) * height * wobble[6],
        hip_half=(0.050 + 0.006 * curvy) * height * wobble[7],
        belly=0.118 * height * wobble[8],
        chest=0.166 * height * wobble[9],
        neck_base=0.032 * height,
        neck=0.042 * height * wobble[10],
        head=(77.0 * s * head * wobble[11], 116.0 * s * head * wobble[12], 96.0 * s * head * wobble[13]),
        arm_radii=(50.0 * limb, 40.0 * limb, 27.0 * limb),
        leg_radii=(84.0 * g * (0.97 + 0.08 * curvy), 56.0 * limb, 37.0 * limb),
        chest_half=((146.0 - 16.0 * curvy) * s * thick, 100.0 * s * girth),
        waist_half=((132.0 - 16.0 * curvy) * g, (94.0 - 8.0 * curvy) * g * (0.75 + 0.25 * girth)),
        pelvis_half=((156.0 + 8.0 * curvy) * s * thick, 112.0 * g),
        bust=0.0 if child or curvy < 0.5 else rng.uniform(42.0, 62.0) * s,
    )


def _turn_scale() -> np.ndarray:
    """Radians of rotation about its axis for a degree of every angle: flexing turns against x, the right side mirrors
    the left, and spine and neck each bend in two places."""
    scale = np.full(len(ANGLES), DEGREE)
    for i, name in enumerate(ANGLES):
        if name.startswith(("spine", "head")):
            scale[i] *= 0.5
        if name.endswith(("shoulder_flex", "hip_flex", "elbow", "forearm_twist", "wrist")):
            scale[i] *= -1.0
        if name.startswith("right") and name.endswith(("abduct", "twist", "wrist")):
            scale[i] *= -1.0
    return scale


_TURN_SCALE = _turn_scale()


def _rotations(pose: np.ndarray) -> np.ndarray:
    """Segment rotations [T, S, 3, 3] of poses [T, angles]."""
    sine, cosine = sincos(pose * _TURN_SCALE)
    x, y, z = 0, 1, 2

    def turn(name: str, axis: int) -> np.ndarray:
        i = ANGLE[name]
        return axis_rotation(axis, sine[:, i], cosine[:, i])

    def both(name: str, axis: int) -> np.ndarray:
        i = [ANGLE[f"left_{name}"], ANGLE[f"right_{name}"]]
        return axis_rotation(axis, sine[:, i], cosine[:, i])

    pelvis = product(turn("yaw", y), turn("pitch", x), turn("roll", z))
    back = product(turn("spine_twist", y), turn("spine_flex", x), turn("spine_side", z))
    nape = product(turn("head_twist", y), turn("head_flex", x), turn("head_side", z))
    spine = product(pelvis, back)
    thorax = product(spine, back)
    neck = product(thorax, nape)
    head = product(neck, nape)
    shoulder = product(both("shoulder_flex", x), both("shoulder_abduct", z), both("shoulder_twist", y))
    upper_arm = product(thorax[:, None], shoulder)
    forearm = product(upper_arm, both("elbow", x))
    hand = product(forearm, both("forearm_twist", y), both("wrist", z))
    thigh = product(pelvis[:, None], both("hip_flex", x), both("hip_abduct", z), both("hip_twist", y))
    shin = product(thigh, both("knee", x))
    foot = product(shin, both("ankle", x))
    hips = pose[:, ANGLE["left_hip_flex"]] + pose[:, ANGLE["right_hip_flex"]]
    skirt = product(pelvis, axis_rotation(x, *sincos(-0.5 * DEGREE * hips)))
    trunk = np.stack([pelvis, spine, thorax, neck, head], axis=1)
    return np.concatenate([trunk, upper_arm, forearm, hand, thigh, shin, foot, skirt[:, None]], axis=1)


def pose_body(shape: Shape, pose: np.ndarray) -> Skeleton3D:
    """The body in a pose (forward kinematics).

    Args:
      shape: proportions of the person.
      pose: [T, 31] joint angles in degrees, in the order of ANGLES.

    Returns:
      The posed segments and joints, with the pelvis at the origin.
    """
    rotation = _rotations(np.asarray(pose, np.float64))
    origin = np.zeros((*rotation.shape[:2], 3))
    mirror = np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])

    def reach(start: str, offset: tuple[float, float, float]) -> np.ndarray:
        return origin[:, SEGMENT[start]] + transform(rotation[:, SEGMENT[start]], np.array(offset))

    def reach_pair(start: str, offset: tuple[float, float, float]) -> np.ndarray:
        i = SEGMENT[f"left_{start}"]
        return origin[:, i : i + 2] + transform(rotation[:, i : i + 2], np.array(offset))

    def mirrored(start: str, offset: tuple[float, float, float]) -> np.ndarray:
        i = SEGMENT[start]
        return origin[:, i, None] + transform(rotation[:, i, None], np.array(offset) * mirror)

    origin[:, SEGMENT["thorax"]] = reach("spine", (0.0, shape.belly, 0.0))
    origin[:, SEGMENT["neck"]] = reach("thorax", (0.0, shape.chest + shape.neck_base, -0.006 * shape.height))
    origin[:, SEGMENT["head"]] = reach("neck", (0.0, shape.neck, 0.004 * shape.height))
    chain = (
        ("upper_arm", mirrored("thorax", (shape.shoulder_half, shape.chest - 0.012 * shape.height, 0.0))),
        ("thigh", mirrored("pelvis", (shape.hip_half, 0.0, 0.0))),
    )
    for name, start in chain:
        i = SEGMENT[f"left_{name}"]
        origin[:, i : i + 2] = start
    links = (
        ("upper_arm", "forearm", shape.upper_arm),
        ("forearm", "hand", shape.forearm),
        ("thigh", "shin", shape.thigh),
        ("shin", "foot", shape.shin),
    )
    for parent, child, length in links:
        i = SEGMENT[f"left_{child}"]
        origin[:, i : i + 2] = reach_pair(parent, (0.0, -length, 0.0))
    segments, offsets = joint_offsets(shape)
    joints = origin[:, segments] + transform(rotation[:, segments], offsets)
    return Skeleton3D(rotation, origin, joints)


def joint_offsets(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The segment [25] that carries each joint and the joint's place [25, 3] in that segment's frame."""
    width, tall, deep = shape.head
    centre = 0.62 * tall  # of the skull, above the pivot of the head
    eye = (0.36 * width, centre + 0.10 * tall, 0.93 * deep)
    ear = (1.0 * width, centre + 0.02 * tall, -0.02 * deep)
    places = {
        "nose": ("head", (0.0, centre - 0.14 * tall, 1.20 * deep)),
        "left_eye": ("head", eye),
        "right_eye": ("head", (-eye[0], eye[1], eye[2])),
        "left_ear": ("head", ear),
        "right_ear": ("head", (-ear[0], ear[1], ear[2])),
        "pelvis": ("pelvis", (0.0, 0.0, 0.0)),
        "spine": ("thorax", (0.0, 0.0, 0.0)),
        "thorax": ("thorax", (0.0, shape.chest, 0.0)),
        "neck": ("neck", (0.0, 0.0, 0.0)),
        "head": ("head", (0.0, centre, 0.0)),
        "head_top": ("head", (0.0, centre + tall, 0.0)),
    }
    for side in ("left", "right"):
        starts = {"shoulder": "upper_arm", "elbow": "forearm", "wrist": "hand", "hip": "thigh", "knee": "shin"}
        places |= {f"{side}_{joint}": (f"{side}_{part}", (0.0, 0.0, 0.0)) for joint, part in starts.items()}
        places[f"{side}_ankle"] = (f"{side}_foot", (0.0, 0.0, 0.0))
        places[f"{side}_toe"] = (f"{side}_foot", (0.0, 0.35 * shape.ankle_height - shape.ankle_height, shape.foot))
    segments = np.array([SEGMENT[places[name][0]] for name in JOINTS])
    return segments, np.array([places[name][1] for name in JOINTS])


def contacts(shape: Shape, body: Skeleton3D) -> np.ndarray:
    """Points [T, 10, 3] of the body that may touch the floor: heels, toes, knees, fingers, seat and crown."""
    sole = -shape.ankle_height
    places: list[tuple[str, tuple[float, float, float], float]] = []  # segment, place in it, radius
    for side in ("left", "right"):
        places.append((f"{side}_foot", (0.0, sole, -0.28 * shape.foot), 0.0))
        places.append((f"{side}_foot", (0.0, sole, shape.foot), 0.0))
        places.append((f"{side}_shin", (0.0, 0.0, 0.0), 1.1 * shape.leg_radii[1]))
        places.append((f"{side}_hand", (0.0, -0.8 * shape.hand, 0.0), 12.0))
    places.append(("pelvis", (0.0, 0.0, -0.3 * shape.pelvis_half[1]), 0.9 * shape.pelvis_half[1]))
    places.append(("head", (0.0, 0.62 * shape.head[1], 0.0), shape.head[1]))
    segments = [SEGMENT[segment] for segment, _, _ in places]
    points = body.origin[:, segments] + transform(body.rotation[:, segments], np.array([p for _, p, _ in places]))
    points[..., 1] -= np.array([radius for _, _, radius in places])
    return points
