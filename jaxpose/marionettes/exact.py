"""Arithmetic that gives the same bits on every machine.

NumPy's `sin`, `exp`, `power`, `@` and `sum` may differ in the last bit from one processor to the next: vector units,
BLAS kernels and C libraries each round in their own order. Everything that reaches a stored picture or annotation is
therefore built from element-wise `+ - * /`, `sqrt` and comparisons, which IEEE 754 fixes exactly, from integer work,
and from uniform random numbers, which are integers in disguise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

DEGREE = 0.017453292519943295
_TWO_OVER_PI = 0.6366197723675814
_HALF_PI_HIGH = 1.5707963267341256  # the leading 33 bits of pi/2: a small multiple of it is exact
_HALF_PI_LOW = 6.077100506506192e-11


def sincos(angle: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of an angle in radians, |angle| < 1e4, to 1e-11 and bit-identical everywhere."""
    angle = np.asarray(angle, np.float64)
    quadrant = np.rint(angle * _TWO_OVER_PI)
    r = (angle - quadrant * _HALF_PI_HIGH) - quadrant * _HALF_PI_LOW
    z = r * r
    sine = z * (1.0 / 6227020800.0) - 1.0 / 39916800.0
    sine = ((((sine * z + 1.0 / 362880.0) * z - 1.0 / 5040.0) * z + 1.0 / 120.0) * z - 1.0 / 6.0) * z * r + r
    cosine = 1.0 / 479001600.0 - z * (1.0 / 87178291200.0)
    cosine = ((((cosine * z - 1.0 / 3628800.0) * z + 1.0 / 40320.0) * z - 1.0 / 720.0) * z + 1.0 / 24.0) * z - 0.5
    cosine = cosine * z + 1.0
    turn = quadrant.astype(np.int64) & 3
    swap = (turn & 1) == 1
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    return np.where(turn >= 2, -sine, sine), np.where((turn == 1) | (turn == 2), -cosine, cosine)


def axis_rotation(axis: int, sine: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] about x (0), y (1) or z (2), right-handed, from sines and cosines [...]."""
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    out = np.zeros((*sine.shape, 3, 3))
    out[..., axis, axis] = 1.0
    out[..., first, first] = cosine
    out[..., second, second] = cosine
    out[..., first, second] = -sine
    out[..., second, first] = sine
    return out


def rot_y(degrees: float) -> np.ndarray:
    """Rotation matrix [3, 3] about y: turns z towards x."""
    return axis_rotation(1, *sincos(degrees * DEGREE))


def rot_z(degrees: float) -> np.ndarray:
    """Rotation matrix [3, 3] about z: turns x towards y."""
    return axis_rotation(2, *sincos(degrees * DEGREE))


def product(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Product of 3x3 matrices [..., 3, 3], broadcasting over leading axes, in a fixed order of operations."""
    for other in others:
        first = (first[..., :, 0:1] * other[..., 0:1, :] + first[..., :, 1:2] * other[..., 1:2, :]) + first[
            ..., :, 2:3
        ] * other[..., 2:3, :]
    return first


def transform(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] times vectors [..., 3], broadcasting over leading axes, in a fixed order of operations."""
    vector = np.asarray(vector)
    return (matrix[..., :, 0] * vector[..., 0:1] + matrix[..., :, 1] * vector[..., 1:2]) + matrix[..., :, 2] * vector[
        ..., 2:3
    ]


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner product over a last axis of 3."""
    return (a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]) + a[..., 2] * b[..., 2]


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] scaled to length one."""
    vector = np.asarray(vector, np.float64)
    return vector / np.sqrt(dot(vector, vector))[..., None]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product over a last axis of 3."""
    a, b = np.broadcast_arrays(a, b)
    x = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    y = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    return np.stack([x, y, a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]], axis=-1)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and 3x^2 - 2x^3 between."""
    x = np.minimum(np.maximum(x, x.dtype.type(0.0)), x.dtype.type(1.0))
    return x * x * (3.0 - 2.0 * x)


class Random:
    """A stream of draws named by integers; only uniform doubles and integers are taken from NumPy's generator."""

    def __init__(self, *name: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(name)))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * float(self.generator.random())

    def array(self, low: float, high: float, *shape: int) -> np.ndarray:
        """An array of floats in [low, high)."""
        return low + (high - low) * self.generator.random(shape)

    def bell(self, *shape: int) -> np.ndarray:
        """Approximately standard normal draws: a sum of six uniforms, so never beyond 4.25."""
        u = self.generator.random((6, *shape))
        return (((u[0] + u[1]) + (u[2] + u[3])) + (u[4] + u[5]) - 3.0) * 1.4142135623730951

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return int(self.generator.integers(low, high))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return float(self.generator.random()) < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.integer(0, len(options))]

    def weighted(self, options: dict[T, float]) -> T:
        """One of the keys, with probability proportional to its value."""
        total = 0.0
        for weight in options.values():
            total += weight
        mark = self.uniform(0.0, total)
        *others, last = options
        for option in others:
            mark -= options[option]
            if mark < 0.0:
                return option
        return last
