"""PRTR: networks, criterion, decoding, geometry."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from golden_checks.skeletons import skeleton_of
from jaxpose import convert
from jaxpose.methods.prtr.assignment import assign, take_assigned
from jaxpose.methods.prtr.deformable import cell_centers, logit
from jaxpose.methods.prtr.method import PRTR
from jaxpose.methods.prtr.names import rules
from jaxpose.methods.prtr.positional import LearnedEncoding, shrink_mask, sine_encoding
from jaxpose.ops import geometry


def method_of(case, **fields) -> PRTR:
    """The method that a network case describes."""
    attrs = case.attrs
    backbone = "hrnet_w32" if attrs["backbone"] == "hrnet" else f"resnet{attrs['backbone']}"
    return PRTR(
        skeleton=skeleton_of(attrs["num_joints"]).name,
        backbone=backbone,
        deformable="deform" in attrs["model"],
        feature_levels=attrs.get("num_feature_levels", 4),
        encoder_points=attrs.get("enc_n_points", 4),
        decoder_points=attrs.get("dec_n_points", 4),
        dilation=attrs["dilation"],
        positional=attrs["pos_embed"],
        hidden_dim=attrs["hidden_dim"],
        heads=attrs["nheads"],
        encoder_layers=attrs["enc_layers"],
        decoder_layers=attrs["dec_layers"],
        feedforward=attrs["dim_feedforward"],
        dropout=attrs["dropout"],
        pre_norm=attrs.get("pre_norm", False),
        num_queries=attrs["num_queries"],
        eos_coef=attrs["eos_coef"],
        keypoint_loss=attrs["kpt_loss_coef"],
        cost_class=attrs["cost_class"],
        cost_coord=attrs["cost_coord"],
        **fields,
    )


def check_forward(case) -> None:
    method = method_of(case)
    variables = convert.convert(case.state_dict, method)
    image = networks.to_channels_last(case.inputs["image"])
    apply = jax.jit(lambda v, x: method.module().apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, image))
    captured = captured["intermediates"]
    expected = case.outputs
    _check_inside(case, captured)
    for name, ours in (("logits", outputs["logits"]), ("coords", outputs["keypoints"])):
        assert_allclose(ours[-1], expected[f"pred_{name}"], rtol=0, atol=networks.FORWARD)
        assert_allclose(ours[:-1], expected[f"aux_{name}"], rtol=0, atol=networks.FORWARD)


def _check_inside(case, captured: dict) -> None:
    """Compares what the parts of the network gave, from the input on, so that the first difference names the part."""
    expected, atol = case.outputs, networks.FORWARD
    for row, stats in zip(case.attrs["stats_rows"], expected["stats"], strict=True):
        ours = networks.statistics(_part(captured, row))
        assert_allclose(ours, stats, rtol=networks.FORWARD, atol=atol, err_msg=row)
    corners = {
        "backbone_corner": networks.to_channels_first(captured["backbone"]["__call__"][0][-1]),
        "memory_corner": _part(captured, f"encoder{case.attrs['enc_layers'] - 1}"),  # before a final normalization
        "hs_corner": captured["decoder"]["__call__"][0],
    }
    for name, ours in corners.items():
        corner = expected[name]
        assert_allclose(ours[tuple(map(slice, corner.shape))], corner, rtol=0, atol=atol, err_msg=name)
    if "reference_points" in expected:
        reference = jax.nn.sigmoid(captured["reference_points"]["__call__"][0])
        assert_allclose(reference, expected["reference_points"], rtol=0, atol=atol)


def _part(captured: dict, name: str):
    """Output of a part by its original name: a layer, a stage (of HRNet: its first branch) or the final layer."""
    kind, number = re.fullmatch(r"([a-z_]+?)_?(\d*)", name).groups()
    if kind in ("encoder", "decoder"):
        return captured[kind][f"layer{number}"]["__call__"][0]
    backbone = captured["backbone"]
    if kind == "final_layer":
        return backbone["final_layer"]["__call__"][0]
    last = max((k for k in backbone if k.startswith(f"{name}_")), key=lambda k: int(k.split("_")[1]))
    output = backbone[last]["__call__"][0]
    return output[0] if kind == "stage" else output


def check_train_step(case) -> None:
    method = method_of(case)
    variables = convert.convert(case.state_dict, method)
    stream = {
        "image": networks.to_channels_last(case.inputs["image"]),
        "targets": case.inputs["target"],
        "visible": case.inputs["target_weight"][..., 0],
    }

    def loss(params):
        return method.loss(variables | {"params": params}, {"source": stream}, 0, jax.random.key(0))

    apply = jax.jit(lambda v, x: method.module().apply(v, x, train=True, mutable=["batch_stats"])[0])
    _check_layers(case, method, apply(variables, stream["image"]))
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (total, aux), gradients = jax.device_get(step(variables["params"]))
    expected = case.outputs
    assert_allclose(total, expected["total"], rtol=networks.LOSS)
    for name in ("loss_ce", "loss_kpts", "class_error", "cardinality_error"):
        index = case.attrs["loss_names"].index(name)
        assert_allclose(aux.metrics[name], expected["losses"][index], rtol=networks.LOSS)
    names = [_copy_in_effect(case, name) for name in case.attrs["grad_names"]]
    networks.check_gradients(gradients, rules(method), dict(zip(names, expected["grad_norms"], strict=True)))
    frozen = [networks.original_norm(gradients, rules(method), n) for n in case.attrs["frozen_parameters"]]
    assert_array_equal(frozen, 0.0)
    squares = sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(gradients))
    assert_allclose(np.sqrt(squares), expected["grad_norm_total"], rtol=networks.GRADIENT)
    _check_running_statistics(case, method, aux.batch_stats)


def _copy_in_effect(case, name: str) -> str:
    """The deformable variant lists one head once a decoder layer: the first name has its gradient, ours the last."""
    return re.sub(r"^(class|kpt)_embed\.\d+", rf"\1_embed.{case.attrs['dec_layers'] - 1}", name)


def _check_layers(case, method: PRTR, outputs: dict) -> None:
    """Outputs of the last layer, and losses and assignments of every layer."""
    expected, targets = case.outputs, case.inputs["target"]
    logits, keypoints = outputs["logits"], outputs["keypoints"]
    atol = networks.forward_tolerance(case)
    assert_allclose(logits[-1], expected["pred_logits"], rtol=0, atol=atol)
    assert_allclose(keypoints[-1], expected["pred_coords"], rtol=0, atol=atol)
    columns = assign(method.matching_cost(logits, keypoints, targets))
    assert_array_equal(columns, expected["indices"])
    visible = case.inputs["target_weight"][..., 0]
    _check_losses(case, method.criterion(logits, keypoints, targets, visible))


def _check_losses(case, losses: dict) -> None:
    """The original names losses of the last layer without, of earlier ones with a number."""
    for name, value in zip(case.attrs["loss_names"], case.outputs["losses"], strict=True):
        kind, number = re.fullmatch(r"(.*?)_?(\d*)", name).groups()
        assert_allclose(losses[kind][int(number) if number else -1], value, rtol=networks.LOSS, err_msg=name)


def _check_running_statistics(case, method: PRTR, batch_stats: dict) -> None:
    for name, value in case.outputs.items():
        if "running_" in name:
            ((path, _),) = (t for rule in rules(method) for t in rule.targets(name) or ())
            assert_allclose(networks.leaf(batch_stats, path), value, rtol=1e-4, atol=1e-5, err_msg=name)


def check_criterion(case) -> None:
    attrs = case.attrs
    joints = skeleton_of(attrs["num_joints"]).name
    costs = {name: attrs[name] for name in ("eos_coef", "cost_class", "cost_coord")}
    method = PRTR(skeleton=joints, num_queries=case.inputs["logits"].shape[-2], **costs)
    arrays = {name: jnp.asarray(value) for name, value in case.inputs.items()}
    targets, visible = arrays["target"], arrays["target_weight"][..., 0]

    def total(logits, keypoints):
        losses = method.criterion(logits, keypoints, targets, visible)
        return (losses["loss_ce"] + attrs["loss_weights"]["loss_kpts"] * losses["loss_kpts"]).sum(), losses

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (value, losses), gradients = step(arrays["logits"], arrays["coords"])
    cost = method.matching_cost(arrays["logits"], arrays["coords"], targets)
    columns = assign(cost)
    expected = case.outputs
    assert_allclose(cost[-1], expected["cost"], rtol=1e-5, atol=1e-5)
    assert_array_equal(columns, expected["indices"])
    matched = take_assigned(arrays["coords"], columns)[-1] * arrays["target_weight"]
    assert_allclose(matched, expected["matched"], rtol=1e-6)
    _check_losses(case, losses)
    assert_allclose(value, expected["total"], rtol=1e-5)
    assert_allclose(gradients[0], expected["grad_logits"], rtol=1e-4, atol=1e-7)
    assert_allclose(gradients[1], expected["grad_coords"], rtol=1e-4, atol=1e-7)


def check_lsap(case) -> None:
    for name, cost in case.inputs.items():
        columns = np.asarray(assign(cost))
        rows = np.flatnonzero(columns >= 0)
        assert len(rows) == min(cost.shape), name
        assert len(set(columns[rows])) == len(rows), name
        assert_allclose(cost[rows, columns[rows]].sum(), case.outputs[f"{name}.cost"], rtol=1e-5, err_msg=name)
        if case.attrs["unique"][name]:
            assert_array_equal(rows, case.outputs[f"{name}.rows"], err_msg=name)
            assert_array_equal(columns[rows], case.outputs[f"{name}.cols"], err_msg=name)


LEVELS = ((4, 3), (2, 2))
"""(rows, columns) of the maps of cases that name none."""


def check_positional(case) -> None:
    """Encodings, and the reference points of the deformable network."""
    channels = 2 * case.attrs["num_pos_feats"]
    for height, width in case.attrs["sizes"]:
        ours = sine_encoding(np.ones((height, width), bool), channels)
        assert_allclose(ours.transpose(2, 0, 1), case.outputs[f"sine_{height}x{width}"], rtol=0, atol=1e-5)
    plain = case.outputs["sine_unnormalized"]
    ours = sine_encoding(np.ones(plain.shape[1:], bool), channels, normalize=False)
    assert_allclose(ours.transpose(2, 0, 1), plain, rtol=0, atol=1e-5)
    tables = {"row": case.state_dict["row_embed.weight"], "column": case.state_dict["col_embed.weight"]}
    expected = case.outputs["learned"]
    learned = LearnedEncoding(channels).apply({"params": tables}, *expected.shape[1:])
    assert_allclose(learned.transpose(2, 0, 1), expected, rtol=0, atol=1e-6)
    shapes = _told_shapes(case.manifest.get("notes", "")) or LEVELS
    references = cell_centers(shapes, case.inputs["valid_ratios"])
    assert_allclose(references, case.outputs["encoder_reference"], rtol=0, atol=1e-6)
    ours = logit(jnp.asarray(case.inputs["inverse_sigmoid_x"]))
    assert_allclose(ours, case.outputs["inverse_sigmoid"], rtol=1e-4, atol=1e-5)


def _told_shapes(notes: str) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of the maps in "... for shapes (4,3),(2,2) ..."."""
    told = re.search(r"shapes ((?:\(\d+, ?\d+\)[, ]*)+)", notes)
    return tuple((int(h), int(w)) for h, w in re.findall(r"\((\d+), ?(\d+)\)", told[1])) if told else ()


def check_masked_positional(case) -> None:
    inside = jnp.asarray(~case.inputs["mask"])
    ours = sine_encoding(inside, 2 * case.attrs["num_pos_feats"])
    assert_allclose(networks.to_channels_first(ours), case.outputs["position"], rtol=0, atol=1e-5)
    small = shrink_mask(~case.inputs["large_mask"], *case.outputs["small_mask"].shape[1:])
    assert_array_equal(~small, case.outputs["small_mask"])


def check_post_process(case) -> None:
    """Readout of one crop, of the mirrored crop, and their mean, with either kind of probability."""
    width, height = case.attrs["image_size_wh"]
    arrays, expected = case.inputs, case.outputs
    size = 200 * arrays["scale"].astype(np.float64)
    to_image = geometry.invert_affine(geometry.crop_affine(arrays["center"].astype(np.float64), size, (width, height)))
    people = len(to_image)
    stream = {"to_image": to_image, "person_score": np.ones(people, np.float32), "valid": np.ones(people, bool)}
    outputs = {
        "logits": arrays["logits"],
        "keypoints": arrays["coords"],
        "flipped_logits": arrays["flip_logits"],
        "flipped_keypoints": arrays["flip_coords"],
    }
    joints = skeleton_of(case.attrs["num_joints"], case.attrs["flip_pairs"]).name
    fields = {"skeleton": joints, "num_queries": arrays["logits"].shape[1]}
    for prefix, background in (("", False), ("bg_", True)):
        method = PRTR(background_logit=background, input_size=(width, height), **fields)
        crop, scores = method.select(outputs["logits"], outputs["keypoints"])
        assert_allclose(crop * np.array([width, height]), expected[f"{prefix}crop_coords"], rtol=0, atol=1e-3)
        assert_allclose(scores, expected[f"{prefix}scores"][..., 0], rtol=1e-5)
        plain = method.decode({k: v for k, v in outputs.items() if "flipped" not in k}, {"source": stream})
        assert_allclose(plain.keypoints[:, 0], expected[f"{prefix}coords"], rtol=0, atol=1e-3)
        both = method.decode(outputs, {"source": stream})
        assert_allclose(both.keypoints[:, 0], expected[f"{prefix}final_coords"], rtol=0, atol=1e-3)
        assert_allclose(both.scores[:, 0], expected[f"{prefix}final_scores"][..., 0], rtol=1e-5)


def check_geometry(case) -> None:
    arrays, expected = case.inputs, case.outputs
    crop_size = tuple(case.attrs["image_size_wh"])
    aspect = crop_size[0] / crop_size[1]
    center, size = geometry.box_to_center_size(arrays["boxes"], aspect)
    assert_allclose(center, expected["center"], rtol=1e-6)
    assert_allclose(size / 200, expected["scale"], rtol=1e-6)
    affine = geometry.crop_affine(center, size, crop_size, arrays["rotation"])
    # The original solves for the map from three float32 points: relative to the size of the entries, 1e-6 is its noise.
    check_relative(affine, expected["affine"], 1e-6)
    check_relative(geometry.invert_affine(affine), expected["affine_inverse"], 1e-6)
    check_relative(geometry.apply_affine(affine, arrays["points"]), expected["mapped"], 1e-6)
    upper = case.attrs.get("upper_body_ids") or skeleton_of(len(arrays["half_joints"])).upper_body_indices
    for name, draw in case.attrs["half_body_draws"].items():
        found = geometry.half_body_box(
            arrays["half_joints"], arrays[f"half_vis_{name}"], tuple(upper), draw < 0.5, aspect
        )
        ours = np.full((2, 2), -1.0) if found is None else np.stack([found[0], found[1] / 200])
        assert_allclose(ours, expected[f"half_{name}"], rtol=1e-6)


def check_relative(ours, expected, tolerance: float) -> None:
    """Compares each row of the leading axis with an allowance in proportion to its largest entry."""
    for row, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=f"row {row}")


CHECKS = {
    "prtr/forward": check_forward,
    "prtr/train_step": check_train_step,
    "prtr/criterion": check_criterion,
    "prtr/lsap": check_lsap,
    "prtr/positional": check_positional,
    "prtr/detr_masked_positional": check_masked_positional,
    "prtr/post_process": check_post_process,
    "prtr/geometry": check_geometry,
}
