"""HigherHRNet: networks, targets, losses, aggregation, geometry, and the whole of inference after the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from golden_checks.skeletons import skeleton_of
from jaxpose.convert.conversion import apply_rules
from jaxpose.methods.higherhrnet import associative
from jaxpose.methods.higherhrnet.method import HigherHRNet
from jaxpose.methods.higherhrnet.names import rules
from jaxpose.ops import geometry, heatmaps

SKELETONS = {"coco": "coco", "crowd_pose": "crowdpose"}


def _skeleton(dataset: str) -> str:
    return next(name for prefix, name in SKELETONS.items() if dataset.startswith(prefix))


def _the_only(values):
    """The value that all items of a list have."""
    (value,) = set(values)
    return value


# --- networks ---


def _network(case, dtype: str = "float32", **fields):
    """Method, its network, the checkpoint's variables and the image of a case."""
    attrs = case.attrs
    stages = [attrs["stages"][f"STAGE{i}"] for i in (2, 3, 4)]
    deconv, tags = attrs["deconv"], attrs["with_ae_loss"]
    layers = deconv["NUM_DECONVS"]
    method = HigherHRNet(
        skeleton=skeleton_of(attrs["num_joints"]).name,
        dtype=dtype,
        backbone=f"hrnet_w{stages[0]['NUM_CHANNELS'][0]}",
        backbone_stages=tuple(stage["NUM_MODULES"] for stage in stages),
        stem_width=attrs["stem_channels"],
        deconv_layers=layers,
        deconv_features=_the_only(deconv["NUM_CHANNELS"][:layers]) if layers else 0,
        deconv_kernel=_the_only(deconv["KERNEL_SIZE"][:layers]) if layers else 4,
        deconv_blocks=deconv["NUM_BASIC_BLOCKS"],
        deconv_concat=_the_only(deconv["CAT_OUTPUT"][:layers]) if layers else True,
        final_kernel=attrs["final_conv_kernel"],
        tag_per_joint=attrs["tag_per_joint"],
        tag_stages=tuple(stage for stage in range(layers + 1) if tags[stage]),
        **fields,
    )
    module = method.module()
    image = networks.to_channels_last(case.inputs["image"])
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    return method, module, apply_rules(case.state_dict, rules(method), template).variables, image


OUTPUTS = ("low", "high", "highest")
"""What cases call the maps of each stage."""


def check_forward(case) -> None:
    _, module, variables, image = _network(case)
    apply = jax.jit(lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    maps, captured = jax.device_get(apply(variables, image))
    for key in (key for key in case.outputs if key.startswith("mid/")):
        name, _, kind = key.removeprefix("mid/").rpartition("_")
        ours = networks.to_channels_first(_inner(captured["intermediates"], name))
        value = {"mean": ours.mean((0, 2, 3)), "std": ours.std((0, 2, 3)), "crop": ours[:, :4, :3, :3]}[kind]
        assert_allclose(value, case.outputs[key], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=key)
    for stage, name in zip(maps, OUTPUTS, strict=False):
        assert_allclose(networks.to_channels_first(maps[stage]), case.outputs[name], rtol=0, atol=networks.FORWARD)


def _inner(captured: dict, name: str) -> np.ndarray:
    """What the original module `name` puts out: "layer1", "stage3.1" for a branch, or "deconv0"."""
    if name.startswith("deconv"):
        part, stem = captured["head"], f"block{int(name.removeprefix('deconv')) + 1}_"
    else:
        part, stem = captured["backbone"], f"{name.partition('.')[0]}_"
    last = max((key for key in part if key.startswith(stem)), key=lambda key: int(key.removeprefix(stem)))
    output = part[last]["__call__"][0]
    branch = name.partition(".")[2]
    return output[int(branch)] if branch else output


def check_train_step(case) -> None:
    """In float64, as the case was computed."""
    with jax.enable_x64(True):
        for setting in case.attrs["settings"]:
            _check_train_step(case, setting)


def _check_train_step(case, setting: dict) -> None:
    factors = {f"{name}_weight": tuple(setting[f"{name}_loss_factor"]) for name in ("push", "pull")}
    factors["heatmap_weight"] = tuple(setting["heatmaps_loss_factor"])
    method, module, variables, image = _network(case, "float64", push=setting["ae_loss_type"], **factors)
    variables, image = jax.tree.map(np.float64, (variables, image))
    stream = _stream(case, method)

    def loss(params):
        maps, state = module.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])
        losses = method.criterion(maps, stream)
        return sum(jnp.mean(value) for value in losses.values()), (maps, losses, state["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (maps, losses, batch_stats)), gradients = jax.device_get(step(variables["params"]))
    prefix, expected = setting["name"], case.outputs
    assert_allclose(value, expected[f"{prefix}/loss"], rtol=1e-5)
    for stage, stride in enumerate(method.strides):
        _check_maps(maps[f"stage{stage}"], expected, stage)
        for kind in ("heatmap", "push", "pull"):
            key = f"{prefix}/{kind}{stage}_per_image"
            assert (key in expected) == (f"{kind}_{stride}" in losses)
            if key in expected:
                assert_allclose(losses[f"{kind}_{stride}"], expected[key], rtol=1e-5, atol=1e-9, err_msg=key)
    norms = {name: expected[f"{prefix}/grad_norm/{name}"] for name in case.attrs["grad_names"]}
    networks.check_gradients(gradients, rules(method), norms)
    first = gradients["head"]["maps0"]["kernel"].transpose(3, 2, 0, 1).reshape(-1)
    crop = expected[f"{prefix}/grad_crop/final_layers.0.weight"]
    assert_allclose(first[: len(crop)], crop, rtol=networks.GRADIENT, atol=1e-7)
    for layer in case.attrs["bn_layers"]:
        for kind in ("running_mean", "running_var"):
            ((path, _),) = (t for rule in rules(method) for t in rule.targets(f"{layer}.{kind}") or ())
            ours = networks.leaf(batch_stats, path)
            assert_allclose(ours, expected[f"{kind}/{layer}"], rtol=1e-5, atol=1e-6, err_msg=f"{layer} {kind}")


def _check_maps(maps: np.ndarray, expected: dict, stage: int) -> None:
    maps, tolerance = networks.to_channels_first(maps), {"rtol": networks.FORWARD, "atol": networks.FORWARD}
    assert_allclose(maps.mean((0, 2, 3)), expected[f"out{stage}_mean"], **tolerance)
    assert_allclose(maps.std((0, 2, 3)), expected[f"out{stage}_std"], **tolerance)
    crop = expected[f"{OUTPUTS[stage]}_crop"]
    rows, columns = crop.shape[2:]
    assert_allclose(maps[:, :, :rows, :columns], crop, **tolerance)


def _stream(case, method: HigherHRNet) -> dict:
    """The labels of a training case."""
    stream = {}
    for stage, (stride, name) in enumerate(zip(method.strides, OUTPUTS, strict=False)):
        targets = networks.to_channels_last(case.inputs[f"heatmaps_{name}"]).astype(np.float64)
        stream |= {f"heatmaps_{stride}": targets, f"mask_{stride}": case.inputs[f"mask_{name}"].astype(np.float64)}
        if stage in method.tag_stages:
            pixels = targets.shape[1] * targets.shape[2]
            index, used = _unpacked(case.inputs[f"joints_{name}"], pixels, method.tag_per_joint)
            stream |= {f"index_{stride}": index, f"used_{stride}": used}
    return stream


def _unpacked(rows: np.ndarray, pixels: int, per_joint: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices [B, N, K] by joint, and a mask, from rows of the used ones as (j * pixels + index, 1) or (index, 1)."""
    index, used = np.zeros(rows.shape[:-1], np.int32), np.zeros(rows.shape[:-1], bool)
    for *person, k in np.argwhere(rows[..., 1] > 0):
        joint, pixel = divmod(int(rows[*person, k, 0]), pixels) if per_joint else (k, rows[*person, k, 0])
        assert not used[*person, joint], "two places of one joint"
        index[*person, joint], used[*person, joint] = pixel, True
    return index, used


# --- targets and losses ---


def check_heatmap_generator(case) -> None:
    size, sigma = (case.attrs["output_res"],) * 2, case.attrs["sigma"]
    joints = case.inputs["joints"]
    maps = heatmaps.people_targets(joints[..., :2], joints[..., 2], size, sigma)
    assert_allclose(np.asarray(maps).transpose(2, 0, 1), case.outputs["heatmaps"], rtol=0, atol=1e-6)
    sigma = sigma if sigma > 0 else size[0] / 64
    _check_patch(sigma, case.outputs["kernel"])


def check_scale_aware_heatmap_generator(case) -> None:
    size = (case.attrs["output_res"],) * 2
    joints, sigma = case.inputs["joints"], case.inputs["sigma_hundredths"] / 100
    maps = heatmaps.people_targets(joints[..., :2], joints[..., 2], size, sigma)
    assert_allclose(np.asarray(maps).transpose(2, 0, 1), case.outputs["heatmaps"], rtol=0, atol=1e-6)
    _check_patch(sigma[1], case.outputs["kernel_person1"])


def _check_patch(sigma: float, patch: np.ndarray) -> None:
    """One joint in the middle of a large map is the original's patch, of which a last row may have no pixel."""
    side = 4 * len(patch)
    drawn = heatmaps.people_targets(np.full((1, 1, 2), side // 2), np.ones((1, 1)), (side, side), sigma)[..., 0]
    rows, columns = np.nonzero(drawn)
    found = np.asarray(drawn)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert 0 <= len(patch) - len(found) <= 1
    assert_allclose(found, patch[: len(found), : found.shape[1]], rtol=0, atol=1e-6)


def check_joints_generator(case) -> None:
    """The original lists the joints that are used, one after the other."""
    side, joints = case.attrs["output_res"], case.inputs["joints"]
    index, used = (np.asarray(v) for v in associative.joint_index(joints[..., :2], joints[..., 2], (side, side)))
    for per_joint in (True, False):
        expected = case.outputs[f"tag_per_joint_{per_joint}"]
        flat = index + (np.arange(index.shape[1]) * side**2 if per_joint else 0)
        packed = np.zeros_like(expected)
        for person, (places, counted) in enumerate(zip(flat, used, strict=True)):
            packed[person, : counted.sum()] = np.stack([places[counted], np.ones(counted.sum())], -1)
        assert_array_equal(packed, expected)


def check_get_joints(case) -> None:
    keypoints, box = case.inputs["keypoints"], case.inputs["bbox"]
    length = box[:, 2:].max(-1)
    for center in (False, True):
        points, visible = keypoints[..., :2], keypoints[..., 2]
        if center:
            points, visible = associative.append_center(points, visible)
        for kind in ("no", "float", "int"):
            expected = case.outputs[f"center_{center}/scale_aware_{kind}"]
            assert_allclose(points, expected[..., :2], rtol=1e-6)
            assert_array_equal(visible, expected[..., 2])
            if kind != "no":
                base = (case.attrs["base_sigma"], case.attrs["base_size"])
                sigma = np.asarray(associative.person_sigma(length, *base, whole=kind == "int"))
                assert_allclose(np.broadcast_to(sigma[:, None], visible.shape), expected[..., 3], rtol=1e-6)


def check_ae_loss(case) -> None:
    """All joints' maps, one after the other, are read as a single map: places need not be of different joints."""
    index, used = case.inputs["joints"][..., 0], case.inputs["joints"][..., 1] > 0
    tags = case.inputs["tags"][:, :, None]
    for kind in associative.PUSHES:
        loss, backward = jax.vjp(
            lambda t, kind=kind: associative.embedding_loss(associative.tags_at(t, index), used, kind), tags
        )
        for name, value in zip(("push", "pull"), loss, strict=True):
            assert_allclose(value, case.outputs[f"{kind}/{name}"], rtol=1e-5, atol=1e-7, err_msg=f"{kind} {name}")
        (gradient,) = backward((case.inputs["cotangent_push"], case.inputs["cotangent_pull"]))
        assert_allclose(gradient[:, :, 0], case.outputs[f"{kind}/grad_tags"], rtol=1e-5, atol=1e-7, err_msg=kind)


def check_heatmap_loss(case) -> None:
    maps, targets = (networks.to_channels_last(case.inputs[name]) for name in ("pred", "target"))
    loss, backward = jax.vjp(lambda m: heatmaps.masked_mse(m, targets, case.inputs["mask"]), maps)
    assert_allclose(loss, case.outputs["loss"], rtol=1e-5)
    (gradient,) = backward(case.inputs["cotangent"])
    assert_allclose(networks.to_channels_first(gradient), case.outputs["grad_pred"], rtol=1e-5, atol=1e-9)


# --- inference ---


def _inference_method(attrs: dict) -> HigherHRNet:
    """The method of a case that begins with the network's outputs."""
    return HigherHRNet(
        skeleton=_skeleton(attrs["dataset"]),
        scales=tuple(float(scale) for scale in attrs["scale_factor"]),
        flip_test=attrs["flip_test"],
        project_to_image=attrs["project2image"],
        with_center=attrs.get("with_center", False),
        ignore_center=attrs.get("ignore_center", True),
        tag_per_joint=attrs.get("tag_per_joint", True),
    )


def _outputs(case, method: HigherHRNet) -> dict:
    """The network's outputs in a case, by scale."""
    views = ("", "_flip") if method.flip_test else ("",)

    def maps(scale: float, view: str) -> dict:
        names = [f"scale_{scale:g}/{name}{view}" for name in OUTPUTS]
        found = [case.inputs[name] for name in names if name in case.inputs]
        return {f"stage{stage}": networks.to_channels_last(array) for stage, array in enumerate(found)}

    return {scale: [maps(scale, view) for view in views] for scale in method.scales}


def check_aggregate(case) -> None:
    """Without flip test the original adds the maps of later scales to those of the first in place."""
    attrs, expected = case.attrs, case.outputs
    method = _inference_method(attrs)
    assert_array_equal(method.flip_index, attrs["flip_index"])
    size, outputs = tuple(attrs["base_size"]), _outputs(case, method)
    found = method.aggregate(outputs, size)
    tolerance = {"rtol": 0, "atol": 1e-5}
    assert_allclose(networks.to_channels_first(found["heatmaps"]), expected["heatmaps"], **tolerance)
    assert_allclose(np.asarray(found["tags"]).transpose(0, 3, 1, 2, 4), expected["tags"], **tolerance)
    for view, maps in enumerate(outputs[1.0]):
        key = f"scale1/heatmaps{view}"
        if key in expected:
            alone = heatmaps.resize(method.read(maps, mirrored=bool(view))[0], size)
            is_total = not method.flip_test and max(method.scales) == 1
            ours = found["heatmaps"] * len(outputs) if is_total else alone
            assert_allclose(networks.to_channels_first(ours), expected[key], **tolerance)


def check_geometry(case) -> None:
    scales = tuple(float(scale) for scale in case.attrs["scale_factor"])
    method = HigherHRNet(input_size=case.attrs["input_size"], scales=scales)
    for image, (height, width) in enumerate(case.inputs["image_hw"]):
        layout = method.layout(int(width), int(height))
        for index, (size, matrix) in enumerate(zip(layout.sizes, layout.to_canvas, strict=True)):
            expected = {name: value[image, index] for name, value in case.outputs.items()}
            assert_array_equal(size, expected["size_wh"])
            inverse = geometry.invert_affine(matrix)
            center = geometry.apply_affine(inverse, np.array([size]) / 2)[0]
            assert_allclose(center, expected["center"], rtol=0, atol=1e-6)
            shown = np.array(size) * inverse[0, 0] / 200
            assert_allclose(shown, expected["scale"], rtol=1e-6)
            _check_matrix(matrix, expected["matrix"], size)
            _check_matrix(inverse, expected["matrix_inverse"], (width, height))


def _check_matrix(matrix: np.ndarray, expected: np.ndarray, extent) -> None:
    """Within a thousandth of a pixel over the picture, or what float32 can tell on a picture as large as that."""
    assert_allclose(matrix[:, :2], expected[:, :2], rtol=1e-5, atol=1e-6)
    assert_allclose(matrix[:, 2], expected[:, 2], rtol=1e-5, atol=max(1e-3, 1e-6 * max(extent)))


def check_final_preds(case) -> None:
    """Positions on maps of any size, with a centre and scale of the original's kind."""
    size, grouped = tuple(case.attrs["heatmap_size_wh"]), case.inputs["grouped"]
    center, shown = case.inputs["center"].astype(np.float32), case.inputs["scale"] * 200
    to_image = geometry.invert_affine(geometry.crop_affine(center, shown, size))
    keypoints = geometry.apply_affine(to_image[None], grouped[..., :2])
    assert_allclose(keypoints, case.outputs["keypoints"][..., :2], rtol=0, atol=1e-3)
    assert_array_equal(grouped[..., 2:], case.outputs["keypoints"][..., 2:])


def check_pipeline(case) -> None:
    attrs, expected = case.attrs, case.outputs
    assert attrs["nms_padding"] == attrs["nms_kernel"] // 2
    method = dataclasses.replace(
        _inference_method(attrs),
        input_size=attrs["input_size"],
        max_people=attrs["max_num_people"],
        detection_threshold=attrs["detection_threshold"],
        tag_threshold=attrs["tag_threshold"],
        use_detection_val=attrs["use_detection_val"],
        ignore_too_much=attrs["ignore_too_much"],
        nms_window=attrs["nms_kernel"],
        tag_per_joint=attrs["tag_per_joint"],
    )
    height, width = attrs["image_size_hw"]
    layout = method.layout(width, height)
    size = layout.sizes[layout.base]
    assert_array_equal(size, expected["base_size"])
    to_image = geometry.invert_affine(layout.to_canvas[layout.base])[None].astype(np.float32)
    image = np.zeros((1, size[1], size[0], 3), np.float32)
    outputs = method.aggregate(_outputs(case, method), size)
    maps, some = networks.to_channels_first(outputs["heatmaps"]), expected["heatmaps_crop"]
    step = -(-maps.shape[2] // some.shape[2])
    assert_allclose(maps[:, :, ::step, ::step], some, rtol=0, atol=1e-5)
    batch = {"source": {"image": image, "to_image": to_image, "valid": np.ones(1, bool)}}
    poses = jax.device_get(jax.jit(method.decode)(outputs, batch))
    people = np.flatnonzero(poses.valid[0])
    assert len(people) == len(expected["keypoints"])
    assert_allclose(poses.keypoints[0, people], expected["keypoints"][..., :2], rtol=0, atol=2e-3)
    assert_allclose(poses.scores[0, people], expected["keypoints"][..., 2], rtol=0, atol=1e-5)
    assert_allclose(poses.person_score[0, people], expected["scores"], rtol=0, atol=1e-5)


CHECKS = {
    "higherhrnet/forward": check_forward,
    "higherhrnet/train_step": check_train_step,
    "higherhrnet/heatmap_generator": check_heatmap_generator,
    "higherhrnet/scale_aware_heatmap_generator": check_scale_aware_heatmap_generator,
    "higherhrnet/joints_generator": check_joints_generator,
    "higherhrnet/get_joints": check_get_joints,
    "higherhrnet/ae_loss": check_ae_loss,
    "higherhrnet/heatmap_loss": check_heatmap_loss,
    "higherhrnet/aggregate": check_aggregate,
    "higherhrnet/geometry": check_geometry,
    "higherhrnet/final_preds": check_final_preds,
    "higherhrnet/pipeline": check_pipeline,
}
