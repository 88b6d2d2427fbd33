"""Files that subcommands write: images, JSON lists, and the names of both."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from jaxpose.errors import DataError


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8 RGB; makes its folder.

    Raises:
      DataError: the name ends in no image format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
    try:
        _, data = cv2.imencode(path.suffix, image[..., ::-1], options)
    except cv2.error as error:
        raise DataError(f"{path}: there is no image format {path.suffix!r}; take .png or .jpg") from error
    path.write_bytes(data.tobytes())


def write_list(path: pathlib.Path, entries: Sequence[dict[str, Any]]) -> None:
    """Writes a JSON list with one entry a line."""
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
    path.write_text(f"[\n{lines}\n]\n" if entries else "[]\n")


def image_name(relative: pathlib.PurePath) -> pathlib.PurePath:
    """A name for a picture of an image: the same for JPEG and PNG, else with .png added."""
    kept = relative.suffix.lower() in (".jpg", ".jpeg", ".png")
    return relative if kept else relative.with_name(relative.name + ".png")


def free_name(path: pathlib.PurePath, taken: set[pathlib.PurePath]) -> pathlib.PurePath:
    """`path`, with a number added if it is among the names `taken`; adds the result to them."""
    names = (path if i == 1 else path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, len(taken) + 2))
    name = next(n for n in names if n not in taken)
    taken.add(name)
    return name
