"""Loops whose length depends on the data, on several devices."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.sharding import PartitionSpec

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def per_device(function: Callable[[_In], _Out], batch_axis: int) -> Callable[[_In], _Out]:
    """`function` applied by every device to its own rows, where an abstract mesh is set; else just `function`.

    A `while` loop over a batch that is split over devices would ask all of them after every iteration whether anyone
    needs another one. Rows have to be independent.

    Args:
      function: function of arrays (a pytree), with the batch on the same axis of what it takes and what it returns.
      batch_axis: number of that axis, from 0. Its size is a multiple of the number of devices.

    Returns:
      The function of the whole batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    split = PartitionSpec(*[None] * batch_axis, mesh.axis_names)
    return jax.shard_map(function, in_specs=split, out_specs=split, check_vma=False)
