"""Names of Anatomy3D's checkpoints. Numbers are compared in the golden cases; here, that every entry has one place."""

import dataclasses

import flax
import jax
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_array_equal

from jaxpose.convert import ConversionError, convert
from jaxpose.errors import CheckpointError
from jaxpose.methods.anatomy3d.method import Anatomy3D

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
