import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.errors import CheckpointError
from jaxpose.methods.rmpe.method import RMPE
from jaxpose.methods.rmpe.names import recognize

WIDTH, JOINTS = 4, 17
FASTPOSE = RMPE(backbone_width=WIDTH, backbone_stages=(1, 1, 1, 1), deformable=True)
DUC = dataclasses.replace(FASTPOSE, network="fastpose_duc", backbone="shuffle50", deformable=False)
SIMPLE = dataclasses.replace(DUC, network="simplepose", backbone="resnet18", deconv_features=6)


def backbone(deformable: bool = False, shuffle: bool = False) -> dict:
    """AlphaPose's residual network of one bottleneck a stage."""
    shapes = {"conv1.weight": (WIDTH, 3, 7, 7), **originals.norm("bn1", WIDTH, True)}
    inputs = WIDTH
    for stage in range(4):
        name, width = f"layer{stage + 1}.0", WIDTH * 2**stage
        shapes |= originals.bottleneck(name, inputs, width, True)
        inputs = 4 * width
        shapes |= originals.linear(f"{name}.se.fc.0", inputs, inputs) | originals.linear(
            f"{name}.se.fc.2", inputs, inputs
        )
        if deformable and stage:
            shapes |= {f"{name}.conv2_offset.weight": (18, width, 3, 3), f"{name}.conv2_offset.bias": (18,)}
        if shuffle and stage:
            del shapes[f"{name}.conv2.weight"]
            shapes[f"{name}.conv2.1.weight"] = (width, 4 * width, 3, 3)
    return {f"preact.{name}": shape for name, shape in shapes.items()}


def imagenet() -> dict:
    """torchvision's file of the same blocks as `backbone`."""
    shapes = {name.removeprefix("preact."): shape for name, shape in backbone().items()}
    shapes = {name: shape for name, shape in shapes.items() if ".se." not in name}
    return shapes | originals.linear("fc", 10, 32 * WIDTH)


def conv_out(inputs: int) -> dict:
    return {"conv_out.weight": (JOINTS, inputs, 3, 3), "conv_out.bias": (JOINTS,)}


def fastpose() -> dict:
    shapes, inputs = backbone(deformable=True), 8 * WIDTH
    for index in (1, 2):
        shapes[f"duc{index}.conv.weight"] = (2 * inputs, inputs, 3, 3)
        shapes |= originals.norm(f"duc{index}.bn", 2 * inputs, True)
        inputs //= 2
    return shapes | conv_out(inputs)


def duc() -> dict:
    shapes, inputs = backbone(shuffle=True), 8 * WIDTH
    for stage, count in ((1, 4), (2, 2), (3, 1)):
        for i in range(count):
            outputs = 2 * inputs if i == count - 1 else inputs
            shapes[f"duc{stage}.{3 * i + 1}.weight"] = (outputs, inputs, 3, 3)
            shapes |= originals.norm(f"duc{stage}.{3 * i + 2}", outputs, True)
        inputs //= 2
    return shapes | conv_out(4 * inputs)


def simple() -> dict:
    shapes = {f"preact.{name}": shape for name, shape in originals.resnet(WIDTH).items()}
    inputs = 8 * WIDTH
    for i in range(3):
        shapes[f"deconv_layers.{3 * i}.weight"] = (inputs, 6, 4, 4)
        shapes |= originals.norm(f"deconv_layers.{3 * i + 1}", 6, True)
        inputs = 6
    return shapes | {"final_layer.weight": (JOINTS, 6, 1, 1), "final_layer.bias": (JOINTS,)}


FILES = [(FASTPOSE, fastpose), (DUC, duc), (SIMPLE, simple)]


@pytest.mark.parametrize(("method", "shapes"), FILES, ids=lambda v: getattr(v, "network", ""))
def test_every_entry_has_a_place_and_every_variable_an_entry(method, shapes):
    file = originals.fill(shapes())
    template = flax.traverse_util.flatten_dict(jax.eval_shape(method.init, jax.random.key(0)), sep="/")
    ours = flax.traverse_util.flatten_dict(convert(file, method), sep="/")
    assert {p: v.shape for p, v in ours.items()} == {p: v.shape for p, v in template.items()}
    numbers = [v.ravel() for name, v in file.items() if not name.endswith("num_batches_tracked")]
    found = np.sort(np.concatenate([np.ravel(v) for v in ours.values()]))
    assert_array_equal(found, np.sort(np.concatenate(numbers)))


def test_places():
    file = originals.fill(fastpose())
    params = convert(file, FASTPOSE)["params"]["pose"]
    block = params["backbone"]["layer2_0"]
    assert_array_equal(block["se"]["linear2"]["kernel"], file["preact.layer2.0.se.fc.2.weight"].T)
    offset = file["preact.layer2.0.conv2_offset.weight"]
    assert_array_equal(block["conv2_offset"]["kernel"], offset.transpose(2, 3, 1, 0))
    assert_array_equal(params["head"]["bn2"]["scale"], file["duc2.bn.weight"])


def test_a_checkpoint_of_another_network_is_refused():
    with pytest.raises(ConversionError, match=r"unknown: preact\.layer2\.0\.conv2_offset"):
        convert(originals.fill(fastpose()), dataclasses.replace(FASTPOSE, deformable=False))


def test_networks_of_2017_have_no_checkpoints():
    with pytest.raises(CheckpointError, match="sstn=True"):
        convert({}, dataclasses.replace(SIMPLE, sstn=True))


BACKBONES = {
    "se": (dataclasses.replace(FASTPOSE, deformable=False), {"se"}),
    "deformable": (FASTPOSE, {"se", "conv2_offset"}),
    "shuffle": (DUC, {"se", "conv2"}),
}


@pytest.mark.parametrize(("method", "fresh"), BACKBONES.values(), ids=BACKBONES)
def test_backbone_from_torchvision(method, fresh):
    """All that torchvision has is taken; what AlphaPose adds, and kernels that it folds pixels into, start fresh."""
    file = originals.fill(imagenet())
    conversion = convert_backbone(file, method)
    ours = flax.traverse_util.flatten_dict(conversion.variables, sep="/")
    template = flax.traverse_util.flatten_dict(jax.eval_shape(method.init, jax.random.key(0)), sep="/")
    wanted = {path: leaf for path, leaf in template.items() if path.partition("/")[2].startswith("pose/backbone/")}
    assert ours.keys() | set(conversion.absent) == wanted.keys()
    assert not ours.keys() & set(conversion.absent)
    assert {p: v.shape for p, v in ours.items()} == {p: wanted[p].shape for p in ours}
    assert {path.split("/")[4] for path in conversion.absent} == fresh
    folded = {f"layer{stage}.0.conv2.weight" for stage in (2, 3, 4)} if "conv2" in fresh else set()
    assert set(conversion.ignored) == {"fc.weight", "fc.bias"} | folded
    assert {path.split("/")[3] for path in conversion.absent if path.split("/")[4] == "conv2"} == {
        name.split(".conv2")[0].replace(".", "_") for name in folded
    }
    kernel = ours["params/pose/backbone/layer3_0/conv3/kernel"]
    assert_array_equal(kernel, file["layer3.0.conv3.weight"].transpose(2, 3, 1, 0))


def test_plain_backbone_from_torchvision():
    conversion = convert_backbone(originals.fill(originals.resnet(WIDTH, classes=10)), SIMPLE)
    assert conversion.absent == ()
    assert set(conversion.ignored) == {"fc.weight", "fc.bias"}
    assert set(conversion.variables["params"]["pose"]) == {"backbone"}


@pytest.mark.parametrize("name", ["layer1.0.conv2.weight", "layer2.0.conv3.weight", "bn1.running_var"])
def test_a_hole_in_the_file_is_no_excuse(name):
    """Only what AlphaPose adds may be absent."""
    file = originals.fill(imagenet())
    del file[name]
    for method in (FASTPOSE, DUC):
        with pytest.raises(ConversionError, match="1 problems:\n  missing: .*pose/backbone/"):
            convert_backbone(file, method)


def test_a_transformers_pose_network_has_the_same_place():
    method = dataclasses.replace(SIMPLE, sstn=True, parallel="trained", localization_width=4)
    conversion = convert_backbone(originals.fill(originals.resnet(WIDTH, classes=10)), method)
    assert {tuple(tree) for tree in conversion.variables.values()} == {("pose",)}


def test_an_hourglass_has_no_backbone():
    with pytest.raises(ConversionError, match="RMPE has no ResNet or HRNet backbone"):
        convert_backbone({}, RMPE(network="hourglass", input_size=(64, 64), backbone_width=8))


@pytest.mark.parametrize(
    ("method", "shapes", "config"),
    [(FASTPOSE, fastpose(), "rmpe:coco_dcn"), (DUC, duc(), "rmpe:coco_duc"), (SIMPLE, simple(), "rmpe:coco_simple")],
    ids=["fastpose", "duc", "simple"],
)
def test_entries_tell_the_network(method, shapes, config):
    told = recognize({name: tuple(shape) for name, shape in shapes.items()})
    assert (told.config, told.joints) == (config, JOINTS)
    assert {name: getattr(method, name) for name in told.fields} | {"backbone": ""} == {**told.fields, "backbone": ""}
    assert {"network", "backbone", "backbone_stages", "deformable"} <= told.fields.keys()


def test_a_plain_residual_network_is_no_alphapose():
    assert recognize({name: tuple(shape) for name, shape in imagenet().items()}) is None
