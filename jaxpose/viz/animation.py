"""Moving pictures: frames into MP4 or GIF files."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from jaxpose.errors import DataError

SUFFIXES = (".mp4", ".gif")
FLAT = 3
"""OpenCV's setting for GIFs by which areas of one colour stay as they are: a palette for each frame."""


def write_animation(path: str | pathlib.Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """Writes frames one after the other; an MP4 file as they come, a GIF when all are there.

    Args:
      path: path of the file, which ends with one of `SUFFIXES`.
      frames: pictures [H, W, 3] uint8 RGB, all of the size of the first; an odd last row or column is left out.
      rate: frames a second; a frame of a GIF stays for whole hundredths of a second, two of them at least.

    Returns:
      The number of frames.

    Raises:
      DataError: another format, no frame, frames of several sizes, or a file that cannot be written.
    """
    path = pathlib.Path(path)
    written = {".mp4": film, ".gif": _gif}.get(path.suffix.lower())
    if written is None:
        raise DataError(f"{path}: animations are written as {' or '.join(SUFFIXES)}")
    first, count = None, 0
    with written(path, rate) as add:
        for frame in frames:
            first = frame.shape if first is None else first
            if frame.shape != first:
                raise DataError(f"{path}: a frame has shape {frame.shape}, but the first one {first}")
            add(frame)
            count += 1
        if not count:
            raise DataError(f"{path}: there is no frame")
    return count


@contextlib.contextmanager
def film(path: str | pathlib.Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds pictures [H, W, 3] uint8 RGB, all of one size, to an MP4 file; its sides become even."""
    import cv2

    writer = None

    def add(image: np.ndarray) -> None:
        nonlocal writer
        image = _even(image)
        if writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(path), code, float(rate), image.shape[1::-1])
            if not writer.isOpened():
                raise DataError(f"{path}: OpenCV cannot write MP4 here; is there room, and does it have FFmpeg?")
        writer.write(image)

    try:
        yield add
    finally:
        if writer is not None:
            writer.release()


@contextlib.contextmanager
def _gif(path: pathlib.Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """The same for a GIF, which is written at the end."""
    import cv2

    images: list[np.ndarray] = []
    yield lambda image: images.append(_even(image))
    animation = cv2.Animation()
    animation.frames = images
    animation.durations = [max(20, round(100 / rate) * 10)] * len(images)
    if not cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_GIF_DITHER, FLAT]):
        raise DataError(f"{path}: OpenCV {cv2.__version__} cannot write it; write .mp4, or install a newer OpenCV")


def _even(image: np.ndarray) -> np.ndarray:
    """The picture in OpenCV's order of colours, with an even number of rows and columns, which video formats need."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width, ::-1])
