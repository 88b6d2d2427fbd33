"""The device mesh, and the arrays that are split over it or copied.

The mesh has two axes. The batch is split over both. Parameters and all that follows them (optimizer state, average)
are copied over "data" and, where a leaf is large enough, split over "fsdp".
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxpose.errors import ConfigError
from jaxpose.types import Batch

BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(config: Any, devices: Any = None) -> Mesh:
    """A ("data", "fsdp") mesh over all devices.

    Args:
      config: `config.sharding` with `fsdp`, the number of devices over which large leaves are split.
      devices: devices of the mesh; None for all.

    Returns:
      The mesh.

    Raises:
      ConfigError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % config.fsdp:
        raise ConfigError(f"config.sharding.fsdp is {config.fsdp}, which does not divide {len(devices)} devices")
    shape = (len(devices) // config.fsdp, config.fsdp)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def check_batch_size(batch_size: int, mesh: Mesh, field: str = "train.batch_size") -> None:
    """Raises ConfigError unless every device gets the same number of examples."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"config.{field} is {batch_size}, not a multiple of the {mesh.size} devices; "
            f"try {mesh.size * max(1, round(batch_size / mesh.size))}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows split over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, mesh: Mesh, min_size: int) -> Any:
    """Shardings that split the largest divisible axis of each leaf over "fsdp", or copy the leaf.

    Args:
      state: pytree of arrays or shapes.
      mesh: mesh from `make_mesh`.
      min_size: number of elements below which a leaf is copied.

    Returns:
      Pytree of shardings.
    """
    parts = mesh.shape["fsdp"]

    def rule(leaf: Any) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n % parts == 0 and n >= parts]
        if parts == 1 or not axes or np.prod(leaf.shape) < min_size:
            return replicated(mesh)
        axis = max(axes, key=lambda i: (leaf.shape[i], i))
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if i == axis else None for i in range(axis + 1))))

    return jax.tree.map(rule, state)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """A global batch from every process's own rows (in order of process index)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
