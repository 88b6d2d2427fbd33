"""Arrays in .npz files: read within bounds, without making any object, and written with a digest of the file."""

import hashlib
import io
import math
import pathlib
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np

from jaxpose.errors import DataError
from jaxpose.files.whole import whole

GROWTH = 100
"""Most that a compressed file may grow: what states more, and more than `SMALL`, is no data set but a trap."""
SMALL = 256 << 20
"""Bytes that any file may grow to."""
_SEAL = b"jaxpose sha256 "


def read_npz(path: str | pathlib.Path, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name.

    What `write_npz` wrote is compared with its digest. Arrays are made only where the file has their bytes.

    Args:
      path: path of the file.
      keys: names of the arrays to read, all of which must be there; None for all.

    Raises:
      DataError: the file is missing, damaged or no .npz file, lacks an array, or has one of objects or of a size that
        it cannot hold.
    """
    with open_npz(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if missing := sorted(set(keys or ()) - set(names)):
            raise DataError(f"{path}: lacks the arrays {missing}; it has {sorted(names)[:10]}. Is it the right file?")
        return {name: _member(archive, name, path) for name in names if keys is None or name in keys}


def _member(archive: zipfile.ZipFile, name: str, path: Any) -> np.ndarray:
    data = read_member(archive, f"{name}.npy" if f"{name}.npy" in archive.namelist() else name, path)
    dtype, shape, column_major, values = split_array(data, f"{path}: array {name!r}")
    if dtype.hasobject:
        raise DataError(f"{path}: array {name!r} holds Python objects, which are not read; save it as numbers")
    return array_of(dtype, shape, column_major, values, f"{path}: array {name!r}")


def open_npz(path: str | pathlib.Path) -> zipfile.ZipFile:
    """The archive that an .npz file is, in memory, with its digest checked if it has one.

    Raises:
      DataError: the file is missing, is no archive, or does not fit its digest.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory") from error
    archive = open_archive(data, path, "an .npz file")
    body, end = data[: -len(_SEAL) - 64], data[-len(_SEAL) - 64 :]
    sealed = any(_is_like_seal(part[: len(_SEAL)]) for part in (end, archive.comment))
    if sealed and end != _SEAL + hashlib.sha256(body).hexdigest().encode():
        raise DataError(f"{path}: is damaged: its bytes don't fit the digest at its end; copy or make it again")
    return archive


def _is_like_seal(text: bytes) -> bool:
    """Whether no more than one letter is wrong."""
    return len(text) == len(_SEAL) and sum(a != b for a, b in zip(text, _SEAL, strict=True)) <= 1


def open_archive(data: bytes, path: Any, what: str) -> zipfile.ZipFile:
    """The ZIP archive in `data`.

    Raises:
      DataError: there is none, a name comes twice, or it states to hold more than a file of its size can.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    except Exception as error:  # a damaged directory of members can raise anything
        raise DataError(f"{path}: is not {what}, or a damaged one ({error}); fetch it again") from error
    if len(sizes) != len(archive.infolist()):
        raise DataError(f"{path}: has two members of one name; fetch it again")
    most = max(SMALL, GROWTH * len(data))
    if sum(sizes.values()) > most:
        raise DataError(
            f"{path}: states to hold {sum(sizes.values()):,} bytes in its {len(data):,}; at most {most:,} are read"
        )
    return archive


def read_member(archive: zipfile.ZipFile, name: str, path: Any) -> bytes:
    """The bytes of a member of an archive, compared with its checksum.

    Raises:
      DataError: it is damaged, or not as long as stated.
    """
    try:
        with archive.open(name) as file:
            size = archive.getinfo(name).file_size
            data = file.read(size + 1)
    except Exception as error:  # a damaged member can raise anything
        raise DataError(f"{path}: its part {name!r} is damaged ({error}); fetch the file again") from error
    if len(data) != size:
        raise DataError(f"{path}: its part {name!r} has {len(data)} bytes, expected {size}; fetch the file again")
    return data


def split_array(data: bytes, where: str) -> tuple[np.dtype, tuple[int, ...], bool, memoryview]:
    """dtype, shape, whether columns come first, and the bytes of values, of an array in NumPy's format.

    Raises:
      DataError: there is none.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, column_major, dtype = headers[version](file)
    except Exception as error:  # a damaged header can raise anything
        raise DataError(f"{where} has no readable header ({type(error).__name__}); fetch the file again") from error
    return dtype, shape, column_major, memoryview(data)[file.tell() :]


def array_of(dtype: np.dtype, shape: tuple[int, ...], column_major: bool, values: Any, where: str) -> np.ndarray:
    """An array that owns its memory, from its bytes.

    Raises:
      DataError: there are more or fewer bytes than dtype and shape need.
    """
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        raise DataError(f"{where} states shape {shape} of {dtype}, but has {len(values):,} bytes; fetch the file again")
    try:
        array = np.frombuffer(values, dtype) if len(values) else np.zeros(shape, dtype)
        return array.reshape(shape, order="F" if column_major else "C").copy(order="K")
    except (ValueError, MemoryError) as error:
        raise DataError(f"{where} of shape {shape} cannot be held ({error}); fetch the file again") from error


def write_npz(path: str | pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes an .npz file, whole or not at all, that ends with a digest of all that is before.

    The digest is the archive's comment, which other programs skip.

    Raises:
      StorageError: it cannot be written.
    """
    with whole(path) as unfinished, unfinished.open("w+b") as file:
        write_archive(file, arrays, zipfile.ZIP_STORED, _SEAL + b"0" * 64)
        file.seek(0)
        digest = hashlib.sha256(file.read()[: -len(_SEAL) - 64]).hexdigest()
        file.seek(-64, io.SEEK_END)
        file.write(digest.encode())


def write_archive(file: IO[bytes], arrays: Mapping[str, Any], compression: int, comment: bytes = b"") -> None:
    """Writes arrays as an .npz archive whose bytes depend on nothing but the arguments."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = compression
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(entry, data.getvalue())
