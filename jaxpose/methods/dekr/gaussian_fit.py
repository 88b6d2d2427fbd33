"""Least-squares fits of a round Gaussian to small windows of a map, all at once, by Levenberg-Marquardt.

The damping of each window follows how well its last step was foretold (Nielsen, IMM-REP-1999-05), in units of the
largest curvature met so far (Moré 1978), so that a few dozen steps settle all windows of a batch alike.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpose.ops.arrays import EXACT
from jaxpose.types import Array

_DAMPING = 1e-3
_DAMPING_RANGE = (1e-8, 1e8)
_CURVATURE = 1e-12
"""Least curvature, for windows that do not depend on a parameter."""


class _Search(NamedTuple):
    """State of the searches: parameters [..., 4] (height, x, y, sigma) and numbers [...] that steer each search."""

    parameters: jax.Array
    cost: jax.Array
    damping: jax.Array
    growth: jax.Array
    curvature: jax.Array


def gaussian_centers(
    values: Array, points: Array, counted: Array, start: Array, iterations: int = 50
) -> tuple[jax.Array, jax.Array]:
    """Centre c of the Gaussian A exp(-|p - c|^2 / (2 s^2)) that fits each window best; A, c, s are free.

    Args:
      values: [..., M] values of the window's pixels.
      points: [..., M, 2] places (x, y) of the pixels, best from the middle of the window.
      counted: [..., M] bool, False for pixels that are to be left out.
      start: [..., 4] parameters with which the search begins: height A, x and y of the centre, and s.
      iterations: number of steps that are tried.

    Returns:
      The centres [..., 2] (x, y), and a mask [...] of searches that ended at finite numbers.
    """
    values = jnp.where(counted, jnp.asarray(values, jnp.float32), 0)
    pixels = values, jnp.asarray(points, jnp.float32), jnp.asarray(counted, jnp.float32)
    start = jnp.asarray(start, jnp.float32)
    each = jnp.ones(start.shape[:-1])
    search = _Search(start, _cost(start, *pixels), _DAMPING * each, 2 * each, jnp.full_like(start, _CURVATURE))
    search = jax.lax.fori_loop(0, iterations, lambda _, search: _step(search, *pixels), search)
    success = jnp.isfinite(search.cost) & jnp.isfinite(search.parameters).all(-1)
    return search.parameters[..., 1:3], success


def _model(parameters: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The Gaussian [..., M] and its derivatives [..., 4, M] by the parameters."""
    height, center_x, center_y, sigma = jnp.split(parameters, 4, axis=-1)
    x, y = points[..., 0] - center_x, points[..., 1] - center_y
    squared = jnp.square(x) + jnp.square(y)
    shape = jnp.exp(-squared / (2 * jnp.square(sigma)))
    slope = height * shape / jnp.square(sigma)
    return height * shape, jnp.stack([shape, slope * x, slope * y, slope * squared / sigma], axis=-2)


def _cost(parameters: jax.Array, values: jax.Array, points: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(weight * jnp.square(values - _model(parameters, points)[0]), axis=-1)


def _step(search: _Search, values: jax.Array, points: jax.Array, weight: jax.Array) -> _Search:
    """Tries one step of each search; it is taken if it lowers the cost."""
    parameters, cost, damping, growth, curvature = search
    model, jacobian = _model(parameters, points)
    weighted = jacobian * weight[..., None, :]
    normal = jnp.einsum("...im,...jm->...ij", weighted, jacobian, precision=EXACT)
    descent = jnp.einsum("...im,...m->...i", weighted, values - model, precision=EXACT)
    curvature = jnp.maximum(curvature, jnp.diagonal(normal, axis1=-2, axis2=-1))
    extra = damping[..., None] * curvature
    move = jnp.linalg.solve(normal + extra[..., None] * jnp.eye(4), descent[..., None])[..., 0]
    tried_cost = _cost(parameters + move, values, points, weight)
    foretold = jnp.sum(move * (extra * move + descent), axis=-1)
    gain = jnp.clip((cost - tried_cost) / jnp.maximum(foretold, jnp.finfo(jnp.float32).tiny), 0, 1)
    better = tried_cost < cost
    eased = damping * jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
    return _Search(
        jnp.where(better[..., None], parameters + move, parameters),
        jnp.where(better, tried_cost, cost),
        jnp.clip(jnp.where(better, eased, damping * growth), *_DAMPING_RANGE),
        jnp.where(better, 2.0, jnp.minimum(2 * growth, _DAMPING_RANGE[1])),
        curvature,
    )
