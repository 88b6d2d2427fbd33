import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.regda.pseudo_labels import pseudo_labels

HEIGHT, WIDTH, JOINTS = 14, 18, 3
label = jax.jit(pseudo_labels, static_argnames=("sigma", "window"))


def reference(maps: np.ndarray, sigma: float, window: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixel by pixel, for maps [H, W, K]."""
    truth = np.zeros(maps.shape)
    for joint in range(maps.shape[-1]):
        row, column = np.unravel_index(np.argmax(maps[..., joint]), maps.shape[:2])
        if window == "square" and maps[..., joint].max() <= 0:
            row, column = 0, 0
        for y, x in np.ndindex(*maps.shape[:2]):
            value = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
            inside = max(abs(x - column), abs(y - row)) <= 3 * sigma if window == "square" else value > 0.01
            truth[y, x, joint] = value if inside else 0
    joints = range(maps.shape[-1])
    false = [sum((truth[..., j] for j in joints if j != k), np.zeros(maps.shape[:2])) for k in joints]
    return truth, np.minimum(np.stack(false, -1), 1)


@pytest.mark.parametrize("window", ["square", "disc"])
@given(arrays.arrays(np.int8, (HEIGHT, WIDTH, JOINTS), elements=st.integers(-5, 5)))
@settings(max_examples=25, deadline=None)
def test_equal_a_loop_over_pixels(window, maps):
    truth, false = label(maps[None].astype(np.float32), window=window)
    expected = reference(maps, 2.0, window)
    assert_allclose(truth[0], expected[0], atol=1e-6)
    assert_allclose(false[0], expected[1], atol=1e-6)


def test_a_joint_that_is_found_nowhere():
    """Without a value above 0 the square's joint is at the first pixel, the disc's at the maximum."""
    maps = np.full((1, HEIGHT, WIDTH, 2), -2, np.float32)
    maps[0, 9, 4] = -1
    square, disc = label(maps, window="square")[0], label(maps, window="disc")[0]
    assert square[0, 0, 0, 0] == 1
    assert disc[0, 9, 4, 0] == 1
    assert square[0, 9, 4, 0] == 0


def test_one_joint_has_no_others():
    maps = np.random.default_rng(0).normal(size=(2, HEIGHT, WIDTH, 1)).astype(np.float32)
    assert_array_equal(label(maps)[1], np.zeros_like(maps))


def test_no_gradient_reaches_the_maps():
    maps = np.random.default_rng(0).normal(size=(1, HEIGHT, WIDTH, 2)).astype(np.float32)
    for part in (0, 1):
        gradient = jax.grad(lambda m, p=part: (pseudo_labels(m)[p] * maps).sum())(maps)
        assert_array_equal(gradient, np.zeros_like(maps))


def test_unknown_window_is_named():
    with pytest.raises(ValueError, match="'round'; known: square, disc"):
        pseudo_labels(np.zeros((1, 4, 4, 1)), window="round")
