"""DEKR's choice of people against a plain loop, and what it makes of awkward maps."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import curve_fit

from jaxpose.errors import ConfigError
from jaxpose.methods.dekr import decode as candidates
from jaxpose.methods.dekr.decode import Candidates, Matching, People, ScaleMaps, Selection

IMAGES, HEIGHT, WIDTH, JOINTS = 2, 12, 16, 5
FEW = Selection(max_people=6, nms_threshold=0.15)
SCALES = (2.0, 1.0, 0.5)

decode = jax.jit(candidates.decode, static_argnums=1)


def scene(seed, scales=SCALES, people=4, noise=0.3, images=IMAGES):
    """Maps of some people, seen at several scales: blurred centres, noisy poses around them, random heatmaps."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform(0, (WIDTH, HEIGHT), (images, people, 2))
    poses = middle[:, :, None] + rng.normal(0, 3, (images, people, JOINTS, 2))
    maps = []
    for scale in scales:
        width, height = int(scale * WIDTH), int(scale * HEIGHT)
        cell = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) / scale
        distance = np.linalg.norm(cell[None, :, :, None] - middle[:, None, None], axis=-1)
        nearest = distance.argmin(-1)
        centers = np.exp(-(distance.min(-1) ** 2) / 4) * rng.uniform(0.5, 1, (images, height, width))
        told = poses[np.arange(images)[:, None, None], nearest] * scale
        told = told + rng.normal(0, noise, told.shape)
        heatmaps = rng.normal(0.3, 0.3, (images, height, width, JOINTS))
        maps.append(ScaleMaps(scale, *(a.astype(np.float32) for a in (centers, told, heatmaps))))
    return maps


def naive_decode(maps, selection):
    """One image, step by step, as the text of the method has it; float64. Poses, joint scores, person scores."""
    maps = sorted(maps, key=lambda m: -m.scale)
    found = [naive_candidates(m, selection) for m in maps]
    best = [max((s for _, s in f), default=1.0) for f in found]
    base = [m.scale for m in maps].index(1)
    height, width = (4 * n for n in maps[base].centers.shape)
    points, scores = [], []
    for m, own, top in zip(maps, found, best):
        for pose, score in own:
            points.append(pose)
            scores.append(score if m.scale == 1 else score / top * best[base] * selection.decrease)
    heat = [[naive_heat(maps, k, x, y, width, height) for k, (x, y) in enumerate(pose)] for pose in points]
    value = [float(np.float32(np.mean(h))) for h in heat]
    keep = naive_nms(points, value, selection.coinciding(len(maps)), selection.neighbor_count(JOINTS))
    if len(keep) > selection.max_people:
        keep = sorted(keep, key=lambda i: -value[i])[: selection.max_people]
    return [(points[i], scores[i] * np.array(heat[i])) for i in keep]


def naive_candidates(m, selection):
    height, width = m.centers.shape
    reach = selection.pool(height, width) // 2
    peaks = []
    for y, x in np.ndindex(height, width):
        window = m.centers[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        if m.centers[y, x] == window.max() and m.centers[y, x] > selection.threshold:
            peaks.append((y, x))
    peaks.sort(key=lambda p: -m.centers[p])
    return [(m.poses[p] * 4 / m.scale, float(m.centers[p])) for p in peaks[: selection.max_people]]


def naive_heat(maps, joint, x, y, width, height):
    x, y = min(max(math.floor(x), 0), width - 1), min(max(math.floor(y), 0), height - 1)
    return np.mean([naive_enlarged(m.heatmaps[..., joint], 4 / m.scale)[y, x] for m in maps])


def naive_enlarged(heatmap, factor):
    """Linear between cells that lie `factor` apart, the last one repeated."""
    along = []
    for cells in heatmap.shape:
        position = np.minimum(np.arange(int(cells * factor)) / factor, cells - 1)
        along.append(np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0))
    return along[0] @ heatmap.astype(float) @ along[1].T


def naive_nms(points, value, threshold, count):
    """Visits in order; the best of all neighbours is kept unless it is suppressed."""
    suppressed, keep = set(), []
    for i, pose in enumerate(points):
        if i in suppressed:
            continue
        reach = threshold * np.linalg.norm(np.ptp(pose, axis=0))
        near = [j for j, other in enumerate(points) if (np.linalg.norm(pose - other, axis=-1) < reach).sum() > count]
        if not near:
            continue
        best = max(near, key=lambda j: (value[j], -j))
        if best not in suppressed:
            keep.append(best)
            suppressed.update(near)
    return keep


def image_of(maps, i):
    return [dataclasses.replace(m, centers=m.centers[i], poses=m.poses[i], heatmaps=m.heatmaps[i]) for m in maps]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), noise=st.sampled_from([0.0, 0.3, 1.0]))
def test_equals_a_plain_loop(seed, noise):
    maps = scene(seed, noise=noise)
    people = jax.device_get(decode(maps, FEW))
    for i in range(IMAGES):
        expected = naive_decode(image_of(maps, i), FEW)
        assert_array_equal(people.valid[i], np.arange(FEW.max_people) < len(expected))
        for row, (pose, scores) in enumerate(expected):
            assert_allclose(people.keypoints[i, row], pose, rtol=1e-5, atol=1e-4)
            assert_allclose(people.scores[i, row], scores, rtol=1e-4, atol=1e-5)
            assert_allclose(people.person_score[i, row], scores.mean(), rtol=1e-4, atol=1e-5)
        assert not people.keypoints[i, len(expected) :].any()
        assert not people.scores[i, len(expected) :].any()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), people=st.sampled_from([1, 7, 25]), threshold=st.sampled_from([0.05, 0.3, 0.6]))
def test_suppression_equals_a_plain_loop(seed, people, threshold):
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 50, (4, JOINTS, 2))
    points = true[rng.integers(0, 4, people)] + rng.normal(0, 4, (people, JOINTS, 2)) * rng.random((people, 1, 1))
    points = np.round(points).astype(np.float32)
    value = rng.choice([0.1, 0.5, 0.7], people).astype(np.float32)
    near = candidates.neighbors(points, np.ones(people, bool), threshold, 2)
    order, count = suppress(near, value)
    assert order[:count].tolist() == naive_nms(points, value, threshold, 2)


suppress = jax.jit(candidates.pose_nms)


def test_heat_is_what_the_enlarged_map_holds():
    maps = scene(1)
    size = (4 * WIDTH, 4 * HEIGHT)
    full = sum(candidates.upsample(m.heatmaps, m.factor, size) for m in maps) / len(maps)
    points = np.random.default_rng(0).uniform(-9, 75, (IMAGES, 40, JOINTS, 2)).astype(np.float32)
    heat = candidates.heat_values([(m.heatmaps, m.factor) for m in maps], points, size)
    x, y = (np.clip(np.floor(points[..., c]), 0, size[c] - 1).astype(int) for c in (0, 1))
    image, joint = np.arange(IMAGES)[:, None, None], np.arange(JOINTS)
    assert_allclose(heat, np.asarray(full)[image, y, x, joint], rtol=1e-5, atol=1e-6)
    expected = np.mean([naive_enlarged(m.heatmaps[0, ..., 2], m.factor) for m in maps], axis=0)
    assert_allclose(full[0, ..., 2], expected, rtol=1e-5, atol=1e-6)


def test_order_of_scales_and_batch_do_not_matter():
    maps = scene(2)
    people = jax.device_get(decode(maps, FEW))
    jax.tree.map(assert_array_equal, people, jax.device_get(decode(maps[::-1], FEW)))
    single = jax.device_get(decode(jax.tree.map(lambda a: a[1:], maps), FEW))
    jax.tree.map(lambda one, both: assert_allclose(one[0], both[1], rtol=1e-6), single, people)


def test_all_scales_are_looked_at():
    """Somebody whom scale 1 does not see is found, with a score below the best of scale 1."""
    maps = scene(3, people=2)
    one = maps[1]
    hidden = dataclasses.replace(one, centers=np.where(one.centers == one.centers.max(), one.centers, 0))
    alone, together = decode([hidden], FEW), decode([maps[0], hidden, maps[2]], FEW)
    assert int(together.valid.sum()) > int(alone.valid.sum())


# --- awkward maps ---


def test_nobody():
    maps = [dataclasses.replace(m, centers=0 * m.centers) for m in scene(4)]
    people = jax.device_get(decode(maps, FEW))
    assert not people.valid.any()
    assert not any(values.any() for values in people)


def test_nobody_at_scale_one():
    """The other scales' best score is then 1 x decrease."""
    maps = scene(5)
    maps[1] = dataclasses.replace(maps[1], centers=0 * maps[1].centers)
    found = [candidates.propose(m, FEW) for m in maps]
    everyone = candidates.join(found, 1, 0.8)
    assert everyone.valid.any()
    assert_allclose(jnp.max(jnp.where(everyone.valid, everyone.score, 0)), 0.8, rtol=1e-6)
    for i in range(IMAGES):
        expected = naive_decode(image_of(maps, i), FEW)
        assert int(decode(maps, FEW).valid[i].sum()) == len(expected)


@pytest.mark.parametrize("field", ["centers", "poses", "heatmaps"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_cannot_be_overlooked(field, value):
    """Such an image has one person of NaN, which metrics refuse; other images of the batch are as they were."""
    maps = scene(6)
    expected = jax.device_get(decode(maps, FEW))
    spoiled = getattr(maps[1], field).copy()
    spoiled[1] = value
    people = jax.device_get(decode([maps[0], dataclasses.replace(maps[1], **{field: spoiled}), maps[2]], FEW))
    assert_array_equal(people.valid[1], np.arange(FEW.max_people) == 0)
    assert np.isnan(people.keypoints[1, 0]).all()
    assert np.isnan(people.scores[1, 0]).all()
    assert np.isnan(people.person_score[1, 0])
    jax.tree.map(lambda found, before: assert_array_equal(found[0], before[0]), people, expected)


def test_a_pose_without_extent_is_dropped():
    maps = scene(7, scales=(1.0,))
    point = dataclasses.replace(maps[0], poses=np.full_like(maps[0].poses, 3.5))
    assert candidates.propose(point, FEW).valid.any()
    assert not decode([point], FEW).valid.any()


def test_fewer_cells_than_people():
    maps = [ScaleMaps(1.0, np.ones((1, 2, 2)), np.random.default_rng(0).random((1, 2, 2, 5, 2)), np.ones((1, 2, 2, 5)))]
    people = candidates.decode(maps, Selection(max_people=30))
    assert people.valid.shape == (1, 30)
    assert 1 <= int(people.valid.sum()) <= 4  # a plateau keeps all its cells


def test_more_people_than_rows():
    """Fifty people far apart, of whom those with the highest heat stay, sorted."""
    rng = np.random.default_rng(8)
    points = (rng.uniform(0, 5, (50, JOINTS, 2)) + 100 * np.arange(50)[:, None, None]).astype(np.float32)
    heat = rng.random((50, JOINTS)).astype(np.float32)
    everyone = Candidates(points, jnp.asarray(rng.random(50), jnp.float32), np.ones(50, bool))
    people = candidates.select(everyone, heat, Selection(max_people=30))
    best = np.argsort(-heat.mean(-1))[:30]
    assert people.valid.all()
    assert_array_equal(people.keypoints, points[best])
    roomy = candidates.select(everyone, heat, Selection(max_people=60))
    assert_array_equal(roomy.keypoints[:50], points)
    assert not roomy.valid[50:].any()


def test_joints_outside_the_image():
    maps = scene(9, scales=(1.0,))
    moved = dataclasses.replace(maps[0], poses=maps[0].poses - 1000)
    people = decode([moved], FEW)
    assert people.valid.any()
    scores = people.scores[people.valid]
    corner = maps[0].heatmaps[:, 0, 0]
    ratio = scores / np.repeat(corner, np.asarray(people.valid.sum(-1)), axis=0)
    assert_allclose(ratio, np.broadcast_to(np.asarray(ratio)[:, :1], ratio.shape), rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "pool"), [((300, 300), 5), ((301, 300), 7), ((200, 200), 3), ((100, 301), 5), ((16, 16), 3)]
)
def test_pool_grows_with_the_map(size, pool):
    assert Selection().pool(*size) == pool


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"max_people": 0}, "max_people is 0"), ({"nms_threshold": 0.0}, "positive"), ({"nms_count": -1}, "0 or more")],
)
def test_impossible_settings(fields, message):
    with pytest.raises(ConfigError, match=message):
        Selection(**fields)


def test_impossible_maps():
    maps = scene(10)
    for wrong, message in (
        (maps[:1], "1 among them"),
        ([maps[1], maps[1]], "different"),
        ([maps[1], dataclasses.replace(maps[0], scale=1.5)], r"scale 1.5 have \(24, 32\) .* expected \(18, 24\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            candidates.decode(wrong, FEW)
    with pytest.raises(ConfigError, match="nms_count is 5, but poses have 5 joints"):
        candidates.decode(maps, Selection(nms_count=5))


# --- matching to heatmaps ---

MATCH = Selection(max_people=4, matching=Matching())
match = jax.jit(candidates.match_to_heatmaps, static_argnums=2)
refine = jax.jit(candidates.refine, static_argnums=2)


def peaks(points, size=(48, 40), sigma=2.5, height=0.8):
    """[H, W, K] with one peak for each of `points` [n, K, 2]."""
    y, x = np.mgrid[: size[1], : size[0]]
    squared = (x[..., None, None] - points[..., 0]) ** 2 + (y[..., None, None] - points[..., 1]) ** 2
    return (height * np.exp(-squared / 2 / sigma**2)).max(-2).astype(np.float32)


def everybody(points, score=0.5):
    shape = points.shape[:-1]
    return People(
        jnp.asarray(points, jnp.float32), jnp.full(shape, score), jnp.full(shape[:1], score), np.ones(shape[0], bool)
    )


def test_joints_move_onto_peaks():
    true = np.random.default_rng(0).uniform((10, 10), (38, 30), (1, JOINTS, 2))
    maps = peaks(true)
    moved = match(everybody(true + 3.3), maps, MATCH)
    assert_allclose(moved.keypoints, true, atol=1e-2)
    near = Matching(distance=4.0)
    far = match(everybody(true + 30), maps, dataclasses.replace(MATCH, matching=near))
    unsure = match(everybody(true + 3.3, score=0.04), maps, MATCH)
    assert_array_equal(far.keypoints, (true + 30).astype(np.float32))  # outside the map, and no peak within 4 pixels
    assert_allclose(unsure.keypoints, np.floor(true + 0.5), atol=1)  # on the peak's pixel, not refined


def test_flat_maps_move_nobody():
    points = np.random.default_rng(1).uniform(5, 30, (1, JOINTS, 2)).astype(np.float32)
    flat = np.zeros((40, 48, JOINTS), np.float32)
    assert_allclose(match(everybody(points), flat, MATCH).keypoints, points, atol=1e-5)
    below = match(everybody(points), flat - 0.1, MATCH)  # has no peak, but a Gaussian of negative height fits it
    assert np.abs(below.keypoints - points).max() <= Matching().radius + 1


def test_the_first_of_several_at_one_pixel_is_fitted():
    """The fit starts from the first, so that all end at the same place."""
    true = np.array([[[20.3, 15.6]]])
    maps = peaks(true) + np.random.default_rng(2).normal(0, 0.02, (40, 48, 1)).astype(np.float32)
    people = everybody(np.array([[[20.0, 16.0]], [[20.4, 15.8]], [[19.8, 16.2]]]))
    refined = refine(people, maps, Matching())
    assert_array_equal(refined[1:], np.broadcast_to(refined[:1], (2, 1, 2)))
    assert not np.allclose(refined[0], people.keypoints[0])


@pytest.mark.parametrize("true", [(2.4, 20.3), (45.2, 18.8), (20.6, 1.7), (24.4, 37.6), (1.2, 38.1)])
def test_at_the_border_only_pixels_of_the_map_count(true):
    maps = peaks(np.array([[true]])) + np.random.default_rng(3).normal(0, 0.01, (40, 48, 1)).astype(np.float32)
    x, y = (int(v + 0.5) for v in true)
    left, top = max(x - 6, 0), max(y - 6, 0)
    window = maps[top : y + 7, left : x + 7, 0].astype(float)
    rows, columns = np.indices(window.shape).reshape(2, -1)

    def gaussian(_, height, a, b, sigma):
        return height * np.exp(-((columns + left - a) ** 2 + (rows + top - b) ** 2) / 2 / sigma**2)

    expected = curve_fit(gaussian, None, window.ravel(), (maps[y, x, 0], x, y, 2.0))[0][1:3]
    people = everybody(np.array([[[x, y]]], np.float32))
    assert_allclose(refine(people, maps, Matching())[0, 0], expected, atol=1e-3)
    mixed = refine(people, maps, Matching(mixed_borders=True))[0, 0]
    assert np.allclose(mixed, expected, atol=1e-3) == (window.shape[0] == window.shape[1])
