"""Initial values of parameters, those of PyTorch's layers among them.

Numbers are drawn in chunks of one size and cut to shape on the host, so that a network with hundreds of shapes compiles
two small programs before it can start. Under tracing the same numbers come from the device.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax.core import Tracer

from jaxpose.types import Variables

Initializer = Callable[..., jax.Array]
"""Function (key, shape, dtype=float32) -> array of first values."""


_CHUNK = 1 << 16


def initialize(module: nn.Module, key: jax.Array, *inputs: jax.ShapeDtypeStruct) -> Variables:
    """Fresh variables of a module that takes `inputs`, without running it."""
    return jax.tree.map(jnp.asarray, module.lazy_init(key, *inputs))


@functools.partial(jax.jit, static_argnums=2)
def _chunk(key: jax.Array, index: jax.Array, distribution: str) -> jax.Array:
    key = jax.random.fold_in(key, index)
    if distribution == "normal":
        return jax.random.normal(key, (_CHUNK,))
    return jax.random.uniform(key, (_CHUNK,), minval=-1.0, maxval=1.0)


def _draw(key: jax.Array, shape: tuple[int, ...], dtype: Dtype, distribution: str, scale: float) -> jax.Array:
    """`scale` times standard normal numbers or numbers in (-1, 1)."""
    count = math.prod(shape)
    chunks = np.arange(-(-count // _CHUNK))
    if isinstance(key, Tracer):
        values = jax.vmap(lambda index: _chunk(key, index, distribution))(chunks)
    else:
        values = np.concatenate([_chunk(key, index, distribution) for index in chunks])
    values = values.reshape(-1)[:count].reshape(shape) * np.float32(scale)
    return jnp.asarray(values, dtype)


def _filled(shape: tuple[int, ...], dtype: Dtype, value: float) -> jax.Array:
    return jnp.asarray(np.full(shape, value, dtype))


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """All 0."""
    return _filled(shape, dtype, 0)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """All 1."""
    return _filled(shape, dtype, 1)


def normal(deviation: float) -> Initializer:
    """N(0, deviation^2)."""
    return lambda key, shape, dtype=jnp.float32: _draw(key, shape, dtype, "normal", deviation)


def uniform(bound: float) -> Initializer:
    """U(-bound, bound)."""
    return lambda key, shape, dtype=jnp.float32: _draw(key, shape, dtype, "uniform", bound)


def unit_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """U(0, 1)."""
    return _draw(key, shape, dtype, "uniform", 0.5) + 0.5


def kaiming_normal(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """N(0, 2 / fan out) for a convolution kernel [h, w, in, out] under ReLU."""
    return _draw(key, shape, dtype, "normal", math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """U(+-sqrt(6 / (in + out))) for a matrix [in, out]."""
    return _draw(key, shape, dtype, "uniform", math.sqrt(6 / (shape[0] + shape[-1])))


def xavier_fused(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """`xavier_uniform` of queries, keys and values taken as one matrix [in, 3 * out], of which this is a third."""
    return _draw(key, shape, dtype, "uniform", math.sqrt(6 / (shape[0] + 3 * shape[-1])))


def torch_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """U(+-1 / sqrt(fan in)), PyTorch's default for the kernels [..., in, out] of linear layers and convolutions."""
    return _draw(key, shape, dtype, "uniform", 1 / math.sqrt(math.prod(shape[:-1])))


def torch_bias(fan_in: int) -> Initializer:
    """U(+-1 / sqrt(fan in)), PyTorch's default for biases."""
    return uniform(1 / math.sqrt(fan_in))
