"""Entries of networks, as NumPy arrays by name, from checkpoint files of the original implementations."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.convert.files import FORMATS, load_arrays
from jaxpose.convert.torch_files import SAVE_ALONE, Tensor, read_torch
from jaxpose.errors import CheckpointError
from jaxpose.files import arrays
from jaxpose.files.unpickling import RefusedError, Unknown

logger = logging.getLogger(__name__)

WRAPPERS = ("best_state_dict", "state_dict", "model_state_dict", "model", "model_pos", "network", "net", "module",
            "weights", "params", "ema_state_dict", "state_dict_ema", "model_ema", "ema")  # fmt: skip
"""Entries of training checkpoints that hold the network, best first."""
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "1.")
"""What data-parallel, compiling, training and half-precision wrappers put before every name."""
COUNTERS = ("n_averaged",)
"""What wrappers that average weights keep beside the names with their prefix."""
GROWTH = 8
"""Most bytes of arrays for a byte of the file, beyond `arrays.SMALL`: tensors may share theirs."""

Tensors = Mapping[str, Any]


def load_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Entries of the network in a checkpoint file by name, half precision widened to float32.

    Training checkpoints are unwrapped: the best network if one is kept apart, else the last. Prefixes that all names
    have in common because of wrappers go. The log says what was taken.

    Args:
      path: file ending in .npz or .safetensors, or PyTorch file of any other ending.

    Raises:
      CheckpointError: the file cannot be read, has no network in it or several, or an entry is no array of numbers.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    content = load_arrays(path) if path.suffix in FORMATS else read_torch(path)
    entries, taken = unwrapped(content, path)
    if taken:
        logger.info("%s: took its entry %s", path, " / ".join(taken))
    wide = _to_numpy(entries, path)
    found, gone = without_prefixes(wide)
    if gone:
        logger.info("%s: names lost the prefix %s of a wrapper", path, gone)
    return found


# --- finding the network ---


def unwrapped(content: Any, path: Any) -> tuple[Tensors, list[str]]:
    """The mapping of tensors in what a file holds, and the names of the entries that lead to it.

    Raises:
      CheckpointError: there is none, or there are several and none has one of the names `WRAPPERS`.
    """
    taken: list[str] = []
    while True:
        inside = {str(name): inner for name, inner in _networks(content) if _holds_tensors(inner)}
        if chosen := [name for name in WRAPPERS if name in inside]:
            _log_others(path, chosen[0], inside)
            name = chosen[0]
        elif any(_is_array(value) for value in content.values()):
            return content, taken
        elif len(inside) == 1:
            name = next(iter(inside))
        else:
            raise _no_network(content, inside, path)
        content = inside[name]
        taken.append(name)


def _log_others(path: Any, name: str, inside: dict[str, Any]) -> None:
    others = sorted(other for other in inside if other != name and other in WRAPPERS)
    if others:
        logger.info("%s: has networks in its entries %s, too; %s is preferred", path, ", ".join(others), name)


def _no_network(content: Tensors, inside: Tensors, path: Any) -> CheckpointError:
    if inside:
        shown = ", ".join(repr(name) for name in sorted(inside)[:10])
        return CheckpointError(
            f"{path} has several entries with arrays: {shown}. Save the wanted one alone: "
            "torch.save(torch.load(FILE)[ENTRY], 'weights.pth'), and convert that file"
        )
    names = sorted(map(str, content))[:10]
    if unknown := _first_unknown(content):
        return CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: it holds {unknown}, which is no part of a network, and no "
            f"arrays; its entries are {names}. {SAVE_ALONE}"
        )
    return CheckpointError(f"{path} holds no arrays; its entries are {names}")


def _first_unknown(content: Any) -> str:
    values = [content, *content.values()]
    return next((value.name for value in values if isinstance(value, Unknown)), "")


_NO_NETWORK = ("optim", "sched", "scaler", "callback", "loop", "rng", "message_hub", "meta", "args", "config")
"""Parts of the names of entries that are about a training."""


def _networks(content: Tensors) -> list[tuple[Any, dict]]:
    """Entries that are mappings, but for those that are about a training."""
    named = ((name, str(name).lower(), value) for name, value in content.items() if isinstance(value, dict))
    return [(name, value) for name, lower, value in named if not any(part in lower for part in _NO_NETWORK)]


def _holds_tensors(content: dict, depth: int = 4) -> bool:
    if any(_is_array(value) for value in content.values()):
        return True
    return depth > 0 and any(_holds_tensors(value, depth - 1) for _, value in _networks(content))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind not in "OUS")


def without_prefixes(entries: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Entries without the prefixes that all of their names have, and what these were, from the outside in."""
    gone = ""
    while prefix := _common_prefix(entries):
        kept = {name: value for name, value in entries.items() if name not in COUNTERS}
        entries = {name.removeprefix(prefix): value for name, value in kept.items()}
        gone += prefix
    return entries, gone


def _common_prefix(entries: dict[str, np.ndarray]) -> str:
    names = [name for name in entries if name not in COUNTERS]
    return next((p for p in PREFIXES if names and all(n.startswith(p) and len(n) > len(p) for n in names)), "")


def _to_numpy(entries: Tensors, path: Any) -> dict[str, np.ndarray]:
    """Arrays as float32, or as whole numbers or truth values if they hold those.

    Raises:
      CheckpointError: an entry is no array of such numbers, or all together need more memory than the file can have.
    """
    found, left = {}, max(arrays.SMALL, GROWTH * pathlib.Path(path).stat().st_size)
    for name, value in entries.items():
        if isinstance(value, Unknown) and "_rebuild" in value.name:
            raise CheckpointError(f"{path}: entry {name!r} is made by {value.name}, which is not read. {SAVE_ALONE}")
        if not _is_array(value):
            continue
        tensor = value if isinstance(value, Tensor) else Tensor.of(np.asarray(value))
        left -= tensor.bytes
        if left < 0:
            raise CheckpointError(f"{path}: entry {name!r} states more numbers than the file has; it is damaged")
        try:
            found[str(name)] = _wide(tensor.array(), f"{path}: entry {name!r}")
        except RefusedError as error:
            raise CheckpointError(f"{path}: entry {name!r} {error}") from error
    return found


def _wide(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind == "c":
        raise CheckpointError(f"{where} holds complex numbers, which no network here has")
    if array.dtype.kind in "iub":
        return array.astype(array.dtype.newbyteorder("="))
    try:
        with np.errstate(over="ignore"):
            wide = np.array(array, np.float32)
        beyond = np.isinf(wide) & np.isfinite(array.astype(np.float64))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where} is of {array.dtype}, expected numbers") from error
    if beyond.any():
        raise CheckpointError(f"{where} holds {array[beyond][0]:g}, which float32 cannot hold; is the file damaged?")
    return wide
