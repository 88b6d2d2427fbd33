"""RMPE: spatial transformers, and whole networks forward and in training."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.testing import assert_allclose

from golden_checks import networks, ties
from golden_checks.skeletons import skeleton_of
from jaxpose.convert.conversion import apply_rules
from jaxpose.methods.rmpe.fastpose import pixel_shuffle
from jaxpose.methods.rmpe.method import RMPE, RegionalPoseNetwork
from jaxpose.methods.rmpe.names import rules
from jaxpose.nn.names import BATCH_NORM, CONV, LINEAR, Rule, nest
from jaxpose.ops import sampling

# --- spatial transformers ---


def check_stn(case) -> None:
    """Grid, image, and both gradients of the convention that the case describes."""
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    convention = "torch7" if "both ends" in attrs["grid"] else "caffe"
    size = (attrs["width"], attrs["height"])
    cotangent = networks.to_channels_last(inputs["cotangent"])

    def weighted(image, theta):
        out = sampling.spatial_transform(image, theta, size, convention)
        return (out * cotangent).sum(), out

    image = networks.to_channels_last(inputs["image"])
    step = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))
    (_, out), (d_image, d_theta) = jax.device_get(step(image, inputs["theta"]))
    assert_allclose(sampling.transformer_grid(inputs["theta"], size, convention), expected["grid"], atol=1e-5)
    assert_allclose(networks.to_channels_first(out), expected["image"], atol=1e-4)
    assert_allclose(networks.to_channels_first(d_image), expected["d_image"], atol=1e-4)
    steps = _sides(image, expected["grid"], cotangent, convention)
    for number, row in enumerate(zip(d_theta, expected["d_theta"], steps, strict=True)):
        ties.assert_equal_but_for_sides(*row, rtol=1e-4, atol=1e-3, err_msg=f"theta {number}")


def _sides(image: np.ndarray, grid: np.ndarray, cotangent: np.ndarray, convention: str) -> np.ndarray:
    """[B, N, 2, 3] how much the gradient by theta depends on the side from which each whole pixel is read."""
    rule, (rows, columns) = sampling.CONVENTIONS[convention], image.shape[1:3]
    points = np.asarray(sampling.to_pixels(grid[..., ::-1], (columns, rows), rule))
    batch = len(points)
    bends = ties.kinks(image, points.reshape(batch, -1, 2), cotangent.reshape(batch, -1, cotangent.shape[-1]))
    extent = (np.array([rows, columns]) - (rule == "corners")) / 2  # pixels a unit of the grid, (y, x)
    identity = np.broadcast_to(np.eye(2, 3), (batch, 2, 3))
    places = sampling.transformer_grid(identity, grid.shape[2:0:-1], convention).reshape(batch, -1, 2)
    places = np.concatenate([places, np.ones_like(places[..., :1])], -1)
    steps = (bends[..., ::-1] * extent)[..., None] * places[..., None, :]  # [B, N, 2, 3]
    return np.concatenate([np.where(np.eye(2)[axis][:, None] > 0, steps, 0) for axis in (0, 1)], 1)


def check_inverse(case) -> None:
    def weighted(theta):
        gamma = sampling.invert_theta(theta)
        return (gamma * case.inputs["cotangent"]).sum(), gamma

    (_, gamma), d_theta = jax.jit(jax.value_and_grad(weighted, has_aux=True))(case.inputs["theta"])
    assert_allclose(gamma, case.outputs["gamma"], rtol=1e-4, atol=1e-5)
    assert_allclose(d_theta, case.outputs["d_theta"], rtol=1e-3, atol=1e-4)


def check_roundtrip(case) -> None:
    theta = case.inputs["theta"]
    transform = jax.jit(sampling.spatial_transform)
    transformed = transform(networks.to_channels_last(case.inputs["heatmap"]), theta)
    restored = transform(transformed, sampling.invert_theta(theta))
    assert_allclose(networks.to_channels_first(transformed), case.outputs["transformed"], atol=1e-4)
    assert_allclose(networks.to_channels_first(restored), case.outputs["restored"], atol=1e-4)


# --- AlphaPose's networks ---


def _method(case) -> RMPE:
    """The method that a network case describes."""
    attrs = case.attrs
    name = case.manifest.get("class_name", "FastPose")
    depth = attrs.get("NUM_LAYERS")
    joints = {"skeleton": skeleton_of(_joints(case)).name}
    if name == "FastPose":
        deformable = any(attrs.get("STAGE_WITH_DCN", ()))
        wide = attrs.get("CONV_DIM", 128) == 256
        backbone = f"se_resnet{depth}"
        return RMPE(network="fastpose", backbone=backbone, deformable=deformable, wide_head=wide, **joints)
    if name == "FastPose_DUC":
        kind = {"shuffle": "shuffle", "se-resnet": "se_resnet"}.get(attrs["BACKBONE"], "resnet")
        return RMPE(network="fastpose_duc", backbone=f"{kind}{depth}", **joints)
    if name == "SimplePose":
        (features,) = set(attrs.get("NUM_DECONV_FILTERS", (256,)))
        return RMPE(network="simplepose", backbone=f"resnet{depth}", deconv_features=features, **joints)
    return RMPE(network=f"hrnet_w{attrs['STAGE2']['NUM_CHANNELS'][0]}", **joints)


def _joints(case) -> int:
    return case.attrs["PRESET"]["NUM_JOINTS"]


def _network(case) -> tuple[RMPE, RegionalPoseNetwork, dict, np.ndarray]:
    """Method, its module, its variables, and the image."""
    method = _method(case)
    module = method.module()
    image = networks.to_channels_last(case.inputs["image"])
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(template["params"]))
    assert count == case.manifest.get("parameter_count", count)
    return method, module, apply_rules(case.state_dict, rules(method), template).variables, image


def check_forward(case) -> None:
    _, module, variables, image = _network(case)
    apply = jax.jit(lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, image))
    captured = captured["intermediates"]["pose"]
    compared = 0
    for name in (key.removeprefix("stats/") for key in case.outputs if key.startswith("stats/")):
        ours = _part(captured, name)
        if ours is None:
            continue
        compared += 1
        ours = networks.to_channels_first(ours)
        mean, deviation, *_ = networks.statistics(ours)
        stats = (mean, deviation, np.abs(ours).max())
        assert_allclose(
            stats, case.outputs[f"stats/{name}"], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=name
        )
        corner = case.outputs[f"corner/{name}"]
        ours = ours[tuple(map(slice, corner.shape))]
        assert_allclose(ours, corner, rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=name)
    assert compared or not any(key.startswith("stats/") for key in case.outputs)
    assert_allclose(
        networks.to_channels_first(outputs["maps"][0]), case.outputs["heatmap"], rtol=0, atol=networks.FORWARD
    )


def _part(captured: dict, name: str) -> np.ndarray | None:
    """Output of a part by its original name; None for what is no module here."""
    if match := re.fullmatch(r"preact\.(layer\d)", name):
        backbone = captured["backbone"]
        last = max((k for k in backbone if k.startswith(f"{match[1]}_")), key=lambda k: int(k.split("_")[1]))
        return backbone[last]["__call__"][0]
    if match := re.fullmatch(r"duc(\d)", name):
        head = captured["head"]
        if f"bn{match[1]}" in head:
            return pixel_shuffle(nn.relu(head[f"bn{match[1]}"]["__call__"][0]), 2)
        last = max(k for k in head if k.startswith(f"bn{match[1]}_"))
        return nn.relu(head[last]["__call__"][0])
    return None


def check_train_step(case) -> None:
    """Loss, maps, gradients and statistics of one batch."""
    method, module, variables, image = _network(case)
    expected, mask = case.outputs, case.inputs["mask"][:, :, 0, 0]
    height, width = expected["heatmap"].shape[2:]
    stream = {
        "image": image,
        "target": _gaussians(case.inputs["centres"], mask, (width, height), 2.0),
        "weight": mask,
    }

    def loss(params):
        value, aux = method.pose_loss(variables | {"params": params}, {"source": stream}, 0, jax.random.key(0))
        maps = module.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])[0]["maps"]
        return value, (aux, maps[-1])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (aux, maps)), gradients = jax.device_get(step(variables["params"]))
    assert_allclose(value, expected["loss"], rtol=1e-5)
    assert_allclose(networks.to_channels_first(maps), expected["heatmap"], rtol=0, atol=networks.FORWARD)
    assert_allclose(aux.metrics["accuracy"], expected["accuracy"], atol=1e-6)
    _check_norms(case, gradients, rules(method), rtol=5e-3)
    _check_statistics(case, aux.batch_stats, rules(method))


def _gaussians(centres: np.ndarray, weight: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Whole Gaussians [B, h, w, K] around centres [B, K, 2], times weight [B, K]."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    squared = (x[:, None] - centres[:, None, None, :, 0]) ** 2 + (y[..., None] - centres[:, None, None, :, 1]) ** 2
    return (np.exp(-squared / (2 * sigma**2)) * weight[:, None, None]).astype(np.float32)


def _check_norms(case, gradients: dict, rules: tuple[Rule, ...], rtol: float) -> None:
    for name, norm in zip(case.manifest["watched"], case.outputs["grad_norms"], strict=True):
        assert_allclose(networks.original_norm(gradients, rules, name), norm, rtol=rtol, err_msg=name)


def _check_statistics(case, batch_stats: dict, rules: tuple[Rule, ...]) -> None:
    for key in (k for k in case.outputs if k.startswith("after/")):
        ((path, _),) = (t for rule in rules for t in rule.targets(key.removeprefix("after/")) or ())
        assert_allclose(networks.leaf(batch_stats, path), case.outputs[key], rtol=1e-4, atol=1e-5, err_msg=key)


# --- the network of 2017 ---


def _residual(module: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{module}\.(?P<part>conv\d)", rf"{path}/\g<part>", CONV),
        Rule(rf"{module}\.(?P<part>bn\d)", rf"{path}/\g<part>", BATCH_NORM),
        Rule(rf"{module}\.(?:skip|shortcut)", f"{path}/shortcut", CONV),
    )


def _levels(depth: int) -> tuple[Rule, ...]:
    """An hourglass written as hourglasses in hourglasses, the innermost level 0 here."""
    found = []
    for nested in range(depth):
        outer = r"hg\.(\d+)\." + r"low2\." * nested
        branches = {"up1": "across", "low1": "down", "low3": "up"}
        branches |= {"low2": "bottom"} if nested == depth - 1 else {}
        for theirs, ours in branches.items():
            found += _residual(rf"{outer}{theirs}\.(\d+)", rf"hourglass\1/level{depth - 1 - nested}_{ours}_\2")
    return tuple(found)


HOURGLASS = (
    Rule("conv1", "stem_conv", CONV),
    Rule("bn1", "stem_bn", BATCH_NORM),
    *_residual("r1", "stem_residual1"),
    *_residual("r4", "stem_residual2"),
    *_residual("r5", "stem_residual3"),
    *_levels(4),
    *_residual(r"res\.(\d+)\.(\d+)", r"residual\1_\2"),
    Rule(r"lin\.(\d+)\.conv", r"linear\1_conv", CONV),
    Rule(r"lin\.(\d+)\.bn", r"linear\1_bn", BATCH_NORM),
    Rule(r"out\.(\d+)", r"score\1", CONV),
    Rule(r"back_feat\.(\d+)", r"remix\1_features", CONV),
    Rule(r"back_out\.(\d+)", r"remix\1_score", CONV),
)

SSTN = (
    Rule(r"locnet\.conv1", "localization/conv1", CONV),
    Rule(r"locnet\.bn1", "localization/bn1", BATCH_NORM),
    *_residual(r"locnet\.(layer\d)\.(\d+)", r"localization/\1_\2"),
    Rule(r"locnet\.fc", "localization/theta", LINEAR),
    *nest(HOURGLASS, r"sppe\.", "pose"),
    *nest(HOURGLASS, r"parallel\.", "parallel"),
)


def _sstn(case) -> tuple[RMPE, dict]:
    attrs = case.attrs
    size = attrs.get("input", 256)
    method = RMPE(
        skeleton=skeleton_of(attrs["joints"]).name,
        input_size=(size, size),
        network="hourglass",
        backbone_width=attrs["feats"],
        hourglass_modules=attrs["modules"],
        stacks=attrs["stacks"],
        parallel_stacks=attrs["parallel_stacks"],
        sstn=True,
        parallel="frozen",
        loss="mse_2017",
    )
    file = case.state_dict | {"locnet.fc.bias": case.inputs["locnet_fc_bias"]}
    template = jax.eval_shape(method.init, jax.random.key(0))
    return method, apply_rules(file, SSTN, template).variables


def check_sstn_forward(case) -> None:
    method, variables = _sstn(case)
    image, expected = networks.to_channels_last(case.inputs["image"]), case.outputs
    outputs = jax.device_get(jax.jit(lambda v, x: method.module().apply(v, x, guided=True))(variables, image))
    assert_allclose(outputs["theta"], expected["theta"], atol=1e-5)
    assert_allclose(outputs["gamma"], expected["gamma"], atol=1e-5)
    small = networks.to_channels_first(outputs["transformed"])
    cell = small.shape[2] // expected["transformed_small"].shape[2]
    small = small.reshape(*small.shape[:2], small.shape[2] // cell, cell, -1, cell).mean((3, 5))
    assert_allclose(small, expected["transformed_small"], atol=networks.FORWARD)
    for theirs, ours in (("raw", "raw"), ("heatmaps", "maps"), ("parallel", "parallel")):
        maps = [networks.to_channels_first(m) for m in outputs[ours]]
        for stack, found in enumerate(maps):
            stats = (found.mean(), found.std(ddof=1), np.abs(found).max())
            key = f"stats/{theirs}_{stack}"
            assert_allclose(stats, expected[key], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=key)
        last = maps[-1][:, ::3, ::2, ::2]
        assert_allclose(last, expected[f"{theirs}_last"], rtol=0, atol=networks.FORWARD, err_msg=theirs)


def _waves(waves: np.ndarray, size: int) -> np.ndarray:
    """Images [B, size, size, 3] from waves [B, 3, K, (p, q, phase, amplitude)]."""
    p, q, phase, amplitude = (waves[..., i, None, None] for i in range(4))
    y, x = np.mgrid[:size, :size]
    image = 0.5 + (amplitude * np.sin(p * x + q * y + phase)).sum(2)
    return networks.to_channels_last(image.astype(np.float32))


def check_sstn_train(case) -> None:
    """One batch: gradients of all that learns, and what of the transformer's comes through the parallel branch."""
    method, variables = _sstn(case)
    inputs, expected = case.inputs, case.outputs
    image = _waves(inputs["image_waves"], method.input_size[0])
    assert_allclose(networks.to_channels_first(image)[:, :, ::37, ::37], expected["image_sample"], atol=1e-5)
    size = tuple(side // 4 for side in method.input_size)
    stream = {"image": image}
    for theirs, ours in (("", ""), ("_parallel", "centered_")):
        visible = inputs[f"visible{theirs}"].astype(np.float32)
        stream[f"{ours}target"] = _gaussians(inputs[f"centres{theirs}"], visible, size, 1.75)
        stream[f"{ours}weight"] = visible

    def loss(params, parallel_weight):
        weighted = dataclasses.replace(method, parallel_weight=1.0)
        object.__setattr__(weighted, "parallel_weight", parallel_weight)
        return weighted.pose_loss(variables | {"params": params}, {"source": stream}, 0, jax.random.key(0))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, aux), gradients = jax.device_get(step(variables["params"], jnp.float32(1)))
    assert_allclose(value, expected["loss"], rtol=1e-5)
    assert_allclose(aux.metrics["pose_loss"], expected["loss_main"][-1], rtol=1e-4)
    assert_allclose(aux.metrics["parallel_loss"], expected["loss_parallel"][-1], rtol=1e-4)
    _check_norms(case, gradients, SSTN, rtol=3e-3)
    _check_statistics(case, aux.batch_stats, SSTN)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients["parallel"]))
    with_parallel = gradients["localization"]["theta"]["bias"]
    _check_bias(with_parallel, expected["d_locnet_fc_bias"])
    without = jax.device_get(step(variables["params"], jnp.float32(0)))[1]["localization"]["theta"]["bias"]
    _check_bias(with_parallel - without, expected["d_locnet_fc_bias_from_parallel"])


def _check_bias(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert_allclose(ours, theirs, rtol=3e-3, atol=3e-3 * np.abs(theirs).max())


CHECKS = {
    "rmpe/stn": check_stn,
    "rmpe/sdtn_inverse": check_inverse,
    "rmpe/stn_sdtn_roundtrip": check_roundtrip,
    "rmpe/forward": check_forward,
    "rmpe/train_step": check_train_step,
    "rmpe/sstn_forward": check_sstn_forward,
    "rmpe/sstn_train": check_sstn_train,
}
