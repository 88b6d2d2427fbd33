"""Target maps that RegDA makes from a network's own predictions (Jiang et al., CVPR 2021).

A network that is wrong about a joint of an unknown image has mostly found another joint. So the places where a second
network could sensibly disagree with it are few: those of the other joints.
"""

import jax
import jax.numpy as jnp

from jaxpose.ops import heatmaps
from jaxpose.types import Array

WINDOWS = ("square", "disc")
"""Windows to which a Gaussian is cut; see `pseudo_labels`."""
DISC_FLOOR = 0.01
"""Values up to which a Gaussian cut to a disc is 0: a radius of about three deviations."""


def pseudo_labels(maps: Array, sigma: float = 2.0, window: str = "square") -> tuple[jax.Array, jax.Array]:
    """Targets for every joint from a network's maxima, and those from the maxima of all other joints.

    Args:
      maps: [B, H, W, K] maps of the network; no gradient flows into them.
      sigma: standard deviation of the Gaussians, in pixels of the map.
      window: window of the Gaussians. "square" cuts them three deviations from the maximum along each axis, and puts a
        joint at (0, 0) of which no value is above 0; "disc" cuts them where they fall to `DISC_FLOOR` and takes the
        maximum whatever its sign, as the faster script of the original code does.

    Returns:
      The "ground truth" [B, H, W, K], a Gaussian of height 1 at each joint's first maximum, and the "ground false"
      [B, H, W, K], for each joint the sum of the Gaussians of all others, at most 1; it is all 0 with one joint.

    Raises:
      ValueError: another window.
    """
    if window not in WINDOWS:
        raise ValueError(f"unknown window {window!r}; known: {', '.join(WINDOWS)}")
    maps = jax.lax.stop_gradient(jnp.asarray(maps))
    height, width, joints = maps.shape[-3:]
    visible = jnp.ones((*maps.shape[:-3], joints))
    if window == "square":
        positions, _ = heatmaps.maxima(maps)
        truth, _ = heatmaps.gaussian_targets(positions, visible, 1, (width, height), sigma)
    else:
        whole = max(height, width)
        truth, _ = heatmaps.gaussian_targets(_first_maxima(maps), visible, 1, (width, height), sigma, whole)
        truth = jnp.where(truth > DISC_FLOOR, truth, 0)
    others = jnp.sum(truth, axis=-1, keepdims=True) - truth
    return truth, jnp.clip(others, 0, 1)


def _first_maxima(maps: jax.Array) -> jax.Array:
    """Positions [..., K, 2] of the first maxima of [..., H, W, K] in row-major order, whatever their sign."""
    width = maps.shape[-2]
    best = jnp.argmax(maps.reshape(*maps.shape[:-3], -1, maps.shape[-1]), axis=-2)
    return jnp.stack([best % width, best // width], axis=-1).astype(jnp.float32)
