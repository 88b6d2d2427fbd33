"""Checks build what a manifest says: cases with other joints, sizes and options than those that are published.

What is expected of them is computed here, independently of the library, or follows from a published case.
"""

import copy
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from golden_checks import (
    cases,
    data,
    dcpose,
    dsnt,
    grouping,
    heatmaps,
    metrics,
    networks,
    prtr,
    prtr_complete,
    rmpe_networks,
    rmpe_people,
    ties,
)
from golden_checks.skeletons import skeleton_of
from jaxpose import skeleton
from jaxpose.methods.prtr.deform_attention import deformable_attention

CARRIED = pathlib.Path(__file__).parents[1] / "golden"
ALL = pathlib.Path(os.environ.get("JAXPOSE_GOLDEN") or CARRIED)


def case(name: str, root: pathlib.Path = CARRIED) -> cases.Case:
    """A published case, to be changed."""
    if not (root / name / "manifest.json").exists():
        pytest.skip(f"{name} is not among the cases of {root}")
    found = cases.load(root / name)
    return cases.Case(found.name, found.folder, copy.deepcopy(found.manifest), found.inputs, found.outputs)


def made(attrs: dict, inputs: dict, outputs: dict, **manifest) -> cases.Case:
    return cases.Case("made/here", CARRIED, manifest | {"attrs": attrs}, inputs, outputs)


# --- skeletons ---


class TestSkeletons:
    def test_usual_ones_are_those_of_the_library(self):
        assert [skeleton_of(n) for n in (17, 16, 14, 21)] == list(map(skeleton.get, prtr_names()))
        assert skeleton_of(17, skeleton.COCO.flip_pairs, range(11)) is skeleton.COCO

    @pytest.mark.parametrize("joints", [1, 5, 15, 26, 133])
    def test_any_number_of_joints(self, joints):
        found = skeleton_of(joints)
        assert found.num_joints == joints
        assert skeleton.get(found.name) == found
        assert found.flip_pairs == ()

    def test_pairs_and_upper_body_of_a_manifest(self):
        found = skeleton_of(16, [[0, 5], [1, 4]], [7, 8], [0.1] * 16)
        assert found.flip_pairs == ((0, 5), (1, 4))
        assert found.upper_body_indices == (7, 8)
        assert found.sigmas == (0.1,) * 16
        assert skeleton_of(17, [[1, 2]]).flip_pairs == ((1, 2),)
        assert skeleton_of(17, [[1, 2]]).upper_body_indices == skeleton.COCO.upper_body_indices


def prtr_names() -> tuple[str, ...]:
    return ("coco", "mpii", "crowdpose", "hand")


# --- more joints than the published cases have ---


def with_unseen(joints: np.ndarray, count: int) -> np.ndarray:
    """[..., K, ...] with `count` more joints behind the others, all zero."""
    axis = 1 if joints.ndim == 4 else 0
    shape = list(joints.shape)
    shape[axis] = count
    return np.concatenate([joints, np.zeros(shape, joints.dtype)], axis)


HALPE = [*([k, k + 1] for k in range(1, 16, 2)), [20, 21], [22, 23], [24, 25]]
"""Mirror pairs of 26 joints."""


def test_training_transform_of_26_joints():
    """Joints that nobody sees draw nothing and stay (0, 0)."""
    found = case("rmpe/train_transform")
    found.manifest["attrs"]["joint_pairs"] = HALPE
    for arrays in (found.inputs, found.outputs):
        arrays["joints"] = with_unseen(arrays["joints"], 9)
    rmpe_people.check_train_transform(found)


@pytest.mark.parametrize("name", ["hrnet/augment", "hrnet/augment_flip", "hrnet/augment_half_body_flip"])
def test_augmentation_of_26_joints(name):
    found = case(name)
    found.manifest["attrs"] |= {"flip_pairs": HALPE, "upper_body_ids": list(range(11))}
    for arrays in (found.inputs, found.outputs):
        for key in ("joints", "joints_vis"):
            arrays[key] = with_unseen(arrays[key], 9)
    data.check_augment(found)


def test_flipped_maps_of_26_joints():
    found = case("rmpe/flip_heatmap")
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 26, 7, 33)).astype(np.float32)
    index = np.arange(26)
    for a, b in HALPE:
        index[[a, b]] = b, a
    flipped = maps[:, index, :, ::-1]
    shifted = np.concatenate([flipped[..., :1], flipped[..., :-1]], -1)
    joints = rng.uniform(1, 90, (26, 3, 2)).astype(np.float32)
    joints[..., 1] = (rng.random(26) < 0.6)[:, None]
    moved = joints[index]
    moved[:, 0, 0] = np.where(moved[:, 0, 1] > 0, 97 - 1 - moved[:, 0, 0], 0)
    moved[:, 1, 0] = np.where(moved[:, 0, 1] > 0, moved[:, 1, 0], 0)
    attrs = found.attrs | {"joint_pairs": HALPE, "width": 97}
    outputs = {"flipped": flipped, "flipped_shifted": shifted, "joints": moved}
    heatmaps.check_flip_heatmap(made(attrs, {"heatmap": maps, "joints": joints}, outputs))


def test_results_of_26_joints():
    found = case("rmpe/result_json")
    for key in [key for key in found.inputs if key.endswith(("/keypoints", "/score"))]:
        found.inputs[key] = np.concatenate([found.inputs[key], np.full((9, *found.inputs[key].shape[1:]), 0.25)])
    people = sorted({key.split("/")[0] for key in found.inputs}, key=lambda p: [int(n) for n in p.split("_")])
    for person, record in zip(people, found.manifest["json"]["coco_eval"], strict=True):
        score = found.inputs[f"{person}/score"]
        record["keypoints"] += [0.25] * 27
        record["score"] = float(score.mean() + 1.25 * score.max() + found.inputs[f"{person}/box_score"][0])
    rmpe_people.check_result_json(found)


@pytest.mark.parametrize("width", [12, 18, 40])
def test_decoding_on_maps_of_other_shapes(width):
    """RMPE's decoding of 2017 by its own words, in float64."""
    rng = np.random.default_rng(width)
    maps = rng.normal(size=(3, 26, 16, width)).astype(np.float32)
    boxes = np.array([[20, 30, 119, 131], [5, 40, 64, 171], [200, 10, 391, 71]], np.float32)
    extent = boxes[:, 2:] - boxes[:, :2]
    margin = np.float32(0.15) * extent
    limits = np.array([500, 400], np.float32)
    low, high = np.maximum(boxes[:, :2] - margin, 0), np.minimum(boxes[:, 2:] + margin, limits)
    crop = np.trunc(np.concatenate([low, high], 1))
    size = crop[:, 2:] - crop[:, :2]
    length = np.maximum(size[:, 1], size[:, 0] * 16 / width).astype(np.float64)
    region = np.stack([length * width / 16, length], 1)
    pad = np.maximum((region - size - 1) / 2, 0)
    place = maps.reshape(3, 26, -1).argmax(-1)
    points = np.stack([place % width + 1, place // width + 0.5], -1) * (length / 16)[:, None, None]
    expected = points - pad[:, None] + crop[:, None, :2]
    clear = (np.abs(expected - np.round(expected)) > 1e-3).all((0, 2))  # else rounding decides
    assert clear.sum() > 5
    maps, expected = maps[:, clear], expected[:, clear]
    outputs = {"crop_box": crop, "keypoints": np.trunc(expected), "score": maps.max((2, 3))}
    attrs = {"image_width": 500, "image_height": 400}
    heatmaps.check_decode_2017(made(attrs, {"heatmap": maps, "box_xyxy": boxes}, outputs))


def test_positions_left_of_a_patch_are_cut_towards_zero():
    """A joint of the grown box half a pixel left of the patch lies on its first column, one far left before it."""
    attrs = {"patch_threshold": 0.7, "expand": 0.3, "resolution": 64}
    inputs = {
        "box": np.array([[100.0, 100, 200, 200, 400, 400]]),
        "mean": np.zeros((1, 4), np.float32),
        "std": np.ones((1, 4), np.float32),
        "draw": np.array([[0.8, 1.0, 1.0, 0, 0, 0, 0]]),
        "joints": np.array([[[104.5, 150], [95, 150], [110, 150], [0, 0], [300, 300]]], np.float32),
    }
    scale = 64 / 81  # of the patch from 105 to 186
    rows = [int((150 - 105) * scale)] * 3
    parallel = np.array([[[0, rows[0]], [int(-10 * scale), rows[1]], [int(5 * scale), rows[2]], [-1, -1], [-1, -1]]])
    assert parallel[0, 1, 0] == -7  # not -8, its floor
    main = np.full_like(parallel, -1)
    main[0, 2] = parallel[0, 2]
    outputs = {"expanded": np.array([[85.0, 85, 215, 215]]), "box": np.array([[105.0, 105, 186, 186]])}
    rmpe_people.check_pgpg_2017(made(attrs, inputs, outputs | {"target": main, "target_parallel": parallel}))


# --- PRTR ---


def numpy_readout(logits, coords, background: bool) -> tuple[np.ndarray, np.ndarray]:
    """Chosen positions and probabilities, person by person."""
    used = logits if background else logits[..., :-1]
    exponential = np.exp(used - used.max(-1, keepdims=True))
    probability = exponential / exponential.sum(-1, keepdims=True)
    probability = probability[..., :-1] if background else probability
    chosen = [scipy.optimize.linear_sum_assignment(-p.T)[1] for p in probability]
    positions = np.stack([c[rows] for c, rows in zip(coords, chosen, strict=True)])
    scores = np.stack([p[rows, np.arange(len(rows))] for p, rows in zip(probability, chosen, strict=True)])
    return positions, scores


@pytest.mark.parametrize(("joints", "size", "people"), [(16, (256, 256), 3), (16, (160, 96), 1), (5, (48, 64), 2)])
def test_post_processing_of_other_joints(joints, size, people):
    rng = np.random.default_rng(joints)
    pairs = {16: [[0, 5], [1, 4], [2, 3], [10, 15], [11, 14], [12, 13]], 5: [[1, 2]]}[joints]
    index = np.arange(joints)
    for a, b in pairs:
        index[[a, b]] = b, a
    inputs = {
        "logits": rng.normal(0, 2, (people, 20, joints + 1)),
        "coords": rng.random((people, 20, 2)),
        "flip_logits": rng.normal(0, 2, (people, 20, joints + 1)),
        "flip_coords": rng.random((people, 20, 2)),
        "center": rng.uniform(50, 300, (people, 2)),
        "scale": np.repeat(rng.uniform(0.5, 2, (people, 1)), 2, 1) * [1, size[1] / size[0]],
    }
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    outputs = {}
    for prefix, background in (("", False), ("bg_", True)):
        found, scores = numpy_readout(inputs["logits"], inputs["coords"], background)
        mirrored, mirrored_scores = numpy_readout(inputs["flip_logits"], inputs["flip_coords"], background)
        mirrored = (mirrored * [-1, 1] + [1, 0])[:, index]

        def to_image(fractions):
            width = 200 * inputs["scale"][:, None, :1].astype(np.float64)
            pixels = fractions * np.array(size) - np.array(size) / 2
            return pixels * width / size[0] + inputs["center"][:, None]

        both = (found + mirrored) / 2
        outputs |= {
            f"{prefix}crop_coords": found * size,
            f"{prefix}scores": scores[..., None],
            f"{prefix}coords": to_image(found),
            f"{prefix}final_coords": to_image(both),
            f"{prefix}final_scores": ((scores + mirrored_scores[:, index]) / 2)[..., None],
        }
    attrs = {"image_size_wh": list(size), "num_joints": joints, "flip_pairs": pairs}
    prtr.check_post_process(made(attrs, inputs, outputs))


def numpy_sine(rows: int, columns: int, channels: int, normalize: bool = True) -> np.ndarray:
    """[channels, rows, columns] by the words of the specification."""
    halves = []
    for axis, count in ((0, rows), (1, columns)):
        place = np.arange(1, count + 1, dtype=np.float64)
        place = place / (count + 1e-6) * 2 * np.pi if normalize else place
        half = channels // 2
        angles = place[:, None] / 10000 ** (2 * (np.arange(half) // 2) / half)
        values = np.where(np.arange(half) % 2 == 0, np.sin(angles), np.cos(angles)).T
        values = values[:, :, None] if axis == 0 else values[:, None]
        halves.append(np.broadcast_to(values, (half, rows, columns)))
    return np.concatenate(halves)


def test_positions_on_maps_of_other_shapes():
    found = case("prtr/positional")
    half = found.attrs["num_pos_feats"]
    found.manifest["attrs"]["sizes"] = [[3, 5], [7, 2]]
    found.manifest["notes"] = "encoder_reference (batch, tokens, levels, (x, y)) for shapes (3,5),(2, 1) and ratios"
    outputs = {f"sine_{h}x{w}": numpy_sine(h, w, 2 * half) for h, w in ((3, 5), (7, 2))}
    outputs["sine_unnormalized"] = numpy_sine(3, 5, 2 * half, normalize=False)
    rows, columns = (found.state_dict[f"{name}_embed.weight"] for name in ("row", "col"))
    learned = [np.broadcast_to(columns[None, :5], (3, 5, half)), np.broadcast_to(rows[:3, None], (3, 5, half))]
    outputs["learned"] = np.concatenate(learned, -1).transpose(2, 0, 1)
    ratios, grids = found.inputs["valid_ratios"], []
    for level, (h, w) in enumerate(((3, 5), (2, 1))):
        x, y = np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h)
        grids.append(np.stack([x, y], -1).reshape(-1, 2) / ratios[:, level, None])
    outputs["encoder_reference"] = np.concatenate(grids, 1)[:, :, None] * ratios[:, None]
    outputs["inverse_sigmoid"] = found.outputs["inverse_sigmoid"]
    prtr.check_positional(cases.Case(found.name, found.folder, found.manifest, found.inputs, outputs))


def test_half_bodies_of_16_joints():
    found = case("prtr/geometry")
    upper = skeleton_of(16).upper_body_indices
    assert upper == tuple(range(7, 16))
    found.inputs["half_joints"] = found.inputs["half_joints"][:16]
    for name, draw in found.attrs["half_body_draws"].items():
        seen = found.inputs[f"half_vis_{name}"] = found.inputs[f"half_vis_{name}"][:16]
        joints = np.asarray(found.inputs["half_joints"], np.float64)
        visible = np.asarray(seen).reshape(16, -1)[:, 0] > 0
        parts = [[k for k in range(16) if visible[k] and (k in upper) == half] for half in (True, False)]
        chosen = parts[0] if draw < 0.5 and len(parts[0]) > 2 else parts[1] if len(parts[1]) > 2 else parts[0]
        expected = np.full((2, 2), -1.0)
        if len(chosen) >= 2:
            points, aspect = joints[chosen][:, :2], 288 / 384
            w, h = points.max(0) - points.min(0)
            size = np.array([w, w / aspect]) if w > aspect * h else np.array([h * aspect, h])
            expected = np.stack([points.mean(0), size * 1.5 / 200])
        found.outputs[f"half_{name}"] = expected
    prtr.check_geometry(found)


# --- sides of whole pixels ---


class TestSides:
    """Another program may take the derivative before a whole pixel where the library takes that behind it."""

    def stn(self):
        """Whole steps, a generic transform and a mirror image, as a program that looks to the left records them."""
        published = case("rmpe/stn_torch7")
        found = cases.Case("made/here", CARRIED, published.manifest, dict(published.inputs), dict(published.outputs))
        image = networks.to_channels_last(found.inputs["image"])
        cotangent = networks.to_channels_last(found.inputs["cotangent"])
        steps = rmpe_networks._sides(image, found.outputs["grid"], cotangent, "torch7")
        found.outputs["d_theta"] = found.outputs["d_theta"] - steps.sum(1)
        assert np.abs(steps.sum(1)).max() > 1
        return found

    def test_a_transformer_that_looks_to_the_left_passes(self):
        rmpe_networks.check_stn(self.stn())

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_but_no_other_derivative(self, number):
        found = self.stn()
        found.outputs["d_theta"][number] *= 1.01
        with pytest.raises(AssertionError, match=f"theta {number}"):
            rmpe_networks.check_stn(found)

    def attention(self):
        """Places of which half lie on whole pixels of a 4 x 8 and a 4 x 2 map."""
        rng, shapes = np.random.default_rng(0), ((4, 8), (4, 2))
        locations = rng.uniform(-0.1, 1.1, (2, 5, 3, 2, 4, 2))
        for level, (rows, columns) in enumerate(shapes):
            size = np.array([columns, rows])
            whole = (rng.integers(-1, size + 1, (2, 5, 3, 2, 2)) + 0.5) / size
            locations[:, :, :, level, :2] = whole
        arrays = {
            "value": rng.normal(size=(2, 40, 3, 4)),
            "sampling_locations": locations,
            "attention_weights": rng.random((2, 5, 3, 2, 4)),
            "cotangent": rng.normal(size=(2, 5, 12)),
        }
        inputs = {name: value.astype(np.float32) for name, value in arrays.items()}
        found = made({"spatial_shapes": [list(s) for s in shapes]}, inputs, {})
        names = ("value", "sampling_locations", "attention_weights")
        outputs = {"output": np.asarray(deformable_attention(inputs["value"], shapes, *(inputs[n] for n in names[1:])))}
        outputs |= {f"grad_{name}": self.differences(inputs, shapes, name) for name in names}
        return cases.Case("made/here", CARRIED, found.manifest, inputs, outputs)

    def differences(self, inputs, shapes, name, step=1e-3):
        """Central differences of the sum in float64; of places those to the left."""
        changed = {key: np.asarray(value, np.float64) for key, value in inputs.items()}
        flat = changed[name].reshape(-1)
        found = np.zeros(flat.shape)
        for i in range(flat.size):
            before, values = flat[i], []
            ends = (-step * 1e-2, 0.0) if name == "sampling_locations" else (-step, step)
            for move in ends:
                flat[i] = before + move
                values.append(numpy_attention(changed, shapes))
            flat[i] = before
            found[i] = (values[1] - values[0]) / (ends[1] - ends[0])
        return found.reshape(changed[name].shape)

    def test_attention_that_looks_to_the_left_passes(self):
        prtr_complete.check_deformable_core(self.attention())

    def test_but_attention_with_another_derivative_does_not(self):
        found = self.attention()
        found.outputs["grad_sampling_locations"][0, 0, 0, 0, 3, 0] += 0.05
        with pytest.raises(AssertionError, match="sampling_locations"):
            prtr_complete.check_deformable_core(found)

    def test_no_side_is_left_open_between_pixels(self):
        rng = np.random.default_rng(1)
        images, cotangent = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(2, 4, 3))
        points = rng.uniform(0.1, 3.9, (2, 4, 2))
        assert not ties.kinks(images, points, cotangent).any()
        points[0, 0, 1] = 2.0
        assert (ties.kinks(images, points, cotangent) != 0).sum() == 1


def numpy_attention(arrays: dict, shapes) -> float:
    """The sum of what is read times the cotangent, place by place, in float64."""
    value, places, weights = (arrays[n] for n in ("value", "sampling_locations", "attention_weights"))
    batch, queries, heads, levels, points, _ = places.shape
    cotangent, total, first = arrays["cotangent"].reshape(batch, queries, heads, -1), 0.0, 0
    for level, (rows, columns) in enumerate(shapes):
        maps = value[:, first : first + rows * columns].reshape(batch, rows, columns, heads, -1)
        first += rows * columns
        x, y = (places[:, :, :, level, :, axis] * n - 0.5 for axis, n in enumerate((columns, rows)))
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column = np.floor(y).astype(int) + i, np.floor(x).astype(int) + j
            inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            weight = (1 - np.abs(x - column)) * (1 - np.abs(y - row)) * inside * weights[:, :, :, level]
            image, head = np.arange(batch)[:, None, None, None], np.arange(heads)[:, None]
            read = maps[image, np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1), head]
            total += (weight[..., None] * read * cotangent[:, :, :, None]).sum()
    return float(total)


# --- builders of networks ---


def renumbered(found: cases.Case, pattern: tuple[str, ...], old: int, new: int) -> None:
    """Gives the entries of a checkpoint whose names have a part of `pattern` another number of joints."""
    found.manifest["params"] = [
        [name, [new if n == old and any(p in name for p in pattern) else n for n in shape]]
        for name, shape in found.manifest["params"]
    ]


class TestNetworks:
    """Networks of cases that are not carried with the repository (JAXPOSE_GOLDEN), with other joints."""

    @pytest.mark.parametrize("name", ["fastpose_r50_forward", "simplepose_r50_forward", "fastpose_r50_dcn_forward"])
    def test_rmpe_with_26_joints(self, name):
        found = case(f"rmpe/{name}", ALL)
        found.manifest["attrs"]["PRESET"]["NUM_JOINTS"] = 26
        renumbered(found, ("conv_out.", "final_layer."), 17, 26)
        found.manifest.pop("parameter_count")
        method, module, variables, image = rmpe_networks._network(found)
        assert method.joints.num_joints == 26
        outputs: Any = module.apply(variables, jnp.zeros((1, 64, 64, 3)))
        assert outputs["maps"].shape == (1, 1, 16, 16, 26)

    def test_transformers_with_26_joints(self):
        found = case("rmpe/sstn_forward", ALL)
        found.manifest["attrs"]["joints"] = 26
        renumbered(found, (".out.", ".back_out."), 16, 26)
        method, variables = rmpe_networks._sstn(found)
        assert method.joints.num_joints == 26
        assert variables["params"]["parallel"]["score0"]["bias"].shape == (26,)

    def test_dsnt_with_14_joints(self):
        found = case("dsnt/resnet18_t1", ALL)
        found.manifest["attrs"]["n_chans"] = 14
        assert dsnt.method_of(found).module().num_joints == 14

    @pytest.mark.slow
    def test_a_frozen_dcpose_without_rough_maps(self):
        found = case("dcpose/rsn_w48_forward", ALL)
        found.manifest["attrs"]["freeze_hrnet_weights"] = True
        for name in ("current_rough_heatmaps", "rough_heatmaps_channel0_1"):
            del found.outputs[name]
        dcpose.check_forward(found)

    def test_grouping_with_a_centre(self):
        attrs = json.loads((ALL / "higherhrnet/parse/manifest.json").read_text())["attrs"] if ALL != CARRIED else {
            "num_joints": 17, "max_num_people": 10, "detection_threshold": 0.1, "tag_threshold": 1.0, "nms_kernel": 5,
            "use_detection_val": True, "ignore_too_much": False, "nms_padding": 2,
        }  # fmt: skip
        plain = grouping._settings(attrs)
        settings = grouping._settings(attrs | {"num_joints": 18})
        assert settings.joint_order == (17, *plain.joint_order)

    def test_metrics_with_26_joints(self):
        sigmas = [0.01 * (k + 1) for k in range(26)]
        found = metrics._skeleton(made({"sigmas": sigmas}, {}, {}))
        assert found.sigmas == tuple(sigmas)
        assert metrics._skeleton(made({"sigmas": skeleton.COCO.sigmas}, {}, {})) is skeleton.COCO
