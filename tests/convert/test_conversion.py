import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.methods.base import Method
from jaxpose.methods.prtr.method import PRTR

METHOD = PRTR(
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1, 1, 1),
    hidden_dim=8,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    feedforward=12,
    num_queries=20,
)
HRNET = PRTR(backbone="hrnet_w4", backbone_stages=(1, 1, 1))
FILE = originals.fill(originals.prtr(originals.resnet(4, counter=False), 32, 8, 12, 20, 17))


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


def without(state_dict: dict, *names: str) -> dict:
    return {name: value for name, value in state_dict.items() if name not in names}


def test_every_variable_is_found():
    template = flat(jax.eval_shape(METHOD.init, jax.random.key(0)))
    converted = flat(convert(FILE, METHOD))
    assert {p: (v.shape, v.dtype) for p, v in converted.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}


def test_no_number_is_lost():
    """Entries are permuted and cut, never changed: sorted, all numbers are the same."""
    ours = np.concatenate([v.ravel() for v in flat(convert(FILE, METHOD)).values()])
    assert_array_equal(np.sort(ours), np.sort(np.concatenate([v.ravel() for v in FILE.values()])))


def test_layouts():
    ours = flat(convert(FILE, METHOD))
    assert_array_equal(
        ours["params/backbone/conv1/kernel"][2, 3, 1, 0], FILE["backbone.0.body.conv1.weight"][0, 1, 2, 3]
    )
    assert_array_equal(ours["params/class_head/kernel"], FILE["class_embed.weight"].T)
    assert_array_equal(ours["params/queries"], FILE["query_embed.weight"])
    assert_array_equal(ours["batch_stats/backbone/bn1/scale"], FILE["backbone.0.body.bn1.weight"])
    fused = FILE["transformer.decoder.layers.0.multihead_attn.in_proj_weight"]
    key = ours["params/decoder/layer0/cross_attention/key/kernel"]  # [width, heads, 4]
    assert_array_equal(key[:, 1, 2], fused[8 + 1 * 4 + 2])
    out = FILE["transformer.encoder.layers.0.self_attn.out_proj.weight"]
    assert_array_equal(ours["params/encoder/layer0/self_attention/out/kernel"][1, 2], out[:, 1 * 4 + 2])


def test_trained_norms_go_to_parameters_and_counters_nowhere():
    file = originals.fill(originals.prtr(originals.resnet(4, counter=True), 32, 8, 12, 20, 17))
    ours = flat(convert(file, dataclasses.replace(METHOD, frozen_norm=False)))
    assert_array_equal(ours["params/backbone/bn1/scale"], file["backbone.0.body.bn1.weight"])
    assert_array_equal(ours["batch_stats/backbone/bn1/mean"], file["backbone.0.body.bn1.running_mean"])
    assert len(flat(convert(file, METHOD))) == len(ours)


def test_older_names_of_the_backbone():
    older = originals.renamed(FILE, r"^backbone\.0\.body", "backbone.body")
    jax.tree.map(assert_array_equal, convert(older, METHOD), convert(FILE, METHOD))


def test_options_have_their_own_entries():
    options = dataclasses.replace(METHOD, positional="learned", pre_norm=True)
    shapes = {"backbone.1.row_embed.weight": (50, 4), "backbone.1.col_embed.weight": (50, 4)}
    shapes |= {"transformer.encoder.norm.weight": (8,), "transformer.encoder.norm.bias": (8,)}
    extra = originals.fill(shapes)
    ours = flat(convert(FILE | extra, options))
    assert_array_equal(ours["params/position/column"], extra["backbone.1.col_embed.weight"])
    with pytest.raises(ConversionError, match="4 problems") as error:
        convert(FILE | extra, METHOD)
    assert "unknown: transformer.encoder.norm.bias (8,) (would be encoder/norm/bias" in str(error.value)


def test_all_problems_are_listed_at_once():
    broken = without(FILE, "input_proj.bias", "backbone.0.body.bn1.running_var")
    broken["extra.weight"] = np.zeros(3)
    broken["query_embed.weight"] = np.zeros((100, 8), np.float32)
    broken["transformer.encoder.layers.0.self_attn.in_proj_bias"] = np.zeros(25, np.float32)
    with pytest.raises(ConversionError) as error:
        convert(broken, METHOD)
    for line in (
        "missing: params/input_projection/bias (8,)",
        "missing: batch_stats/backbone/bn1/var (4,)",
        "unknown: extra.weight (3,)",
        "misshapen: query_embed.weight (100, 8) gives (100, 8), but queries is (20, 8)",
        "misshapen: transformer.encoder.layers.0.self_attn.in_proj_bias (25,)",
    ):
        assert line in str(error.value)


def test_two_entries_for_one_place_are_refused():
    doubled = FILE | {"backbone.body.bn1.weight": FILE["backbone.0.body.bn1.weight"]}
    with pytest.raises(ConversionError, match="doubled"):
        convert(doubled, METHOD)


def test_swapped_sides_do_not_pass_as_reshaped():
    """A matrix of the right size but the wrong sides must not slip through."""
    broken = dict(FILE)
    broken["transformer.encoder.layers.0.linear1.weight"] = np.zeros((8, 12), np.float32)
    with pytest.raises(ConversionError, match=r"misshapen: transformer.encoder.layers.0.linear1.weight \(8, 12\)"):
        convert(broken, METHOD)


def test_wrong_number_of_layers_is_named():
    with pytest.raises(ConversionError, match="missing: params/encoder/layer1/linear1/kernel"):
        convert(FILE, dataclasses.replace(METHOD, encoder_layers=2))


def test_backbone_from_torchvision():
    file = originals.fill(originals.resnet(4, classes=10))
    conversion = convert_backbone(file, METHOD)
    assert set(conversion.ignored) == {"fc.weight", "fc.bias"}
    assert conversion.absent == ()
    assert set(conversion.variables) == {"params", "batch_stats"}
    ours = flat(conversion.variables)
    assert all(path.split("/")[1] == "backbone" for path in ours)
    assert_array_equal(
        ours["batch_stats/backbone/layer2_0/downsample_bn/var"], file["layer2.0.downsample.1.running_var"]
    )
    with pytest.raises(ConversionError, match="missing: params/backbone/layer3_0/conv2/kernel"):
        convert_backbone(without(file, "layer3.0.conv2.weight"), METHOD)


def test_hrnet_backbone_from_imagenet():
    file = originals.fill(originals.hrnet(4, outputs_of_last=4) | originals.hrnet_classifier(4))
    conversion = convert_backbone(file, HRNET)
    assert set(conversion.ignored) == {"classifier.weight", "classifier.bias"}
    assert conversion.absent == ()
    ours = flat(conversion.variables)
    new_branch = ours["params/backbone/transition2_2/conv/kernel"]
    assert_array_equal(new_branch, file["transition2.2.0.0.weight"].transpose(2, 3, 1, 0))
    chain = ours["params/backbone/stage4_0/fuse_3_0_2/bn/scale"]
    assert_array_equal(chain, file["stage4.0.fuse_layers.3.0.2.1.weight"])


def test_hrnet_backbone_from_a_pose_file():
    """The file's last module makes one branch, and its final layer is a heatmap head."""
    shapes = originals.hrnet(4, outputs_of_last=1) | {"final_layer.weight": (17, 4, 1, 1), "final_layer.bias": (17,)}
    conversion = convert_backbone(originals.fill(shapes), HRNET)
    assert set(conversion.ignored) == {"final_layer.weight", "final_layer.bias"}
    assert {path.split("/")[2].rpartition("_")[0] or path.split("/")[2] for path in conversion.absent} == {
        "incre", "downsamp", "final", "stage4"
    }  # fmt: skip
    absent = {path.split("/")[3] for path in conversion.absent if "/stage4_0/" in path}
    assert {name[:6] for name in absent} == {"fuse_1", "fuse_2", "fuse_3"}


def test_a_hole_in_a_pose_file_is_no_excuse():
    shapes = originals.hrnet(4, outputs_of_last=1) | {"final_layer.weight": (17, 4, 1, 1), "final_layer.bias": (17,)}
    del shapes["stage3.0.branches.1.0.conv1.weight"]
    with pytest.raises(ConversionError, match="missing: params/backbone/stage3_0/branch1_0/conv1/kernel"):
        convert_backbone(originals.fill(shapes), HRNET)


def test_method_without_names_is_told():
    class Sketch(PRTR):
        original_names = Method.original_names

    with pytest.raises(ConversionError, match="^Sketch knows no names of original checkpoints"):
        convert(FILE, Sketch())
