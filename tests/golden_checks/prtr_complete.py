"""PRTR from whole images: the person detector, the crop between two transformers, deformable attention."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks, ties
from golden_checks.skeletons import skeleton_of
from jaxpose import convert
from jaxpose.convert.conversion import apply_rules
from jaxpose.methods.prtr import detr_names
from jaxpose.methods.prtr import sequential_prtr_names as sequential_names
from jaxpose.methods.prtr.assignment import assign
from jaxpose.methods.prtr.deform_attention import deformable_attention
from jaxpose.methods.prtr.deformable import DeformableAttention, ring
from jaxpose.methods.prtr.detr import DETR
from jaxpose.methods.prtr.method import keypoint_cost
from jaxpose.methods.prtr.positional import CropEncoding, shrink_mask, sine_encoding
from jaxpose.methods.prtr.sequential_prtr import CropTransformer, SequentialPRTR, crop_features, crop_grid
from jaxpose.methods.prtr.transformer import Decoder, Encoder
from jaxpose.nn.names import LINEAR, Rule
from jaxpose.ops import boxes as box_ops

# --- what cases share ---


def detector_fields(attrs: dict) -> dict:
    """Fields of DETR that a network case describes."""
    return {
        "backbone": attrs["backbone"],
        "hidden_dim": attrs["hidden_dim"],
        "heads": attrs["nheads"],
        "encoder_layers": attrs["enc_layers"],
        "decoder_layers": attrs["dec_layers"],
        "feedforward": attrs["dim_feedforward"],
        "dropout": attrs.get("dropout", 0.0),
        "pre_norm": attrs.get("pre_norm", False),
        "dilation": attrs.get("dilation", False),
        "eos_coef": attrs.get("eos_coef", 0.1),
    }


def detector_of(case, **fields) -> DETR:
    attrs = case.attrs
    classes = attrs["num_classes"]
    return DETR(
        **detector_fields(attrs),
        num_queries=attrs["num_queries"],
        num_classes=classes,
        person_class=min(classes - 1, 1),
        max_people=1,
        **fields,
    )


def criterion_fields(attrs: dict, weights: dict) -> dict:
    costs = {f"cost_{ours}": attrs[f"cost_{name}"] for ours, name in COSTS.items() if f"cost_{name}" in attrs}
    return costs | {"box_loss": weights["loss_bbox"], "giou_loss": weights["loss_giou"]}


COSTS = {"class": "class", "box": "bbox", "giou": "giou"}


def canvas(case) -> dict:
    """The images of a case side by side, padded with zeros to the largest height and width."""
    images = [case.inputs[f"image_{i}"].transpose(1, 2, 0) for i in range(len(case.attrs["image_sizes_hw"]))]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded = np.zeros((len(images), height, width, 3), np.float32)
    inside = np.zeros((len(images), height, width), bool)
    for row, image in enumerate(images):
        padded[row, : image.shape[0], : image.shape[1]] = image
        inside[row, : image.shape[0], : image.shape[1]] = True
    sizes = np.array([image.shape[1::-1] for image in images], np.float32)
    return {"image": padded, "inside": inside, "size": sizes, "valid": np.ones(len(images), bool)}


def intermediates(captured: dict, *path: str):
    for name in path:
        captured = captured[name]
    return captured["__call__"][0]


def check_losses(case, losses: dict) -> None:
    """The original names losses of the last layer without, of earlier ones with a number."""
    for name, value in zip(case.attrs["loss_names"], case.outputs["losses"], strict=True):
        kind, number = re.fullmatch(r"(.*?)_?(\d*)", name).groups()
        assert_allclose(losses[kind][int(number) if number else -1], value, rtol=networks.LOSS, err_msg=name)


def check_gradients(case, gradients: dict, rules) -> None:
    """Norms of gradients by name, that of all of them, and zeros for what the original never trains."""
    norms = dict(zip(case.attrs["grad_names"], case.outputs["grad_norms"], strict=True))
    networks.check_gradients(gradients, rules, norms)
    squares = sum(np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(gradients))
    assert_allclose(np.sqrt(squares), case.outputs["grad_norm_total"], rtol=networks.GRADIENT)
    frozen = [v for name, v in gradients["backbone"].items() if name.startswith(("conv1", "layer1_"))]
    assert frozen
    assert not any(np.any(g) for g in jax.tree.leaves(frozen))


# --- detector ---


def check_detr_forward(case) -> None:
    method = detector_of(case)
    variables = convert.convert(case.state_dict, method)
    stream = canvas(case)
    apply = jax.jit(lambda v, *x: method.module().apply(v, *x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, stream["image"], stream["inside"]))
    captured, expected, atol = captured["intermediates"], case.outputs, networks.FORWARD
    for row, stats in zip(case.attrs["stats_rows"], expected["stats"], strict=True):
        ours = networks.statistics(_detector_part(captured, row))
        assert_allclose(ours, stats, rtol=networks.FORWARD, atol=atol, err_msg=row)
    memory, corner = _detector_part(captured, f"encoder{case.attrs['enc_layers'] - 1}"), expected["memory_corner"]
    assert_allclose(memory[tuple(map(slice, corner.shape))], corner, rtol=0, atol=atol)
    rows, columns = expected["feature_mask"].shape[1:]
    inside = shrink_mask(stream["inside"], rows, columns)
    assert_array_equal(~inside, expected["feature_mask"])
    position = networks.to_channels_first(sine_encoding(inside, method.hidden_dim))
    assert_allclose(position[:, ::16], expected["pos_corner"], rtol=0, atol=1e-5)
    logits, boxes = outputs["logits"], outputs["boxes"]
    assert_allclose(logits[-1], expected["pred_logits"], rtol=0, atol=atol)
    assert_allclose(boxes[-1], expected["pred_boxes"], rtol=0, atol=atol)
    assert_allclose(boxes[:-1], expected["aux_boxes"], rtol=0, atol=atol)
    corner = expected["aux_logits_corner"]
    assert_allclose(logits[:-1, :, : corner.shape[2], : corner.shape[3]], corner, rtol=0, atol=atol)
    _check_detections(case, method, stream, {"logits": expected["pred_logits"], "boxes": expected["pred_boxes"]})


def _detector_part(captured: dict, name: str):
    """Output of a part by its original name: a layer of the transformer or a stage of the backbone."""
    kind, number = re.fullmatch(r"([a-z]+)(\d+)", name).groups()
    if kind in ("encoder", "decoder"):
        return intermediates(captured, "detector", kind, f"layer{number}")
    last = max((k for k in captured["backbone"] if k.startswith(f"{name}_")), key=lambda k: int(k.split("_")[1]))
    return intermediates(captured, "backbone", last)


def _check_detections(case, method: DETR, stream: dict, outputs: dict) -> None:
    original = np.array(case.attrs["post_sizes_hw"], np.float32)[:, ::-1]
    scale = original / stream["size"]
    to_image = np.zeros((len(scale), 2, 3), np.float32)
    to_image[:, 0, 0], to_image[:, 1, 1] = scale[:, 0], scale[:, 1]
    found = method.decode(outputs, {"source": stream | {"to_image": to_image}})
    expected = case.outputs
    assert_allclose(found.scores, expected["post_scores"], rtol=1e-5)
    assert_array_equal(found.labels, expected["post_labels"])
    assert_array_equal(found.valid, expected["post_labels"] == method.person_class)
    assert_allclose(box_ops.box_to_corner(found.boxes), expected["post_boxes"], rtol=0, atol=1e-3)


def check_detr_train(case) -> None:
    method = detector_of(case, **criterion_fields(case.attrs, case.attrs["loss_weights"]))
    variables = convert.convert(case.state_dict, method)
    stream = canvas(case) | {"labels": case.inputs["labels"], "targets": case.inputs["target_boxes"]}

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        changed = variables | {"params": params}
        outputs, _ = method.module().apply(
            changed, stream["image"], stream["inside"], train=True, mutable=["batch_stats"]
        )
        total, aux = method.loss(changed, {"source": stream}, 0, jax.random.key(0))
        return total, (outputs, aux)

    (total, (outputs, aux)), gradients = jax.device_get(step(variables["params"]))
    expected, atol = case.outputs, networks.forward_tolerance(case)
    assert_allclose(outputs["logits"][-1], expected["pred_logits"], rtol=0, atol=atol)
    assert_allclose(outputs["boxes"][-1], expected["pred_boxes"], rtol=0, atol=atol)
    arguments = (outputs["logits"], outputs["boxes"], stream["labels"], stream["targets"])
    columns = method.match(*map(jnp.asarray, arguments))
    assert_array_equal(columns, expected["indices"])
    check_losses(case, method.criterion(*map(jnp.asarray, arguments), columns))
    for name, value in aux.metrics.items():
        assert_allclose(value, expected["losses"][case.attrs["loss_names"].index(name)], rtol=networks.LOSS)
    assert_allclose(total, expected["total"], rtol=networks.LOSS)
    check_gradients(case, gradients, detr_names.rules(method))


def check_detr_criterion(case) -> None:
    """Without targets in the manifest there is none in the whole batch, and only the last layer is given."""
    attrs, expected = case.attrs, case.outputs
    empty = "labels" not in case.inputs
    weights = attrs.get("loss_weights", {"loss_bbox": 5.0, "loss_giou": 2.0})
    method = DETR(num_classes=attrs["num_classes"], eos_coef=attrs["eos_coef"], **criterion_fields(attrs, weights))
    logits, boxes = (jnp.asarray(case.inputs[name]) for name in ("logits", "boxes"))
    if empty:
        logits, boxes = logits[None], boxes[None]
        labels, targets = jnp.full((logits.shape[1], 3), -1), jnp.zeros((logits.shape[1], 3, 4))
    else:
        labels, targets = (jnp.asarray(case.inputs[name]) for name in ("labels", "target_boxes"))

    def total(logits, boxes):
        columns = method.match(logits, boxes, labels, targets)
        losses = method.criterion(logits, boxes, labels, targets, columns)
        return method.total(losses), (columns, losses)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (value, (columns, losses)), gradients = step(logits, boxes)
    check_losses(case, losses)
    if empty:
        assert_array_equal(columns, -1)
        assert_array_equal(gradients[1], 0.0)
        assert_allclose(gradients[0][0], expected["grad_logits"], rtol=1e-4, atol=1e-7)
        return
    assert_array_equal(columns, expected["indices"])
    assert_allclose(value, expected["total"], rtol=1e-5)
    assert_allclose(gradients[0], expected["grad_logits"], rtol=1e-4, atol=1e-7)
    assert_allclose(gradients[1], expected["grad_boxes"], rtol=1e-4, atol=1e-6)


def check_giou(case) -> None:
    a, b = (jnp.asarray(case.inputs[name]) for name in "ab")

    def overlaps(a):
        corners = box_ops.center_to_corner(a)[:, None], box_ops.center_to_corner(b)[None]
        generalized = box_ops.generalized_iou(*corners)
        return (generalized * case.inputs["cotangent"]).sum(), (generalized, *box_ops.corner_iou(*corners))

    (_, found), gradient = jax.value_and_grad(overlaps, has_aux=True)(a)
    for name, ours in zip(("giou", "iou", "union"), found, strict=True):
        assert_allclose(ours, case.outputs[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert_allclose(gradient, case.outputs["grad_a"], rtol=1e-4, atol=1e-5)


def check_detr_transforms(case) -> None:
    expected, boxes, attrs = case.outputs, case.inputs["boxes"], case.attrs
    for (*size, short, longest), new in zip(case.inputs["sizes"].tolist(), expected["new_sizes"], strict=True):
        assert box_ops.fitted_size(*size, short, None if longest < 0 else longest) == tuple(new)
    assert_allclose(box_ops.mirror_corners(boxes, attrs["image_wh"][0]), expected["flipped"], rtol=1e-6)
    top, left, height, width = attrs["crop_top_left_height_width"]
    cut, kept = box_ops.cut_corners(boxes, (left, top, width, height))
    assert_array_equal(np.flatnonzero(kept), expected["kept"])
    assert_allclose(cut[kept], expected["cropped"], rtol=1e-5, atol=1e-5)
    assert_allclose(box_ops.corner_to_box(cut[kept])[:, 2:].prod(-1), expected["cropped_area"], rtol=1e-4)
    size = box_ops.fitted_size(width, height, attrs["resize_short"], attrs["resize_max"])
    assert size == tuple(expected["resized_wh"])
    resized = box_ops.scale_corners(cut[kept], (width, height), size)
    assert_allclose(resized, expected["resized"], rtol=1e-5, atol=1e-5)
    assert_allclose(box_ops.corner_to_box(resized)[:, 2:].prod(-1), expected["resized_area"], rtol=1e-4)
    people = np.ones((1, len(resized)), bool)
    stream = {"boxes": box_ops.corner_to_box(resized)[None], "size": np.array([size], np.float32), "people": people}
    labels = DETR(max_people=len(resized)).labels(jax.tree.map(jnp.asarray, stream))
    assert_allclose(labels["targets"][0], expected["normalized"], rtol=1e-4, atol=1e-6)


# --- deformable attention ---


def check_deformable_core(case) -> None:
    shapes = tuple(map(tuple, case.attrs["spatial_shapes"]))
    names = ("value", "sampling_locations", "attention_weights")

    def total(*arrays):
        output = deformable_attention(arrays[0], shapes, *arrays[1:])
        return (output * case.inputs["cotangent"]).sum(), output

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, output), gradients = step(*(case.inputs[name] for name in names))
    assert_allclose(output, case.outputs["output"], rtol=1e-5, atol=1e-5)
    found = dict(zip(names, gradients, strict=True))
    places, expected = "sampling_locations", case.outputs["grad_sampling_locations"]
    found[places] = _on_their_side(found[places], expected, _location_sides(case, shapes))
    for name, gradient in found.items():
        assert_allclose(gradient, case.outputs[f"grad_{name}"], rtol=1e-4, atol=1e-4, err_msg=name)


def _location_sides(case, shapes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Of the shape of the locations: by how much each one's derivative on the other side of a whole pixel differs."""
    value, locations, weights = (case.inputs[n] for n in ("value", "sampling_locations", "attention_weights"))
    batch, queries, heads, _, points, _ = locations.shape
    first, steps = 0, np.zeros(locations.shape)
    cotangent = case.inputs["cotangent"].reshape(batch, queries, heads, 1, -1) * np.ones((points, 1))
    fold = lambda x: np.moveaxis(x, 2, 1).reshape(batch * heads, queries * points, -1)
    for level, (rows, columns) in enumerate(shapes):
        maps = value[:, first : first + rows * columns].reshape(batch, rows, columns, heads, -1)
        maps = np.moveaxis(maps, 3, 1).reshape(batch * heads, rows, columns, -1)
        size = np.array([columns, rows], np.float64)
        pixels = fold(locations[:, :, :, level]) * size - 0.5
        bends = ties.kinks(maps, pixels, fold(cotangent * weights[:, :, :, level, :, None])) * size
        steps[:, :, :, level] = np.moveaxis(bends.reshape(batch, heads, queries, points, 2), 1, 2)
        first += rows * columns
    return steps


def _on_their_side(ours, expected: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Derivatives of single places, taken on the original's side of whole pixels: on ours, or `steps` away."""
    sides = np.stack([np.asarray(ours, np.float64) + sign * steps for sign in (0, -1, 1)])
    nearest = np.abs(sides - expected).argmin(0)
    return np.take_along_axis(sides, nearest[None], 0)[0]


ATTENTION = (
    Rule("sampling_offsets", "offsets", LINEAR),
    Rule("attention_weights", "weights", LINEAR),
    Rule("value_proj", "value", LINEAR),
    Rule("output_proj", "out", LINEAR),
)


def check_deformable_module(case) -> None:
    attrs, arrays = case.attrs, case.inputs
    shapes = tuple(map(tuple, attrs["spatial_shapes"]))
    module = DeformableAttention(heads=attrs["n_heads"], points=attrs["n_points"])
    query, tokens = arrays["query"], arrays["src"]
    template = module.init(jax.random.key(0), query, arrays["reference_2"], tokens, shapes)
    assert_allclose(template["params"]["offsets"]["bias"], case.outputs["init_offset_bias"], rtol=0, atol=1e-6)
    first = ring(attrs["n_heads"], attrs["n_levels"], attrs["n_points"])
    assert_allclose(first, case.outputs["init_offset_bias"], rtol=0, atol=1e-6)
    variables = apply_rules(case.state_dict, ATTENTION, template).variables
    apply = jax.jit(module.apply, static_argnums=4)
    inside = ~arrays["padding_mask"]
    for name, reference, mask in (("2", 2, None), ("2_masked", 2, inside), ("4", 4, None)):
        ours = apply(variables, query, arrays[f"reference_{reference}"], tokens, shapes, mask)
        assert_allclose(ours, case.outputs[f"output_{name}"], rtol=0, atol=networks.FORWARD, err_msg=name)


# --- end to end ---


def sequential_of(case, **fields) -> SequentialPRTR:
    attrs = case.attrs
    people = attrs["num_persons"]
    return SequentialPRTR(
        **detector_fields(attrs),
        skeleton=skeleton_of(attrs["num_joints"]).name,
        num_queries=people,
        top_people=people,
        max_people=people,
        levels=tuple(attrs["levels"]),
        crop_size=(attrs["x_res"], attrs["y_res"]),
        keypoint_dim=attrs["kpt_hidden_dim"],
        keypoint_heads=attrs["nheads"],
        keypoint_encoder_layers=attrs["kpt_enc_layers"],
        keypoint_decoder_layers=attrs["kpt_dec_layers"],
        keypoint_feedforward=attrs["kpt_dim_feedforward"],
        keypoint_queries=attrs["num_kpt_queries"],
        **fields,
    )


def background_last(logits: np.ndarray) -> np.ndarray:
    """Logits of the original, whose class 0 is "no keypoint", in our order."""
    return np.roll(logits, -1, axis=-1)


def check_crop(case) -> None:
    boxes, ratio = case.inputs["boxes"], case.inputs["ratio_hw"][:, ::-1].copy()
    names = sorted(name for name in case.inputs if name.startswith("feature_"))
    maps = [networks.to_channels_last(case.inputs[name]) for name in names]
    size, growth = (case.attrs["x_res"], case.attrs["y_res"]), case.attrs["expansion"]

    def total(boxes, maps):
        grid = crop_grid(boxes, ratio, size, growth)
        crops = crop_features(maps, grid)
        crops = crops.reshape(-1, *crops.shape[2:]).transpose(0, 3, 1, 2)
        return (crops * case.inputs["cotangent"]).sum(), (grid.reshape(-1, *grid.shape[2:]), crops)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, (grid, crops)), gradients = step(boxes, maps)
    expected = case.outputs
    assert_allclose(grid, expected["grid"], rtol=0, atol=1e-5)
    assert_allclose(crops, expected["crop"], rtol=0, atol=1e-4)
    noise = case.manifest.get("float32_vs_float64", {}).get("grad_boxes", 0)
    steps = _box_sides(maps, np.asarray(expected["grid"]), case, ratio, growth)
    rows = zip(*(x.reshape(-1, 4) for x in (np.asarray(gradients[0]), expected["grad_boxes"])), steps, strict=True)
    for number, row in enumerate(rows):
        ties.assert_equal_but_for_sides(*row, rtol=1e-4, atol=max(1e-4, 4 * noise), err_msg=f"box {number}")
    for name, gradient in zip(names, gradients[1], strict=True):
        assert_allclose(networks.to_channels_first(gradient), expected[f"grad_{name}"], rtol=0, atol=1e-4)


def _box_sides(maps: list[np.ndarray], grid: np.ndarray, case, ratio: np.ndarray, growth: float) -> list[np.ndarray]:
    """For each box, by how much its gradient [4] changes with the side of each sample [N, 4] that is a whole pixel."""
    people, rows, columns = case.inputs["boxes"].shape[1], *grid.shape[1:3]
    cotangent, first, total = np.moveaxis(case.inputs["cotangent"], 1, -1), 0, []
    spread = np.stack(np.meshgrid(*(np.linspace(-growth, growth, n) for n in (columns, rows))), -1).reshape(-1, 2)
    for x in maps:
        size = np.array([x.shape[2], x.shape[1]], np.float64)
        pixels = ((grid.reshape(len(grid), -1, 2) + 1) * size - 1) / 2
        part = cotangent[..., first : first + x.shape[-1]].reshape(len(grid), rows * columns, -1)
        bends = ties.kinks(np.repeat(x, people, 0), pixels, part, border=True)
        bends = bends * size / 2 * np.repeat(ratio, people, 0)[:, None]  # by the grid, in units of the whole image
        zero = np.zeros_like(bends[..., 0])
        for axis in (0, 1):
            by_center, by_extent = 2 * bends[..., axis], bends[..., axis] * spread[:, axis]
            step = [by_center, zero, by_extent, zero] if axis == 0 else [zero, by_center, zero, by_extent]
            total.append(np.stack(step, -1))
        first += x.shape[-1]
    return list(np.concatenate(total, 1))


def check_crop_transformer(case) -> None:
    attrs, arrays = case.attrs, case.inputs
    fields = {"heads": attrs["nheads"], "feedforward": attrs["dim_feedforward"]}
    module = CropTransformer(
        encoder=Encoder(layers=attrs["enc_layers"], **fields),
        decoder=Decoder(layers=attrs["dec_layers"], **fields),
        num_joints=attrs["num_joints"],
        num_queries=attrs["num_queries"],
        hidden_dim=attrs["hidden_dim"],
        growth=attrs.get("expansion", 1.25),
        dtype=jnp.float32,
    )
    crops = networks.to_channels_last(arrays["features"])
    position = arrays["position"][0].transpose(1, 2, 0)
    template = jax.eval_shape(module.init, jax.random.key(0), crops, position, arrays["boxes"])
    variables = apply_rules(case.state_dict, sequential_names.POSE, template).variables
    cotangent = background_last(arrays["cotangent_logits"])

    def total(boxes, crops):
        found = module.apply(variables, crops, position, boxes)
        both = (found["keypoints"] * arrays["cotangent_coords"]).sum() + (found["logits"] * cotangent).sum()
        return both, found

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, found), gradients = step(arrays["boxes"], crops)
    expected, noise = case.outputs, case.manifest.get("float32_vs_float64", {})
    assert_allclose(found["keypoints"], expected["coords"], rtol=0, atol=networks.FORWARD)
    assert_allclose(found["logits"], background_last(expected["logits"]), rtol=0, atol=networks.FORWARD)
    assert_allclose(gradients[0], expected["grad_boxes"], rtol=1e-4, atol=1e-4)
    gradient = networks.to_channels_first(gradients[1])
    assert_allclose(gradient, expected["grad_features"], rtol=1e-4, atol=max(1e-4, 4 * noise.get("grad_features", 0)))


def check_readout(case) -> None:
    joints = skeleton_of(case.attrs["num_joints"]).name
    method = SequentialPRTR(skeleton=joints, keypoint_queries=case.inputs["logits"].shape[-2])
    found, _ = jax.jit(method.select)(background_last(case.inputs["logits"]), case.inputs["coords"])
    assert_allclose(found, case.outputs["matched"], rtol=0, atol=1e-6)


def check_sequential_forward(case) -> None:
    method = sequential_of(case)
    variables = convert.convert(case.state_dict, method)
    stream = canvas(case)
    network, expected, atol = method.module(), case.outputs, networks.FORWARD

    @jax.jit
    def run(variables, image, inside):
        whole, captured = network.apply(variables, image, inside, capture_intermediates=True, mutable=["intermediates"])
        maps = [captured["intermediates"]["backbone"]["__call__"][0][level] for level in method.levels]
        ratio = jnp.asarray(stream["size"] / np.array(image.shape[2:0:-1], np.float32))
        grid = crop_grid(whole["boxes"][-1], ratio, method.crop_size, method.box_growth)
        return whole, captured["intermediates"], [crop_features([x], grid) for x in maps]

    outputs, captured, crops = jax.device_get(run(variables, stream["image"], stream["inside"]))
    rows, columns = expected["feature_mask"].shape[1:]
    assert_array_equal(~shrink_mask(stream["inside"], rows, columns), expected["feature_mask"])
    assert_allclose(outputs["logits"][-1], expected["pred_logits"], rtol=0, atol=atol)
    assert_allclose(outputs["boxes"][-1], expected["pred_boxes"], rtol=0, atol=atol)
    decoded, corner = intermediates(captured, "detector", "decoder")[-1], expected["person_hs_corner"]
    assert_allclose(decoded[tuple(map(slice, corner.shape))], corner, rtol=0, atol=atol)
    crops = [x.reshape(-1, *x.shape[2:]) for x in crops]
    for level, (crop, stats) in enumerate(zip(crops, expected["crop_stats"], strict=True)):
        assert_allclose(networks.statistics(crop), stats, rtol=networks.FORWARD, atol=atol, err_msg=f"level {level}")
    corner = networks.to_channels_first(np.concatenate(crops, -1))[:, :8, ::4, ::4]
    assert_allclose(corner, expected["crop_corner"], rtol=0, atol=atol)
    encoding = CropEncoding(method.keypoint_dim).apply(
        {"params": variables["params"]["position"]}, *method.crop_size[::-1]
    )
    assert_allclose(encoding.transpose(2, 0, 1)[::16, ::3, ::3], expected["kpt_pos"], rtol=0, atol=1e-5)
    decoded = intermediates(captured, "pose", "decoder")[-1]
    corner = expected["kpt_hs_corner"]
    assert_allclose(decoded[:, : corner.shape[1], : corner.shape[2]], corner, rtol=0, atol=atol)
    logits, keypoints = outputs["joint_logits"], outputs["keypoints"]
    assert_allclose(logits, background_last(expected["pred_kpt_logits"]), rtol=0, atol=atol)
    assert_allclose(keypoints, expected["pred_kpt_coord"], rtol=0, atol=atol)
    matched, _ = method.select(jnp.asarray(logits), jnp.asarray(keypoints))
    assert_allclose(matched, expected["matched"], rtol=0, atol=atol)


def check_sequential_train(case) -> None:
    attrs, expected = case.attrs, case.outputs
    method = sequential_of(
        case, **criterion_fields(attrs, attrs["det_weights"]), keypoint_loss=attrs["kpt_weights"]["loss_kpts"]
    )
    variables = convert.convert(case.state_dict, method)
    present = np.arange(case.inputs["target_boxes"].shape[1]) < np.array(attrs["counts"])[:, None]
    stream = canvas(case) | {
        "labels": np.where(present, 0, -1),
        "targets": case.inputs["target_boxes"],
        "joints": case.inputs["target_kpts"],
        "visible": case.inputs["target_visibility"][..., 0],
    }
    _check_sequential_parts(case, method, variables, stream)
    batch = {"source": stream}
    step = jax.jit(
        jax.value_and_grad(
            lambda params: method.loss(variables | {"params": params}, batch, 0, jax.random.key(0)), has_aux=True
        )
    )
    (total, aux), gradients = jax.device_get(step(variables["params"]))
    for name, value in zip(attrs["loss_names"], expected["losses"], strict=True):
        assert_allclose(aux.metrics[name], value, rtol=networks.LOSS, err_msg=name)
    assert_allclose(total, expected["total"], rtol=networks.LOSS)
    check_gradients(case, gradients, sequential_names.rules(method))


def _check_sequential_parts(case, method: SequentialPRTR, variables: dict, stream: dict) -> None:
    """What the parts give in training mode, who is assigned to whom, and the boxes' gradient from the joints."""
    network, expected = method.module(), case.outputs
    atol = networks.FORWARD
    detect = jax.jit(lambda v, *x: network.apply(v, *x, train=True, method="detect"))
    outputs, maps = detect(variables, stream["image"], stream["inside"])
    logits, boxes = outputs["logits"], outputs["boxes"]
    assert_allclose(logits[-1], expected["pred_logits"], rtol=0, atol=atol)
    assert_allclose(boxes[-1], expected["pred_boxes"], rtol=0, atol=atol)
    columns = method.match(logits[-1:], boxes[-1:], jnp.asarray(stream["labels"]), jnp.asarray(stream["targets"]))[-1]
    assert_array_equal(columns, expected["query_of_person"])

    @jax.jit
    def joints(boxes):
        found = network.apply(variables, maps, boxes, stream["inside"], train=True, method="locate")
        losses = method.joint_losses(variables, maps, boxes, columns, stream, jax.random.key(0))
        return losses["loss_ce"] + method.keypoint_loss * losses["loss_kpts"], found

    (_, found), gradient = jax.jit(jax.value_and_grad(joints, has_aux=True))(boxes[-1])
    assert_allclose(found["logits"], background_last(expected["pred_kpt_logits"]), rtol=0, atol=atol)
    assert_allclose(found["keypoints"], expected["pred_kpt_coord"], rtol=0, atol=atol)
    noise = case.manifest.get("float32_vs_float64", {}).get("box_grad_from_keypoints", 0)
    assert_allclose(gradient, expected["box_grad_from_keypoints"], rtol=1e-3, atol=max(1e-4, 4 * noise))
    chosen = [jnp.take_along_axis(found[n], jnp.maximum(columns, 0)[..., None, None], 1) for n in found]
    people = dict(zip(found, chosen, strict=True))
    cost = keypoint_cost(people["logits"], people["keypoints"], stream["joints"], method.cost_class, method.cost_coord)
    queries = np.where(np.asarray(columns)[..., None] >= 0, assign(cost), -1)
    assert_array_equal(queries, expected["query_of_joint"])


CHECKS = {
    "prtr/detr_forward": check_detr_forward,
    "prtr/detr_train": check_detr_train,
    "prtr/detr_criterion": check_detr_criterion,
    "prtr/detr_giou": check_giou,
    "prtr/detr_transforms": check_detr_transforms,
    "prtr/ms_deform_attn_core": check_deformable_core,
    "prtr/ms_deform_attn_module": check_deformable_module,
    "prtr/seq_crop": check_crop,
    "prtr/seq_forward": check_sequential_forward,
    "prtr/seq_keypoint_transformer": check_crop_transformer,
    "prtr/seq_readout": check_readout,
    "prtr/seq_train": check_sequential_train,
}
