"""The arithmetic: right to the promised precision, and nothing but IEEE-exact operations in the sources."""

import ast
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxpose.marionettes as marionettes
from jaxpose.marionettes.exact import Random, axis_rotation, product, sincos, smoothstep, transform, unit


@given(st.floats(-9e3, 9e3))
def test_sine_and_cosine_are_right(angle):
    sine, cosine = sincos(angle)
    assert abs(float(sine) - math.sin(angle)) < 1e-10
    assert abs(float(cosine) - math.cos(angle)) < 1e-10


@given(st.integers(0, 2), st.floats(-10.0, 10.0))
def test_rotations_are_right_handed(axis, angle):
    matrix = axis_rotation(axis, *sincos(angle))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-10)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    axes = np.eye(3)
    turned = axis_rotation(axis, *sincos(math.pi / 2)) @ axes[(axis + 1) % 3]
    np.testing.assert_allclose(turned, axes[(axis + 2) % 3], atol=1e-10)


def test_products_agree_with_matmul():
    rng = np.random.default_rng(0)
    a, b, v = rng.normal(size=(4, 3, 3)), rng.normal(size=(5, 1, 3, 3)), rng.normal(size=(4, 3))
    np.testing.assert_allclose(product(a, b, a), a @ b @ a, atol=1e-12)
    np.testing.assert_allclose(transform(a, v), np.einsum("tij,tj->ti", a, v), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(unit(v), axis=-1), 1.0)


def test_smoothstep_keeps_the_type_and_its_ends():
    x = np.linspace(-1, 2, 31, dtype=np.float32)
    y = smoothstep(x)
    assert y.dtype == np.float32
    assert y[0] == 0.0
    assert y[-1] == 1.0
    assert (np.diff(y) >= 0).all()


def test_draws_have_the_promised_distribution():
    rng = Random(1, 2)
    bell = rng.bell(20000)
    assert abs(bell.mean()) < 0.03
    assert abs(bell.std() - 1.0) < 0.03
    picks = [rng.weighted({"a": 3.0, "b": 1.0, "c": 0.0}) for _ in range(4000)]
    assert abs(picks.count("a") / 4000 - 0.75) < 0.03
    assert picks.count("c") == 0
    assert Random(1, 2).uniform(0, 1) == Random(1, 2).uniform(0, 1) != Random(1, 3).uniform(0, 1)


INEXACT = {
    *("sin", "cos", "tan", "exp", "exp2", "log", "log2", "log10", "power", "arctan2", "arccos", "arcsin", "hypot"),
    *("dot", "matmul", "einsum", "inner", "tensordot", "mean", "std", "var", "linalg", "interp", "convolve", "cumsum"),
    *("standard_normal", "exponential", "GaussianBlur", "filter2D", "warpAffine"),
}


def test_sources_use_no_operation_that_rounds_differently_elsewhere():
    for path in pathlib.Path(marionettes.__file__).parent.glob("*.py"):
        if path.name == "__main__.py":  # only draws sheets for the eye
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else None
            assert name not in INEXACT, f"{path.name}:{node.lineno} uses {name}"
            inexact = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
            assert not inexact, f"{path.name}:{node.lineno} uses @"
