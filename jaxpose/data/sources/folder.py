"""A folder of pictures whose sizes the annotations don't tell: read from the files' headers."""

import concurrent.futures
import functools
import pathlib
import struct
from collections.abc import Sequence

import numpy as np

from jaxpose.data import images
from jaxpose.errors import DataError, ImageError

_HEAD = 1 << 16  # bytes in which a header is found, as a rule
_THREADS = 16


def picture_sizes(folder: pathlib.Path, names: Sequence[str], remedy: str) -> np.ndarray:
    """[I, 2] int32 (width, height) of the pictures `names` in `folder`.

    Args:
      folder: of the pictures.
      names: file names in it.
      remedy: what to do where pictures are missing, for the message.

    Raises:
      DataError: pictures are missing or are none; the message counts them and names the first.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(functools.partial(_size, folder), names))
    bad = [(name, why) for name, why in zip(names, found, strict=True) if isinstance(why, ImageError)]
    if bad:
        listed = "; ".join(f"{name}: {error.why}" for name, error in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DataError(f"{folder}: {len(bad)} of {len(names)} pictures cannot be read ({listed}{more}). {remedy}")
    return np.array(found, np.int32).reshape(-1, 2)


def _size(folder: pathlib.Path, name: str) -> tuple[int, int] | ImageError:
    try:
        with open(folder / name, "rb") as file:
            head = file.read(_HEAD)
        return jpeg_size(head) or _decoded_size(folder / name, name)
    except OSError as error:
        return ImageError(name, error.strerror or str(error))
    except ImageError as error:
        return error


def _decoded_size(path: pathlib.Path, name: str) -> tuple[int, int]:
    height, width = images.decode(images.read(path), name).shape[:2]
    return width, height


def jpeg_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) from the first bytes of a JPEG file; None if it is none or its frame header comes later."""
    if not head.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], struct.unpack(">H", head[at + 2 : at + 4])[0]
        if marker == 0xFF:  # a byte of padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame, of any coding
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return (width, height) if width and height else None
        else:
            at += 2 + length
    return None
