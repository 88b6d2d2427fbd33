"""Opening what a run learned, or released weights, without changing anything of them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jaxpose import methods, sharding
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.methods.base import Method
from jaxpose.runs import run_config
from jaxpose.runs.checkpoint_reader import CheckpointReader
from jaxpose.runs.journal import METRICS, read_lines
from jaxpose.runs.state import TrainState
from jaxpose.types import Variables
from jaxpose.zoo import fetching, hub, opening, table
from jaxpose.zoo.weights_file import About, Content


def load_for_inference(
    workdir: str | pathlib.Path, step: int | None = None, changes: Mapping[str, Any] | None = None, like: str = ""
) -> tuple[Any, Method, Variables]:
    """(config, method, variables) of a run or of released weights; arguments and errors as of `open_network`."""
    content = open_network(workdir, step, changes, like)
    return content.config, content.method, content.variables


def open_network(
    workdir: str | pathlib.Path, step: int | None = None, changes: Mapping[str, Any] | None = None, like: str = ""
) -> Content:
    """What a run learned, or the network of released weights.

    Args:
      workdir: folder of a run, file of weights, their name in the zoo, or their address on the hub.
      step: step of the checkpoint; the newest good one if None.
      changes: {"method.scales": (0.5, 1.0, 2.0), ...}, fields of the run's config that are to differ now; the log names
        those that do.
      like: config of released weights; see `zoo.opening.open_weights`.

    Returns:
      The network, with the averaged parameters where the run keeps an average.

    Raises:
      CheckpointError: no run or no good checkpoint there, or a file that cannot be used.
      ConfigError: a change of a field that there is not, or one that makes another network; a step of a file.
    """
    file = find_weights(workdir)
    if file is not None and step is not None:
        raise ConfigError(f"step {step}: {workdir} is a file of weights, which has no steps")
    if file is None and like:
        raise ConfigError(f"{workdir} is a run, which knows its config; {like!r} is for files of released weights")
    released = None if file is None else opening.open_weights(file, like)
    config: Any = run_config.read(workdir) if released is None else released.config
    variables = _shapes(methods.create(config.method))
    for field, value in (changes or {}).items():
        run_config.change(config, field, value)
    method = methods.create(config.method)
    if _shapes(method) != variables:
        raise ConfigError(f"{workdir}: config.method now describes another network than the one that was trained there")
    copied = sharding.replicated(sharding.make_mesh(ConfigDict({"fsdp": 1})))
    if released is None:
        state = _restored(workdir, config, variables, copied, step)
        about = _about(pathlib.Path(workdir), config, int(state.step))
        return Content(config, method, state.inference_variables, about)
    return Content(config, method, jax.device_put(released.variables, copied), released.about)


def _restored(
    workdir: str | pathlib.Path, config: Any, variables: Any, copied: NamedSharding, step: int | None
) -> TrainState:
    """The state of a checkpoint without what training alone needs."""
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
    return state


def _about(workdir: pathlib.Path, config: Any, step: int) -> About:
    """What a run knows of its weights at a step."""
    lines = (line for line in read_lines(workdir / METRICS) if (line["step"], line["split"]) == (step, "validation"))
    numbers = {name: value for name, value in next(lines, {}).items() if name not in ("step", "split")}
    return About(config.data.source, step, numbers, workdir.absolute().name)


def find_weights(source: str | pathlib.Path) -> pathlib.Path | None:
    """The file of weights that is meant by its path, name in the zoo or address; None for the folder of a run.

    Raises:
      CheckpointError: it is in the zoo or on the hub, but neither here nor can it be downloaded.
      ConfigError: an address of the hub that names no repository.
    """
    path = pathlib.Path(source)
    if path.is_file():
        return path
    if (address := hub.parse(source)) is not None:
        return hub.download(address)
    return fetching.find_file(table.find(str(source))) if table.is_name(str(source)) and not path.exists() else None


def short_name(source: str | pathlib.Path) -> str:
    """A name for weights that folders can have: of a file without its ending, of a repository without its owner."""
    path = pathlib.Path(source)
    address = None if path.exists() else hub.parse(source)
    return address.name if address else path.stem if path.is_file() else path.name


def _shapes(method: Any) -> Any:
    return jax.eval_shape(method.init, jax.random.key(0))
