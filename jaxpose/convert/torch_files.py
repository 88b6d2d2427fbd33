"""PyTorch's files, read without PyTorch.

A pickle tells names and shapes, the numbers lie beside it. Of the pickle only dictionaries, lists, numbers and tensors
are made; whatever else a training left in it is passed over (`files.unpickling.Unknown`), and nothing in it is run.
"""

import functools
import io
import math
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np

from jaxpose.errors import CheckpointError, DataError
from jaxpose.files import arrays
from jaxpose.files.unpickling import Name, RefusedError, Unknown, Unpickler, key

SAVE_ALONE = (
    "Save the state dict alone where the checkpoint can be loaded, torch.save(model.state_dict(), 'weights.pth'), and "
    "convert that file"
)


class Tensor:
    """A tensor of a file, whose numbers are read when they are asked for.

    Attributes:
      bytes: number of bytes of its numbers.
      array: function that gives them; raises `RefusedError` with the end of a sentence about it where it cannot.
    """

    def __init__(self, size: int, array: Callable[[], np.ndarray]):
        self.bytes = size
        self.array = array

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """A tensor whose numbers are there."""
        return cls(array.nbytes, lambda: array)


class _Storage:
    """Numbers that tensors share.

    Attributes:
      dtype: their dtype; None where tensors tell it.
      data: function that gives their bytes.
    """

    def __init__(self, dtype: np.dtype | None, data: Callable[[], Any]):
        self.dtype = dtype
        self.data = functools.cache(data)


_DTYPES = {
    **{"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Long": "i8", "Int": "i4"},
    **{"Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexFloat": "c8", "ComplexDouble": "c16"},
}
_DTYPES_BY_NAME = {
    **{"float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": ml_dtypes.bfloat16, "int64": "i8"},
    **{"int32": "i4", "int16": "i2", "int8": "i1", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8"},
    **{name: getattr(ml_dtypes, name) for name in ("float8_e4m3fn", "float8_e5m2")},
    "bool": "?",
}


def _refusal(why: str) -> Callable[..., Tensor]:
    def refuse() -> np.ndarray:
        raise RefusedError(f"{why}. {SAVE_ALONE}")

    return lambda *_: Tensor(0, refuse)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if isinstance(storage, Tensor):
        return storage
    dtype = getattr(storage, "dtype", None)
    if not isinstance(storage, _Storage) or dtype is None:
        return _refusal("is of a kind of numbers that is not read")()
    return _strided(storage, dtype, offset, size, stride)


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *_: Any):
    known = _DTYPES_BY_NAME.get(getattr(dtype, "name", "").removeprefix("torch."))
    if not isinstance(storage, _Storage) or known is None:
        return _refusal("is of a kind of numbers that is not read")()
    return _strided(storage, np.dtype(known), offset, size, stride)


def _strided(storage: _Storage, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor as a view of a storage, of which nothing outside is read."""
    steps = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and 0 <= n < 1 << 62 for n in steps):
        raise RefusedError(f"it has a tensor of shape {size!r:.80} and stride {stride!r:.80}")

    def array() -> np.ndarray:
        if 0 in size:
            return np.zeros(size, dtype)
        data = storage.data()
        count = len(data) // dtype.itemsize
        if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= count:
            raise RefusedError(f"has shape {tuple(size)}, but the file has {count:,} numbers of it; it is damaged")
        steps_in_bytes = tuple(step * dtype.itemsize for step in stride)
        return np.ndarray(tuple(size), dtype, data, offset * dtype.itemsize, steps_in_bytes)

    return Tensor(math.prod(size) * dtype.itemsize, array)


def _sparse(layout: Any, data: Any, *_: Any) -> Tensor:
    """A sparse tensor of coordinates with all of its zeros."""
    if layout != "torch.sparse_coo" or not isinstance(data, tuple) or len(data) < 3:
        return _refusal(f"is sparse in the layout {layout!r:.40}, which is not read")()
    indices, values, size = data[:3]
    if not isinstance(indices, Tensor) or not isinstance(values, Tensor) or not isinstance(size, tuple | list):
        raise RefusedError("it has a sparse tensor that is none")
    shape = tuple(size)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedError("it has a sparse tensor that is none")

    def array() -> np.ndarray:
        at, numbers = indices.array(), values.array()
        inside = at.ndim == 2 and len(at) <= len(shape) and at.dtype.kind in "iu"
        inside = inside and numbers.shape == (at.shape[1], *shape[len(at) :])
        if not inside or not ((at >= 0) & (at < np.array(shape[: len(at)])[:, None])).all():
            raise RefusedError("is sparse, with places outside of it; the file is damaged")
        wide = numbers.astype(np.float32) if numbers.dtype == ml_dtypes.bfloat16 else numbers
        dense = np.zeros(shape, wide.dtype)
        np.add.at(dense, tuple(at), wide)
        return dense

    return Tensor(math.prod(shape) * 8, array)


def _dictionary(*pairs: Any) -> dict:
    return {key(name): value for name, value in pairs[0]} if pairs and isinstance(pairs[0], list) else {}


def _from_type(make: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if type(make) is not Name or make.make is None or not isinstance(arguments, tuple):
        return _refusal("is of a class of its own")()
    return make.make(*arguments)


def _first(value: Any, *_: Any) -> Any:
    return value


def _numpy_tensor(value: Any, *_: Any) -> Any:
    return value if isinstance(value, np.ndarray) else _refusal("is of a device that is not read")()


_UTILS = {
    **dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2"), _tensor),
    **dict.fromkeys(("_rebuild_parameter", "_rebuild_parameter_with_state"), _first),
    **dict.fromkeys(("_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"), _numpy_tensor),
    "_rebuild_tensor_v3": _tensor_of_dtype,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_qtensor": _refusal("is quantised, which is not read; save the network before it is quantised"),
    "_rebuild_meta_tensor_no_storage": _refusal("is on the device 'meta' and has no numbers"),
    **dict.fromkeys(
        ("_rebuild_sparse_csr_tensor", "_rebuild_nested_tensor", "_rebuild_wrapper_subclass"),
        _refusal("is of a layout that is not read"),
    ),
}
KNOWN: dict[str, Callable[..., Any] | None] = {
    **{f"torch._utils.{name}": make for name, make in _UTILS.items()},
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.serialization._get_layout": _first,
    "torch.storage._load_from_bytes": _refusal("lies in a file within the file, which is not read"),
    "torch.Size": lambda *sizes: tuple(sizes[0]) if sizes else (),
    "collections.OrderedDict": _dictionary,
    "builtins.dict": _dictionary,
}
"""What stands for the names in PyTorch's files."""


class _TorchUnpickler(Unpickler):
    def __init__(self, file: io.BytesIO, storages: Callable[[Any], _Storage] | None = None):
        super().__init__(file, KNOWN, keep_unknown=True)
        self._storages = storages

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storages is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise RefusedError("it names numbers that are not beside it")
        return self._storages(pid)


def read_torch(path: pathlib.Path) -> Mapping[str, Any]:
    """What a PyTorch file holds, with tensors as `Tensor`.

    Raises:
      CheckpointError: it is none, or damaged.
    """
    try:
        data = path.read_bytes()
        entries = _load_zip(data, path) if data[:2] == b"PK" else _load_legacy(data)
    except (RefusedError, DataError) as error:
        why = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: {why}") from error
    except Exception as error:  # a damaged file can raise anything
        what = f"{path} cannot be read as a PyTorch checkpoint: it is damaged or something else"
        raise CheckpointError(what) from error
    if isinstance(entries, Unknown) and not entries:
        raise CheckpointError(
            f"{path} holds an object of {entries.name}, not the state dict of a network. {SAVE_ALONE}"
        )
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{path} holds a {type(entries).__name__}, not the state dict of a network. {SAVE_ALONE}")
    return entries


def _dtype_of(kind: Any, order: Literal["<", ">"]) -> np.dtype | None:
    """The dtype of a class of storages; None for one that does not tell or is not known."""
    name = getattr(kind, "name", "").rpartition(".")[2].removesuffix("Storage")
    return np.dtype(_DTYPES[name]).newbyteorder(order) if name in _DTYPES else None


def _load_zip(data: bytes, path: Any) -> Any:
    """The form of today: an archive with a pickle and a file for every storage."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError("it begins like an archive, but is none")
    archive = arrays.open_archive(data, path, "a PyTorch checkpoint")
    names = set(archive.namelist())
    root = next((name.removesuffix("data.pkl") for name in sorted(names) if name.endswith("/data.pkl")), None)
    if root is not None and f"{root}constants.pkl" in names:
        raise RefusedError(f"it is a program (TorchScript), not the state dict of a network. {SAVE_ALONE}")
    if root is None:
        raise RefusedError("it is an archive of something else")
    big = f"{root}byteorder" in names and arrays.read_member(archive, f"{root}byteorder", path) == b"big"
    storages: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        _, kind, number = pid[:3]
        if number not in storages:
            name = f"{root}data/{number}"
            if name not in names:
                raise RefusedError(f"its part {name!r} is missing")
            read = _reader(lambda: arrays.read_member(archive, name, path))
            storages[number] = _Storage(_dtype_of(kind, ">" if big else "<"), read)
        return storages[number]

    return _TorchUnpickler(io.BytesIO(arrays.read_member(archive, f"{root}data.pkl", path)), storage).load()


def _reader(read: Callable[[], bytes]) -> Callable[[], bytes]:
    def refusing() -> bytes:
        try:
            return read()
        except DataError as error:
            raise RefusedError(f"cannot be read: {error}") from error

    return refusing


_MAGIC = 0x1950A86A20F9469CFC6C


def _load_legacy(data: bytes) -> Any:
    """The form before 1.6: pickles one after another, then all storages. A bare pickle of arrays is read, too."""
    file = io.BytesIO(data)
    first = _TorchUnpickler(file).load()
    if first != _MAGIC:
        return first
    _TorchUnpickler(file).load()
    system = _TorchUnpickler(file).load()
    order = "<" if system.get("little_endian", True) else ">"
    places: dict[str, memoryview] = {}
    storages: dict[tuple, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        number, count, view = pid[2], pid[4], pid[5] if len(pid) > 5 else None
        if (number, view) not in storages:
            dtype = _dtype_of(pid[1], order)
            part = (0, count) if view is None else tuple(view[1:3])
            if len(part) != 2 or not all(type(n) is int and n >= 0 for n in part):
                raise RefusedError("it names a part of its numbers that is none")
            storages[number, view] = _Storage(dtype, lambda: _slice(places, number, part, dtype))
        return storages[number, view]

    content, numbers = _TorchUnpickler(file, storage).load(), _TorchUnpickler(file).load()
    sizes = {number: found.dtype for (number, _), found in storages.items()}
    for number in numbers:
        size = int.from_bytes(file.read(8), "little") * _bytes_of_item(sizes.get(number))
        if not 0 <= size <= len(data) - file.tell():
            raise RefusedError("it is cut off: the numbers of its tensors are not all there")
        places[number] = memoryview(data)[file.tell() : file.tell() + size]
        file.seek(size, io.SEEK_CUR)
    return content


def _slice(places: dict[str, memoryview], number: str, part: tuple[int, int], dtype: np.dtype | None) -> memoryview:
    if number not in places:
        raise RefusedError("has no numbers in the file; it is damaged")
    return places[number][part[0] * _bytes_of_item(dtype) : (part[0] + part[1]) * _bytes_of_item(dtype)]


def _bytes_of_item(dtype: np.dtype | None) -> int:
    """Bytes that storages count in: those of a number, or single ones where tensors tell which numbers they hold."""
    return 1 if dtype is None else dtype.itemsize
