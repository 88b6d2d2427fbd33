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
from jaxpose.methods.dekr.method import DEKR
from jaxpose.methods.dekr.names import prepare, rules

WIDTH, JOINTS, FEATURES = 4, 17, 3
METHOD = DEKR(backbone=f"hrnet_w{WIDTH}", backbone_stages=(1, 1, 1), offset_features=FEATURES, input_size=64)
TAPS = np.stack(np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1], indexing="ij")).reshape(2, 9)


def branch(joint: int) -> dict:
    shapes = {}
    for block in range(2):
        name = f"offset_feature_layers.{joint}.{block}"
        for part, outputs in (("transform_matrix_conv", 4), ("translation_conv", 2)):
            shapes[f"{name}.{part}.weight"] = (outputs, FEATURES, 3, 3)
            shapes[f"{name}.{part}.bias"] = (outputs,)
        shapes |= {f"{name}.adapt_conv.weight": (FEATURES, FEATURES, 3, 3)} | originals.norm(
            f"{name}.bn", FEATURES, True
        )
    shapes[f"offset_final_layer.{joint}.weight"] = (2, FEATURES, 1, 1)
    return shapes | {f"offset_final_layer.{joint}.bias": (2,)}


def checkpoint() -> dict[str, np.ndarray]:
    merged = 15 * WIDTH
    shapes = originals.hrnet(WIDTH, outputs_of_last=4)
    shapes |= originals.conv_norm("transition_heatmap", WIDTH, merged, 1)
    shapes |= originals.conv_norm("transition_offset", JOINTS * FEATURES, merged, 1)
    shapes |= originals.basic_block("head_heatmap.0.0", WIDTH, WIDTH, False)
    shapes |= {"head_heatmap.1.weight": (JOINTS + 1, WIDTH, 1, 1), "head_heatmap.1.bias": (JOINTS + 1,)}
    for joint in range(JOINTS):
        shapes |= branch(joint)
    taps = {
        f"offset_feature_layers.{joint}.{block}.regular_matrix": TAPS for joint in range(JOINTS) for block in (0, 1)
    }
    return originals.fill(shapes) | taps


FILE = checkpoint()
TEMPLATE = jax.eval_shape(METHOD.init, jax.random.key(0))


@pytest.fixture(scope="module")
def ours() -> dict:
    return convert(FILE, METHOD)


def test_every_entry_has_a_place_and_every_variable_an_entry(ours):
    flat = flax.traverse_util.flatten_dict(ours, sep="/")
    template = flax.traverse_util.flatten_dict(TEMPLATE, sep="/")
    assert {p: (v.shape, v.dtype) for p, v in flat.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}
    used = [v.ravel() for name, v in FILE.items() if not name.endswith(("num_batches_tracked", "regular_matrix"))]
    assert_array_equal(np.sort(np.concatenate([v.ravel() for v in flat.values()])), np.sort(np.concatenate(used)))


def test_branches_are_stacked_in_the_order_of_joints(ours):
    params, statistics = ours["params"], ours["batch_stats"]
    for joint in (2, 11):  # "11" comes before "2" as a string
        name = f"offset_feature_layers.{joint}.1"
        block = params["offset_block1"]
        assert_array_equal(block["kernel"][joint], FILE[f"{name}.adapt_conv.weight"].transpose(2, 3, 1, 0))
        transform = FILE[f"{name}.transform_matrix_conv.weight"].transpose(2, 3, 1, 0)
        assert_array_equal(block["transform"]["kernel"][joint], transform)
        assert_array_equal(block["translation"]["bias"][joint], FILE[f"{name}.translation_conv.bias"])
        assert_array_equal(statistics["offset_block1"]["bn"]["var"][joint], FILE[f"{name}.bn.running_var"])
        final = FILE[f"offset_final_layer.{joint}.weight"][:, :, 0, 0].T
        assert_array_equal(params["offset_final"]["kernel"][joint, 0, 0], final)


def test_damaged_files_are_refused():
    entry = "offset_feature_layers.5.0.adapt_conv.weight"
    with pytest.raises(CheckpointError, match=r"17 joints, but .*0\.adapt_conv\.weight is missing for joints \[5\]"):
        prepare({name: array for name, array in FILE.items() if name != entry})
    with pytest.raises(CheckpointError, match="differs in shape"):
        prepare(FILE | {entry: np.zeros((2, 2, 3, 3), np.float32)})
    with pytest.raises(CheckpointError, match="only the places of a 3x3 kernel are known"):
        prepare(FILE | {"offset_feature_layers.0.0.regular_matrix": 2 * TAPS})


def test_another_skeleton_is_refused():
    method = dataclasses.replace(METHOD, skeleton="crowdpose")
    template = jax.eval_shape(method.init, jax.random.key(0))
    with pytest.raises(ConversionError, match=r"misshapen: offset_final_layer.bias \(17, 2\)"):
        apply_rules(prepare(FILE), rules(method), template)


def test_backbone_from_imagenet():
    file = originals.fill(originals.hrnet(WIDTH, outputs_of_last=4) | originals.hrnet_classifier(WIDTH))
    conversion = convert_backbone(file, METHOD)
    assert conversion.absent == ()
    backbone = flax.traverse_util.flatten_dict({c: t["backbone"] for c, t in TEMPLATE.items()}, sep="/")
    found = flax.traverse_util.flatten_dict({c: t["backbone"] for c, t in conversion.variables.items()}, sep="/")
    assert found.keys() == backbone.keys()
