"""People in videos as examples: the same crop of a frame, of one before it and of one after it."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpose.data.annotations import Annotations
from jaxpose.data.examples.base import Example
from jaxpose.data.examples.people import PersonExamples
from jaxpose.data.views import Rng
from jaxpose.errors import ConfigError, DataError

_MOST_DIGITS = 18


class Neighbours(NamedTuple):
    """The frames that are looked at beside one.

    Attributes:
      previous, next: numbers of the two frames; that of the frame itself where there is none.
      margin: [2] float32 distances of the two in frames; 1 where there is none.
    """

    previous: int
    next: int
    margin: np.ndarray


def candidates(frame: int, available: np.ndarray, distance: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Distances from `frame` to the frames before it and to those after it, the nearest first.

    Args:
      frame: number of the frame.
      available: numbers of the video's frames, in any order.
      distance: (previous, next) distances of the first frames that are too far; 1 to distance - 1 can be taken.
    """
    ahead = np.sort(np.asarray(available)) - frame
    back = -ahead[::-1]
    return back[(back > 0) & (back < distance[0])], ahead[(ahead > 0) & (ahead < distance[1])]


def neighbours(frame: int, available: np.ndarray, distance: tuple[int, int], rng: Rng | None) -> Neighbours:
    """One frame on either side of `frame`.

    In a video without gaps these are the choices of DCPose's code. There frames are drawn in evaluation too; here the
    farthest are taken, which is the same for the published distance of 2, where there is nothing to choose.

    Args:
      frame, available, distance: arguments of `candidates`.
      rng: draws one of the candidates of each side; None takes the farthest.
    """
    steps = []
    for found in candidates(frame, available, distance):
        if rng is not None and len(found) > 1:
            found = found[: 1 + rng.integers(0, len(found))]
        steps.append(int(found[-1]) if len(found) else 0)
    margin = np.maximum(np.array(steps, np.float32), 1)
    return Neighbours(frame - steps[0], frame + steps[1], margin)


@dataclasses.dataclass(frozen=True)
class Videos:
    """Order of the images of a data set in videos.

    Attributes:
      video: [I] video of each image, any values that can be compared.
      frame: [I] int64 number of each image in its video, rising with time.

    Raises:
      DataError: two images are the same frame of a video.
    """

    video: np.ndarray
    frame: np.ndarray

    def __post_init__(self):
        for video, rows in self._rows.items():
            frames = self.frame[rows]
            if (twice := np.flatnonzero(frames[1:] == frames[:-1])).size:
                first, second = rows[twice[0]], rows[twice[0] + 1]
                raise DataError(
                    f"images {first} and {second} of the data set are both frame {frames[twice[0]]} of video {video}; "
                    "expected different numbers. Remove one of them from the annotations."
                )

    @classmethod
    def of(cls, annotations: Annotations) -> "Videos":
        """As the columns `video_id` and `frame_id` say, where a data set has them, else as files are named."""
        video, frame = (getattr(annotations, name, None) for name in ("video_id", "frame_id"))
        if video is None or frame is None:
            return cls.by_file_name(annotations.file_name.tolist())
        return cls(video, frame)

    @classmethod
    def by_file_name(cls, file_name: Sequence[str]) -> "Videos":
        """Images of one folder are a video, and the digits at the end of a name (VIDEO/000012.jpg) are the frame.

        An image without such a number is a video of its own, and so is one with a longer number than frames have.
        """
        paths = [pathlib.PurePosixPath(name) for name in file_name]
        numbers = [re.search(rf"(?<!\d)\d{{1,{_MOST_DIGITS}}}$", path.stem) for path in paths]
        folders = [str(path.parent if number else path) for path, number in zip(paths, numbers, strict=True)]
        return cls(np.array(folders, np.str_), np.array([int(n[0]) if n else 0 for n in numbers], np.int64))

    def __len__(self) -> int:
        """The number of videos."""
        return len(self._rows)

    @functools.cached_property
    def _rows(self) -> dict[str | int, np.ndarray]:
        """Rows of the images of each video, in order of their frames."""
        order = np.lexsort((self.frame, self.video))
        videos, starts = np.unique(self.video[order], return_index=True)
        return dict(zip(videos.tolist(), np.split(order, starts[1:]), strict=True))

    def around(self, row: int, distance: tuple[int, int], rng: Rng | None) -> tuple[int, int, np.ndarray]:
        """Rows of the previous and the next image of image `row`, and their margin; see `neighbours`."""
        rows = self._rows[self.video[row].item()]
        frames = self.frame[rows]
        found = neighbours(int(self.frame[row]), frames, distance, rng)
        previous, following = rows[np.searchsorted(frames, [found.previous, found.next])]
        return int(previous), int(following), found.margin


@dataclasses.dataclass
class ClipExamples(PersonExamples):
    """People of videos as examples of a method for clips: crops of three frames, labels of the current one.

    All three frames are seen through the box of the current one, in the same view.

    Attributes:
      videos: videos to which the source's images belong.
      distance: (previous, next) distances of `candidates`.

    Raises:
      ConfigError: random boxes or centered joints are asked for, which clips have not, or a distance is not positive.
    """

    videos: Videos = dataclasses.field(kw_only=True)
    distance: tuple[int, int] = dataclasses.field(default=(2, 2), kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if self.proposals is not None or self.centered:
            raise ConfigError("config.data.proposals asks for random training boxes, but clips show true ones alone")
        if min(self.distance) < 1:
            raise ConfigError(
                f"the distance of frames is {self.distance}, but each has to be positive: 1 for the current frame "
                "alone, 2 for the frames next to it"
            )

    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> Example:
        row, joints = int(self.people.image[i]), self.source.annotations.skeleton
        keypoints, visible = self.people.keypoints[i], self.people.visibility[i]
        previous, following, margin = self.videos.around(row, self.distance, rng)
        view = self.crop.view(self.people.box[i])
        if rng is not None:
            view = self.augmentation(view, keypoints, visible, joints, rng)
        example = self.crop.example(image, view, keypoints, visible, joints)
        shown = {row: example["image"]}
        for other in (previous, following):
            if other not in shown:
                shown[other] = self.crop.cut(self.picture(other), view)[0]
        return example | {
            "image": np.stack([shown[frame] for frame in (row, previous, following)]),
            "margin": margin,
            "person_score": np.float32(self.people.score[i]),
            "index": np.int32(i),
            "valid": np.bool_(True),
        }


def confident(boxes: dict[str, np.ndarray], least: float) -> dict[str, np.ndarray]:
    """A detector's boxes with a score of at least `least`; PoseTrack's evaluation by DCPose takes 0.2.

    Args:
      boxes: columns that `sources.coco.read_detections` gives.
      least: lowest score that is kept.
    """
    keep = boxes["score"] >= np.float32(least)
    return {name: values[keep] for name, values in boxes.items()}
