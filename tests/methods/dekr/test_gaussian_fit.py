"""Fits of a Gaussian to windows against what made them, and against SciPy's."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import curve_fit

from jaxpose.methods.dekr.gaussian_fit import gaussian_centers

RADIUS = 6
POINTS = np.stack(np.meshgrid(*[np.arange(-RADIUS, RADIUS + 1.0)] * 2), -1).reshape(-1, 2).astype(np.float32)
NUMBER = 20

fit = jax.jit(gaussian_centers)


def gaussian(points, height, x, y, sigma):
    return height * np.exp(-((points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2) / 2 / sigma**2)


def windows(seed, noise=0.0):
    """Values [NUMBER, M] of peaks near the middle, where searches start, and what made them (height, x, y, sigma)."""
    rng = np.random.default_rng(seed)
    made = np.stack([rng.uniform(a, b, NUMBER) for a, b in ((0.2, 1), (-1.5, 1.5), (-1.5, 1.5), (1, 4))], -1)
    values = np.stack([gaussian(POINTS, *m) for m in made]) + rng.normal(0, noise, (NUMBER, len(POINTS)))
    middle = values[:, len(POINTS) // 2]
    start = np.stack([middle, *rng.uniform(-0.5, 0.5, (2, NUMBER)), np.full(NUMBER, 2.0)], -1)
    return values.astype(np.float32), start.astype(np.float32), made


def everything(values):
    return np.ones(values.shape, bool)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_finds_what_made_the_window(seed):
    values, start, made = windows(seed)
    center, success = fit(values, POINTS, everything(values), start)
    assert success.all()
    assert_allclose(center, made[:, 1:3], atol=2e-3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_agrees_with_scipy_on_noisy_windows(seed):
    values, start, _ = windows(seed, noise=0.01)
    center, success = fit(values, POINTS, everything(values), start)
    assert success.all()
    for i in range(NUMBER):
        expected = curve_fit(gaussian, POINTS.astype(float), values[i].astype(float), start[i].astype(float))[0]
        assert_allclose(center[i], expected[1:3], atol=1e-2)


def test_pixels_that_do_not_count_may_hold_anything():
    values, start, made = windows(0)
    counted = np.broadcast_to(POINTS[:, 0] > -2, values.shape)
    spoiled = np.where(counted, values, np.nan)
    center, success = fit(spoiled, POINTS, counted, start)
    assert success.all()
    assert_allclose(center, made[:, 1:3], atol=1e-2)


def test_moved_points_move_the_center():
    values, start, made = windows(1)
    shift = np.array([20.0, -7.0], np.float32)
    start[:, 1:3] += shift
    center, _ = fit(values, np.broadcast_to(POINTS + shift, (*values.shape, 2)), everything(values), start)
    assert_allclose(center, made[:, 1:3] + shift, atol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_spoiled_windows_fail_alone(value):
    values, start, made = windows(2)
    values[3, 5] = value
    center, success = fit(values, POINTS, everything(values), start)
    assert_array_equal(success, np.arange(NUMBER) != 3)
    assert_allclose(np.delete(center, 3, 0), np.delete(made[:, 1:3], 3, 0), atol=2e-3)
