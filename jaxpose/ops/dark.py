"""Joints between the cells of a map, by a step of Newton's method on the logarithm of a blurred map.

DARK (Zhang et al., CVPR 2020) takes a map for a Gaussian, whose logarithm is a paraboloid: from the slope and curvature
at the largest cell follows where the top is. There are two readings of it. `refine` is DARK's own. `refine_unbiased` is
that of UDP (Huang et al., CVPR 2020), which later top-down networks, ViTPose among them, use.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array

FLOOR = 1e-10
"""Least value that `refine` takes the logarithm of."""
RANGE = 1e-3, 50.0
"""Least and largest value that `refine_unbiased` takes the logarithm of."""


def sigma_of(cells: int) -> float:
    """The standard deviation in cells that OpenCV gives to a blur of so many cells, if none is asked for."""
    return 0.3 * ((cells - 1) * 0.5 - 1) + 0.8


def blur(maps: Array, cells: int, sigma: float = 0.0, padding: str = "zeros") -> jax.Array:
    """Maps blurred by a Gaussian.

    Args:
      maps: [..., H, W, K] maps.
      cells: odd number of cells that the Gaussian is cut to.
      sigma: standard deviation in cells; that of `sigma_of` if 0.
      padding: values beyond the border, "zeros" or "symmetric" for those within, mirrored.

    Returns:
      [..., H, W, K] float32 maps.
    """
    reach, sigma = cells // 2, sigma or sigma_of(cells)
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (profile / profile.sum()).astype(np.float32).tolist()
    blurred = jnp.asarray(maps, jnp.float32)
    mode = {"zeros": "constant", "symmetric": "symmetric"}[padding]
    for axis in (blurred.ndim - 3, blurred.ndim - 2):
        size = blurred.shape[axis]
        margin = [(reach, reach) if i == axis else (0, 0) for i in range(blurred.ndim)]
        padded = jnp.pad(blurred, margin, mode=mode)
        parts = [jax.lax.slice_in_dim(padded, offset, offset + size, axis=axis) for offset in range(cells)]
        blurred = functools.reduce(jnp.add, [weight * part for weight, part in zip(weights, parts, strict=True)])
    return blurred


def as_high(maps: Array, like: Array) -> jax.Array:
    """Maps [..., H, W, K], each scaled so that its largest value is that of the map in `like`."""
    top, wanted = (jnp.max(jnp.asarray(each), axis=(-3, -2), keepdims=True) for each in (maps, like))
    return jnp.asarray(maps) * wanted / jnp.where(top == 0, 1, top)


def refine(maps: Array, positions: Array) -> jax.Array:
    """Positions moved to the top of the paraboloid, by differences over two cells (DARK).

    Args:
      maps: [..., H, W, K] blurred maps.
      positions: [..., K, 2] largest cells (x, y), whole numbers. Those within two cells of the border stay.

    Returns:
      [..., K, 2] positions in cells.
    """
    height, width = maps.shape[-3:-1]
    x, y = (jnp.asarray(positions[..., axis], jnp.int32) for axis in (0, 1))
    value = _reader(jnp.log(jnp.maximum(maps, FLOOR)), x, y)
    slope = jnp.stack([value(1, 0) - value(-1, 0), value(0, 1) - value(0, -1)], -1) / 2
    middle = 2 * value(0, 0)
    xx, yy = (value(2, 0) - middle + value(-2, 0)) / 4, (value(0, 2) - middle + value(0, -2)) / 4
    xy = (value(1, 1) - value(-1, 1) - value(1, -1) + value(-1, -1)) / 4
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    step = _newton(slope, xx, yy, xy)
    return jnp.asarray(positions) + jnp.where(inside[..., None] & jnp.isfinite(step), step, 0)


def refine_unbiased(maps: Array, positions: Array) -> jax.Array:
    """Positions moved to the top of the paraboloid, by differences of neighbours, everywhere (UDP).

    Args:
      maps: [..., H, W, K] blurred maps. Beyond the border they go on with their last value.
      positions: [..., K, 2] largest cells (x, y), whole numbers.

    Returns:
      [..., K, 2] positions in cells.
    """
    x, y = (jnp.asarray(positions[..., axis], jnp.int32) for axis in (0, 1))
    value = _reader(jnp.log(jnp.clip(maps, *RANGE)), x, y)
    left, right, above, below, middle = value(-1, 0), value(1, 0), value(0, -1), value(0, 1), value(0, 0)
    slope = jnp.stack([right - left, below - above], -1) / 2
    xx, yy = right - 2 * middle + left, below - 2 * middle + above
    xy = (value(1, 1) - right - below + 2 * middle - left - above + value(-1, -1)) / 2
    epsilon = np.finfo(np.float32).eps
    return jnp.asarray(positions) + _newton(slope, xx + epsilon, yy + epsilon, xy)


def _reader(maps: jax.Array, x: jax.Array, y: jax.Array) -> Callable[[int, int], jax.Array]:
    """The function from an offset (dx, dy) to the values [..., K] of the cells (x + dx, y + dy), clamped."""
    height, width, joints = maps.shape[-3:]
    flat = maps.reshape(*maps.shape[:-3], height * width, joints)

    def value(dx: int, dy: int) -> jax.Array:
        cell = jnp.clip(y + dy, 0, height - 1) * width + jnp.clip(x + dx, 0, width - 1)
        return jnp.take_along_axis(flat, cell[..., None, :], axis=-2)[..., 0, :]

    return value


def _newton(slope: jax.Array, xx: jax.Array, yy: jax.Array, xy: jax.Array) -> jax.Array:
    """The step [..., 2] to where the slope vanishes: minus the inverse of [[xx, xy], [xy, yy]] times the slope."""
    determinant = xx * yy - xy * xy
    dx, dy = slope[..., 0], slope[..., 1]
    return jnp.stack([xy * dy - yy * dx, xy * dx - xx * dy], -1) / determinant[..., None]
