"""HRNet and SimpleBaselines: networks, targets, losses, decoding, crop geometry, box rules."""

import dataclasses

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks import networks
from golden_checks.prtr import check_relative
from jaxpose.convert.conversion import apply_rules
from jaxpose.evaluation import pck
from jaxpose.methods.heatmap.method import Heatmap
from jaxpose.methods.heatmap.names import rules
from jaxpose.nn.resnet import max_pool
from jaxpose.ops import geometry, heatmaps

DECODE = jax.jit(heatmaps.decode)


def _method(attrs: dict) -> Heatmap:
    fields = {"final_kernel": attrs["final_conv_kernel"]}
    if attrs["model"] == "pose_hrnet":
        stages = [attrs["stages"][f"STAGE{i}"] for i in (2, 3, 4)]
        fields |= {"backbone": f"hrnet_w{stages[0]['NUM_CHANNELS'][0]}"}
        return Heatmap(**fields, backbone_stages=tuple(stage["NUM_MODULES"] for stage in stages))
    filters, kernels = set(attrs["deconv_filters"]), set(attrs["deconv_kernels"])
    assert len(filters) == len(kernels) == 1, "transposed convolutions of several kinds"
    fields |= {"backbone": f"resnet{attrs['num_layers']}", "backbone_stages": tuple(attrs["blocks"])}
    fields |= {"deconv_layers": len(attrs["deconv_filters"]), "deconv_bias": attrs["deconv_with_bias"]}
    return Heatmap(**fields, deconv_features=filters.pop(), deconv_kernel=kernels.pop())


def _network(case, dtype: str = "float32"):
    """Method, network, its variables and the image of a case, whatever its number of joints."""
    method = dataclasses.replace(_method(case.attrs), dtype=dtype)
    module = method.module()
    module = module.clone(head=module.head.clone(num_joints=case.attrs["num_joints"]))
    image = networks.to_channels_last(case.inputs["image"])
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    return method, module, apply_rules(case.state_dict, rules(method), template).variables, image


def _channels_last(arrays: dict, *names: str) -> list[np.ndarray]:
    return [networks.to_channels_last(arrays[name]) for name in names]


# --- networks ---


def check_forward(case) -> None:
    _, module, variables, image = _network(case)
    apply = jax.jit(lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = jax.device_get(apply(variables, image))
    for name in sorted({n.split("/")[1].rsplit("_", 1)[0] for n in case.outputs if n.startswith("mid/")}):
        ours = networks.to_channels_first(_inner(captured["intermediates"], name))
        moments = {"mean": ours.mean((0, 2, 3)), "std": ours.std((0, 2, 3)), "crop": ours[:, :4, :3, :3]}
        for kind, value in moments.items():
            key = f"mid/{name}_{kind}"
            assert_allclose(value, case.outputs[key], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=key)
    maps = networks.to_channels_first(outputs["maps"])
    assert_allclose(maps, case.outputs["heatmaps"], rtol=0, atol=networks.FORWARD)


def _inner(captured: dict, name: str) -> np.ndarray:
    """What the original module `name` puts out: "maxpool", "deconv_layers", "layer1", or "stage3.1" for a branch."""
    if name == "maxpool":
        return np.asarray(max_pool(jax.nn.relu(captured["backbone"]["bn1"]["__call__"][0])))
    network, _, stage = ("head", "", "bn") if name == "deconv_layers" else ("backbone", "", name)
    stage, _, branch = stage.partition(".")
    found = [key for key in captured[network] if key.startswith(stage) and key[len(stage) :].lstrip("_").isdigit()]
    last = max(found, key=lambda key: int(key[len(stage) :].lstrip("_")))
    output = captured[network][last]["__call__"][0]
    return np.maximum(output, 0) if network == "head" else output[int(branch)] if branch else output


def check_train_step(case) -> None:
    """In float64, as the case was computed: in float32 the original's own gradients are up to 3e-3 away from it."""
    with jax.enable_x64(True):
        _check_train_step(case)


def _check_train_step(case) -> None:
    method, module, variables, image = _network(case, "float64")
    variables, image = jax.tree.map(np.float64, (variables, image))
    (target,) = _channels_last(case.inputs, "target")
    weight = case.inputs["target_weight"][..., 0]

    def loss(params):
        outputs, state = module.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])
        return method.criterion(outputs["maps"], target, weight), (outputs["maps"], state["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (maps, batch_stats)), gradients = jax.device_get(step(variables["params"]))
    expected, maps = case.outputs, networks.to_channels_first(maps)
    assert_allclose(value, expected["loss"], rtol=networks.LOSS)
    tolerance = {"rtol": networks.FORWARD, "atol": networks.FORWARD}
    assert_allclose(maps.mean((0, 2, 3)), expected["out_mean"], **tolerance)
    assert_allclose(maps.std((0, 2, 3)), expected["out_std"], **tolerance)
    rows, columns = expected["out_crop"].shape[2:]
    assert_allclose(maps[:, :, :rows, :columns], expected["out_crop"], **tolerance)
    final = gradients["head"]["final_layer"]["kernel"].transpose(3, 2, 0, 1).reshape(-1)
    crop = expected["grad_crop/final_layer.weight"]
    assert_allclose(final[: len(crop)], crop, rtol=networks.GRADIENT, atol=1e-7)
    norms = {name: expected[f"grad_norm/{name}"] for name in case.attrs["grad_names"]}
    networks.check_gradients(gradients, rules(method), norms)
    for layer in case.attrs["bn_layers"]:
        for kind in ("running_mean", "running_var"):
            ((path, _),) = (t for rule in rules(method) for t in rule.targets(f"{layer}.{kind}") or ())
            ours = networks.leaf(batch_stats, path)
            assert_allclose(ours, expected[f"{kind}/{layer}"], rtol=1e-4, atol=1e-5, err_msg=f"{layer} {kind}")


# --- targets, losses, decoding ---


def check_generate_target(case) -> None:
    attrs, expected = case.attrs, case.outputs
    size = tuple(attrs["heatmap_size_wh"])
    stride = np.array(attrs["image_size_wh"]) / size
    joints, visible = case.inputs["joints"][..., :2], case.inputs["joints_vis"][..., 0]
    maps, weight = heatmaps.gaussian_targets(joints, visible, stride, size, attrs["sigma"])
    assert_allclose(networks.to_channels_first(maps), expected["target"], rtol=0, atol=1e-6)
    assert_array_equal(weight, expected["target_weight"][..., 0])
    weighted = weight * np.array(attrs["joints_weight"], np.float32)
    assert_allclose(weighted, expected["target_weight_different"][..., 0], rtol=1e-6)


def check_heatmap_losses(case) -> None:
    maps, target = _channels_last(case.inputs, "pred", "target")
    weights = {"": np.ones((len(maps), maps.shape[-1]), np.float32), "_weighted": case.inputs["target_weight"][..., 0]}
    losses = {"mse": heatmaps.mse, "ohkm": lambda *arrays: heatmaps.ohkm(*arrays, case.attrs["topk"])}
    for name, loss in losses.items():
        for suffix, weight in weights.items():
            value, gradient = jax.value_and_grad(loss)(maps, target, weight)
            key = name + suffix
            assert_allclose(value, case.outputs[key], rtol=1e-6, err_msg=key)
            wanted = case.outputs[f"{key}_grad"]
            assert_allclose(networks.to_channels_first(gradient), wanted, rtol=1e-5, atol=1e-9, err_msg=key)


def check_decode(case) -> None:
    (maps,), expected = _channels_last(case.inputs, "heatmaps"), case.outputs
    positions, scores = heatmaps.maxima(maps)
    assert_array_equal(positions, expected["max_preds"])
    assert_array_equal(scores, expected["maxvals"][..., 0])
    height, width = maps.shape[1:3]
    affine = geometry.crop_affine(case.inputs["center"], case.inputs["scale"] * 200, (width, height))
    for post_process, found in ((False, positions), (True, DECODE(maps, 1.0)[0])):
        image = geometry.apply_affine(geometry.invert_affine(affine), found)
        assert_allclose(image, expected[f"final_preds_post_process_{post_process}"], rtol=0, atol=1e-3)


def check_flip_average(case) -> None:
    maps, mirrored = _channels_last(case.inputs, "output", "output_of_mirrored_image")
    index = np.arange(maps.shape[-1])
    for a, b in case.attrs["flip_pairs"]:
        index[[a, b]] = b, a
    back = heatmaps.flip_back(mirrored, index, shift=False)
    assert_array_equal(networks.to_channels_first(back), case.outputs["flipped_back"])
    for shift in (False, True):
        average = (maps + heatmaps.flip_back(mirrored, index, shift)) / 2
        wanted = case.outputs[f"average_shift_{shift}"]
        assert_allclose(networks.to_channels_first(average), wanted, rtol=1e-6, atol=1e-7)


def check_accuracy(case) -> None:
    """`acc` is the mean over joints and then every joint, -1 where none counted."""
    maps, target = _channels_last(case.inputs, "output", "target")
    threshold, expected = case.attrs["thr"], case.outputs
    counts = pck.heatmap_pck(maps, target, (threshold,))
    assert_allclose(np.nan_to_num(counts.accuracy()[0], nan=-1), expected["acc"][1:], rtol=1e-6)
    assert_allclose(heatmaps.accuracy(maps, target, threshold), expected["avg_acc"], rtol=1e-6)
    assert_allclose(expected["acc"][0], expected["avg_acc"], rtol=1e-6)
    assert np.sum(np.asarray(counts.counted) > 0) == expected["count"]
    assert_array_equal(heatmaps.maxima(maps)[0], expected["pred"])


# --- boxes and crops ---


def check_affine(case) -> None:
    arrays, expected = case.inputs, case.outputs
    crop_size = tuple(case.attrs["image_size_wh"])
    center, size = geometry.box_to_center_size(arrays["boxes_xywh"], crop_size[0] / crop_size[1])
    assert_allclose(center, expected["center_of_box"], rtol=1e-6)
    assert_allclose(size / 200, expected["scale_of_box"], rtol=1e-6)
    affine = geometry.crop_affine(center + size * arrays["shift"], size, crop_size, arrays["rotation"])
    check_relative(affine, expected["matrix"], 1e-6)
    check_relative(geometry.invert_affine(affine), expected["matrix_inverse"], 1e-6)
    points = np.broadcast_to(arrays["points"], expected["points"].shape)
    assert_allclose(geometry.apply_affine(affine, points), expected["points"], rtol=0, atol=1e-3)


def check_clean_boxes(case) -> None:
    boxes, inside = geometry.clip_boxes(case.inputs["boxes_xywh"], (case.attrs["width"], case.attrs["height"]))
    assert_allclose(boxes[inside & (case.inputs["areas"] > 0)], case.outputs["clean_boxes"], rtol=0, atol=0)


def check_half_body(case) -> None:
    for person, (joints, visible) in enumerate(zip(case.inputs["joints"], case.inputs["joints_vis"], strict=True)):
        for half in ("upper", "lower"):
            found = geometry.half_body_box(
                joints[:, :2],
                visible[:, 0],
                tuple(case.attrs["upper_body_ids"]),
                half == "upper",
                case.attrs["aspect_ratio"],
                case.attrs["factor"],
            )
            center, scale = (case.outputs[f"{person}/{half}_{kind}"] for kind in ("center", "scale"))
            assert (found is None) == (center.size == 0), (person, half)
            if found is not None:
                assert_allclose(found[0], center, rtol=1e-6)
                assert_allclose(found[1] / 200, scale, rtol=1e-6)


CHECKS = {
    "hrnet/forward": check_forward,
    "hrnet/train_step": check_train_step,
    "hrnet/generate_target": check_generate_target,
    "hrnet/heatmap_losses": check_heatmap_losses,
    "hrnet/decode": check_decode,
    "hrnet/flip_average": check_flip_average,
    "hrnet/accuracy": check_accuracy,
    "hrnet/affine": check_affine,
    "hrnet/clean_boxes": check_clean_boxes,
    "hrnet/half_body": check_half_body,
}
