"""Random boxes for training: what is drawn, and what is fitted."""

import dataclasses
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from boxed_people import HEIGHT, MEANS, STD, WIDTH, pose, write_people
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data import proposals
from jaxpose.data.proposals import PoseGuidedProposals
from jaxpose.data.sources import coco
from jaxpose.errors import DataError
from jaxpose.ops.boxes import box_to_corner
from jaxpose.skeleton import COCO


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_people(folder)
    return folder


@pytest.fixture(scope="module")
def annotations(files):
    return coco.read_keypoints(files / "truth.json")


@pytest.fixture(scope="module")
def detections(files, annotations):
    return coco.read_detections(files / "boxes.json", annotations.image_id)


@pytest.fixture(scope="module")
def fitted(annotations, detections):
    return proposals.fit(annotations, detections, clusters=2)


NOBODY = (np.zeros((0, 2)), np.zeros(0))
BOX = np.array([200.0, 150.0, 80.0, 160.0])


# --- drawing ---


@pytest.mark.parametrize("rule", proposals.RULES)
@given(
    box=st.tuples(st.floats(0, 630), st.floats(0, 470), st.floats(1, 640), st.floats(1, 480)), seed=st.integers(0, 999)
)
def test_boxes_lie_within_the_image(rule, box, seed):
    """Patches may exceed a box that the image's border cuts, all others stay inside and keep a least size."""
    sampler = PoseGuidedProposals.single(rule)
    box = np.minimum(box, [WIDTH, HEIGHT, *(np.array([WIDTH, HEIGHT]) - box[:2])])
    drawn = sampler.draw(box, *NOBODY, (WIDTH, HEIGHT), np.random.default_rng(seed))
    patch = np.random.default_rng(seed).random() > sampler.patch_threshold
    assert patch == (drawn.centered is drawn.box)
    low, high = drawn.box[:2], drawn.box[:2] + drawn.box[2:]
    if patch:
        assert (drawn.box[2:] <= box[2:] + 1).all()
    elif rule == "alphapose":
        assert (low >= 1).all()
        assert (high <= np.array([WIDTH, HEIGHT]) - 3).all()
    else:
        assert (low >= 0).all()
        assert (high <= np.array([WIDTH, HEIGHT])).all()
        assert (drawn.box[2:] >= 5 - 1e-9).all()


@pytest.mark.parametrize("rule", proposals.RULES)
def test_draws_have_the_distribution(rule):
    mean, std = (0.1, -0.05, 0.02, 0.08), (0.05, 0.02, 0.1, 0.03)
    sampler, rng = PoseGuidedProposals.single(rule, mean, std), np.random.default_rng(0)
    drawn = [sampler.draw(BOX, *NOBODY, (WIDTH, HEIGHT), rng) for _ in range(4000)]
    moved = np.array([d.box for d in drawn if d.centered is not d.box])
    assert_allclose(len(moved) / len(drawn), sampler.patch_threshold, atol=0.02)
    base = sampler.base(BOX, (WIDTH, HEIGHT))
    offsets = (box_to_corner(moved) - box_to_corner(base)) / np.tile(BOX[2:], 2)
    assert_allclose(offsets.mean(0), mean, atol=0.006)
    assert_allclose(offsets.std(0), std, rtol=0.06)


def test_equal_generators_give_equal_boxes_also_after_pickling(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    keypoints, visible = BOX[:2] + pose("lying") * BOX[2:], np.ones(17)
    one, other = (
        [sampler.draw(BOX, keypoints, visible, (WIDTH, HEIGHT), rng).box for _ in range(10)]
        for sampler, rng in ((fitted, np.random.default_rng(3)), (again, np.random.default_rng(3)))
    )
    assert_array_equal(one, other)


def test_each_pose_has_its_own_distribution(fitted):
    for kind, mean in MEANS.items():
        rng = np.random.default_rng(0)
        keypoints, visible = BOX[:2] + pose(kind) * BOX[2:], np.ones(17)
        drawn = [fitted.draw(BOX, keypoints, visible, (WIDTH, HEIGHT), rng) for _ in range(500)]
        moved = np.array([d.box for d in drawn if d.centered is not d.box])
        offsets = (box_to_corner(moved) - box_to_corner(BOX)) / np.tile(BOX[2:], 2)
        assert_allclose(offsets.mean(0), mean, atol=0.01)


def test_a_pose_without_torso_takes_the_common_distribution(fitted):
    keypoints, visible = pose("lying") * 100, np.ones(17)
    assert fitted.atom(keypoints, visible) in (0, 1)
    visible[[COCO.index("left_hip"), COCO.index("right_hip")]] = 0
    assert fitted.atom(keypoints, visible) == -1
    assert_allclose(fitted.mean[-1], np.mean(list(MEANS.values()), 0), atol=0.01)


# --- atomic poses ---


@given(shift=st.floats(-500, 500), scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_alignment_removes_place_and_size(shift, scale, seed):
    rng = np.random.default_rng(seed)
    visible = (rng.random((1, 17)) < 0.8).astype(int)
    keypoints = pose("standing")[None] + rng.normal(0, 0.02, (1, 17, 2))
    aligned, labelled = proposals.align(keypoints, visible, COCO.joints)
    moved, same = proposals.align(scale * keypoints + shift, visible, COCO.joints)
    assert_array_equal(labelled, same)
    assert_allclose(moved, aligned, atol=1e-6)
    torso = [COCO.index(j) for j in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]
    has_torso = visible[0, torso[:2]].any() and visible[0, torso[2:]].any()
    assert_array_equal(labelled[0], (visible[0] > 0) & has_torso)


def test_joints_are_needed_that_make_a_torso():
    with pytest.raises(DataError, match="no left_shoulder, right_shoulder"):
        proposals.align(np.zeros((1, 2, 2)), np.ones((1, 2)), ("left_hip", "right_hip"))


def test_only_labelled_joints_decide_what_is_nearest():
    centers = np.array([[[0.0, 0], [0, 0]], [[1.0, 0], [5, 5]]])
    poses = np.array([[[0.9, 0], [0, 0]], [[0.9, 0], [0, 0]], [[0, 0], [0, 0]]])
    labelled = np.array([[True, True], [True, False], [False, False]])
    assert proposals.nearest(poses, labelled, centers).tolist() == [0, 1, -1]


# --- fitting ---


def test_fit_finds_the_distributions(annotations, fitted):
    assert fitted.mean.shape == (3, 4)
    atoms = [fitted.atom(pose(kind), np.ones(17)) for kind in MEANS]
    assert sorted(atoms) == [0, 1]
    for atom, mean in zip(atoms, MEANS.values()):
        assert_allclose(fitted.mean[atom], mean, atol=0.01)
        assert_allclose(fitted.std[atom], STD, rtol=0.25)


def test_rare_poses_take_the_common_numbers(annotations, detections):
    rare = proposals.fit(annotations, detections, clusters=2, fewest=150)
    assert_array_equal(rare.mean, rare.mean[[-1, -1, -1]])
    assert_array_equal(rare.std, rare.std[[-1, -1, -1]])


def test_fit_is_deterministic_and_keeps_through_a_file(annotations, detections, fitted, tmp_path):
    again = proposals.fit(annotations, detections, clusters=2)
    again.write(tmp_path / "pgpg.json")
    read = PoseGuidedProposals.read(tmp_path / "pgpg.json")
    for name in ("rule", "mean", "std", "centers", "joints"):
        assert_array_equal(getattr(read, name), getattr(fitted, name))


def test_a_single_distribution_keeps_through_a_file(tmp_path):
    PoseGuidedProposals.single().write(tmp_path / "pgpg.json")
    read = PoseGuidedProposals.read(tmp_path / "pgpg.json")
    assert_array_equal(read.mean, PoseGuidedProposals.single().mean)
    assert read.atom(pose("lying"), np.ones(17)) == -1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected the fields"),
        ('{"rule": "x", "joints": [], "mean": [0,0,0,0], "std": [1,1,1,1], "centers": []}', "rule is 'x'"),
        ('{"rule": "alphapose", "joints": [], "mean": [0,0,0,0], "std": [], "centers": []}', "do not fit"),
        ('{"rule": [1], "joints": [], "mean": [0,0,0,0], "std": [1,1,1,1], "centers": []}', "rule is"),
        ('{"rule": "alphapose", "joints": "nose", "mean": [], "std": [], "centers": []}', "field 'joints'"),
        ('{"rule": "alphapose", "joints": [1], "mean": [], "std": [], "centers": []}', "field 'joints'"),
        ('{"rule": "alphapose", "joints": [], "mean": null, "std": [], "centers": []}', "field 'mean'"),
        ('{"rule": "alphapose", "joints": [], "mean": [NaN,0,0,0], "std": [1,1,1,1], "centers": []}', "field 'mean'"),
        ('{"rule": "alphapose", "joints": [], "mean": [1e300,0,0,0], "std": [1,1,1,1], "centers": []}', "field 'mean'"),
        ('{"rule": "alphapose", "joints": [], "mean": [0,0,0,0], "std": [-1,1,1,1], "centers": []}', "field 'std'"),
        ('{"rule": "alphapose", "joints": ["a"], "mean": [0,0,0,0], "std": [1,1,1,1], "centers": {}}', "'centers'"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match=message):
        PoseGuidedProposals.read(tmp_path / "bad.json")


def test_joints_follow_the_skeleton(fitted):
    reordered = dataclasses.replace(COCO, joints=COCO.joints[::-1], limbs=(), upper_body=())
    turned = fitted.for_skeleton(reordered)
    assert turned.atom(pose("lying")[::-1], np.ones(17)) == fitted.atom(pose("lying"), np.ones(17))
    with pytest.raises(DataError, match="lack joints"):
        fitted.for_skeleton(dataclasses.replace(COCO, joints=("tail", *COCO.joints[1:]), limbs=(), upper_body=()))


def test_boxes_of_other_images_are_noticed(annotations, detections):
    elsewhere = detections | {"box": detections["box"] + np.array([300, 0, 0, 0], np.float32)}
    with pytest.raises(DataError, match="only 0 of 400 detections overlap"):
        proposals.fit(annotations, elsewhere)
    with pytest.raises(DataError, match="too few for 1000 atomic poses"):
        proposals.fit(annotations, detections, clusters=1000)
