"""Odd numbers: a NaN or an infinite number never wins, is told by the result, and touches no other example or entry.

Numbers that are finite give finite results, or results that tell that they are beyond use.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from jaxpose.methods.dekr import decode as dekr
from jaxpose.methods.dsnt import coordinates as dsnt
from jaxpose.methods.higherhrnet import grouping
from jaxpose.methods.prtr.assignment import assign
from jaxpose.ops import heatmaps, nms, oks, peaks, sampling
from jaxpose.ops.arrays import LARGEST, fits_float32
from jaxpose.ops.pose_nms import PoseNMS, pose_nms

NOT_FINITE = (np.nan, np.inf, -np.inf)
HUGE = (1e38, -1e38, 3e38, -3e38)
SMALL = (1e-40, -1e-40, 0.0, -0.0)
SHAPE = (12, 16, 3)
few = settings(deadline=None, max_examples=40)


def odd(values) -> st.SearchStrategy:
    return st.sampled_from([np.float32(value) for value in values])


places = st.tuples(*(st.integers(0, side - 1) for side in SHAPE))
seeds = st.integers(0, 10)


def maps(seed: int, place: tuple[int, ...] = (), value: float = 0.0) -> np.ndarray:
    """[12, 16, 3] random maps, one number of which is odd."""
    found = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    if place:
        found[place] = value
    return found


def results(function, batch: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(function(batch))]


SETTINGS = grouping.Grouping(joint_order=(0, 1, 2), max_people=4, capacity=6)
DECODERS = {
    "maxima": heatmaps.maxima,
    "decode": functools.partial(heatmaps.decode, stride=4.0),
    "softmax": functools.partial(heatmaps.decode_integral, stride=4.0, kind="softmax"),
    "sigmoid": functools.partial(heatmaps.decode_integral, stride=4.0, kind="sigmoid"),
    "dsnt": dsnt.logits_to_points,
    "dsnt_matched": dsnt.decode_heatmaps,
    "peaks": functools.partial(peaks.peaks, count=4),
    "grouping": lambda m: grouping.group(m, 0.1 * m[..., None], SETTINGS),
}
DECODERS = {name: jax.jit(function) for name, function in DECODERS.items()}


@pytest.mark.parametrize("name", DECODERS)
class TestMaps:
    @few
    @given(seeds, places, odd((*NOT_FINITE, *HUGE, *SMALL)))
    def test_an_example_does_not_depend_on_the_batch(self, name, seed, place, value):
        one, other = maps(seed, place, value), maps(seed + 100)
        alone = results(DECODERS[name], one[None])
        for batch in (np.stack([one, other]), np.stack([one, one * np.float32(0.5), other])):
            for a, b in zip(alone, results(DECODERS[name], batch), strict=True):
                np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-5)
        beside = results(DECODERS[name], np.stack([other, one]))
        for a, b in zip(results(DECODERS[name], other[None]), beside, strict=True):
            np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-5)

    @few
    @given(seeds, places, odd((*HUGE[:2], *SMALL)))
    def test_finite_maps_give_finite_results(self, name, seed, place, value):
        assert all(np.isfinite(leaf).all() for leaf in results(DECODERS[name], maps(seed, place, value)[None]))

    @pytest.mark.parametrize("value", [0.0, 1.0, -1.0, -200.0, 1e30])
    def test_equal_pixels_give_finite_results(self, name, value):
        flat = np.full((1, *SHAPE), value, np.float32)
        assert all(np.isfinite(leaf).all() for leaf in results(DECODERS[name], flat))


@pytest.mark.parametrize("name", ["maxima", "decode", "softmax", "sigmoid", "dsnt", "dsnt_matched"])
@few
@given(seeds, places)
def test_a_nan_is_told_of_its_joint_alone(name, seed, place):
    """XLA's maximum on a CPU passes over NaN."""
    found = results(DECODERS[name], maps(seed, place, np.nan)[None])[:2]
    joint = place[2]
    told = [~np.isfinite(leaf[0]).reshape(SHAPE[2], -1).all(-1) for leaf in found if leaf.shape[1:2] == (SHAPE[2],)]
    assert_array_equal(np.any(told, axis=0), np.arange(SHAPE[2]) == joint)


@few
@given(seeds, places, odd((np.nan, np.inf)))
def test_an_infinite_logit_is_told_by_sigmoids(seed, place, value):
    positions, _ = heatmaps.decode_integral(maps(seed, place, value)[None], 4.0, "sigmoid")
    assert_array_equal(np.isnan(positions[0]).any(-1), np.arange(3) == place[2])


def test_empty_maps_are_spread_evenly():
    for kind in ("sigmoid", "divide_sum"):
        empty = np.full((1, 4, 6, 1), -200.0 if kind == "sigmoid" else 0.0, np.float32)
        probabilities, _ = heatmaps.normalize(empty, kind)
        np.testing.assert_allclose(probabilities, 1 / 24, rtol=1e-6)


# --- suppression ---


def crowd(seed: int, count: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "keypoints": rng.uniform(0, 100, (count, 3, 2)).astype(np.float32),
        "scores": rng.permutation(np.linspace(0.2, 0.9, count)).astype(np.float32),
        "area": rng.uniform(500, 2000, count).astype(np.float32),
        "valid": np.ones(count, bool),
    }


SIGMAS = np.full(3, 0.1, np.float32)
SUPPRESSIONS = {"hard": jax.jit(nms.oks_nms), "soft": jax.jit(nms.soft_oks_nms)}
FIELDS = ("keypoints", "scores", "area")


@pytest.mark.parametrize("kind", SUPPRESSIONS)
class TestSuppression:
    @few
    @given(seeds, st.integers(0, 5), st.sampled_from(FIELDS), odd(NOT_FINITE))
    def test_a_pose_that_is_not_finite_never_wins_nor_suppresses(self, kind, seed, row, field, value):
        people = crowd(seed)
        without = people | {"valid": np.arange(6) != row}
        people[field] = people[field].copy()
        people[field][row] = value
        order, keep = SUPPRESSIONS[kind](**people, sigmas=SIGMAS)
        assert not keep[row]
        expected, kept = SUPPRESSIONS[kind](**without, sigmas=SIGMAS)
        assert_array_equal(np.asarray(order)[np.asarray(keep)[order]], np.asarray(expected)[np.asarray(kept)[expected]])
        if field == "scores":
            assert order[-1] == row

    @few
    @given(seeds, st.integers(0, 5), st.sampled_from(FIELDS), odd((*HUGE, *SMALL)))
    def test_huge_and_tiny_numbers_lose_nobody_else(self, kind, seed, row, field, value):
        people = crowd(seed)
        people[field] = people[field].copy()
        people[field][row] = value
        overlap = np.asarray(oks.pairwise_oks(people["keypoints"], people["area"], SIGMAS))
        others = np.arange(6) != row
        assert np.isfinite(overlap[others][:, others]).all()
        order, keep = SUPPRESSIONS[kind](**people, sigmas=SIGMAS)
        assert sorted(np.asarray(order).tolist()) == list(range(6))
        assert keep[others].any()

    @few
    @given(seeds, st.integers(1, 5))
    def test_padding_changes_nothing(self, kind, seed, extra):
        people = crowd(seed)
        padded = {
            name: np.concatenate([v, np.full((extra, *v.shape[1:]), np.nan, v.dtype)]) for name, v in people.items()
        }
        padded["valid"] = np.arange(6 + extra) < 6
        order, keep = SUPPRESSIONS[kind](**people, sigmas=SIGMAS)
        again, kept = SUPPRESSIONS[kind](**padded, sigmas=SIGMAS)
        assert_array_equal(np.asarray(keep), np.asarray(kept)[:6])
        assert not np.asarray(kept)[6:].any()
        assert_array_equal(np.asarray(order), np.asarray(again)[:6])

    def test_nobody(self, kind):
        people = {name: value[:0] for name, value in crowd(0).items()}
        order, keep = SUPPRESSIONS[kind](**people, sigmas=SIGMAS)
        assert order.shape == keep.shape == (0,)


@few
@given(st.integers(0, 3), odd(NOT_FINITE))
def test_boxes_that_are_not_finite_never_win(row, value):
    boxes = np.array([[0, 0, 9, 9], [1, 0, 9, 9], [50, 0, 9, 9], [90, 5, 4, 4]], np.float32)
    scores = np.array([0.8, 0.9, 0.7, 0.3], np.float32)
    others = np.arange(4) != row
    for changed in ("boxes", "scores"):
        arrays = {"boxes": boxes.copy(), "scores": scores.copy()}
        arrays[changed][row] = value
        _, keep = nms.box_nms(arrays["boxes"], arrays["scores"], np.ones(4, bool), 0.5)
        _, expected = nms.box_nms(boxes, scores, others, 0.5)
        assert_array_equal(keep, expected)


run_pose_nms = jax.jit(pose_nms)
POSE_NMS_FIELDS = ("keypoints", "scores", "boxes", "box_scores")


@pytest.mark.parametrize("rules", ["alphapose", "rmpe2017"])
@few
@given(
    seeds, st.integers(0, 4), st.sampled_from(["keypoints", "scores", "boxes", "box_scores"]), odd(NOT_FINITE + HUGE)
)
def test_parametric_suppression_rejects_what_is_beyond_use(rules, seed, row, field, value):
    rng = np.random.default_rng(seed)
    arrays = {
        "keypoints": rng.uniform(0, 100, (5, 4, 2)),
        "scores": rng.uniform(0.4, 1, (5, 4)),
        "boxes": rng.uniform(20, 80, (5, 4)),
        "box_scores": rng.random(5),
    }
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    arrays[field].reshape(5, -1)[row, 0] = value
    result = run_pose_nms(**arrays, valid=np.ones(5, bool), rules=PoseNMS.preset(rules))
    assert_array_equal(result.rejected, np.arange(5) == row)
    assert not result.keep[row]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


# --- the rest ---


@few
@given(st.integers(0, 2), st.integers(0, 4), odd(NOT_FINITE + HUGE))
def test_assignments_of_odd_costs_end(row, column, value):
    cost = np.random.default_rng(0).random((2, 3, 5)).astype(np.float32)
    expected = np.asarray(assign(jnp.asarray(cost)))
    cost[0, row, column] = value
    found = np.asarray(assign(jnp.asarray(cost)))
    assert len(set(found[0].tolist())) == 3
    assert_array_equal(found[1], expected[1])


def test_costs_are_looked_at_in_the_type_in_which_they_are_assigned():
    with jax.enable_x64(True):
        cost = np.random.default_rng(0).random((3, 5))
        cost[1, 2] = 1e300
        assert len(set(np.asarray(assign(jnp.asarray(cost))).tolist())) == 3


@few
@given(st.tuples(odd(NOT_FINITE + HUGE), odd((1.5, *NOT_FINITE, *HUGE))), st.sampled_from(sampling.PADDINGS))
def test_samples_at_odd_places_touch_no_others(place, padding):
    image = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    points = np.array([[[1.25, 2.5], place, [3.0, 4.0]]], np.float32)
    found = np.asarray(sampling.sample(image, points, padding))
    ordinary = np.asarray(sampling.sample(image, points[:, ::2], padding))
    assert_array_equal(found[:, ::2], ordinary)


def far_maps(value: float, channel: str) -> list[dekr.ScaleMaps]:
    rng = np.random.default_rng(0)
    poses = np.broadcast_to(rng.uniform(2, 10, (3, 2)), (2, 8, 8, 3, 2)).astype(np.float32).copy()
    centers, heat = np.zeros((2, 8, 8), np.float32), rng.random((2, 8, 8, 3)).astype(np.float32)
    centers[:, 3, 4] = 0.9
    {"poses": poses[0], "centers": centers[0]}[channel][3, 4] = value
    return [dekr.ScaleMaps(1.0, centers, poses, heat)]


@pytest.mark.parametrize("channel", ["poses", "centers"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, -1e38])
def test_dekr_tells_of_images_beyond_use(value, channel):
    if channel == "centers" and value < 0:
        value = -np.inf
    people = jax.jit(dekr.decode, static_argnums=1)(far_maps(value, channel), dekr.Selection())
    assert np.isnan(people.keypoints[0, 0]).all()
    assert_array_equal(people.valid[0], np.arange(people.valid.shape[1]) == 0)
    assert people.valid[1].sum() == 1
    assert np.isfinite(people.keypoints[1]).all()


def test_what_float32_holds():
    values = np.array([1.0, -3e38, 3.5e38, 1e300, -1e300, np.nan, np.inf, 0.0])
    assert fits_float32(values).tolist() == [True, True, False, False, False, False, False, True]
    assert np.isfinite(np.float32(LARGEST) ** 2 * 1e6)
