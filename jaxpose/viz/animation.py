"""Moving pictures: frames into MP4 or GIF files."""

import pathlib
from collections.abc import Iterable

import numpy as np

from jaxpose.errors import DataError

SUFFIXES = (".mp4", ".gif")
FLAT = 3
"""OpenCV's way to make a GIF's colours that leaves areas of one colour as they are: a palette for each frame."""


def write_animation(path: str | pathlib.Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """Writes frames one after the other; an MP4 file as they come, a GIF when all are there.

    Args:
      path: ends with one of `SUFFIXES`.
      frames: [H, W, 3] uint8 RGB, all of the size of the first; an odd last row or column is left out.
      rate: frames a second; GIF players round a frame's time to hundredths of a second.

    Returns:
      How many frames there were.

    Raises:
      DataError: another format, no frame, frames of several sizes, or a file that cannot be written.
    """
    import cv2

    path = pathlib.Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: animations are written as {' or '.join(SUFFIXES)}")
    even = _even(path, frames)
    if path.suffix.lower() == ".gif":
        animation = cv2.Animation()
        animation.frames = [np.ascontiguousarray(frame[..., ::-1]) for frame in even]
        animation.durations = [max(20, round(1000 / rate))] * len(animation.frames)
        if not len(animation.frames):
            raise DataError(f"{path}: there is no frame")
        if not cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_GIF_DITHER, FLAT]):
            raise DataError(f"{path}: OpenCV {cv2.__version__} cannot write it; write .mp4, or install a newer OpenCV")
        return len(animation.frames)
    return _write_video(path, even, rate)


def _write_video(path: pathlib.Path, frames: Iterable[np.ndarray], rate: float) -> int:
    import cv2

    writer, count = None, 0
    try:
        for frame in frames:
            if writer is None:
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(path), code, float(rate), frame.shape[1::-1])
                if not writer.isOpened():
                    raise DataError(f"{path}: OpenCV {cv2.__version__} cannot write MP4 files here; write .gif")
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
            count += 1
    finally:
        if writer is not None:
            writer.release()
    if not count:
        raise DataError(f"{path}: there is no frame")
    return count


def _even(path: pathlib.Path, frames: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Frames with an even number of rows and columns, which video formats need."""
    first = None
    for frame in frames:
        first = frame.shape if first is None else first
        if frame.shape != first:
            raise DataError(f"{path}: a frame has shape {frame.shape}, but the first one {first}")
        yield frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
