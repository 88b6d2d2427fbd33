import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.methods.heatmap.method import Heatmap

RESNET = Heatmap(
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1, 1, 1),
    deconv_layers=2,
    deconv_features=6,
)
HRNET = Heatmap(backbone="hrnet_w4", backbone_stages=(1, 1, 1))


def final_layer(channels: int) -> dict:
    return {"final_layer.weight": (17, channels, 1, 1), "final_layer.bias": (17,)}


def pose_resnet() -> dict:
    shapes = originals.resnet(4) | final_layer(6)
    for index, inputs in enumerate((32, 6)):
        shapes[f"deconv_layers.{3 * index}.weight"] = (inputs, 6, 4, 4)
        shapes |= originals.norm(f"deconv_layers.{3 * index + 1}", 6, True)
    return originals.fill(shapes)


def pose_hrnet() -> dict:
    return originals.fill(originals.hrnet(4, outputs_of_last=1) | final_layer(4))


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.mark.parametrize(("method", "file"), [(RESNET, pose_resnet()), (HRNET, pose_hrnet())], ids=["resnet", "hrnet"])
def test_every_variable_is_found(method, file):
    template = flat(jax.eval_shape(method.init, jax.random.key(0)))
    converted = flat(convert(file, method))
    assert {p: (v.shape, v.dtype) for p, v in converted.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}


def test_layouts():
    file = pose_resnet()
    ours = flat(convert(file, RESNET))
    kernel = ours["params/head/deconv1/kernel"]  # [h, w, in, out], turned by half a circle
    assert_array_equal(kernel[0, 1], file["deconv_layers.3.weight"][:, :, 3, 2])
    assert_array_equal(ours["batch_stats/head/bn1/var"], file["deconv_layers.4.running_var"])
    assert_array_equal(ours["params/head/final_layer/kernel"][0, 0], file["final_layer.weight"][..., 0, 0].T)


def test_another_head_is_refused():
    with pytest.raises(
        ConversionError, match=r"unknown: deconv_layers.3.weight \(6, 6, 4, 4\) \(would be head/deconv1"
    ):
        convert(pose_resnet(), dataclasses.replace(RESNET, deconv_layers=1))
    with pytest.raises(ConversionError, match=r"misshapen: deconv_layers.0.weight \(32, 6, 4, 4\)"):
        convert(pose_resnet(), dataclasses.replace(RESNET, deconv_kernel=3))


def test_backbones_from_imagenet():
    conversion = convert_backbone(originals.fill(originals.resnet(4, classes=10)), RESNET)
    assert set(conversion.ignored) == {"fc.weight", "fc.bias"}
    assert all(path.split("/")[1] == "backbone" for path in flat(conversion.variables))
    file = originals.fill(originals.hrnet(4, outputs_of_last=4) | originals.hrnet_classifier(4))
    conversion = convert_backbone(file, HRNET)
    assert conversion.absent == ()
    assert any(name.startswith("stage4.0.fuse_layers.1") for name in conversion.ignored)
