"""A folder of pictures: as a data set without labels, and for those whose annotations don't tell the pictures' sizes.

Without labels it is a target domain for methods of domain adaptation: all pictures of the folder `data.<split>.images`
(relative to `data.dir`) and of those in it, in order of their names. Where people are is for `data.<split>.boxes` to
say: "image" for pictures of one person each, or a file of detections whose image_id counts the pictures from 1.
"""

import concurrent.futures
import functools
import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data import images
from jaxpose.data.annotations import Annotations
from jaxpose.data.sources import Source, require_folder
from jaxpose.errors import ConfigError, DataError, ImageError
from jaxpose.skeleton import Skeleton

_HEAD, _LONG_HEAD = 1 << 11, 1 << 16  # bytes in which a header is found mostly, and as a rule
_THREADS = 16
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The pictures that `config.data.<split>` names; see the top of this file.

    Raises:
      ConfigError: a field is missing, or nothing says where people are.
      DataError: the folder has no pictures, or one that cannot be read.
    """
    del progress
    root = require_folder(data.dir, "data.dir", "the folder under which the pictures are")
    fields = data.get(split, {})
    folder = require_folder(str(root / fields.get("images", "")), f"data.{split}.images", "a folder of pictures")
    if not fields.get("boxes", ""):
        raise ConfigError(
            f"config.data.{split}.boxes is empty, but pictures of a folder have no labels that tell where people are. "
            "Set it to 'image' if each picture shows one person, or to a file of detections."
        )
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES)
    if not names:
        raise DataError(f"{folder}: has no pictures; expected files that end in {', '.join(images.SUFFIXES)}")
    sizes = picture_sizes(folder, names, "Repair them, or take them out of the folder.")

    def read(i: int) -> bytes:
        return images.read(folder / names[i])

    return Source(name=str(folder), annotations=_nobody(skeletons.get(data.skeleton), names, sizes), read=read)


def _nobody(skeleton: Skeleton, names: list[str], sizes: np.ndarray) -> Annotations:
    """Pictures without annotated people."""
    none, joints = np.zeros(0, np.int64), (0, skeleton.num_joints)
    return Annotations(
        skeleton=skeleton,
        image_id=np.arange(1, len(names) + 1, dtype=np.int64),
        file_name=np.array(names, np.str_),
        width=sizes[:, 0],
        height=sizes[:, 1],
        person_image=none.astype(np.int32),
        person_id=none,
        box=np.zeros((0, 4), np.float32),
        keypoints=np.zeros((*joints, 2), np.float32),
        visibility=np.zeros(joints, np.uint8),
        area=none.astype(np.float32),
        crowd=none.astype(bool),
        track_id=none,
    )


def picture_sizes(folder: pathlib.Path, names: Sequence[str], remedy: str) -> np.ndarray:
    """[I, 2] int32 (width, height) of the pictures `names` in `folder`.

    Args:
      folder: folder of the pictures.
      names: [I] file names in the folder.
      remedy: advice for the message where pictures are missing.

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
            found = jpeg_size(head) or png_size(head) or jpeg_size(head + file.read(_LONG_HEAD))
        return found or _decoded_size(folder / name, name)
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


def png_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) from the first bytes of a PNG file; None if it is none."""
    if not head.startswith(_PNG) or len(head) < len(_PNG) + 8:
        return None
    width, height = struct.unpack(">II", head[len(_PNG) : len(_PNG) + 8])
    return (width, height) if width and height else None
