import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxpose.nn import heads
from jaxpose.nn.heads import Deconv, DeconvHead
from jaxpose.nn.names import deconv_kernel


def transposed(x: np.ndarray, weight: np.ndarray, padding: int, output_padding: int) -> np.ndarray:
    """Every pixel of x [H, W, in] adds its kernel [in, out, k, k] to the output, whose border is cut off."""
    height, width, _ = x.shape
    size = weight.shape[-1]
    full = np.zeros((2 * height + size, 2 * width + size, weight.shape[1]))
    for row in range(height):
        for column in range(width):
            patch = np.einsum("i,iokl->klo", x[row, column], weight)
            full[2 * row : 2 * row + size, 2 * column : 2 * column + size] += patch
    rows, columns = (2 * (n - 1) - 2 * padding + size + output_padding for n in (height, width))
    return full[padding : padding + rows, padding : padding + columns]


@pytest.mark.parametrize(("size", "padding", "output_padding"), [(4, 1, 0), (3, 1, 1), (2, 0, 0)])
def test_deconvolution_equals_its_definition(size, padding, output_padding):
    rng = np.random.default_rng(size)
    x, weight = rng.normal(size=(3, 4, 2)), rng.normal(size=(2, 5, size, size))
    kernel = deconv_kernel(weight, (size, size, 2, 5))
    ours = Deconv(5, size).apply({"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}, jnp.asarray(x[None]))
    expected = transposed(x, weight, padding, output_padding)
    assert expected.shape == (6, 8, 5)
    assert_allclose(ours[0], expected, rtol=1e-4, atol=1e-5)


def test_unknown_kernel_is_named():
    with pytest.raises(ValueError, match=r"no transposed convolution of size 5; known sizes: \[2, 3, 4\]"):
        jax.eval_shape(Deconv(5, 5).init, jax.random.key(0), jnp.ones((1, 4, 4, 2)))


def test_both_formulations_are_equal():
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    x, kernel, pull = draw(0, 2, 5, 7, 3), draw(1, 4, 4, 3, 6), draw(2, 2, 10, 14, 6)
    found = [jax.vjp(function, x, kernel) for function in (heads._dilated, heads._interleaved)]
    for ours, expected in zip(*((y, *pullback(pull)) for y, pullback in found), strict=True):
        assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layers", "dtype"), [(0, "float32"), (2, "bfloat16")])
def test_head_doubles_resolution_and_gives_float32(layers, dtype):
    head = DeconvHead(7, layers=layers, features=8, dtype=jnp.dtype(dtype))
    x = jnp.ones((2, 3, 4, 5))
    variables = head.init(jax.random.key(0), x)
    maps = jax.eval_shape(head.apply, variables, x)
    assert (maps.shape, maps.dtype) == ((2, 3 * 2**layers, 4 * 2**layers, 7), jnp.float32)
    names = {"final_layer"} | {f"{kind}{i}" for kind in ("deconv", "bn") for i in range(layers)}
    assert set(variables["params"]) == names


def test_kernels_start_small():
    variables = DeconvHead(17, features=64).init(jax.random.key(0), jnp.ones((1, 2, 2, 64)))["params"]
    for name in ("deconv0", "final_layer"):
        assert_allclose(np.std(variables[name]["kernel"]), 0.001, rtol=0.1)
    assert not np.any(variables["final_layer"]["bias"])
    assert "bias" not in variables["deconv0"]
