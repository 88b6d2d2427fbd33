"""Who is who from one frame of a video to the next: tracks of people, as they come, and smooth poses of each.

    tracker = Tracker(predictor.skeleton.sigmas)
    for picture, people in predictor.stream(frames):
        tracked = tracker.update(people.keypoints, people.scores, people.person_score, people.boxes)
        tracked.track_id, tracked.keypoints

A person of a new frame is compared with where every track is expected: by object keypoint similarity, which tells
people apart who stand close together, and by the overlap of boxes, which still holds where joints are hidden. The best
assignment of all people to all tracks counts. Memory is bounded by the number of people in view, not by the video.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxpose.errors import ConfigError, DataError
from jaxpose.ops.arrays import fits_float32
from jaxpose.ops.boxes import box_iou
from jaxpose.types import Array

UNTRACKED = -1
"""The track of a person who is too doubtful to begin one."""

_FULL_CIRCLE = 2 * math.pi


@dataclasses.dataclass(frozen=True)
class OneEuro:
    """The one-euro filter (Casiez et al., CHI 2012): steady when still, quick when fast.

    Each joint passes a low-pass filter whose cutoff grows with its speed. Speed is measured in the person's size (the
    root of the box's area) a second, so that the same numbers serve near and far people.

    Attributes:
      cutoff: cutoff frequency in hertz for a joint at rest; less is steadier.
      speed: growth of the cutoff with the speed, in hertz for a speed of 1; more follows quicker.
      speed_cutoff: cutoff frequency in hertz of the filter of the speed itself.
    """

    cutoff: float = 1.0
    speed: float = 8.0
    speed_cutoff: float = 1.0

    def __post_init__(self):
        numbers = (self.cutoff, self.speed, self.speed_cutoff)
        if not np.isfinite(numbers).all() or min(self.cutoff, self.speed_cutoff) <= 0 or self.speed < 0:
            raise ConfigError(f"{self}: cutoffs must be positive, speed not negative, and all of them finite")


@dataclasses.dataclass(frozen=True)
class TrackerOptions:
    """Rules by which people are followed.

    Attributes:
      oks: weight of the keypoint similarity; the boxes' IoU has the rest.
      threshold: similarity in [0, 1] below which nobody is taken for the person of a track.
      birth: person score that begins a track.
      patience: number of frames that a track waits for a person who is out of sight.
      joint: score from which on a joint is compared and smoothed.
      inertia: share of its last velocity that a track keeps from frame to frame; 0 expects people where they were.
      max_tracks: greatest number of tracks alive; beyond it, the one longest out of sight ends.
      smoothing: filter of keypoints, or None.
    """

    oks: float = 0.5
    threshold: float = 0.2
    birth: float = 0.3
    patience: int = 30
    joint: float = 0.2
    inertia: float = 0.5
    max_tracks: int = 1000
    smoothing: OneEuro | None = None

    def __post_init__(self):
        for name in ("oks", "threshold", "inertia"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"tracker option {name!r} is {getattr(self, name)}; expected a number in [0, 1]")
        if math.isnan(self.birth) or math.isnan(self.joint):
            raise ConfigError(f"tracker options 'birth' and 'joint' are {self.birth} and {self.joint}; expected scores")
        if self.patience < 0 or self.max_tracks < 1:
            raise ConfigError(
                f"tracker options 'patience' and 'max_tracks' are {self.patience} and {self.max_tracks}; "
                "expected 0 or more, and 1 or more"
            )


@dataclasses.dataclass(frozen=True)
class Tracked:
    """The people of a frame, in the order in which they were given.

    Attributes:
      track_id: [N] int64 ids from 1, never used again; `UNTRACKED` for doubtful people.
      keypoints: [N, K, 2] joints in pixels, smoothed if the tracker does.
    """

    track_id: np.ndarray
    keypoints: np.ndarray


@dataclasses.dataclass
class _Track:
    """A person as last seen.

    Attributes:
      id: id of the track.
      frame: number of the last frame with the person.
      keypoints, scores, box: joints [K, 2], their scores [K] and the box [4] as they were found, not smoothed.
      velocity: [2] velocity in pixels a frame.
      filter: filter of the keypoints, if they are smoothed.
    """

    id: int
    frame: int
    keypoints: np.ndarray
    scores: np.ndarray
    box: np.ndarray
    velocity: np.ndarray
    filter: "PoseFilter | None" = None

    def shift(self, frame: int, inertia: float) -> np.ndarray:
        """[2] pixels from where the person was to where it is expected: its velocity dies down while out of sight."""
        return self.velocity * sum(inertia**step for step in range(1, min(frame - self.frame, 30) + 1))


class Tracker:
    """Follows people through one video, frame by frame.

    Args:
      sigmas: [K] OKS constants of the skeleton's joints.
      options: rules by which people are followed.
      rate: frames a second, for smoothing.
    """

    def __init__(self, sigmas: Array, options: TrackerOptions = TrackerOptions(), rate: float = 30.0):
        if not 0 < rate < math.inf:
            raise ConfigError(f"rate is {rate}; expected a positive number of frames a second")
        self.options, self.rate = options, rate
        self._sigmas = np.asarray(sigmas, np.float64)
        self._tracks: list[_Track] = []
        self._next, self._frame, self._time = 1, -1, -math.inf

    @property
    def alive(self) -> list[int]:
        """Ids of the tracks that may go on."""
        return [track.id for track in self._tracks]

    def update(
        self,
        keypoints: Array,
        scores: Array,
        person_score: Array,
        boxes: Array,
        frame: int | None = None,
        time: float | None = None,
    ) -> Tracked:
        """Finds the tracks of the people of the next frame.

        Args:
          keypoints: [N, K, 2] joints in pixels.
          scores: [N, K] scores of the joints.
          person_score: [N] scores of the people.
          boxes: [N, 4] boxes (x, y, w, h) in pixels.
          frame: number of the frame, where frames were left out; the next one if None.
          time: time of the frame in seconds, for smoothing; by number and rate if None.

        Raises:
          DataError: arrays don't fit each other, hold a number that is not finite, or frame or time is not a later one.
        """
        found = self._checked(keypoints, scores, person_score, boxes)
        number = self._frame + 1 if frame is None else frame
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise DataError(f"the number of a frame is {number!r}; expected a whole number")
        if number <= self._frame:
            raise DataError(f"frame {number} comes after frame {self._frame}; a tracker takes frames in order of time")
        time = number / self.rate if time is None else time
        if not self._time < time < math.inf:
            raise DataError(
                f"frame {number} is at {time} s, and the one before at {self._time} s; expected later times"
            )
        self._frame, self._time = number, time
        self._tracks = [track for track in self._tracks if number - track.frame <= self.options.patience + 1]
        keypoints, scores, person_score, boxes = found
        pairs = self._match(keypoints, scores, boxes)
        ids = np.full(len(person_score), UNTRACKED, np.int64)
        smooth = keypoints.copy()
        for row in range(len(ids)):
            track = pairs.get(row)
            if track is None and person_score[row] < self.options.birth:
                continue
            track = self._seen(track, keypoints[row], scores[row], boxes[row])
            ids[row] = track.id
            if track.filter is not None:
                reliable = scores[row] >= self.options.joint
                smooth[row] = track.filter(keypoints[row], reliable, time, float(_sizes(boxes[row])))
        self._forget()
        return Tracked(ids, smooth)

    def _match(self, keypoints: np.ndarray, scores: np.ndarray, boxes: np.ndarray) -> dict[int, _Track]:
        """{row of a person: its track}."""
        if not self._tracks or not len(boxes):
            return {}
        shifts = np.stack([track.shift(self._frame, self.options.inertia) for track in self._tracks])
        expected = np.stack([track.keypoints for track in self._tracks]) + shifts[:, None]
        places = np.stack([track.box for track in self._tracks])
        places = np.concatenate([places[:, :2] + shifts, places[:, 2:]], -1)
        seen = np.stack([track.scores for track in self._tracks]) >= self.options.joint
        oks = similarity(expected, seen, places, keypoints, scores >= self.options.joint, boxes, self._sigmas)
        weight = self.options.oks
        close = weight * oks + (1 - weight) * overlap(places, boxes)
        close = np.where(close >= max(self.options.threshold, 1e-9), close, 0)
        rows, columns = linear_sum_assignment(close, maximize=True)
        return {int(j): self._tracks[i] for i, j in zip(rows, columns, strict=True) if close[i, j] > 0}

    def _seen(self, track: _Track | None, keypoints: np.ndarray, scores: np.ndarray, box: np.ndarray) -> _Track:
        """The track, brought up to date, or a new one."""
        if track is None:
            smoothing = self.options.smoothing
            pose_filter = PoseFilter(smoothing) if smoothing else None
            track = _Track(self._next, self._frame, keypoints, scores, box, np.zeros(2), pose_filter)
            self._tracks.append(track)
            self._next += 1
            return track
        track.velocity = (_centers(box) - _centers(track.box)) / (self._frame - track.frame)
        track.frame, track.keypoints, track.scores, track.box = self._frame, keypoints, scores, box
        return track

    def _forget(self) -> None:
        if len(self._tracks) > self.options.max_tracks:
            kept = sorted(self._tracks, key=lambda track: (-track.frame, track.id))[: self.options.max_tracks]
            self._tracks = sorted(kept, key=lambda track: track.id)

    def _checked(self, *arrays: Array) -> list[np.ndarray]:
        count, joints = np.shape(arrays[0])[0], len(self._sigmas)
        names = ("keypoints", "scores", "person_score", "boxes")
        shapes = ((count, joints, 2), (count, joints), (count,), (count, 4))
        checked = [np.array(values, np.float64) for values in arrays]
        for name, values, shape in zip(names, checked, shapes, strict=True):
            if values.shape != shape:
                raise DataError(f"field {name!r} has shape {values.shape}, expected {shape} for {count} people")
            if not fits_float32(values).all():
                raise DataError(
                    f"field {name!r} of frame {self._frame + 1} is not finite; is the network's output NaN?"
                )
        return checked


class PoseFilter:
    """The one-euro filter of one person's joints; see `OneEuro`.

    A joint that is not reliable passes as it is, and its filter begins anew when it is.
    """

    def __init__(self, options: OneEuro):
        self._options = options
        self._time = 0.0
        self._known: np.ndarray | None = None

    def __call__(self, keypoints: np.ndarray, reliable: np.ndarray, time: float, size: float) -> np.ndarray:
        """The filtered keypoints of the next frame.

        Args:
          keypoints: [K, 2] joints in pixels.
          reliable: [K] bool mask of the joints that are reliable.
          time: time of the frame in seconds, later than the last.
          size: size of the person in pixels.
        """
        if self._known is None:
            self._known = np.zeros(len(keypoints), bool)
            self._place, self._speed = keypoints.copy(), np.zeros_like(keypoints)
        step = time - self._time
        goes_on = (self._known & reliable)[:, None]
        speed = np.where(goes_on, keypoints - self._place, 0) / step if step > 0 else np.zeros_like(keypoints)
        speed = self._speed + _share(self._options.speed_cutoff, step) * (speed - self._speed)
        relative = np.linalg.norm(speed, axis=-1, keepdims=True) / max(size, 1e-6)
        share = _share(self._options.cutoff + self._options.speed * relative, step)
        self._place = np.where(goes_on, self._place + share * (keypoints - self._place), keypoints)
        self._speed = np.where(goes_on, speed, 0)
        self._known, self._time = reliable.copy(), time
        return self._place.copy()


def _share(cutoff: Any, step: float) -> Any:
    """Share of a new value in what a low-pass filter of this cutoff (hertz) gives after a step (seconds)."""
    turn = _FULL_CIRCLE * cutoff * step
    return turn / (turn + 1)


# --- similarity ---


def similarity(
    expected: np.ndarray,
    seen: np.ndarray,
    places: np.ndarray,
    keypoints: np.ndarray,
    reliable: np.ndarray,
    boxes: np.ndarray,
    sigmas: np.ndarray,
) -> np.ndarray:
    """Object keypoint similarity of every track with every person, over the joints that both show.

    Unlike in `ops.oks`, the area is that of both boxes and has a least value instead of one that is added: a person
    without an extent, of a single joint, is like nobody but at that very place.

    Args:
      expected, seen, places: keypoints [T, K, 2] of tracks, a mask of the reliable ones [T, K], and boxes [T, 4].
      keypoints, reliable, boxes: the same of people, [N, K, 2], [N, K], [N, 4].
      sigmas: [K] OKS constants of the skeleton's joints.

    Returns:
      [T, N] in [0, 1]; 0 where no joint is reliable in both.
    """
    area = (_sizes(places)[:, None] ** 2 + _sizes(boxes)[None] ** 2) / 2
    squared = ((expected[:, None] - keypoints[None]) ** 2).sum(-1)
    both = seen[:, None] & reliable[None]
    near = np.exp(-squared / (2 * (2 * sigmas) ** 2 * np.maximum(area, 1e-6)[..., None]))
    return np.where(both, near, 0).sum(-1) / np.maximum(both.sum(-1), 1)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[T, N] intersection over union of boxes [T, 4] and [N, 4] (x, y, w, h); 0 for boxes without area."""
    return box_iou(a[:, None], b[None])


def _sizes(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(boxes[..., 2:], 0).prod(-1))


def _centers(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., :2] + boxes[..., 2:] / 2


# --- whole evaluations ---


def assign_tracks(
    rows: Mapping[str, np.ndarray],
    place: Mapping[int, tuple[Any, int]],
    sigmas: Array,
    options: TrackerOptions = TrackerOptions(birth=-math.inf),
) -> np.ndarray:
    """Tracks of the poses of an evaluation, video by video.

    Args:
      rows: poses as metrics take them: image_id [n], keypoints [n, K, 2], scores [n, K], person_score [n] and, if there
        are boxes, box [n, 4]; else boxes are drawn around the joints.
      place: {image id: (video, number of the frame)}.
      sigmas: [K] OKS constants of the skeleton's joints.
      options: rules by which people are followed; by default every person gets a track.

    Returns:
      [n] int64, from 1 in each video.

    Raises:
      DataError: an image of unknown place.
    """
    track_id = np.full(len(rows["image_id"]), UNTRACKED, np.int64)
    if strangers := sorted(set(rows["image_id"].tolist()) - set(place)):
        raise DataError(f"poses belong to {len(strangers)} images of no known video: {strangers[:5]}")
    boxes = rows["box"] if "box" in rows else _around(rows["keypoints"])
    by_image: dict[int, list[int]] = {}
    for row, image_id in enumerate(rows["image_id"].tolist()):
        by_image.setdefault(image_id, []).append(row)
    trackers: dict[Any, Tracker] = {}
    for image_id in sorted(by_image, key=lambda i: place[i][1]):
        video, frame = place[image_id]
        tracker = trackers.setdefault(video, Tracker(sigmas, options))
        chosen = by_image[image_id]
        keypoints, scores, person_score = (rows[name][chosen] for name in ("keypoints", "scores", "person_score"))
        track_id[chosen] = tracker.update(keypoints, scores, person_score, boxes[chosen], frame).track_id
    return track_id


def _around(keypoints: np.ndarray) -> np.ndarray:
    low, high = keypoints.min(1), keypoints.max(1)
    return np.concatenate([low, high - low], -1)
