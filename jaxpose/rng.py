"""Random keys as a function of (seed, step, purpose), so that no generator has to be carried or saved."""

import enum

import jax


class Purpose(enum.IntEnum):
    """Purpose of a key. Phases of a training step count up from LOSS."""

    INIT = 0
    TARGETS = 1
    LOSS = 16


def key(seed: int, step: jax.Array | int, purpose: int) -> jax.Array:
    """The key fold_in(fold_in(key(seed), step), purpose)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), int(purpose))


def example_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Keys [B] by the `index` [B] of the examples in the data set, so that draws don't depend on a batch's order."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
