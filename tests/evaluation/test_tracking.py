"""Tracks of people: who keeps an id, who gets one, when it ends; and what smoothing does."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.tracking import (
    UNTRACKED,
    OneEuro,
    PoseFilter,
    Tracker,
    TrackerOptions,
    assign_tracks,
    overlap,
    similarity,
)
from jaxpose.skeleton import COCO

RNG = np.random.default_rng(0)
SHAPE = RNG.uniform(0, 1, (COCO.num_joints, 2)) * (40, 100)
"""A person of 40 x 100 pixels."""
PLAIN = TrackerOptions()
STANDARD = OneEuro()


def people(*places, scale=1.0, score=0.9):
    """Arguments of `Tracker.update`: the same person at several places."""
    corners = np.array(places, float).reshape(-1, 2)
    keypoints = corners[:, None] + scale * SHAPE
    boxes = np.concatenate([corners, np.tile((40 * scale, 100 * scale), (len(corners), 1))], -1)
    return keypoints, np.full(keypoints.shape[:2], score), np.full(len(corners), score), boxes


def follow(frames, options=PLAIN):
    """The ids of every frame, a list of places each."""
    tracker = Tracker(COCO.sigmas, options)
    return [tracker.update(*people(*places)).track_id.tolist() for places in frames]


class TestIds:
    def test_people_who_stay_keep_theirs_in_any_order(self):
        assert follow([[(0, 0), (200, 0)], [(203, 1), (2, 1)], [(4, 2), (206, 2)]]) == [[1, 2], [2, 1], [1, 2]]

    def test_people_who_cross(self):
        """They pass each other within a quarter of a width, 8 pixels a frame each."""
        frames = [[(8 * t, 0), (200 - 8 * t, 12)] for t in range(26)]
        assert follow(frames) == [[1, 2]] * 26

    def test_best_assignment_of_all_beats_the_best_pair(self):
        """Person 2 is nearest to where 1 was, but then nobody would be left for track 2."""
        assert follow([[(0, 0), (20, 0)], [(12, 0), (-12, 0)]], TrackerOptions(inertia=0.0)) == [[1, 2], [2, 1]]

    def test_births_and_deaths(self):
        options = TrackerOptions(patience=2)
        here, nobody = [(0, 0)], []
        assert follow([here, nobody, nobody, here], options) == [[1], [], [], [1]]
        assert follow([here, nobody, nobody, nobody, here], options) == [[1], [], [], [], [2]]

    def test_somebody_elsewhere_is_somebody_else(self):
        assert follow([[(0, 0)], [(300, 0)], [(0, 0)]]) == [[1], [2], [1]]

    def test_doubtful_people_begin_no_track_but_continue_one(self):
        tracker = Tracker(COCO.sigmas, PLAIN)
        keypoints, scores, sure, boxes = people((0, 0))
        doubtful = np.array([0.1])
        assert tracker.update(keypoints, scores, doubtful, boxes).track_id.tolist() == [UNTRACKED]
        assert tracker.update(keypoints, scores, sure, boxes).track_id.tolist() == [1]
        assert tracker.update(keypoints, scores, doubtful, boxes).track_id.tolist() == [1]

    def test_frames_that_were_left_out_count(self):
        tracker = Tracker(COCO.sigmas, TrackerOptions(patience=5))
        assert tracker.update(*people((0, 0)), frame=10).track_id.tolist() == [1]
        assert tracker.update(*people((0, 0)), frame=16).track_id.tolist() == [1]
        assert tracker.update(*people((0, 0)), frame=23).track_id.tolist() == [2]

    def test_joints_tell_apart_where_boxes_do_not(self):
        """Two people in one place, one of them upside down."""
        keypoints, scores, score, boxes = people((0, 0), (0, 0))
        keypoints[1, :, 1] = 100 - keypoints[1, :, 1]
        tracker = Tracker(COCO.sigmas, PLAIN)
        tracker.update(keypoints, scores, score, boxes)
        assert tracker.update(keypoints[::-1], scores, score, boxes).track_id.tolist() == [2, 1]

    def test_boxes_hold_where_joints_are_hidden(self):
        tracker = Tracker(COCO.sigmas, PLAIN)
        tracker.update(*people((0, 0), (200, 0)))
        keypoints, _, score, boxes = people((200, 0), (0, 0))
        hidden = np.zeros(keypoints.shape[:2])
        assert tracker.update(0 * keypoints, hidden, score, boxes).track_id.tolist() == [2, 1]

    def test_memory_is_bounded(self):
        tracker = Tracker(COCO.sigmas, TrackerOptions(max_tracks=3, patience=1000))
        for t in range(20):
            tracker.update(*people((500 * t, 0)))
            assert len(tracker.alive) <= 3
        assert tracker.alive == [18, 19, 20]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_order_of_people_does_not_matter(seed, count):
    """The people of a frame can be listed in any order: each has the same track."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 400, (count, 2))
    moved = places + rng.normal(0, 5, places.shape)
    straight, shuffled = Tracker(COCO.sigmas, PLAIN), Tracker(COCO.sigmas, PLAIN)
    straight.update(*people(*places))
    shuffled.update(*people(*places))
    order = rng.permutation(count)
    expected = straight.update(*people(*moved)).track_id[order]
    np.testing.assert_array_equal(shuffled.update(*people(*moved[order])).track_id, expected)


class TestSimilarity:
    def test_of_equal_poses_is_one(self):
        keypoints, scores, _, boxes = people((0, 0), (500, 0))
        found = similarity(keypoints, scores > 0, boxes, keypoints, scores > 0, boxes, np.array(COCO.sigmas))
        np.testing.assert_allclose(found, np.eye(2), atol=1e-12)

    def test_counts_joints_that_both_show(self):
        keypoints, _, _, boxes = people((0, 0))
        left, right, none = (np.zeros((1, COCO.num_joints), bool) for _ in range(3))
        left[:, :9], right[:, 8:] = True, True
        far = keypoints + 1000.0
        far[:, 8] = keypoints[:, 8]
        sigmas = np.array(COCO.sigmas)
        assert similarity(keypoints, left, boxes, far, right, boxes, sigmas) == pytest.approx(1)
        assert similarity(keypoints, left, boxes, keypoints, none, boxes, sigmas) == 0

    def test_overlap(self):
        a = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], float)
        b = np.array([[5, 0, 10, 10], [20, 0, 5, 5], [0, 0, 0, 0]], float)
        np.testing.assert_allclose(overlap(a, b), [[1 / 3, 0, 0], [0, 0, 0]])


class TestSmoothing:
    def smooth(self, keypoints, options=STANDARD, reliable=None, size=60.0):
        """Filtered [T, K, 2] at 30 frames a second."""
        apply = PoseFilter(options)
        reliable = np.ones(keypoints.shape[:2], bool) if reliable is None else reliable
        return np.stack([apply(k, r, t / 30, size) for t, (k, r) in enumerate(zip(keypoints, reliable, strict=True))])

    def test_steadies_a_person_who_stands(self):
        noisy = SHAPE + np.random.default_rng(1).normal(0, 1, (60, *SHAPE.shape))
        found = self.smooth(noisy)
        np.testing.assert_array_equal(found[0], noisy[0])
        shake = [np.diff(values[20:], axis=0).std() for values in (noisy, found)]
        assert shake[1] < shake[0] / 2
        assert np.abs(found[20:] - SHAPE).mean() < np.abs(noisy[20:] - SHAPE).mean()

    def test_follows_quicker_with_speed(self):
        """A person who runs 12 pixels a frame: how far behind the filtered one is after a second."""
        running = SHAPE + 12.0 * np.arange(31)[:, None, None]
        behind = [np.abs(self.smooth(running, OneEuro(speed=s))[-1] - running[-1]).max() for s in (0, 8, 1000)]
        assert behind[0] > 2 * behind[1] > 4 * behind[2]

    def test_is_the_same_for_near_and_far_people(self):
        noisy = SHAPE + np.random.default_rng(2).normal(0, 3, (20, *SHAPE.shape))
        np.testing.assert_allclose(self.smooth(5 * noisy, size=300.0), 5 * self.smooth(noisy))

    def test_unreliable_joints_pass_and_begin_anew(self):
        jumping = np.tile(SHAPE, (6, 1, 1))
        jumping[2:, 3] += 50
        reliable = np.ones(jumping.shape[:2], bool)
        reliable[2, 3] = False
        found = self.smooth(jumping, reliable=reliable)
        np.testing.assert_allclose(found, jumping)
        assert np.abs(self.smooth(jumping)[2, 3] - jumping[2, 3]).max() > 1

    def test_belongs_to_tracks(self):
        tracker = Tracker(COCO.sigmas, TrackerOptions(smoothing=OneEuro()))
        first, *rest = people((0, 0), (300, 0))
        tracker.update(first, *rest)
        tracked = tracker.update(first[::-1] + 4.0, rest[0], rest[1], rest[2][::-1])
        assert tracked.track_id.tolist() == [2, 1]
        step = (tracked.keypoints - first[::-1]).mean((1, 2))
        assert ((step > 0) & (step < 4)).all()

    def test_without_it_poses_are_untouched(self):
        tracker = Tracker(COCO.sigmas, PLAIN)
        tracker.update(*people((0, 0)))
        np.testing.assert_array_equal(tracker.update(*people((4, 4))).keypoints, people((4, 4))[0])


class TestWholeEvaluations:
    def test_every_video_by_itself_in_order_of_time(self):
        keypoints, scores, score, boxes = people((200, 0), (0, 0), (0, 0), (3, 0), (202, 0))
        rows = {"keypoints": keypoints, "scores": scores, "person_score": 0 * score, "box": boxes}
        rows["image_id"] = np.array([7, 7, 9, 5, 5])
        place = {7: ("a", 1), 5: ("a", 0), 9: ("b", 1), 11: ("b", 0)}
        assert assign_tracks(rows, place, COCO.sigmas).tolist() == [2, 1, 1, 1, 2]
        del rows["box"]
        assert assign_tracks(rows, place, COCO.sigmas).tolist() == [2, 1, 1, 1, 2]
        with pytest.raises(DataError, match=r"1 images of no known video: \[9\]"):
            assign_tracks(rows, {5: ("a", 0), 7: ("a", 1)}, COCO.sigmas)


class TestErrors:
    def test_frames_out_of_order(self):
        tracker = Tracker(COCO.sigmas, PLAIN)
        tracker.update(*people((0, 0)), frame=3)
        with pytest.raises(DataError, match="frame 3 comes after frame 3; a tracker takes frames in order of time"):
            tracker.update(*people((0, 0)), frame=3)

    def test_arrays_that_do_not_fit(self):
        keypoints, scores, score, boxes = people((0, 0), (50, 0))
        tracker = Tracker(COCO.sigmas, PLAIN)
        with pytest.raises(DataError, match=r"'boxes' has shape \(1, 4\), expected \(2, 4\) for 2 people"):
            tracker.update(keypoints, scores, score, boxes[:1])
        keypoints[0, 0] = np.nan
        for number in (float("nan"), 1.5, "2", True):
            with pytest.raises(DataError, match="the number of a frame is .*; expected a whole number"):
                Tracker(COCO.sigmas).update(*people((0, 0)), frame=number)
        for rate in (float("nan"), float("inf")):
            with pytest.raises(ConfigError, match="rate is"):
                Tracker(COCO.sigmas, rate=rate)
        for options in ({"cutoff": float("nan")}, {"speed": float("inf")}, {"speed_cutoff": float("inf")}):
            with pytest.raises(ConfigError, match="all of them finite"):
                OneEuro(**options)
        with pytest.raises(ConfigError, match="'birth' and 'joint' are nan"):
            TrackerOptions(birth=float("nan"))
        with pytest.raises(DataError, match="'keypoints' of frame 0 is not finite"):
            tracker.update(keypoints, scores, score, boxes)
        assert tracker.alive == []

    @pytest.mark.parametrize("wrong", [{"oks": 1.5}, {"threshold": -0.1}, {"patience": -1}, {"max_tracks": 0}])
    def test_options(self, wrong):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            dataclasses.replace(PLAIN, **wrong)
        with pytest.raises(ConfigError, match="cutoffs must be positive"):
            OneEuro(cutoff=0)
        with pytest.raises(ConfigError, match="rate is 0"):
            Tracker(COCO.sigmas, rate=0)
