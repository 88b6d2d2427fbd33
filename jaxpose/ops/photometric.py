"""Random colours and blur of images, batched and on device, as Pillow and torchvision do them on the host.

Images are [B, H, W, 3] RGB in [0, 1], float32. Where the originals round every step to whole grey levels, nothing is
rounded here.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxpose.types import Array

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a pixel (ITU-R 601-2)."""
MOST_BLUR = 1.4
"""Largest radius in pixels: radii below the square root of 2 need no wider filter; see `blur`."""
PASSES = 3
"""Times that the filter of `blur` is applied along each axis."""


@dataclasses.dataclass(frozen=True)
class Strength:
    """Largest changes of images; 0 for no change.

    Attributes:
      brightness, contrast, saturation: largest change c of a factor from U(1 - c, 1 + c), at most 1. Their order is
        random.
      blur: largest radius of U(0, blur) in pixels, at most `MOST_BLUR`.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0

    @property
    def colors(self) -> tuple[float, float, float]:
        """The largest changes of brightness, contrast and saturation."""
        return self.brightness, self.contrast, self.saturation

    @property
    def positive(self) -> bool:
        """True if anything changes."""
        return any((*self.colors, self.blur))


def distort(images: Array, keys: jax.Array, strength: Strength) -> jax.Array:
    """Images with random brightness, contrast and saturation in random order, and then blurred.

    Args:
      images: [B, H, W, 3] images in [0, 1].
      keys: [B] random keys, one for each image, so that the changes of an image do not depend on the others.
      strength: largest change of each kind.

    Returns:
      [B, H, W, 3] images in [0, 1].
    """
    images = jnp.asarray(images)
    if any(strength.colors):
        order, factors = jax.vmap(_draw_colors, (0, None))(keys, jnp.array(strength.colors))
        images = recolor(images, order, factors)
    if strength.blur:
        radius = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 2)))(keys) * strength.blur
        images = blur(images, radius)
    return images


def _draw_colors(key: jax.Array, strengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    order = jax.random.permutation(jax.random.fold_in(key, 0), 3)
    return order, 1 + strengths * jax.random.uniform(jax.random.fold_in(key, 1), (3,), minval=-1)


def recolor(images: Array, order: Array, factors: Array) -> jax.Array:
    """Brightness, contrast and saturation multiplied by factors, one after the other.

    Each moves an image away from another one, or towards it for a factor below 1: brightness from black, contrast from
    the grey of the image's mean luma, saturation from each pixel's luma. What leaves [0, 1] is cut off in between.

    Args:
      images: [B, H, W, 3] images in [0, 1].
      order: [B, 3] permutation of 0 brightness, 1 contrast, 2 saturation: the first is done first.
      factors: [B, 3] factors of brightness, contrast, saturation, whatever the order.

    Returns:
      [B, H, W, 3] images in [0, 1].
    """
    images, order, factors = jnp.asarray(images), jnp.asarray(order), jnp.asarray(factors)
    for place in range(3):
        kind = order[:, place][:, None, None, None]
        factor = jnp.take_along_axis(factors, order[:, place : place + 1], axis=1)[:, :, None, None]
        grey = jnp.sum(images * jnp.array(LUMA), -1, keepdims=True)
        mean = jnp.mean(grey, axis=(1, 2), keepdims=True)
        base = jnp.where(kind == 0, 0.0, jnp.where(kind == 1, mean, grey))
        images = jnp.clip(factor * images + (1 - factor) * base, 0, 1)
    return images


def blur(images: Array, radius: Array) -> jax.Array:
    """Images blurred by Pillow's approximation of a Gaussian: three passes of a small filter along each axis.

    The filter is (a, 1 - 2 a, a) with a = radius^2 / 6, so that all passes together have the variance radius^2. Beyond
    the border an image goes on with its outermost pixels.

    Args:
      images: [B, H, W, 3] images.
      radius: [B] standard deviations in pixels, from 0 to `MOST_BLUR`.

    Returns:
      [B, H, W, 3] images.
    """
    images = jnp.asarray(images)
    side = (jnp.asarray(radius, images.dtype) ** 2 / (2 * PASSES))[:, None, None, None]
    for axis in (2, 1):
        for _ in range(PASSES):
            images = (1 - 2 * side) * images + side * _neighbours(images, axis)
    return images


def _neighbours(images: jax.Array, axis: int) -> jax.Array:
    """Sum of the pixels before and after each along an axis."""
    count = images.shape[axis]
    ends = [(0, 0)] * images.ndim
    ends[axis] = (1, 1)
    padded = jnp.pad(images, ends, mode="edge")
    before, after = (jax.lax.slice_in_dim(padded, start, start + count, axis=axis) for start in (0, 2))
    return before + after
