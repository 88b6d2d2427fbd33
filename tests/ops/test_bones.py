import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import skeleton
from jaxpose.ops import bones
from jaxpose.ops.bones import H36M, TREES, Tree


@st.composite
def trees(draw) -> Tree:
    """Trees of 2 or 7 joints in any order, whose bones come in any order and point either way."""
    count = draw(st.sampled_from((2, 7)))
    above = [-1, *(draw(st.integers(0, joint - 1)) for joint in range(1, count))]
    place = draw(st.permutations(range(count)))
    parents = [-1] * count
    for joint, parent in enumerate(above):
        parents[place[joint]] = -1 if parent == -1 else place[parent]
    pairs = [(joint, parent) for joint, parent in enumerate(parents) if parent != -1]
    turned = [pair[::-1] if draw(st.booleans()) else pair for pair in draw(st.permutations(pairs))]
    return Tree(tuple(parents), tuple(turned))


def poses(tree: Tree, *leading: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*leading, tree.num_joints, 3)).astype(np.float32)


class TestTree:
    @pytest.mark.parametrize(
        ("parents", "message"),
        [
            ((0, 1), "0 roots"),
            ((-1, -1), "2 roots"),
            ((-1, 2), r"parents \[2\] are no joints: there are 2"),
            ((-1, 2, 1), "joint 1 hangs on itself"),
        ],
    )
    def test_what_is_no_tree_is_refused(self, parents, message):
        with pytest.raises(ValueError, match=message):
            Tree.from_parents(parents)

    @pytest.mark.parametrize("pairs", [((1, 0),), ((1, 0), (2, 0)), ((1, 0), (0, 1))])
    def test_bones_are_the_pairs_of_joint_and_parent(self, pairs):
        with pytest.raises(ValueError, match="are not the pairs"):
            Tree((-1, 0, 1), pairs)

    @given(trees())
    def test_shift_pairs_are_all_but_the_bones(self, tree):
        joints = tree.num_joints
        assert len(tree.shift_pairs) == joints * (joints + 1) // 2 - tree.num_bones
        assert (tree.shift_pairs[:, 0] <= tree.shift_pairs[:, 1]).all()
        assert len(np.unique(tree.shift_pairs, axis=0)) == len(tree.shift_pairs)

    def test_human36m(self):
        assert (H36M.num_joints, H36M.num_bones, len(H36M.shift_pairs), H36M.root) == (17, 16, 137, 0)
        assert set(Tree.from_parents(H36M.parents).bones) - set(H36M.bones) == {(11, 8), (14, 8)}

    def test_marionettes_hang_on_the_pelvis(self):
        names = skeleton.MARIONETTE.joints
        parents = {name: names[p] for name, p in zip(names, TREES["marionette"].parents, strict=True) if p != -1}
        assert set(names) - set(parents) == {"pelvis"}
        assert parents["left_toe"] == "left_ankle"
        assert parents["right_shoulder"] == "thorax"

    def test_a_mirrored_bone_is_that_between_mirrored_joints(self):
        tree, flip_index = TREES["marionette"], skeleton.MARIONETTE.flip_index
        joints = poses(tree, 5)
        lengths = bones.lengths(tree, joints)
        assert_array_equal(lengths[:, tree.flip(flip_index)], bones.lengths(tree, joints[:, flip_index]))

    def test_mirror_images_that_are_no_bones_are_named(self):
        with pytest.raises(ValueError, match=r"bones \[\(1, 0\)\] have no mirror image"):
            Tree.from_parents((-1, 0, 1)).flip(np.array([2, 0, 1]))


@given(trees())
@settings(max_examples=25, deadline=None)
def test_lengths_and_directions_give_the_joints_back(tree):
    joints = poses(tree, 2, 3)
    directions, lengths = bones.directions(tree, joints), bones.lengths(tree, joints)
    assert_allclose(np.linalg.norm(directions, axis=-1), 1, rtol=1e-5)
    composed = bones.compose(tree, directions, lengths)
    assert_allclose(composed, joints - joints[..., tree.root, None, :], atol=1e-5)


@given(trees(), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_longer_bones_leave_root_and_directions_alone(tree, seed):
    joints = poses(tree, 2, seed=seed)
    change = np.random.default_rng(seed).uniform(0, 1, (2, tree.num_bones)).astype(np.float32)
    longer = bones.lengthen(tree, joints, change)
    assert_allclose(longer[:, tree.root], joints[:, tree.root])
    assert_allclose(bones.lengths(tree, longer), bones.lengths(tree, joints) + change, rtol=1e-4)
    assert_allclose(bones.directions(tree, longer), bones.directions(tree, joints), atol=1e-4)


def test_shifts_are_differences_of_joints():
    joints = poses(H36M, 2)
    shifts = bones.shifts(H36M, joints)
    row = H36M.shift_pairs.tolist().index([3, 16])
    assert_allclose(shifts[:, row], joints[:, 16] - joints[:, 3])
    same = H36M.shift_pairs[:, 0] == H36M.shift_pairs[:, 1]
    assert_array_equal(shifts[:, same], 0)


class TestAugmentation:
    joints = poses(H36M, 4, 3)

    def test_half_changes_nothing(self):
        joints, lengths = bones.augment_lengths(H36M, self.joints, np.full((4, 16), 0.5, np.float32))
        assert_allclose(joints, self.joints, atol=1e-6)
        assert_allclose(lengths, bones.lengths(H36M, self.joints).mean(1), rtol=1e-6)

    def test_every_frame_changes_by_a_fraction_of_the_mean_over_people(self):
        uniform = np.random.default_rng(1).random((4, 16)).astype(np.float32)
        joints, lengths = bones.augment_lengths(H36M, self.joints, uniform, degree=0.4)
        before = np.asarray(bones.lengths(H36M, self.joints))
        change = (uniform - 0.5) * 0.4 * before.mean((0, 1))
        assert_allclose(bones.lengths(H36M, joints), np.abs(before + change[:, None]), atol=1e-5)
        assert_allclose(lengths, before.mean(1) + change, rtol=1e-5)


def test_bones_without_length_have_no_direction_and_finite_gradients():
    joints = jnp.zeros((H36M.num_joints, 3)).at[3].set(1.0)
    assert_array_equal(bones.directions(H36M, joints)[0], 0)
    for function in (bones.lengths, bones.directions):
        gradient = jax.jit(jax.grad(lambda x, f=function: f(H36M, x).sum()))(joints)
        assert jnp.isfinite(gradient).all()
