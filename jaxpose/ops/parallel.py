"""Loops whose length depends on the data, on several devices."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec


def per_device(function: Callable[[jax.Array], jax.Array], batch_axis: int) -> Callable[[jax.Array], jax.Array]:
    """`function` applied by every device to its own rows, where an abstract mesh is set; else just `function`.

    A `while` loop over a batch that is split over devices would ask all of them after every iteration whether anyone
    needs another one. Rows have to be independent.

    Args:
      function: array -> array, with the batch on the same axis of both.
      batch_axis: which axis that is, from 0. Its size is a multiple of the number of devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    split = PartitionSpec(*[None] * batch_axis, mesh.axis_names)
    return jax.shard_map(function, in_specs=split, out_specs=split, check_vma=False)
