"""Where bilinear interpolation has two derivatives: at whole pixels, where an original and the library may take either.

A sum of derivatives over places is then known up to the choice of a side at each place on a whole pixel, and a check
looks for the choice that makes both equal. Where no place is whole nothing is let through.
"""

import itertools

import numpy as np

WHOLE = 2e-5
"""Pixels from a whole number within which rounding of float32 decides the side."""
FEW = 6
"""Number of places whose sides are tried one by one; with more, sums may differ by as much as all of them together."""


def kinks(images: np.ndarray, points: np.ndarray, cotangent: np.ndarray, border: bool = False) -> np.ndarray:
    """Derivatives of sum(cotangent * interpolated images) towards the next pixel less those towards the one before.

    Args:
      images: [B, H, W, C] images.
      points: [B, N, 2] places (x, y) in pixel indices.
      cotangent: [B, N, C] weights of the interpolated values.
      border: True for places outside that read the nearest pixel, False for zeros outside.

    Returns:
      [B, N, 2] differences by x and y, 0 where the coordinate is not whole.
    """
    images, points, cotangent = (np.asarray(a, np.float64) for a in (images, points, cotangent))
    whole = np.abs(points - np.round(points)) < WHOLE
    near, found = np.where(whole, np.round(points), points), np.zeros(points.shape)
    for axis in (0, 1):
        before, here, after = (_read(images, near + move * np.eye(2)[axis], border) for move in (-1, 0, 1))
        bend = np.sum((after - 2 * here + before) * cotangent, -1)
        found[..., axis] = np.where(whole[..., axis], bend, 0)
    return found


def _read(images: np.ndarray, points: np.ndarray, border: bool) -> np.ndarray:
    """Interpolated values [B, N, C] in float64."""
    height, width = images.shape[1:3]
    if border:
        points = np.clip(points, 0, np.array([width - 1, height - 1]))
    low = np.floor(points).astype(int)
    share, rows = points - low, np.arange(len(images))[:, None]
    total = np.zeros((*points.shape[:2], images.shape[3]))
    for i, j in itertools.product((0, 1), repeat=2):
        x, y = low[..., 0] + j, low[..., 1] + i
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        weight = (share[..., 0] if j else 1 - share[..., 0]) * (share[..., 1] if i else 1 - share[..., 1])
        values = images[rows, np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        total += np.where(inside, weight, 0)[..., None] * values
    return total


def assert_equal_but_for_sides(ours, expected, steps: np.ndarray, rtol: float, atol: float, err_msg: str = "") -> None:
    """Asserts that two sums of derivatives are close, but for the sides of places on whole pixels.

    Args:
      ours, expected: [...] sums of derivatives.
      steps: [N, ...] by how much each place's other side changes the sum; 0 where there is no other.
      rtol, atol: as for `numpy.testing.assert_allclose`.
      err_msg: text before the message.
    """
    ours, expected = (np.asarray(a, np.float64) for a in (ours, expected))
    steps = steps[np.abs(steps).reshape(len(steps), -1).max(1, initial=0) > 0]
    limit, rest = atol + rtol * np.abs(expected), expected - ours
    assert np.isfinite(rest).all(), f"{err_msg}: not finite"
    if len(steps) > FEW:
        excess = np.max(np.abs(rest) - np.abs(steps).sum(0) - limit)
    else:
        choices = itertools.product((0, -1, 1), repeat=len(steps))
        excess = min(float(np.max(np.abs(rest - _sum(steps, signs)) - limit)) for signs in choices)
    assert excess <= 0, f"{err_msg}: {ours} is not {expected}, whatever the side of {len(steps)} places on whole pixels"


def _sum(steps: np.ndarray, signs: tuple[int, ...]) -> np.ndarray:
    return np.tensordot(np.array(signs, np.float64), steps, 1) if signs else np.zeros(steps.shape[1:])
