"""Features of a pose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxpose import skeleton as skeletons
from jaxpose.errors import ConfigError
from jaxpose.evaluation.rescoring import PoseFeatures
from jaxpose.skeleton import COCO, CROWDPOSE, LSP, MARIONETTE, Skeleton

FACE = Skeleton("face", ("nose", "left_eye", "right_eye"), (("nose", "left_eye"), ("nose", "right_eye")), (1,) * 3, ())


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, MARIONETTE, LSP, FACE], ids=lambda s: s.name)
def test_every_number_is_what_it_is_said_to_be(skeleton):
    features = PoseFeatures.of(skeleton)
    rng = np.random.default_rng(0)
    points, scores = 100 * rng.random((3, skeleton.num_joints, 2)), rng.random((3, skeleton.num_joints))
    numbers = np.asarray(features(points, scores))
    assert numbers.shape == (3, features.size)
    for pose, score, row in zip(points, scores, numbers):
        difference = np.array([pose[a] - pose[b] for a, b in features.links])
        length = np.linalg.norm(difference, axis=-1)
        unit = np.mean([length[u] for u in features.units])
        expected = [*(difference / unit).ravel(), *(length / unit), *score]
        assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_published_sizes():
    assert PoseFeatures.of(COCO).size == 74
    assert PoseFeatures.of(CROWDPOSE).size == 59


@pytest.mark.parametrize(
    ("skeleton", "expected"),
    [
        (COCO, {("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")}),
        (MARIONETTE, {("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")}),
        (CROWDPOSE, {("left_hip", "left_knee"), ("left_knee", "left_ankle")}),
        (FACE, set(FACE.limbs)),
    ],
    ids=["coco", "marionette", "crowdpose", "face"],
)
def test_unit_of_length(skeleton, expected):
    features = PoseFeatures.of(skeleton)
    units = {tuple(skeleton.joints[j] for j in features.links[u]) for u in features.units}
    assert units == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.5, 1.0, 3.0]), shift=st.floats(-50, 50))
def test_place_and_size_do_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    points, scores = 200 * rng.random((COCO.num_joints, 2)), rng.random(COCO.num_joints)
    features = PoseFeatures.of(COCO)
    assert_allclose(features(scale * points + shift, scores), features(points, scores), rtol=1e-3, atol=1e-4)


def test_tiny_people_are_measured_in_pixels():
    points = 0.1 * np.random.default_rng(0).random((COCO.num_joints, 2))
    features = PoseFeatures.of(COCO)
    numbers = features(points, np.zeros(COCO.num_joints))
    difference = [points[a] - points[b] for a, b in features.links]
    assert_allclose(numbers[: 2 * len(features.links)], np.ravel(difference), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"links": ((0, 17),)}, r"\[\(0, 17\)\]: expected pairs of joints below 17"),
        ({"links": ()}, "are missing"),
        ({"units": (2,)}, "among the 1 links"),
        ({"units": ()}, "among the 1 links"),
    ],
)
def test_impossible_links(fields, message):
    with pytest.raises(ConfigError, match=message):
        PoseFeatures(**{"links": ((0, 1),), "units": (0,), "joints": 17} | fields)


def test_no_limbs():
    bare = Skeleton("dots", ("a", "b"), (), (1.0, 1.0), ())
    with pytest.raises(ConfigError, match="'dots' has no limbs"):
        PoseFeatures.of(bare)


def test_names_do_not_decide():
    """A data set's own category with COCO's joints is COCO."""
    renamed = Skeleton("person", COCO.joints, (), COCO.sigmas, ())
    assert PoseFeatures.of(renamed) == PoseFeatures.of(skeletons.COCO)
