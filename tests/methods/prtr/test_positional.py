import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.prtr.positional import CropEncoding, LearnedEncoding, shrink_mask, sine_encoding


def test_single_channels_by_hand():
    encoding = sine_encoding(np.ones((4, 5), bool), 16)
    assert isinstance(encoding, np.ndarray)
    assert encoding.shape == (4, 5, 16)
    angle_y = 3 / (4 + 1e-6) * 2 * math.pi  # third row
    angle_x = 2 / (5 + 1e-6) * 2 * math.pi  # second column
    assert_allclose(encoding[2, 1, 0], math.sin(angle_y), atol=1e-5)
    assert_allclose(encoding[2, 1, 1], math.cos(angle_y), atol=1e-5)
    assert_allclose(encoding[2, 1, 8 + 2], math.sin(angle_x / 10000 ** (2 / 8)), atol=1e-5)
    assert_allclose(encoding[2, 1, 8 + 5], math.cos(angle_x / 10000 ** (4 / 8)), atol=1e-5)


def test_a_padded_map_is_encoded_as_if_it_were_cut_out():
    inside = np.zeros((2, 6, 7), bool)
    inside[0, :4, :5] = True
    inside[1] = True
    encoding = jax.jit(lambda m: sine_encoding(m, 8))(jnp.asarray(inside))
    assert_allclose(encoding[0, :4, :5], sine_encoding(np.ones((4, 5), bool), 8), atol=1e-5)
    assert_allclose(encoding[1], sine_encoding(np.ones((6, 7), bool), 8), atol=1e-5)


def test_learned_tables_column_first():
    module = LearnedEncoding(4, cells=8)
    variables = module.init(jax.random.key(0), 3, 5)
    encoding = module.apply(variables, 3, 5)
    assert_allclose(encoding[2, 4, :2], variables["params"]["column"][4])
    assert_allclose(encoding[2, 4, 2:], variables["params"]["row"][2])
    assert ((encoding >= 0) & (encoding < 1)).all()


def test_learned_tables_end():
    with pytest.raises(ValueError, match="9 x 3 cells exceeds the learned positional tables of 8"):
        LearnedEncoding(4, cells=8).init(jax.random.key(0), 3, 9)


def test_mask_of_an_image_at_the_resolution_of_a_map():
    inside = np.zeros((2, 64, 96), bool)
    inside[0, :33, :64] = True
    inside[1] = True
    small = shrink_mask(inside, 2, 3)
    assert_array_equal(small[0], [[True, True, False]] * 2)  # cells take their first pixel: rows 0 and 32
    assert small[1].all()
    assert_array_equal(jax.jit(lambda m: shrink_mask(m, 2, 3))(inside), small)


def test_mask_where_cells_do_not_divide_the_image():
    inside = np.arange(100)[:, None] < np.array([57] * 4)
    assert_array_equal(shrink_mask(inside, 7, 4)[:, 0], np.arange(7) * 100 // 7 < 57)


def test_encoding_of_crops_is_half_fixed():
    module = CropEncoding(16)
    variables = module.init(jax.random.key(0), 3, 5)
    encoding = module.apply(variables, 3, 5)
    assert encoding.shape == (3, 5, 16)
    assert_allclose(encoding[..., :8], sine_encoding(np.ones((3, 5), bool), 8), atol=1e-6)
    assert_allclose(encoding[2, 4, 8:12], variables["params"]["row"][2])
    assert_allclose(encoding[2, 4, 12:], variables["params"]["column"][4])
