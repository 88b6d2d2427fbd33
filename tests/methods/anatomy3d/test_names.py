"""Names of Anatomy3D's checkpoints. Numbers are compared in the golden cases; here, that every entry has one place."""

import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.convert import ConversionError, convert
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.methods.anatomy3d.method import Anatomy3D
from jaxpose.methods.anatomy3d.names import recognize

C, LEVELS = 4, 3
METHOD = Anatomy3D(skeleton="marionette", widths=(3,) * LEVELS, channels=C)
K, BONES, PAIRS = 25, 24, 301


def linear(name: str, out: int, into: int) -> dict:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def conv(name: str, out: int, into: int, width: int = 1, bias: bool = False) -> dict:
    return {f"{name}.weight": (out, into, width)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str) -> dict:
    return originals.norm(name, C, counter=True)


def checkpoint() -> dict[str, np.ndarray]:
    """The original's entries for any skeleton."""
    entries = {**norm("expand_bn"), **conv("shrink", 3 * K, C, bias=True)}
    entries |= conv("expand_conv", C, 2 * K, 3) | conv("expand_convscore", C, K, 3) | norm("expand_bnscore")
    for i in range(LEVELS - 1):
        for suffix in ("", "1"):
            into = 2 * C if suffix or i == 0 else C
            entries |= conv(f"layers_conv{suffix}.{2 * i}", C, into, 3) | norm(f"layers_bn{suffix}.{2 * i}")
            entries |= conv(f"layers_conv{suffix}.{2 * i + 1}", C, C) | norm(f"layers_bn{suffix}.{2 * i + 1}")
    for i in range(2 * LEVELS - 1):
        entries |= linear(f"layers_convbone.{i}", C, 2 * K if i == 0 else C) | norm(f"layers_bnbone.{i}")
    entries |= linear(f"layers_convbone.{2 * LEVELS - 1}", 3 * K, C) | linear("boneatt", BONES, 6 * K)
    for suffix in ("", "_1", "_2"):
        entries |= linear(f"lengthlinear{suffix}", C, BONES) | conv(f"directlinear{suffix}", C, 3 * BONES, bias=True)
    for i in (1, 2):
        entries |= conv(f"shrink_direct_{i}", 3 * BONES, C, bias=True) | conv(f"shrink_js_{i}", 3 * PAIRS, C, bias=True)
    return originals.fill(entries)


FILE = checkpoint()


def flat(variables) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(variables, sep="/")


def test_every_variable_is_found_and_no_number_is_lost():
    template = flat(jax.eval_shape(METHOD.init, jax.random.key(0)))
    ours = flat(convert(FILE, METHOD))
    assert {p: v.shape for p, v in ours.items()} == {p: v.shape for p, v in template.items()}
    theirs = np.concatenate([v.ravel() for n, v in FILE.items() if not n.endswith("tracked")])
    assert_array_equal(np.sort(np.concatenate([v.ravel() for v in ours.values()])), np.sort(theirs))


def test_convolutions_become_linear_layers_of_their_taps():
    ours, weight = flat(convert(FILE, METHOD)), FILE["layers_conv.2.weight"]
    kernel = ours["params/trunk/conv2/kernel"].reshape(3, C, C)
    for tap in range(3):
        assert_array_equal(kernel[tap], weight[:, :, tap].T)
    weight = FILE["layers_conv1.2.weight"]
    for part, half in (("propagation", weight[:, :C]), ("contexts", weight[:, C:])):
        kernel = ours[f"params/{part}/conv1/kernel"].reshape(3, C, C)
        assert_array_equal(kernel[1], half[:, :, 1].T)


def test_another_configuration_is_refused():
    with pytest.raises(ConversionError, match=r"missing: params/trunk/conv3"):
        convert(FILE, dataclasses.replace(METHOD, widths=(3,) * 4))
    with pytest.raises(ConversionError, match=r"misshapen: layers_conv1.0.weight \(4, 8, 3\)"):
        convert(FILE, dataclasses.replace(METHOD, channels=8))
    with pytest.raises(CheckpointError, match="direct is True"):
        convert(FILE, dataclasses.replace(METHOD, direct=True))


# --- VideoPose3D, as mmpose has it ---

DIRECT = Anatomy3D(widths=(3, 5, 3), channels=C, direct=True, gated=False, flip_test=False)


def video_pose() -> dict[str, np.ndarray]:
    """mmpose's entries for Human3.6M's 17 joints."""
    names = {"backbone.expand_conv": (2 * 17, 3)}
    for i, width in enumerate(DIRECT.widths[1:]):
        names |= {f"backbone.tcn_blocks.{i}.conv1.0": (C, width), f"backbone.tcn_blocks.{i}.conv2.0": (C, 1)}
    entries = conv("head.conv", 3 * 17, C, bias=True)
    for name, (into, width) in names.items():
        entries |= conv(f"{name}.conv", C, into, width) | norm(f"{name}.bn")
    return {name: abs(array) if name.endswith("var") else array for name, array in originals.fill(entries).items()}


def test_video_pose_gives_the_same_joints():
    """Convolutions with strides over a window, by PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch computes what is expected")
    file = video_pose()
    tensors = {name: torch.tensor(array) for name, array in file.items()}
    window = np.random.default_rng(0).uniform(-1, 1, (2, DIRECT.receptive_field, 17, 3)).astype(np.float32)

    def layer(x, name: str, width: int):
        x = torch.nn.functional.conv1d(x, tensors[f"{name}.conv.weight"], stride=width)
        parts = (tensors[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return torch.relu(torch.nn.functional.batch_norm(x, *parts))

    x = torch.tensor(window[..., :2]).reshape(2, -1, 34).transpose(1, 2)
    x = layer(x, "backbone.expand_conv", 3)
    for i, width in enumerate(DIRECT.widths[1:]):
        hidden = layer(x, f"backbone.tcn_blocks.{i}.conv1.0", width)
        x = x[:, :, width // 2 :: width] + layer(hidden, f"backbone.tcn_blocks.{i}.conv2.0", 1)
    expected = torch.nn.functional.conv1d(x, tensors["head.conv.weight"], tensors["head.conv.bias"])
    found = DIRECT.lift(convert(file, DIRECT), window, np.ones((2, 1), bool))["joints"]
    assert_allclose(found[:, 0], expected.reshape(2, 17, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "method", "config"),
    [(FILE, METHOD, "anatomy3d:h36m"), (video_pose(), DIRECT, "anatomy3d:h36m_direct")],
    ids=["anatomy3d", "videopose3d"],
)
def test_entries_tell_the_network(file, method, config):
    told = recognize({name: array.shape for name, array in file.items()})
    assert (told.config, told.joints) == (config, method.joints.num_joints)
    assert {"widths", "channels"} <= told.fields.keys()
    assert all(getattr(method, name) == value for name, value in told.fields.items())


def test_confidences_are_looked_at_unless_direct():
    with pytest.raises(ConfigError, match="gated"):
        dataclasses.replace(METHOD, gated=False)
