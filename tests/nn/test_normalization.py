import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.nn import backbones
from jaxpose.nn.hourglass import Hourglass
from jaxpose.nn.normalization import BatchNorm, FrozenBatchNorm, _moments

X = np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 6, 2)).astype(np.float32)


def test_training_uses_biased_and_stores_unbiased_variance():
    module = BatchNorm()
    variables = module.init(jax.random.key(0), X)
    y, state = module.apply(variables, X, train=True, mutable=["batch_stats"])
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    assert_allclose(state["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * X.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_evaluation_uses_running_statistics():
    variables = {
        "params": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([1.0, -1.0])},
        "batch_stats": {"mean": jnp.array([0.5, 4.0]), "var": jnp.array([4.0, 9.0])},
    }
    expected = (X - [0.5, 4.0]) / np.sqrt(np.array([4.0, 9.0]) + 1e-5) * [2, 3] + [1, -1]
    assert_allclose(BatchNorm().apply(variables, X), expected, rtol=1e-5, atol=1e-5)


def test_statistics_stay_float32_in_half_precision():
    module = BatchNorm(dtype=jnp.bfloat16)
    x = jnp.asarray(np.full((2, 64, 64, 1), 1.0) + np.arange(64)[None, :, None, None] / 64, jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    y, state = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert_allclose(state["batch_stats"]["mean"], 0.1 * np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-5)


def test_constant_input_gives_no_nan():
    x = jnp.full((2, 3, 3, 1), 1e3)
    module = BatchNorm()
    y, state = module.apply(module.init(jax.random.key(0), x), x, train=True, mutable=["batch_stats"])
    assert jnp.isfinite(y).all()
    assert (state["batch_stats"]["var"] >= 0).all()


def test_frozen_norm_has_no_parameters_and_never_moves():
    module = FrozenBatchNorm()
    variables = module.init(jax.random.key(0), X)
    assert set(variables) == {"batch_stats"}
    stats = {"scale": [2.0, 1.0], "bias": [0.0, 1.0], "mean": [3.0, 2.0], "var": [4.0, 1.0]}
    stats = {name: jnp.array(value) for name, value in stats.items()}
    y, state = module.apply({"batch_stats": stats}, X, train=True, mutable=["batch_stats"])
    jax.tree.map(assert_array_equal, state["batch_stats"], stats)
    expected = (X - [3, 2]) / np.sqrt(np.array([4, 1]) + 1e-5) * [2, 1] + [0, 1]
    assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


# --- what the variance in one pass loses ---

ROUNDING = 2.0**-24
"""Half of the distance of neighbouring float32 numbers, by their size."""
LARGEST_RATIO = 8.0
"""Ratio of mean and deviation up to which the variance is good to a hundred-thousandth or two."""


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 2.0, 4.0, LARGEST_RATIO, 16.0, 30.0])
def test_error_of_the_variance_grows_with_the_square_of_the_ratio(ratio):
    x = (np.random.default_rng(0).normal(size=(8, 24, 24, 16)) + ratio).astype(np.float32)
    exact = x.astype(np.float64).var((0, 1, 2))
    error = np.abs(np.asarray(_moments(jnp.asarray(x))[1]) / exact - 1)
    assert error.max() < 6 * ROUNDING * (1 + ratio**2)
    if ratio <= LARGEST_RATIO:
        assert error.max() < 3e-5


NETWORKS = {
    "resnet": backbones.backbone("resnet18", width=8, stages=(1, 1, 1)),
    "hourglass": Hourglass(4, 1, 16, depth=1),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_inputs_of_norms_have_small_ratios(network):
    """Of pictures that are all bright, to make it hard."""

    @jax.jit
    def ratios(image):
        found = []

        def watch(function, inputs, options, context):
            if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
                axes = tuple(range(inputs[0].ndim - 1))
                found.append(jnp.abs(inputs[0].mean(axes)) / jnp.maximum(inputs[0].std(axes), 1e-12))
            return function(*inputs, **options)

        variables = network.init(jax.random.key(0), image)
        with nn.intercept_methods(watch):
            network.apply(variables, image, train=True, mutable=["batch_stats"])
        return jnp.concatenate(found)

    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32) + 1
    found = ratios(image)
    assert len(found) > 40
    assert found.max() < LARGEST_RATIO
