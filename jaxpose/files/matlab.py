"""MATLAB's files of version 5 to 7.2, read within bounds: numbers, text, cells and structures."""

import math
import pathlib
import struct
import types
import zlib
from typing import Any

import numpy as np

from jaxpose.errors import DataError
from jaxpose.files.arrays import GROWTH, SMALL

DEEPEST = 30
"""Most cells and structures in each other."""
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_COMPLEX = 0x800


class _DamagedError(Exception):
    """The file breaks its own format; the message is the end of a sentence about it."""


def read_variable(path: str | pathlib.Path, name: str, squeeze: bool = False) -> Any:
    """A variable of a .mat file; None if the file has none of that name.

    Args:
      path: path of the file.
      name: name of the variable.
      squeeze: whether axes of length 1 go, in it and in all that it holds; what has none left comes as its only value.

    Returns:
      An array of numbers in the type that the file stores them in, of texts, of values (a cell), or of structures, each
      an object whose attributes are its fields.

    Raises:
      DataError: the file is missing, damaged, of another version, or the variable is of another kind.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check config.data.dir and file names") from error
    try:
        return _find(data, name, squeeze)
    except (_DamagedError, struct.error, zlib.error, ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: is no complete .mat file ({error}); fetch it again") from error
    except NotImplementedError as error:
        raise DataError(f"{path}: {error}; save it as version 7 in MATLAB") from error


def _find(data: bytes, name: str, squeeze: bool) -> Any:
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise NotImplementedError("is a .mat file of version 7.3")
    if order is None or len(data) < 128:
        raise _DamagedError("it has not the beginning of one")
    at, left = 128, max(SMALL, GROWTH * len(data))
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, at)
        at, end = at + 8, at + 8 + size
        if end > len(data):
            raise _DamagedError("it is cut off")
        body = data[at:end]
        if kind == _COMPRESSED:
            body = _inflated(body, left)
            left -= len(body)
            kind, size = struct.unpack_from(f"{order}2I", body)
            body = body[8 : 8 + size]
        if kind != _MATRIX or len(body) != size:
            raise _DamagedError(f"it has a variable of kind {kind}, or a part of one")
        reader = _Reader(body, order, squeeze)
        if reader.name() == name:
            return reader.matrix(0, len(body), 0)
        at = end
    return None


def _inflated(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(data, most)
    if not stream.eof:
        raise _DamagedError(f"a variable of it is cut off, or has more than {most:,} bytes")
    return found


class _Reader:
    """One variable: its bytes, and how they are read."""

    def __init__(self, data: bytes, order: str, squeeze: bool):
        self._data = data
        self._squeeze = squeeze
        self._types = {kind: np.dtype(order + code) for kind, code in _NUMBERS.items()}
        self._pair = struct.Struct(f"{order}2I").unpack_from
        self._leaf = struct.Struct(f"{order}14I").unpack_from
        self._ends = "le" if order == "<" else "be"
        self._value = {kind: struct.Struct(order + dtype.char) for kind, dtype in self._types.items()}

    def name(self) -> str:
        """The variable's name."""
        at = 0
        for _ in range(2):
            *_, at = self._element(at, len(self._data))
        _, start, stop, _ = self._element(at, len(self._data))
        return self._data[start:stop].decode("latin-1")

    def _element(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Kind of an element, where its bytes start and stop, and where the next one starts."""
        kind, size = self._pair(self._data, at)
        if kind > 0xFFFF:  # a small one, whose bytes are within its tag
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start, after = at + 8, at + 8 + (size + 7) // 8 * 8
        if start + size > end or (start == at + 4 and size > 4):
            raise _DamagedError("a part of it reaches beyond the end")
        return kind, start, start + size, after

    def matrix(self, at: int, end: int, depth: int) -> Any:
        """The value whose description begins at `at`."""
        if at == end:
            return np.zeros(0 if self._squeeze else (0, 0))
        if depth > DEEPEST:
            raise _DamagedError(f"cells and structures are in each other more than {DEEPEST} times")
        _, start, stop, at = self._element(at, end)
        if stop - start < 8:
            raise _DamagedError("a variable has no kind")
        flags = self._pair(self._data, start)[0]
        shape, at = self._shape(at, end)
        *_, at = self._element(at, end)  # its name
        kind = flags & 0xFF
        if kind in _NUMERIC:
            value = self._numbers(at, end, shape, bool(flags & _COMPLEX))
        elif kind == _CHAR:
            value = self._text(at, end, shape)
        elif kind == _CELL:
            value = self._cell(at, end, shape, depth)
        elif kind == _STRUCT:
            value = self._structures(at, end, shape, depth)
        else:
            raise _DamagedError(f"it has a variable of class {kind}: no numbers, text, cells or structures")
        return _squeezed(value) if self._squeeze else value

    def _shape(self, at: int, end: int) -> tuple[tuple[int, ...], int]:
        kind, start, stop, after = self._element(at, end)
        sizes = np.frombuffer(self._data[start:stop], self._types[5]).tolist() if kind == 5 else []
        if not 2 <= len(sizes) <= 32 or min(sizes) < 0:
            raise _DamagedError(f"a variable has sizes {sizes[:32]}")
        return tuple(sizes), after

    def _numbers(self, at: int, end: int, shape: tuple[int, ...], has_imaginary: bool) -> np.ndarray:
        values, at = self._plain(at, end, shape)
        if not has_imaginary:
            return values
        imaginary, _ = self._plain(at, end, shape)
        return values + imaginary * 1j

    def _plain(self, at: int, end: int, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
        kind, start, stop, after = self._element(at, end)
        dtype = self._types.get(kind)
        if dtype is None or math.prod(shape) * dtype.itemsize != stop - start:
            raise _DamagedError(f"a variable of shape {shape} has {stop - start:,} bytes of kind {kind}")
        values = np.frombuffer(self._data, dtype, math.prod(shape), start) if stop > start else np.zeros(shape, dtype)
        return values.reshape(shape, order="F").astype(dtype.newbyteorder("=")), after

    def _text(self, at: int, end: int, shape: tuple[int, ...]) -> np.ndarray:
        kind, start, stop, _ = self._element(at, end)
        if kind not in _TEXT:
            raise _DamagedError(f"a text is of kind {kind}")
        codec = f"{_TEXT[kind]}-{self._ends}" if _TEXT[kind] in ("utf-16", "utf-32") else _TEXT[kind]
        text = self._data[start:stop].decode(codec)
        if math.prod(shape) != len(text):
            raise _DamagedError(f"a text of shape {shape} has {len(text)} letters")
        if not text:
            return np.zeros((*shape[:-1], 0)[: len(shape) - 1], "U1")
        letters = np.array(list(text), "U1").reshape(shape, order="F")
        return np.ascontiguousarray(letters).view(f"U{shape[-1]}")[..., 0]

    def _inner(self, at: int, end: int, depth: int) -> tuple[Any, int]:
        """The value of a matrix within another one, and where the next one starts."""
        if end - at >= 56 and (value := self._number(at, end)) is not None:
            return value
        kind, start, stop, after = self._element(at, end)
        if kind != _MATRIX:
            raise _DamagedError(f"a cell or field is of kind {kind}")
        return self.matrix(start, stop, depth + 1), after

    def _number(self, at: int, end: int) -> tuple[Any, int] | None:
        """The same for one number without a name, as most are; None for anything else."""
        words = self._leaf(self._data, at)
        kind, size, flags = words[12], words[1], words[4]
        usual = words[0] == _MATRIX and words[2:4] == (6, 8) and words[6:12] == (5, 8, 1, 1, 1, 0)
        if not self._squeeze or not usual or flags & _COMPLEX or flags & 0xFF not in _NUMERIC:
            return None
        length, kind, start = (words[13], kind, at + 56) if kind <= 0xFFFF else (kind >> 16, kind & 0xFFFF, at + 52)
        value = self._value.get(kind)
        if value is None or value.size != length or not start + length <= at + 8 + size <= end:
            return None
        return value.unpack_from(self._data, start)[0], at + 8 + (size + 7) // 8 * 8

    def _values(self, at: int, end: int, count: int, depth: int) -> list[Any]:
        if count * 8 > end - at:
            raise _DamagedError(f"{count:,} cells or fields are in {end - at:,} bytes")
        found = []
        for _ in range(count):
            value, at = self._inner(at, end, depth)
            found.append(value)
        return found

    def _cell(self, at: int, end: int, shape: tuple[int, ...], depth: int) -> np.ndarray:
        return _of_objects(self._values(at, end, math.prod(shape), depth), shape)

    def _structures(self, at: int, end: int, shape: tuple[int, ...], depth: int) -> np.ndarray:
        _, start, stop, at = self._element(at, end)
        length = int.from_bytes(self._data[start:stop], "little" if self._ends == "le" else "big")
        _, start, stop, at = self._element(at, end)
        if not length or (stop - start) % length:
            raise _DamagedError("a structure has no names of fields")
        parts = (self._data[i : i + length].split(b"\0")[0] for i in range(start, stop, length))
        names, count = [part.decode("latin-1") for part in parts], math.prod(shape)
        if not names and count > 1:
            raise _DamagedError("structures have no fields")
        values = self._values(at, end, count * len(names), depth)
        rows = (values[i * len(names) : (i + 1) * len(names)] for i in range(count))
        return _of_objects([types.SimpleNamespace(**dict(zip(names, row))) for row in rows], shape)


def _of_objects(values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    found = np.empty(len(values), object)
    for i, value in enumerate(values):
        found[i] = value
    return found.reshape(shape, order="F")


def _squeezed(value: np.ndarray) -> Any:
    if not value.size:
        return np.zeros(0, value.dtype)
    value = np.squeeze(value)
    return value.item() if value.shape == () else value
