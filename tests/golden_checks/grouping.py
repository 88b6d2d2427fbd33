"""HigherHRNet: peaks, grouping by tags, adjustment and refinement."""

import functools
import itertools

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.higherhrnet import grouping
from jaxpose.methods.higherhrnet.grouping import Grouping
from jaxpose.methods.higherhrnet.munkres import munkres, to_digits
from jaxpose.ops import peaks
from jaxpose.skeleton import COCO, CROWDPOSE

UNIT = 2.0**-40
"""Costs of the recorded problems are sums of a few multiples of it."""


def _settings(attrs: dict, **changes) -> Grouping:
    """Settings of a case, with room for everybody."""
    joints, told = attrs["num_joints"], attrs.get("joint_order_zero_based")
    known = {s.num_joints: grouping.joint_order(s) for s in (COCO, CROWDPOSE)}
    order = tuple(told) if told else known.get(joints) or _with_center(known[joints - 1])
    assert order == known.get(joints, order)
    assert attrs["nms_padding"] == attrs["nms_kernel"] // 2
    return Grouping(
        joint_order=order,
        max_people=attrs["max_num_people"],
        capacity=attrs["max_num_people"] * attrs["num_joints"],
        threshold=attrs["detection_threshold"],
        tag_threshold=attrs["tag_threshold"],
        window=attrs["nms_kernel"],
        use_detection_val=attrs["use_detection_val"],
        ignore_too_much=attrs["ignore_too_much"],
        **changes,
    )


def _with_center(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order of joints where grouping begins with a further one, the person's centre."""
    return (len(order), *order)


def _last(maps: np.ndarray) -> np.ndarray:
    """[B, J, H, W, ...] -> [B, H, W, J, ...]."""
    return np.moveaxis(maps, 1, 3)


def check_top_k(case) -> None:
    attrs, maps, tags = case.attrs, _last(case.inputs["det"]), _last(case.inputs["tag"])
    for name, heatmaps in (("nms", maps), ("nms_ties", _last(case.inputs["det_with_ties"]))):
        kept = peaks.local_maxima(heatmaps, attrs["nms_kernel"])
        assert_array_equal(kept, _last(case.outputs[name]))
    positions, values = jax.jit(peaks.peaks, static_argnums=(1, 2))(maps, attrs["max_num_people"], attrs["nms_kernel"])
    valid = case.outputs["valid"]
    assert_array_equal(np.asarray(values) > 0, valid)
    assert_array_equal(np.asarray(values)[valid], case.outputs["val_k"][valid])
    assert_array_equal(np.asarray(positions)[valid], case.outputs["loc_k"][valid])
    assert (tags.shape[3] == 1) == (not attrs["tag_per_joint"])
    assert_array_equal(np.asarray(peaks.read_peaks(tags, positions))[valid], case.outputs["tag_k"][valid])


def check_match(case) -> None:
    """People joint by joint, the original's ties included."""
    for name, changes in case.attrs["scenarios"].items():
        settings = _settings(
            case.attrs["defaults"] | changes | {"joint_order_zero_based": case.attrs["joint_order_zero_based"]}
        )
        tags, positions, values = (case.inputs[f"{name}/{key}"] for key in ("tag_k", "loc_k", "val_k"))
        expected = case.outputs[name]
        choice, count = jax.jit(functools.partial(grouping.match, settings=settings))(tags, values)
        assert int(count[0]) == len(expected), name
        people = np.asarray(choice)[0, : len(expected)]
        joint = np.arange(people.shape[1])
        columns = [positions[0, joint, people], values[0, joint, people, None], tags[0, joint, people]]
        found = np.where(people[..., None] >= 0, np.concatenate(columns, -1), 0)
        assert_array_equal(found.astype(np.float32), expected, err_msg=name)


def check_munkres(case) -> None:
    size = max(max(cost.shape) for cost in case.inputs.values())
    solve = jax.jit(munkres)
    for name, cost in case.inputs.items():
        square = np.zeros((size, size))
        square[: cost.shape[0], : cost.shape[1]] = cost
        columns = np.asarray(solve(to_digits(square, UNIT, 3), *cost.shape))[: cost.shape[0]]
        assert_array_equal(np.stack([np.arange(len(columns)), columns], 1), case.outputs[name], err_msg=name)


def check_adjust(case) -> None:
    people, expected = case.inputs["keypoints"][None], case.outputs["keypoints"]
    maps = _last(case.inputs["det"][None])
    assert_allclose(grouping.adjust(maps, people[..., :2], people[..., 2])[0], expected[..., :2], rtol=1e-6)
    assert_array_equal(people[0, ..., 2:], expected[..., 2:])


def check_refine(case) -> None:
    people, expected = case.inputs["keypoints"][None], case.outputs["keypoints"]
    maps, tags = _last(case.inputs["det"][None]), _last(case.inputs["tag"][None])
    tags = tags if tags.ndim == 5 else tags[..., None]
    keypoints, values = jax.jit(grouping.refine)(maps, tags, people[..., :2], people[..., 2])
    assert_allclose(keypoints[0], expected[..., :2], rtol=1e-6)
    assert_allclose(values[0], expected[..., 2], rtol=1e-6)


def check_parse(case) -> None:
    maps, tags = _last(case.inputs["det"]), _last(case.inputs["tag"])
    for adjust, refine in itertools.product((False, True), repeat=2):
        settings = _settings(case.attrs, adjust=adjust, refine=refine)
        people = jax.device_get(jax.jit(functools.partial(grouping.group, settings=settings))(maps, tags))
        expected = case.outputs[f"adjust_{adjust}/refine_{refine}/keypoints"]
        count = len(expected)
        assert_array_equal(people.valid[0], np.arange(settings.capacity) < count)
        assert_allclose(people.keypoints[0, :count], expected[..., :2], rtol=1e-6)
        assert_allclose(people.values[0, :count], expected[..., 2], rtol=1e-6)
        score = case.outputs[f"adjust_{adjust}/refine_{refine}/scores"]
        assert_allclose(people.person_score[0, :count], score, rtol=1e-5)


CHECKS = {
    "higherhrnet/top_k": check_top_k,
    "higherhrnet/match": check_match,
    "higherhrnet/munkres": check_munkres,
    "higherhrnet/adjust": check_adjust,
    "higherhrnet/refine": check_refine,
    "higherhrnet/parse": check_parse,
}
