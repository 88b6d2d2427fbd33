"""PCK of whole evaluations: cuts, order, sizes, what is pooled, what is left out."""

import logging

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation import keypoint_pck, metrics, pck
from jaxpose.evaluation.keypoint_pck import KeypointPck
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.skeleton import COCO, LSP, MARIONETTE, MPII

PEOPLE = 12


def people(seed, skeleton=MPII):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 200, (PEOPLE, skeleton.num_joints, 2))
    return {
        "index": rng.permutation(PEOPLE),
        "keypoints": truth + rng.normal(0, 12, truth.shape),
        "truth": truth,
        "visibility": rng.integers(0, 3, truth.shape[:2]),
        "head_size": rng.uniform(20, 60, PEOPLE),
    }


def part(rows, which):
    return {name: values[which] for name, values in rows.items()}


def evaluate(rows, name="pckh", skeleton=MPII):
    metric = metrics.find(name)(MetricContext(skeleton))
    metric.update(rows)
    return metric.compute()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, PEOPLE - 1), st.sampled_from(["pckh", "pck", "pck_box"]))
def test_any_cut_and_order_give_the_same_numbers(seed, cut, name):
    rows = people(seed)
    rows["visibility"][0] = 2  # somebody has a torso
    here, there = (metrics.find(name)(MetricContext(MPII)) for _ in range(2))
    order = np.random.default_rng(seed).permutation(PEOPLE)
    there.update(part(rows, order[:cut]))
    here.update(part(rows, order[cut:]))
    here.merge(there)
    assert here.compute() == evaluate(rows, name)


def test_equals_the_meters_of_mpii():
    rows = people(1)
    found = evaluate(rows)
    for threshold in (0.5, 0.1):
        arrays = (rows[name] for name in ("keypoints", "truth", "visibility", "head_size"))
        assert found[f"PCKh@{threshold}"] == pytest.approx(pck.pckh_meters(*arrays, threshold)["total_mpii"])
    assert not [name for name in found if "pelvis" in name or "thorax" in name]


def test_equals_a_loop():
    rows = people(2, LSP)
    found = evaluate(rows, "pck", LSP)
    torso = [LSP.index("left_shoulder"), LSP.index("right_hip")]
    near = {joint: [] for joint in LSP.joints}
    for i in range(PEOPLE):
        if not (rows["visibility"][i, torso] > 0).all():
            continue
        size = np.hypot(*(rows["truth"][i, torso[0]] - rows["truth"][i, torso[1]]))
        for k in np.flatnonzero(rows["visibility"][i] > 0):
            near[LSP.joints[k]].append(np.hypot(*(rows["keypoints"][i, k] - rows["truth"][i, k])) < 0.2 * size)
    assert found["PCK@0.2"] == pytest.approx(np.mean(sum(near.values(), [])))
    assert found["PCK@0.2/wrist"] == pytest.approx(np.mean(near["left_wrist"] + near["right_wrist"]))
    assert found["PCK@0.2/head_top"] == pytest.approx(np.mean(near["head_top"]))


def one_person(distance, skeleton=LSP):
    """A torso of 30 x 40 pixels, and with it a diagonal of 50; the head's size is 20. One joint is off."""
    truth = np.zeros((1, skeleton.num_joints, 2))
    truth[0, skeleton.index("left_shoulder")] = 30, 40
    keypoints = truth.copy()
    keypoints[0, skeleton.index("left_ankle"), 1] = distance
    labels = {"visibility": np.ones((1, skeleton.num_joints)), "head_size": np.array([20.0])}
    return {"index": np.array([0]), "keypoints": keypoints, "truth": truth} | labels


@pytest.mark.parametrize(("reference", "limit", "on_it"), [("head", 5, 1.0), ("torso", 12.5, 0.5), ("box", 10, 0.5)])
def test_sizes_and_the_threshold_itself(reference, limit, on_it):
    """A joint exactly at the threshold is correct for the head's size alone."""
    for distance, expected in ((limit - 0.01, 1.0), (limit, on_it), (limit + 0.01, 0.5)):
        metric = KeypointPck(MetricContext(LSP), reference, (0.25,))
        metric.update(one_person(distance))
        found = metric.compute()
        assert next(value for key, value in found.items() if key.endswith("/ankle")) == expected


def test_area_under_the_curve():
    """A joint 5 pixels off is correct at .25 of the head's size and above: at 26 of the 51 thresholds to .5."""
    rows = one_person(5)
    rows["visibility"] = np.zeros((1, LSP.num_joints))
    rows["visibility"][0, LSP.index("left_ankle")] = 1
    assert evaluate(rows, "pckh", LSP)["PCKh_AUC"] == pytest.approx(26 / 51)


@pytest.mark.parametrize("skeleton", [COCO, MPII, LSP, MARIONETTE])
@pytest.mark.parametrize("name", ["pckh", "pck", "pck_box"])
def test_every_skeleton(name, skeleton):
    assert all(0 <= value <= 1 for value in evaluate(people(3, skeleton), name, skeleton).values())


def test_people_without_size_are_left_out_and_counted(caplog):
    rows = people(4)
    rows["head_size"][[2, 5]] = 0
    with caplog.at_level(logging.WARNING, "jaxpose"):
        found = evaluate(rows)
    assert "PCKh: 2 of 12 people are left out, since their head size is unknown" in caplog.text
    assert found == evaluate(part(rows, np.flatnonzero(rows["head_size"])))


def test_unlabelled_torso_is_no_size():
    rows = people(5)
    rows["visibility"][:] = 2
    rows["visibility"][0, MPII.index("right_hip")] = 0
    assert evaluate(rows, "pck") == evaluate(part(rows, slice(1, None)), "pck")


def test_unlabelled_truth_may_be_anything():
    rows = people(6)
    expected = evaluate(rows, "pck_box")
    rows["truth"][rows["visibility"] == 0] = np.nan
    assert evaluate(rows, "pck_box") == expected


def test_part_never_labelled():
    rows = people(7)
    rows["visibility"][:, [MPII.index("left_knee"), MPII.index("right_knee")]] = 0
    found = evaluate(rows)
    assert found["PCKh@0.5/knee"] == -1
    head, values = keypoint_pck.table(found).splitlines()
    assert head.split() == ["Head", "Neck", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", *list(found)[:3]]
    assert values.split()[6] == "-"
    assert values.split()[0] == f"{100 * found['PCKh@0.5/head_top']:.1f}"


def test_repeated_example():
    metric = KeypointPck(MetricContext(MPII))
    metric.update(people(8))
    metric.update(part(people(8), slice(0, 2)))
    with pytest.raises(DataError, match=r"example \d+ \(and 1 others\) was added more than once"):
        metric.compute()


def test_rows_are_what_update_takes():
    metric, copy = KeypointPck(MetricContext(MPII)), KeypointPck(MetricContext(MPII))
    copy.update(metric.rows())
    metric.update(people(9))
    copy.update(metric.rows())
    assert copy.compute() == metric.compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_size": None}, r"lack the fields \['head_size'\]"),
        ({"keypoints": np.zeros((PEOPLE, 14, 2))}, r"'keypoints' has shape \(12, 14, 2\), expected \(12, 16, 2\)"),
        ({"keypoints": np.full((PEOPLE, 16, 2), np.nan)}, r"'keypoints' is not finite in 12 people; the network's"),
        ({"head_size": np.full(PEOPLE, np.inf)}, "'head_size' is not finite in 12 people; fix the labels"),
    ],
)
def test_rows_that_do_not_fit(change, message):
    rows = {name: values for name, values in (people(10) | change).items() if values is not None}
    with pytest.raises(DataError, match=message):
        KeypointPck(MetricContext(MPII)).update(rows)


def test_nobody_to_measure():
    rows = people(11) | {"head_size": np.zeros(PEOPLE)}
    with pytest.raises(DataError, match="PCKh cannot be told: of 12 people none has both"):
        evaluate(rows)
    with pytest.raises(DataError, match="of 0 people"):
        KeypointPck(MetricContext(MPII)).compute()


def test_metrics_that_do_not_exist():
    with pytest.raises(ConfigError, match="config.evaluate.metrics is 'pckx'; it can be .*pck, pck_box, pckh"):
        metrics.find("pckx")
    with pytest.raises(ConfigError, match="thresholds are"):
        KeypointPck(MetricContext(MPII), "head", ())
    with pytest.raises(ConfigError, match="reference is 'hand'"):
        KeypointPck(MetricContext(MPII), "hand")
