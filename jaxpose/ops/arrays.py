"""One code for NumPy arrays on the host and JAX arrays on the device."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array

EXACT = jax.lax.Precision.HIGHEST
"""Precision of products that make positions: float32 as it is written. A TPU rounds factors to bfloat16 and a GPU to
TF32 unless it is asked for, so whatever takes float32 on purpose, in heads or geometry, asks for it by this name."""

SameArray = TypeVar("SameArray", bound=Array)
"""The kind of array, NumPy's or JAX's, that a function takes and gives back."""


LARGEST = 1e15
"""Largest absolute number that is taken for a position or a score: squares, and sums of many of them, stay finite in
float32. A network whose numbers are larger has diverged like one whose numbers are infinite."""


def fits_float32(values: Any) -> Any:
    """[...] bool, where numbers of any type are finite and stay so in float32, in which networks compute."""
    return namespace(values).abs(values) <= float(np.finfo(np.float32).max)


def namespace(*values: Any) -> Any:
    """`jax.numpy` if one of the values is a JAX array or a tracer, else `numpy`."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np
