import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.nn.pooling import _max_pool, _strided_max_pool, max_pool


def some_maps(height, width):
    """Maps of few different values, so that windows have several largest ones."""
    return jnp.asarray(np.random.default_rng(0).integers(-2, 1, (2, height, width, 2)), jnp.float32)


@pytest.mark.parametrize(("size", "height", "width"), [(2, 4, 6), (3, 4, 6), (3, 5, 7)])
def test_both_ways_agree_and_give_the_gradient_to_the_first_largest(size, height, width):
    x = some_maps(height, width)
    pooled = _max_pool(x, size)
    assert_array_equal(_strided_max_pool(x, size), pooled)
    assert_array_equal(max_pool(x, size), pooled)
    weight = jnp.arange(float(pooled.size)).reshape(pooled.shape) + 1
    reduced, strided = (
        jax.grad(lambda x, pool=pool: (pool(x, size) * weight).sum())(x) for pool in (_max_pool, _strided_max_pool)
    )
    assert_allclose(strided, reduced)


def test_windows_of_three_reach_beyond_the_border_and_windows_of_two_do_not():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert_array_equal(max_pool(x)[0, :, :, 0], [[5, 7], [13, 15]])
    assert_array_equal(max_pool(x[:, ::-1, ::-1])[0, :, :, 0], [[15, 14], [11, 10]])
    assert_array_equal(max_pool(x, 2)[0, :, :, 0], [[5, 7], [13, 15]])
    assert_array_equal(max_pool(x[:, ::-1, ::-1], 2)[0, :, :, 0], [[15, 13], [7, 5]])
