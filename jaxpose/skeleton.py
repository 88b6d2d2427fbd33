"""Keypoint sets by name: joints, limbs, mirror pairs, OKS constants.

Every data set, method, metric and picture speaks of joints through a `Skeleton`, so that a new keypoint set is one
entry here.
"""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A named, ordered set of keypoints.

    Attributes:
      name: name of the skeleton in configs.
      joints: names of the joints in storage order; "left_" and "right_" are the person's own sides.
      limbs: pairs of joint names to draw.
      sigmas: OKS constant of each joint, a standard deviation as a fraction of the square root of the person's area.
      upper_body: names of the joints above the hips (half-body augmentation).
      pairs: pairs of joint names that mirroring exchanges; None for those that the names tell, in any usual style:
        "left_hip" and "right_hip", "L_Hip" and "R_Hip", "hipLeft" and "hipRight", "lhip" and "rhip".

    Examples:
      >>> pinch = Skeleton("pinch", ("wrist", "thumb", "index"), (("wrist", "thumb"),), (0.03, 0.03, 0.03), ())
      >>> pinch.num_joints, pinch.index("index"), get("coco").flip_pairs[:2]
      (3, 2, ((1, 2), (3, 4)))
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]
    upper_body: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self):
        if len(self.sigmas) != len(self.joints):
            raise ConfigError(f"skeleton {self.name!r}: {len(self.joints)} joints but {len(self.sigmas)} sigmas")
        if twice := _twice(self.joints):
            raise ConfigError(f"skeleton {self.name!r}: several joints are called {', '.join(map(repr, twice))}")
        paired = [joint for pair in self.pairs or () for joint in pair]
        unknown = {j for limb in self.limbs for j in limb}.union(self.upper_body, paired) - set(self.joints)
        if unknown:
            raise ConfigError(
                f"skeleton {self.name!r}: limbs, upper_body or pairs name unknown joints {sorted(unknown)}"
            )
        if twice := _twice(paired):
            raise ConfigError(f"skeleton {self.name!r}: more than one of its pairs has {', '.join(map(repr, twice))}")

    @property
    def num_joints(self) -> int:
        """Number K of joints."""
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Position of a joint by name."""
        return self.joints.index(joint)

    @functools.cached_property
    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        """Limbs as pairs of joint indices."""
        return tuple((self.index(a), self.index(b)) for a, b in self.limbs)

    @functools.cached_property
    def upper_body_indices(self) -> tuple[int, ...]:
        """Indices of the joints above the hips."""
        return tuple(self.index(j) for j in self.upper_body)

    @functools.cached_property
    def mirror_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs (left, right) of joint names that mirroring exchanges: `pairs`, or those that the names tell."""
        return paired_by_name(self.joints) if self.pairs is None else self.pairs

    @functools.cached_property
    def flip_index(self) -> np.ndarray:
        """[K] permutation: joint k of a mirrored person is joint flip_index[k] of the original."""
        other = {a: b for pair in self.mirror_pairs for a, b in (pair, pair[::-1])}
        return np.array([self.index(other.get(joint, joint)) for joint in self.joints], np.int32)

    @functools.cached_property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of joint indices that mirroring exchanges, the lower index first."""
        return tuple((i, int(j)) for i, j in enumerate(self.flip_index) if i < j)

    @functools.cached_property
    def sides(self) -> tuple[str, ...]:
        """Per joint: "left", "right" or "center"."""
        paired = {joint: side for pair in self.mirror_pairs for joint, side in zip(pair, ("left", "right"))}
        return tuple(_side_and_part(joint)[0] or paired.get(joint, "center") for joint in self.joints)

    @functools.cached_property
    def unpaired(self) -> tuple[str, ...]:
        """Joints whose names begin or end with a side, and that mirroring leaves where they are all the same."""
        paired = {joint for pair in self.mirror_pairs for joint in pair}
        return tuple(joint for joint in self.joints if joint not in paired and _side_and_part(joint)[0])

    def columns(self, other: "Skeleton") -> np.ndarray:
        """Indices into this skeleton's joints of `other`'s joints in its order; -1 for those that this one lacks.

        The neck serves as the "head_bottom" of PoseTrack, which is the same place under another name.
        """
        names = [j if j in self.joints else OTHER_NAMES.get(j, j) for j in other.joints]
        return np.array([self.index(name) if name in self.joints else -1 for name in names], np.int32)

    def select(self, other: "Skeleton") -> np.ndarray:
        """`columns` of another skeleton that has no joint but this one's.

        Raises:
          ValueError: `other` has a joint that this skeleton lacks.
        """
        columns = self.columns(other)
        missing = [joint for joint, column in zip(other.joints, columns, strict=True) if column < 0]
        if missing:
            raise ValueError(f"skeleton {self.name!r} has no joints {missing} that {other.name!r} asks for")
        return columns


def _twice(joints: Iterable[str]) -> list[str]:
    return [joint for joint, count in Counter(joints).items() if count > 1]


OTHER_NAMES = {"head_bottom": "neck"}
"""Names of the same place in skeletons without a joint of some name."""


_SIDES = (("left", "right"), ("l", "r"), ("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"))
"""Words for the sides, as names of joints have them."""
_ONE_EACH = {"left": 1, "right": 1}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")


def paired_by_name(joints: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs (left, right) of joints whose names differ in the side alone, whatever the style of the names.

    Examples:
      >>> paired_by_name(["nose", "L_Hip", "R_Hip", "lknee", "rknee", "Left ankle"])
      (('L_Hip', 'R_Hip'), ('lknee', 'rknee'))
    """
    parts: dict[str, dict[str, list[str]]] = {}
    for joint in joints:
        side, part = _side_and_part(joint)
        parts.setdefault(part, {}).setdefault(side, []).append(joint)
    counts = {part: {side: len(found) for side, found in by_side.items()} for part, by_side in parts.items()}
    pairs = [(by_side["left"][0], by_side["right"][0]) for part, by_side in parts.items() if counts[part] == _ONE_EACH]
    lone = {joint.lower(): joint for by_side in parts.values() for joint in by_side.get("", ())}
    return (*pairs, *_glued_pairs(lone))


def _glued_pairs(lone: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of joints {name in small letters: joint} whose side is no word of its own: "lhip", "shoulderright"."""
    for left, right in _SIDES:
        for name in list(lone):
            other, changes = re.subn(f"^{left}(?=.)|(?<=.){left}$", right, name, count=1)
            if changes and {name, other} <= lone.keys():
                yield lone.pop(name), lone.pop(other)


def _side_and_part(joint: str) -> tuple[str, str]:
    """Side of a joint by a word of its name ("" if none is a side), and the name without it.

    >>> _side_and_part("left_hip"), _side_and_part("HipR"), _side_and_part("nose")
    (('left', 'left/right hip'), ('right', 'hip l/r'), ('', 'nose'))
    """
    words = [word.lower() for word in _WORD.findall(joint)]
    for pair in _SIDES:
        for side, word in zip(("left", "right"), pair):
            if word in words and (len(words) > 1 or len(word) > 1):
                at = words.index(word)
                return side, " ".join([*words[:at], "/".join(pair), *words[at + 1 :]])
    return "", joint


def _both(*parts: str) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


_FACE = ("nose", *_both("eye", "ear"))
_ARMS = _both("shoulder", "elbow", "wrist")
_LEGS = _both("hip", "knee", "ankle")
_FACE_LIMBS = (("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye"),
               ("left_eye", "left_ear"), ("right_eye", "right_ear"))  # fmt: skip
_BODY_LIMBS = (("left_ankle", "left_knee"), ("left_knee", "left_hip"), ("right_ankle", "right_knee"),
               ("right_knee", "right_hip"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
               ("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder"),
               ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
               ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"))  # fmt: skip

_COCO_SIGMAS = (.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062,
                .107, .107, .087, .087, .089, .089)  # fmt: skip

COCO = Skeleton(
    name="coco",
    joints=_FACE + _ARMS + _LEGS,
    limbs=_BODY_LIMBS + _FACE_LIMBS + (("left_ear", "left_shoulder"), ("right_ear", "right_shoulder")),
    sigmas=_COCO_SIGMAS,
    upper_body=_FACE + _ARMS,
)

MPII = Skeleton(
    name="mpii",
    joints=("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
            "neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
            "left_wrist"),  # fmt: skip
    limbs=(("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "pelvis"),
           ("left_hip", "pelvis"), ("left_knee", "left_hip"), ("left_ankle", "left_knee"), ("pelvis", "thorax"),
           ("thorax", "neck"), ("neck", "head_top"), ("thorax", "right_shoulder"), ("right_shoulder", "right_elbow"),
           ("right_elbow", "right_wrist"), ("thorax", "left_shoulder"), ("left_shoulder", "left_elbow"),
           ("left_elbow", "left_wrist")),  # fmt: skip
    sigmas=(.089, .087, .107, .107, .087, .089, .026, .026, .026, .026, .062, .072, .079, .079, .072, .062),
    upper_body=("thorax", "neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder",
                "left_elbow", "left_wrist"),  # fmt: skip
)  # fmt: skip

LSP = Skeleton(
    name="lsp",
    joints=("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
            "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top"),
    limbs=(("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("left_hip", "right_hip"),
           ("left_knee", "left_hip"), ("left_ankle", "left_knee"), ("left_shoulder", "left_hip"),
           ("right_shoulder", "right_hip"), ("neck", "head_top"), ("neck", "right_shoulder"),
           ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("neck", "left_shoulder"),
           ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist")),
    sigmas=(.089, .087, .107, .107, .087, .089, .062, .072, .079, .079, .072, .062, .026, .026),
    upper_body=("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck",
                "head_top"),
)  # fmt: skip

CROWDPOSE = Skeleton(
    name="crowdpose",
    joints=_ARMS + _LEGS + ("head", "neck"),
    limbs=_BODY_LIMBS + (("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
    sigmas=_COCO_SIGMAS[5:] + (.079, .079),
    upper_body=_ARMS + ("head", "neck"),
)  # fmt: skip

MARIONETTE = Skeleton(
    name="marionette",
    joints=COCO.joints + ("pelvis", "spine", "thorax", "neck", "head", "head_top", "left_toe", "right_toe"),
    limbs=COCO.limbs + (("pelvis", "spine"), ("spine", "thorax"), ("thorax", "neck"), ("neck", "head"),
                        ("head", "head_top"), ("left_ankle", "left_toe"), ("right_ankle", "right_toe")),
    sigmas=COCO.sigmas + (.107, .107, .079, .079, .079, .079, .089, .089),
    upper_body=COCO.upper_body + ("spine", "thorax", "neck", "head", "head_top"),
)  # fmt: skip

POSETRACK = Skeleton(
    name="posetrack",
    joints=("nose", "head_bottom", "head_top", "left_ear", "right_ear") + _ARMS + _LEGS,
    limbs=(("head_top", "head_bottom"), ("head_bottom", "left_shoulder"), ("head_bottom", "right_shoulder"))
    + tuple(limb for limb in _BODY_LIMBS if limb[0].split("_")[1] != limb[1].split("_")[1]),
    sigmas=(.026, .079, .079, .035, .035) + _COCO_SIGMAS[5:],
    upper_body=("nose", "head_bottom", "head_top", "left_ear", "right_ear") + _ARMS,
)  # fmt: skip
"""PoseTrack's 17 joints as its files of 2018 have them. Ears are never labelled; the others are evaluated."""

H36M = Skeleton(
    name="h36m",
    joints=("pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine",
            "thorax", "neck", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder",
            "right_elbow", "right_wrist"),
    limbs=(("pelvis", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("pelvis", "left_hip"),
           ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("pelvis", "spine"), ("spine", "thorax"),
           ("thorax", "neck"), ("neck", "head_top"), ("thorax", "left_shoulder"), ("left_shoulder", "left_elbow"),
           ("left_elbow", "left_wrist"), ("thorax", "right_shoulder"), ("right_shoulder", "right_elbow"),
           ("right_elbow", "right_wrist")),
    sigmas=(.107, .107, .087, .089, .107, .087, .089, .107, .079, .079, .079, .079, .072, .062, .079, .072, .062),
    upper_body=("spine", "thorax", "neck", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder",
                "right_elbow", "right_wrist"),
)  # fmt: skip
"""Human3.6M's 17 joints in its order. The data set calls neck "neck/nose", pelvis "hip" and ankles "feet"."""

_FINGERS = ("thumb", "index", "middle", "ring", "little")
_PHALANGES = ("mcp", "pip", "dip", "tip")

HAND = Skeleton(
    name="hand",
    joints=("wrist", *(f"{finger}_{part}" for finger in _FINGERS for part in _PHALANGES)),
    limbs=tuple((a, f"{finger}_{b}") for finger in _FINGERS
                for a, b in (("wrist", "mcp"), *((f"{finger}_{p}", q) for p, q in itertools.pairwise(_PHALANGES)))),
    sigmas=(.029, .022, .035, .037, .047, .026, .025, .024, .035, .018, .024, .022, .026, .017, .021, .021, .032, .020,
            .019, .022, .031),
    upper_body=(),
)  # fmt: skip
"""One hand, 21 joints from the wrist along each finger. The thumb's are called like those of the other fingers."""

AP10K = Skeleton(
    name="ap10k",
    joints=("left_eye", "right_eye", "nose", "neck", "root_of_tail", "left_shoulder", "left_elbow", "left_front_paw",
            "right_shoulder", "right_elbow", "right_front_paw", "left_hip", "left_knee", "left_back_paw", "right_hip",
            "right_knee", "right_back_paw"),
    limbs=(("left_eye", "right_eye"), ("left_eye", "nose"), ("right_eye", "nose"), ("nose", "neck"),
           ("neck", "root_of_tail"), ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"),
           ("left_elbow", "left_front_paw"), ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"),
           ("right_elbow", "right_front_paw"), ("root_of_tail", "left_hip"), ("left_hip", "left_knee"),
           ("left_knee", "left_back_paw"), ("root_of_tail", "right_hip"), ("right_hip", "right_knee"),
           ("right_knee", "right_back_paw")),
    sigmas=(.025, .025, .026, .035, .035, .079, .072, .062, .079, .072, .062, .107, .087, .089, .107, .087, .089),
    upper_body=("left_eye", "right_eye", "nose", "neck", "left_shoulder", "left_elbow", "left_front_paw",
                "right_shoulder", "right_elbow", "right_front_paw"),
)  # fmt: skip
"""The 17 joints of AP-10K's animals."""

HALPE26 = Skeleton(
    name="halpe26",
    joints=COCO.joints + ("head_top", "neck", "pelvis", *_both("big_toe", "small_toe", "heel")),
    limbs=_BODY_LIMBS + _FACE_LIMBS + (
        ("head_top", "neck"), ("neck", "pelvis"), *((f"{side}_ankle", f"{side}_{part}") for side in ("left", "right")
                                                    for part in ("big_toe", "small_toe", "heel"))),
    sigmas=_COCO_SIGMAS + (.026, .026, .066, .079, .079, .079, .079, .079, .079),
    upper_body=COCO.upper_body + ("head_top", "neck"),
)  # fmt: skip
"""Halpe's 26 joints of the body, which AlphaPose finds."""

_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))
_FACE_POINTS = tuple(f"face_{i}" for i in range(68))
_FACE_SIGMAS = (
    .042, .043, .044, .043, .040, .035, .031, .025, .020, .023, .029, .032, .037, .038, .043, .041, .045, .013, .012,
    .011, .011, .012, .012, .011, .011, .013, .015, .009, .007, .007, .007, .012, .009, .008, .016, .010, .017, .011,
    .009, .011, .009, .007, .013, .008, .011, .012, .010, .034, .008, .008, .009, .008, .008, .007, .010, .008, .009,
    .009, .009, .007, .007, .008, .011, .008, .008, .008, .010, .008)  # fmt: skip
_FACE_PAIRS = (
    *((16 - i, i) for i in range(8)), *((43 - i, i) for i in range(17, 22)), (35, 31), (34, 32), (45, 36), (44, 37),
    (43, 38), (42, 39), (47, 40), (46, 41), (54, 48), (53, 49), (52, 50), (55, 59), (56, 58), (64, 60), (63, 61),
    (65, 67))  # fmt: skip
"""Points of the face that mirroring exchanges, left and right, in the numbering of 68 points."""

WHOLEBODY = Skeleton(
    name="wholebody",
    joints=(*COCO.joints, *_FEET, *_FACE_POINTS,
            *(f"{side}_hand_{joint}" for side in ("left", "right") for joint in HAND.joints)),
    limbs=COCO.limbs + tuple((f"{side}_ankle", f"{side}_{part}") for side in ("left", "right")
                             for part in ("big_toe", "small_toe", "heel"))
    + tuple((f"{side}_hand_{a}", f"{side}_hand_{b}") for side in ("left", "right") for a, b in HAND.limbs),
    sigmas=_COCO_SIGMAS + (.068, .066, .066, .092, .094, .094) + _FACE_SIGMAS + 2 * HAND.sigmas,
    upper_body=COCO.upper_body + _FACE_POINTS,
    pairs=paired_by_name((*COCO.joints, *_FEET, *(f"{side}_hand_{joint}" for side in ("left", "right")
                                                  for joint in HAND.joints)))
    + tuple((f"face_{a}", f"face_{b}") for a, b in _FACE_PAIRS),
)  # fmt: skip
"""COCO-WholeBody's 133 joints: body, feet, 68 points of the face, and both hands."""

SKELETONS = {
    s.name: s for s in (COCO, MPII, LSP, CROWDPOSE, POSETRACK, MARIONETTE, H36M, HAND, AP10K, HALPE26, WHOLEBODY)
}


def get(name: str) -> Skeleton:
    """The skeleton called `name`.

    Raises:
      ConfigError: no such skeleton; the message lists those that exist.
    """
    if name not in SKELETONS:
        raise ConfigError(f"unknown skeleton {name!r}; known: {', '.join(sorted(SKELETONS))}")
    return SKELETONS[name]


MOST_JOINTS = 1000
"""Greatest number of joints that a category of a file may list."""


def from_coco_category(category: Mapping[str, Any]) -> Skeleton:
    """A skeleton from a COCO "categories" entry with "keypoints" and an optional 1-based "skeleton".

    A known keypoint list gives the known skeleton, so that its OKS constants hold. For an unknown one the constants
    are those of its namesakes in COCO, else .079. The optional "flip_pairs" lists the pairs of joints that mirroring
    exchanges, by number from 1 or by name, the left one first; without it names tell. Limbs, which are for pictures
    alone, are left out where they are no two joints.

    Raises:
      DataError: the category lists no keypoints, or names or pairs that make no sense.
    """
    name = category.get("name")
    name = name if isinstance(name, str) and name else "custom"
    joints = _joint_names(category, name)
    if known := next((known for known in SKELETONS.values() if known.joints == joints), None):
        return known
    sigma = dict(zip(MARIONETTE.joints, MARIONETTE.sigmas, strict=True))
    limbs = category.get("skeleton")
    limbs = [_pair(limb, joints) for limb in limbs] if isinstance(limbs, list | tuple) else []
    try:
        return Skeleton(
            name=name,
            joints=joints,
            limbs=tuple(limb for limb in limbs if limb is not None),
            sigmas=tuple(sigma.get(j, 0.079) for j in joints),
            upper_body=tuple(j for j in joints if j in MARIONETTE.upper_body),
            pairs=_flip_pairs(category, joints, name),
        )
    except ConfigError as error:
        raise DataError(f"category {name!r}: {error}") from error


def _joint_names(category: Mapping[str, Any], name: str) -> tuple[str, ...]:
    names, where = category.get("keypoints") or [], f"category {name!r}"
    if not names:
        raise DataError(f"{where} has no 'keypoints' list: the file has no poses")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where}: field 'keypoints' is no list of names of joints")
    if len(names) > MOST_JOINTS:
        raise DataError(f"{where}: field 'keypoints' lists {len(names)} joints, and no more than {MOST_JOINTS} may be")
    return tuple(names)


def _flip_pairs(category: Mapping[str, Any], joints: tuple[str, ...], name: str) -> tuple[tuple[str, str], ...] | None:
    listed = category.get("flip_pairs")
    if listed is None:
        return None
    pairs = [_pair(pair, joints) for pair in listed] if isinstance(listed, list | tuple) else [None]
    if None in pairs:
        raise DataError(
            f"category {name!r}: field 'flip_pairs' is no list of pairs of joints, each of them a number from 1 to "
            f"{len(joints)} or a name"
        )
    return tuple(pair for pair in pairs if pair is not None)


def _pair(pair: Any, joints: tuple[str, ...]) -> tuple[str, str] | None:
    """Two joints that are listed by their numbers from 1 or by their names; None for anything else."""
    numbers = range(1, len(joints) + 1)
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    a, b = (joints[int(joint) - 1] if joint in numbers else joint for joint in pair)
    return (a, b) if a in joints and b in joints else None
