"""Grouping by tags against plain loops, on maps full of ties, and what it makes of awkward maps."""

import dataclasses
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import naive_grouping
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.higherhrnet import grouping
from jaxpose.methods.higherhrnet.grouping import Grouping
from jaxpose.ops import peaks
from jaxpose.skeleton import COCO, CROWDPOSE, MARIONETTE

BATCH, HEIGHT, WIDTH, JOINTS = 2, 36, 40, 4
RULES = Grouping((2, 0, 3, 1), max_people=6, capacity=24)


@functools.cache
def compiled(rules):
    return jax.jit(functools.partial(grouping.group, settings=rules))


def noise(rng, joints=JOINTS, tags=(JOINTS, 2), size=(HEIGHT, WIDTH)):
    """Coarse levels everywhere: plateaus, equal peaks, equal tags, distances halfway between whole numbers."""
    heatmaps = rng.integers(-2, 9, (*size, joints)) / 8 * rng.integers(0, 2, (*size, 1))
    return heatmaps.astype(np.float32), (rng.integers(0, 13, (*size, *tags)) / 4).astype(np.float32)


def crowd(rng, people=5, joints=JOINTS, tags=(JOINTS, 2), size=(HEIGHT, WIDTH), background=0.0):
    """Joints of people whose tags are a whole number apart, some missing, and a few that belong to nobody."""
    heatmaps = np.full((*size, joints), background, np.float32)
    field = rng.integers(-2, 2 * people + 2, (*size, *tags)).astype(np.float32)
    for person in range(people):
        top, left = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        field[top : top + 12, left : left + 12] = 2 * person + rng.integers(-3, 4, tags) / 8
        for joint in np.flatnonzero(rng.random(joints) < 0.7):
            y, x = top + rng.integers(0, 8), left + rng.integers(0, 8)
            heatmaps[y, x, joint] = rng.integers(1, 9) / 8
    for joint in range(joints):
        heatmaps[rng.integers(0, size[0]), rng.integers(0, size[1]), joint] = rng.choice([0.125, 0.5, 1.0])
    return heatmaps, field


def assert_grouped(maps, rules):
    heatmaps, tags = (np.stack(a) for a in zip(*maps))
    people = jax.device_get(compiled(rules)(heatmaps, tags))
    for image in range(len(heatmaps)):
        keypoints, values, scores = naive_grouping.group(heatmaps[image], tags[image], rules)
        count = min(len(scores), rules.capacity)
        assert_array_equal(people.valid[image], np.arange(rules.capacity) < count)
        assert people.omitted[image] == len(scores) - count
        assert_array_equal(people.keypoints[image, :count], keypoints[:count])
        assert_array_equal(people.values[image, :count], values[:count])
        assert_allclose(people.person_score[image, :count], scores[:count], rtol=1e-6)
        for rest in (people.keypoints, people.values, people.person_score):
            assert not rest[image, count:].any()
    return people


KINDS = st.sampled_from([noise, crowd, functools.partial(crowd, background=-0.125)])
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(SEEDS, KINDS)
def test_equals_plain_loops(seed, kind):
    rng = np.random.default_rng(seed)
    assert_grouped([kind(rng) for _ in range(BATCH)], RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {"adjust": False, "refine": False, "ignore_too_much": True, "tag_threshold": 0.5},
        {"use_detection_val": False, "threshold": 0.3, "window": 3},
        {"max_people": 3, "capacity": 5, "refine": False},
        {"max_people": 60, "capacity": 60, "refine": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_equal_plain_loops(changes):
    rules = dataclasses.replace(RULES, **changes)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        assert_grouped([kind(rng) for kind in (noise, crowd)], rules)


def test_shared_tags_equal_plain_loops():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        assert_grouped([kind(rng, tags=(1, 1)) for kind in (noise, crowd)], RULES)


def test_large_maps_equal_plain_loops():
    """Several strips, segments and groups of tiles, none of which the size is a multiple of."""
    rng = np.random.default_rng(0)
    assert_grouped([crowd(rng, people=9, size=(75, 301)), noise(rng, size=(75, 301))], RULES)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (40, 2)])
def test_tiny_maps_equal_plain_loops(size):
    assert_grouped([noise(np.random.default_rng(1), size=size)], RULES)


def test_more_people_than_can_be_matched():
    """The first ones have the joints; those beyond the capacity have one each and are counted."""
    rng = np.random.default_rng(3)
    many = [crowd(rng, people=20, size=(75, 301)) for _ in range(BATCH)]
    many = [(heatmaps, tags + rng.uniform(-0.1, 0.1, tags.shape).astype(np.float32)) for heatmaps, tags in many]
    everybody = assert_grouped(many, dataclasses.replace(RULES, capacity=60, refine=False))
    few = assert_grouped(many, dataclasses.replace(RULES, capacity=6, refine=False))
    assert (few.omitted > 0).all()
    assert_array_equal(few.omitted, everybody.valid.sum(1) - 6)
    beyond = everybody.values[:, 6:]
    assert ((beyond > 0).sum(-1) <= 1).all()


@pytest.mark.parametrize("value", [0.0, -1.0, 0.05, np.nan])
def test_nobody(value):
    maps = np.full((BATCH, HEIGHT, WIDTH, JOINTS), value, np.float32)
    people = jax.device_get(compiled(RULES)(maps, np.zeros((*maps.shape, 2), np.float32)))
    assert not people.valid.any()
    assert all(not np.any(field) for field in (people.keypoints, people.values, people.person_score, people.omitted))


def test_one_person():
    heatmaps = np.zeros((BATCH, HEIGHT, WIDTH, JOINTS), np.float32)
    heatmaps[0, 5, 7, 0], heatmaps[0, 20, 9, 1], heatmaps[0, 30, 30, 2] = 0.5, 0.75, 0.05
    people = jax.device_get(compiled(RULES)(heatmaps, np.zeros((*heatmaps.shape, 2), np.float32)))
    assert people.valid.sum(1).tolist() == [1, 0]
    assert_allclose(people.keypoints[0, 0], [[7.25, 5.25], [9.25, 20.25], [30.25, 30.25], [0, 0]])
    assert_allclose(people.values[0, 0], [0.5, 0.75, 0.05, 0])  # the third was too weak and came with refinement
    assert_allclose(people.person_score[0, 0], 1.25 / 4)


def test_a_plateau_is_one_person():
    """All of its pixels are peaks, and all of them have the tag of the first."""
    heatmaps = np.full((BATCH, HEIGHT, WIDTH, JOINTS), 0.5, np.float32)
    people = assert_grouped(list(zip(heatmaps, np.full((*heatmaps.shape, 2), 3, np.float32))), RULES)
    assert people.valid.sum(1).tolist() == [1, 1]


def test_what_is_not_finite_is_no_joint():
    rng = np.random.default_rng(7)
    heatmaps, tags = (np.stack(a) for a in zip(*[crowd(rng) for _ in range(BATCH)]))
    expected = heatmaps.copy()
    heatmaps[..., 1], expected[..., 1] = np.nan, -1  # a joint without any value
    expected_people = jax.device_get(compiled(RULES)(expected, tags))
    jax.tree.map(assert_array_equal, jax.device_get(compiled(RULES)(heatmaps, tags)), expected_people)
    for image, y, x in zip(*np.nonzero(heatmaps[..., 0] > 0.2)):  # candidates without a tag
        tags[image, y, x, 0] = rng.choice([np.nan, np.inf])
        expected[image, y, x, 0] = -1
    for maps in (heatmaps, expected):
        maps[:, 30, 30, 3] = np.inf if maps is heatmaps else 0
        maps[:, 28:33, 28:33, 3] *= maps[:, 28:33, 28:33, 3] > 1  # nothing else in its window
    people, expected_people = (jax.device_get(compiled(RULES)(maps, tags)) for maps in (heatmaps, expected))
    assert np.isfinite(people.keypoints).all()
    jax.tree.map(assert_array_equal, people, expected_people)


@pytest.mark.parametrize("blocker_first", [False, True])
@pytest.mark.parametrize("background", [-0.125, 0.0])
def test_a_better_pixel_without_value_keeps_a_joint_missing(background, blocker_first):
    """Only where tags are one apart is there a value: 1 less 1 is less than, or ties with, the background."""
    heatmaps = np.full((1, HEIGHT, WIDTH, JOINTS), background, np.float32)
    tags = np.full((1, HEIGHT, WIDTH, JOINTS, 2), 9, np.float32)
    heatmaps[0, 20, 20, 0], tags[0, 20, 20, 0] = 0.75, 0
    rows = (2, 34) if blocker_first else (34, 2)
    tags[0, rows[0], 5, 1] = 0
    heatmaps[0, rows[1], 5, 1], tags[0, rows[1], 5, 1] = 1.0, (1, 0)
    rules = dataclasses.replace(RULES, threshold=0.5, tag_threshold=0.5, joint_order=(0, 2, 3, 1))
    people = assert_grouped([(heatmaps[0], tags[0])], rules)
    filled = background < 0 or not blocker_first
    assert (people.values[0, 0, 1] > 0) == filled


def test_devices_group_their_own_images():
    rng = np.random.default_rng(5)
    maps = [np.stack(a) for a in zip(*[crowd(rng, people=i % 4) for i in range(8)])]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in maps]
    with jax.set_mesh(mesh):
        call = jax.jit(functools.partial(grouping.group, settings=RULES)).lower(*split).compile()
    assert "all-reduce" not in call.as_text()
    assert "all-gather" not in call.as_text()
    jax.tree.map(assert_array_equal, jax.device_get(call(*split)), jax.device_get(compiled(RULES)(*maps)))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_nothing_runs_on_the_host(platform):
    shapes = [jax.ShapeDtypeStruct((2, 64, 64, JOINTS, *rest), jnp.float32) for rest in ((), (2,))]
    traced = jax.jit(functools.partial(grouping.group, settings=RULES)).trace(*shapes)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in text
    assert "f64" not in text


def test_nothing_is_differentiated():
    maps, tags = crowd(np.random.default_rng(2))
    gradient = jax.grad(lambda m: jnp.sum(compiled(RULES)(m[None], tags[None]).values))(maps)
    assert_array_equal(gradient, np.zeros_like(maps))


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_peaks_equal_a_plain_loop(seed):
    heatmaps, _ = noise(np.random.default_rng(seed))
    positions, values = jax.device_get(find(heatmaps[None], 7, 5))
    for joint in range(JOINTS):
        best = naive_grouping.peaks(heatmaps[:, :, joint], 7, 5)
        rows = [*best, *[(0, 0, 0)] * (7 - len(best))]
        assert_array_equal(np.concatenate([positions[0, joint], values[0, joint, :, None]], 1), rows)


find = jax.jit(peaks.peaks, static_argnums=(1, 2))


def test_more_peaks_asked_for_than_pixels():
    positions, values = jax.device_get(find(np.ones((1, 2, 3, 1), np.float32), 40, 5))
    assert positions.shape == (1, 1, 40, 2)
    assert_array_equal(positions[0, 0, :6], [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    assert_array_equal(values[0, 0] > 0, np.arange(40) < 6)


def test_joint_order_of_skeletons():
    assert grouping.joint_order(COCO) == (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
    assert grouping.joint_order(CROWDPOSE) == (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13)
    other = [MARIONETTE.joints[i] for i in grouping.joint_order(MARIONETTE)]
    assert sorted(other) == sorted(MARIONETTE.joints)
    assert other.index("pelvis") < other.index("left_elbow") < other.index("left_ankle") < other.index("left_toe")
    assert Grouping.of(COCO, max_people=9) == Grouping(grouping.joint_order(COCO), max_people=9)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"joint_order is \(0, 0\), expected every joint's index once"):
        Grouping((0, 0))
    with pytest.raises(ValueError, match="window is 4, expected an odd number"):
        Grouping((0,), window=4)
    with pytest.raises(ValueError, match="capacity is 0, expected at least 1"):
        Grouping((0,), capacity=0)
    maps = np.zeros((1, 8, 8, JOINTS))
    with pytest.raises(ValueError, match=r"heatmaps have shape \(1, 8, 8, 3\), expected \[B, H, W, 4\]"):
        grouping.group(maps[..., :3], np.zeros((1, 8, 8, 3, 2)), RULES)
    with pytest.raises(ValueError, match=r"tags have shape \(1, 8, 8, 2, 2\)"):
        grouping.group(maps, np.zeros((1, 8, 8, 2, 2)), RULES)
