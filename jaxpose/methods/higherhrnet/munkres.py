"""One-to-one assignment by Munkres' algorithm, with the scanning order that decides among equally cheap ones.

Most algorithms give any optimal assignment. Where costs tie, as rounded ones do, results of a method depend on which
one: grouping by tags (`methods.higherhrnet.grouping`) is defined by the order in which the classic algorithm looks at
zeros. That order, and the rounding of float64, in which it was published, are kept here to the last bit; device
arithmetic is in int32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array

DIGIT_BITS = 28
"""Bits of a digit of `Digits`."""
_DIGIT = 1 << DIGIT_BITS
_FLOAT64_BITS = 53
_LARGEST = np.iinfo(np.int32).max

Digits = tuple[Array, ...]
"""Whole numbers in base 2^28: int32 arrays of one shape, the most significant digit first.

The first digit has the sign, the others are in [0, 2^28). What a number counts, the unit, is the caller's affair.
"""


def to_digits(values: np.ndarray, unit: float, count: int) -> Digits:
    """`values` as multiples of `unit`, a power of two, in `count` digits; on the host, in float64.

    Raises:
      ValueError: a value that does not fit, or is not finite.
    """
    values = np.asarray(values, np.float64)
    rest = values / unit
    limit = 2.0 ** (DIGIT_BITS * (count - 1) + 30)
    if not np.all(np.abs(rest) < limit):
        raise ValueError(f"costs have to be finite and below {limit * unit:g} in size, found {np.max(np.abs(values))}")
    digits = []
    for power in range(count - 1, 0, -1):
        digit = np.floor(rest / 2.0 ** (DIGIT_BITS * power))
        rest = rest - digit * 2.0 ** (DIGIT_BITS * power)
        digits.append(digit)
    whole = normalize(tuple(d.astype(np.int64) for d in (*digits, np.round(rest))))
    return tuple(digit.astype(np.int32) for digit in whole)


def normalize(digits: Digits) -> Digits:
    """Digits of which the part of the lower ones outside [0, 2^28) is carried to the next one."""
    carry, result = 0, []
    for digit in digits[:0:-1]:
        digit = digit + carry
        result.append(digit & (_DIGIT - 1))
        carry = digit >> DIGIT_BITS
    return (digits[0] + carry, *result[::-1])


class _Search(NamedTuple):
    """The state of one problem.

    Attributes:
      cost: digits [N, N] of the costs, reduced so far.
      zeros: [N, N] bool, the costs that are 0.
      star: [N] column of the star of each row, -1 for none.
      prime: [N] column of the prime of each row.
      covered_row: [N] bool, the rows that are covered.
      covered_column: [N] bool, the columns that are covered.
      path: [N, N] bool; row r holds the rows whose stars move onto their primes if r's prime ends the search.
      origin: [2] row and column at which the scan for a zero starts.
    """

    cost: Digits
    zeros: jax.Array
    star: jax.Array
    prime: jax.Array
    covered_row: jax.Array
    covered_column: jax.Array
    path: jax.Array
    origin: jax.Array


def munkres(cost: Digits, rows: Array, columns: Array) -> jax.Array:
    """Columns for rows such that the summed cost is minimal, as the classic algorithm finds them.

    A matrix that is not square is filled up with zeros. Then, in float64:
      1. Each row loses its minimum. Row by row, the first zero in a column without a star gets one.
      2. Columns with stars are covered. When all are, the stars are the assignment.
      3. Uncovered zeros are looked for, row by row from the row of the origin on, in turn; of the first row with any,
         the last one counts, beginning at the origin's column. It is primed. If its row has a star, the row is covered,
         the star's column uncovered, and the star's place is the next origin. If not, stars and primes along the
         alternating path from it change places, and step 2 follows, with the origin in the corner.
      4. Without an uncovered zero, the smallest uncovered cost is added to covered rows and subtracted from uncovered
         columns, and the origin returns to the corner.

    Batch it with `jax.vmap`: a search lasts as long as the longest of the batch. On a CPU `jax.lax.map` is faster.

    Args:
      cost: digits [N, N] of the costs. Results are exactly those of float64 while costs fit the digits; the search may
        add the largest of them to others up to N times.
      rows, columns: number of rows and of columns, N at most.

    Returns:
      [N] int32 column of each row; for a row that was filled up, the column that is left to it; -1 beyond the square.
    """
    count = cost[0].shape[0]
    index = jnp.arange(count, dtype=jnp.int32)
    size = jnp.maximum(rows, columns)
    given = (index < rows)[:, None] & (index < columns)
    active = (index < size)[:, None] & (index < size)
    cost = tuple(jnp.where(given, digit, 0) for digit in cost)
    least, _ = _minimum(cost, active, axis=1)
    cost = _subtract(cost, tuple(jnp.where(active, digit, 0) for digit in least))
    zeros = active & _is_zero(cost)
    star = _first_stars(zeros, rows, index)
    state = _Search(
        cost=cost,
        zeros=zeros,
        star=star,
        prime=jnp.full(count, -1, jnp.int32),
        covered_row=jnp.zeros(count, bool),
        covered_column=_have_star(star),
        path=jnp.zeros((count, count), bool),
        origin=jnp.zeros(2, jnp.int32),
    )
    unfinished = lambda state: jnp.any((state.star < 0) & (index < size))  # noqa: E731
    return jax.lax.while_loop(unfinished, functools.partial(_prime_next, size=size), state).star


def _prime_next(state: _Search, size: jax.Array) -> _Search:
    """Steps 3 and 4: the next uncovered zero primed, if need be after lowering costs, and followed up."""
    turn = _next_turn(state, size)
    cost, zeros, origin, turn = jax.lax.cond(
        turn < _LARGEST, lambda: (state.cost, state.zeros, state.origin, turn), lambda: _lower(state, size)
    )
    state = state._replace(cost=cost, zeros=zeros, origin=origin)
    count = len(state.star)
    row, column = _wrap(turn // count + state.origin[0], size), _wrap(count - 1 - turn % count + state.origin[1], size)
    owner = _index_of(state.star == column)
    path = jnp.where(owner < 0, False, state.path[owner]).at[row].set(True)
    state = state._replace(prime=state.prime.at[row].set(column), path=state.path.at[row].set(path))
    star, covered_row, covered_column, origin = jax.lax.cond(
        state.star[row] < 0, lambda: _move_stars(state, path), lambda: _cover(state, row)
    )
    return state._replace(star=star, covered_row=covered_row, covered_column=covered_column, origin=origin)


def _cover(state: _Search, row: jax.Array) -> tuple[jax.Array, ...]:
    """Covers the row of a new prime instead of the column of its star: star, covered rows and columns, origin."""
    column = state.star[row]
    covered_row, covered_column = state.covered_row.at[row].set(True), state.covered_column.at[column].set(False)
    return state.star, covered_row, covered_column, jnp.stack([row, column])


def _move_stars(state: _Search, path: jax.Array) -> tuple[jax.Array, ...]:
    """Puts the stars of the rows on a path onto their primes, and begins anew at step 2; results as above."""
    star = jnp.where(path, state.prime, state.star)
    return star, jnp.zeros_like(state.covered_row), _have_star(star), jnp.zeros_like(state.origin)


def _lower(state: _Search, size: jax.Array) -> tuple[Digits, jax.Array, jax.Array, jax.Array]:
    """Step 4: cost, zeros, origin, and the turn of the zero that comes next."""
    index = jnp.arange(len(state.star))
    active = (index < size)[:, None] & (index < size)
    least, _ = _minimum(state.cost, active & ~state.covered_row[:, None] & ~state.covered_column)
    cost = _add(state.cost, tuple(jnp.where(state.covered_row[:, None], digit, 0) for digit in least))
    cost = _subtract(cost, tuple(jnp.where(state.covered_column, 0, digit) for digit in least))
    state = state._replace(cost=cost, zeros=active & _is_zero(cost), origin=jnp.zeros_like(state.origin))
    return state.cost, state.zeros, state.origin, _next_turn(state, size)


def _next_turn(state: _Search, size: jax.Array) -> jax.Array:
    """Turn of the uncovered zero that the scan takes: rows after the origin, times N, plus columns to the scan's end.

    The scan takes the first row with any, and the last zero of that row. The largest int32 stands for none.
    """
    count = len(state.star)
    row, column = (_wrap(jnp.arange(count) - start + size, size) for start in state.origin)
    turn = row[:, None] * count + (count - 1 - column)
    uncovered = state.zeros & ~state.covered_row[:, None] & ~state.covered_column
    return jnp.min(jnp.where(uncovered, turn, _LARGEST))


def _wrap(place: jax.Array, size: jax.Array) -> jax.Array:
    """Places up to twice the size, counted on from 0 where they exceed it."""
    return jnp.where(place >= size, place - size, place)


def _have_star(star: jax.Array) -> jax.Array:
    """[N] bool, columns with a star."""
    return jnp.any(star[:, None] == jnp.arange(len(star)), axis=0)


def _index_of(mask: jax.Array) -> jax.Array:
    """Index of the one entry [N] that is true; -1 for none."""
    return jnp.max(jnp.where(mask, jnp.arange(len(mask), dtype=jnp.int32), -1))


def _first_stars(zeros: jax.Array, rows: Array, index: jax.Array) -> jax.Array:
    """Row by row the first zero in a column that no row above has taken; [N] columns, -1 for none.

    All rows choose at once, again and again until nothing changes; one row more is right after each round. Rows beyond
    `rows` hold nothing but zeros and take what is left in order.
    """
    given = index < rows

    def choose(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, chosen = state
        first_taker = jnp.min(jnp.where(chosen[:, None] == index, index[:, None], _LARGEST), axis=0)
        free = zeros & given[:, None] & (first_taker >= index[:, None])
        return chosen, jnp.where(jnp.any(free, axis=1), jnp.argmax(free, axis=1).astype(jnp.int32), -1)

    start = (jnp.full_like(index, -2), jnp.full_like(index, -1))
    _, chosen = jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), choose, start)
    left = jnp.any(zeros, axis=0) & ~_have_star(chosen)
    place = jnp.cumsum(left) - 1
    filled = zeros & left & (place == (index - rows)[:, None])
    rest = jnp.where(jnp.any(filled, axis=1), jnp.argmax(filled, axis=1).astype(jnp.int32), -1)
    return jnp.where(given, chosen, rest)


# --- whole numbers in digits ---


def _minimum(digits: Digits, mask: jax.Array, axis: int | None = None) -> tuple[Digits, jax.Array]:
    """The smallest number where `mask`, dimensions kept, and a mask of its places."""
    least = []
    for digit in digits:
        smallest = jnp.min(jnp.where(mask, digit, _LARGEST), axis=axis, keepdims=True)
        mask = mask & (digit == smallest)
        least.append(smallest)
    return tuple(least), mask


def _is_zero(digits: Digits) -> jax.Array:
    return functools.reduce(jnp.logical_and, [digit == 0 for digit in digits])


def _add(a: Digits, b: Digits) -> Digits:
    return _round(normalize(tuple(x + y for x, y in zip(a, b, strict=True))))


def _subtract(a: Digits, b: Digits) -> Digits:
    return _round(normalize(tuple(x - y for x, y in zip(a, b, strict=True))))


def _round(digits: Digits) -> Digits:
    """The nearest number, not negative, of 53 significant bits; halfway between two, the even one, as in float64."""
    bits = jnp.zeros_like(digits[0])
    for place, digit in enumerate(reversed(digits)):
        length = 32 - jax.lax.clz(digit) + DIGIT_BITS * place
        bits = jnp.where(digit > 0, length, bits)
    excess = jnp.clip(bits - _FLOAT64_BITS, 0, DIGIT_BITS - 1)
    *upper, last = digits
    odd = (last >> excess) & 1
    nudge = jnp.where(excess > 0, (1 << excess) // 2 - 1 + odd, 0)
    return normalize((*upper, ((last + nudge) >> excess) << excess))
