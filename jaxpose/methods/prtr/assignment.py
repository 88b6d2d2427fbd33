"""One-to-one assignment and the set-prediction losses built on it (DETR, PRTR)."""

import jax
import jax.numpy as jnp
import optax

from jaxpose.ops.arrays import LARGEST
from jaxpose.ops.parallel import per_device

_UNUSABLE = 1e6


def assign(cost: jax.Array) -> jax.Array:
    """Columns for rows such that no column serves two rows and the summed cost is minimal.

    Batched over the leading axes, of which the last is split over devices; static in shape, without gradient. With
    fewer columns than rows some rows go without. Of several optimal assignments any may come out. Entries that are not
    finite count as 1e6, so that a diverged network gives some assignment instead of an endless search.

    Args:
      cost: [..., rows, columns] costs.

    Returns:
      [..., rows] int32 column of each row, -1 for a row without one.
    """
    cost = jax.lax.stop_gradient(cost).astype(jnp.float32)
    cost = jnp.where(jnp.abs(cost) <= LARGEST, cost, _UNUSABLE)
    rows = cost.shape[-2]

    def solve(problem: jax.Array) -> jax.Array:
        row, column = optax.assignment.hungarian_algorithm(problem)
        return jnp.full(rows, -1, jnp.int32).at[row].set(column.astype(jnp.int32))

    for _ in cost.shape[:-2]:
        solve = jax.vmap(solve)
    return per_device(solve, cost.ndim - 3)(cost) if cost.ndim > 2 else solve(cost)


def take_assigned(values: jax.Array, columns: jax.Array) -> jax.Array:
    """The rows of `values` [..., Q, C] that `columns` [..., K] names: [..., K, C]."""
    return jnp.take_along_axis(values, columns[..., None], axis=-2)


def assigned_classes(columns: jax.Array, queries: int) -> jax.Array:
    """The class of every query: the row it was assigned to, or the number of rows (nothing).

    Args:
      columns: [..., K] query of each row.
      queries: number Q of queries.

    Returns:
      [..., Q] int32 classes.
    """
    rows = columns.shape[-1]
    chosen = columns[..., :, None] == jnp.arange(queries)
    return jnp.where(chosen.any(-2), chosen.argmax(-2), rows).astype(jnp.int32)


def weighted_cross_entropy(
    logits: jax.Array, classes: jax.Array, weights: jax.Array, rows: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of [..., N, Q, C] logits, averaged over N and Q with a weight per class.

    Args:
      logits: [..., N, Q, C] logits of the classes.
      classes: [..., N, Q] int, the true classes.
      weights: [C] weights of the classes; the sum is divided by the summed weights of the true classes, not by their
        number.
      rows: [N] weights of the rows, 0 for those that do not count; None for 1 everywhere.

    Returns:
      [...] losses; 0 where nothing has a weight.
    """
    weight = weights[classes] if rows is None else weights[classes] * rows[:, None]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    total = weight.sum((-1, -2))
    return (weight * loss).sum((-1, -2)) / jnp.where(total > 0, total, 1)
