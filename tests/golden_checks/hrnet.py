"""HRNet: the backbone under its 1x1 heatmap head, crop geometry, box rules."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from golden_checks import networks
from golden_checks.prtr import check_relative
from jaxpose.convert.conversion import apply_rules
from jaxpose.convert.rules import CONV, HRNET, Rule, nest
from jaxpose.nn.hrnet import HRNet
from jaxpose.nn.resnet import conv
from jaxpose.ops import geometry

RULES = (*nest(HRNET, "", "backbone"), Rule("final_layer", "head", CONV))


class PoseHRNet(nn.Module):
    """HRNet with a 1x1 convolution on its finest branch."""

    num_joints: int

    @nn.compact
    def __call__(self, image, train: bool = False):
        features = HRNet(width=32, output="high_resolution", name="backbone")(image, train)
        return conv(self.num_joints, 1, use_bias=True, name="head")(features[0])


def _network(case):
    if case.attrs["model"] != "pose_hrnet":
        pytest.skip("the deconvolution head of SimpleBaselines is not built yet")
    module = PoseHRNet(case.attrs["num_joints"])
    image = networks.to_channels_last(case.inputs["image"])
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    return module, apply_rules(case.state_dict, RULES, template).variables, image


def check_forward(case) -> None:
    module, variables, image = _network(case)
    apply = jax.jit(lambda v, x: module.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    heatmaps, captured = jax.device_get(apply(variables, image))
    backbone = captured["intermediates"]["backbone"]
    for name in sorted({n.split("/")[1].rsplit("_", 1)[0] for n in case.outputs if n.startswith("mid/")}):
        ours = networks.to_channels_first(_stage_output(backbone, name))
        moments = {"mean": ours.mean((0, 2, 3)), "std": ours.std((0, 2, 3)), "crop": ours[:, :4, :3, :3]}
        for kind, value in moments.items():
            key = f"mid/{name}_{kind}"
            assert_allclose(value, case.outputs[key], rtol=networks.FORWARD, atol=networks.FORWARD, err_msg=key)
    assert_allclose(networks.to_channels_first(heatmaps), case.outputs["heatmaps"], rtol=0, atol=networks.FORWARD)


def _stage_output(backbone: dict, name: str):
    """Output of "layer1", or of a branch of a stage as in "stage3.1"."""
    stage, _, branch = name.partition(".")
    last = max((key for key in backbone if key.startswith(f"{stage}_")), key=lambda key: int(key.split("_")[1]))
    output = backbone[last]["__call__"][0]
    return output[int(branch)] if branch else output


def check_train_step(case) -> None:
    module, variables, image = _network(case)
    target = case.inputs["target"].transpose(0, 2, 3, 1)
    weight = case.inputs["target_weight"].transpose(0, 2, 1)[:, None]

    def loss(params):
        heatmaps, state = module.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])
        return 0.5 * (((heatmaps - target) * weight) ** 2).mean(), (heatmaps, state["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (heatmaps, batch_stats)), gradients = jax.device_get(step(variables["params"]))
    expected = case.outputs
    assert_allclose(value, expected["loss"], rtol=networks.LOSS)
    assert_allclose(heatmaps.mean((0, 1, 2)), expected["out_mean"], rtol=networks.FORWARD, atol=networks.FORWARD)
    norms = {name: expected[f"grad_norm/{name}"] for name in case.attrs["grad_names"]}
    networks.check_gradients(gradients, RULES, norms)
    for layer in case.attrs["bn_layers"]:
        for kind in ("running_mean", "running_var"):
            ((path, _),) = (t for rule in RULES for t in rule.targets(f"{layer}.{kind}") or ())
            ours = networks.leaf(batch_stats, path)
            assert_allclose(ours, expected[f"{kind}/{layer}"], rtol=1e-4, atol=1e-5, err_msg=f"{layer} {kind}")


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
    "hrnet/affine": check_affine,
    "hrnet/clean_boxes": check_clean_boxes,
    "hrnet/half_body": check_half_body,
}
