"""Encoded image bytes -> RGB pixels."""

import pathlib

import numpy as np

from jaxpose.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def decode(data: bytes, name: str, upright: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 RGB from the bytes of a JPEG, PNG, BMP or WebP file.

    Args:
      data: content of the file.
      name: name of the image in messages.
      upright: True to turn the image as its EXIF data say. Annotations of data sets refer to the stored pixels.

    Raises:
      ImageError: the bytes are empty, truncated, or no image.
    """
    import cv2

    if not data:
        raise ImageError(name, "the file is empty; fetch it again")
    if data.startswith(b"\xff\xd8") and _is_cut_off(data):
        raise ImageError(name, f"the JPEG is cut off after {len(data)} bytes (no end marker); fetch it again")
    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(name, f"cannot be decoded ({error.err}); fetch it again") from error
    if image is None:
        raise ImageError(name, f"its {len(data)} bytes are not a picture that can be decoded; fetch it again")
    return image


def _is_cut_off(jpeg: bytes) -> bool:
    """No end-of-image marker after the last start of scan. A decoder would fill the rest of the picture with grey."""
    return jpeg.find(b"\xff\xd9", max(jpeg.rfind(b"\xff\xda"), 0)) < 0


def read(path: str | pathlib.Path) -> bytes:
    """The content of an image file.

    Raises:
      ImageError: there is no such file, or it cannot be read.
    """
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ImageError(str(path), f"cannot be read ({error.strerror})") from error
