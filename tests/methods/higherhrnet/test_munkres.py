"""Munkres' algorithm against a plain loop in float64, on costs full of ties."""

import hypothesis.strategies as st
import jax
import naive_grouping
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from jaxpose.methods.higherhrnet import munkres as ops
from jaxpose.methods.higherhrnet.munkres import munkres, to_digits

SIZE, BATCH, UNIT, DUMMY = 8, 4, 2.0**-40, 1e10

solve = jax.jit(jax.vmap(munkres))
add, subtract = jax.jit(ops._add), jax.jit(ops._subtract)


def problem(rng, rows, people, values):
    """Costs as grouping has them: hundreds less a value, and dummy columns for rows without a person."""
    cost = 100.0 * rng.integers(0, 4, (rows, people)) - rng.choice(values, (rows, 1))
    return np.concatenate([cost, np.full((rows, max(rows - people, 0)), DUMMY)], 1)


def solved(costs, size, unit, digits):
    square = np.zeros((len(costs), size, size))
    for i, cost in enumerate(costs):
        square[i, : cost.shape[0], : cost.shape[1]] = cost
    rows, columns = (np.array([cost.shape[axis] for cost in costs]) for axis in (0, 1))
    return np.asarray(solve(to_digits(square, unit, digits), rows, columns))


def assert_solved(costs, size=SIZE, unit=UNIT, digits=3):
    for cost, columns in zip(costs, solved(costs, size, unit, digits)):
        square = max(cost.shape)
        assert columns[:square].tolist() == naive_grouping.munkres(cost)
        assert (columns[square:] == -1).all()


counts = st.lists(st.tuples(st.integers(1, SIZE), st.integers(0, SIZE)), min_size=BATCH, max_size=BATCH)
NEAR = 0.5 + np.arange(5) * 2.0**-21  # 1e10 less such values coincides in float64, for some of them
VALUES = st.sampled_from(
    [np.zeros(1), np.array([0.25, 0.5]), NEAR, np.float32(np.linspace(0.1, 0.9, 13)).astype(float)]
)


@settings(max_examples=150, deadline=None)
@given(counts, VALUES, st.integers(0, 2**32 - 1))
def test_equals_a_plain_loop(counts, values, seed):
    rng = np.random.default_rng(seed)
    assert_solved([problem(rng, rows, people, values) for rows, people in counts])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_a_plain_loop_on_any_costs(seed):
    """Tall, wide, negative and without ties; tall ones get columns of zeros."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, SIZE + 1, (BATCH, 2))
    assert_solved([rng.normal(0, 100, shape).astype(np.float32).astype(float) for shape in shapes])


def test_thirty_rows_in_two_digits():
    rng = np.random.default_rng(0)
    shapes = [(30, 30), (30, 24), (30, 3), (17, 30)]
    assert_solved([problem(rng, *shape, np.arange(1, 9) / 8) for shape in shapes], size=30, unit=2.0**-19, digits=2)


def test_rows_and_columns_are_used_once_at_the_least_cost():
    costs = [np.random.default_rng(i).integers(0, 50, (6, 6)).astype(float) for i in range(BATCH)]
    scipy = pytest.importorskip("scipy.optimize")
    for cost, columns in zip(costs, solved(costs, SIZE, UNIT, 3)):
        assert sorted(columns[:6]) == list(range(6))
        assert cost[np.arange(6), columns[:6]].sum() == cost[scipy.linear_sum_assignment(cost)].sum()


def test_nothing_to_assign():
    assert (solved([np.zeros((0, 0))] * BATCH, SIZE, UNIT, 3) == -1).all()
    assert (solved([np.zeros((0, 3))] * BATCH, SIZE, UNIT, 3)[:, :4] == [0, 1, 2, -1]).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 2**52), min_size=8, max_size=8),
    st.lists(st.integers(0, 2**57), min_size=8, max_size=8),
)
def test_digits_are_rounded_like_float64(small, large):
    """Sums and differences of whole numbers, of which float64 has but the first 53 bits."""
    small, large = np.array(small, np.float64), np.array(large, np.float64)
    a, b = to_digits(large, 1, 3), to_digits(small, 1, 3)
    for result, exact in ((add(a, b), large + small), (subtract(a, b), np.maximum(large - small, 0))):
        expected = to_digits(exact, 1, 3)
        for digit, right in zip(result, expected):
            assert_array_equal(np.where(large >= small, digit, right), right)


def test_costs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"below .* in size, found 1e\+19"):
        to_digits(np.array([[1e19]]), 2.0**3, 2)
    with pytest.raises(ValueError, match="have to be finite"):
        to_digits(np.array([[np.nan]]), 1, 2)
