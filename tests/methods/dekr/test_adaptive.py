import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxpose.methods.dekr.adaptive import AdaptiveBlock, BranchConv, BranchNorm, branch_conv
from jaxpose.nn.normalization import BatchNorm

BRANCHES, FEATURES = 3, 4


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grouped(x, kernel):
    """Every branch convolved alone."""
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.stack([convolve(x[..., k, :], kernel[k]) for k in range(x.shape[3])], 3)


@pytest.mark.parametrize("size", [1, 3])
def test_a_branch_sees_itself_alone(size):
    x, kernel = draw(2, 5, 6, BRANCHES, FEATURES), draw(BRANCHES, size, size, FEATURES, 2, seed=1)
    assert_allclose(branch_conv(x, kernel), grouped(x, kernel), atol=1e-5)
    ours, theirs = (jax.grad(lambda x, k, f=f: jnp.sum(f(x, k) ** 2), (0, 1)) for f in (branch_conv, grouped))
    for a, b in zip(ours(x, kernel), theirs(x, kernel), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_norms_of_branches_are_one_norm_of_all_channels():
    x = draw(2, 5, 6, BRANCHES, FEATURES)
    variables = BranchNorm().init(jax.random.key(0), x, False)
    assert jax.tree.map(jnp.shape, variables["params"]) == dict.fromkeys(("scale", "bias"), (BRANCHES, FEATURES))
    y, state = BranchNorm().apply(variables, x, True, mutable=["batch_stats"])
    flat = x.reshape(2, 5, 6, -1)
    plain = BatchNorm().init(jax.random.key(0), flat)
    expected, plain_state = BatchNorm().apply(plain, flat, True, mutable=["batch_stats"])
    assert_allclose(y.reshape(flat.shape), expected, atol=1e-5)
    for name in ("mean", "var"):
        assert_allclose(state["batch_stats"][name].ravel(), plain_state["batch_stats"][name], atol=1e-5)


@pytest.fixture(scope="module")
def block():
    x = draw(2, 6, 7, BRANCHES, FEATURES)
    return x, AdaptiveBlock().init(jax.random.key(0), x, False)


def test_parameters_lead_with_the_branch(block):
    shapes = jax.tree.map(jnp.shape, block[1]["params"])
    assert shapes["kernel"] == (BRANCHES, 3, 3, FEATURES, FEATURES)
    assert shapes["transform"] == {"kernel": (BRANCHES, 3, 3, FEATURES, 4), "bias": (BRANCHES, 4)}
    assert shapes["translation"] == {"kernel": (BRANCHES, 3, 3, FEATURES, 2), "bias": (BRANCHES, 2)}


def test_at_first_all_taps_read_the_cell(block):
    """A and t are 0, and the kernel is drawn by PyTorch's rule for 9 * FEATURES inputs."""
    x, variables = block
    params = variables["params"]
    assert all(not np.any(leaf) for name in ("transform", "translation") for leaf in jax.tree.leaves(params[name]))
    bound = 1 / np.sqrt(9 * FEATURES)
    assert 0.9 * bound < np.abs(params["kernel"]).max() <= bound
    seen = jnp.einsum("bhwkf,kfo->bhwko", x, params["kernel"].sum((1, 2)))
    expected = jax.nn.relu(seen / np.sqrt(1 + 1e-5) + x)
    assert_allclose(AdaptiveBlock().apply(variables, x, False), expected, atol=1e-5)


def test_the_identity_gives_an_ordinary_convolution(block):
    x, variables = block
    params = variables["params"]
    identity = params["transform"] | {"bias": jnp.tile(jnp.array([1.0, 0, 0, 1]), (BRANCHES, 1))}
    given = variables | {"params": params | {"transform": identity}}
    expected = jax.nn.relu(grouped(x, params["kernel"]) / np.sqrt(1 + 1e-5) + x)
    assert_allclose(AdaptiveBlock().apply(given, x, False), expected, atol=1e-5)


def test_a_translation_moves_what_is_seen(block):
    x, variables = block
    params = variables["params"]
    moved = params["translation"] | {"bias": jnp.tile(jnp.array([1.0, -2]), (BRANCHES, 1))}
    given = variables | {"params": params | {"translation": moved}}
    shifted = np.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0), (0, 0)))[:, 1:, : x.shape[2]]
    seen = jnp.einsum("bhwkf,kfo->bhwko", shifted, params["kernel"].sum((1, 2)))
    expected = jax.nn.relu(seen / np.sqrt(1 + 1e-5) + x)
    assert_allclose(AdaptiveBlock().apply(given, x, False), expected, atol=1e-5)


def test_positions_are_float32_in_lower_precision(block):
    """A and t come from float32 convolutions, whatever the block computes in."""
    x, variables = block
    half = AdaptiveBlock(dtype=jnp.bfloat16)
    y, state = half.apply(variables, x.astype(jnp.bfloat16), False, capture_intermediates=True, mutable=True)
    assert y.dtype == jnp.bfloat16
    for name in ("transform", "translation"):
        assert state["intermediates"][name]["__call__"][0].dtype == jnp.float32


def test_every_parameter_learns(block):
    x, variables = block
    x, away = jnp.asarray(x), jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    run = lambda params: jnp.sum(AdaptiveBlock().apply(variables | {"params": params}, x, False) ** 2)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(run)(away)))


def test_branch_conv_layer():
    x = draw(1, 4, 4, BRANCHES, FEATURES)
    layer = BranchConv(2, size=1)
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "kernel": (BRANCHES, 1, 1, FEATURES, 2),
        "bias": (BRANCHES, 2),
    }
    params = variables["params"] | {"bias": jnp.arange(6.0).reshape(BRANCHES, 2)}
    assert_allclose(layer.apply({"params": params}, x), np.broadcast_to(params["bias"], (1, 4, 4, BRANCHES, 2)))
