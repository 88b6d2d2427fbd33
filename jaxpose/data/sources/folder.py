"""A folder of pictures: as a data set without labels, and for those whose annotations don't tell the pictures' sizes.

Without labels it is a target domain for methods of domain adaptation: all pictures of the folder `data.<split>.images`
(relative to `data.dir`) and of those in it, in order of their names. Where people are is for `data.<split>.boxes` to
say: "image" for pictures of one person each, or a file of detections whose image_id counts the pictures from 1.
"""

import concurrent.futures
import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data import images
from jaxpose.data.annotations import Annotations
from jaxpose.data.formats import pictures
from jaxpose.data.formats.pictures import Header
from jaxpose.data.sources import Source, require_folder
from jaxpose.errors import ConfigError, DataError, ImageError
from jaxpose.skeleton import Skeleton

logger = logging.getLogger(__name__)

_HEAD, _LONG_HEAD = 1 << 11, 1 << 16  # bytes in which a header is found mostly, and as a rule
_THREADS = 16


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
    names = sorted(str(path.relative_to(folder)) for path in images.find(folder))
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
    """[I, 2] int32 (width, height) of the pictures `names` in `folder`, upright.

    Labels without sizes don't tell whether they are of the upright picture or of the stored one: where pictures have an
    EXIF orientation, the log says so.

    Args:
      folder: folder of the pictures.
      names: [I] file names in the folder.
      remedy: advice for the message where pictures are missing.

    Raises:
      DataError: pictures are missing or are none; the message counts them and names the first.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(functools.partial(_header, folder), names))
    bad = [(name, why) for name, why in zip(names, found, strict=True) if isinstance(why, ImageError)]
    if bad:
        listed = "; ".join(f"{name}: {error.why}" for name, error in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DataError(f"{folder}: {len(bad)} of {len(names)} pictures cannot be read ({listed}{more}). {remedy}")
    headers = [header for header in found if not isinstance(header, ImageError)]
    if turned := [name for name, header in zip(names, headers, strict=True) if header.orientation > 1]:
        text = "%s: %d of %d pictures have an EXIF orientation (%s first): they are seen upright, as labels have to be"
        logger.warning(text, folder, len(turned), len(names), turned[0])
    return np.array([header.upright_size for header in headers], np.int32).reshape(-1, 2)


def _header(folder: pathlib.Path, name: str) -> Header | ImageError:
    """The header of a picture, with its size."""
    try:
        with open(folder / name, "rb") as file:
            found = pictures.header(head := file.read(_HEAD))
            if found is None or found.size is None:
                found = pictures.header(head + file.read(_LONG_HEAD))
            if found is not None and found.format == "PNG" and found.orientation == 1:
                found = dataclasses.replace(found, orientation=pictures.late_orientation(_tail(file)))
        if found is None or found.size is None or found.format not in ("JPEG", "PNG"):
            return _decoded_header(folder / name, name)
        images.check_size(*found.size, name)
        return found
    except (OSError, ValueError) as error:
        return ImageError(name, getattr(error, "strerror", None) or str(error))
    except ImageError as error:
        return error


def _tail(file: BinaryIO) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _HEAD))
    return file.read()


def _decoded_header(path: pathlib.Path, name: str) -> Header:
    """That of the upright picture."""
    data = images.read(path)
    height, width = images.decode(data, name).shape[:2]
    found = pictures.header(data) or Header("", None)
    return dataclasses.replace(found, size=(height, width) if found.orientation > 4 else (width, height))
