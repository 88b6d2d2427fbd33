"""Variables in one portable file: flat arrays named by their paths."""

import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxpose.errors import CheckpointError
from jaxpose.types import Variables

FORMATS = (".npz", ".safetensors")


def save_variables(path: str | pathlib.Path, variables: Variables) -> None:
    """Writes variables as arrays named "params/backbone/conv1/kernel" and so on.

    Args:
      path: ends in .npz or .safetensors.
      variables: nested dict of arrays.

    Raises:
      CheckpointError: another ending.
    """
    path = pathlib.Path(path)
    flat = flatten_dict(variables, sep="/")
    arrays: dict[str, Any] = {name: np.ascontiguousarray(value) for name, value in flat.items()}
    if _format(path) == ".npz":
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)


def load_variables(path: str | pathlib.Path) -> Variables:
    """Reads what `save_variables` wrote.

    Raises:
      CheckpointError: no such file, another ending, or names that are not paths of variables.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; make it with jaxpose convert")
    arrays = load_arrays(path)
    collections = {name.partition("/")[0] for name in arrays}
    if not collections <= {"params", "batch_stats"}:
        raise CheckpointError(
            f"{path} holds {sorted(arrays)[:3]}, not paths that start with params/ or batch_stats/; "
            "make the file with jaxpose convert"
        )
    return unflatten_dict(arrays, sep="/")


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz or .safetensors file by name.

    Raises:
      CheckpointError: another ending, or a file that is not what its ending says.
    """
    read = _read_npz if _format(path) == ".npz" else _read_safetensors
    try:
        return read(path)
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{path} cannot be read as {path.suffix}: it is damaged or something else") from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _format(path: pathlib.Path) -> str:
    if path.suffix not in FORMATS:
        raise CheckpointError(f"{path} must end in one of {', '.join(FORMATS)}")
    return path.suffix
