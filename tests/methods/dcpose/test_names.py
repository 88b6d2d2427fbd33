import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.convert.conversion import apply_rules
from jaxpose.errors import CheckpointError
from jaxpose.methods.dcpose.method import DCPose
from jaxpose.methods.dcpose.names import recognize
from jaxpose.methods.heatmap import names as heatmap_rules
from jaxpose.methods.heatmap.method import Heatmap

METHOD = DCPose(backbone="hrnet_w4", backbone_stages=(1, 1, 1), dilations=(2, 5), combination_features=8)
K = 17


def rough() -> dict:
    """A network for single frames."""
    return originals.hrnet(4, outputs_of_last=1) | {"final_layer.weight": (K, 4, 1, 1), "final_layer.bias": (K,)}


def unit(name: str, inputs: int, outputs: int, size: int) -> dict:
    shapes = {f"{name}.conv.weight": (outputs, inputs, size, size), f"{name}.conv.bias": (outputs,)}
    return shapes | originals.norm(f"{name}.bn", outputs, True)


def chain(name: str, inputs: int, outputs: int, blocks: int) -> dict:
    shapes = {}
    for index in range(blocks):
        block, width = f"{name}.layers.{index}", inputs * 26 // 64
        shapes |= unit(f"{block}.conv_bn_relu1", inputs, 4 * width, 1)
        for row in range(1, 5):
            for column in range(1, row + 1):
                shapes |= unit(f"{block}.conv_bn_relu2_{row}_{column}", width, width, 3)
        shapes |= unit(f"{block}.conv_bn_relu3", 4 * width, outputs, 1)
        if index == 0:
            shapes |= unit(f"{block}.downsample", inputs, outputs, 1)
        inputs = outputs
    return shapes


def checkpoint() -> dict[str, np.ndarray]:
    """A file with the original's names, of `METHOD`."""
    shapes = {f"rough_pose_estimation_net.{name}": shape for name, shape in rough().items()}
    shapes |= chain("diff_temporal_fuse", 4 * K, 2 * K, 2) | chain("support_temporal_fuse", 3 * K, K, 1)
    shapes |= chain("offset_mask_combine_conv", 3 * K, 8, 2)
    for index in range(2):
        shapes[f"offsets_list.{index}.0.weight"] = (18 * K, 8, 3, 3)
        shapes[f"masks_list.{index}.0.weight"] = (9 * K, 8, 3, 3)
        shapes[f"modulated_deform_conv_list.{index}.deform_conv.weight"] = (K, K, 3, 3)
        shapes[f"modulated_deform_conv_list.{index}.deform_conv.bias"] = (K,)
    return originals.fill(shapes)


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.fixture(scope="module")
def file():
    return checkpoint()


def test_every_variable_is_found(file):
    template = flat(jax.eval_shape(METHOD.init, jax.random.key(0)))
    converted = flat(convert(file, METHOD))
    assert {p: (v.shape, v.dtype) for p, v in converted.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}


def test_layouts(file):
    ours = flat(convert(file, METHOD))
    pairs = {
        "backbone/conv1/kernel": "rough_pose_estimation_net.conv1.weight",
        "head/final_layer/kernel": "rough_pose_estimation_net.final_layer.weight",
        "refinement/fusion/block1/conv2_3_2/conv/kernel": "diff_temporal_fuse.layers.1.conv_bn_relu2_3_2.conv.weight",
        "refinement/merger/block0/downsample/conv/kernel": "support_temporal_fuse.layers.0.downsample.conv.weight",
        "refinement/combination/block0/conv1/conv/kernel": (
            "offset_mask_combine_conv.layers.0.conv_bn_relu1.conv.weight"
        ),
        "refinement/correction/dilation2/offsets/kernel": "offsets_list.0.0.weight",
        "refinement/correction/dilation5/masks/kernel": "masks_list.1.0.weight",
        "refinement/correction/dilation5/kernel": "modulated_deform_conv_list.1.deform_conv.weight",
    }
    for path, name in pairs.items():
        assert_array_equal(ours[f"params/{path}"], file[name].transpose(2, 3, 1, 0), err_msg=path)
    norm = ours["batch_stats/refinement/combination/block1/conv3/bn/var"]
    assert_array_equal(norm, file["offset_mask_combine_conv.layers.1.conv_bn_relu3.bn.running_var"])


def test_another_network_is_refused(file):
    with pytest.raises(ConversionError, match=r"unknown: offsets_list.1.0.weight"):
        convert(file, dataclasses.replace(METHOD, dilations=(2,)))
    with pytest.raises(ConversionError, match=r"unknown: diff_temporal_fuse.layers.0.conv_bn_relu1.conv.weight"):
        convert(file, dataclasses.replace(METHOD, fusion=False))
    with pytest.raises(ConversionError, match=r"missing: params/refinement/merger/block1/conv1/conv/kernel"):
        convert(file, dataclasses.replace(METHOD, merger_blocks=2))


def test_a_network_for_single_frames_is_no_checkpoint():
    with pytest.raises(CheckpointError, match="name it in config.init_from"):
        convert(originals.fill(rough()), METHOD)


def test_what_training_starts_from():
    """A pose network for single frames, converted as such, gives all that is frozen, its last layer included."""
    entries = originals.fill(rough())
    single = Heatmap(backbone=METHOD.backbone, backbone_stages=METHOD.backbone_stages)
    loaded = convert(entries, single)
    fresh = jax.eval_shape(METHOD.init, jax.random.key(0))
    assert METHOD.adopt(loaded, fresh) is loaded
    template = {kind: {n: t for n, t in tree.items() if n != "refinement"} for kind, tree in fresh.items()}
    expected = flat(apply_rules(entries, heatmap_rules.rules(METHOD), template).variables)
    assert expected.keys() == flat(loaded).keys()
    backbone = convert_backbone(entries, METHOD)
    assert set(backbone.ignored) == {"final_layer.weight", "final_layer.bias"}
    assert flat(backbone.variables).keys() == {path for path in expected if path.split("/")[1] == "backbone"}


def test_entries_tell_the_network(file):
    told = recognize({name: array.shape for name, array in file.items()})
    assert (told.config, told.joints) == ("dcpose:posetrack17", METHOD.joints.num_joints)
    assert all(getattr(METHOD, name) == value for name, value in told.fields.items())
    assert "backbone" in told.fields
    assert recognize(dict.fromkeys(rough(), (4,))) is None
