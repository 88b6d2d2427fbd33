import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.prtr.deformable import (
    DeformableAttention,
    DeformableDecoder,
    DeformableEncoder,
    cell_centers,
    logit,
    ring,
    xavier_conv,
)

SHAPES = ((4, 6), (2, 3))
TOKENS, QUERIES, WIDTH = 30, 5, 8
SIZE = {"layers": 2, "heads": 2, "feedforward": 16, "points": 3}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, TOKENS, WIDTH)).astype(np.float32)
POSITION = RNG.normal(size=(TOKENS, WIDTH)).astype(np.float32)
QUERY = RNG.normal(size=(QUERIES, WIDTH)).astype(np.float32)
PLACES = RNG.uniform(0.3, 0.7, (1, QUERIES, 1, 2)).astype(np.float32)
CENTERS = cell_centers(SHAPES)


def shaken(variables, seed: int = 0):
    """Parameters away from their first values, in which neither offsets nor weights depend on the query."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32), variables)


def test_cell_centers():
    assert CENTERS.shape == (1, TOKENS, 1, 2)
    assert_allclose(CENTERS[0, :2, 0], [[0.5 / 6, 0.5 / 4], [1.5 / 6, 0.5 / 4]], rtol=1e-6)
    assert_allclose(CENTERS[0, -1, 0], [2.5 / 3, 1.5 / 2], rtol=1e-6)


def test_centers_of_a_padded_map_are_those_of_its_part():
    ratios = jnp.array([[[0.5, 0.75], [1.0, 1.0]]])
    centers = cell_centers(SHAPES, ratios)
    assert_allclose(centers[0, :24, 0], CENTERS[0, :24, 0], rtol=1e-6)
    assert_allclose(centers[0, :24, 1], CENTERS[0, :24, 0] / np.array([0.5, 0.75]), rtol=1e-6)


def test_logit_is_the_inverse_where_it_can_be():
    x = jnp.linspace(0.001, 0.999, 50)
    assert_allclose(jax.nn.sigmoid(logit(x)), x, atol=1e-6)
    assert_allclose(logit(jnp.array([-1.0, 0.0, 1.0, 2.0])), np.array([-1, -1, 1, 1]) * math.log(1e5), rtol=1e-6)


def test_first_offsets_point_all_around():
    offsets = ring(8, 2, 3).reshape(8, 2, 3, 2)
    assert_allclose(np.abs(offsets).max(-1), np.broadcast_to([1, 2, 3], (8, 2, 3)), rtol=1e-6)
    assert_allclose(offsets[2, 0, 0], [0, 1], atol=1e-6)
    assert_allclose(offsets[1, 1, 2], [3, 3], atol=1e-5)
    assert_array_equal(offsets[:, 0], offsets[:, 1])


def test_convolutions_start_within_xaviers_bound():
    kernel = np.asarray(xavier_conv(jax.random.key(0), (3, 3, 16, 8)))
    bound = math.sqrt(6 / (9 * 24))
    assert 0.98 * bound < np.abs(kernel).max() <= bound


def test_fresh_attention_averages_around_the_reference():
    """Equal weights; on a constant map, well inside, any places read the same."""
    module = DeformableAttention(heads=2, points=1)
    shapes = ((9, 9),)
    tokens = jnp.broadcast_to(jnp.arange(WIDTH, dtype=jnp.float32), (1, 81, WIDTH))
    query, reference = jnp.zeros((1, 1, WIDTH)), jnp.full((1, 1, 1, 2), 0.5)
    variables = module.init(jax.random.key(0), query, reference, tokens, shapes)
    params = variables["params"]
    expected = tokens[0, 0] @ params["value"]["kernel"] @ params["out"]["kernel"]
    assert_allclose(module.apply(variables, query, reference, tokens, shapes)[0, 0], expected, rtol=1e-4, atol=1e-5)


def encoder(**fields):
    module = DeformableEncoder(**SIZE | fields)
    variables = module.init(jax.random.key(0), X, POSITION, CENTERS, SHAPES)
    return jax.jit(module.apply, static_argnums=4), shaken(variables)


def test_encoder_reads_near_a_token_only():
    """Offsets of a few cells on the finer map: what is in one corner cannot reach the other through one layer."""
    module = DeformableEncoder(**SIZE | {"layers": 1, "points": 1})
    shapes = ((16, 16),)
    x = RNG.normal(size=(1, 256, WIDTH)).astype(np.float32)
    position, centers = np.zeros((256, WIDTH), np.float32), cell_centers(shapes)
    variables = module.init(jax.random.key(0), x, position, centers, shapes)
    apply = jax.jit(module.apply, static_argnums=4)
    changed = x.copy()
    changed[0, 0] += 10
    moved = np.abs(
        apply(variables, changed, position, centers, shapes) - apply(variables, x, position, centers, shapes)
    )
    touched = moved[0].max(-1).reshape(16, 16) > 1e-5
    assert touched[:3, :3].any()
    assert not touched[3:].any()
    assert not touched[:, 3:].any()


def test_padding_is_not_read():
    apply, variables = encoder()
    inside = jnp.ones((2, TOKENS), bool).at[1, 20:24].set(False)
    garbage = X.copy()
    garbage[1, 20:24] = 100
    keep = np.asarray(inside)
    one = apply(variables, X, POSITION, CENTERS, SHAPES, inside)
    two = apply(variables, garbage, POSITION, CENTERS, SHAPES, inside)
    assert_allclose(two[keep], one[keep], atol=1e-4)
    assert not np.allclose(apply(variables, garbage, POSITION, CENTERS, SHAPES)[keep], one[keep], atol=1e-2)


def test_decoder_returns_every_layer_and_its_queries_have_no_order():
    module = DeformableDecoder(**SIZE)
    fresh = module.init(jax.random.key(0), QUERY, QUERY, PLACES, X, SHAPES)
    apply, variables = jax.jit(module.apply, static_argnums=5), shaken(fresh)
    out = apply(variables, QUERY, QUERY, PLACES, X, SHAPES)
    assert out.shape == (2, 2, QUERIES, WIDTH)
    reverse = apply(variables, QUERY[::-1], QUERY[::-1], PLACES[:, ::-1], X, SHAPES)
    assert_allclose(reverse[:, :, ::-1], out, atol=1e-4)
    assert "norm" not in fresh["params"]


def test_decoder_queries_learn_where_to_look():
    module = DeformableDecoder(**SIZE)
    variables = shaken(module.init(jax.random.key(0), QUERY, QUERY, PLACES, X, SHAPES))

    def total(places):
        return (module.apply(variables, QUERY, QUERY, places, X, SHAPES) * X[0, 0]).sum()

    assert (jnp.abs(jax.jit(jax.grad(total))(PLACES)) > 0).all()


def test_half_precision_stays_near():
    apply, variables = encoder()
    half = DeformableEncoder(**SIZE, dtype=jnp.bfloat16).apply(
        variables, jnp.asarray(X, jnp.bfloat16), POSITION, CENTERS, SHAPES
    )
    assert half.dtype == jnp.bfloat16
    assert_allclose(half.astype(jnp.float32), apply(variables, X, POSITION, CENTERS, SHAPES), atol=0.15)
