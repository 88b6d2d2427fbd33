"""Pickled dictionaries of arrays, read without trusting the file.

Data sets of 3D pose are published as pickles, inside .npz files or bare. A pickle is a program; this reader runs none:
it admits NumPy arrays and scalars, dictionaries, lists, tuples, strings and numbers, and refuses anything else.
"""

import io
import pathlib
from typing import Any

from jaxpose.errors import DataError
from jaxpose.files import arrays
from jaxpose.files.unpickling import RefusedError, Unpickler, check_size


def read_pickle(path: str | pathlib.Path) -> Any:
    """The object in a pickle file; text of Python 2 is read as Latin-1.

    Raises:
      DataError: the file is missing, damaged, or holds something that is not admitted.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _load(data, f"{path}")


def read_npz_object(path: str | pathlib.Path, key: str) -> Any:
    """The object that was saved as `key` in an .npz file; a scalar array of objects gives its object.

    Raises:
      DataError: the file is missing, damaged, lacks the key, or holds something that is not admitted.
    """
    with arrays.open_npz(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        if f"{key}.npy" not in archive.namelist():
            raise DataError(f"{path}: has no {key!r}; it has {', '.join(sorted(keys))}. Is it the right file?")
        data, where = arrays.read_member(archive, f"{key}.npy", path), f"{path}: {key!r}"
    dtype, shape, column_major, values = arrays.split_array(data, where)
    if not dtype.hasobject:
        value = arrays.array_of(dtype, shape, column_major, values, where)
        return value.item() if value.shape == () else value
    value = _load(bytes(values), where)
    return value.item() if getattr(value, "shape", None) == () else value


def _load(data: bytes, where: str) -> Any:
    try:
        value = Unpickler(io.BytesIO(data)).load()
        check_size(value)
        return value
    except RefusedError as error:
        raise DataError(f"{where} is refused: {error}. Fetch the original file again.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{where} is damaged ({type(error).__name__}: {error}); fetch the file again") from error
