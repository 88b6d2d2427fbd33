import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment

from jaxpose.methods.prtr.assignment import assign, assigned_classes, take_assigned, weighted_cross_entropy

solve = jax.jit(assign)


@pytest.mark.parametrize("shape", [(3, 3), (3, 7), (6, 4), (1, 5), (17, 40)])
@given(seed=st.integers(0, 2**32 - 1), ties=st.booleans())
@settings(max_examples=25, deadline=None)
def test_cost_is_the_least(shape, seed, ties):
    rng = np.random.default_rng(seed)
    cost = rng.integers(-3, 4, shape) if ties else rng.normal(size=shape)
    cost = cost.astype(np.float32)
    columns = np.asarray(solve(cost))
    rows = np.flatnonzero(columns >= 0)
    assert len(rows) == len(set(columns[rows])) == min(shape)
    assert_allclose(cost[rows, columns[rows]].sum(), cost[linear_sum_assignment(cost)].sum(), atol=1e-4)


def test_leading_axes_are_independent_problems():
    cost = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    columns = solve(cost)
    assert columns.shape == (2, 3, 4)
    assert columns.dtype == jnp.int32
    for layer in range(2):
        for image in range(3):
            assert_array_equal(columns[layer, image], linear_sum_assignment(cost[layer, image])[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_end_the_search(bad):
    cost = np.ones((2, 3, 5), np.float32)
    cost[0] = bad
    columns = np.asarray(solve(cost))
    assert sorted(set(columns[0])) == sorted(columns[0])
    assert (columns >= 0).all()


def test_infinite_cost_forbids_a_pair():
    cost = np.array([[np.inf, 5.0], [0.0, 1.0]], np.float32)
    assert_array_equal(solve(cost), [1, 0])


def test_gradient_passes_by_the_search():
    """Only the chosen values carry gradient; the search itself, a loop of unknown length, must not be entered."""
    cost = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda c: take_assigned(c[..., None], assign(c)[:, None]).sum()))(cost)
    assert_array_equal(gradient, jax.nn.one_hot(assign(cost), 4))


def test_unassigned_queries_get_the_last_class():
    columns = jnp.array([[4, 0], [1, 2]])
    assert_array_equal(assigned_classes(columns, 5), [[1, 2, 2, 2, 0], [2, 0, 1, 2, 2]])


def test_cross_entropy_is_a_weighted_mean():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 5, (2, 3, 4))
    weights = np.array([1.0, 2.0, 0.5, 1.0, 0.1])
    log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = []
    for layer in range(2):
        terms = [
            (weights[c], -weights[c] * p[c])
            for p, c in zip(log_probability[layer].reshape(-1, 5), classes[layer].ravel(), strict=True)
        ]
        expected.append(sum(t for _, t in terms) / sum(w for w, _ in terms))
    ours = functools.partial(weighted_cross_entropy, weights=jnp.asarray(weights))(logits, classes)
    assert_allclose(ours, expected, rtol=1e-5)


def test_rows_that_do_not_count_do_not_change_the_mean():
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(2, 4, 5, 3)), rng.integers(0, 3, (2, 4, 5))
    weights = jnp.array([1.0, 1.0, 0.1])
    some = weighted_cross_entropy(logits, classes, weights, jnp.array([1.0, 0.0, 1.0, 0.0]))
    assert_allclose(some, weighted_cross_entropy(logits[:, ::2], classes[:, ::2], weights), rtol=1e-6)
    assert_array_equal(weighted_cross_entropy(logits, classes, weights, jnp.zeros(4)), 0)
