"""Pickles read without running them.

A pickle is a program that may call anything. Here no name in it is ever looked up: dictionaries, lists, texts and
numbers are made as it says, NumPy's arrays are made from their bytes once these were checked, and a reader may give its
own functions for other names. What is left either refuses the file or becomes `Unknown`, which holds values and can do
nothing.
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MOST_BYTES_OF_ITEM = 1 << 20
DEEPEST = 100
"""Most lists and dictionaries in each other."""
LARGEST = 100_000_000
"""Most values of a pickle, those that it uses again counted again."""
_PLAIN = (str, bytes, int, float, type(None))
_Python: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]
"""Python's own reader in Python, which the other one copies in C."""


class RefusedError(pickle.UnpicklingError):
    """A pickle asks for something that is not admitted."""


class Unknown(dict):
    """Stands for an object of a class that is not known; holds its entries if it is a dictionary, too.

    Attributes:
      name: full name of the class or function that was to make it.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Name:
    """A name in a pickle, and the function of this library that stands for it, if there is one.

    Attributes:
      name: full name, such as "collections.OrderedDict".
      make: function of the arguments that the pickle gives; None for a name that makes nothing.
    """

    def __init__(self, name: str, make: Callable[..., Any] | None = None):
        self.name = name
        self.make = make


# --- NumPy's arrays ---


def _dtype(text: Any, *_: Any) -> np.dtype:
    if not isinstance(text, str) or not re.fullmatch(r"[|<>=]?[?bBhHiuIlLqQefdFDOSUVc]\d{0,7}", text):
        raise RefusedError(f"it has arrays of {text!r}")
    dtype = np.dtype(text, copy=True)
    if dtype.itemsize > MOST_BYTES_OF_ITEM:
        raise RefusedError(f"it has an array of values of {dtype.itemsize:,} bytes each")
    return dtype


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype):
        raise RefusedError("it has a number of no type")
    return data if dtype.hasobject else _values(dtype, (), data)[()]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise RefusedError("it has an array of no type")
    return _values(dtype, shape, data, "F" if order == "F" else "C")


def _values(dtype: np.dtype, shape: Any, data: Any, order: Any = "C") -> np.ndarray:
    """An array from its bytes, of which there must be as many as it needs."""
    data = data.encode("latin1") if isinstance(data, str) else data
    whole = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * dtype.itemsize:
        raise RefusedError(f"it has an array that states shape {shape!r:.80}, but not as many values")
    return np.frombuffer(data, dtype).reshape(shape, order=order) if data else np.zeros(shape, dtype, order)


def _bytes_of(text: Any, encoding: Any = "latin1") -> bytes:
    """The bytes of a text, as old pickles of arrays ask for them."""
    if encoding != "latin1" or not isinstance(text, str):
        raise RefusedError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*data: Any) -> bytes:
    if data:
        raise RefusedError("it makes bytes of something else")
    return b""


ARRAYS: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": lambda *_: np.ndarray((0,), "b"),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _bytes_of,
    "__builtin__.bytes": _no_bytes,
}
"""What stands for the names in pickles of NumPy's arrays and scalars."""


def _fill_dtype(dtype: np.dtype, state: Any) -> None:
    """Gives a dtype the byte order that its state says; any other state is refused."""
    same = (None, None, None)
    plain = isinstance(state, tuple) and len(state) == 8 and state[1] in ("<", ">", "|", "=") and state[2:5] == same
    sizes = (-1, dtype.itemsize), (-1, dtype.alignment)
    if not plain or state[5] not in sizes[0] or state[6] not in sizes[1] or state[7] != dtype.flags:
        raise RefusedError("it has arrays of records")
    dtype.__setstate__(state)  # pyright: ignore[reportAttributeAccessIssue]


def _fill_array(array: np.ndarray, state: Any) -> None:
    """Gives an empty array its values, once there are as many as it needs."""
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], np.dtype) or array.size:
        raise RefusedError("it has an array that is none")
    version, shape, dtype, column_major, data = state
    if dtype.hasobject:
        whole = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if dtype != np.dtype(object) or not whole or type(data) is not list or len(data) != math.prod(shape):
            raise RefusedError("it has an array of objects that is none")
    else:
        _values(dtype, shape, data)
    array.__setstate__((1, shape, dtype, bool(column_major), data))  # pyright: ignore[reportArgumentType]


# --- the reader ---


class Unpickler(_Python):
    """A reader of one pickle, written in Python: its memory grows with the file alone.

    Args:
      file: file in memory, from which one pickle is read.
      known: functions that stand for names, beside those of arrays.
      keep_unknown: whether other names become `Unknown`; else they are refused.
    """

    dispatch: dict[int, Any] = dict(_Python.dispatch)
    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        del dispatch[_code[0]]

    def __init__(
        self, file: io.BytesIO, known: Mapping[str, Callable[..., Any] | None] = {}, keep_unknown: bool = False
    ):
        super().__init__(file, encoding="latin1")
        self._known = ARRAYS | dict(known)
        self._keep_unknown = keep_unknown

    def find_class(self, module: str, name: str) -> Name:
        """The stand-in for a name; nothing is imported."""
        full = f"{module}.{name}"
        short = full.replace("numpy._core.", "numpy.core.", 1)
        if short not in self._known and not self._keep_unknown:
            raise RefusedError(
                f"it holds {full!r}, and only arrays, dictionaries, lists, strings and numbers are admitted"
            )
        return Name(short, self._known.get(short))

    def made(self, maker: Any, arguments: Any) -> Any:
        """What stands for `maker(*arguments)`."""
        if isinstance(maker, Unknown):
            return Unknown(maker.name)
        if type(maker) is not Name or not isinstance(arguments, tuple):
            raise RefusedError("it calls what is no function")
        return Unknown(maker.name) if maker.make is None else maker.make(*arguments)

    def _instantiate(self, maker: Any, arguments: Any) -> None:
        self.append(self.made(maker, tuple(arguments)))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.made(self.stack[-1], arguments)

    def _new_with_fields(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, np.dtype):
            _fill_dtype(built, state)
        elif isinstance(built, np.ndarray):
            _fill_array(built, state)
        elif not isinstance(built, dict):
            raise RefusedError(f"it gives a state to a {type(built).__name__}")

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend_last([value])

    def _extend(self) -> None:
        self._extend_last(self.pop_mark())

    def _extend_last(self, values: list) -> None:
        last = self.stack[-1]
        if type(last) is list:
            last.extend(values)
        elif not isinstance(last, Unknown):
            raise RefusedError(f"it appends to a {type(last).__name__}")

    def _set_item(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        last = self.stack[-1]
        if not isinstance(last, dict):
            raise RefusedError(f"it gives entries to a {type(last).__name__}")
        last.update(zip(map(key, items[::2]), items[1::2], strict=True))

    def _add_items(self) -> None:
        items, last = self.pop_mark(), self.stack[-1]
        if type(last) is not set:
            raise RefusedError(f"it adds to a {type(last).__name__}")
        last.update(map(key, items))

    def _frozen_set(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(key, items)))

    def _byte_array(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _new_with_fields,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _extend,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.BYTEARRAY8[0]: _byte_array,
    }


def key(value: Any) -> Any:
    """The key of a dictionary, plain or a tuple of plain values: to compare others can take long, or a deep stack.

    Raises:
      RefusedError: it is another.
    """
    plain = isinstance(value, (*_PLAIN, Unknown, np.generic, frozenset)) or type(value) is Name
    if not plain and not (isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value)):
        raise RefusedError(f"it has a {type(value).__name__} as a key")
    return value


def check_size(value: Any) -> None:
    """Refuses what holds itself, is nested too deeply, or is too large with all that it holds again and again.

    Raises:
      RefusedError: it is so.
    """
    sizes: dict[int, tuple[int, int]] = {}  # of every container: values in it, and how deep it is
    open_ones: set[int] = set()
    todo = [value]
    while todo:
        found = todo[-1]
        inner = _inner(found)
        if id(found) in sizes:
            todo.pop()
        elif id(found) not in open_ones:
            open_ones.add(id(found))
            todo += (item for item in inner if _inner(item) and id(item) not in sizes)
            if any(id(item) in open_ones and id(item) not in sizes and _inner(item) for item in inner):
                raise RefusedError("it has a list or dictionary that holds itself")
        else:
            todo.pop()
            parts = [sizes.get(id(item), (1, 0)) for item in inner]
            sizes[id(found)] = 1 + sum(size for size, _ in parts), 1 + max((deep for _, deep in parts), default=0)
            if sizes[id(found)][0] > LARGEST or sizes[id(found)][1] > DEEPEST:
                raise RefusedError(f"it is nested deeper than {DEEPEST} times, or holds more than {LARGEST:,} values")


def _inner(value: Any) -> Any:
    """What a container holds, keys left out."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype == object else ()
    return value if isinstance(value, list | tuple | set | frozenset) else ()
