"""Small pictures and annotation files on disk, for tests of data sets."""

import json
import pathlib
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict


def write(path: pathlib.Path, size: tuple[int, int] = (48, 48)) -> None:
    """A grey picture of `size` (width, height); its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), 99, np.uint8))


def write_json(path: pathlib.Path, content: Any) -> None:
    """As JSON, arrays as lists; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, default=lambda array: array.tolist()))


def config(source: str, root: pathlib.Path, skeleton: str, split: str = "train", **fields: Any) -> ConfigDict:
    """`config.data` with one split."""
    return ConfigDict({"source": source, "dir": str(root), "skeleton": skeleton, split: fields})
