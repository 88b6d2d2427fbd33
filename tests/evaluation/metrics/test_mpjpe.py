"""Errors of 3D poses: what they ignore, what they count, and how they are averaged."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import MetricContext, mpjpe
from jaxpose.evaluation.metrics.mpjpe import SequenceErrors
from jaxpose.skeleton import H36M


def poses(frames=6, joints=17, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 300, (frames, joints, 3))
    return truth + rng.normal(0, 40, truth.shape), truth


class TestErrors:
    @given(seed=st.integers(0, 10**6), scale=st.floats(0.2, 5), joints=st.integers(4, 20))
    @settings(max_examples=40, deadline=None)
    def test_alignment_undoes_every_similarity(self, seed, scale, joints):
        truth = poses(3, joints, seed)[1]
        turn = Rotation.random(3, rng=np.random.default_rng(seed)).as_matrix()
        moved = scale * truth @ turn + [[[100, -50, 3000]]]
        assert_allclose(mpjpe.align(moved, truth), truth, atol=1e-6)
        assert_allclose(mpjpe.p_mpjpe(moved, truth), 0, atol=1e-6)

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_no_small_change_of_the_alignment_is_better(self, seed):
        predicted, truth = poses(2, 17, seed)
        squares = lambda found: (mpjpe.distances(found, truth) ** 2).sum(-1)
        aligned = mpjpe.align(predicted, truth)
        rng = np.random.default_rng(seed)
        centre = aligned.mean(1, keepdims=True)
        for _ in range(5):
            turn = Rotation.from_rotvec(rng.normal(0, 0.01, 3)).as_matrix()
            other = (aligned - centre) @ turn * rng.normal(1, 0.01) + centre + rng.normal(0, 1, 3)
            assert (squares(other) >= squares(aligned) - 1e-6).all()

    def test_a_mirrored_pose_is_not_right(self):
        truth = poses()[1]
        mirrored = truth * [-1, 1, 1]
        assert (mpjpe.p_mpjpe(mirrored, truth) > 50).all()

    def test_scaling_only(self):
        truth = poses()[1]
        assert_allclose(mpjpe.n_mpjpe(0.3 * truth, truth), 0, atol=1e-9)
        assert (mpjpe.n_mpjpe(truth + 100, truth) > 50).all()

    def test_order_of_the_protocols(self):
        predicted, truth = poses()
        squares = lambda found: (mpjpe.distances(found, truth) ** 2).mean(-1)
        assert (squares(mpjpe.align(predicted, truth)) <= squares(predicted) + 1e-9).all()

    def test_the_root_counts(self):
        truth = poses()[1]
        predicted = truth.copy()
        predicted[:, 0, 0] += 17
        assert_allclose(mpjpe.mpjpe(predicted, truth), 1)

    def test_velocity_ignores_what_stays(self):
        truth = poses()[1]
        assert_allclose(mpjpe.velocity_errors(truth + 500, truth), 0, atol=1e-9)
        drift = truth + np.arange(6)[:, None, None] * np.array([0, 2, 0])
        assert_allclose(mpjpe.velocity_errors(drift, truth), 2)

    @pytest.mark.parametrize("measure", [mpjpe.mpjpe, mpjpe.p_mpjpe, mpjpe.n_mpjpe, mpjpe.velocity_errors])
    def test_joints_that_do_not_count_change_nothing(self, measure):
        predicted, truth = poses()
        counted = np.ones((6, 17), bool)
        counted[:, [3, 9]] = False
        kept = measure(np.delete(predicted, [3, 9], 1), np.delete(truth, [3, 9], 1))
        predicted[:, 3] = 1e5
        truth[:, 9] = -1e5
        assert_allclose(measure(predicted, truth, counted), kept)
        assert np.isnan(measure(predicted, truth, np.zeros((6, 17), bool))).all()

    def test_degenerate_poses(self):
        truth = poses()[1]
        centred = truth - truth.mean(1, keepdims=True)
        assert_allclose(mpjpe.p_mpjpe(np.zeros_like(truth), truth), np.linalg.norm(centred, axis=-1).mean(-1))
        assert_allclose(mpjpe.n_mpjpe(np.zeros_like(truth), truth), mpjpe.mpjpe(0 * truth, truth))
        flat = truth * [1, 1, 0]
        assert_allclose(mpjpe.p_mpjpe(flat @ Rotation.from_euler("x", 1.0).as_matrix(), flat), 0, atol=1e-6)

    def test_correct_joints(self):
        truth = np.zeros((1, 4, 3))
        predicted = truth.copy()
        predicted[0, :, 0] = 10, 149.9, 150, 400
        assert mpjpe.pck_3d(predicted, truth) == 0.5
        assert mpjpe.pck_3d(predicted, truth, joints=8) == 0.25
        assert mpjpe.pck_3d(predicted, truth, counted=np.array([[1, 0, 0, 1]], bool)) == 0.5
        assert_allclose(mpjpe.auc_3d(predicted, truth), (139 / 150 + 0) / 4)


def rows(errors, video=0, action="Walking", first=0):
    """Frames whose joints are all off by `errors` [T] millimetres."""
    truth = poses(len(errors), seed=video)[1]
    predicted = truth + np.array(errors, float)[:, None, None] * [1, 0, 0]
    count = len(errors)
    frame = np.arange(first, first + count)
    fields = {"index": np.full(count, video), "frame": frame, "action": np.full(count, action)}
    return fields | {"keypoints": predicted, "truth": truth}


def compute(*blocks):
    metric = SequenceErrors(MetricContext(H36M))
    for block in blocks:
        metric.update(block)
    return metric.compute()


class TestSequenceErrors:
    def test_frames_weigh_in_an_action_and_actions_weigh_the_same(self):
        numbers = compute(rows([10] * 6, 0), rows([40] * 3, 1), rows([100], 2, "Sitting"))
        assert_allclose(numbers["MPJPE/Walking"], 20, rtol=1e-6)
        assert_allclose(numbers["MPJPE/Sitting"], 100, rtol=1e-6)
        assert_allclose(numbers["MPJPE"], 60, rtol=1e-6)
        assert {name.partition("/")[0] for name in numbers} == set(mpjpe.NUMBERS)
        assert numbers["P-MPJPE"] < 1e-3

    def test_velocity_is_weighted_by_frames(self):
        numbers = compute(rows([0, 3, 6, 9], 0), rows([0, 10], 1), rows([5], 2, "Sitting"))
        assert_allclose(numbers["MPJVE/Walking"], (4 * 3 + 2 * 10) / 6, rtol=1e-4)
        assert "MPJVE/Sitting" not in numbers
        assert_allclose(numbers["MPJVE"], numbers["MPJVE/Walking"])

    def test_a_gap_is_no_motion(self):
        numbers = compute(rows([0, 1], 0, first=0), rows([50, 51], 0, first=7))
        assert_allclose(numbers["MPJVE"], 1, rtol=1e-4)

    def test_batches_order_and_processes_change_nothing(self):
        block = {name: np.concatenate([rows([1, 2, 7], 0)[name], rows([4, 9], 1)[name]]) for name in rows([1])}
        expected = compute(block)
        order = [3, 0, 4, 2, 1]
        one, other = SequenceErrors(MetricContext(H36M)), SequenceErrors(MetricContext(H36M))
        one.update({name: values[order[:2]] for name, values in block.items()})
        other.update({name: values[order[2:]] for name, values in block.items()})
        other.merge(one)
        assert other.compute() == expected
        exchanged = SequenceErrors(MetricContext(H36M))
        exchanged.update(other.rows())
        assert exchanged.compute() == expected

    def test_joints_that_do_not_count(self):
        block = rows([10, 20])
        block["counted"] = np.ones((2, 17), bool)
        block["counted"][1] = False
        block["truth"][1] = np.nan
        assert_allclose(compute(block)["MPJPE"], 10, rtol=1e-6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"action": None}, "lack the fields .*action"),
            ({"keypoints": np.zeros((2, 17, 2))}, "'keypoints' has shape"),
            ({"keypoints": np.full((2, 17, 3), np.nan)}, "video 0, frame 0: field 'keypoints' is not finite"),
            ({"truth": np.full((2, 17, 3), np.inf)}, "video 0, frame 0: field 'truth' is not finite; fix the labels"),
            ({"frame": np.zeros(2)}, "frame 0 of video 0 came in twice"),
            ({"action": np.array(["a", "b"])}, "video 0 has the actions"),
        ],
    )
    def test_bad_rows(self, change, message):
        block = rows([1, 2]) | change
        with pytest.raises(DataError, match=message):
            compute({name: values for name, values in block.items() if values is not None})

    def test_nothing_to_evaluate(self):
        with pytest.raises(DataError, match="no frame"):
            SequenceErrors(MetricContext(H36M)).compute()

    def test_table(self):
        lines = mpjpe.table(compute(rows([10], 0), rows([30], 1, "Sitting"))).splitlines()
        assert lines[0].split() == ["mm", "Sitting", "Walking", "Mean"]
        assert lines[1].split() == ["MPJPE", "30.0", "10.0", "20.0"]
        assert lines[4].split() == ["MPJVE", "-", "-", "-"]
        assert len({len(line) for line in lines}) == 1
