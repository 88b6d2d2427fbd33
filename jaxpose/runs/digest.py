"""A 64-bit digest of every array of a tree, computed where the arrays are.

The digest depends on values and their positions alone: not on the sharding, the number of devices or processes.
It is a guard against damage (any single flipped bit changes it), not against an adversary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def digests(tree: Any) -> dict[str, str]:
    """{"params/backbone/...": 16 hexadecimal digits} for every leaf of `tree`."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    pairs = jax.device_get({name: _compiled(_mesh(leaf))(leaf) for name, leaf in leaves.items()})
    return {name: f"{int(pair[0]):08x}{int(pair[1]):08x}" for name, pair in pairs.items()}


def combine(parts: dict[str, str]) -> str:
    """One digest of many, for people to compare."""
    text = "".join(f"{name}={parts[name]};" for name in sorted(parts))
    data = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
    pair = np.asarray(_leaf(jnp.asarray(data)))
    return f"{int(pair[0]):08x}{int(pair[1]):08x}"


def path_name(path: tuple) -> str:
    """A key path as "a/b/0"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _mesh(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


@functools.cache
def _compiled(mesh: Any) -> Any:
    return jax.jit(_leaf, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))


def _leaf(x: jax.Array) -> jax.Array:
    """[2] uint32: two sums of bits times position-dependent odd weights, modulo 2**32."""
    bits = _bits(x).reshape(-1)
    position = jax.lax.iota(jnp.uint32, bits.size)
    weights = _mix(position) | 1, _mix(position + jnp.uint32(0x9E3779B9)) | 1
    words = bits, _mix(bits ^ jnp.uint32(0x5BD1E995))
    return jnp.stack([jnp.sum(a * w, dtype=jnp.uint32) for a, w in zip(words, weights, strict=True)])


def _bits(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit over the word."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)
