import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.convert.conversion import apply_rules
from jaxpose.errors import CheckpointError
from jaxpose.methods.dekr.method import DEKR
from jaxpose.methods.dekr.names import prepare, recognize, rules
from jaxpose.ops.deform import affine_offsets

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


# --- mmpose's form ---


def as_mmpose(file: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same network as mmpose writes it: one grouped convolution for all branches, (a, b, ty, c, d, tx) less the
    identity, and vectors from cells to joints."""
    starts = {
        "transition_heatmap.0": "head.heatmap_conv_layers.0.conv",
        "transition_heatmap.1": "head.heatmap_conv_layers.0.bn",
        "head_heatmap.0.0": "head.heatmap_conv_layers.1",
        "head_heatmap.1": "head.heatmap_conv_layers.2",
        "transition_offset.0": "head.displacement_conv_layers.0.conv",
        "transition_offset.1": "head.displacement_conv_layers.0.bn",
    }
    made = {}
    for name, array in file.items():
        if not name.startswith("offset_"):
            start = next((start for start in starts if name.startswith(f"{start}.")), None)
            made[name.replace(start, starts[start], 1) if start else f"backbone.{name}"] = array

    def joined(name: str, sign: int = 1) -> np.ndarray:
        return sign * np.concatenate([file[name.format(joint)] for joint in range(JOINTS)])

    for block in range(2):
        there, here = f"head.displacement_conv_layers.{block + 1}", f"offset_feature_layers.{{}}.{block}"
        made[f"{there}.adapt_conv.weight"] = joined(f"{here}.adapt_conv.weight")
        made |= {f"{there}.norm.{leaf}": joined(f"{here}.bn.{leaf}") for leaf in originals.NORM}
        made[f"{there}.norm.num_batches_tracked"] = np.zeros((), np.int64)
        made[f"{there}.regular_matrix"] = np.concatenate([TAPS, np.ones((1, 9))])
        for leaf, identity in (("weight", 0), ("bias", np.array([1, 0, 0, 1]))):
            affine = joined(f"{here}.transform_matrix_conv.{leaf}").reshape(JOINTS, 4, -1)
            affine = affine - np.reshape(identity, (1, -1, 1))
            shift = joined(f"{here}.translation_conv.{leaf}").reshape(JOINTS, 2, -1)
            six = np.concatenate([affine[:, :2], shift[:, :1], affine[:, 2:], shift[:, 1:]], 1)
            shape = (6 * JOINTS, FEATURES, 3, 3) if leaf == "weight" else (6 * JOINTS,)
            made[f"{there}.transform_matrix_conv.{leaf}"] = six.reshape(shape).astype(np.float32)
    for leaf in ("weight", "bias"):
        made[f"head.displacement_conv_layers.3.{leaf}"] = joined(f"offset_final_layer.{{}}.{leaf}", -1)
    scores = originals.fill(originals.linear("head.rescore_net.l1", 256, 74))
    return made | scores


def test_mmpose_file_is_the_same_network(ours):
    theirs = convert(as_mmpose(FILE), METHOD)
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


def test_mmpose_taps_are_read_where_it_reads_them():
    """Its offsets are one product of a 2x3 matrix with the places of the taps in homogeneous form."""
    six = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    theirs = six @ np.concatenate([TAPS, np.ones((1, 9))])
    entry = "head.displacement_conv_layers.1.transform_matrix_conv.bias"
    file = as_mmpose(FILE) | {entry: np.tile(six.reshape(-1), JOINTS)}
    block = convert(file, METHOD)["params"]["offset_block0"]
    affine = [np.asarray(block[part]["bias"])[None, None, None] for part in ("transform", "translation")]
    found = np.asarray(affine_offsets(*affine))[0, 0, 0, 3].reshape(9, 2)
    assert_allclose(found, theirs.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("style", [lambda file: file, as_mmpose])
def test_entries_tell_the_network(style):
    told = recognize({name: array.shape for name, array in style(FILE).items()})
    assert (told.joints, told.config) == (JOINTS, "dekr:coco")
    assert all(getattr(METHOD, name) == value for name, value in told.fields.items())
    assert {"backbone", "backbone_stages", "offset_blocks", "offset_features"} == set(told.fields)


def test_another_head_is_no_dekr():
    file = {name: array for name, array in as_mmpose(FILE).items() if "displacement" not in name}
    assert recognize({name: array.shape for name, array in file.items()}) is None
    with pytest.raises(CheckpointError, match="no checkpoint of DEKR"):
        prepare(file)


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
