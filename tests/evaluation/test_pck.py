"""PCK: boundaries, sums over batches, what is left out."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpose.evaluation import pck
from jaxpose.ops import heatmaps
from jaxpose.skeleton import MPII

count = jax.jit(pck.coordinate_pck, static_argnames=("thresholds", "inclusive"))


def make(seed, people=6, joints=5):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 100, (people, joints, 2))
    return truth + rng.normal(0, 8, truth.shape), truth, rng.random((people, joints)) < 0.8, rng.uniform(20, 60, people)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_halves_add_up_to_the_whole(seed):
    arrays = make(seed)
    halves = [count(*(a[part] for a in arrays), thresholds=(0.1, 0.3)) for part in (slice(0, 3), slice(3, 6))]
    whole = count(*arrays, thresholds=(0.1, 0.3))
    total = halves[0] + halves[1]
    np.testing.assert_array_equal(total.correct, whole.correct)
    np.testing.assert_array_equal(total.counted, whole.counted)
    np.testing.assert_allclose(total.error, whole.error, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_equals_a_loop(seed):
    keypoints, truth, visible, size = make(seed)
    counts = count(keypoints, truth, visible, size, thresholds=(0.25,))
    for joint in range(truth.shape[1]):
        people = np.flatnonzero(visible[:, joint])
        distance = [np.hypot(*(keypoints[i, joint] - truth[i, joint])) / size[i] for i in people]
        expected = np.mean(np.array(distance) < 0.25) if len(people) else np.nan
        np.testing.assert_allclose(counts.accuracy()[0, joint], expected)


def test_threshold_itself():
    """A joint exactly at the threshold is correct for MPII alone."""
    keypoints, truth = np.array([[[5.0, 0.0]]]), np.zeros((1, 1, 2))
    arrays = (keypoints, truth, np.ones((1, 1)), np.array([10.0]))
    assert count(*arrays, thresholds=(0.5,)).accuracy() == 0
    assert count(*arrays, thresholds=(0.5,), inclusive=True).accuracy() == 1


def test_people_without_size_are_left_out():
    keypoints, truth, visible, size = make(1)
    size[2] = 0
    others = np.arange(6) != 2
    counts = count(keypoints, truth, visible, size)
    np.testing.assert_array_equal(counts.counted, visible[others].sum(0))
    assert np.isfinite(counts.mean_error())


def test_joint_never_seen_is_nan_and_not_in_the_mean():
    keypoints, truth, visible, size = make(2)
    visible[:, 3] = False
    counts = count(keypoints, truth, visible, size)
    assert np.isnan(counts.accuracy()[0, 3])
    np.testing.assert_allclose(counts.mean()[0], np.nanmean(counts.accuracy()[0]))


def test_nothing_seen_is_nan():
    keypoints, truth, visible, size = make(3)
    counts = count(keypoints, truth, visible & False, size)
    assert np.isnan(counts.mean()).all()
    assert np.isnan(counts.mean_error())


def peaks(positions, size=(20, 40)):
    """[1, H, W, K] with a peak at each (x, y)."""
    width, height = size
    maps = np.zeros((1, height, width, len(positions)), np.float32)
    for joint, (x, y) in enumerate(positions):
        maps[0, y, x, joint] = 1
    return maps


def test_heatmap_positions_of_empty_maps_are_zero():
    maps = peaks([(7, 30), (3, 2)])
    maps[..., 1] = -1
    np.testing.assert_array_equal(heatmaps.maxima(maps)[0], [[[7, 30], [0, 0]]])


def test_heatmap_joints_at_the_border_do_not_count():
    target = peaks([(1, 10), (10, 1), (0, 0), (2, 2)])
    np.testing.assert_array_equal(pck.heatmap_pck(target, target).counted, [0, 0, 0, 1])


@pytest.mark.parametrize(("swapped", "expected"), [(True, [1, 0]), (False, [0, 1])])
def test_heatmap_axes(swapped, expected):
    """One pixel is less than a twentieth of 40, but not of 20; the original code exchanges width and height."""
    target, moved = peaks([(10, 10), (10, 10)], (20, 40)), peaks([(11, 10), (10, 11)], (20, 40))
    np.testing.assert_array_equal(pck.heatmap_pck(moved, target, swapped=swapped).accuracy()[0], expected)


def test_mpii_table():
    """Left wrist wrong in all images, right knee never annotated."""
    truth = np.random.default_rng(0).uniform(0, 200, (3, 16, 2))
    keypoints, visible = truth.copy(), np.ones((3, 16))
    keypoints[:, MPII.index("left_wrist")] += 1e3
    visible[:, MPII.index("right_knee")] = 0
    keypoints[:, MPII.index("pelvis")] += 1e3
    boxes = np.tile([10.0, 10.0, 40.0, 50.0], (3, 1))
    numbers = pck.mpii_numbers(pck.mpii_pckh(keypoints, truth, visible, boxes))
    assert numbers["Wrist"] == 50
    assert {numbers[part] for part in ("Head", "Shoulder", "Elbow", "Hip", "Knee", "Ankle")} == {100.0}
    assert numbers["Mean"] == numbers["Mean@0.1"] == pytest.approx(100 * 12 / 13)


def test_mpii_part_never_seen_is_nan():
    truth = np.zeros((2, 16, 2))
    visible = np.ones((2, 16))
    visible[:, MPII.index("head_top")] = 0
    numbers = pck.mpii_numbers(pck.mpii_pckh(truth, truth, visible, np.tile([0.0, 0.0, 9.0, 9.0], (2, 1))))
    assert np.isnan(numbers["Head"])
    assert numbers["Mean"] == 100


def meters(**change):
    """Meters of three people whose head is 10 pixels and whose joints are all 5 pixels off but for `change`."""
    truth = np.random.default_rng(0).uniform(20, 80, (3, 16, 2)).round()
    keypoints, visible = truth + [5.0, 0.0], np.ones((3, 16))
    for joint, distance in change.items():
        keypoints[:, MPII.index(joint)] = truth[:, MPII.index(joint)] + [distance, 0]
    visible[0, MPII.index("left_knee")] = 0
    return pck.pckh_meters(keypoints, truth, visible, np.array([10.0, 10, 10]), 0.5)


def test_meters_pool_labelled_joints():
    found = meters(left_wrist=5.1, right_wrist=5.1, left_knee=6, pelvis=7)
    assert list(found)[:4] == ["rankle", "rknee", "rhip", "lhip"]
    assert list(found)[-4:] == ["ubody", "total_anewell", "total_mpii", "all"]
    assert (found["lwrist"], found["lknee"], found["pelvis"], found["headtop"]) == (0, 0, 0, 1)
    assert found["ubody"] == pytest.approx(1 - 6 / 18)
    assert found["total_anewell"] == pytest.approx(1 - 8 / 29)
    assert found["total_mpii"] == pytest.approx(1 - 8 / 41)
    assert found["all"] == pytest.approx(1 - 11 / 47)


def test_meter_without_samples_is_nan():
    visible = np.zeros((1, 16))
    visible[0, MPII.index("left_hip")] = 1
    found = pck.pckh_meters(np.zeros((1, 16, 2)), np.zeros((1, 16, 2)), visible, np.ones(1))
    assert [name for name, value in found.items() if not np.isnan(value)] == [
        "lhip",
        "total_anewell",
        "total_mpii",
        "all",
    ]
