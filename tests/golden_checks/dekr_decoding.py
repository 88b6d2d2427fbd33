"""DEKR after the network: centres, scores, pose NMS, matching to heatmaps, rescoring and its training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks.networks import FORWARD, LOSS, to_channels_last
from jaxpose import skeleton as skeletons
from jaxpose.data.examples.images import lay_out
from jaxpose.evaluation.best_oks import best_oks
from jaxpose.evaluation.rescoring import PoseFeatures, convert, expected_oks
from jaxpose.evaluation.rescoring_training import Recipe, targets, train, with_box_areas
from jaxpose.methods.dekr import decode as candidates
from jaxpose.methods.dekr.decode import Candidates, Matching, People, Selection
from jaxpose.methods.dekr.method import DEKR, merge_views
from jaxpose.ops import geometry
from jaxpose.ops.peaks import local_maxima
from jaxpose.types import image_field

FITTED = 1e-2
"""Pixels between two least-squares fits of a peak."""
VALUE = {"rtol": 1e-5, "atol": 1e-6}
PIXELS = {"rtol": 1e-6, "atol": 1e-3}

decode = jax.jit(candidates.decode, static_argnums=1)
absorb, match_to_heatmaps = (jax.jit(f, static_argnums=2) for f in (candidates.absorb, candidates.match_to_heatmaps))
select = jax.jit(candidates.select, static_argnums=(2, 3))
find_centers = jax.jit(candidates.center_maxima, static_argnums=1)


def _selection(attrs: dict, **changes) -> Selection:
    """The settings that a manifest names."""
    names = {
        "max_num_people": "max_people",
        "keypoint_threshold": "threshold",
        "nms_threshold": "nms_threshold",
        "nms_count": "nms_count",
        "decrease": "decrease",
    }
    fields = {ours: attrs[name] for name, ours in names.items() if name in attrs}
    if "pool_threshold_1" in attrs:
        fields["pool_thresholds"] = (attrs["pool_threshold_1"], attrs["pool_threshold_2"])
    return Selection(**fields | changes)


def _check_people(people: People, pose: np.ndarray, score: np.ndarray, pixels: dict = PIXELS) -> None:
    """Valid people, in order, against poses [P, K, (x, y, score)] and person scores."""
    assert_array_equal(people.valid, np.arange(people.valid.shape[-1]) < len(pose))
    people = jax.tree.map(lambda rows: rows[: len(pose)], people)
    assert_allclose(people.keypoints, pose[..., :2], **pixels)
    assert_allclose(people.scores, pose[..., 2], **VALUE)
    assert_allclose(people.person_score, score.reshape(-1), **VALUE)


# --- centres, suppression, matching ---


def check_center_maxima(case) -> None:
    people = case.attrs["max_num_people"]
    for i in range(len(case.inputs)):
        centers, expected = case.inputs[f"{i}/center"], {k: case.outputs[f"{i}/{k}"] for k in ("index", "score")}
        limit = people[i] if isinstance(people, list) else people
        selection = _selection(case.attrs, max_people=limit)
        maxima = local_maxima(centers[..., None], selection.pool(*centers.shape))[..., 0]
        assert_array_equal(maxima, np.where(centers == case.outputs[f"{i}/pooled"], centers, 0))
        index, score, valid = find_centers(centers, selection)
        assert_array_equal(valid, np.arange(limit) < len(expected["index"]))
        assert_array_equal(index[valid], expected["index"])
        assert_array_equal(score[valid], expected["score"])


@jax.jit
def _suppress(poses, score, threshold: float, count: int) -> tuple[jax.Array, jax.Array]:
    near = candidates.neighbors(poses, jnp.ones(len(poses), bool), threshold, count)
    return candidates.pose_nms(near, score)


def check_nms_core(case) -> None:
    for i, settings in enumerate(case.attrs["settings"]):
        poses, score = case.inputs[f"{i}/pose"], case.inputs[f"{i}/score"]
        assert_allclose(np.square(candidates.diagonal(poses)), case.outputs[f"{i}/area"], rtol=1e-5)
        order, count = _suppress(poses, score, settings["nms_threshold"], settings["nms_count"])
        assert_array_equal(order[:count], case.outputs[f"{i}/keep"], err_msg=f"setting {i}")


def check_pose_nms(case) -> None:
    attrs, scales = case.attrs, case.attrs["scales"]
    heatmaps = to_channels_last(case.inputs["heatmap"])[0, ..., :-1]
    poses = [case.inputs[f"pose_{i}"] for i in range(len(scales))]
    found = [Candidates(p[..., :2], jnp.asarray(p[:, 0, 2]), np.ones(len(p), bool)) for p in poses]
    everyone = candidates.join(found, scales.index(1), attrs["decrease"])
    heat = candidates.heat_values([(heatmaps, 1)], everyone.keypoints, heatmaps.shape[1::-1])
    if "heat_value" in case.outputs:
        assert_allclose(heat, case.outputs["heat_value"], **VALUE)
    people = select(everyone, heat, _selection(attrs), len(scales))
    _check_people(people, case.outputs["pose"], case.outputs["score"])


def check_match_heatmap(case) -> None:
    """With the original's way of reading windows at the border, which is not the default."""
    attrs, pose = case.attrs, case.inputs["pose"]
    distance, score, radius = (attrs[name] for name in ("max_absorb_distance", "adjust_threshold", "kernel"))
    rules = Matching(distance, score, radius, attrs["sigma"], mixed_borders=True)
    selection = Selection(max_people=attrs["max_num_people"], matching=rules)
    maps = to_channels_last(case.inputs["heatmap"][None])[0, ..., : pose.shape[1]]
    people = People(pose[..., :2], pose[..., 2], pose[..., 2].mean(-1), np.ones(len(pose), bool))
    absorbed = absorb(people, maps, selection)
    assert_allclose(absorbed.keypoints, case.outputs["absorbed"][..., :2], **PIXELS)
    matched = match_to_heatmaps(people, maps, selection)
    assert_allclose(matched.keypoints, case.outputs["refined"][..., :2], rtol=0, atol=FITTED)
    assert_array_equal(matched.scores, case.outputs["refined"][..., 2])


# --- the whole way ---


class OriginalDEKR(DEKR):
    """Reads windows at the border as the original does."""

    @property
    def selection(self) -> Selection:
        matching = Matching(mixed_borders=True) if self.matching else None
        return dataclasses.replace(super().selection, matching=matching)


def _method(attrs: dict) -> DEKR:
    return OriginalDEKR(
        skeleton=attrs["dataset"],
        input_size=attrs["input_size"],
        scales=tuple(float(scale) for scale in attrs["scales"]),
        threshold=attrs["keypoint_threshold"],
        max_people=attrs["max_num_people"],
        pool_thresholds=(attrs["pool_threshold_1"], attrs["pool_threshold_2"]),
        nms_threshold=attrs["nms_threshold"],
        nms_count=attrs["nms_count"],
        decrease=attrs["decrease"],
        matching=attrs["match_heatmap"],
    )


def _averaged(case, method: DEKR) -> list[candidates.ScaleMaps]:
    """The maps of each scale, averaged over both passes."""
    maps = []
    for i, scale in enumerate(method.scales):
        views = []
        for view in (1, 2):
            heatmaps, offsets = (to_channels_last(case.inputs[f"{i}/{name}_{view}"]) for name in ("heatmap", "offset"))
            views.append({"heatmaps": heatmaps, "offsets": offsets.reshape(*offsets.shape[:3], -1, 2)})
        heatmaps, poses = merge_views(views, method.joints.flip_index)
        maps.append(candidates.ScaleMaps(scale, heatmaps[..., -1], poses, heatmaps))
    return maps


def check_decode(case) -> None:
    """Raw outputs of both passes at every scale -> people in pixels of the image, step by step and by the method."""
    attrs, expected, method = case.attrs, case.outputs, _method(case.attrs)
    layout = method.layout(attrs["image_width"], attrs["image_height"])
    size = layout.sizes[layout.base]
    assert list(size) == attrs["base_size_wh"]
    maps = _averaged(case, method)
    full = sum(candidates.upsample(m.heatmaps, m.factor, size) for m in maps) / len(maps)
    assert_allclose(full[0, :12, :12].transpose(2, 0, 1), expected["heatmap_average_corner"], **VALUE)
    assert_allclose([full.mean(), full.std(ddof=1)], expected["stats/heatmap_average"], rtol=1e-4)
    for i, m in enumerate(maps):
        found, proposals = candidates.propose(m, method.selection), expected[f"proposals_{i}"]
        assert_array_equal(found.valid[0], np.arange(found.valid.shape[1]) < len(proposals))
        assert_allclose(found.keypoints[0, : len(proposals)], proposals[..., :2], **PIXELS)
        assert_allclose(found.score[0, : len(proposals)], proposals[:, 0, 2], **VALUE)
    joints = [dataclasses.replace(m, heatmaps=m.heatmaps[..., :-1]) for m in maps]
    plain = decode(joints, dataclasses.replace(method.selection, matching=None))
    _check_people(jax.tree.map(lambda rows: rows[0], plain), expected["pose_nms"], expected["score_nms"])
    if method.matching:
        matched = decode(joints, method.selection)
        pixels = {"rtol": 0, "atol": FITTED}
        _check_people(
            jax.tree.map(lambda rows: rows[0], matched), expected["pose_matched"], expected["score_nms"], pixels
        )
    _check_final(case, method, maps, geometry.invert_affine(layout.to_canvas[layout.base]))


def _check_final(case, method: DEKR, maps: list[candidates.ScaleMaps], to_image: np.ndarray) -> None:
    """The method's own poses in the image, without and with rescoring."""
    expected = case.outputs
    outputs = {f"heatmaps_x{m.scale:g}": m.heatmaps for m in maps} | {f"poses_x{m.scale:g}": m.poses for m in maps}
    stream = {"to_image": to_image[None].astype(np.float32), "valid": np.ones(1, bool)}
    poses = jax.tree.map(lambda rows: rows[0], jax.jit(method.decode)(outputs, {"source": stream}))
    people = People(poses.keypoints, poses.scores, poses.person_score, poses.valid)
    pixels = {"rtol": 0, "atol": FITTED} if method.matching else PIXELS
    _check_people(people, expected["pose_final"], expected["score_nms"], pixels)
    rescorer, found = convert(case.state_dict, _features(case.attrs)), people.valid
    foretold = expected_oks(rescorer.params, rescorer.features(people.keypoints, people.scores))
    rescored = rescorer(people.keypoints, people.scores, people.person_score)
    tolerance = FITTED if method.matching else FORWARD
    assert_allclose(foretold[found], expected["oks_predicted"], rtol=0, atol=tolerance)
    assert_allclose(rescored[found], expected["score_final"], rtol=0, atol=tolerance)


def check_resize_and_back(case) -> None:
    """An image on a canvas of some scale, and poses of the canvas of scale 1 in pixels of the image."""
    for i, setting in enumerate(case.attrs["settings"]):
        image, pose = case.inputs[f"{i}/image"], case.inputs[f"{i}/pose"]
        expected = {name: case.outputs.get(f"{i}/{name}") for name in ("image", "size_wh", "matrix", "center", "scale")}
        scales = tuple(sorted({1.0, setting["scale"]}))
        method = DEKR(input_size=setting["input_size"], scales=scales)
        layout = method.layout(image.shape[1], image.shape[0])
        own = scales.index(setting["scale"])
        size, to_canvas = np.array(layout.sizes[own]), layout.to_canvas[own]
        assert_array_equal(size, expected["size_wh"])
        assert_allclose(to_canvas, expected["matrix"], rtol=1e-6, atol=1e-5)
        assert_allclose(geometry.apply_affine(to_canvas, expected["center"][None])[0], size / 2, rtol=1e-6)
        assert_allclose(size / to_canvas[0, 0] / 200, expected["scale"], rtol=1e-6)
        fields = lay_out(image, layout, scales)
        if expected["image"] is not None:
            difference = fields[image_field(scales[own])].astype(int) - expected["image"]
            assert np.abs(difference).max() <= 1, f"setting {i}"
        final = case.outputs[f"{i}/final"]
        assert_allclose(geometry.apply_affine(fields["to_image"], pose[..., :2]), final[..., :2], **PIXELS)


# --- rescoring ---


def _features(attrs: dict) -> PoseFeatures:
    features = PoseFeatures.of(skeletons.get(attrs["dataset"]))
    if "links_from" in attrs:
        links = tuple(zip(attrs["links_from"], attrs["links_to"], strict=True))
        assert features.links == links
        assert features.units == tuple(attrs["normalizing_links"])
    assert features.joints == attrs["num_joints"]
    return features


def check_rescore(case) -> None:
    pose, expected = case.inputs["pose"], case.outputs
    rescorer = convert(case.state_dict, _features(case.attrs))
    features = rescorer.features(pose[..., :2], pose[..., 2])
    assert_allclose(features, expected["feature"], **VALUE)
    assert_allclose(expected_oks(rescorer.params, features), expected["oks"], rtol=0, atol=FORWARD)
    score = rescorer(pose[..., :2], pose[..., 2], case.inputs["score"])
    assert_allclose(score, expected["score"], rtol=0, atol=FORWARD)


def check_rescore_data(case) -> None:
    attrs, inputs = case.attrs, case.inputs
    joints = inputs["gt_keypoints"]
    annotations = [
        {
            "image_id": int(image),
            "keypoints": joints[i].reshape(-1).tolist(),
            "num_keypoints": int((joints[i, :, 2] > 0).sum()),
            "bbox": inputs["gt_bbox"][i].tolist(),
            "area": float(inputs["gt_area"][i]),
            "iscrowd": int(inputs["gt_iscrowd"][i]),
        }
        for i, image in enumerate(inputs["gt_image"])
    ]
    truth = {"annotations": annotations}
    if attrs["dataset"] == "crowdpose":
        truth = with_box_areas(truth)
    found = zip(inputs["dt_image"], inputs["dt_keypoints"], inputs["dt_score"], strict=True)
    results = [{"image_id": int(i), "keypoints": k.reshape(-1).tolist(), "score": float(s)} for i, k, s in found]
    sigmas = skeletons.get(attrs["dataset"]).sigmas
    index, oks = best_oks(truth, results, sigmas, attrs["area_ranges"], attrs["max_dets"])
    assert_allclose(oks.reshape(-1), case.outputs["oks"], rtol=1e-5, atol=1e-6)
    poses = np.tile(inputs["dt_keypoints"][index], (len(attrs["area_ranges"]), 1, 1))
    assert_array_equal(poses, case.outputs["keypoints"])


def check_rescore_train(case) -> None:
    attrs, pose = case.attrs, case.inputs["pose"]
    rescorer = convert(case.state_dict, _features(attrs))
    inputs = np.asarray(rescorer.features(pose[..., :2], pose[..., 2]))
    stored = float(np.spacing(np.abs(pose[..., :2]).max()))  # positions were recorded as float32
    assert_allclose(inputs, case.outputs["feature"], rtol=0, atol=stored)
    wanted = targets(case.inputs["raw_oks"])
    assert_array_equal(wanted, case.outputs["target"])
    recipe = Recipe(batch_size=attrs["batch_size"], learning_rate=attrs["lr"])
    params, losses = train(rescorer.params, inputs, wanted[None], case.inputs["permutation"], recipe)
    assert_allclose(losses, case.outputs["epoch_loss"], rtol=LOSS)
    assert_allclose(expected_oks(params, inputs), case.outputs["oks"], rtol=0, atol=FORWARD)


CHECKS = {
    "dekr/center_maxima": check_center_maxima,
    "dekr/nms_core": check_nms_core,
    "dekr/pose_nms": check_pose_nms,
    "dekr/match_heatmap": check_match_heatmap,
    "dekr/decode": check_decode,
    "dekr/decode_multiscale": check_decode,
    "dekr/resize_and_back": check_resize_and_back,
    "dekr/rescore": check_rescore,
    "dekr/rescore_data": check_rescore_data,
    "dekr/rescore_train": check_rescore_train,
}
