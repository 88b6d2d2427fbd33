"""Differentiable spatial to numerical transform (Nibali et al., arXiv 1801.07372): coordinates from heatmaps.

Maps are [..., *spatial, K] with one, two or three spatial axes; a shape lists them as the array does, (depth, height,
width). Points are [..., K, D] in the opposite order (x, y, z), and so is a size, (width, height, depth).

Normalized coordinates put the outer edges of a map at -1 and 1. The centre of cell i of n is (2 i + 1) / n - 1, so a
position does not depend on the resolution of the map, and an expectation never reaches the edges: a joint within half a
cell of the border is drawn inwards.

Everything is computed in float32, whatever the precision of the input.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops.arrays import EXACT
from jaxpose.ops.heatmaps import maxima
from jaxpose.types import Array

_LOG_EPS = 1e-24
"""Added inside logarithms and to the sum of a Gaussian; float16 cannot hold it."""
_SUM_EPS = 1e-12
"""Added to the sum by which a rectified map is divided."""


def _spatial(ndim: int) -> tuple[int, ...]:
    """The spatial axes, counted from the end."""
    return tuple(range(-1 - ndim, -1))


def _float32(x: Array) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def _absolute(x: jax.Array) -> jax.Array:
    """|x| with the gradient 0 at 0."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _divide_by_sum(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    """x / (sum of x over axes + eps), whose derivative stays finite where everything underflows."""
    return x / (x.sum(axes, keepdims=True) + eps)


@_divide_by_sum.defjvp
def _divide_by_sum_jvp(axes, eps, primals, tangents):
    (x,), (dx,) = primals, tangents
    total = x.sum(axes, keepdims=True) + eps
    out = x / total
    return out, dx / total - out * (dx.sum(axes, keepdims=True) / total)


# --- coordinates ---


def cell_centers(count: int) -> jax.Array:
    """Normalized coordinates [count] of the centres of `count` cells between -1 and 1."""
    return jnp.asarray((2 * np.arange(count) + 1) / count - 1, jnp.float32)


def normalized_to_pixel(points: Array, size: Sequence[int]) -> jax.Array:
    """Normalized points [..., D] as pixel indices; `size` is (width, height[, depth])."""
    return ((_float32(points) + 1) * jnp.asarray(size, jnp.float32) - 1) / 2


def pixel_to_normalized(points: Array, size: Sequence[int]) -> jax.Array:
    """Pixel indices [..., D] as normalized points, the inverse of `normalized_to_pixel`."""
    return (2 * _float32(points) + 1) / jnp.asarray(size, jnp.float32) - 1


# --- rectifiers: from logits to maps that sum to one ---


def flat_softmax(logits: Array, ndim: int = 2) -> jax.Array:
    """Softmax over all spatial axes together.

    Args:
      logits: [..., *spatial, K] unbounded logits: a normalization or activation before this keeps maps from getting
        sharp.
      ndim: number of spatial axes.

    Returns:
      [..., *spatial, K] maps, each with the sum 1.

    Examples:
      >>> maps = flat_softmax(jnp.zeros((2, 4, 1)))  # one map with 2 rows of 4 cells
      >>> maps[..., 0].tolist()
      [[0.125, 0.125, 0.125, 0.125], [0.125, 0.125, 0.125, 0.125]]
    """
    return jax.nn.softmax(_float32(logits), axis=_spatial(ndim))


def thresholded_softmax(logits: Array, ndim: int = 2, threshold: float = -0.5) -> jax.Array:
    """`flat_softmax` with cells below `threshold` set to 0; a map that is entirely below becomes all 0.

    The gradient is that of a softmax with this output, so that none reaches the cells below the threshold.
    """
    return _thresholded(logits, ndim, threshold)


def _thresholded_value(logits: Array, ndim: int, threshold: float) -> jax.Array:
    logits, axes = _float32(logits), _spatial(ndim)
    weights = jnp.exp(logits - logits.max(axes, keepdims=True)) * (logits >= threshold)
    return weights / (weights.sum(axes, keepdims=True) + _SUM_EPS)


def _thresholded_forward(logits, ndim, threshold):
    out = _thresholded(logits, ndim, threshold)
    return out, (out, jnp.zeros((), logits.dtype))


def _thresholded_backward(ndim, threshold, residuals, cotangent):
    out, like = residuals
    gradient = out * (cotangent - (cotangent * out).sum(_spatial(ndim), keepdims=True))
    return (gradient.astype(like.dtype),)


_thresholded = jax.custom_vjp(_thresholded_value, nondiff_argnums=(1, 2))
_thresholded.defvjp(_thresholded_forward, _thresholded_backward)


def _rectified(function: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def rectifier(logits: Array, ndim: int = 2) -> jax.Array:
        return _divide_by_sum(function(_float32(logits)), _spatial(ndim), _SUM_EPS)

    return rectifier


RECTIFIERS: dict[str, Callable[..., jax.Array]] = {
    "softmax": flat_softmax,
    "thresholded_softmax": thresholded_softmax,
    "abs": _rectified(_absolute),
    "relu": _rectified(jax.nn.relu),
    "sigmoid": _rectified(jax.nn.sigmoid),
}
"""Functions (logits, ndim) -> maps of the paper's ablation, which make non-negative maps with sum 1."""


# --- from maps to coordinates ---


def _marginals(heatmaps: jax.Array, ndim: int) -> list[jax.Array]:
    """Sums over all spatial axes but one, [..., n, K] each, in the order x, y, z."""
    axes = _spatial(ndim)
    return [heatmaps.sum(tuple(a for a in axes if a != axis)) for axis in reversed(axes)]


def _expectation(marginal: jax.Array, values: jax.Array) -> jax.Array:
    """[..., K] sum of marginal [..., n, K] times values [n, 1] or [..., n, K], in full float32."""
    return (marginal * values).sum(-2)


def dsnt(heatmaps: Array, ndim: int = 2, normalized: bool = True) -> jax.Array:
    """Expected position of each map: the transform that the paper is named after.

    The transform is linear and does not renormalize: maps must sum to 1. Logits given by mistake yield positions far
    outside the map; `logits_to_points` does both steps, and `require_distributions` finds the mistake.

    Args:
      heatmaps: [..., *spatial, K] maps, each with the sum 1.
      ndim: number of spatial axes.
      normalized: True for positions in (-1, 1), False for pixel indices of the map.

    Returns:
      [..., K, ndim] positions (x, y[, z]).

    Examples:
      >>> heatmaps = np.zeros((3, 4, 1), np.float32)  # one map with 3 rows of 4 cells
      >>> heatmaps[1, 2], heatmaps[1, 3] = 0.5, 0.5
      >>> dsnt(heatmaps).tolist(), dsnt(heatmaps, normalized=False).tolist()
      ([[0.5, 0.0]], [[2.5, 1.0]])
    """

    def values(count: int) -> jax.Array:
        return cell_centers(count) if normalized else jnp.arange(count, dtype=jnp.float32)

    marginals = _marginals(_float32(heatmaps), ndim)
    return jnp.stack([_expectation(m, values(m.shape[-2])[:, None]) for m in marginals], axis=-1)


def logits_to_points(
    logits: Array, ndim: int = 2, normalized: bool = True, rectifier: str = "softmax"
) -> tuple[jax.Array, jax.Array]:
    """Expected positions [..., K, ndim] and the maps [..., *spatial, K] that they come from; see `dsnt`."""
    heatmaps = RECTIFIERS[rectifier](logits, ndim)
    return dsnt(heatmaps, ndim, normalized), heatmaps


def require_distributions(heatmaps: Array, ndim: int = 2, tolerance: float = 1e-3) -> None:
    """Checks maps on the host, outside `jax.jit`.

    Raises:
      ValueError: a map has a negative value or does not sum to 1.
    """
    heatmaps = np.asarray(heatmaps, np.float32)
    total, lowest = heatmaps.sum(_spatial(ndim)), heatmaps.min()
    if lowest < 0 or not (np.abs(total - 1) <= tolerance).all():
        raise ValueError(
            f"heatmaps sum to between {total.min():.4g} and {total.max():.4g} and have the lowest value {lowest:.4g}, "
            "but dsnt needs non-negative maps that sum to 1; make them from logits with flat_softmax"
        )


def sharpen_heatmaps(heatmaps: Array, alpha: float, ndim: int = 2) -> jax.Array:
    """Maps [..., *spatial, K] to the power `alpha`, each divided by its sum."""
    powered = _float32(heatmaps) ** alpha
    return powered / powered.sum(_spatial(ndim), keepdims=True)


def make_gauss(means: Array, shape: Sequence[int], sigma: float, normalize: bool = True) -> jax.Array:
    """Gaussians drawn at cell centres.

    Args:
      means: [..., K, D] centres in normalized coordinates.
      shape: shape of the maps, D numbers in array order ([depth,] height, width).
      sigma: standard deviation in pixels of the map, the same along every axis also where the map is not square.
      normalize: True to divide by the sum (a mean far outside gives zeros), False for a peak of 1 at an exact cell
        centre.

    Returns:
      [..., *shape, K] maps.

    Raises:
      ValueError: `means` and `shape` differ in the number of axes.
    """
    means, ndim = _float32(means), len(shape)
    if means.shape[-1] != ndim:
        raise ValueError(f"means have {means.shape[-1]} coordinates, but a map of shape {tuple(shape)} has {ndim} axes")
    exponent, total = jnp.zeros(()), jnp.ones(())
    for axis, count in enumerate(shape):
        offset = cell_centers(count)[:, None] - means[..., None, :, ndim - 1 - axis]
        profile = -0.5 * jnp.square(offset * (count / (2 * sigma)))
        total = total * jnp.exp(profile).sum(-2)
        others = [a for a in range(-1 - ndim, -1) if a != axis - 1 - ndim]
        exponent = exponent + jnp.expand_dims(profile, others)
    if not normalize:
        return jnp.exp(exponent)
    # In the exponent, because far from a mean the numerator underflows long before the quotient does.
    return jnp.exp(exponent - jnp.expand_dims(jnp.log(total + _LOG_EPS), _spatial(ndim)))


# --- losses ---


def euclidean_losses(actual: Array, target: Array) -> jax.Array:
    """Distances [...] between points [..., D]; the gradient at distance 0 is 0."""
    squared = jnp.square(_float32(actual) - _float32(target)).sum(-1)
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


def l1_losses(actual: Array, target: Array) -> jax.Array:
    """Mean absolute difference [...] of the coordinates of points [..., D]."""
    return _absolute(_float32(actual) - _float32(target)).mean(-1)


def mse_losses(actual: Array, target: Array) -> jax.Array:
    """Mean squared difference [...] of the coordinates of points [..., D]."""
    return jnp.square(_float32(actual) - _float32(target)).mean(-1)


COORDINATE_LOSSES = {"euclidean": euclidean_losses, "l1": l1_losses, "mse": mse_losses}
"""Functions (actual [..., D], target [..., D]) -> losses [...]."""


def _divergence(p: jax.Array, q: jax.Array, ndim: int) -> jax.Array:
    """Kullback-Leibler divergence [..., K] of maps p from maps q."""
    return (p * (jnp.log(p + _LOG_EPS) - jnp.log(q + _LOG_EPS))).sum(_spatial(ndim))


def _with_gauss(heatmaps: Array, means: Array, sigma: float) -> tuple[jax.Array, jax.Array, int]:
    """Maps in float32, the Gaussians that they are compared with, and the number of spatial axes."""
    ndim = np.shape(means)[-1]
    heatmaps = _float32(heatmaps)
    return heatmaps, make_gauss(means, heatmaps.shape[-1 - ndim : -1], sigma), ndim


def kl_reg_losses(heatmaps: Array, means: Array, sigma: float) -> jax.Array:
    """Kullback-Leibler divergence of maps from Gaussians.

    Args:
      heatmaps: [..., *spatial, K] maps, each with the sum 1.
      means: [..., K, D] centres of the Gaussians in normalized coordinates.
      sigma: standard deviation of the Gaussians in pixels of the map.

    Returns:
      [..., K] losses.
    """
    return _divergence(*_with_gauss(heatmaps, means, sigma))


def js_reg_losses(heatmaps: Array, means: Array, sigma: float) -> jax.Array:
    """Jensen-Shannon divergence between maps and Gaussians; arguments as of `kl_reg_losses`."""
    heatmaps, gauss, ndim = _with_gauss(heatmaps, means, sigma)
    middle = (heatmaps + gauss) / 2
    return (_divergence(heatmaps, middle, ndim) + _divergence(gauss, middle, ndim)) / 2


def mse_reg_losses(heatmaps: Array, means: Array, sigma: float) -> jax.Array:
    """Squared difference of maps and Gaussians, summed over pixels; arguments as of `kl_reg_losses`."""
    heatmaps, gauss, ndim = _with_gauss(heatmaps, means, sigma)
    return jnp.square(heatmaps - gauss).sum(_spatial(ndim))


def variances(heatmaps: Array, ndim: int = 2) -> jax.Array:
    """Variance [..., K, ndim] of the position along each axis, in normalized units; maps [..., *spatial, K]."""
    values = []
    for marginal in _marginals(_float32(heatmaps), ndim):
        centers = cell_centers(marginal.shape[-2])[:, None]
        mean = _expectation(marginal, centers)
        values.append(_expectation(marginal, jnp.square(centers - mean[..., None, :])))
    return jnp.stack(values, axis=-1)


def _size(heatmaps: Array, ndim: int) -> jax.Array:
    """[ndim] cells along x, y, z."""
    return jnp.asarray(np.shape(heatmaps)[-1 - ndim : -1][::-1], jnp.float32)


def variance_reg_losses(heatmaps: Array, sigma: float, ndim: int = 2, units: str = "pixels") -> jax.Array:
    """Squared difference of each axis' variance from sigma^2, summed over the axes.

    Args:
      heatmaps: [..., *spatial, K] maps, each with the sum 1.
      sigma: wanted standard deviation in pixels of the map.
      ndim: number of spatial axes.
      units: unit of length of the variances, "pixels", or "normalized" for half a side as in the paper's experiments;
        those values are (2 / n)^4 times as large on a map with n cells along each side and were weighted by 100.

    Returns:
      [..., K] losses.
    """
    to_pixels = jnp.square(_size(heatmaps, ndim) / 2)
    difference = variances(heatmaps, ndim) * to_pixels - sigma**2
    return jnp.square(difference if units == "pixels" else difference / to_pixels).sum(-1)


def average_loss(losses: Array, mask: Array | None = None) -> jax.Array:
    """Mean of losses [...], or with a mask [...] their weighted sum over max(sum of the mask, 1)."""
    losses = _float32(losses)
    if mask is None:
        return losses.mean()
    mask = _float32(mask)
    return (losses * mask).sum() / jnp.maximum(mask.sum(), 1)


# --- confidence ---


def peak_confidence(heatmaps: Array, ndim: int = 2) -> jax.Array:
    """Largest value [..., K] of maps [..., *spatial, K]."""
    return _float32(heatmaps).max(_spatial(ndim))


def variance_confidence(heatmaps: Array, ndim: int = 2) -> jax.Array:
    """Minus the total variance [..., K] in pixels^2 of maps [..., *spatial, K]: at most 0, which is a single cell."""
    return -(variances(heatmaps, ndim) * jnp.square(_size(heatmaps, ndim) / 2)).sum(-1)


def mass_confidence(heatmaps: Array, radius: float = 1.5, ndim: int = 2) -> jax.Array:
    """Share of a map's mass within `radius` pixels of its expected position along every axis.

    Unlike the peak it falls when the expectation lies between two modes, where neither is. A cell that the window cuts
    counts in proportion, so that the value is continuous in the position.

    Args:
      heatmaps: [..., *spatial, K] non-negative maps, each with the sum 1.
      radius: half the side of the window in pixels of the map.
      ndim: number of spatial axes.

    Returns:
      [..., K] confidence in [0, 1].
    """
    mass = _float32(heatmaps)
    position = dsnt(mass, ndim, normalized=False)
    for axis in range(ndim):  # x, y, z: each sum takes away the last spatial axis that is left
        cells = jnp.arange(mass.shape[-2], dtype=jnp.float32)[:, None]
        center = position[..., axis].reshape(*position.shape[:-2], *(1,) * (ndim - axis), position.shape[-2])
        mass = (mass * jnp.clip(radius + 0.5 - jnp.abs(cells - center), 0, 1)).sum(-2)
    return jnp.clip(mass, 0, 1)


# --- heatmap matching, the baseline of the paper's experiments ---


def encode_heatmaps(points: Array, shape: tuple[int, int], sigma: float = 1.0, window: int = 7) -> jax.Array:
    """Target maps: a Gaussian with peak 1 at the cell that is nearest, cut to a square window.

    A position halfway between two cells goes to the even one. A window that lies outside the map leaves it empty.

    Args:
      points: [..., K, 2] joints in normalized coordinates.
      shape: (height, width) of the maps.
      sigma: standard deviation in cells.
      window: side of the window in cells, odd.

    Returns:
      [..., height, width, K] maps.
    """
    center = jnp.round(normalized_to_pixel(points, shape[::-1]))

    def profile(count: int, center: jax.Array) -> jax.Array:
        offset = jnp.arange(count, dtype=jnp.float32)[:, None] - center[..., None, :]
        return jnp.where(jnp.abs(offset) <= window // 2, jnp.exp(-jnp.square(offset / sigma) / 2), 0)

    height, width = shape
    return profile(height, center[..., 1])[..., :, None, :] * profile(width, center[..., 0])[..., None, :, :]


def decode_heatmaps(heatmaps: Array, refine: bool = True) -> tuple[jax.Array, jax.Array]:
    """Position of the largest value, the first of equals; the first cell where no value is positive.

    Args:
      heatmaps: [..., H, W, K] maps.
      refine: True to move a peak that is not on the border by a quarter of a cell towards the larger neighbour on each
        axis.

    Returns:
      The positions [..., K, 2] in normalized coordinates and the peak values [..., K].
    """
    height, width = np.shape(heatmaps)[-3:-1]
    position, peak = maxima(heatmaps)
    if refine:
        position += 0.25 * _slope(_float32(heatmaps), position.astype(jnp.int32))
    return pixel_to_normalized(position, (width, height)), peak


def _slope(heatmaps: jax.Array, pixel: jax.Array) -> jax.Array:
    """Signs [..., K, 2] of right less left and lower less upper neighbour of pixels [..., K, 2]; 0 on the border."""
    height, width, joints = heatmaps.shape[-3:]
    flat = heatmaps.reshape(*heatmaps.shape[:-3], height * width, joints)
    last = jnp.array([width - 1, height - 1])
    x, y = jnp.unstack(jnp.clip(pixel, 1, last - 1), axis=-1)

    def value(column: jax.Array, row: jax.Array) -> jax.Array:
        return jnp.take_along_axis(flat, (row * width + column)[..., None, :], axis=-2)[..., 0, :]

    slope = jnp.stack([value(x + 1, y) - value(x - 1, y), value(x, y + 1) - value(x, y - 1)], axis=-1)
    inside = jnp.all((pixel > 0) & (pixel < last), axis=-1, keepdims=True)
    return jnp.where(inside, jnp.sign(slope), 0)


# --- pooling ---


def _pooling_matrix(source: int, target: int) -> np.ndarray:
    """[target, source] means over the cells floor(i source / target) up to ceil((i + 1) source / target)."""
    matrix = np.zeros((target, source), np.float32)
    for i in range(target):
        start, end = i * source // target, -(-(i + 1) * source // target)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def adaptive_avg_pool(image: Array, shape: tuple[int, int]) -> jax.Array:
    """Means of [..., H, W, C] over windows that cover the image evenly: [..., *shape, C], shape (height, width)."""
    image = _float32(image)
    rows, columns = (_pooling_matrix(n, m) for n, m in zip(image.shape[-3:-1], shape, strict=True))
    return jnp.einsum("hi,...ijc,wj->...hwc", rows, image, columns, precision=EXACT)
