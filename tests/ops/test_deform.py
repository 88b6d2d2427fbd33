import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose

from jaxpose.ops import sampling
from jaxpose.ops.deform import affine_offsets, deform_conv, dilated_deform_convs

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


# --- affine offsets ---


def test_affine_offsets():
    transform, translation = draw(2, 4), draw(2, 2, seed=1)
    grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(9, 2)
    expected = np.einsum("nij,kj->nki", transform.reshape(2, 2, 2), grid) - grid + translation[:, None]
    assert_allclose(affine_offsets(transform, translation), expected.reshape(2, 18), atol=1e-6)


def test_affine_offsets_of_the_identity_are_zero():
    assert_allclose(affine_offsets(np.array([1, 0, 0, 1.0]), np.zeros(2)), np.zeros(18))


# --- gradients ---


FRACTIONS = hypothesis.extra.numpy.arrays(np.float32, (1, 3, 3, 8), elements=st.floats(0.125, 0.875, width=32))
WHOLES = hypothesis.extra.numpy.arrays(np.int32, (1, 3, 3, 8), elements=st.integers(-3, 2))


@jax.jit
def slope_and_gradient(offsets, direction):
    """The slope by finite differences within a cell, where the value is quadratic at most, and by differentiation."""
    x, kernel = draw(1, 3, 3, 2), draw(2, 2, 2, 2, seed=1)
    run = lambda offsets: jnp.sum(deform_conv(x, offsets, kernel, padding=1)[:, :3, :3] * draw(1, 3, 3, 2, seed=2))
    step = 1 / 16
    full = lambda step: jnp.pad(offsets + step * direction, ((0, 0), (0, 1), (0, 1), (0, 0)))
    finite = (run(full(step)) - run(full(-step))) / (2 * step)
    return finite, jnp.sum(jax.grad(run)(full(0.0))[:, :3, :3] * direction)


@hypothesis.given(WHOLES, FRACTIONS)
@hypothesis.settings(max_examples=30, deadline=None)
def test_gradients_by_offsets_anywhere(wholes, fractions):
    """Away from whole numbers, inside, across the border and outside."""
    direction = np.sign(draw(1, 3, 3, 8, seed=3))
    finite, exact = slope_and_gradient(wholes + fractions, direction)
    assert_allclose(finite, exact, rtol=1e-3, atol=1e-3)


def test_gradients_by_groups():
    """Offset groups and kernels of their own, as adaptive blocks use them."""
    x, kernel = draw(1, 4, 4, 4), draw(3, 3, 2, 4, seed=1)
    offsets = np.random.default_rng(2).uniform(-1.4, -1.1, (1, 4, 4, 36)).astype(np.float32)
    function = lambda *args: deform_conv(*args, padding=1)
    check_grads(function, (x, offsets, kernel), 1, ["rev"], eps=1e-2, atol=5e-3, rtol=5e-3)


def test_gradient_at_whole_positions_is_towards_the_next_pixel():
    x = np.array([1, 4, 9, 16], np.float32).reshape(1, 1, 4, 1)
    run = lambda offsets: jnp.sum(deform_conv(x, offsets, np.ones((1, 1, 1, 1), np.float32)))
    gradient = jax.grad(run)(np.zeros((1, 1, 4, 2), np.float32))
    assert_allclose(gradient[0, 0, :, 1], [3, 5, 7, -16])


def test_memory_does_not_grow_with_taps():
    """The gradient keeps what is read for one tap at a time."""
    x, kernel = np.zeros((1, 32, 32, 16), np.float32), np.zeros((3, 3, 16, 16), np.float32)
    offsets = np.zeros((1, 32, 32, 18), np.float32)
    run = lambda x, kernel: jnp.sum(deform_conv(x, offsets, kernel, padding=1) ** 2)
    memory = jax.jit(jax.grad(run, (0, 1))).lower(x, kernel).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 18 * x.nbytes


# --- the form that a TPU takes ---


@pytest.mark.parametrize("form", [sampling._sample_pieces, sampling._sample_products])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_forms_for_a_tpu_are_the_same(form, channels, padding):
    """Values and gradients, far outside and on pixels too."""
    images, points = draw(2, 5, 6, channels), draw(2, 8, 5, 2, seed=1, scale=6.0)
    points[0, 0, :4] = [[0, 0], [5, 4], [-1, -1], [2, 3]]
    x, y = points[..., 0], points[..., 1]
    if padding == "border":
        x, y = np.clip(x, 0, 5), np.clip(y, 0, 4)
    weights = draw(2, 8, 5, channels, seed=2)
    forms = [sampling._sample_pixels, form]
    results = [jax.value_and_grad(lambda *a, f=f: jnp.sum(f(*a) * weights), (0, 1, 2))(images, x, y) for f in forms]
    for expected, found in zip(*(jax.tree.leaves(result) for result in results), strict=True):
        assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("groups", "fetches"), [(1, 1), (2, 0)])
def test_a_tpu_fetches_once(groups, fetches):
    """The program for a TPU gathers once a tap, and not at all from single channels."""
    x, kernel, offsets = draw(1, 4, 4, 2), draw(3, 3, 2, 2, seed=1), draw(1, 4, 4, 18 * groups)
    lowered = {
        platform: jax.jit(lambda *a: deform_conv(*a, padding=1))
        .trace(x, offsets, kernel)
        .lower(lowering_platforms=(platform,))
        for platform in ("tpu", "cpu")
    }
    counts = {platform: program.as_text().count('"stablehlo.gather"') for platform, program in lowered.items()}
    assert counts == {"tpu": fetches, "cpu": 4}


def test_several_dilations_of_one_input():
    x, dilations = draw(2, 7, 6, 4), (1, 2, 3)
    of_each = [
        (
            draw(2, 7, 6, 36, seed=10 + d),
            draw(3, 3, 4, 5, seed=20 + d),
            draw(2, 7, 6, 18, seed=30 + d),
            draw(5, seed=40 + d),
        )
        for d in dilations
    ]
    offsets, kernels, masks, biases = zip(*of_each, strict=True)
    together = jax.jit(dilated_deform_convs, static_argnums=5)(x, offsets, kernels, masks, biases, dilations)
    for i, dilation in enumerate(dilations):
        alone = naive(x, offsets[i], kernels[i], masks[i], stride=1, padding=dilation, dilation=dilation) + biases[i]
        assert_allclose(together[..., i, :], alone, atol=1e-4)
