"""DEKR: adaptive blocks, whole networks, targets, losses, the flip test."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from jaxpose.convert.conversion import apply_rules
from jaxpose.methods.dekr import decode as candidates
from jaxpose.methods.dekr import method as dekr
from jaxpose.methods.dekr import names
from jaxpose.methods.dekr.adaptive import AdaptiveBlock
from jaxpose.methods.dekr.method import DEKR
from jaxpose.ops.deform import affine_offsets, deform_conv

TARGETS = jax.jit(dekr.offset_targets, static_argnames=("size", "radius"))


def _offsets_last(offsets: np.ndarray) -> np.ndarray:
    """[..., 2 K, H, W] -> [..., H, W, K, 2]."""
    return rearrange(offsets, "... (k xy) h w -> ... h w k xy", xy=2)


def _offsets_first(offsets) -> np.ndarray:
    return rearrange(np.asarray(offsets), "... h w k xy -> ... (k xy) h w")


# --- adaptive blocks ---


def check_adapt_block(case) -> None:
    """One branch; the gradients are those of the sum of y * cotangent."""
    x, cotangent = (networks.to_channels_last(case.inputs[name])[:, :, :, None] for name in ("x", "cotangent"))
    entries = {f"offset_feature_layers.0.0.{name}": array for name, array in case.state_dict.items()}
    rules = [rule for rule in names.HEADS if rule.path.startswith(r"offset_block\1")]
    module = AdaptiveBlock()
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), x, False))
    template = {kind: {"offset_block0": tree} for kind, tree in template.items()}
    variables = apply_rules(names.prepare(entries), rules, template).variables
    variables = {kind: tree["offset_block0"] for kind, tree in variables.items()}

    def run(params, x):
        given = variables | {"params": params}
        y, state = module.apply(given, x, False, capture_intermediates=True, mutable=["intermediates"])
        return jnp.sum(y * cotangent), (y, state["intermediates"])

    (_, (y, inner)), gradients = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(variables["params"], x)
    transform, translation = (inner[name]["__call__"][0] for name in ("transform", "translation"))
    moved = affine_offsets(transform, translation)
    found = {"y": y, "transform": transform, "translation": translation, "sampling_offset": moved}
    found |= {"grad/x": gradients[1]} | _grad_sampling(variables, x, moved, cotangent)
    for name, array in found.items():
        ours = networks.to_channels_first(array[:, :, :, 0])
        assert_allclose(ours, case.outputs[name], rtol=1e-4, atol=1e-4, err_msg=name)
    flat = _original_gradients(gradients[0])
    for name in (key for key in case.outputs if key.startswith("grad/") and key not in found):
        assert_allclose(flat[name.removeprefix("grad/")], case.outputs[name], rtol=1e-4, atol=1e-3, err_msg=name)


def _grad_sampling(variables, x, moved, cotangent) -> dict:
    """The convolution alone, and its gradient by the offsets."""
    params, statistics = variables["params"], variables["batch_stats"]["bn"]
    convolve = lambda moved: deform_conv(x[:, :, :, 0], moved[:, :, :, 0], params["kernel"][0], padding=1)
    scale = params["bn"]["scale"] / jnp.sqrt(statistics["var"] + 1e-5)

    def run(moved):
        y = (convolve(moved)[:, :, :, None] - statistics["mean"]) * scale + params["bn"]["bias"] + x
        return jnp.sum(jax.nn.relu(y) * cotangent)

    return {"adapt_conv": convolve(moved)[:, :, :, None], "grad/sampling_offset": jax.grad(run)(moved)}


def _original_gradients(params) -> dict[str, np.ndarray]:
    """Gradients of the first branch by the names and in the layouts of the original."""
    first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params)
    flat = {"adapt_conv.weight": first["kernel"], "bn.weight": first["bn"]["scale"], "bn.bias": first["bn"]["bias"]}
    for ours, theirs in (("transform", "transform_matrix_conv"), ("translation", "translation_conv")):
        flat |= {f"{theirs}.weight": first[ours]["kernel"], f"{theirs}.bias": first[ours]["bias"]}
    return {name: array.transpose(3, 2, 0, 1) if array.ndim == 4 else array for name, array in flat.items()}


# --- networks ---


def _network(case, dtype: str = "float32"):
    """Method, network with as many joints as the case has, its variables and the image."""
    attrs = case.attrs
    assert attrs["final_conv_kernel"] == attrs["heatmap_blocks"] == attrs["heatmap_dilation"] == 1
    method = DEKR(
        backbone=f"hrnet_w{attrs['num_channels'][0][0]}",
        backbone_stages=tuple(attrs["num_modules"]),
        heatmap_features=attrs["heatmap_channels"],
        offset_features=attrs["offset_channels_per_keypoint"],
        offset_blocks=attrs["offset_blocks"],
        dtype=dtype,
    )
    module = method.module().clone(num_joints=attrs["num_joints"])
    image = networks.to_channels_last(case.inputs["image"])
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(template["params"]))
    assert count == attrs.get("parameters", count)
    variables = apply_rules(names.prepare(case.state_dict), names.rules(method), template).variables
    return method, module, variables, image


def check_forward(case) -> None:
    _, module, variables, image = _network(case)
    apply = jax.jit(lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, image))
    compared = 0
    for key, expected in case.outputs.items():
        kind, _, name = key.partition("/")
        if kind not in ("stats", "corner"):
            continue
        ours, compared = networks.to_channels_first(_inner(captured["intermediates"], name)), compared + 1
        if kind == "stats":
            ours = networks.statistics(ours)[:2]
        else:
            ours = ours[(0, *(slice(n) for n in expected.shape))]
        assert_allclose(ours, expected, rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=key)
    assert compared or not any(key.startswith("stats/") for key in case.outputs)
    assert_allclose(networks.to_channels_first(outputs["heatmaps"]), case.outputs["heatmap"], atol=networks.FORWARD)
    assert_allclose(_offsets_first(outputs["offsets"]), case.outputs["offset"], atol=networks.FORWARD)


def _inner(captured: dict, name: str) -> np.ndarray:
    """What a module of the original puts out, [B, H, W, C]."""
    if found := re.fullmatch(r"transition_(heatmap|offset)", name):
        return captured[f"{found[1]}_transition"]["__call__"][0]
    if found := re.fullmatch(r"offset_feature_layers\.(\d+)\.(\d+)", name):
        return captured[f"offset_block{found[2]}"]["__call__"][0][..., int(found[1]), :]
    if found := re.fullmatch(r"deform_offset_joint(\d+)_block(\d+)", name):
        block = captured[f"offset_block{found[2]}"]
        maps = (block[part]["__call__"][0][..., int(found[1]), :] for part in ("transform", "translation"))
        return affine_offsets(*maps)
    stage, _, branch = name.partition("_")
    numbers = [int(key.partition("_")[2]) for key in captured["backbone"] if key.startswith(f"{stage}_")]
    output = captured["backbone"][f"{stage}_{max(numbers)}"]["__call__"][0]
    return output[int(branch)] if branch else output


def check_train_step(case) -> None:
    """In float64: in float32 the original's own gradients differ from it by up to 4e-4."""
    with jax.enable_x64(True):
        _check_train_step(case)


def _check_train_step(case) -> None:
    attrs, expected = case.attrs, case.outputs
    method, module, variables, image = _network(case, "float64")
    variables, image = jax.tree.map(np.float64, (variables, image))
    assert attrs["smooth_l1_beta"] == 1 / 9
    assert (method.heatmap_weight, method.offset_weight) == (attrs["heatmap_loss_factor"], attrs["offset_loss_factor"])
    stream = {"heatmaps": case.inputs["heatmap"], "heatmap_weight": case.inputs["mask"]}
    stream = {name: networks.to_channels_last(maps) for name, maps in stream.items()}
    weight = _offsets_last(case.inputs["offset_weight"])
    assert_array_equal(weight[..., 0], weight[..., 1])
    stream |= {"offsets": _offsets_last(case.inputs["offset"]), "offset_weight": weight[..., 0]}

    def loss(params, part):
        """One of the losses, by its share in `part`."""
        outputs, state = module.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])
        values = method.criterion(outputs, stream)
        return sum(part[name] * value for name, value in values.items()), (values, outputs, state["batch_stats"])

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients = {}
    for name in ("heatmap", "offset"):
        part = {n: np.float64(n == name) for n in ("heatmap", "offset")}
        gradients[name], (values, outputs, batch_stats) = jax.device_get(step(variables["params"], part))
    assert_allclose(values["heatmap"], expected["heatmap_loss"], rtol=networks.LOSS)
    assert_allclose(values["offset"], expected["offset_loss"], rtol=networks.LOSS)
    assert_allclose(sum(values.values()), expected["loss"], rtol=networks.LOSS)
    gradients["sum"] = jax.tree.map(np.add, gradients["heatmap"], gradients["offset"])
    suffixes = {"sum": "", "heatmap": "_heatmap_loss", "offset": "_offset_loss"}
    for part, suffix in suffixes.items():
        norms = [_norm(gradients[part], name) for name in attrs["grad_norm_names"]]
        assert_allclose(norms, expected[f"grad_norms{suffix}"], rtol=networks.GRADIENT, atol=1e-12, err_msg=part)
    _check_outputs(outputs, expected)
    for layer in attrs["bn_names"]:
        for kind in ("running_mean", "running_var"):
            ours = _entry(batch_stats, f"{layer}.{kind}")
            assert_allclose(ours, expected[f"bn/{layer}/{kind}"], rtol=1e-4, atol=1e-5, err_msg=f"{layer} {kind}")


def _check_outputs(outputs, expected) -> None:
    maps = {"heatmap": networks.to_channels_first(outputs["heatmaps"]), "offset": _offsets_first(outputs["offsets"])}
    for name, ours in maps.items():
        assert_allclose(networks.statistics(ours)[:2], expected[f"stats/{name}"], rtol=networks.FORWARD, atol=1e-4)
        corner = expected[f"corner/{name}"]
        ours = ours[tuple(slice(n) for n in corner.shape)]
        # the original in float32 is up to 1.4e-4 from itself in float64
        assert_allclose(ours, corner, rtol=networks.FORWARD, atol=2 * 1.4e-4, err_msg=name)


def _entry(tree: dict, name: str) -> np.ndarray:
    """The leaf that the original calls `name`; of a branch, the part that is its own."""
    found = re.fullmatch(r"(offset_feature_layers|offset_final_layer)\.(\d+)\.(.+)", name)
    stacked = f"{found[1]}.{found[3]}" if found else name
    targets = [path for rule in names.rules(DEKR()) for path, _ in rule.targets(stacked) or ()]
    assert len(targets) == 1, f"{len(targets)} places for {name}"
    leaf = np.asarray(networks.leaf(tree, targets[0]))
    return leaf[int(found[2])] if found else leaf


def _norm(gradients: dict, name: str) -> float:
    return float(np.linalg.norm(_entry(gradients, name).astype(np.float64)))


# --- targets ---


def check_target_heatmap(case) -> None:
    """Sigma of a channel depends on its number alone in the original: 2, and 4 from channel 17 on."""
    attrs, joints = case.attrs, case.inputs["joints"]
    channels = np.arange(joints.shape[1])
    sigmas = np.where(channels >= 17, attrs["center_sigma"], attrs["sigma"])
    size = (attrs["output_size"],) * 2
    for prefix, people in (("", joints), ("one/", joints[:1])):
        maps, near = dekr.gaussian_maps(people[..., :2], people[..., 2] > 0, size, sigmas)
        assert_allclose(np.moveaxis(maps, -1, 0), case.outputs[f"{prefix}heatmap"], rtol=0, atol=1e-6)
        weight = np.where(near, np.float32(1), np.float32(attrs["bg_weight"]))
        assert_array_equal(np.moveaxis(weight, -1, 0), case.outputs[f"{prefix}weight"])


def check_target_offset(case) -> None:
    """Where areas lose digits in float32, cells near the people concerned may differ: see `_rounded`."""
    attrs = case.attrs
    size = (attrs["output_w"], attrs["output_h"])
    for prefix, order in (("", slice(None)), ("reversed/", slice(None, None, -1))):
        joints, area = case.inputs["joints"][order], case.inputs["area"][order]
        points, visible = joints[..., :2], joints[..., 2]
        arguments = (points[:, :-1], visible[:, :-1], points[:, -1], visible[:, -1] > 0, area)
        offsets, weights = TARGETS(*arguments, size=size, radius=attrs["radius"])
        expected = _offsets_last(case.outputs[f"{prefix}offset"])
        expected_weights = _offsets_last(case.outputs[f"{prefix}weight"])
        same = np.ones(size[::-1], bool)
        if attrs.get("quirk") == "area_float32_rounding":
            same = ~_rounded(points[:, -1], case.inputs["rounds_down"][order], size, attrs["radius"])
        assert_allclose(np.asarray(offsets)[same], expected[same], rtol=0, atol=1e-5)
        for axis in (0, 1):
            assert_allclose(np.asarray(weights)[same], expected_weights[same][..., axis], rtol=1e-6)


def _rounded(centers: np.ndarray, rounds_down: np.ndarray, size: tuple[int, int], radius: int) -> np.ndarray:
    """[H, W] cells of several people, one of whose areas is not a float32.

    There the original, which compares float64 with float32, refuses joints to a person who has just taken the cell.
    """
    x, y = np.meshgrid(*(np.arange(n) for n in size))
    windows = []
    for center in np.trunc(centers):
        low, high = center - radius, center + radius
        windows.append((x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1]))
    windows = np.array(windows)
    return (windows.sum(0) > 1) & windows[rounds_down].any(0)


def check_joints_area(case) -> None:
    keypoints, annotated = case.inputs["keypoints"], case.inputs["annotation_area"]
    points, visible = keypoints[..., :2], keypoints[..., 2]
    expected = case.outputs["joints"]
    present = annotated >= (case.attrs["min_area"] or 0)
    assert_array_equal(expected[:, -1, 2], present)
    centers = np.where(present[:, None], dekr.person_centers(points, visible), 0)
    assert_allclose(centers, expected[:, -1, :2], rtol=1e-6)
    assert_array_equal(keypoints, expected[:, :-1])
    assert_allclose(dekr.person_areas(points, visible), case.outputs["area"][:, 0], rtol=1e-6)


def check_losses(case) -> None:
    arrays, expected = case.inputs, case.outputs
    maps, target, weight = (networks.to_channels_last(arrays[n]) for n in ("heatmap_pred", "heatmap", "mask"))
    value, gradient = jax.value_and_grad(dekr.heatmap_loss)(maps, target, weight)
    assert_allclose(value, expected["heatmap_loss"], rtol=1e-6)
    assert_allclose(networks.to_channels_first(gradient), expected["grad/heatmap_pred"], rtol=1e-5, atol=1e-9)
    maps, target, weight = (_offsets_last(arrays[n]) for n in ("offset_pred", "offset", "offset_weight"))
    loss = lambda maps, weight: dekr.offset_loss(maps, target, weight, case.attrs["beta"])
    value, gradient = jax.value_and_grad(loss)(maps, weight)
    assert_allclose(value, expected["offset_loss"], rtol=1e-6)
    assert_allclose(_offsets_first(gradient), expected["grad/offset_pred"], rtol=1e-5, atol=1e-9)
    assert_allclose(loss(maps, np.zeros_like(weight)), expected["zero_weight_loss"], rtol=1e-6)


# --- inference ---


def check_offset_to_pose(case) -> None:
    poses = dekr.to_poses(_offsets_last(case.inputs["offset"]))
    assert_allclose(_offsets_first(poses), case.outputs["pose"], rtol=0, atol=1e-5)
    mirrored = dekr.mirror_poses(poses, np.array(case.attrs["flip_index"]))
    assert_allclose(_offsets_first(mirrored), case.outputs["pose_flip"], rtol=0, atol=1e-5)


def check_flip_test(case) -> None:
    flip_index = np.array(case.attrs["flip_index"])
    image = networks.to_channels_last(case.inputs["image"])
    mirrored = networks.to_channels_first(dekr.mirror_input(jnp.asarray(image)))
    assert_array_equal(mirrored, case.outputs["image_flipped"])
    views = [
        {
            "heatmaps": jnp.asarray(networks.to_channels_last(case.inputs[f"heatmap_{i}"])),
            "offsets": jnp.asarray(_offsets_last(case.inputs[f"offset_{i}"])),
        }
        for i in (1, 2)
    ]
    heatmaps, poses = dekr.merge_views(views, flip_index)
    assert_allclose(networks.to_channels_first(heatmaps), case.outputs["heatmap"], rtol=0, atol=1e-6)
    assert_allclose(_offsets_first(poses), case.outputs["pose"], rtol=0, atol=1e-5)
    _, alone = dekr.merge_views(views[:1], flip_index)
    assert_allclose(_offsets_first(alone), case.outputs["pose_without_flip"], rtol=0, atol=1e-5)


def check_up_interpolate(case) -> None:
    for index, factor in enumerate(case.attrs["factor"]):
        maps = networks.to_channels_last(case.inputs[f"{index}/x"])
        size = (factor * maps.shape[2], factor * maps.shape[1])
        ours = networks.to_channels_first(candidates.upsample(maps, factor, size))
        assert_allclose(ours, case.outputs[f"{index}/y"], rtol=0, atol=1e-5)


CHECKS = {
    "dekr/adapt_block": check_adapt_block,
    "dekr/forward": check_forward,
    "dekr/train_step": check_train_step,
    "dekr/target_heatmap": check_target_heatmap,
    "dekr/target_offset": check_target_offset,
    "dekr/joints_area": check_joints_area,
    "dekr/losses": check_losses,
    "dekr/offset_to_pose": check_offset_to_pose,
    "dekr/flip_test": check_flip_test,
    "dekr/up_interpolate": check_up_interpolate,
}
