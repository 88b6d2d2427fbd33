"""The training state: all that a run needs to go on exactly as if it had not stopped."""

import dataclasses
from typing import Any

import jax

from jaxpose.types import Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree.

    Attributes:
      step: scalar int32, the number of finished steps. Schedules are functions of it.
      params: nested dict of float32 arrays.
      batch_stats: nested dict of statistics, {} where the network keeps none.
      opt_state: {group: optax state over that group's parameters}.
      ema: exponential moving average of params, or None.

    Examples:
      >>> import jax.numpy as jnp
      >>> state = TrainState(step=jnp.int32(0), params={"w": jnp.ones(2)}, batch_stats={}, opt_state={})
      >>> int(state.replace(step=state.step + 1).step), sorted(state.inference_variables)
      (1, ['batch_stats', 'params'])
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> Variables:
        """What the network is trained with."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def inference_variables(self) -> Variables:
        """What predictions are made with: the averaged parameters where there are some."""
        return {"params": self.params if self.ema is None else self.ema, "batch_stats": self.batch_stats}

    def replace(self, **changes: Any) -> "TrainState":
        return dataclasses.replace(self, **changes)
