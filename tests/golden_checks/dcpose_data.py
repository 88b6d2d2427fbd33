"""DCPose: the loss, targets, decoding, boxes, frames beside a frame, and samples."""

import dataclasses
import json
import tempfile

import cv2
import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from golden_checks.data import Draws, _check_image, _check_view
from golden_checks.prtr import check_relative
from golden_checks.skeletons import skeleton_of
from jaxpose.data.annotations import Annotations
from jaxpose.data.examples import person_boxes
from jaxpose.data.examples.clips import ClipExamples, Videos, candidates, confident, neighbours
from jaxpose.data.formats import posetrack as posetrack_forms
from jaxpose.data.sources import Source, coco
from jaxpose.data.views import NO_AUGMENTATION, Augmentation, PersonCrop
from jaxpose.evaluation import pck
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.posetrack import PoseTrackKeypoints
from jaxpose.methods.dcpose.method import DCPose, within_crop
from jaxpose.methods.heatmap.method import joint_weights
from jaxpose.ops import geometry, heatmaps
from jaxpose.skeleton import Skeleton

JOINTS = posetrack_forms.KEYPOINTS
CROP, MAP = (288, 384), (72, 96)
"""Sizes (width, height) of the published networks' crops and maps, which cases mean that name none."""
POSETRACK = Skeleton("posetrack", JOINTS, (), (0.1,) * 17, upper_body=JOINTS[:11])


# --- loss, targets, decoding ---


def check_joint_mse_loss(case) -> None:
    method = DCPose()
    for number in sorted({key.partition("/")[0] for key in case.inputs}):
        maps, target = (networks.to_channels_last(case.inputs[f"{number}/{name}"]) for name in ("output", "target"))
        weight = case.inputs[f"{number}/target_weight"].reshape(len(maps), -1)
        value, gradient = jax.value_and_grad(method.criterion)(maps, target, weight)
        found = {
            "weighted": value,
            "weighted_grad": networks.to_channels_first(gradient),
            "unweighted": method.criterion(maps, target, np.ones_like(weight)),
        }
        for name in (key.partition("/")[2] for key in case.outputs if key.startswith(f"{number}/weighted_effective_")):
            few = dataclasses.replace(method, effective_joints=int(name.rpartition("_")[2]))
            found[name] = few.criterion(maps, target, weight)
        for name, ours in found.items():
            assert_allclose(ours, case.outputs[f"{number}/{name}"], rtol=1e-5, atol=1e-8, err_msg=name)


def check_heatmap_target(case) -> None:
    attrs, expected = case.attrs, case.outputs
    crop, size = tuple(attrs["image_size_wh"]), tuple(attrs["heatmap_size_wh"])
    stride = np.array(crop) / size
    keypoints, visible = case.inputs["joints"][..., :2], case.inputs["joints_vis"][..., 0]
    seen = visible * np.asarray(within_crop(keypoints, crop))
    assert_array_equal(seen, expected["joints_vis_in_crop"][..., 0])
    for suffix, weights in (("", visible), ("_in_crop", seen)):
        maps, weight = heatmaps.gaussian_targets(keypoints, weights, stride, size, attrs["sigma"])
        if attrs["use_different_joints_weight"]:
            factors = np.float32(attrs["joints_weight"])
            if len(factors) == POSETRACK.num_joints:
                assert_array_equal(joint_weights(POSETRACK), factors)
            weight = weight * factors
        assert_allclose(networks.to_channels_first(maps), expected[f"target{suffix}"], rtol=0, atol=1e-6)
        found = np.asarray(weight).reshape(expected[f"target_weight{suffix}"].shape)
        assert_allclose(found, expected[f"target_weight{suffix}"], rtol=1e-6)


def check_decode(case) -> None:
    maps, expected = networks.to_channels_last(case.inputs["heatmaps"]), case.outputs
    positions, scores = heatmaps.maxima(maps)
    assert_array_equal(positions, expected["coords"])
    assert_array_equal(scores, expected["maxvals"][..., 0])
    height, width = maps.shape[1:3]
    to_map = geometry.crop_affine(case.inputs["center"], case.inputs["scale"] * 200, (width, height))
    check_relative(to_map, expected["affine"], 1e-5)
    found, _ = heatmaps.decode(maps, 1.0)
    image = geometry.apply_affine(geometry.invert_affine(to_map), found)
    assert_allclose(image, expected["preds"], rtol=0, atol=1e-3)
    joints = POSETRACK if maps.shape[-1] == POSETRACK.num_joints else skeleton_of(maps.shape[-1])
    flipped = heatmaps.flip_back(maps, joints.flip_index, shift=False)
    assert_array_equal(networks.to_channels_first(flipped), expected["flip_back"])


def check_heatmap_accuracy(case) -> None:
    """`acc` is the mean over joints and then every joint, -1 where none counted."""
    maps, target = (networks.to_channels_last(case.inputs[name]) for name in ("output", "target"))
    threshold, expected = case.attrs["threshold"], case.outputs
    counts = pck.heatmap_pck(maps, target, (threshold,))
    assert_allclose(np.nan_to_num(counts.accuracy()[0], nan=-1), expected["acc"][1:], rtol=1e-6)
    for mean in (expected["acc"][0], expected["avg_acc"]):
        assert_allclose(heatmaps.accuracy(maps, target, threshold), mean, rtol=1e-6)
    assert np.sum(np.asarray(counts.counted) > 0) == expected["cnt"]


def check_keypoint_order(case) -> None:
    """What is written for the evaluation: one person a frame, and a last frame without anybody."""
    preds, expected = case.inputs["preds"].astype(np.float64), case.outputs
    assert tuple(case.attrs["coco17"]) == POSETRACK.joints
    assert tuple(case.attrs["posetrack15"]) == posetrack_forms.EVALUATED
    count = len(preds)
    rows = {"image_id": np.arange(count), "index": np.arange(count), "box_score": case.inputs["box_score"].reshape(-1)}
    truth = {
        "images": [{"id": frame, "file_name": f"v/{frame:06d}.jpg"} for frame in range(count + 1)],
        "annotations": [],
        "categories": [posetrack_forms.category()],
    }
    metric = PoseTrackKeypoints(MetricContext(POSETRACK, truth))
    metric.update(rows | {"keypoints": preds[..., :2], "scores": preds[..., 2]})
    *frames, last = metric.results()["v"]["annolist"]
    (nobody,) = last["annorect"]
    assert nobody == json.loads(case.attrs["record_of_a_frame_without_people"])
    people = [person for frame in frames for person in frame["annorect"]]
    points = [sorted(person["annopoints"][0]["point"], key=lambda point: point["id"]) for person in people]
    found = [[[point[name][0] for name in ("id", "x", "y", "score")] for point in of_person] for of_person in points]
    assert_allclose(found, expected["points"], rtol=1e-6)
    order = [POSETRACK.index(joint) for joint in posetrack_forms.EVALUATED]
    assert_allclose(preds[:, order], expected["demo"], rtol=1e-6)


# --- boxes, frames, samples ---


def check_boxes_affine(case) -> None:
    """The original does not enlarge a box whose middle lies at x = -1 exactly, its sign for "none"; here it is one."""
    boxes, rotation, expected = case.inputs["boxes"], case.inputs["rotation"], case.outputs
    aspect, unit = case.attrs["aspect_ratio"], case.attrs["pixel_std"]
    center, size = geometry.box_to_center_size(boxes, aspect)
    plain = geometry.box_to_center_size(boxes, aspect, 1.0)[1]
    assert_allclose(plain / unit, expected["scale_noenlarge"], rtol=1e-6)
    for name in ("center", "center_noenlarge"):
        assert_allclose(center, expected[name], rtol=1e-6)
    size = np.where(center[:, :1] == -1, plain, size)
    assert_allclose(size / unit, expected["scale"], rtol=1e-6)
    assert_allclose(np.concatenate([center - size / 2, center + size / 2], -1), expected["enlarged_xyxy"], atol=1e-3)
    center, size = center.astype(np.float64), size.astype(np.float64)
    to_input = geometry.crop_affine(center, size, tuple(case.attrs.get("image_size_wh", CROP)), rotation)
    to_map = geometry.crop_affine(center, size, tuple(case.attrs.get("heatmap_size_wh", MAP)), rotation)
    check_relative(to_input, expected["image_to_input"], 1e-5)
    check_relative(geometry.invert_affine(to_map), expected["heatmap_to_image"], 1e-5)
    points = geometry.apply_affine(to_input, case.inputs["points"])
    check_relative(points, expected["points_in_input"], 1e-5)


class _Chooses:
    """Draws the candidate number `choice`."""

    def __init__(self, choice: int):
        self.choice = choice

    def integers(self, low: int, high: int) -> int:
        return min(low + self.choice, high - 1)


def check_frame_selection(case) -> None:
    """The farthest frames without draws; with them, every candidate can be drawn."""
    for found, row in zip(case.inputs["cases"].tolist(), case.outputs["frames"].tolist(), strict=True):
        from_zero, whole, distance, before, after, count, frame = found
        available = np.arange(count) + (0 if from_zero else 1)
        reach = (distance, distance) if whole else (before, after)
        back, ahead = candidates(frame, available, reach)
        chosen = neighbours(frame, available, reach, None)
        assert [chosen.previous, chosen.next, *chosen.margin.tolist(), len(back), len(ahead)] == row
        drawn = [neighbours(frame, available, reach, _Chooses(i)) for i in range(max(len(back), len(ahead), 1))]
        assert {d.previous for d in drawn} == ({frame - step for step in back.tolist()} or {frame})
        assert {d.next for d in drawn} == ({frame + step for step in ahead.tolist()} or {frame})


def check_annotations(case) -> None:
    """The original also looks at boxes that clipping leaves without a side; here they are left out."""
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    width, height = attrs["image_wh"]
    described = zip(attrs["annotations"], inputs["ann_keypoints"].tolist(), strict=True)
    listed = [
        a | {"id": i + 1, "image_id": 1, "category_id": 1, "keypoints": sum(keypoints, [])}
        for i, (a, keypoints) in enumerate(described)
    ]
    content = {
        "images": [{"id": 1, "file_name": "v/000000.jpg", "width": width, "height": height}],
        "annotations": listed,
        "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS)}],
    }
    annotations = coco.parse_keypoints(content, case.name)
    found = person_boxes.annotated(annotations, case.name)
    crop = PersonCrop(tuple(attrs.get("image_size_wh", CROP)), attrs["bbox_enlarge_factor"])
    sized = (expected["clean_box"][:, 2:] > 0).all(-1)
    names = ("kept", "clean_box", "joints", "joints_vis", "center", "scale")
    people = {name: expected[name][sized] for name in names}
    assert_allclose(found.box, people["clean_box"], atol=1e-4)
    assert_array_equal(found.keypoints, inputs["ann_keypoints"][people["kept"]][..., :2])
    assert_array_equal(found.keypoints, people["joints"][..., :2])
    assert_array_equal(found.visibility > 0, people["joints_vis"][..., 0] > 0)
    _check_views(crop, found.box, people, "")
    detections = zip(inputs["det_bbox"].tolist(), inputs["det_score"].tolist(), inputs["det_category"].tolist())
    records = [{"image_id": 1, "bbox": b, "score": s, "category_id": c} for b, s, c in detections]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(records, file)
        file.flush()
        boxes = coco.read_detections(file.name, annotations.image_id)
    boxes = confident(boxes, attrs["image_score_threshold"])
    assert_allclose(boxes["score"], expected["det_kept_score"], rtol=1e-6)
    _check_views(crop, boxes["box"], expected, "det_kept_")


def _check_views(crop: PersonCrop, boxes: np.ndarray, expected: dict, prefix: str) -> None:
    view = crop.view(boxes)
    assert_allclose(view.center, expected[f"{prefix}center"], rtol=1e-5)
    assert_allclose(view.size / 200, expected[f"{prefix}scale"], rtol=1e-5)


def check_sample(case) -> None:
    """Random view, three crops, joints, targets and normalised input of one person."""
    for number, scenario in enumerate(case.attrs["scenarios"]):
        inputs, expected = (
            {k.removeprefix(f"{number}/"): v for k, v in arrays.items() if k.startswith(f"{number}/")}
            for arrays in (case.inputs, case.outputs)
        )
        _check_scenario(case, scenario["draws"], inputs, expected)


def _draws(draws: dict, visible: np.ndarray) -> Draws:
    """The draws in the order in which they are asked for."""
    many = (visible > 0).sum() > 8
    uniform = ([draws["half"]] if many else []) + [draws["rotp"], draws["flip"]]
    normal = ([draws["halfn"]] if "halfn" in draws else []) + [draws["scale"]]
    return Draws(normal + ([draws["rot"]] if draws["rotp"] <= 0.6 else []), uniform)


def _check_scenario(case, draws: dict, inputs: dict, expected: dict) -> None:
    attrs, joints = case.attrs, inputs["joints"][:, :2].astype(np.float32)
    visible = inputs["joints_vis"][:, 0]
    crop = PersonCrop(tuple(attrs["image_size_wh"]), attrs["bbox_enlarge_factor"])
    augmentation = NO_AUGMENTATION
    if draws:
        augmentation = Augmentation(
            scale=attrs["scale_factor"],
            rotation=attrs["rotation_factor"],
            mirror=0.5 if attrs["flip"] else 0.0,
            half_body=attrs["prob_half_body"],
        )
    view = crop.view(np.array(attrs["box_xywh"]))
    assert_allclose(view.center, inputs["center"], rtol=1e-6)
    assert_allclose(view.size / 200, inputs["scale"], rtol=1e-6)
    pictures = [case.inputs[f"image_{frame}"] for frame in ("prev", "cur", "next")]
    if draws:
        view = augmentation(view, joints, visible, POSETRACK, _draws(draws, visible))
    _check_view(view, expected, "", pictures[1].shape[1])
    examples = _examples(pictures, np.float32(attrs["box_xywh"]), joints, visible, crop, augmentation)
    example = examples.load(0, _draws(draws, visible) if draws else None)
    assert_array_equal(example["margin"], inputs.get("margin", np.ones(2)).reshape(-1))
    for frame, name in enumerate(("cur", "prev", "next")):
        if f"input_{name}" in expected:
            theirs = _grey_levels(expected[f"input_{name}"])
            picture = np.ascontiguousarray(pictures[(1, 0, 2)[frame]][..., ::-1])
            _check_image(crop, picture, view, example["image"][frame], theirs)
            ours = DCPose().normalize(theirs.astype(np.float32) / 255)
            assert_allclose(networks.to_channels_first(ours[None])[0], expected[f"input_{name}"], atol=1e-5)
    assert_allclose(example["keypoints"], expected["joints"][:, :2], atol=1e-3)
    seen = example["visible"] * np.asarray(within_crop(example["keypoints"], crop.size))
    assert_array_equal(seen, expected["joints_vis"][:, 0])
    size = tuple(attrs["heatmap_size_wh"])
    stride = np.array(crop.size) / size
    maps, weight = heatmaps.gaussian_targets(example["keypoints"], seen, stride, size, attrs["sigma"])
    assert_allclose(np.moveaxis(maps, -1, 0), expected["target"], rtol=0, atol=1e-6)
    assert_array_equal(weight, expected["target_weight"].reshape(-1))


def _grey_levels(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a normalised input [3, H, W], which came from whole grey levels."""
    method = DCPose()
    levels = (image.transpose(1, 2, 0) * np.array(method.std) + np.array(method.mean)) * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-2
    return np.round(levels).astype(np.uint8)


def _examples(pictures, box, joints, visible, crop: PersonCrop, augmentation: Augmentation) -> ClipExamples:
    """One person in the second of three frames."""
    height, width = pictures[0].shape[:2]
    annotations = Annotations(
        skeleton=POSETRACK,
        image_id=np.arange(3),
        file_name=np.array([f"v/{frame:06d}.png" for frame in range(3)]),
        width=np.full(3, width, np.int32),
        height=np.full(3, height, np.int32),
        person_image=np.array([1], np.int32),
        person_id=np.array([1]),
        box=box[None],
        keypoints=joints[None],
        visibility=visible[None].astype(np.uint8),
        area=np.ones(1, np.float32),
        crowd=np.zeros(1, np.bool_),
        track_id=np.array([-1]),
        clip_boxes=False,
    )
    encoded = [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    source = Source("three frames", annotations, encoded.__getitem__)
    seen = person_boxes.annotated(annotations, source.name)
    return ClipExamples(source, seen, crop, augmentation, videos=Videos.by_file_name(annotations.file_name))


CHECKS = {
    "dcpose/joint_mse_loss": check_joint_mse_loss,
    "dcpose/heatmap_target": check_heatmap_target,
    "dcpose/decode": check_decode,
    "dcpose/heatmap_accuracy": check_heatmap_accuracy,
    "dcpose/keypoint_order": check_keypoint_order,
    "dcpose/boxes_affine": check_boxes_affine,
    "dcpose/frame_selection": check_frame_selection,
    "dcpose/annotations": check_annotations,
    "dcpose/train_sample": check_sample,
    "dcpose/val_sample": check_sample,
}
