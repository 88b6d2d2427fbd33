"""Suppression against a plain loop, with ties, padding and batches."""

import functools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpose.ops import nms, oks
from jaxpose.skeleton import COCO

IMAGES, PEOPLE, JOINTS = 3, 7, 4
SIGMAS = np.array(COCO.sigmas[:JOINTS], np.float32) * 3


@functools.cache
def compiled(function):
    return jax.jit(function)


soft_order = jax.jit(jax.vmap(functools.partial(nms._soft_order, threshold=0.9, limit=5)))


def naive_order(scores):
    """By falling score, later index first among equals."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], -i))


def naive_greedy(overlap, scores, threshold):
    kept = []
    for candidate in naive_order(scores):
        if all(overlap[k, candidate] <= threshold for k in kept):
            kept.append(candidate)
    return kept


def naive_soft(overlap, scores, threshold, limit):
    """Picks the best, decays the others, turns the sorted rest round: equal scores swap their order at every pick."""
    order = naive_order(scores)
    ranked = [np.float32(scores[i]) for i in order]
    kept = []
    while order and len(kept) < limit:
        best = order[0]
        kept.append(best)
        rest = [(np.float32(s) * overlap[best, i], i) for s, i in zip(ranked[1:], order[1:])]
        again = sorted(range(len(rest)), key=lambda j: rest[j][0])[::-1]
        order, ranked = [rest[j][1] for j in again], [rest[j][0] for j in again]
    return kept


def listed(order, keep):
    order, keep = np.asarray(order), np.asarray(keep)
    return [o[k[o]].tolist() for o, k in zip(order, keep)]


# Few levels of score and overlap, so that ties and exact thresholds are the rule.
scores_ = st.lists(st.integers(0, 3), min_size=IMAGES * PEOPLE, max_size=IMAGES * PEOPLE)
overlaps_ = st.lists(st.integers(0, 4), min_size=IMAGES * PEOPLE**2, max_size=IMAGES * PEOPLE**2)
counts_ = st.lists(st.integers(0, PEOPLE), min_size=IMAGES, max_size=IMAGES)


@settings(deadline=None, max_examples=200)
@given(scores_, overlaps_, counts_, st.sampled_from([0.25, 0.5, 0.75]))
def test_greedy_nms_equals_loop(scores, overlaps, counts, threshold):
    scores = np.array(scores, np.float32).reshape(IMAGES, PEOPLE)
    overlap = np.array(overlaps, np.float32).reshape(IMAGES, PEOPLE, PEOPLE) / 4
    valid = np.arange(PEOPLE) < np.array(counts)[:, None]
    order, keep = compiled(nms.greedy_nms)(overlap, scores, valid, threshold)
    expected = [naive_greedy(overlap[i], scores[i, : counts[i]], threshold) for i in range(IMAGES)]
    assert listed(order, keep) == expected
    assert all(sorted(row) == list(range(PEOPLE)) for row in np.asarray(order).tolist())
    assert not np.any(np.asarray(keep) & ~valid)


@settings(deadline=None, max_examples=200)
@given(scores_, st.lists(st.integers(0, 1), min_size=IMAGES * PEOPLE**2, max_size=IMAGES * PEOPLE**2), counts_)
def test_soft_order_equals_loop(scores, overlaps, counts):
    """With overlaps of 0 or 'infinite' the decay is exactly 1 or 0, so that ties stay ties in any arithmetic."""
    scores = np.array(scores, np.float32).reshape(IMAGES, PEOPLE)
    same = np.array(overlaps, np.float32).reshape(IMAGES, PEOPLE, PEOPLE)
    valid = np.arange(PEOPLE) < np.array(counts)[:, None]
    order, keep = soft_order(same * 1e6, scores, valid)
    decay = 1 - same
    expected = [naive_soft(decay[i], scores[i, : counts[i]], 0.9, 5) for i in range(IMAGES)]
    assert listed(order, keep) == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), counts_)
def test_oks_nms_on_clustered_poses(seed, counts):
    """Random poses around few centres: equals the loop on NumPy's OKS, and padding never matters."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 2, (IMAGES, PEOPLE, 1, 2)) * 40 + rng.normal(0, 4, (IMAGES, PEOPLE, JOINTS, 2))
    scores = rng.random((IMAGES, PEOPLE)).astype(np.float32)
    area = rng.uniform(500, 4000, (IMAGES, PEOPLE))
    valid = np.arange(PEOPLE) < np.array(counts)[:, None]
    points[~valid], area[~valid] = np.nan, np.nan
    order, keep = compiled(nms.oks_nms)(points, scores, area, valid, SIGMAS, 0.5)
    soft_order, soft_keep = compiled(nms.soft_oks_nms)(points, scores, area, valid, SIGMAS, 0.5)
    for i, count in enumerate(counts):
        similarity = numpy_oks(points[i, :count], area[i, :count])
        if np.any(np.abs(similarity - 0.5) < 1e-4):
            continue
        assert listed(order, keep)[i] == naive_greedy(similarity, scores[i, :count], 0.5)
        decay = np.exp(-(similarity**2) / 0.5).astype(np.float32)
        assert listed(soft_order, soft_keep)[i] == naive_soft(decay, scores[i, :count], 0.5, 20)


def numpy_oks(points, area):
    squared = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    mean_area = (area[:, None] + area[None]) / 2
    return np.mean(np.exp(-squared / (2 * (2 * SIGMAS) ** 2 * mean_area[..., None])), axis=-1)


def test_threshold_itself_is_kept():
    overlap = np.array([[[1, 0.5], [0.5, 1]]], np.float32)
    both = np.ones((1, 2), bool)
    scores = np.array([[2.0, 1.0]], np.float32)
    assert listed(*nms.greedy_nms(overlap, scores, both, 0.5)) == [[0, 1]]
    assert listed(*nms.greedy_nms(overlap, scores, both, 0.49)) == [[0]]


def test_suppressed_pose_suppresses_nobody():
    """A chain 0 - 1 - 2 in which only neighbours overlap: 1 goes, 2 stays."""
    overlap = np.eye(3) + np.eye(3, k=1) + np.eye(3, k=-1)
    order, keep = nms.greedy_nms(overlap[None], np.array([[3.0, 2.0, 1.0]]), np.ones((1, 3), bool), 0.9)
    assert listed(order, keep) == [[0, 2]]


def test_soft_keeps_at_most_limit():
    points = np.arange(30.0)[None, :, None, None] * 100 + np.zeros((1, 30, JOINTS, 2))
    scores = np.linspace(0, 1, 30)[None]
    order, keep = nms.soft_oks_nms(points, scores, np.full((1, 30), 1e3), np.ones((1, 30), bool), SIGMAS)
    assert listed(order, keep) == [list(range(29, 9, -1))]


@pytest.mark.parametrize("function", [nms.oks_nms, nms.soft_oks_nms])
def test_no_people(function):
    order, keep = function(
        np.zeros((2, 0, JOINTS, 2)), np.zeros((2, 0)), np.zeros((2, 0)), np.zeros((2, 0), bool), SIGMAS
    )
    assert order.shape == keep.shape == (2, 0)


def test_box_nms_counts_pixels():
    """Two boxes of 4 x 4 pixels (width 3 between pixel centres) that share one column: their IoU is 4 / 28."""
    boxes = np.array([[[0, 0, 3, 3], [3, 0, 3, 3], [50, 50, 3, 3]]], np.float32)
    scores, valid = np.array([[0.9, 0.8, 0.7]]), np.ones((1, 3), bool)
    assert listed(*nms.box_nms(boxes, scores, valid, 0.142)) == [[0, 2]]
    assert listed(*nms.box_nms(boxes, scores, valid, 0.143)) == [[0, 1, 2]]
    assert listed(*nms.box_nms(boxes, scores, valid, 0.0, extra=0.0)) == [[0, 1, 2]]


def test_box_nms_prefers_later_among_equals():
    boxes = np.array([[[0, 0, 9, 9], [0, 0, 9, 9], [100, 0, 9, 9]]], np.float32)
    order, keep = nms.box_nms(boxes, np.array([[0.5, 0.5, 0.5]]), np.ones((1, 3), bool), 0.5)
    assert listed(order, keep) == [[2, 1]]


def test_oks_of_zero_area():
    points = np.array([[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    np.testing.assert_array_equal(oks.pairwise_oks(points, np.zeros(3), SIGMAS[:1])[0], [1, 1, 0])


def test_oks_counts_joints_of_candidate_alone():
    points = np.zeros((2, 2, 2))
    points[1, 1] = 1e4
    counted = np.array([[True, False], [False, True]])
    similarity = oks.pairwise_oks(points, np.full(2, 100.0), SIGMAS[:2], counted)
    np.testing.assert_array_equal(similarity, [[1, 0], [1, 1]])
    none = oks.pairwise_oks(points, np.full(2, 100.0), SIGMAS[:2], np.zeros((2, 2), bool))
    np.testing.assert_array_equal(none, np.zeros((2, 2)))


def test_person_score_averages_confident_joints():
    scores = np.array([[0.9, 0.5, 0.1, 0.2], [0.1, 0.0, 0.2, 0.15]])
    np.testing.assert_allclose(oks.person_score(scores, np.array([0.5, 1.0])), [0.35, 0.0], rtol=1e-6)
