"""Names of RegDA's checkpoints. Numbers are compared in the golden cases; here, that every entry has one place."""

import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.methods.regda.method import RegDA
from jaxpose.methods.regda.names import recognize

ADAPTED = RegDA(
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1, 1, 1),
    deconv_features=(6, 5),
    deconv_kernels=(4, 2),
    head_layers=3,
)
PRETRAINED = dataclasses.replace(ADAPTED, adaptation="none", head_layers=1, deconv_bias=True)


def features(bias: bool) -> dict[str, tuple[int, ...]]:
    entries = {f"backbone.{name}": shape for name, shape in originals.resnet(4, classes=10).items()}
    for i, shape in ((0, (32, 6, 4, 4)), (3, (6, 5, 2, 2))):
        entries[f"upsampling.{i}.weight"] = shape
        entries |= {f"upsampling.{i}.bias": shape[1:2]} if bias else {}
        entries |= originals.norm(f"upsampling.{i + 1}", shape[1], True)
    return entries


def regressor(name: str) -> dict[str, tuple[int, ...]]:
    entries = {f"{name}.6.weight": (16, 5, 1, 1), f"{name}.6.bias": (16,)}
    for i in (0, 3):
        entries |= {f"{name}.{i}.weight": (5, 5, 3, 3), f"{name}.{i}.bias": (5,)}
        entries |= originals.norm(f"{name}.{i + 1}", 5, True)
    return entries


ADAPTED_FILE = originals.fill(features(bias=False) | regressor("head") | regressor("head_adv"))
PRETRAINED_FILE = originals.fill(features(bias=True) | {"head.weight": (16, 5, 1, 1), "head.bias": (16,)})


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.mark.parametrize(
    ("method", "file"), [(ADAPTED, ADAPTED_FILE), (PRETRAINED, PRETRAINED_FILE)], ids=["adapted", "pretrained"]
)
def test_every_variable_is_found(method, file):
    template = flat(jax.eval_shape(method.init, jax.random.key(0)))
    converted = flat(convert(file, method))
    assert {p: (v.shape, v.dtype) for p, v in converted.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}


def test_the_two_regressors_are_not_mixed_up():
    ours = flat(convert(ADAPTED_FILE, ADAPTED))
    for name, path in (("head", "head"), ("head_adv", "adversary")):
        assert_array_equal(ours[f"params/{path}/conv1/kernel"][1, 2], ADAPTED_FILE[f"{name}.3.weight"][:, :, 1, 2].T)
        assert_array_equal(ours[f"params/{path}/final_layer/bias"], ADAPTED_FILE[f"{name}.6.bias"])
        assert_array_equal(ours[f"batch_stats/{path}/bn0/var"], ADAPTED_FILE[f"{name}.1.running_var"])
    kernel = ours["params/upsampling/deconv1/kernel"]  # [h, w, in, out], turned by half a circle
    assert_array_equal(kernel[0, 1], ADAPTED_FILE["upsampling.3.weight"][:, :, 1, 0])


def test_a_file_of_the_other_stage_is_refused():
    with pytest.raises(ConversionError, match=r"unknown: head.weight"):
        convert(PRETRAINED_FILE, ADAPTED)
    with pytest.raises(ConversionError, match=r"unknown: head_adv.0.weight"):
        convert(ADAPTED_FILE, dataclasses.replace(ADAPTED, adaptation="none"))


def test_backbones_from_imagenet():
    conversion = convert_backbone(originals.fill(originals.resnet(4, classes=10)), ADAPTED)
    assert set(conversion.ignored) == {"fc.weight", "fc.bias"}
    assert {path.split("/")[1] for path in flat(conversion.variables)} == {"backbone"}


@pytest.mark.parametrize(("method", "file"), [(ADAPTED, ADAPTED_FILE), (PRETRAINED, PRETRAINED_FILE)])
def test_entries_tell_the_network(method, file):
    told = recognize({name: array.shape for name, array in file.items()})
    assert (told.config, told.joints) == ("regda:surreal_lsp", 16)
    assert all(getattr(method, name) == value for name, value in told.fields.items())
    assert {"backbone", "deconv_features", "deconv_kernels", "head_layers"} <= told.fields.keys()
