"""Variables to start training from: a converted file, or what another run learned."""

import logging
import pathlib

import jax

from jaxpose.convert import files
from jaxpose.errors import ConfigError
from jaxpose.runs.reader import load_for_inference
from jaxpose.training import optim
from jaxpose.types import Variables

logger = logging.getLogger(__name__)


def load_pretrained(path: str) -> Variables:
    """Variables, on the host, of a file that `jaxpose.convert` wrote, or of another run's newest good checkpoint.

    Raises:
      CheckpointError: neither is there.
    """
    if pathlib.Path(path).is_dir():
        return jax.device_get(load_for_inference(path)[2])
    return files.load_variables(path)


def merge_pretrained(variables: Variables, loaded: Variables, path: str) -> Variables:
    """`variables` with every leaf that `loaded` has.

    Raises:
      ConfigError: `loaded` has leaves that the network lacks, or of another shape.
    """
    flat, new = optim.flatten(variables), optim.flatten(loaded)
    unknown = sorted(set(new) - set(flat))
    misshapen = [f"{p} {new[p].shape}, not {flat[p].shape}" for p in new if p in flat and new[p].shape != flat[p].shape]
    if unknown or misshapen:
        raise ConfigError(
            f"config.init_from: {path} does not fit config.method: {len(unknown)} unknown leaves {unknown[:3]}, "
            f"{len(misshapen)} of another shape {misshapen[:3]}"
        )
    fresh = sorted({"/".join(p.split("/")[:2]) for p in flat if p not in new})
    logger.info("%s: took %d leaves; %d start fresh, in %s", path, len(new), len(flat) - len(new), fresh)
    return optim.unflatten(flat | new)
