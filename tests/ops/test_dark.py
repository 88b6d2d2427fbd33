"""Joints between cells: where the top of a Gaussian is, and what becomes of maps that are none."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.ops import dark, heatmaps

SIZE = (24, 32)


def gaussian(place, sigma=2.0):
    x, y = np.arange(SIZE[0])[None], np.arange(SIZE[1])[:, None]
    return np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * sigma**2)).astype(np.float32)[..., None]


@pytest.mark.parametrize("refine", [dark.refine, dark.refine_unbiased])
@settings(deadline=None)  # the first example compiles
@given(x=st.floats(5, 18), y=st.floats(5, 26))
def test_the_top_of_a_gaussian_is_found(refine, x, y):
    """Exactly, since its logarithm is a paraboloid, whatever its blur."""
    maps = gaussian((x, y)) * 40
    cells, _ = heatmaps.maxima(maps)
    assert_allclose(refine(maps, cells)[0], (x, y), rtol=0, atol=2e-3)
    blurred = dark.blur(maps, 11)
    assert_allclose(refine(blurred, cells)[0], (x, y), rtol=0, atol=0.05)


def test_near_the_border_the_first_stays_and_the_second_moves():
    maps = gaussian((1.3, 0.2))
    cells, _ = heatmaps.maxima(maps)
    assert_array_equal(dark.refine(maps, cells), cells)
    assert np.abs(dark.refine_unbiased(maps, cells) - cells).max() > 0


@pytest.mark.parametrize("padding", ["zeros", "symmetric"])
@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_blur_is_a_convolution(padding, sigma):
    """OpenCV's for zeros and its own deviation; SciPy's for mirrored borders."""
    scipy = pytest.importorskip("scipy.ndimage")
    maps = np.random.default_rng(0).random((32, 24)).astype(np.float32)
    mode = {"zeros": "constant", "symmetric": "reflect"}[padding]
    expected = scipy.gaussian_filter(maps, sigma or 2.0, mode=mode, radius=5)
    found = dark.blur(maps[..., None], 11, sigma, padding)[..., 0]
    assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_as_high_gives_back_the_height():
    maps = gaussian((9, 12)) * 3
    assert_allclose(dark.as_high(dark.blur(maps, 11), maps).max(), 3, rtol=1e-6)
    assert_array_equal(dark.as_high(np.zeros_like(maps), maps), np.zeros_like(maps))


@pytest.mark.parametrize("refine", [dark.refine, dark.refine_unbiased])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.0, 1e-30, 1e30])
def test_flat_maps_give_finite_positions(refine, value):
    maps = np.full((*SIZE[::-1], 1), value, np.float32)
    cells, _ = heatmaps.maxima(maps)
    assert_array_equal(refine(maps, cells), cells)
