"""Max pooling whose gradient is fast on every platform."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def max_pool(x: jax.Array, size: int = 3) -> jax.Array:
    """Maximum of square windows with stride 2; the first largest value of a window receives its gradient.

    Args:
      x: [B, H, W, C] features.
      size: side of the window: 3, with the border padded by one, or 2, without padding and for even H and W.

    Returns:
      [B, ceil(H / 2), ceil(W / 2), C] features.
    """
    views = functools.partial(_strided_max_pool, size=size)
    return jax.lax.platform_dependent(x, cpu=views, default=functools.partial(_max_pool, size=size))


def _max_pool(x: jax.Array, size: int) -> jax.Array:
    """`max_pool` by reduced windows."""
    padding: Any = (_margin(size),) * 2  # Flax declares nothing but names of paddings
    return nn.max_pool(x, (size, size), (2, 2), padding)


def _margin(size: int) -> tuple[int, int]:
    """Padding before and after."""
    return (size - 1) // 2, (size - 1) // 2


def _strided_max_pool(x: jax.Array, size: int) -> jax.Array:
    """`max_pool` as a choice among strided views.

    The gradient of reduced windows takes XLA:CPU several times as long.
    """
    margin = _margin(size)
    rows, columns = (2 * -(-length // 2) - 1 for length in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), margin, margin, (0, 0)), constant_values=-jnp.inf)
    views = [padded[:, i : i + rows : 2, j : j + columns : 2] for i in range(size) for j in range(size)]
    best = views[0]
    for view in views[1:]:
        best = jnp.where(view > best, view, best)
    return best
