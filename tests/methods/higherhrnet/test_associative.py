import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.higherhrnet import associative

PEOPLE, JOINTS = 4, 3
loss = jax.jit(associative.embedding_loss, static_argnums=2)
gradient = jax.jit(
    jax.grad(lambda tags, used, push: sum(associative.embedding_loss(tags, used, push))), static_argnums=2
)
tags_of_people = arrays.arrays(np.float32, (PEOPLE, JOINTS), elements=st.floats(-3, 3, width=32))
masks = arrays.arrays(np.bool_, (PEOPLE, JOINTS))
both_kinds = pytest.mark.parametrize("push", associative.PUSHES)


def reference(tags: np.ndarray, used: np.ndarray, push: str) -> tuple[float, float]:
    """The losses of one image, person by person."""
    groups = [person[counted].astype(np.float64) for person, counted in zip(tags, used, strict=True) if counted.any()]
    if not groups:
        return 0.0, 0.0
    means = [group.mean() for group in groups]
    pull = sum(((group - mean) ** 2).mean() for group, mean in zip(groups, means, strict=True)) / len(groups)
    total = 0.0
    for i, a in enumerate(means):
        for b in means[:i] + means[i + 1 :]:
            total += np.exp(-((a - b) ** 2)) if push == "exp" else max(0.0, 1 - abs(a - b))
    return total / max(len(means) * (len(means) - 1), 1) / 2, pull


# --- the loss ---


@both_kinds
@given(tags=tags_of_people, used=masks)
@settings(max_examples=40, deadline=None)
def test_loss_equals_a_loop_over_people(push, tags, used):
    assert_allclose(loss(tags, used, push), reference(tags, used, push), rtol=1e-5, atol=1e-6)


@both_kinds
@given(tags=tags_of_people, used=masks)
@settings(max_examples=20, deadline=None)
def test_gradients_are_finite_and_only_where_joints_are(push, tags, used):
    slopes = gradient(tags, used, push)
    assert jnp.all(jnp.isfinite(slopes))
    assert_array_equal(np.asarray(slopes)[~used], 0)


@both_kinds
@pytest.mark.parametrize("people", [0, 1])
def test_without_pairs_nobody_is_pushed(push, people):
    used = np.zeros((PEOPLE, JOINTS), bool)
    used[2 : 2 + people, :2] = True
    tags = np.arange(PEOPLE * JOINTS, dtype=np.float32).reshape(PEOPLE, JOINTS)
    pushed, pulled = loss(tags, used, push)
    assert pushed == 0
    assert pulled == (0.25 if people else 0)  # 6 and 7 around 6.5
    assert_array_equal(np.flatnonzero(gradient(tags, used, push)), [6, 7][: 2 * people])


def test_images_do_not_mix():
    rng = np.random.default_rng(0)
    tags, used = rng.normal(size=(5, PEOPLE, JOINTS)).astype(np.float32), rng.random((5, PEOPLE, JOINTS)) < 0.6
    alone = [associative.embedding_loss(jnp.asarray(t), u) for t, u in zip(tags, used, strict=True)]
    assert_allclose(associative.embedding_loss(jnp.asarray(tags), used), np.transpose(alone), rtol=1e-6)


def test_a_hinge_still_pushes_at_distance_one():
    tags, used = np.array([[0.0], [1.0]], np.float32), np.ones((2, 1), bool)
    assert loss(tags, used, "max")[0] == 0
    assert_array_equal(gradient(tags, used, "max"), [[0.5], [-0.5]])
    assert_array_equal(gradient(tags + np.float32([[0.0], [0.1]]), used, "max"), 0)


def test_unknown_push():
    with pytest.raises(ValueError, match="push is 'l2'; it can be 'exp', 'max'"):
        associative.embedding_loss(jnp.zeros((1, 1)), np.ones((1, 1), bool), "l2")


# --- where tags are read ---


def test_joints_fall_into_the_pixel_before_them():
    keypoints = np.array([[[0.9, 2.99], [-0.9, 0.0], [-1.0, 0.0], [4.9, 0.0], [5.0, 0.0], [1.0, 1.0]]], np.float32)
    index, used = associative.joint_index(keypoints, np.array([[1, 1, 1, 2, 1, 0]]), (5, 3))
    assert_array_equal(index, [[10, 0, 0, 4, 0, 0]])
    assert_array_equal(used, [[True, True, False, True, False, False]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_not_used(value):
    index, used = associative.joint_index(np.array([[value, 1.0]], np.float32), np.ones(1), (5, 3))
    assert not used[0]
    assert index[0] == 0


@pytest.mark.parametrize("shared", [False, True])
def test_tags_are_those_of_the_pixel(shared):
    rng = np.random.default_rng(0)
    tags = rng.normal(size=(2, 3, 5, 1 if shared else JOINTS)).astype(np.float32)
    row, column = rng.integers(0, 3, (2, PEOPLE, JOINTS)), rng.integers(0, 5, (2, PEOPLE, JOINTS))
    found = associative.tags_at(tags, row * 5 + column)
    channel = 0 if shared else np.arange(JOINTS)
    assert_array_equal(found, tags[np.arange(2)[:, None, None], row, column, channel])


# --- people ---


def test_centre_is_the_mean_of_labelled_joints():
    keypoints = np.array([[[2.0, 4.0], [6.0, 0.0], [0.0, 0.0]], np.zeros((3, 2))], np.float32)
    points, visible = associative.append_center(keypoints, np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert_array_equal(points[:, :3], keypoints)
    assert_array_equal(points[:, 3], [[4.0, 2.0], [0.0, 0.0]])
    assert_array_equal(visible, [[1, 2, 0, 1], [0, 0, 0, 0]])


def test_deviations_grow_with_people():
    length = np.array([128.0, 256.0, 300.0, 64.0])
    assert_allclose(associative.person_sigma(length), [1, 2, 2.34375, 0.5])
    assert_array_equal(associative.person_sigma(length, whole=True), [2, 2, 3, 1])
