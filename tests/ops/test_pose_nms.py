"""Parametric pose NMS against a plain loop, and what it makes of awkward input."""

import dataclasses
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.ops import oks
from jaxpose.ops.pose_nms import PoseNMS, pairwise_similarity, pose_nms, reference_distance

IMAGES, PEOPLE, JOINTS = 3, 9, 17
ALPHAPOSE, RMPE2017 = PoseNMS.preset("alphapose"), PoseNMS.preset("rmpe2017")
RULES = pytest.mark.parametrize("rules", [ALPHAPOSE, RMPE2017], ids=lambda r: r.rules)

run = jax.jit(pose_nms)


def crowd(seed, images=IMAGES, people=PEOPLE, noise=2.0):
    """Noisy copies of a few people: keypoints, scores, boxes, box scores, valid."""
    rng = np.random.default_rng(seed)
    person = rng.integers(0, 3, (images, people))
    corner, size = rng.uniform(0, 80, (images, 3, 2)), rng.uniform(40, 200, (images, 3, 2))
    true = corner[:, :, None] + rng.random((images, 3, JOINTS, 2)) * size[:, :, None]
    rows = np.arange(images)[:, None]
    error = noise * rng.standard_normal((images, people, JOINTS, 2)) * rng.random((images, people, 1, 1))
    keypoints = true[rows, person] + error
    boxes = np.concatenate([corner, size], -1)[rows, person]
    scores = rng.choice([0.0, 0.1, 0.3, 0.7, 0.9], (images, people, JOINTS)) * rng.uniform(0.5, 1, (images, people, 1))
    arrays = (keypoints, scores, boxes, rng.random((images, people)))
    return (*(a.astype(np.float32) for a in arrays), rng.random((images, people)) < 0.8)


class Naive:
    """One image, picked and merged one by one as the papers' text has it; float64."""

    def __init__(self, keypoints, scores, boxes, box_scores, valid, rules):
        self.points, self.scores, self.rules = keypoints.astype(float), scores.astype(float), rules
        self.new = rules.rules == "alphapose"
        if self.new:
            self.scores = np.where(self.scores == 0, 1e-5, self.scores)
        self.reference = rules.alpha * boxes[:, 2:].max(-1)
        pool = np.flatnonzero(valid).tolist()
        self.people, self.cluster = [], np.full(len(valid), -1)
        while pool:
            pick = max(pool, key=lambda i: (np.float32(np.mean(self.scores[i])), -i))
            members = [j for j in pool if j == pick or self.absorbs(pick, j)]
            pool = [j for j in pool if j not in members]
            self.cluster[members] = pick
            merged, merged_scores = self.merge(pick, members)
            if self.passes(self.scores[pick], merged_scores):
                score = merged_scores.mean() + box_scores[pick] + 1.25 * merged_scores.max()
                self.people.append((pick, merged, merged_scores, score))

    def absorbs(self, i, j):
        r, distance = self.rules, np.linalg.norm(self.points[i] - self.points[j], axis=-1)
        matches = (distance <= min(self.reference[i], r.match_radius or np.inf)).sum()
        if not self.new:
            distance = distance / self.reference[i]
        soft = np.tanh(self.scores[i] / r.delta1) * np.tanh(self.scores[j] / r.delta1) * (distance <= 1)
        similarity = soft.sum() + r.mu * np.exp(-distance / r.delta2).sum()
        return similarity > r.gamma or (r.match_count is not None and matches >= r.match_count)

    def merge(self, pick, members):
        points, scores = self.points[members], self.scores[members]
        distance = np.linalg.norm(points - self.points[pick], axis=-1)
        weight = scores * (distance <= min(self.reference[pick], self.rules.merge_radius or np.inf))
        total = weight.sum(0)
        safe = np.where(total > 0, total, 1)
        merged = np.where((total > 0)[:, None], (weight[..., None] * points).sum(0) / safe[:, None], self.points[pick])
        best = (weight * scores).sum(0) / safe if self.new else weight.max(0)
        return merged, np.where(total > 0, best, self.scores[pick])

    def passes(self, picked, merged):
        if self.new:
            return min(picked.max(), merged.max()) >= self.rules.score_threshold
        counted = list(range(JOINTS))
        for position in (k for k in self.rules.ankles if merged[k] < 0.1):
            del counted[position]
        return merged[counted].mean() >= self.rules.score_threshold


@RULES
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), noise=st.sampled_from([0.0, 1.0, 3.0, 8.0]))
def test_equals_a_plain_loop(rules, seed, noise):
    arrays = crowd(seed, noise=noise)
    result = jax.device_get(run(*arrays, rules))
    for image in range(IMAGES):
        naive = Naive(*(a[image] for a in arrays), rules)
        assert_array_equal(result.cluster[image], naive.cluster)
        order = result.order[image]
        pick = order[result.keep[image][order]]
        assert pick.tolist() == [p[0] for p in naive.people]
        for i, keypoints, scores, person_score in naive.people:
            assert_allclose(result.keypoints[image, i], keypoints, atol=1e-4)
            assert_allclose(result.scores[image, i], scores, rtol=1e-5, atol=1e-6)
            assert_allclose(result.person_score[image, i], person_score, rtol=1e-5)


@RULES
def test_padding_and_batch_do_not_matter(rules):
    arrays = crowd(1)
    batch = jax.device_get(run(*arrays, rules))
    padded = [np.concatenate([a, np.full_like(a[:, :4], 0 if a.dtype == bool else np.nan)], 1) for a in arrays]
    wide = jax.device_get(run(*padded, rules))
    single = jax.device_get(jax.jit(jax.vmap(pose_nms, (0,) * 5 + (None,)))(*arrays, rules))
    for name in ("keypoints", "scores", "person_score", "keep", "cluster", "rejected"):
        assert_allclose(getattr(wide, name)[:, :PEOPLE], getattr(batch, name), rtol=1e-6, err_msg=name)
        assert_allclose(getattr(single, name), getattr(batch, name), rtol=1e-6, err_msg=name)
    assert not wide.keep[:, PEOPLE:].any()
    assert (wide.cluster[:, PEOPLE:] == -1).all()


@RULES
def test_no_proposals(rules):
    nobody = [a[:, :0] for a in crowd(0)]
    empty = jax.device_get(run(*nobody, rules))
    assert empty.keypoints.shape == (IMAGES, 0, JOINTS, 2)
    assert empty.keep.shape == empty.order.shape == empty.cluster.shape == (IMAGES, 0)
    *arrays, valid = crowd(0)
    none_valid = jax.device_get(run(*arrays, np.zeros_like(valid), rules))
    assert not none_valid.keep.any()
    assert not none_valid.rejected.any()
    assert (none_valid.cluster == -1).all()
    assert not none_valid.keypoints.any()


@RULES
def test_one_proposal_stays_as_it_is(rules):
    keypoints, scores, boxes, box_scores, _ = (a[:, :1] for a in crowd(3))
    scores = np.maximum(scores, 0.5)
    result = jax.device_get(run(keypoints, scores, boxes, box_scores, np.ones((IMAGES, 1), bool), rules))
    assert result.keep.all()
    assert_array_equal(result.keypoints, keypoints)
    assert_allclose(result.scores, scores, rtol=1e-6)
    assert_allclose(result.person_score, oks.proposal_score(scores, box_scores), rtol=1e-6)


@RULES
def test_identical_proposals_become_the_first(rules):
    keypoints, scores, boxes, _, _ = (a[:, :1].repeat(PEOPLE, 1) for a in crowd(4))
    scores, valid = np.maximum(scores, 0.5), np.ones((IMAGES, PEOPLE), bool)
    box_scores = np.linspace(0.1, 0.9, PEOPLE, dtype=np.float32) * np.ones((IMAGES, 1), np.float32)
    result = jax.device_get(run(keypoints, scores, boxes, box_scores, valid, rules))
    assert_array_equal(result.keep, np.arange(PEOPLE) == np.zeros((IMAGES, 1)))
    assert (result.cluster == 0).all()
    assert_allclose(result.keypoints[:, 0], keypoints[:, 0], rtol=1e-6)
    assert_allclose(result.person_score[:, 0], oks.proposal_score(scores[:, 0], box_scores[:, 0]), rtol=1e-6)


@RULES
@pytest.mark.parametrize("field", range(4), ids=["keypoints", "scores", "boxes", "box_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pose_that_is_not_finite_takes_no_part(rules, field, value):
    *arrays, _ = crowd(5)
    valid = np.ones((IMAGES, PEOPLE), bool)
    without = valid.copy()
    without[:, 2] = False
    expected = jax.device_get(run(*arrays, without, rules))
    arrays[field] = arrays[field].copy()
    arrays[field][:, 2].reshape(IMAGES, -1)[:, 0] = value
    if arrays[field].ndim == 2:
        arrays[field][:, 2] = value
    result = jax.device_get(run(*arrays, valid, rules))
    assert_array_equal(result.rejected, np.arange(PEOPLE) == np.full((IMAGES, 1), 2))
    for name in ("keypoints", "scores", "person_score", "keep", "cluster"):
        assert_array_equal(getattr(result, name), getattr(expected, name), err_msg=name)


@RULES
def test_boxes_outside_the_image_and_without_area(rules):
    keypoints, scores, boxes, box_scores, valid = crowd(6)
    outside = boxes - np.array([5000, 5000, 0, 0], np.float32)
    here, there = (jax.device_get(run(keypoints, scores, b, box_scores, valid, rules)) for b in (boxes, outside))
    jax.tree.map(assert_array_equal, here, there)
    keypoints[:, 1], scores[:, 1] = keypoints[:, 0], scores[:, 0]
    flat = boxes * np.array([1, 1, 0, 0], np.float32)
    result = jax.device_get(run(keypoints, np.maximum(scores, 0.5), flat, box_scores, np.ones_like(valid), rules))
    assert all(np.isfinite(value).all() for value in result)
    assert_array_equal(result.cluster[:, 0], result.cluster[:, 1])  # equal poses still are duplicates


def test_many_images_at_once():
    arrays = crowd(7, images=64, people=100)
    result = jax.device_get(run(*arrays, ALPHAPOSE))
    assert result.keypoints.shape == (64, 100, JOINTS, 2)
    for image in (0, 63):
        naive = Naive(*(a[image] for a in arrays), ALPHAPOSE)
        assert_array_equal(result.cluster[image], naive.cluster)


def test_without_merging_the_picked_pose_stays():
    arrays = crowd(8)
    merged = jax.device_get(run(*arrays, ALPHAPOSE))
    picked = jax.device_get(run(*arrays, dataclasses.replace(ALPHAPOSE, merge=False)))
    assert_array_equal(picked.cluster, merged.cluster)
    assert_array_equal(picked.keypoints[picked.keep], arrays[0][picked.keep])
    assert np.abs(merged.keypoints - picked.keypoints)[merged.keep].max() > 0.1


def test_small_clusters_are_dropped():
    arrays = crowd(9)
    kept = jax.device_get(run(*arrays, ALPHAPOSE)).keep
    extent = np.ptp(arrays[0], axis=2).prod(-1)
    limit = float(2.25 * np.median(extent[kept]))
    picked_only = dataclasses.replace(ALPHAPOSE, merge=False, min_box_area=limit)
    assert_array_equal(jax.device_get(run(*arrays, picked_only)).keep, kept & (2.25 * extent >= limit))


def test_far_from_the_origin_merging_is_as_precise():
    keypoints, *rest = crowd(10)
    near = jax.device_get(run(keypoints, *rest, ALPHAPOSE))
    shift = 2.0**12
    far = jax.device_get(run(keypoints + np.float32(shift), *rest, ALPHAPOSE))
    assert_array_equal(near.cluster, far.cluster)
    moved = (far.keypoints - shift)[far.keep]
    assert_allclose(moved, near.keypoints[near.keep], atol=3 * np.spacing(np.float32(shift)))


def test_both_weak_ankles_leave_out_another_joint():
    """Quirk of the original code: once the first ankle is removed, the index of the second is that of its neighbour."""
    keypoints, scores, boxes, box_scores, _ = (a[:1, :1] for a in crowd(11))
    valid = np.ones((1, 1), bool)
    scores[:] = 0.19
    scores[..., [0, 5]], scores[..., 6] = 0.05, 0.9
    weak = jax.device_get(run(keypoints, scores, boxes, box_scores, valid, RMPE2017))
    assert not weak.keep.any()  # the confident joint 6 is left out instead of 5
    scores[..., 0] = 0.5
    assert jax.device_get(run(keypoints, scores, boxes, box_scores, valid, RMPE2017)).keep.all()


def test_similarity_is_scale_free_in_2017_only():
    keypoints, scores, boxes, _, _ = crowd(12)
    for rules, equal in ((RMPE2017, True), (ALPHAPOSE, False)):
        small = pairwise_similarity(keypoints, scores, reference_distance(boxes, rules), rules)[0]
        large = pairwise_similarity(4 * keypoints, scores, reference_distance(4 * boxes, rules), rules)[0]
        assert np.allclose(small, large, rtol=1e-5) == equal


def test_other_numbers_do_not_compile_anew():
    arrays, call = crowd(13), jax.jit(functools.partial(pose_nms))
    few = call(*arrays, ALPHAPOSE)
    many = call(*arrays, dataclasses.replace(ALPHAPOSE, gamma=1e3, match_count=99))
    assert call._cache_size() == 1
    assert int(many.keep.sum()) > int(few.keep.sum())


@RULES
def test_gradients_of_merged_poses_are_finite(rules):
    keypoints, scores, *rest = crowd(14)

    def total(keypoints, scores):
        result = pose_nms(keypoints, scores, *rest, rules)
        return jnp.sum(result.keypoints) + jnp.sum(result.person_score)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(keypoints, scores):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_nothing_is_differentiated_through_the_similarity():
    keypoints, scores, boxes, _, _ = crowd(15)
    reference = reference_distance(boxes, ALPHAPOSE)
    gradient = jax.grad(lambda k: jnp.sum(pairwise_similarity(k, scores, reference, ALPHAPOSE)[0]))(keypoints)
    assert_array_equal(gradient, np.zeros_like(keypoints))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": "2016"}, "rules is '2016'"),
        ({"gama": 3}, r"unknown parameters \['gama'\]"),
        ({"delta2": 0}, "delta2 is 0, expected a positive number"),
    ],
)
def test_impossible_parameters(fields, message):
    with pytest.raises(ConfigError, match=message):
        PoseNMS.preset(**fields)


def test_proposal_score():
    assert_allclose(oks.proposal_score(np.array([[0.2, 0.6]]), np.array([0.5])), [0.4 + 0.5 + 0.75], rtol=1e-6)
