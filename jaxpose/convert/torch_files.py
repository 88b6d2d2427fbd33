"""Reads checkpoint files of the original implementations into plain NumPy arrays."""

import argparse
import codecs
import importlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.convert.files import FORMATS, load_arrays
from jaxpose.errors import CheckpointError

WRAPPERS = ("best_state_dict", "state_dict", "model", "model_pos")
"""Entries of training checkpoints that hold the network, best first."""
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
"""The name of a class in torch's message about what it does not load."""
PREFIXES = ("module.", "1.")
"""What data-parallel and half-precision wrappers put before every name."""


def load_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Entries of the network in a checkpoint file by name, half precision widened to float32.

    Training checkpoints are unwrapped: the best network if one is kept apart, else the last.

    Args:
      path: file ending in .npz or .safetensors, or PyTorch file of any other ending, which needs the package torch.

    Raises:
      CheckpointError: the file cannot be read, or has no network in it.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    entries: Mapping[str, Any] = load_arrays(path) if path.suffix in FORMATS else _load_torch(path)
    for wrapper in WRAPPERS:
        if isinstance(inner := entries.get(wrapper), Mapping):
            entries = inner
    arrays = {name: _to_numpy(value) for name, value in entries.items() if hasattr(value, "dtype")}
    if not arrays:
        raise CheckpointError(f"{path} holds no arrays; its entries are {sorted(map(str, entries))[:10]}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): value for name, value in arrays.items()}
    return arrays


def _load_torch(path: pathlib.Path) -> Mapping:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a PyTorch file, which needs the package torch to read: pip install torch. "
            "Or convert it where torch is installed and bring the result as .npz or .safetensors."
        ) from error
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        found = _FORBIDDEN.search(str(error))
        why = f"it holds {found[1]}, which is no part of a network" if found else "it is damaged or something else"
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: {why}") from error
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{path} holds a {type(entries).__name__}, not the state dict of a network")
    return entries


def _harmless_globals() -> list:
    """Types in training checkpoints beside tensors: NumPy's scalars (scores) and arrays, parsed arguments.

    The state of NumPy's random generators, which some hold too, is read as nothing.
    """
    dtypes = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"]
    numpy = [np.ndarray, np.dtype, *dtypes]
    multiarray = importlib.import_module("numpy._core.multiarray")
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        numpy += [(getattr(multiarray, name), f"{module}.{name}") for name in ("scalar", "_reconstruct")]
    numpy += [(_Ignored, f"numpy.random.{name}") for name in RANDOM_STATES]
    return [*numpy, codecs.encode, argparse.Namespace]


RANDOM_STATES = ("_pickle.__randomstate_ctor", "_pickle.__bit_generator_ctor", "_mt19937.MT19937")


class _Ignored:
    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def _to_numpy(value) -> np.ndarray:
    """A tensor or array as float32, or as integers if it holds those."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).numpy()
    value = np.asarray(value)
    return value.astype(np.float32) if np.issubdtype(value.dtype, np.floating) else value
