"""Opening what a run learned, or released weights, without changing anything of them."""

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
from jaxpose.zoo import fetching, opening, table


def load_for_inference(
    workdir: str | pathlib.Path, step: int | None = None, changes: Mapping[str, Any] | None = None, like: str = ""
) -> tuple[Any, Method, Variables]:
    """What a run learned, or the network of released weights.

    Args:
      workdir: folder of a run, file of released weights, or their name in the zoo.
      step: step of the checkpoint; the newest good one if None.
      changes: {"method.scales": (0.5, 1.0, 2.0), ...}, fields of the run's config that are to differ now; the log names
        those that do.
      like: config of released weights; see `zoo.opening.open_file`.

    Returns:
      (config, method, variables); the averaged parameters where the run keeps an average.

    Raises:
      CheckpointError: no run or no good checkpoint there, or a file that cannot be used.
      ConfigError: a change of a field that there is not, or one that makes another network; a step of a file.
    """
    file, released = _released(workdir), None
    if file is not None and step is not None:
        raise ConfigError(f"step {step}: {workdir} is a file of weights, which has no steps")
    if file is None and like:
        raise ConfigError(f"{workdir} is a run, which knows its config; {like!r} is for files of released weights")
    config: Any = None
    if file is None:
        config = run_config.read(workdir)
    else:
        config, _, released = opening.open_file(file, like)
    variables = _shapes(methods.create(config.method))
    for field, value in (changes or {}).items():
        run_config.change(config, field, value)
    method = methods.create(config.method)
    if _shapes(method) != variables:
        raise ConfigError(f"{workdir}: config.method now describes another network than the one that was trained there")
    copied = sharding.replicated(sharding.make_mesh(ConfigDict({"fsdp": 1})))
    if released:
        return config, method, jax.device_put(released, copied)
    params = "ema" if config.train.ema_decay else "params"
    shape: Any = jax.ShapeDtypeStruct((), np.int32)
    template = TrainState(
        step=shape,
        params=variables["params"] if params == "params" else None,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=None,
        ema=variables["params"] if params == "ema" else None,
    )
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copied), template)
    state = CheckpointReader(workdir).restore(template, step)
    if state is None:
        raise CheckpointError(f"{workdir}: has no checkpoint yet")
    return config, method, state.inference_variables


def _released(source: str | pathlib.Path) -> pathlib.Path | None:
    """The file of released weights that is meant; None for the folder of a run."""
    path = pathlib.Path(source)
    if path.is_file():
        return path
    return fetching.find_file(table.find(str(source))) if table.is_name(str(source)) and not path.exists() else None


def _shapes(method: Any) -> Any:
    return jax.eval_shape(method.init, jax.random.key(0))
