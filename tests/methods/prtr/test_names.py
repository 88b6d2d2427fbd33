"""Checkpoints of DETR, of end-to-end PRTR, and of the deformable variant."""

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert
from jaxpose.methods.prtr.detr import DETR
from jaxpose.methods.prtr.method import PRTR
from jaxpose.methods.prtr.sequential_prtr import SequentialPRTR
from jaxpose.zoo.recognition import recognize

WIDTH, FEEDFORWARD, QUERIES, CHANNELS = 8, 12, 20, 32
SMALL = {
    "backbone": "resnet18",
    "backbone_width": 4,
    "backbone_stages": (1, 1, 1, 1),
    "hidden_dim": WIDTH,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "feedforward": FEEDFORWARD,
    "num_queries": QUERIES,
}
BACKBONE = {f"backbone.0.body.{name}": shape for name, shape in originals.resnet(4, counter=False).items()}


def mlp(name: str, *widths: int) -> dict:
    layers = zip(widths[1:], widths[:-1], strict=True)
    return {k: v for i, pair in enumerate(layers) for k, v in originals.linear(f"{name}.layers.{i}", *pair).items()}


def transformer(prefix: str, width: int, channels: int) -> dict:
    shapes = originals.transformer_layer(f"{prefix}transformer.encoder.layers.0", width, FEEDFORWARD, cross=False)
    shapes |= originals.transformer_layer(f"{prefix}transformer.decoder.layers.0", width, FEEDFORWARD, cross=True)
    shapes |= {f"{prefix}transformer.decoder.norm.{leaf}": (width,) for leaf in ("weight", "bias")}
    shapes |= {f"{prefix}input_proj.weight": (width, channels, 1, 1), f"{prefix}input_proj.bias": (width,)}
    return shapes | {f"{prefix}query_embed.weight": (QUERIES, width)}


def detector(classes: int) -> dict:
    shapes = BACKBONE | transformer("", WIDTH, CHANNELS) | originals.linear("class_embed", classes + 1, WIDTH)
    return shapes | mlp("bbox_embed", WIDTH, WIDTH, WIDTH, 4)


def sequential(width: int, joints: int) -> dict:
    shapes = detector(1) | transformer("transformer_kpt.", width, 8 + 16 + 32)
    shapes |= originals.linear("transformer_kpt.class_predictor", joints + 1, width)
    shapes |= mlp("transformer_kpt.coord_predictor", width, width, width, 2)
    return shapes | {"row_embed.weight": (width // 4, 4), "col_embed.weight": (width // 4, 5)}


def deformable(layers: int, levels: int, points: int, joints: int) -> dict:
    shapes, reads = dict(BACKBONE), 2 * levels * points
    for kind, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        for i in range(layers):
            name = f"transformer.{kind}.layers.{i}"
            layer = originals.transformer_layer(name, WIDTH, FEEDFORWARD, cross=False)
            if kind == "encoder":
                layer = {k: v for k, v in layer.items() if "self_attn" not in k}
            else:
                layer |= {f"{name}.norm3.weight": (WIDTH,), f"{name}.norm3.bias": (WIDTH,)}
            sizes = {
                "sampling_offsets": 2 * reads,
                "attention_weights": reads,
                "value_proj": WIDTH,
                "output_proj": WIDTH,
            }
            for part, outputs in sizes.items():
                layer |= originals.linear(f"{name}.{attention}.{part}", outputs, WIDTH)
            shapes |= layer
    for level, (channels, size) in enumerate([(8, 1), (16, 1), (32, 1), (32, 3)]):
        shapes |= {
            f"input_proj.{level}.0.weight": (WIDTH, channels, size, size),
            f"input_proj.{level}.0.bias": (WIDTH,),
        }
        shapes |= {f"input_proj.{level}.1.weight": (WIDTH,), f"input_proj.{level}.1.bias": (WIDTH,)}
    for i in range(layers):
        shapes |= originals.linear(f"class_embed.{i}", joints + 1, WIDTH) | mlp(
            f"kpt_embed.{i}", WIDTH, WIDTH, WIDTH, 2
        )
    shapes |= {"transformer.level_embed": (levels, WIDTH), "query_embed.weight": (QUERIES, 2 * WIDTH)}
    return shapes | originals.linear("transformer.reference_points", 2, WIDTH)


DEFORMABLE = PRTR(
    **SMALL | {"decoder_layers": 2, "encoder_layers": 2}, deformable=True, encoder_points=3, decoder_points=3
)
SEQUENTIAL = SequentialPRTR(
    **SMALL,
    max_people=5,
    top_people=5,
    crop_size=(4, 5),
    keypoint_dim=16,
    keypoint_heads=2,
    keypoint_encoder_layers=1,
    keypoint_decoder_layers=1,
    keypoint_feedforward=FEEDFORWARD,
    keypoint_queries=QUERIES,
)
CASES = {
    "detr": (DETR(**SMALL, max_people=5, num_classes=91, person_class=1), detector(91)),
    "sequential": (SEQUENTIAL, sequential(16, 17)),
    "deformable": (DEFORMABLE, deformable(2, 4, 3, 17)),
}


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.fixture(params=CASES, scope="module")
def case(request):
    method, shapes = CASES[request.param]
    file = originals.fill(shapes)
    return method, file, flat(convert(file, method))


def test_every_variable_is_found(case):
    method, _, ours = case
    template = flat(jax.eval_shape(method.init, jax.random.key(0)))
    assert {p: (v.shape, v.dtype) for p, v in ours.items()} == {p: (v.shape, v.dtype) for p, v in template.items()}


def test_no_number_is_lost(case):
    """Entries are permuted and cut, never changed: sorted, all numbers are the same, but for copies of heads."""
    _, file, ours = case
    counted = [v.ravel() for name, v in file.items() if not name.startswith(("class_embed.0", "kpt_embed.0"))]
    found = np.concatenate([v.ravel() for v in ours.values()])
    assert_array_equal(np.sort(found), np.sort(np.concatenate(counted)))


def test_a_missing_entry_is_named(case):
    method, file, _ = case
    name = "transformer.decoder.layers.0.norm3.weight"
    with pytest.raises(ConversionError, match="missing: .*decoder/layer0/norm3/scale"):
        convert({k: v for k, v in file.items() if k != name}, method)


def test_layouts_of_the_detector():
    method, shapes = CASES["detr"]
    file = originals.fill(shapes)
    ours = flat(convert(file, method))
    assert_array_equal(ours["params/detector/class_head/kernel"], file["class_embed.weight"].T)
    assert_array_equal(ours["params/detector/box_head/layer2/bias"], file["bbox_embed.layers.2.bias"])
    assert_array_equal(ours["params/detector/queries"], file["query_embed.weight"])
    assert_array_equal(
        ours["params/backbone/conv1/kernel"][2, 3, 1, 0], file["backbone.0.body.conv1.weight"][0, 1, 2, 3]
    )


def test_background_becomes_the_last_class_and_tables_are_turned():
    method, shapes = CASES["sequential"]
    file = originals.fill(shapes)
    ours = flat(convert(file, method))
    weight = file["transformer_kpt.class_predictor.weight"]
    assert_array_equal(ours["params/pose/class_head/kernel"][:, -1], weight[0])
    assert_array_equal(ours["params/pose/class_head/kernel"][:, 3], weight[4])
    assert_array_equal(ours["params/pose/class_head/bias"][-1], file["transformer_kpt.class_predictor.bias"][0])
    assert_array_equal(ours["params/position/column"], file["row_embed.weight"].T)
    assert_array_equal(ours["params/position/row"], file["col_embed.weight"].T)


def test_constants_of_the_notebook_are_not_needed():
    method, shapes = CASES["sequential"]
    file = originals.fill(shapes)
    constants = {"x_interpolate": (4,), "y_interpolate": (5,), "mask": (1, 5, 4), "pe": (1, 8, 5, 4)}
    jax.tree.map(assert_array_equal, convert(file | originals.fill(constants), method), convert(file, method))


def test_the_last_copy_of_a_shared_head_counts():
    method, shapes = CASES["deformable"]
    file = originals.fill(shapes)
    ours = flat(convert(file, method))
    assert_array_equal(ours["params/class_head/kernel"], file["class_embed.1.weight"].T)
    assert_array_equal(ours["params/keypoint_head/layer0/kernel"], file["kpt_embed.1.layers.0.weight"].T)
    assert_array_equal(ours["params/level_vectors"], file["transformer.level_embed"])
    assert_array_equal(
        ours["params/decoder/layer1/cross_attention/offsets/kernel"],
        file["transformer.decoder.layers.1.cross_attn.sampling_offsets.weight"].T,
    )


@pytest.mark.parametrize(
    ("name", "kind", "config", "joints"),
    [("detr", "detr", "prtr:detector_coco", None), ("sequential", "sequential_prtr", "prtr:sequential_coco", 17),
     ("deformable", "prtr", "prtr:deformable_coco", 17)],
)  # fmt: skip
def test_entries_tell_the_network(name, kind, config, joints):
    """But for the number of heads, of which eight are taken."""
    method, shapes = CASES[name]
    found, told = recognize(shapes, name)
    assert (found, told.config, told.joints) == (kind, config, joints)
    free = {"max_people", "top_people", "encoder_points", "decoder_points"}
    differ = {field for field, value in told.fields.items() if getattr(method, field) != value}
    assert differ <= free
    if name == "deformable":
        assert told.fields["encoder_points"] == 3 * method.heads // 8


def test_the_plain_form_is_told_from_the_deformable_one():
    shapes = originals.prtr(originals.resnet(4), 32, 16, 24, 30, 17)
    found, told = recognize(shapes, "prtr.pth")
    assert (found, told.config, dict(told.usual)) == ("prtr", "prtr:coco", {"channels": "bgr"})
    expected = {"hidden_dim": 16, "feedforward": 24, "num_queries": 30, "positional": "sine", "pre_norm": False}
    assert expected.items() <= told.fields.items()
    assert "deformable" not in told.fields
