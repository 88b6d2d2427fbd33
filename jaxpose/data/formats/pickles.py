"""Pickled dictionaries of arrays, read without trusting the file.

Data sets of 3D pose are published as pickles, inside .npz files or bare. A pickle is a program; this reader runs none:
it admits NumPy arrays and scalars, dictionaries, lists, tuples, strings and numbers, and refuses anything else.
"""

import importlib
import pathlib
import pickle
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from jaxpose.errors import DataError


class _RefusedError(pickle.UnpicklingError):
    """A pickle asks for something that is not admitted."""


def _bytes_of(text: str, encoding: str) -> bytes:
    """The bytes of a text, as old pickles of arrays ask for them by `_codecs.encode`."""
    if encoding != "latin1":
        raise _RefusedError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


_MULTIARRAY = importlib.import_module("numpy._core.multiarray")
_ADMITTED = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _MULTIARRAY._reconstruct,
    "numpy.core.multiarray.scalar": _MULTIARRAY.scalar,
    "numpy.core.numeric._frombuffer": importlib.import_module("numpy._core.numeric")._frombuffer,
    "_codecs.encode": _bytes_of,
    "__builtin__.bytes": bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        known = full.replace("numpy._core.", "numpy.core.", 1)
        if known not in _ADMITTED:
            raise _RefusedError(
                f"it holds {full!r}, and only arrays, dictionaries, lists, strings and numbers are admitted"
            )
        return _ADMITTED[known]


def read_pickle(path: str | pathlib.Path) -> Any:
    """The object in a pickle file; text of Python 2 is read as Latin-1.

    Raises:
      DataError: the file is missing, damaged, or holds something that is not admitted.
    """
    try:
        with open(path, "rb") as file:
            return _load(file, f"{path}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_npz_object(path: str | pathlib.Path, key: str) -> Any:
    """The object that was saved as `key` in an .npz file; a scalar array of objects gives its object.

    Raises:
      DataError: the file is missing, damaged, lacks the key, or holds something that is not admitted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in keys:
                raise DataError(f"{path}: has no {key!r}; it has {', '.join(sorted(keys))}. Is it the right file?")
            with archive.open(f"{key}.npy") as file:
                value = _read_array(file, f"{path}: {key!r}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: is no .npz file, or a damaged one ({error}); fetch it again") from error
    return value.item() if value.shape == () else value


def _read_array(file: IO[bytes], where: str) -> np.ndarray:
    """An array in NumPy's format; the format module itself would unpickle anything."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, column_major, dtype = read_header[version](file)
        if dtype.hasobject:
            return np.asarray(_load(file, where), object)
        values = np.frombuffer(file.read(), dtype)
        return values.reshape(shape, order="F" if column_major else "C")
    except (ValueError, KeyError, EOFError, zlib.error) as error:
        raise DataError(f"{where} cannot be read ({error}); fetch the file again") from error


def _load(file: IO[bytes], where: str) -> Any:
    try:
        return _Unpickler(file, encoding="latin1").load()
    except _RefusedError as error:
        raise DataError(f"{where} is refused: {error}. Fetch the original file again.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{where} is damaged ({type(error).__name__}: {error}); fetch the file again") from error
