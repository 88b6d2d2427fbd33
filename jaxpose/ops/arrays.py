"""One code for NumPy arrays on the host and JAX arrays on the device."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.types import Array

SameArray = TypeVar("SameArray", bound=Array)
"""The kind of array, NumPy's or JAX's, that a function takes and gives back."""


def namespace(*values: Any) -> Any:
    """`jax.numpy` if one of the values is a JAX array or a tracer, else `numpy`."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np
