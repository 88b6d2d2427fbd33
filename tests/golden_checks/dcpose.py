"""DCPose: the whole network, what follows its backbone, and deformable convolutions; forward and in training."""

import re

import jax
import numpy as np
from numpy.testing import assert_allclose

from golden_checks import networks
from golden_checks.skeletons import skeleton_of
from jaxpose.convert.conversion import apply_rules
from jaxpose.methods.dcpose import names as conversion
from jaxpose.methods.dcpose.method import DCPose, pose_residuals, weighted_maps
from jaxpose.ops import deform

INTEGER = 1e-6
"""Offsets nearer than this to a whole number have no gradient that can be compared."""


# --- networks ---


def _method(attrs: dict, **fields) -> DCPose:
    """The method that a network case describes."""
    width, stages, blocks = re.match(
        r"HRNet-W(\d+) \(stage 2-4 modules (\d+/\d+/\d+), basic blocks (\d+)", attrs["backbone"]
    ).groups()
    final = re.search(r"final conv (\d)x\1", attrs["backbone"])
    joints = attrs["num_joints"]
    assert attrs["ptm_inner_ch"] == joints
    assert attrs["deformable_groups"] == joints
    assert attrs["prf_inner_ch"] % joints == 0
    assert (attrs["deform_kernel"], attrs["aggregation"]) == (3, "weighted_sum")
    return DCPose(
        skeleton=skeleton_of(joints).name,
        final_kernel=int(final[1]) if final else 1,
        backbone=f"hrnet_w{width}",
        backbone_stages=tuple(int(n) for n in stages.split("/")),
        backbone_blocks=int(blocks),
        merger_blocks=attrs["ptm_blocks"],
        fusion_blocks=attrs["prf_blocks"],
        combination_blocks=attrs["combine_blocks"],
        fusion_features=attrs["prf_inner_ch"] // joints,
        combination_features=attrs["combine_inner_ch"],
        dilations=tuple(attrs["dilations"]),
        **fields,
    )


def _clip(case) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, 3, H, W, 3] and margins of a case whose frames are stacked along the channels."""
    x = case.inputs["x"]
    image = x.reshape(len(x), 3, 3, *x.shape[2:]).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(image), case.inputs["margin"]


def _variables(method: DCPose, module, case, image, margin) -> dict:
    template = jax.eval_shape(module.init, jax.random.key(0), image, margin)
    variables = apply_rules(conversion.prepare(case.state_dict), conversion.rules(method), template).variables
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == case.attrs.get("parameters", count)
    return variables


def check_forward(case) -> None:
    """With a frozen backbone the original gives the refined maps alone, and the case may hold nothing else."""
    method = _method(case.attrs, freeze_backbone=case.attrs.get("freeze_hrnet_weights", False))
    image, margin = _clip(case)
    module = method.module()
    variables = _variables(method, module, case, image, margin)
    apply = jax.jit(lambda v, *x: module.apply(v, *x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, image, margin))
    captured, expected = captured["intermediates"], case.outputs
    tolerance = {"rtol": networks.FORWARD, "atol": networks.FORWARD}
    for key in (k for k in expected if k.startswith(("stats/", "crop/"))):
        kind, _, name = key.partition("/")
        ours = networks.to_channels_first(_inner(captured, name, method))
        if kind == "stats":
            assert_allclose(networks.statistics(ours), expected[key], **tolerance, err_msg=key)
        else:
            crop = ours[:, : expected[key].shape[1], 4:10, 4:10]
            assert_allclose(crop, expected[key], **tolerance, err_msg=key)
    rough = captured["head"]["__call__"][0]
    found = {
        "rough_heatmaps_channel0_1": np.concatenate([rough[frame::3] for frame in range(3)]),
        "current_rough_heatmaps": outputs["rough"],
        "output_heatmaps": outputs["maps"],
    }
    assert "output_heatmaps" in expected
    for name in found.keys() & expected.keys():
        ours = networks.to_channels_first(found[name])[:, : expected[name].shape[1]]
        assert_allclose(ours, expected[name], rtol=0, atol=networks.FORWARD, err_msg=name)


def _inner(captured: dict, name: str, method: DCPose) -> np.ndarray:
    """What the original module `name` puts out; "stage3.1" is branch 1 of stage 3."""
    first, _, rest = name.partition(".")
    if first == "rough_pose_estimation_net":
        return _rough_inner(captured, rest)
    refinement = captured["refinement"]
    if first in conversion.CHAINS:
        return refinement[conversion.CHAINS[first]]["__call__"][0]
    index = int(rest)
    if first == "modulated_deform_conv_list":
        return refinement["correction"]["warped"][0][..., index, :]
    part = {"offsets_list": "offsets", "masks_list": "masks"}[first]
    return refinement["correction"][f"dilation{method.dilations[index]}"][part]["__call__"][0]


def _rough_inner(captured: dict, name: str) -> np.ndarray:
    """What a module of the network for single frames puts out, and that network itself if the name is empty."""
    if not name:
        return captured["head"]["__call__"][0]
    stage, _, branch = name.partition(".")
    backbone = captured["backbone"]
    if stage in backbone:
        return backbone[stage]["__call__"][0]
    found = [key for key in backbone if re.fullmatch(rf"{stage}_\d+", key)]
    output = backbone[max(found, key=lambda key: int(key.rpartition("_")[2]))]["__call__"][0]
    return output[int(branch)] if branch else output


def check_train_step(case) -> None:
    """In float64: in float32 the original's own gradients are up to 7e-4 away from it."""
    with jax.enable_x64(True):
        parts = [part for part in ("frozen", "unfrozen") if f"{part}/loss" in case.outputs]
        assert parts, "the case has no training step"
        for part in parts:
            _check_train_step(case, part, part == "frozen")


def _check_train_step(case, part: str, frozen: bool) -> None:
    method = _method(case.attrs, freeze_backbone=frozen, dtype="float64")
    image, margin = jax.tree.map(np.float64, _clip(case))
    module = method.module()
    variables = jax.tree.map(np.float64, _variables(method, module, case, image, margin))
    target, weight = _target(case.inputs)

    def loss(params):
        outputs, state = module.apply(
            variables | {"params": params}, image, margin, train=True, mutable=["batch_stats"]
        )
        refined = method.criterion(outputs["maps"], target, weight)
        losses = [refined] if frozen else [method.criterion(outputs["rough"], target, weight), refined]
        return sum(losses), (losses, outputs["maps"], state["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (losses, maps, batch_stats)), gradients = jax.device_get(step(variables["params"]))
    expected = {k.removeprefix(f"{part}/"): v for k, v in case.outputs.items() if k.startswith(f"{part}/")}
    assert_allclose(value, expected["loss"], rtol=networks.LOSS)
    assert_allclose(losses, expected["losses"], rtol=networks.LOSS)
    maps = networks.to_channels_first(maps)[:, : expected["output_heatmaps"].shape[1]]
    assert_allclose(maps, expected["output_heatmaps"], rtol=0, atol=networks.FORWARD)
    rules, names = conversion.rules(method), case.attrs[f"grad_names_{part}"]
    networks.check_gradients(gradients, rules, dict(zip(names, expected["grad_norm_f64"], strict=True)))
    _check_statistics(batch_stats, rules, expected, case.attrs["bn_names"])
    if frozen:
        still = [gradients[name] for name in ("backbone", "head")]
        assert all(not leaf.any() for leaf in jax.tree.leaves(still))


def _target(inputs: dict) -> tuple[np.ndarray, np.ndarray]:
    """Maps [B, h, w, K] and weights [B, K]."""
    return networks.to_channels_last(inputs["target"]), inputs["target_weight"].reshape(len(inputs["target"]), -1)


def _check_statistics(batch_stats: dict, rules, expected: dict, layers: list[str]) -> None:
    for layer in layers:
        for kind in ("running_mean", "running_var"):
            ((path, _),) = (t for rule in rules for t in rule.targets(f"{layer}.{kind}") or ())
            ours = networks.leaf(batch_stats, path)
            assert_allclose(ours, expected[f"{kind}/{layer}"], rtol=1e-4, atol=1e-5, err_msg=f"{layer} {kind}")


# --- what follows the backbone ---


def _refinement(case):
    """Module, its variables, rough maps [3, B, h, w, K] and margins."""
    method = _method(case.attrs)
    module, margin = method.refinement(), case.inputs["margin"]
    rough = networks.to_channels_last(case.inputs["rough_heatmaps"])
    rough = rough.reshape(3, -1, *rough.shape[1:])
    template = jax.eval_shape(module.init, jax.random.key(0), rough, margin)
    nested = {collection: {"refinement": tree} for collection, tree in template.items()}
    found = apply_rules(case.state_dict, conversion.rules(method), nested).variables
    variables = {collection: tree["refinement"] for collection, tree in found.items()}
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == case.attrs.get("parameters", count)
    return method, module, variables, rough, margin


def check_head_forward(case) -> None:
    method, module, variables, rough, margin = _refinement(case)
    apply = jax.jit(lambda v, *x: module.apply(v, *x, capture_intermediates=True, mutable=["intermediates"]))
    output, captured = jax.device_get(apply(variables, rough, margin))
    captured = {"refinement": captured["intermediates"]}
    for key, expected in case.outputs.items():
        ours = networks.to_channels_first(_head_inner(key, output, captured, method, rough, margin))
        ours = ours[:, : expected.shape[1]]
        if key.startswith(("offsets", "masks")):
            ours = ours[..., 3:9, 3:9]
        assert_allclose(ours, expected, rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=key)


def _head_inner(key: str, output, captured: dict, method: DCPose, rough, margin) -> np.ndarray:
    if key == "output_heatmaps":
        return output
    if key.startswith("prf_input"):
        return pose_residuals(rough, margin)
    if key.startswith("ptm_input"):
        return weighted_maps(rough, margin)
    lists = {"warped": "modulated_deform_conv_list", "offsets": "offsets_list", "masks": "masks_list"}
    first, _, rest = key.partition(".")
    if first in lists:
        return _inner(captured, f"{lists[first]}.{rest}", method)
    if not rest:
        return _inner(captured, first, method)
    block, unit = re.fullmatch(r"layers\.(\d+)(?:\.conv_bn_relu(\w+))?", rest).groups()
    found = captured["refinement"][conversion.CHAINS[first]][f"block{block}"]
    return (found[f"conv{unit}"] if unit else found)["__call__"][0]


def check_head_train_step(case) -> None:
    method, module, variables, rough, margin = _refinement(case)
    target, weight = _target(case.inputs)

    def loss(params, rough):
        maps, state = module.apply(variables | {"params": params}, rough, margin, True, mutable=["batch_stats"])
        return method.criterion(maps, target, weight), (maps, state["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (maps, batch_stats)), (gradients, by_rough) = jax.device_get(step(variables["params"], rough))
    expected, rules = case.outputs, conversion.rules(method)
    assert_allclose(value, expected["loss"], rtol=1e-5)
    maps = networks.to_channels_first(maps)[:, : expected["output_heatmaps"].shape[1]]
    assert_allclose(maps, expected["output_heatmaps"], rtol=0, atol=networks.FORWARD)
    gradients, batch_stats = {"refinement": gradients}, {"refinement": batch_stats}
    networks.check_gradients(gradients, rules, dict(zip(case.attrs["grad_names"], expected["grad_norm"], strict=True)))
    norms = np.linalg.norm(by_rough.reshape(3, -1), axis=1)
    assert_allclose(norms, expected["grad_rough_heatmaps_norm_per_frame"].reshape(-1), rtol=networks.GRADIENT)
    for key in (k for k in expected if k.startswith("grad/")):
        ((path, _),) = (t for rule in rules for t in rule.targets(key.removeprefix("grad/")) or ())
        scale = np.abs(expected[key]).max()
        ours = networks.leaf(gradients, path)
        assert_allclose(ours, expected[key], rtol=0, atol=networks.GRADIENT * scale, err_msg=key)
    _check_statistics(batch_stats, rules, expected, case.attrs["bn_names"])


def check_modulated_deform_conv(case) -> None:
    for number, attrs in enumerate(case.attrs["configs"]):
        inputs, expected = (
            {k.removeprefix(f"{number}/"): v for k, v in arrays.items() if k.startswith(f"{number}/")}
            for arrays in (case.inputs, case.outputs)
        )
        _check_deform_conv(attrs, inputs, expected)


def _check_deform_conv(attrs: dict, inputs: dict, expected: dict) -> None:
    """Output and all gradients, and the same output when computed beside a second dilation."""
    x, offset, mask, weights = (
        networks.to_channels_last(inputs[k]) for k in ("x", "offset", "mask", "output_gradient")
    )
    kernel, bias = inputs["weight"].transpose(2, 3, 1, 0), inputs["bias"]
    assert kernel.shape[0] == attrs["kernel"]
    assert offset.shape[-1] == attrs["deformable_groups"] * attrs["kernel"] ** 2 * 2
    options = {name: attrs[name] for name in ("stride", "padding", "dilation")}

    def weighted(*arrays):
        out = deform.deform_conv(*arrays, **options)
        return (out * weights).sum(), out

    step = jax.jit(jax.value_and_grad(weighted, argnums=range(5), has_aux=True))
    (_, out), gradients = jax.device_get(step(x, offset, kernel, mask, bias))
    found = dict(zip(("x", "offset_off_grid", "weight", "mask", "bias"), gradients, strict=True))
    pairs = offset.reshape(*offset.shape[:-1], -1, 2)
    whole = (np.abs(pairs - np.round(pairs)) < INTEGER).any(-1, keepdims=True)
    found["offset_off_grid"] = np.where(whole, 0, found["offset_off_grid"].reshape(pairs.shape)).reshape(offset.shape)
    found["weight"] = found["weight"].transpose(3, 2, 0, 1)
    assert_allclose(networks.to_channels_first(out), expected["y"], rtol=0, atol=networks.FORWARD)
    for name, gradient in found.items():
        gradient = networks.to_channels_first(gradient) if name in ("x", "offset_off_grid", "mask") else gradient
        assert_allclose(gradient, expected[f"grad_{name}"], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=name)
    if (attrs["kernel"], attrs["stride"]) == (3, 1) and attrs["padding"] == attrs["dilation"]:
        twice = [[array, array] for array in (offset, kernel, mask, bias)]
        both = deform.dilated_deform_convs(x, *twice, (attrs["dilation"], attrs["dilation"] + 1))
        first = networks.to_channels_first(both[..., 0, :])
        assert_allclose(first, expected["y"], rtol=0, atol=networks.FORWARD)


CHECKS = {
    "dcpose/forward": check_forward,
    "dcpose/train_step": check_train_step,
    "dcpose/head_forward": check_head_forward,
    "dcpose/head_train_step": check_head_train_step,
    "dcpose/modulated_deform_conv": check_modulated_deform_conv,
}
