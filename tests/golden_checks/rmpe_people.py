"""RMPE around the network: crops, proposals, pose NMS, scores, results."""

import pathlib

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks.data import Draws as RecordedDraws
from golden_checks.skeletons import skeleton_of
from jaxpose.cli import inputs
from jaxpose.data.proposals import PoseGuidedProposals, inside
from jaxpose.data.views import Augmentation, PersonCrop, View
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.coco import CocoKeypoints
from jaxpose.evaluation.suppression import Suppression
from jaxpose.ops import geometry, heatmaps, oks
from jaxpose.ops.pose_nms import PoseNMS, pairwise_similarity, pose_nms, reference_distance

MEANS_RGB = np.array([0.406, 0.457, 0.480], np.float32)
CROP_TOLERANCE = 0.02
"""OpenCV interpolates with weights of 1/32 pixel."""
ROTATIONS = (30, -45, 90, 12.5, 180)

run_nms = jax.jit(pose_nms)


class Draws(RecordedDraws):
    """Recorded draws that know how many are left."""

    @property
    def left(self) -> list[float]:
        return [*self._normal, *self._uniform]


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def to_xyxy(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def _suppress(keypoints, scores, boxes_xyxy, box_scores, rules: PoseNMS):
    """(result, indices of the kept poses in picking order)."""
    boxes, count = to_xywh(boxes_xyxy), len(scores)
    arrays = (keypoints, scores.reshape(keypoints.shape[:2]), boxes, box_scores.reshape(count), np.ones(count, bool))
    result = jax.device_get(run_nms(*arrays, rules))
    return result, result.order[result.keep[result.order]]


def _similarity(keypoints, scores, boxes_xyxy, rules: PoseNMS):
    scores = scores.reshape(keypoints.shape[:2])
    reference = reference_distance(to_xywh(boxes_xyxy), rules)
    return jax.device_get(pairwise_similarity(keypoints, scores, reference, rules))


def _sets(case) -> list[tuple[str, list[np.ndarray]]]:
    names = sorted({key.split("/")[0] for key in case.inputs})
    return [(n, [case.inputs[f"{n}/{k}"] for k in ("pose", "score", "boxes", "box_score")]) for n in names]


def check_pose_nms(case) -> None:
    attrs, expected = case.attrs, case.outputs
    rules = PoseNMS.preset(
        "alphapose",
        **{name: attrs[name] for name in ("delta1", "delta2", "mu", "gamma", "alpha", "min_box_area")},
        match_count=attrs["matchThreds"],
        score_threshold=attrs["scoreThreds"],
    )
    for name, (poses, scores, boxes, box_scores) in _sets(case):
        result, pick = _suppress(poses, scores, boxes, box_scores, rules)
        assert_array_equal(pick, expected[f"{name}/pick"], err_msg=name)
        merged = expected[f"{name}/merged"]
        for i, members in zip(pick, merged):
            assert_array_equal(np.flatnonzero(result.cluster == i), np.sort(members[members >= 0]), err_msg=name)
        assert_allclose(result.keypoints[pick], expected[f"{name}/pose"], rtol=1e-6, atol=1e-4, err_msg=name)
        shape = (len(pick), poses.shape[1])
        assert_allclose(
            result.scores[pick], expected[f"{name}/score"].reshape(shape), rtol=1e-5, atol=1e-7, err_msg=name
        )
        assert_allclose(result.person_score[pick], expected[f"{name}/proposal_score"], rtol=1e-5, err_msg=name)
        assert_allclose(boxes[pick], expected[f"{name}/boxes"], err_msg=name)
        if f"{name}/similarity" in expected:
            replaced = np.where(scores == 0, np.float32(1e-5), scores)
            similarity, matches = _similarity(poses, replaced, boxes, rules)
            assert_allclose(similarity, expected[f"{name}/similarity"], rtol=1e-4, atol=1e-5, err_msg=name)
            assert_array_equal(matches, expected[f"{name}/matches"], err_msg=name)


def check_pose_nms_2016(case) -> None:
    attrs, expected = case.attrs, case.outputs
    names = ("delta1", "delta2", "mu", "gamma", "alpha", "score_threshold")
    rules = PoseNMS.preset("rmpe2017", **{name: attrs[name] for name in names})
    for name, (poses, scores, boxes, box_scores) in _sets(case):
        result, pick = _suppress(poses, scores, boxes, box_scores, rules)
        picked = np.unique(result.cluster)
        assert len(picked) == expected[f"{name}/kept_before_score_test"], name
        assert_allclose(result.keypoints[pick], expected[f"{name}/pose"], rtol=1e-6, atol=1e-4, err_msg=name)
        assert_allclose(result.scores[pick], expected[f"{name}/score"], rtol=1e-5, err_msg=name)
        similarity, _ = _similarity(poses, scores, boxes, rules)
        assert_allclose(similarity, expected[f"{name}/similarity"], rtol=1e-4, atol=1e-5, err_msg=name)


def _draws(row: np.ndarray) -> Draws:
    """u0, u1, u2, z0 ... z3."""
    return Draws(normal=row[3:].tolist(), uniform=row[:3].tolist())


NOBODY = (np.zeros((0, 2)), np.zeros(0))


def check_add_dpg(case) -> None:
    attrs, boxes = case.attrs, case.inputs["box"]
    proposals = PoseGuidedProposals.single("alphapose", attrs["mean"], attrs["std"])
    assert proposals.patch_threshold == attrs["patch_threshold"]
    for box, draw, expected in zip(boxes, case.inputs["draw"], case.outputs["box"]):
        drawn = proposals.draw(to_xywh(box[:4]), *NOBODY, tuple(box[4:]), _draws(draw)).box
        assert_allclose(to_xyxy(drawn), expected, rtol=1e-12, atol=1e-9)


def _pixels(box: np.ndarray, joints: np.ndarray, resolution: int) -> np.ndarray:
    """Map pixels of joints in the square crop of a box, which is cut at whole pixels; both are cut towards zero."""
    crop = PersonCrop((resolution, resolution), padding=1.0)
    view = crop.view(to_xywh(np.trunc(to_xyxy(box))))
    return np.trunc(geometry.apply_affine(geometry.crop_affine(view.center, view.size, crop.size), joints))


def check_pgpg_2017(case) -> None:
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    for i, row in enumerate(inputs["box"]):
        proposals = PoseGuidedProposals.single("rmpe2017", inputs["mean"][i], inputs["std"][i])
        assert proposals.patch_threshold == attrs["patch_threshold"]
        assert_allclose(2 * proposals.growth, attrs["expand"])
        box, size, joints = to_xywh(row[:4]), tuple(row[4:]), inputs["joints"][i].astype(np.float64)
        grown = proposals.base(box, size)
        assert_allclose(to_xyxy(grown), expected["expanded"][i], rtol=1e-6, atol=1e-4)
        drawn = proposals.draw(box, joints, joints.any(-1), size, _draws(inputs["draw"][i]))
        assert_allclose(to_xyxy(drawn.box), expected["box"][i], rtol=1e-6, atol=1e-4)
        for frame, region, name in (
            (drawn.box, drawn.box, "target"),
            (drawn.centered, drawn.centered_region, "target_parallel"),
        ):
            seen = joints.any(-1) & inside(region, joints)
            pixels = np.where(seen[:, None], _pixels(frame, joints, attrs["resolution"]), -1)
            assert_array_equal(pixels, expected[name][i], err_msg=f"{name} of box {i}")


def check_box_crop(case) -> None:
    attrs, expected, image = case.attrs, case.outputs, case.inputs["image"]
    height, width = attrs["input_size"]
    crop = PersonCrop((width, height), padding=attrs["scale_mult"])
    view = crop.view(to_xywh(case.inputs["box_xyxy"].astype(np.float64)))
    assert_allclose(view.center, expected["center"], rtol=1e-6)
    assert_allclose(view.size, expected["scale"], rtol=1e-6)
    corner = view.center - view.size / 2
    assert_allclose(to_xyxy(np.concatenate([corner, view.size], -1)), expected["crop_box"], rtol=1e-6, atol=1e-4)
    plain = geometry.crop_affine(view.center, view.size, crop.size)
    assert_allclose(plain, expected["matrix"], rtol=1e-5, atol=1e-4)
    turned = geometry.crop_affine(view.center, view.size, crop.size, np.resize(ROTATIONS, len(plain)).astype(float))
    assert_allclose(turned, expected["matrix_rotated"], rtol=1e-5, atol=1e-4)
    to_map = geometry.crop_affine(view.center, view.size, tuple(attrs["heatmap_size"][::-1]))
    assert_allclose(geometry.invert_affine(to_map), expected["matrix_inverse"], rtol=1e-5, atol=1e-4)
    for i, theirs in enumerate(expected["crop"]):
        canvas, _ = crop.cut(image, View(view.center[i], view.size[i]))
        ours = (canvas.astype(np.float32) / 255 - MEANS_RGB).transpose(2, 0, 1)
        assert_allclose(ours, theirs, rtol=0, atol=CROP_TOLERANCE)


def check_train_transform(case) -> None:
    """Proposal, crop and augmentation, in that order."""
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    height, width = attrs["input_size"]
    image_size = (attrs["image_width"], attrs["image_height"])
    joints = skeleton_of(inputs["joints"].shape[1], attrs["joint_pairs"], attrs["upper_body"])
    proposals, crop = PoseGuidedProposals.single(), PersonCrop((width, height))
    augmentation = Augmentation(
        scale=attrs["scale_factor"], rotation=attrs["rot_factor"], mirror=0.5, half_body=attrs["prob_half_body"]
    )
    blank = np.zeros((image_size[1], image_size[0], 3), np.uint8)
    for i, box in enumerate(inputs["box"]):
        keypoints, visible = inputs["joints"][i, :, :2, 0], inputs["joints"][i, :, 0, 1]
        used = {name: int(expected[f"used_{name}"][i]) for name in ("u_py", "u_np", "z")}
        python = inputs["u_py"][i, : used["u_py"]].tolist()
        draws = Draws(inputs["zb"][i], python[:-2])
        boxed = proposals.draw(to_xywh(box), keypoints, visible, image_size, draws).box
        # The original mirrors where its draw exceeds .5, `Augmentation` where it does not exceed the probability.
        uniform = [*inputs["u_np"][i, : used["u_np"]], python[-2], 1 - python[-1]]
        rng = Draws(inputs["z"][i, : used["z"]].tolist(), uniform)
        view = augmentation(crop.view(boxed), keypoints, visible, joints, rng)
        assert not rng.left, f"draws left over at box {i}: {rng.left}"
        center = np.array([image_size[0] - 1 - view.center[0], view.center[1]]) if view.mirror else view.center
        region = to_xyxy(np.concatenate([center - view.size / 2, view.size]))
        assert_allclose(region, expected["crop_box"][i], rtol=1e-5, atol=1e-2)
        example = crop.example(blank, view, keypoints, visible, joints)
        assert_allclose(example["keypoints"], expected["joints"][i, :, :2, 0], rtol=1e-5, atol=1e-3)
        assert_array_equal(example["visible"], expected["joints"][i, :, 0, 1])


def _shifted_in_place(maps: np.ndarray) -> np.ndarray:
    """What the original's shift gave on the machine of the recording, from correctly shifted maps [..., W, K].

    It copies a tensor onto itself, which is undefined: there, each run of 16 columns was read before it was written, so
    that the first column of every later run got the value of the column before it.
    """
    torn = maps.copy()
    torn[..., 17::16, :] = maps[..., 16:-1:16, :]
    return torn


def check_pipeline_heatmaps(case) -> None:
    """Heatmaps of every detection -> joints -> pose NMS -> person scores."""
    attrs, inputs = case.attrs, case.inputs
    (height, width), map_size = attrs["input_size"], attrs["heatmap_size"]
    maps = inputs["heatmap"].transpose(0, 2, 3, 1)
    joints = skeleton_of(maps.shape[-1], attrs["joint_pairs"])
    mirrored = heatmaps.flip_back(inputs["heatmap_mirrored"].transpose(0, 2, 3, 1), joints.flip_index)
    mirrored = _shifted_in_place(np.asarray(mirrored))
    region = to_xywh(inputs["crop_box"].astype(np.float64))
    center, size = region[:, :2] + region[:, 2:] / 2, region[:, 2:]
    to_image = geometry.invert_affine(geometry.crop_affine(center, size, (width, height))).astype(np.float32)
    for name, averaged in (("plain", maps), ("flip", (maps + mirrored) / 2)):
        expected = {key.split("/")[1]: value for key, value in case.outputs.items() if key.startswith(f"{name}/")}
        positions, scores = heatmaps.decode(averaged, width / map_size[1])
        keypoints = np.asarray(geometry.apply_affine(to_image, np.asarray(positions)))
        assert_allclose(keypoints, expected["decoded"], rtol=1e-5, atol=1e-3)
        assert_allclose(scores, expected["decoded_score"][..., 0], rtol=1e-6)
        result, pick = _suppress(
            keypoints, np.asarray(scores), inputs["box_xyxy"], inputs["box_score"], PoseNMS.preset("alphapose")
        )
        assert_array_equal(pick, expected["pick"])
        assert_allclose(result.keypoints[pick], expected["pose"], rtol=1e-5, atol=1e-3)
        assert_allclose(result.scores[pick], expected["score"][..., 0], rtol=1e-5)
        assert_allclose(result.person_score[pick], expected["proposal_score"], rtol=1e-5)
        assert_allclose(inputs["box_xyxy"][pick], expected["box"])


def check_result_json(case) -> None:
    """People as COCO results. The 18-point formats of other programs are not written."""
    paths = [pathlib.Path(name) for name in case.attrs["images"]]
    ids = inputs.image_ids(paths, None)
    joints = skeleton_of(next(len(a) for key, a in case.inputs.items() if key.endswith("/keypoints")))
    metric, boxes = CocoKeypoints(MetricContext(joints, suppression=Suppression("none"))), []
    people = sorted(({key.split("/")[0] for key in case.inputs}), key=lambda p: [int(n) for n in p.split("_")])
    for index, person in enumerate(people):
        image = paths[int(person.split("_")[0])]
        values = {key: case.inputs[f"{person}/{key}"] for key in ("keypoints", "score", "box_score", "box_xywh")}
        scores = values["score"].reshape(1, -1)
        rows = {
            "image_id": [ids[image]],
            "index": [index],
            "keypoints": values["keypoints"][None],
            "scores": scores,
            "person_score": oks.proposal_score(scores, values["box_score"].reshape(1)),
            "area": [1.0],
        }
        metric.update(rows)
        boxes.append((image.name, values["box_xywh"]))
    ours = metric.results()
    formats = case.manifest["json"]
    assert len(ours) == len(formats["coco_eval"]) == len(formats["coco"])
    for mine, (name, box), theirs, named in zip(ours, boxes, formats["coco_eval"], formats["coco"]):
        assert (mine["image_id"], mine["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert named["image_id"] == name
        assert_allclose(mine["keypoints"], theirs["keypoints"], rtol=1e-7)
        assert_allclose(mine["score"], theirs["score"], rtol=1e-6)
        assert_allclose(box, theirs["box"])


CHECKS = {
    "rmpe/pose_nms": check_pose_nms,
    "rmpe/pose_nms_2016": check_pose_nms_2016,
    "rmpe/pgpg_2017": check_pgpg_2017,
    "rmpe/add_dpg": check_add_dpg,
    "rmpe/train_transform": check_train_transform,
    "rmpe/box_crop": check_box_crop,
    "rmpe/pipeline_heatmaps": check_pipeline_heatmaps,
    "rmpe/result_json": check_result_json,
}
