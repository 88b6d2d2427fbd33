"""Files that subcommands write: images, JSON lists, and the names of both."""

import json
import pathlib
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from jaxpose.errors import DataError, StorageError
from jaxpose.files.whole import write_bytes, write_text


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8 RGB; makes its folder.

    Raises:
      DataError: the name ends in no image format.
      StorageError: it cannot be written.
    """
    make_folder(path.parent)
    options = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
    try:
        _, data = cv2.imencode(path.suffix, image[..., ::-1], options)
    except cv2.error as error:
        raise DataError(f"{path}: there is no image format {path.suffix!r}; take .png or .jpg") from error
    write_bytes(path, data.tobytes())


def write_list(path: pathlib.Path, entries: Sequence[dict[str, Any]]) -> None:
    """Writes a JSON list with one entry a line, whole or not at all.

    Raises:
      StorageError: it cannot be written.
    """
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
    write_text(path, f"[\n{lines}\n]\n" if entries else "[]\n")


def image_name(relative: pathlib.PurePath) -> pathlib.PurePath:
    """A name for a picture of an image: the same for JPEG and PNG, else with .png added."""
    kept = relative.suffix.lower() in (".jpg", ".jpeg", ".png")
    return relative if kept else relative.with_name(relative.name + ".png")


def free_name(path: pathlib.PurePath, taken: set[str]) -> pathlib.PurePath:
    """`path`, with a number added if it is among the names `taken`, which it joins in the form of `folded`."""
    names = (path if i == 1 else path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, len(taken) + 2))
    name = next(n for n in names if folded(n) not in taken)
    taken.add(folded(name))
    return name


def folded(path: pathlib.PurePath | str) -> str:
    """A name as file systems compare it that don't tell upper from lower case, or forms of one letter apart."""
    return unicodedata.normalize("NFC", pathlib.PurePath(path).as_posix()).casefold()


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder and those that it lies in, where they are missing.

    Raises:
      StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: the folder cannot be made ({error.strerror or error})") from error


def first_replaced(written: Iterable[pathlib.Path], read: Collection[pathlib.Path]) -> pathlib.Path | None:
    """The first of the paths to write to that is, by any name or link, one of the files that are read."""
    places, known = {path.resolve() for path in read}, {identity(path) for path in read} - {None}
    return next((path for path in written if path.resolve() in places or identity(path) in known), None)


def identity(path: pathlib.Path) -> tuple[int, int] | None:
    """What all names of one file share, hard links and symbolic ones too; None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
