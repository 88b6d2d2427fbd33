import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.prtr.deform_attention import deformable_attention

SHAPES = ((3, 4), (2, 2))
CELLS = 16
BATCH, QUERIES, HEADS, CHANNELS, POINTS = 2, 5, 3, 2, 4
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(BATCH, CELLS, HEADS, CHANNELS)).astype(np.float32)
LOCATIONS = RNG.uniform(-0.3, 1.3, (BATCH, QUERIES, HEADS, len(SHAPES), POINTS, 2)).astype(np.float32)
WEIGHTS = RNG.random((BATCH, QUERIES, HEADS, len(SHAPES), POINTS)).astype(np.float32)
attend = jax.jit(deformable_attention, static_argnums=1)


def read(grid: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear interpolation of [h, w, C] at fractions of the map; what lies outside counts as 0."""
    column, row = x * grid.shape[1] - 0.5, y * grid.shape[0] - 0.5
    total = np.zeros(grid.shape[2])
    for i in (int(np.floor(row)), int(np.floor(row)) + 1):
        for j in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= i < grid.shape[0] and 0 <= j < grid.shape[1]:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * grid[i, j]
    return total


def test_sums_what_is_read():
    found = np.asarray(attend(VALUES, SHAPES, LOCATIONS, WEIGHTS)).reshape(BATCH, QUERIES, HEADS, CHANNELS)
    maps = [VALUES[:, :12].reshape(BATCH, 3, 4, HEADS, CHANNELS), VALUES[:, 12:].reshape(BATCH, 2, 2, HEADS, CHANNELS)]
    for b, q, h in np.ndindex(BATCH, QUERIES, HEADS):
        expected = sum(
            WEIGHTS[b, q, h, level, p] * read(maps[level][b, :, :, h], *LOCATIONS[b, q, h, level, p])
            for level in range(len(SHAPES))
            for p in range(POINTS)
        )
        assert_allclose(found[b, q, h], expected, atol=1e-5)


def test_the_middle_of_a_cell_is_its_value():
    locations = np.broadcast_to(np.array([2.5 / 4, 1.5 / 3], np.float32), (1, 1, HEADS, 1, 1, 2))
    found = attend(VALUES[:1, :12], SHAPES[:1], locations, np.ones((1, 1, HEADS, 1, 1), np.float32))
    assert_allclose(found[0, 0], VALUES[0, 1 * 4 + 2].reshape(-1), atol=1e-6)


def test_gradient_by_the_places_is_that_of_finite_differences():
    total = jax.jit(lambda x: (deformable_attention(VALUES, SHAPES, x, WEIGHTS) ** 2).sum())
    gradient = jax.jit(jax.grad(total))(LOCATIONS)
    direction = RNG.normal(size=LOCATIONS.shape).astype(np.float32)
    # away from the lines between cells, where the gradient jumps
    cells = np.array([[4, 3], [2, 2]])[:, None]
    near = np.abs((LOCATIONS * cells - 0.5) - np.round(LOCATIONS * cells - 0.5)).min(-1, keepdims=True) < 0.02
    direction = np.where(near, 0, direction)
    step = 1e-3
    difference = (total(LOCATIONS + step * direction) - total(LOCATIONS - step * direction)) / (2 * step)
    assert_allclose((gradient * direction).sum(), difference, rtol=2e-2)


def test_places_far_outside_read_nothing_and_learn_nothing():
    far = jnp.asarray(LOCATIONS) + 5
    value, gradient = jax.value_and_grad(lambda x: deformable_attention(VALUES, SHAPES, x, WEIGHTS).sum())(far)
    assert_array_equal(value, 0)
    assert_array_equal(gradient, 0)


def test_half_precision_comes_back_as_it_went_in():
    found = attend(jnp.asarray(VALUES, jnp.bfloat16), SHAPES, LOCATIONS, WEIGHTS)
    assert found.dtype == jnp.bfloat16
    assert_allclose(found.astype(jnp.float32), attend(VALUES, SHAPES, LOCATIONS, WEIGHTS), atol=0.05)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"16 values, but maps of \(\(3, 4\),\) .* have 12"):
        deformable_attention(VALUES, SHAPES[:1], LOCATIONS, WEIGHTS)
    with pytest.raises(ValueError, match="locations are for 2 maps, but there are 1"):
        deformable_attention(VALUES[:, :12], SHAPES[:1], LOCATIONS, WEIGHTS)
