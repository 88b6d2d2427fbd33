"""Moving pictures: frames into MP4 or GIF files."""

import contextlib
import fractions
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxpose.errors import DataError, StorageError

SUFFIXES = (".mp4", ".gif")
FASTEST, USUAL = 240.0, 30.0
"""Greatest rate of a film in frames a second, and that of films whose source states a greater one or none."""
LONGEST = 60.0
"""Most seconds that a frame of a film stays."""
TICKS = 90_000
"""Parts of a second in which times of a film are written."""
FLAT = 3
"""OpenCV's setting for GIFs by which areas of one colour stay as they are: a palette for each frame."""


def write_animation(
    path: str | pathlib.Path, frames: Iterable[np.ndarray], rate: float, times: Iterable[float] | None = None
) -> int:
    """Writes frames one after the other; an MP4 file as they come, a GIF when all are there.

    Args:
      path: path of the file, which ends with one of `SUFFIXES`.
      frames: pictures [H, W, 3] uint8 RGB, all of the size of the first; an odd last row or column is left out.
      rate: frames a second; a frame of a GIF stays for whole hundredths of a second, two of them at least.
      times: rising times of the frames in seconds, where they don't follow one another at that rate.

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
        for frame, time in zip(frames, itertools.repeat(None) if times is None else times):
            first = frame.shape if first is None else first
            if frame.shape != first:
                raise DataError(f"{path}: a frame has shape {frame.shape}, but the first one {first}")
            add(frame, time)
            count += 1
        if not count:
            raise DataError(f"{path}: there is no frame")
    return count


Add = Callable[[np.ndarray, float | None], None]
"""A function that adds a picture [H, W, 3] uint8 RGB, and its time in seconds or None for the next by the rate."""


@contextlib.contextmanager
def film(path: str | pathlib.Path, rate: float) -> Iterator[Add]:
    """A function that adds pictures, all of one size, to an MP4 file; their sides become even.

    With PyAV it is an H.264 video, which browsers play, and frames have their own times. Without, it is MPEG-4 Part 2
    at a constant rate: a frame is repeated, or left out, so that the others come at their times.

    Args:
      path: path of the file.
      rate: frames a second.
    """
    rate = float(rate) if 0 < rate <= FASTEST else USUAL
    with (_h264 if has_h264() else _mpeg4)(path) as write:
        times = _Times(rate)
        yield lambda image, time=None: write(_even(image), times.next(time), rate)


class _Times:
    """Times from the first frame on, in which no frame stays longer than `LONGEST`."""

    def __init__(self, rate: float):
        self._rate, self._given, self._time = rate, None, -1 / rate

    def next(self, given: float | None) -> float:
        """The time in seconds of the next frame; None as its time is the one that the rate gives."""
        step = 1 / self._rate
        if given is not None and self._given is not None:
            step = min(max(given - self._given, 0.0), LONGEST)
        self._given, self._time = given, max(self._time + step, 0.0)
        return self._time


Write = Callable[[np.ndarray, float, float], None]


def has_h264() -> bool:
    """Whether films are written as H.264."""
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


@contextlib.contextmanager
def _h264(path: str | pathlib.Path) -> Iterator[Write]:
    import av
    from av.error import FFmpegError

    streams: list[Any] = []
    last = -1

    def write(image: np.ndarray, time: float, rate: float) -> None:
        nonlocal last
        if not streams:
            stream = container.add_stream("libx264", rate=fractions.Fraction(rate).limit_denominator(1001))
            stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
            stream.options = {"preset": "veryfast", "crf": "20"}
            stream.codec_context.time_base = fractions.Fraction(1, TICKS)
            streams.append(stream)
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        last = max(round(time * TICKS), last + 1)
        frame.pts, frame.time_base = last, fractions.Fraction(1, TICKS)
        container.mux(streams[0].encode(frame))

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            yield write
            for stream in streams:
                container.mux(stream.encode(None))
    except FFmpegError as error:
        raise StorageError(f"{path}: cannot be written ({error})") from error


@contextlib.contextmanager
def _mpeg4(path: str | pathlib.Path) -> Iterator[Write]:
    import cv2

    writer: Any = None
    held: np.ndarray | None = None
    count = 0

    def write(image: np.ndarray, time: float, rate: float) -> None:
        nonlocal writer, held, count
        if writer is None:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, image.shape[1::-1])
            if not writer.isOpened():
                raise DataError(f"{path}: OpenCV cannot write MP4 here; is there room, and does it have FFmpeg?")
        while held is not None and count < round(time * rate):
            writer.write(held)
            count += 1
        held = image

    try:
        yield write
        if held is not None:
            writer.write(held)
    finally:
        if writer is not None:
            writer.release()


@contextlib.contextmanager
def _gif(path: pathlib.Path, rate: float) -> Iterator[Add]:
    """The same as `film` for a GIF, which is written at the end."""
    import cv2

    images: list[np.ndarray] = []
    times: list[float | None] = []

    def add(image: np.ndarray, time: float | None = None) -> None:
        images.append(_even(image))
        times.append(time)

    yield add
    animation = cv2.Animation()
    animation.frames = images
    animation.durations = [max(20, round(100 * step) * 10) for step in _durations(times, rate)]
    if not cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_GIF_DITHER, FLAT]):
        raise DataError(f"{path}: OpenCV {cv2.__version__} cannot write it; write .mp4, or install a newer OpenCV")


def _durations(times: list[float | None], rate: float) -> list[float]:
    """Seconds that each frame stays."""
    pairs = itertools.pairwise(times)
    steps = [1 / rate if a is None or b is None else min(b - a, LONGEST) for a, b in pairs]
    return [*steps, 1 / rate]


def _even(image: np.ndarray) -> np.ndarray:
    """The picture in OpenCV's order of colours, with an even number of rows and columns, which video formats need."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width, ::-1])
