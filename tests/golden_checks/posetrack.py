"""PoseTrack's evaluation and file forms against what the original programs computed."""

import json

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import skeleton as skeletons
from jaxpose.data.formats import posetrack as forms
from jaxpose.evaluation import poseval
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.posetrack import PoseTrackKeypoints
from jaxpose.evaluation.poseval import Figures, Frame

PERCENT = {"rtol": 2e-6, "atol": 1e-6}  # of numbers stored as float32, up to 100 or below -100
COUNTS = ("misses", "switches", "false_positives", "objects", "detections", "distance")
SKELETON = skeletons.from_coco_category(forms.category())


def _people(inputs, side: str, frame: int) -> Figures:
    chosen = inputs[f"{side}_person"][frame]
    score = inputs["pr_score"][frame][chosen] if side == "pr" else np.zeros(0)
    head = poseval.head_sizes(inputs["gt_head"][frame][chosen]) if side == "gt" else np.zeros(0)
    points, present, track = (inputs[f"{side}_{name}"][frame][chosen] for name in ("xy", "has", "track"))
    return Figures(points, present, track, score, head)


def _ignored(inputs, frame: int) -> tuple[np.ndarray, ...]:
    if "ignore_xy" not in inputs:
        return ()
    corners = zip(inputs["ignore_xy"][frame], inputs["ignore_count"][frame], strict=True)
    return tuple(polygon[:count] for polygon, count in corners if count)


def check_poseval(case) -> None:
    inputs, attrs = case.inputs, case.attrs
    assert tuple(attrs["joints"]) == forms.EVALUATED
    assert attrs["head_size_factor"] == poseval.HEAD_SIZE_OF_BOX
    frames = [
        Frame(int(video), _people(inputs, "gt", i), _people(inputs, "pr", i), _ignored(inputs, i))
        for i, video in enumerate(inputs["seq_id"])
    ]
    frames = poseval.evaluated_frames(frames)
    found = poseval.joint_precision(frames, attrs["distance_threshold"])
    tracking = poseval.joint_tracking(frames, attrs["distance_threshold"])
    numbers = {"ap": found.ap, "precision": found.precision, "recall": found.recall}
    numbers |= {"mota": tracking.mota, "motp": tracking.motp, "pre": tracking.precision, "rec": tracking.recall}
    for name, values in numbers.items():
        expected = 100 * np.append(values, poseval.mean(values))
        assert_allclose(expected, case.outputs[name], err_msg=name, **PERCENT)
    groups = [*poseval.parts(found.ap, forms.EVALUATED).values(), poseval.mean(found.ap)]
    assert_allclose(100 * np.array(groups), case.outputs["groups"], **PERCENT)
    for name, values in {"n_gt": found.annotated, "n_pred": found.predicted, "n_true": found.correct}.items():
        assert_array_equal(values, case.outputs[name], name)
    for name, expected in zip(COUNTS, case.outputs["mot_counts"], strict=True):
        assert_allclose(getattr(tracking, name), expected, rtol=1e-6, atol=1e-6, err_msg=name)


def _annotation(inputs, frame: int, person: int) -> dict:
    points = dict(zip(forms.EVALUATED, inputs["gt_xy"][frame, person].astype(float).tolist(), strict=True))
    has = dict(zip(forms.EVALUATED, inputs["gt_has"][frame, person].tolist(), strict=True))
    x1, y1, x2, y2 = inputs["gt_head"][frame, person].astype(float).tolist()
    keypoints = [[*points[joint], 1] if has.get(joint) else [0, 0, 0] for joint in forms.KEYPOINTS]
    return {
        "id": 100 * frame + person,
        "image_id": frame,
        "track_id": int(inputs["gt_track"][frame, person]),
        "bbox_head": [x1, y1, x2 - x1, y2 - y1],
        "keypoints": sum(keypoints, []),
    }


def check_evaluate_pipeline(case) -> None:
    inputs = case.inputs
    sequence, people = inputs["seq_id"].tolist(), np.argwhere(inputs["gt_person"]).tolist()
    truth = {
        "images": [{"id": i, "file_name": f"{video:06d}_x/{i:06d}.jpg"} for i, video in enumerate(sequence)],
        "annotations": [_annotation(inputs, frame, person) for frame, person in people],
        "categories": [forms.category()],
    }
    preds = inputs["preds"].astype(np.float64)
    metric = PoseTrackKeypoints(MetricContext(SKELETON, truth))
    metric.update(
        {
            "image_id": inputs["frame_of"],
            "index": np.arange(len(preds)),
            "keypoints": preds[..., :2],
            "scores": preds[..., 2],
            "box_score": inputs["box_score"],
        }
    )
    numbers = metric.compute()
    names = [f"mAP/{group.lower()}" if group != "Mean" else "mAP" for group in case.attrs["groups"]]
    found = [100 * numbers.get(name, np.nan) for name in names]
    assert_allclose(found, case.outputs["groups"].reshape(-1), **PERCENT)


def check_pckh(case) -> None:
    inputs = case.inputs
    nobody = np.zeros(inputs["gt_has"].shape[0] * inputs["gt_has"].shape[1])

    def flat(name: str) -> np.ndarray:
        return inputs[name].reshape(len(nobody), *inputs[name].shape[2:])

    truth = Figures(flat("gt_xy"), flat("gt_has"), nobody, head_size=poseval.head_sizes(flat("gt_head")))
    found = Figures(flat("pr_xy"), flat("pr_has"), nobody)
    joints, total = poseval.paired_pckh(found, truth, case.attrs["threshold"])
    assert_allclose(100 * np.append(joints, total), case.outputs["pckh"], **PERCENT)


def check_posetrack18_json(case) -> None:
    content, expected = (json.loads(case.attrs[name]) for name in ("input", "output"))
    first, *_ = forms.to_annolists(content).values()  # the original takes the first video
    assert first == expected


CHECKS = {
    "dcpose/poseval": check_poseval,
    "dcpose/evaluate_pipeline": check_evaluate_pipeline,
    "dcpose/pckh": check_pckh,
    "dcpose/posetrack18_json": check_posetrack18_json,
}
