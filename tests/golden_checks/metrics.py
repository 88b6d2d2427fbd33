"""Evaluation and suppression against what the original programs computed."""

import json

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks.skeletons import skeleton_of
from jaxpose import skeleton as skeletons
from jaxpose.evaluation import pck
from jaxpose.evaluation.metrics import MetricContext, coco, crowdpose
from jaxpose.evaluation.suppression import Suppression
from jaxpose.ops import heatmaps, nms, oks

NUMBER_TOLERANCE = 1e-6  # AP and AR: means of exact fractions; hrnet's are stored as float32


def _skeleton(case) -> skeletons.Skeleton:
    sigmas = tuple(case.manifest["attrs"]["sigmas"])
    return skeleton_of(len(sigmas), sigmas=sigmas)


def _files(case) -> tuple[dict, list[dict]]:
    return tuple(json.loads((case.folder / name).read_text()) for name in case.manifest["files"])


def _rows(results: list[dict]) -> dict[str, np.ndarray]:
    """The results file as poses of one update, in its order."""
    triples = np.array([r["keypoints"] for r in results]).reshape(len(results), -1, 3)
    return {
        "image_id": np.array([r["image_id"] for r in results]),
        "index": np.zeros(len(results), int),
        "keypoints": triples[..., :2],
        "scores": triples[..., 2],
        "person_score": np.array([r["score"] for r in results]),
        "area": np.ones(len(results)),
    }


def check_coco(case) -> None:
    truth, results = _files(case)
    joints = _skeleton(case)
    assert_allclose(joints.sigmas, case.manifest["attrs"]["sigmas"], rtol=0, atol=1e-12)
    ids = sorted(image["id"] for image in truth["images"])
    evaluation = coco.match(coco.load_truth(truth, joints), results, joints.sigmas, ids)
    assert_allclose(evaluation.stats, case.outputs["stats"], rtol=0, atol=1e-12)
    assert_allclose(evaluation.eval["precision"][:, :, 0, :, 0], case.outputs["precision"][..., 0], rtol=0, atol=1e-7)
    assert_allclose(evaluation.eval["recall"][:, 0, :, 0], case.outputs["recall"][..., 0], rtol=0, atol=1e-12)


def check_crowdpose(case) -> None:
    truth, results = _files(case)
    metric = crowdpose.CrowdPoseKeypoints(MetricContext(skeletons.CROWDPOSE, truth, suppression=Suppression("none")))
    metric.update(_rows(results))
    numbers = metric.compute()
    expected = dict(zip(case.manifest["attrs"]["stats"], case.outputs["stats"].tolist(), strict=True))
    expected.pop("zero")
    assert set(numbers) == set(expected)
    for name, value in expected.items():
        assert_allclose(numbers[name], value, rtol=0, atol=1e-12, err_msg=name)


def check_lsp_pck(case) -> None:
    prediction, target, mask = (case.inputs[name] for name in ("prediction", "target", "mask"))
    sizes = {
        "torso": pck.torso_size(target),
        "torso_other": pck.torso_size(target, left_shoulder=8, right_hip=3),
        "box": pck.box_size(target),
    }
    told = {key.partition("/")[0].rpartition("_")[2] for key in case.outputs if key.endswith("/accuracy")}
    thresholds = tuple(sorted(map(float, told)))
    assert thresholds
    for name, size in sizes.items():
        counts = pck.coordinate_pck(prediction, target, mask, size, thresholds)
        for t, threshold in enumerate(thresholds):
            expected = {key: case.outputs[f"{name}_{threshold}/{key}"] for key in ("accuracy", "mean", "count")}
            assert_allclose(np.nan_to_num(counts.accuracy()[t], nan=-1), expected["accuracy"], atol=1e-9)
            assert_allclose(counts.mean()[t], expected["mean"], atol=1e-9)
            assert np.sum(np.asarray(counts.counted) > 0) == expected["count"]
    steps = tuple(i / 20 for i in range(20))
    assert_allclose(pck.coordinate_pck(prediction, target, mask, 30.0, steps).auc(), case.outputs["auc"], atol=1e-9)
    assert_allclose(pck.coordinate_pck(prediction, target, mask, 1.0).mean_error(), case.outputs["epe"], rtol=1e-6)
    nme = pck.coordinate_pck(prediction, target, mask, sizes["box"]).mean_error()
    assert_allclose(nme, case.outputs["nme_box"], rtol=1e-6)


def _pckh(preds, joints, missing, head_boxes) -> dict[str, float]:
    """Arguments as in the published file: joints (K, 2, N) 1-based, boxes (2 corners, 2, N)."""
    counts = pck.mpii_pckh(
        preds[..., :2], joints.transpose(2, 0, 1) - 1, 1 - missing.T, head_boxes.transpose(2, 0, 1).reshape(-1, 4)
    )
    return pck.mpii_numbers(counts)


def check_mpii_pckh(case) -> None:
    joints = case.inputs["joints" if "joints" in case.inputs else "gt"]
    numbers = _pckh(case.inputs["preds"], joints, case.inputs["missing"], case.inputs["headboxes"])
    names = case.manifest["attrs"].get("names") or case.outputs["value_names"].tolist()
    assert list(numbers) == names
    assert_allclose(list(numbers.values()), case.outputs["values"], rtol=1e-6)


def check_evaluate_mpii(case) -> None:
    inputs = case.inputs
    missing = inputs["jnt_missing"].astype(np.float32)
    numbers = _pckh(inputs["preds"], inputs["pos_gt_src"], missing, inputs["headboxes_src"])
    assert list(numbers) == case.manifest["stats_names"]
    assert_allclose(list(numbers.values()), case.outputs["stats"], rtol=1e-6)


def check_pck_heatmap(case) -> None:
    output, target = (case.inputs[name].transpose(0, 2, 3, 1) for name in ("output", "target"))
    names = [key.removeprefix("accuracy_") for key in case.outputs if key.startswith("accuracy_")]
    thresholds = sorted(map(float, names), reverse=True)
    counts = pck.heatmap_pck(output, target, tuple(thresholds))
    for t, threshold in enumerate(thresholds):
        accuracy = np.nan_to_num(counts.accuracy()[t], nan=-1)
        assert_allclose(accuracy, case.outputs[f"accuracy_{threshold}"], atol=1e-9)
        assert_allclose(counts.mean()[t], case.outputs[f"mean_{threshold}"], atol=1e-9)
        assert np.sum(np.asarray(counts.counted) > 0) == case.outputs[f"count_{threshold}"]
    assert_array_equal(heatmaps.maxima(output)[0], case.outputs["prediction"])
    alphapose = pck.heatmap_pck(output, target, swapped=False).mean()[0]
    assert_allclose(alphapose, case.outputs["alphapose_accuracy"], atol=1e-9)
    if "group_names" in case.outputs:
        accuracy = np.nan_to_num(counts.accuracy()[thresholds.index(0.5)], nan=-1)
        groups = case.manifest["attrs"]["groups"]
        means = [np.mean(accuracy[groups[str(name)]]) for name in case.outputs["group_names"]]
        assert_allclose(means, case.outputs["group_accuracy"], atol=1e-9)


def _listed(selection, index: int = 0) -> np.ndarray:
    """Kept entries of one image, best first."""
    order, keep = (np.asarray(a)[index] for a in selection)
    return order[keep[order]]


def check_oks_nms(case) -> None:
    """Both sources of this check: stored thresholds, plain and soft; boxes where the case has them."""
    attrs, inputs = case.manifest["attrs"], case.inputs
    points = inputs["keypoints"]
    area, scores = (inputs[n if n in inputs else f"{n}s"] for n in ("area", "score"))
    named = attrs.get("sigmas", attrs.get("default_sigmas"))
    sigmas = np.array(skeletons.get(named.lower()).sigmas if isinstance(named, str) else named, np.float32)
    counted = points[..., 2] > attrs["in_vis_thre"] if "in_vis_thre" in attrs else None
    similarity = oks.pairwise_oks(points[..., :2], area, sigmas, counted)
    assert_allclose(similarity, case.outputs["oks"], atol=2e-6)
    batch = [points[None, ..., :2], scores[None], area[None], np.ones((1, len(points)), bool), sigmas]
    masks = counted if counted is None else counted[None]
    for name, expected in case.outputs.items():
        kind, _, threshold = name.rpartition("_")
        if kind == "keep":
            assert_array_equal(_listed(jax.jit(nms.oks_nms)(*batch, float(threshold), masks)), expected, name)
        elif kind == "soft_keep":
            assert_array_equal(_listed(jax.jit(nms.soft_oks_nms)(*batch, float(threshold), masks)), expected, name)
    if "box_keep" in case.outputs:
        found = _box_nms(inputs["box_xyxy"], scores, attrs["box_threshold"])
        assert_array_equal(found, case.outputs["box_keep"])


def _box_nms(corners, scores, threshold: float) -> np.ndarray:
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=-1)
    return _listed(nms.box_nms(boxes[None], scores[None], np.ones((1, len(boxes)), bool), threshold))


def check_box_nms(case) -> None:
    dets = case.inputs["dets"]
    for threshold in case.manifest["attrs"]["thresholds"]:
        found = _box_nms(dets[:, :4], dets[:, 4], threshold)
        assert_array_equal(found, case.outputs[f"keep_{threshold}"], f"threshold {threshold}")


def _collect(case, keypoints, image_id, box_score, area, truth=None) -> coco.CocoKeypoints:
    attrs = case.manifest["attrs"]
    suppression = Suppression("soft" if attrs["soft_nms"] else "hard", attrs["oks_thre"])
    joints = skeleton_of(keypoints.shape[1])
    metric = coco.CocoKeypoints(MetricContext(joints, truth, suppression=suppression))
    score = oks.person_score(keypoints[..., 2], box_score, case.manifest["attrs"]["in_vis_thre"])
    metric.update(
        {
            "image_id": image_id,
            "index": np.arange(len(image_id)),
            "keypoints": keypoints[..., :2],
            "scores": keypoints[..., 2],
            "person_score": score,
            "area": area,
        }
    )
    return metric


def check_prtr_oks_nms(case) -> None:
    preds, boxes, image_id = (case.inputs[name] for name in ("preds", "boxes", "image_id"))
    results = _collect(case, preds, image_id, boxes[:, 5], boxes[:, 4]).results()
    kept = case.outputs["kept"]
    by_image = np.argsort(image_id[kept], kind="stable")  # ours lists images by id, the case by first appearance
    assert_array_equal([r["image_id"] for r in results], image_id[kept][by_image])
    assert_allclose([r["score"] for r in results], case.outputs["score"][by_image], rtol=1e-6)
    found = np.array([r["keypoints"] for r in results]).reshape(-1, *preds.shape[1:])
    assert_array_equal(found, preds[kept][by_image])


def check_evaluate_coco(case) -> None:
    inputs = case.inputs
    area = np.prod(inputs["pred_scale"] * 200, axis=1)
    rows = inputs["pred_keypoints"], inputs["pred_image"], inputs["box_scores"], area
    metric = _collect(case, *rows, truth=_truth(inputs))
    numbers = metric.compute()
    assert_allclose(list(numbers.values()), case.outputs["stats"], rtol=0, atol=NUMBER_TOLERANCE)
    results = metric.results()
    by_image = np.argsort(case.outputs["kept_image"], kind="stable")
    assert_array_equal([r["image_id"] for r in results], case.outputs["kept_image"][by_image])
    assert_allclose([r["score"] for r in results], case.outputs["kept_score"][by_image], rtol=1e-6)
    assert_allclose([r["keypoints"][:3] for r in results], case.outputs["kept_first_joint"][by_image], rtol=1e-6)


def _truth(inputs) -> dict:
    people = zip(*(inputs[f"gt_{name}"] for name in ("keypoints", "image", "bbox", "area", "iscrowd", "num_keypoints")))
    annotations = [
        {
            "id": number,
            "image_id": int(image),
            "category_id": 1,
            "keypoints": keypoints.reshape(-1).tolist(),
            "bbox": bbox.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
            "num_keypoints": int(count),
        }
        for number, (keypoints, image, bbox, area, crowd, count) in enumerate(people, start=1)
    ]
    images = [{"id": int(i), "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in inputs["image_ids"]]
    category = {"id": 1, "name": "person", "keypoints": list(skeletons.COCO.joints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


CHECKS = {
    "metrics/coco": check_coco,
    "metrics/crowdpose": check_crowdpose,
    "metrics/lsp_pck": check_lsp_pck,
    "metrics/mpii_pckh": check_mpii_pckh,
    "metrics/oks_nms": check_oks_nms,
    "metrics/pck_heatmap": check_pck_heatmap,
    "prtr/oks_nms": check_prtr_oks_nms,
    "prtr/mpii_pckh": check_mpii_pckh,
    "hrnet/oks_nms": check_oks_nms,
    "hrnet/box_nms": check_box_nms,
    "hrnet/evaluate_coco": check_evaluate_coco,
    "hrnet/evaluate_mpii": check_evaluate_mpii,
}
