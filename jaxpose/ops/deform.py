"""Deformable convolution (Dai et al., ICCV 2017; modulated: Zhu et al., CVPR 2019)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxpose.ops.sampling import sample
from jaxpose.types import Array


def deform_conv(
    x: Array,
    offsets: Array,
    kernel: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """A convolution whose taps are moved, at every place of the output, by offsets that the network computes.

    Taps read by bilinear interpolation, zeros outside, as torchvision.ops.deform_conv2d does. Channels fall into as
    many groups with offsets of their own as `offsets` holds, and into as many groups with kernels of their own as
    `kernel` leaves room for.

    Tap after tap is read, multiplied and added up, and read again for the gradient: what all taps read together would
    fill T times the memory of the input. `experiments/benchmarks/deform.py` compares this with other ways.

    Args:
      x: [B, H, W, C] features.
      offsets: [B, h, w, G * T * 2] offsets (dy, dx) in pixels, for G offset groups and T = kh * kw taps in row-major
        order.
      kernel: [kh, kw, C / groups, O] weights.
      mask: [B, h, w, G * T] factors of the taps (version 2); None for version 1.
      bias: [O] bias; None for none.
      stride: stride of the regular grid of taps.
      padding: rows and columns of zeros on each side of the input.
      dilation: distance between neighbouring taps of the regular grid.
      precision: precision of products with the kernel; None for the device's own.

    Returns:
      [B, h, w, O] features in the type of `x`. h and w are those of an ordinary convolution.

    Raises:
      ValueError: sizes that do not fit; the message says which.
    """
    placed = _place(x, offsets, kernel, mask, stride, padding, dilation)
    groups = x.shape[3] // kernel.shape[2]
    out = _convolve(x, *jax.tree.map(lambda array: array[None], placed), groups=groups, precision=precision)[0]
    return out if bias is None else out + bias.astype(out.dtype)


def dilated_deform_convs(
    x: Array,
    offsets: Sequence[Array],
    kernels: Sequence[Array],
    masks: Sequence[Array],
    biases: Sequence[Array],
    dilations: Sequence[int],
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Several modulated deformable convolutions of one input, which differ in dilation and keep its size.

    The same as `deform_conv` with padding = dilation for each, but a tap of all of them is read at once.

    Args:
      x: [B, H, W, C] features.
      offsets: offsets [B, H, W, G * T * 2] for each convolution, see `deform_conv`.
      kernels: weights [kh, kw, C / groups, O] for each convolution, of equal shapes.
      masks: factors [B, H, W, G * T] of the taps for each convolution.
      biases: bias [O] for each convolution.
      dilations: dilation of each convolution.
      precision: precision of products with the kernels; None for the device's own.

    Returns:
      [B, H, W, D, O] features of the D convolutions in the type of `x`.

    Raises:
      ValueError: sizes that do not fit; the message says which.
    """
    each = zip(offsets, kernels, masks, dilations, strict=True)
    placed = [_place(x, offset, kernel, mask, 1, dilation, dilation) for offset, kernel, mask, dilation in each]
    groups = x.shape[3] // kernels[0].shape[2]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *placed)
    out = _convolve(x, *stacked, groups=groups, precision=precision)
    out = rearrange(out, "d b h w o -> b h w d o")
    return out + jnp.stack(biases).astype(out.dtype)


def _place(
    x: Array, offsets: Array, kernel: Array, mask: Array | None, stride: int, padding: int, dilation: int
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Positions that the taps read, their factors and kernels; arguments as for `deform_conv`.

    Returns:
      points [T, B * G, h, w, 2] (x, y), factors [T, B * G, h, w, 1] or None, and kernels
      [T, groups, C / groups, O / groups].
    """
    offsets, kernel = jnp.asarray(offsets), jnp.asarray(kernel)
    taps = _regular_taps(x.shape, kernel.shape, stride, padding, dilation)
    height, width, count = taps.shape[:3]
    offset_groups = _offset_groups(x.shape, offsets.shape, mask, taps.shape)
    if x.shape[3] % kernel.shape[2]:
        raise ValueError(f"a kernel for {kernel.shape[2]} channels does not divide the input's {x.shape[3]}")
    shape = (len(x), height, width, offset_groups, count)
    points = jnp.asarray(taps)[:, :, None] + offsets.astype(jnp.float32).reshape(*shape, 2)
    points = rearrange(points[..., ::-1], "b h w g t xy -> t (b g) h w xy")
    factors = None if mask is None else rearrange(jnp.asarray(mask), "b h w (g t) -> t (b g) h w 1", t=count)
    groups = x.shape[3] // kernel.shape[2]
    return points, factors, rearrange(kernel, "i j c (n o) -> (i j) n c o", n=groups).astype(x.dtype)


def _convolve(
    x: Array,
    points: Array,
    factors: Array | None,
    kernels: Array,
    groups: int,
    precision: jax.lax.Precision | None,
) -> jax.Array:
    """D convolutions [D, B, h, w, O] of one input, from what `_place` gives of each, stacked along a first axis."""
    count, outputs = len(points), kernels.shape[-1]
    offset_groups = points.shape[2] // len(x)
    images = rearrange(x, "b h w (g c) -> (b g) h w c", g=offset_groups)
    precise = jnp.promote_types(x.dtype, jnp.float32)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tap(images, points, factors, kernel):
        values = sample(images, points, dense=True)
        if factors is not None:
            values = values * factors.astype(values.dtype)
        values = rearrange(values, "(b g) d h w c -> d b h w (g c)", g=offset_groups)
        values = rearrange(values, "d b h w (n c) -> d b h w n c", n=groups)
        return jnp.einsum("dbhwnc,dnco->dbhwno", values, kernel, precision=precision, preferred_element_type=precise)

    def add(total, of_tap):
        return total + tap(images, *of_tap), None

    by_tap = rearrange(points, "d t i h w xy -> t i d h w xy")
    factors = None if factors is None else rearrange(factors, "d t i h w one -> t i d h w one")
    out = jnp.zeros((count, len(x), *points.shape[3:5], groups, outputs), precise)
    out, _ = jax.lax.scan(add, out, (by_tap, factors, kernels.swapaxes(0, 1)))
    return rearrange(out, "d b h w n o -> d b h w (n o)").astype(x.dtype)


def affine_offsets(transform: Array, translation: Array) -> jax.Array:
    """Offsets for `deform_conv` that send the taps of a 3x3 kernel through an affine map (DEKR, section 3.3).

    Tap g = (gy, gx) in {-1, 0, 1}^2 around a place p comes to read at p + A g + t.

    Args:
      transform: [..., 4] matrices A, row by row, acting on (y, x).
      translation: [..., 2] translations t = (ty, tx) in pixels.

    Returns:
      [..., 18] float32 offsets A g - g + t of each tap in row-major order, as (dy, dx) pairs.
    """
    transform, translation = jnp.asarray(transform, jnp.float32), jnp.asarray(translation, jnp.float32)
    a, b, c, d = (transform[..., i, None] for i in range(4))
    gy, gx = (g.reshape(-1).astype(np.float32) for g in np.mgrid[-1:2, -1:2])
    dy = a * gy + b * gx - gy + translation[..., :1]
    dx = c * gy + d * gx - gx + translation[..., 1:]
    return jnp.stack([dy, dx], -1).reshape(*transform.shape[:-1], 18)


def _regular_taps(
    image: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int, dilation: int
) -> np.ndarray:
    """Rows and columns [h, w, T, 2] (y, x) that an ordinary convolution reads."""
    axes = []
    for size, taps in zip(image[1:3], kernel[:2], strict=True):
        count = (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        axes.append(np.arange(count)[:, None] * stride - padding + np.arange(taps) * dilation)
    rows, columns = np.broadcast_arrays(axes[0][:, None, :, None], axes[1][None, :, None, :])
    return np.stack([rows, columns], -1).reshape(*rows.shape[:2], -1, 2).astype(np.float32)


def _offset_groups(image: tuple[int, ...], offsets: tuple[int, ...], mask: Array | None, taps: tuple[int, ...]) -> int:
    """G, or an error about what does not fit."""
    height, width, count = taps[:3]
    groups, rest = divmod(offsets[3], 2 * count)
    if rest or not groups or image[3] % groups:
        raise ValueError(
            f"offsets hold {offsets[3]} values at a place; {count} taps need a multiple of {2 * count}, "
            f"as many times as groups that {image[3]} channels divide into"
        )
    wanted = (image[0], height, width)
    if offsets[:3] != wanted:
        raise ValueError(f"offsets are for {offsets[:3]} (batch, rows, columns), the output has {wanted}")
    if mask is not None and mask.shape != (*wanted, groups * count):
        raise ValueError(f"the mask has shape {mask.shape}, but it needs {(*wanted, groups * count)}")
    return groups
