"""Encoded image bytes -> RGB pixels, the same for training, evaluation and prediction.

A picture is seen upright: turned as its EXIF data say. Labels are of the upright picture, too, unless their size says
otherwise (`decode_labelled`): a file whose labels have the size of the stored pixels, and not that of the upright ones,
is seen as it is stored. Of an animated picture the first frame is seen. Transparency is left out.
"""

import logging
import pathlib

import numpy as np

from jaxpose.data.formats import pictures
from jaxpose.data.formats.pictures import Header
from jaxpose.errors import ImageError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Endings by which pictures of a folder are found. Files that are named may be of any format that OpenCV reads."""
OTHER_SUFFIXES = (".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".ppm", ".tif", ".tiff")
"""Endings of pictures that are not looked for in folders."""
MOST_PIXELS = 1 << 28
"""Most pixels of a picture: 268 million, 0.8 GB of memory."""
MOST_SIDE = 65_535
"""Most pixels of a side of a picture."""

SEVERAL_FRAMES = "have several frames, of which the first is seen"
AS_STORED = "have an EXIF orientation that their labels don't follow, by their size; they are seen as they are stored"
UNTOLD = (
    "have an EXIF orientation, and their size is the same turned or not, so that it does not tell which of the two is "
    "labelled; they are seen upright"
)


def decode(data: bytes, name: str) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a picture, upright.

    Args:
      data: content of the file.
      name: name of the image in messages.

    Raises:
      ImageError: the bytes are empty, cut off, no image, or one beyond `MOST_PIXELS` or `MOST_SIDE`.
    """
    head = _checked_header(data, name)
    if head is not None and head.frames > 1:
        logger.warning("%s: has several frames (%s), of which the first is used", name, head.format)
    return _turned(_decoded(data, name, head), head.orientation if head else 1)


def decode_labelled(data: bytes, name: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture that labels are of: upright, or as it is stored if only that has the labels' size.

    Args:
      data, name: arguments of `decode`.
      size: (width, height) of the picture in its labels.

    Returns:
      [H, W, 3] uint8 RGB, and what is to be said about the picture, if anything: `SEVERAL_FRAMES`, `AS_STORED`,
      `UNTOLD`.

    Raises:
      ImageError: as `decode`, or labels are of another size.
    """
    head = _checked_header(data, name)
    image, orientation, notes = _decoded(data, name, head), head.orientation if head else 1, []
    stored = image.shape[1], image.shape[0]
    upright = stored[::-1] if orientation > 4 else stored
    if size not in (stored, upright):
        raise ImageError(name, _other_size(stored, upright, orientation, size))
    if head is not None and head.frames > 1:
        notes.append(SEVERAL_FRAMES)
    if orientation > 1 and stored == upright:
        notes.append(UNTOLD)
    if size != upright:
        return image, (*notes, AS_STORED)
    return _turned(image, orientation), tuple(notes)


def _other_size(stored: tuple[int, int], upright: tuple[int, int], orientation: int, size: tuple[int, int]) -> str:
    def shown(sides: tuple[int, int]) -> str:
        return f"{sides[0]} x {sides[1]}"

    found = f"has {shown(upright)} pixels"
    if orientation > 1:
        found += f" (upright by its EXIF orientation {orientation}; {shown(stored)} as it is stored)"
    remedy = "do both belong to the same release of the data set?"
    if size == stored[::-1]:
        remedy = (
            "was it turned, or was its EXIF orientation lost, after it was labelled, or are labels of another release?"
        )
    return f"{found}, but {shown(size)} in the annotations; {remedy}"


def _checked_header(data: bytes, name: str) -> Header | None:
    """The header of a picture that can be decoded as far as it says; None where the format is not known."""
    if not data:
        raise ImageError(name, "the file is empty; fetch it again")
    head = pictures.header(data)
    if head is None:
        return None
    if head.size is not None:
        check_size(*head.size, name)
    if pictures.is_cut_off(data, head):
        raise ImageError(name, f"the {head.format} is cut off after {len(data)} bytes (no end marker); fetch it again")
    return head


def check_size(width: int, height: int, name: str) -> None:
    """Raises ImageError for a picture without pixels, or one beyond `MOST_PIXELS` or `MOST_SIDE`."""
    if not width or not height:
        raise ImageError(name, f"has {width} x {height} pixels by its header, which is nothing to see; fetch it again")
    if max(width, height) > MOST_SIDE or width * height > MOST_PIXELS:
        limit = f"the limit is {MOST_SIDE:,} a side and {MOST_PIXELS:,} in all"
        raise ImageError(name, f"has {width:,} x {height:,} pixels, but {limit}; make it smaller")


def _decoded(data: bytes, name: str, head: Header | None) -> np.ndarray:
    """The stored pixels; turned by OpenCV where the format is not known here."""
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if head else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(name, f"cannot be decoded ({error.err}); fetch it again") from error
    if image is None:
        raise ImageError(name, f"its {len(data)} bytes are not a picture that can be decoded; fetch it again")
    check_size(image.shape[1], image.shape[0], name)
    return image


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels [h, w, 3] upright, by an orientation of EXIF."""
    if orientation > 4:
        image = image.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(image[rows, columns])


def read(path: str | pathlib.Path) -> bytes:
    """The content of an image file.

    Raises:
      ImageError: there is no such file, or it cannot be read.
    """
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ImageError(str(path), f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have
        raise ImageError(str(path), f"cannot be read ({error})") from error


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pictures of a folder and of those in it, in order of their paths.

    Hidden files, such as those that some systems write beside others (._1.jpg), are none. Pictures of other formats are
    counted in the log.
    """
    files = sorted(path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file())
    others = [path for path in files if path.suffix.lower() in OTHER_SUFFIXES]
    if others:
        text = "%s: %d pictures are left out (%s first); pictures of a folder are those that end in %s. Convert them."
        logger.warning(text, folder, len(others), others[0].name, ", ".join(SUFFIXES))
    return [path for path in files if path.suffix.lower() in SUFFIXES]
