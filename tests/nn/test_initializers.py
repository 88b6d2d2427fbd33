import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.nn import initializers

KEY = jax.random.key(7)
BIG = (3, 3, 64, 128)  # more than one chunk


@pytest.mark.parametrize(
    ("initializer", "shape", "deviation"),
    [
        (initializers.kaiming_normal, BIG, math.sqrt(2 / (9 * 128))),
        (initializers.normal(0.5), BIG, 0.5),
        (initializers.uniform(0.5), BIG, 0.5 / math.sqrt(3)),
        (initializers.unit_uniform, BIG, 1 / math.sqrt(12)),
        (initializers.torch_kernel, BIG, 1 / math.sqrt(9 * 64 * 3)),
        (initializers.torch_bias(16), (4000,), 1 / math.sqrt(16 * 3)),
        (initializers.xavier_uniform, (300, 200), math.sqrt(2 / 500)),
        (initializers.xavier_fused, (200, 200), math.sqrt(2 / 800)),
    ],
)
def test_distribution_and_the_same_numbers_under_jit(initializer, shape, deviation):
    values = np.asarray(initializer(KEY, shape))
    assert values.shape == shape
    assert values.dtype == np.float32
    assert_allclose(values.std(), deviation, rtol=0.03)
    assert_array_equal(jax.jit(lambda key: initializer(key, shape))(KEY), values)
    assert not np.array_equal(initializer(jax.random.key(8), shape), values)


def test_chunks_do_not_repeat():
    values = np.asarray(initializers.normal(1.0)(KEY, (3 * 2**16,)))
    assert len(np.unique(values[:1000])) > 990
    assert not np.array_equal(values[: 2**16], values[2**16 : 2**17])


def test_constants():
    assert_array_equal(initializers.ones(KEY, (2, 3)), np.ones((2, 3)))
    assert_array_equal(initializers.zeros(KEY, (2,)), np.zeros(2))


def test_initialize_gives_arrays_without_running_the_module():
    module = nn.Dense(4, kernel_init=initializers.torch_kernel, bias_init=initializers.zeros)
    shape = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    variables = initializers.initialize(module, KEY, shape)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    jitted = jax.jit(lambda key: initializers.initialize(module, key, shape))(KEY)
    jax.tree.map(assert_array_equal, jitted, variables)
