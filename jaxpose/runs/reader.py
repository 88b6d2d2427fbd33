"""Opening what a run learned, without changing anything of the run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxpose import methods, sharding
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.methods.base import Method
from jaxpose.runs import run_config
from jaxpose.runs.checkpoint_reader import CheckpointReader
from jaxpose.runs.state import TrainState
from jaxpose.types import Variables


def load_for_inference(
    workdir: str | pathlib.Path, step: int | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[Any, Method, Variables]:
    """What a run learned.

    Args:
      workdir: folder of a run.
      step: step of the checkpoint; the newest good one if None.
      changes: {"method.scales": (0.5, 1.0, 2.0), ...}, fields of the run's config that are to differ now; the log names
        those that do.

    Returns:
      (config, method, variables); the averaged parameters where the run keeps an average.

    Raises:
      CheckpointError: no run or no good checkpoint there.
      ConfigError: a change of a field that there is not, or one that makes another network.
    """
    config = run_config.read(workdir)
    variables = _shapes(methods.create(config.method))
    for field, value in (changes or {}).items():
        run_config.change(config, field, value)
    method = methods.create(config.method)
    if _shapes(method) != variables:
        raise ConfigError(f"{workdir}: config.method now describes another network than the one that was trained there")
    mesh = sharding.make_mesh(ConfigDict({"fsdp": 1}))
    params = "ema" if config.train.ema_decay else "params"
    shape: Any = jax.ShapeDtypeStruct((), np.int32)
    template = TrainState(
        step=shape,
        params=variables["params"] if params == "params" else None,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=None,
        ema=variables["params"] if params == "ema" else None,
    )
    copied = sharding.replicated(mesh)
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copied), template)
    state = CheckpointReader(workdir).restore(template, step)
    if state is None:
        raise CheckpointError(f"{workdir}: has no checkpoint yet")
    return config, method, state.inference_variables


def _shapes(method: Any) -> Any:
    return jax.eval_shape(method.init, jax.random.key(0))
