"""Names of DSNT's checkpoints. Numbers are compared in the golden cases; here, that every entry has one place."""

import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert, convert_backbone
from jaxpose.methods.dsnt.method import DSNT
from jaxpose.methods.dsnt.names import recognize

RESNET = DSNT(
    input_size=(32, 32), backbone="resnet18", backbone_width=4, backbone_stages=(1, 1, 1, 1), dilate=0, strategy="fc"
)
DECONV = DSNT(skeleton="coco", input_size=(32, 32), backbone="resnet18", backbone_width=4, backbone_stages=(1, 1, 1, 1),
              dilate=0, deconv_layers=3, deconv_features=8)  # fmt: skip
HOURGLASS = DSNT(input_size=(64, 64), backbone="hourglass", backbone_width=8, stacks=2, modules=2, dilate=0)


def conv(name: str, out: int, into: int, size: int = 1, bias: bool = True) -> dict:
    return {f"{name}.weight": (out, into, size, size)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, channels: int) -> dict:
    entries = {f"{name}.{e}": (channels,) for e in ("weight", "bias", "running_mean", "running_var")}
    return entries | {f"{name}.num_batches_tracked": ()}


def residual(name: str, into: int, out: int) -> dict:
    inside = out // 2
    return {
        **norm(f"{name}.bn1", into),
        **conv(f"{name}.conv1", inside, into),
        **norm(f"{name}.bn2", inside),
        **conv(f"{name}.conv2", inside, inside, 3),
        **norm(f"{name}.bn3", inside),
        **conv(f"{name}.conv3", out, inside),
        **(conv(f"{name}.downsample.0", out, into) if into != out else {}),
    }


def resnet_file() -> dict[str, np.ndarray]:
    """torchvision's names with the parts of the sequence numbered, the map convolution and the linear layer."""
    numbers = {"conv1": "fcn.0", "bn1": "fcn.1"} | {f"layer{n}": f"fcn.{n + 3}" for n in (1, 2, 3, 4)}
    entries = {}
    for name, shape in originals.resnet(4, counter=True).items():
        part, _, rest = name.partition(".")
        entries[f"{numbers[part]}.{rest}"] = shape
    entries |= {"hm_conv.weight": (16, 32, 1, 1), "out_fc.weight": (2, 1), "out_fc.bias": (2,)}
    return originals.fill(entries)


def hourglass_file(prefix: str = "hg.", stacks: int = 2, blocks: int = 2, width: int = 8) -> dict[str, np.ndarray]:
    entries = {**conv("conv1", 64, 3, 7), **norm("bn1", 64)}
    for layer, (into, out) in enumerate(((64, 128), (128, 256), (256, width)), 1):
        entries |= residual(f"layer{layer}.0", into, out)
    for stack in range(stacks):
        places = [f"hg.{stack}.hg.{level}.{branch}" for level in range(4) for branch in range(4 if level == 0 else 3)]
        for place in [*places, f"res.{stack}"]:
            for block in range(blocks):
                entries |= residual(f"{place}.{block}", width, width)
        entries |= conv(f"fc.{stack}.0", width, width) | norm(f"fc.{stack}.1", width)
        entries |= conv(f"score.{stack}", 16, width)
        if stack + 1 < stacks:
            entries |= conv(f"fc_.{stack}", width, width) | conv(f"score_.{stack}", width, 16)
    return originals.fill({prefix + name: shape for name, shape in entries.items()})


def mmpose_file(joints: int = 17) -> dict[str, np.ndarray]:
    """mmpose's ResNet with transposed convolutions, and the places of its cells."""
    entries = {f"backbone.{name}": shape for name, shape in originals.resnet(4).items()}
    inputs = 32
    for i in range(DECONV.deconv_layers):
        name = f"head.simplebaseline_head.deconv_layers.{3 * i}"
        entries[f"{name}.weight"] = (inputs, 8, 4, 4)
        entries |= originals.norm(f"head.simplebaseline_head.deconv_layers.{3 * i + 1}", 8, True)
        inputs = 8
    entries |= conv("head.simplebaseline_head.final_layer", joints, 8)
    places = {axis: np.arange(8, dtype=np.float32) / 8 for axis in "xy"}
    return originals.fill(entries) | {f"head.linspace_{axis}": value for axis, value in places.items()}


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.mark.parametrize(
    ("method", "file"),
    [(RESNET, resnet_file()), (HOURGLASS, hourglass_file()), (HOURGLASS, hourglass_file(prefix="")),
     (DECONV, mmpose_file())],
    ids=["resnet", "hourglass", "bearpaw", "mmpose"],
)  # fmt: skip
def test_every_variable_is_found_and_no_number_is_lost(method, file):
    template = flat(jax.eval_shape(method.init, jax.random.key(0)))
    ours = flat(convert(file, method))
    assert {p: v.shape for p, v in ours.items()} == {p: v.shape for p, v in template.items()}
    theirs = np.concatenate([v.ravel() for n, v in file.items() if not n.endswith("tracked") and "linspace" not in n])
    assert_array_equal(np.sort(np.concatenate([v.ravel() for v in ours.values()])), np.sort(theirs))


def test_branches_of_an_hourglass():
    file, ours = hourglass_file(), flat(convert(hourglass_file(), HOURGLASS))
    for branch, name in enumerate(("across", "down", "up", "bottom")):
        assert_array_equal(
            ours[f"params/backbone/hourglass1/level0_{name}_1/conv2/bias"],
            file[f"hg.hg.1.hg.0.{branch}.1.conv2.bias"],
        )


def test_another_configuration_is_refused():
    with pytest.raises(ConversionError, match="unknown: out_fc.weight"):
        convert(resnet_file(), dataclasses.replace(RESNET, strategy="dsnt"))
    with pytest.raises(ConversionError, match="missing: params/backbone/hourglass2"):
        convert(hourglass_file(), dataclasses.replace(HOURGLASS, stacks=3))


@pytest.mark.parametrize("truncate", [0, 1, 2])
def test_backbone_from_torchvision(truncate):
    """A truncated network leaves the file's last stages."""
    method = dataclasses.replace(
        RESNET, truncate=truncate, backbone_stages=(1,) * 4, strategy="dsnt", input_size=(64, 64)
    )
    file = originals.fill(originals.resnet(4, classes=10))
    conversion = convert_backbone(file, method)
    unused = {f"layer{stage}" for stage in range(5 - truncate, 5)} | {"fc"}
    assert {name.partition(".")[0] for name in conversion.ignored} == unused
    assert set(conversion.ignored) == {name for name in file if name.partition(".")[0] in unused}
    assert conversion.absent == ()
    template = flat(jax.eval_shape(method.init, jax.random.key(0)))
    wanted = {path: leaf.shape for path, leaf in template.items() if path.split("/")[1] == "backbone"}
    assert {path: values.shape for path, values in flat(conversion.variables).items()} == wanted
    assert not any(f"layer{5 - truncate}_0" in path for path in wanted)


@pytest.mark.parametrize(
    ("file", "method", "config"),
    [(resnet_file(), RESNET, "dsnt:mpii"), (hourglass_file(), HOURGLASS, "dsnt:mpii_hourglass"),
     (hourglass_file(prefix=""), HOURGLASS, "dsnt:mpii_hourglass"), (mmpose_file(), DECONV, "dsnt:coco_r50")],
    ids=["resnet", "hourglass", "bearpaw", "mmpose"],
)  # fmt: skip
def test_entries_tell_the_network(file, method, config):
    told = recognize({name: array.shape for name, array in file.items()})
    assert (told.config, told.joints) == (config, method.joints.num_joints)
    assert all(getattr(method, name) == value for name, value in told.fields.items())
    assert {"backbone", "backbone_width"} <= told.fields.keys()
    assert convert(file, dataclasses.replace(method, **told.usual))


def test_other_places_of_cells_are_named(caplog):
    convert(mmpose_file(), DECONV)
    assert not caplog.text
    convert(mmpose_file() | {"head.linspace_x": np.ones(8, np.float32)}, DECONV)
    assert "head.linspace_x is not i / 8 at cell i" in caplog.text
