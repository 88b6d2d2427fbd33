import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from jaxpose.ops.deform import deform_conv

deform = jax.jit(deform_conv, static_argnames=("stride", "padding", "dilation"))


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def pixel(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """[H, W, C] at one position, zeros outside."""
    total = np.zeros(image.shape[2])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total


def naive(x, offsets, kernel, mask, stride, padding, dilation):
    """Place by place, tap by tap, group by group."""
    batch, height, width = offsets.shape[:3]
    rows, columns, inputs, outputs = kernel.shape
    taps = rows * columns
    groups = offsets.shape[3] // (2 * taps)
    size, kernels = x.shape[3] // groups, x.shape[3] // inputs
    out = np.zeros((batch, height, width, outputs))
    for b, i, j in np.ndindex(batch, height, width):
        seen = np.zeros((taps, x.shape[3]))
        for g, t in np.ndindex(groups, taps):
            dy, dx = offsets[b, i, j, (g * taps + t) * 2 : (g * taps + t) * 2 + 2]
            y = i * stride - padding + t // columns * dilation + dy
            value = pixel(x[b], y, j * stride - padding + t % columns * dilation + dx)
            factor = 1 if mask is None else mask[b, i, j, g * taps + t]
            seen[t, g * size : (g + 1) * size] = factor * value[g * size : (g + 1) * size]
        for n in range(kernels):
            weight = kernel.reshape(taps, inputs, kernels, -1)[:, :, n]
            per = outputs // kernels
            out[b, i, j, n * per : (n + 1) * per] = np.einsum(
                "tc,tco->o", seen[:, n * inputs : (n + 1) * inputs], weight
            )
    return out


@pytest.mark.parametrize(
    ("offset_groups", "kernels", "masked", "stride", "padding", "dilation"),
    [
        (1, 1, False, 1, 1, 1),
        (1, 1, True, 2, 1, 1),
        (2, 1, True, 1, 2, 2),
        (1, 2, False, 2, 0, 1),
        (4, 2, True, 1, 1, 1),
    ],
)
def test_tap_by_tap(offset_groups, kernels, masked, stride, padding, dilation):
    x, kernel = draw(2, 6, 7, 4), draw(3, 3, 4 // kernels, 6, seed=1)
    height, width = ((n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (6, 7))
    offsets = draw(2, height, width, 18 * offset_groups, seed=2, scale=1.5)
    mask = np.abs(draw(2, height, width, 9 * offset_groups, seed=3)) if masked else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    ours = deform(x, offsets, kernel, mask, **options)
    assert_allclose(ours, naive(x, offsets, kernel, mask, **options), atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_without_offsets_it_is_a_convolution(stride):
    x, kernel, bias = draw(1, 6, 8, 4), draw(3, 3, 4, 5, seed=1), draw(5, seed=2)
    plain = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    offsets = np.zeros((*plain.shape[:3], 18), np.float32)
    assert_allclose(deform(x, offsets, kernel, bias=bias, stride=stride, padding=1), plain + bias, atol=1e-4)


def test_whole_offsets_move_the_image():
    x, kernel = draw(1, 6, 8, 2), draw(1, 1, 2, 3, seed=1)
    offsets = np.broadcast_to(np.array([1, -2], np.float32), (1, 6, 8, 2))
    moved = np.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0)))[:, 1:, :8]
    assert_allclose(deform(x, offsets, kernel), moved @ kernel[0, 0], atol=1e-4)


def test_gradients_agree_with_finite_differences():
    x, kernel = draw(1, 4, 4, 2), draw(3, 3, 2, 2, seed=1)
    offsets = np.random.default_rng(2).uniform(0.2, 0.8, (1, 4, 4, 18)).astype(np.float32)
    mask = np.abs(draw(1, 4, 4, 9, seed=3))
    function = lambda *args: deform_conv(*args, padding=1)
    check_grads(function, (x, offsets, kernel, mask), 1, ["rev"], eps=1e-2, atol=5e-3, rtol=5e-3)


def test_lower_precision_keeps_positions():
    """Taps at 200.5 and 201.5 differ in float32, and both have their own values in bfloat16."""
    x = jnp.arange(256, dtype=jnp.bfloat16).reshape(1, 1, 256, 1) % 2
    offsets = np.zeros((1, 1, 256, 2), np.float32) + np.array([0, 0.25], np.float32)
    out = deform_conv(x, offsets, jnp.ones((1, 1, 1, 1)))
    assert out.dtype == jnp.bfloat16
    assert_allclose(np.asarray(out, np.float32)[0, 0, 199:203, 0], [0.75, 0.25, 0.75, 0.25])


def test_wrong_sizes_are_named():
    x, kernel = draw(1, 6, 6, 4), draw(3, 3, 4, 2)
    with pytest.raises(ValueError, match="hold 17 values"):
        deform_conv(x, draw(1, 6, 6, 17), kernel, padding=1)
    with pytest.raises(ValueError, match=r"the output has \(1, 6, 6\)"):
        deform_conv(x, draw(1, 4, 4, 18), kernel, padding=1)
    with pytest.raises(ValueError, match="the mask has shape"):
        deform_conv(x, draw(1, 6, 6, 18), kernel, draw(1, 6, 6, 18), padding=1)
    with pytest.raises(ValueError, match="kernel for 3 channels"):
        deform_conv(x, draw(1, 6, 6, 18), draw(3, 3, 3, 2), padding=1)
