import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxpose.methods.prtr.transformer import MLP, Decoder, Encoder, pointwise

SIZE = {"layers": 2, "heads": 2, "feedforward": 16}
TOKENS, QUERIES, WIDTH = 6, 5, 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, TOKENS, WIDTH)).astype(np.float32)
POSITION = RNG.normal(size=(TOKENS, WIDTH)).astype(np.float32)
QUERY = RNG.normal(size=(QUERIES, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module", params=[False, True], ids=["post_norm", "pre_norm"])
def network(request):
    encoder, decoder = Encoder(**SIZE, pre_norm=request.param), Decoder(**SIZE, pre_norm=request.param)
    first = encoder.init(jax.random.key(0), X, POSITION)
    second = decoder.init(jax.random.key(1), QUERY, X, POSITION)

    @jax.jit
    def run(x, position, query, inside):
        memory = encoder.apply(first, x, position, inside)
        return decoder.apply(second, query, memory, position, inside)

    return run, first, second


def everything():
    return jnp.ones((2, TOKENS), bool)


def test_all_layers_come_out_normalized(network):
    run, first, _ = network
    out = run(X, POSITION, QUERY, everything())
    assert out.shape == (SIZE["layers"], 2, QUERIES, WIDTH)
    assert_allclose(out.mean(-1), 0, atol=1e-5)
    assert_allclose(out.std(-1), 1, atol=1e-3)
    assert not np.allclose(out[0], out[1])


def test_final_encoder_norm_exists_only_with_pre_norm(network):
    _, first, second = network
    encoder = first["params"]
    pre_norm = "norm" in encoder
    assert set(encoder) == {"layer0", "layer1"} | ({"norm"} if pre_norm else set())
    assert "norm" in second["params"]


def test_padding_has_no_influence(network):
    run, *_ = network
    inside = jnp.arange(TOKENS)[None] < jnp.array([[TOKENS], [4]])
    garbage = X.copy()
    garbage[1, 4:] = 1e3
    assert_allclose(run(garbage, POSITION, QUERY, inside), run(X, POSITION, QUERY, inside), atol=1e-5)
    assert not np.allclose(run(X, POSITION, QUERY, inside)[:, 1], run(X, POSITION, QUERY, everything())[:, 1])


def test_queries_and_tokens_have_no_order(network):
    run, *_ = network
    out = run(X, POSITION, QUERY, everything())
    shuffled = run(X, POSITION, QUERY[::-1], everything())
    assert_allclose(shuffled[:, :, ::-1], out, atol=1e-5)
    order = np.array([3, 0, 5, 1, 4, 2])
    assert_allclose(run(X[:, order], POSITION[order], QUERY, everything()), out, atol=1e-5)


def test_positions_matter(network):
    run, *_ = network
    out = run(X, POSITION, QUERY, everything())
    assert not np.allclose(run(X, POSITION[::-1], QUERY, everything()), out, atol=1e-3)


def test_fused_projection_is_initialised_as_one_matrix():
    """Xavier's bound of a (3 d, d) matrix is sqrt(6 / 4 d); that of a (d, d) matrix sqrt(6 / 2 d)."""
    x = jnp.zeros((1, 2, 64))
    params = Encoder(layers=1, heads=2, feedforward=32).init(jax.random.key(0), x, x[0])["params"]["layer0"]
    attention = params["self_attention"]
    for name in ("query", "key", "value"):
        assert_allclose(np.abs(attention[name]["kernel"]).max(), math.sqrt(6 / 256), rtol=0.01)
        assert not attention[name]["bias"].any()
    assert_allclose(np.abs(attention["out"]["kernel"]).max(), math.sqrt(6 / 128), rtol=0.01)
    assert_allclose(np.abs(params["linear1"]["bias"]).max(), 1 / math.sqrt(64), rtol=0.1)


def test_dropout_needs_training_and_its_key():
    encoder = Encoder(**SIZE, dropout=0.5)
    variables = encoder.init(jax.random.key(0), X, POSITION)
    evaluated = encoder.apply(variables, X, POSITION)
    drop = lambda seed: encoder.apply(variables, X, POSITION, train=True, rngs={"dropout": jax.random.key(seed)})
    assert_allclose(encoder.apply(variables, X, POSITION), evaluated)
    assert_allclose(drop(1), drop(1))
    assert not np.allclose(drop(1), drop(2))
    assert not np.allclose(drop(1), evaluated)


def test_half_precision_stays_near():
    encoder = Encoder(**SIZE)
    variables = encoder.init(jax.random.key(0), X, POSITION)
    half = Encoder(**SIZE, dtype=jnp.bfloat16).apply(variables, jnp.asarray(X, jnp.bfloat16), POSITION)
    assert half.dtype == jnp.bfloat16
    assert_allclose(np.asarray(half, np.float32), encoder.apply(variables, X, POSITION), atol=0.1)


def test_mlp_may_start_at_zero():
    module = MLP((6, 3), starts_at_zero=True)
    variables = module.init(jax.random.key(0), X)
    assert not module.apply(variables, X).any()
    assert variables["params"]["layer0"]["kernel"].any()
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, MLP((6, 3)).init(jax.random.key(0), X))


def test_pointwise_convolution_is_a_linear_layer_of_every_pixel():
    module, x = pointwise(3, WIDTH), X.reshape(2, 2, 3, WIDTH)
    variables = module.init(jax.random.key(0), x)
    expected = x @ variables["params"]["kernel"][0, 0] + variables["params"]["bias"]
    assert_allclose(module.apply(variables, x), expected, atol=1e-5)
