import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone, load_state_dict
from jaxpose.methods.higherhrnet.method import HigherHRNet

METHOD = HigherHRNet(backbone="hrnet_w4", backbone_stages=(1, 1, 1), deconv_blocks=2)
K = 17


def checkpoint(stages: int = 2) -> dict:
    """A file with the original's names, of HRNet-W4 with one module a stage and two blocks after each doubling."""
    shapes = originals.hrnet(4, outputs_of_last=1)
    for stage in range(stages):
        channels = K if stage else 2 * K
        if stage:
            layers, inputs = f"deconv_layers.{stage - 1}", 4 + (2 * K if stage == 1 else K)
            shapes |= {f"{layers}.0.0.weight": (inputs, 4, 4, 4), **originals.norm(f"{layers}.0.1", 4, True)}
            for block in (1, 2):
                shapes |= originals.basic_block(f"{layers}.{block}.0", 4, 4, False)
        shapes |= {f"final_layers.{stage}.weight": (channels, 4, 1, 1), f"final_layers.{stage}.bias": (channels,)}
    return originals.fill(shapes)


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_every_variable_is_found(layers):
    method = dataclasses.replace(METHOD, deconv_layers=layers)
    template = flat(jax.eval_shape(method.init, jax.random.key(0)))
    converted = flat(convert(checkpoint(layers + 1), method))
    assert {p: (v.shape, v.dtype) for p, v in converted.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}


def test_layouts():
    file = checkpoint()
    ours = flat(convert(file, METHOD))
    kernel = ours["params/head/deconv1/kernel"]  # [h, w, in, out], turned by half a circle
    assert_array_equal(kernel[0, 1], file["deconv_layers.0.0.0.weight"][:, :, 3, 2])
    assert_array_equal(ours["batch_stats/head/bn1/mean"], file["deconv_layers.0.0.1.running_mean"])
    assert_array_equal(ours["params/head/block1_1/bn2/scale"], file["deconv_layers.0.2.0.bn2.weight"])
    assert_array_equal(ours["params/head/maps0/kernel"][0, 0], file["final_layers.0.weight"][..., 0, 0].T)
    assert_array_equal(ours["params/head/maps1/bias"], file["final_layers.1.bias"])


@pytest.mark.parametrize("prefix", ["module.", "1.", "module.1."])
def test_files_of_training_in_half_precision(tmp_path, prefix):
    """Convolutions are float16 in them, norms float32, and every name begins with the place in a sequence."""
    plain = checkpoint()
    stored = {prefix + name: value.astype(np.float16) if value.ndim == 4 else value for name, value in plain.items()}
    np.savez(tmp_path / "model.npz", **stored)
    found = flat(convert(load_state_dict(tmp_path / "model.npz"), METHOD))
    expected = flat(convert(plain, METHOD))
    assert found.keys() == expected.keys()
    for path, value in found.items():
        assert value.dtype == np.float32
        rounded = expected[path].astype(np.float16) if expected[path].ndim == 4 else expected[path]
        assert_array_equal(value, rounded)


def test_another_network_is_refused():
    with pytest.raises(ConversionError, match=r"misshapen: final_layers.0.weight \(34, 4, 1, 1\)"):
        convert(checkpoint(), dataclasses.replace(METHOD, skeleton="crowdpose"))
    with pytest.raises(ConversionError, match=r"unknown: deconv_layers.0.0.0.weight"):
        convert(checkpoint(), dataclasses.replace(METHOD, deconv_layers=0))
    with pytest.raises(ConversionError, match=r"missing: params/head/block1_2/conv1/kernel"):
        convert(checkpoint(), dataclasses.replace(METHOD, deconv_blocks=3))


def test_backbones_from_imagenet():
    file = originals.fill(originals.hrnet(4, outputs_of_last=4) | originals.hrnet_classifier(4))
    conversion = convert_backbone(file, METHOD)
    assert conversion.absent == ()
    assert all(path.split("/")[1] == "backbone" for path in flat(conversion.variables))


def test_backbone_of_another_skeleton():
    """CrowdPose's second recipe starts from the pose network of COCO, whose head has other joints."""
    file = checkpoint()
    conversion = convert_backbone(file, dataclasses.replace(METHOD, skeleton="crowdpose"))
    assert set(conversion.ignored) == {name for name in file if name.startswith(("final_layers", "deconv_layers"))}
    ours = flat(conversion.variables)
    assert all(path.split("/")[1] == "backbone" for path in ours)
    assert_array_equal(ours["params/backbone/conv1/kernel"], file["conv1.weight"].transpose(2, 3, 1, 0))
