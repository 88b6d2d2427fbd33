"""Variables in one portable file: flat arrays named by their paths.

Both forms hold a digest of the whole file, so that no changed bit passes for weights: .npz behind its end, where other
programs look for a comment, .safetensors in its metadata. Files without one are read as they are.
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxpose.errors import CheckpointError, DataError
from jaxpose.files import whole
from jaxpose.files.arrays import read_npz, write_npz
from jaxpose.files.json_files import parse_json
from jaxpose.types import Variables

FORMATS = (".npz", ".safetensors")
_DIGEST = "jaxpose_sha256"
_NO_DIGEST = "0" * 64


def save_variables(path: str | pathlib.Path, variables: Variables, metadata: Mapping[str, str] | None = None) -> None:
    """Writes variables as arrays named "params/backbone/conv1/kernel" and so on, whole or not at all.

    Args:
      path: ends in .npz or .safetensors.
      variables: nested dict of arrays.
      metadata: texts to keep beside the arrays, in .safetensors alone.

    Raises:
      CheckpointError: another ending.
      StorageError: the file cannot be written.
    """
    path = pathlib.Path(path)
    flat = flatten_dict(variables, sep="/")
    arrays: dict[str, Any] = {name: np.ascontiguousarray(value) for name, value in flat.items()}
    if _format(path) == ".npz":
        write_npz(path, arrays)
    else:
        _write_safetensors(path, arrays, metadata or {})


def load_variables(path: str | pathlib.Path) -> Variables:
    """Reads what `save_variables` wrote.

    Raises:
      CheckpointError: no such file, another ending, a damaged file, or names that are not paths of variables.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; make it with jaxpose convert")
    arrays = load_arrays(path)
    if not are_paths(arrays):
        raise CheckpointError(
            f"{path} holds {sorted(arrays)[:3]}, not paths that start with params/ or batch_stats/; "
            "make the file with jaxpose convert"
        )
    return nested(arrays, path)


def are_paths(names: Iterable[str]) -> bool:
    """Whether all names are paths of variables: of a file that `save_variables` wrote, and not of an original one."""
    return {name.partition("/")[0] for name in names} <= {"params", "batch_stats"}


def nested(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> Variables:
    """Arrays named by their paths as nested dicts.

    Raises:
      CheckpointError: an array and a group of arrays have the same name.
    """
    inner = {name[:at] for name in arrays for at, letter in enumerate(name) if letter == "/"}
    if both := sorted(inner & set(arrays)):
        raise CheckpointError(f"{path} holds arrays and groups of arrays of the same names, {both[:3]}; it is damaged")
    return unflatten_dict(arrays, sep="/")


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz or .safetensors file by name.

    Raises:
      CheckpointError: another ending, or a file that is not what its ending says or does not fit its digest.
    """
    return load_with_metadata(path)[0]


def load_with_metadata(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a file by name, and the texts beside them, which .npz does not have; errors as of `load_arrays`."""
    try:
        return (read_npz(path), {}) if _format(path) == ".npz" else _read_safetensors(path)
    except DataError as error:
        why = " ".join(str(error).removeprefix(f"{path}: ").split())
        raise CheckpointError(
            f"{path} cannot be read as {path.suffix} ({why}): it is damaged or something else"
        ) from error


def _format(path: pathlib.Path) -> str:
    if path.suffix not in FORMATS:
        raise CheckpointError(f"{path} must end in one of {', '.join(FORMATS)}")
    return path.suffix


# --- .safetensors ---

_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2"},
    **{"I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}


def _write_safetensors(path: pathlib.Path, arrays: dict[str, Any], metadata: Mapping[str, str]) -> None:
    from safetensors.numpy import save

    data = save(arrays, {**metadata, _DIGEST: _NO_DIGEST})
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # the library's order is another each time
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + data[end:]
    at = data.index(f'"{_DIGEST}":"{_NO_DIGEST}"'.encode()) + len(_DIGEST) + 4
    whole.write_bytes(path, data[:at] + _digest_without(data, at).encode() + data[at + 64 :])


def _digest_without(data: bytes, at: int) -> str:
    """The digest of a file, with zeros in place of the digest that it has at a place."""
    digest = hashlib.sha256(memoryview(data)[:at])
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(data)[at + 64 :])
    return digest.hexdigest()


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of the file, and its metadata.

    Raises:
      DataError: it is damaged or something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    end = 8 + int.from_bytes(data[:8], "little")
    if not 8 < end <= len(data):
        raise DataError(f"{path}: states a header of {end - 8:,} bytes in a file of {len(data):,}")
    header = parse_json(data[8:end], path)
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise DataError(f"{path}: has a header without entries")
    metadata: Any = header.pop("__metadata__", {})
    _check_digest(data, metadata, path)
    found, values = {}, memoryview(data)[end:]
    spans = sorted((_span(entry, name, path), name) for name, entry in header.items())
    for (begin, stop), name in spans:
        dtype, shape = np.dtype(_DTYPES[header[name]["dtype"]]), header[name]["shape"]
        if stop > len(values):
            raise DataError(f"{path}: is cut off within array {name!r}")
        found[name] = np.frombuffer(values[begin:stop], dtype).reshape(shape).copy()
    places = [0, *(place for span, _ in spans for place in span), len(values)]
    if places[::2] != places[1::2]:
        raise DataError(f"{path}: has bytes that are of no array or of several")
    return {name: found[name] for name in header}, metadata


def _check_digest(data: bytes, metadata: dict, path: pathlib.Path) -> None:
    """Raises DataError if the file has a digest that it does not fit; a letter of the digest's name may be damaged."""
    for name, digest in metadata.items():
        if len(name) == len(_DIGEST) and sum(a != b for a, b in zip(name, _DIGEST, strict=True)) <= 1:
            at = data.find(str(digest).encode()) if name == _DIGEST else -1
            if at < 0 or _digest_without(data, at) != digest:
                raise DataError(f"{path}: its bytes don't fit the digest in its metadata; copy or make it again")


def _span(entry: dict, name: str, path: pathlib.Path) -> tuple[int, int]:
    """Where the bytes of an array begin and end, once this fits its shape and dtype."""
    kind: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    span: Any = entry.get("data_offsets")
    good = all(isinstance(part, list) and all(type(n) is int and n >= 0 for n in part) for part in (shape, span))
    if not good or str(kind) not in _DTYPES or len(span) != 2 or len(shape) > 32:
        raise DataError(f"{path}: array {name!r} has dtype {kind!r:.40}, shape {shape!r:.80} and place {span!r:.80}")
    if math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize != span[1] - span[0]:
        raise DataError(f"{path}: array {name!r} of shape {shape!r:.80} has {span[1] - span[0]:,} bytes")
    return span[0], span[1]
