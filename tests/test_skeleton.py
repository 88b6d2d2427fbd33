"""Keypoint sets: known ones, and those that files describe."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxpose import skeleton
from jaxpose.errors import ConfigError, DataError
from jaxpose.skeleton import Skeleton, from_coco_category

STYLES = [
    "left_{}/right_{}", "Left_{}/Right_{}", "LEFT_{}/RIGHT_{}", "l_{}/r_{}", "L_{}/R_{}", "{}_left/{}_right",
    "{}_l/{}_r", "Left {}/Right {}", "left {}/right {}", "Left{}/Right{}", "{}Left/{}Right", "L{}/R{}", "{}L/{}R",
    "left{}/right{}", "l{}/r{}", "{}.L/{}.R", "left-{}/right-{}", "rig:Left.{}/rig:Right.{}",
    "links_{}/rechts_{}", "{}_l_1/{}_r_1", "left_{}/Right_{}",
]  # fmt: skip


def of(*joints: str, **fields) -> Skeleton:
    return Skeleton("mine", joints, (), (0.1,) * len(joints), (), **fields)


@pytest.mark.parametrize("known", skeleton.SKELETONS.values(), ids=lambda known: known.name)
def test_pairs_of_known_skeletons_are_left_and_right(known):
    for joint, other in zip(known.joints, known.flip_index, strict=True):
        swapped = {"left": "right", "right": "left"}
        side, _, part = joint.partition("_")
        if side != "face":
            assert known.joints[other] == (f"{swapped[side]}_{part}" if side in swapped else joint)
    assert known.unpaired == ()
    body = [j for j in known.joints if not j.startswith("face_")]
    sides = dict(zip(known.joints, known.sides, strict=True))
    assert [sides[j] for j in body] == [
        j.split("_")[0] if j.startswith(("left_", "right_")) else "center" for j in body
    ]
    assert (known.flip_index[known.flip_index] == np.arange(known.num_joints)).all()


def test_points_of_the_face_in_the_middle_stay():
    """The chin, the bridge and tip of the nose, and the middle of the lips."""
    face = skeleton.WHOLEBODY.index("face_0")
    stay = [i - face for i, j in enumerate(skeleton.WHOLEBODY.flip_index) if i == j and face <= i < face + 68]
    assert stay == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("part", ["Hip", "knee", "heel"])
def test_sides_of_any_style_are_paired(style, part):
    left, right = style.format(part, part).split("/")
    found = of("Nose", right, "neck", left)
    assert found.flip_index.tolist() == [0, 3, 2, 1]
    assert found.flip_pairs == ((1, 3),)
    assert found.sides == ("center", "right", "center", "left")
    assert found.unpaired == ()


@pytest.mark.parametrize("joints", [("l", "r"), ("a", "b"), ("lip", "nose"), ("1", "2"), ("left_hip", "left_knee")])
def test_nothing_is_paired_that_is_no_pair(joints):
    assert of(*joints).flip_pairs == ()


def test_what_seems_to_have_a_side_but_no_counterpart_is_told():
    assert of("left_hip", "right_hip", "l_knee", "knee", "nose").unpaired == ("l_knee",)


def test_pairs_that_are_given_replace_those_of_names():
    found = of("a", "b", "left_c", "right_c", pairs=(("b", "a"),))
    assert found.flip_index.tolist() == [1, 0, 2, 3]
    assert found.sides == ("right", "left", "left", "right")
    assert of("left_c", "right_c", pairs=()).flip_pairs == ()
    assert of("left_c", "right_c", pairs=()) != of("left_c", "right_c")


@pytest.mark.parametrize("pairs", [[[1, 2]], [["a", "b"]], [[1, "b"]]])
def test_a_category_gives_pairs(pairs):
    found = from_coco_category({"name": "fly", "keypoints": ["a", "b", "c"], "flip_pairs": pairs})
    assert found.flip_pairs == ((0, 1),)
    assert found.pairs == (("a", "b"),)


@pytest.mark.parametrize(
    "pairs", ["x", 5, [1, 2], [[1]], [[1, 4]], [[0, 1]], [["a", "z"]], [[1, 1.5]], [[1, 2], [2, 3]]]
)
def test_pairs_that_make_no_sense_are_refused(pairs):
    with pytest.raises(DataError, match="category 'fly'.*pairs"):
        from_coco_category({"name": "fly", "keypoints": ["a", "b", "c"], "flip_pairs": pairs})


@pytest.mark.parametrize(
    "limbs", [None, [], "ab", 7, [[0, 1], [2, 3]], [[2, 3], [3, 9]], [[2, 3], [1]], [["x", 1], [2, 3]], [None, [2, 3]]]
)
def test_limbs_that_are_no_two_joints_are_left_out(limbs):
    found = from_coco_category({"name": "fly", "keypoints": ["a", "b", "c"], "skeleton": limbs})
    assert found.limbs == ((("b", "c"),) if isinstance(limbs, list) and limbs else ())


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (None, "no 'keypoints' list"),
        ([], "no 'keypoints' list"),
        ("abc", "no list of names"),
        ([1, 2], "no list of names"),
        (["a", None], "no list of names"),
        ([["a"]], "no list of names"),
        (["a", "b", "a"], "several joints are called 'a'"),
        ([str(i) for i in range(1001)], "lists 1001 joints"),
    ],
)
def test_joints_that_make_no_sense_are_refused(keypoints, message):
    with pytest.raises(DataError, match=message):
        from_coco_category({"name": "fly", "keypoints": keypoints})


@pytest.mark.parametrize("name", [None, "", 5, ["x"]])
def test_a_category_without_a_usable_name(name):
    assert from_coco_category({"name": name, "keypoints": ["a", "b"]}).name == "custom"


def test_custom_skeletons_that_make_no_sense():
    for fields, message in (
        ({"sigmas": (0.1,)}, "2 joints but 1 sigmas"),
        ({"limbs": (("a", "z"),)}, "unknown joints"),
        ({"pairs": (("a", "z"),)}, "unknown joints"),
        ({"pairs": (("a", "b"), ("b", "a"))}, "more than one of its pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(of("a", "b"), **fields)


def test_unknown_skeleton():
    with pytest.raises(ConfigError, match="unknown skeleton 'halpe136'; known: ap10k, coco"):
        skeleton.get("halpe136")


def test_flip_index_is_its_own_inverse():
    names = ["l_a", "r_a", "left_a", "right_a", "La", "Ra", "a", "la", "ra", "L", "R", "al", "ar", "left", "right"]
    for joints in itertools.permutations(names, 3):
        index = of(*joints).flip_index
        assert index[index].tolist() == [0, 1, 2]
