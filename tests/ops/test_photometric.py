"""Random colours and blur."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.ops import photometric
from jaxpose.ops.photometric import Strength

IMAGES = np.random.default_rng(0).uniform(size=(5, 8, 9, 3)).astype(np.float32)
FEW = settings(max_examples=25, deadline=None)
ORDERS = [(0, 1, 2), (2, 1, 0), (1, 0, 2)]
STRONG = Strength(0.5, 0.5, 0.5, 1.0)
recolor, blur = jax.jit(photometric.recolor), jax.jit(photometric.blur)
distort = jax.jit(photometric.distort, static_argnames="strength")
seeds = st.integers(0, 2**31)
images = st.sampled_from(list(IMAGES))


def keys(seed: int, count: int = len(IMAGES)) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def one(order: tuple[int, ...], **factors: float) -> np.ndarray:
    """The first two images recoloured."""
    values = [factors.get(name, 1.0) for name in ("brightness", "contrast", "saturation")]
    return np.asarray(recolor(IMAGES[:2], np.array([order] * 2), np.array([values] * 2, np.float32)))


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


# --- colours ---


@FEW
@given(seeds)
def test_no_strength_changes_nothing(seed):
    order = jax.random.permutation(jax.random.key(seed), jnp.array([[0, 1, 2]] * 2), axis=1, independent=True)
    assert_array_equal(recolor(IMAGES[:2], order, np.ones((2, 3), np.float32)), IMAGES[:2])
    assert_array_equal(blur(IMAGES, np.zeros(5, np.float32)), IMAGES)
    assert_array_equal(photometric.distort(IMAGES, keys(seed), Strength()), IMAGES)


@FEW
@given(seeds)
def test_what_comes_out_is_an_image(seed):
    changed = np.asarray(distort(IMAGES, keys(seed), strength=STRONG))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (np.abs(changed - IMAGES).max((1, 2, 3)) > 1e-3).all()


@FEW
@given(seeds, st.permutations(range(5)))
def test_what_becomes_of_an_image_depends_on_its_key_alone(seed, order):
    order = np.array(order)
    together = distort(IMAGES, keys(seed), strength=STRONG)
    assert_array_equal(distort(IMAGES[order], keys(seed)[order], strength=STRONG), together[order])


def test_equal_keys_change_equal_images_equally():
    same = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    changed = np.asarray(distort(same, keys(0)[jnp.array([0, 1, 0, 2, 0])], strength=STRONG))
    assert_array_equal(changed[0], changed[2])
    assert_array_equal(changed[0], changed[4])
    assert np.abs(changed[1] - changed[3]).max() > 1e-3


@pytest.mark.parametrize("order", ORDERS)
def test_each_change_by_its_formula(order):
    image = IMAGES[:2]
    assert_allclose(one(order, brightness=0.5), 0.5 * image, atol=1e-6)
    assert_allclose(one(order, brightness=1.5), np.minimum(1.5 * image, 1), atol=1e-6)
    grey = luma(image)[..., None]
    mean = grey.mean((1, 2), keepdims=True)
    assert_allclose(one(order, contrast=0.5), (image + mean) / 2, atol=1e-6)
    assert_allclose(one(order, saturation=0.5), (image + grey) / 2, atol=1e-6)
    assert_allclose(one(order, saturation=1.5), np.clip(1.5 * image - 0.5 * grey, 0, 1), atol=1e-6)
    assert_allclose(one(order, saturation=0.0), np.repeat(grey, 3, -1), atol=1e-6)


def test_changes_follow_each_other_in_their_order():
    first = one((0, 1, 2), brightness=1.5, contrast=0.5)
    by_hand = np.minimum(1.5 * IMAGES[:2], 1)
    mean = luma(by_hand).mean((1, 2))[:, None, None, None]
    assert_allclose(first, (by_hand + mean) / 2, atol=1e-6)
    assert np.abs(first - one((1, 0, 2), brightness=1.5, contrast=0.5)).max() > 1e-2


def test_factors_cover_their_range_and_orders_all_six():
    draw = functools.partial(photometric._draw_colors, strengths=jnp.array([0.25, 0.5, 0.0]))
    order, factors = jax.vmap(draw)(keys(1, 600))
    assert_allclose(np.min(factors, 0), [0.75, 0.5, 1.0], atol=0.01)
    assert_allclose(np.max(factors, 0), [1.25, 1.5, 1.0], atol=0.01)
    assert_allclose(np.mean(factors, 0), 1, atol=0.03)
    found, counts = np.unique(order, axis=0, return_counts=True)
    assert len(found) == 6
    assert counts.min() > 70


# --- blur ---


@FEW
@given(images, st.floats(0, photometric.MOST_BLUR))
def test_blur_keeps_range_and_evens_out(image, radius):
    blurred = np.asarray(blur(image[None], np.array([radius], np.float32)))[0]
    assert blurred.min() >= image.min() - 1e-6
    assert blurred.max() <= image.max() + 1e-6
    assert blurred.std() <= image.std() + 1e-6


@pytest.mark.parametrize("radius", [0.3, 0.8, photometric.MOST_BLUR])
def test_variance_of_a_blurred_dot_is_that_of_the_gaussian(radius):
    dot = np.zeros((1, 15, 17, 3), np.float32)
    dot[0, 7, 8] = 1
    blurred = np.asarray(blur(dot, np.array([radius], np.float32)))[0, ..., 0].astype(np.float64)
    assert_allclose(blurred.sum(), 1, rtol=1e-5)
    assert_allclose(blurred, blurred[::-1, ::-1], atol=1e-7)
    for axis, center in ((0, 7), (1, 8)):
        offset = np.arange(blurred.shape[axis]) - center
        assert_allclose((blurred.sum(1 - axis) * offset**2).sum(), radius**2, rtol=1e-5)


@pytest.mark.parametrize("radius", [0.3, 0.8, photometric.MOST_BLUR])
def test_a_dot_becomes_three_small_filters_one_after_the_other(radius):
    dot = np.zeros((1, 15, 15, 3), np.float32)
    dot[0, 7, 7] = 1
    side = radius**2 / 6
    once = np.array([side, 1 - 2 * side, side])
    line = np.pad(np.convolve(np.convolve(once, once), once), 4)
    blurred = blur(dot, np.array([radius], np.float32))
    assert_allclose(blurred[0], np.multiply.outer(line, line)[..., None].repeat(3, -1), rtol=1e-6, atol=1e-9)


def test_an_even_image_stays_even_at_the_border():
    assert_allclose(blur(np.full((2, 5, 6, 3), 0.7, np.float32), np.array([0.5, 1.2])), 0.7, rtol=1e-6)
