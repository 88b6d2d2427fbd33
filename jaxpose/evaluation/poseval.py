"""Poseval's definitions: which predicted joints of a video are right, and who is whom from frame to frame.

`metrics.posetrack.PoseTrackKeypoints` makes PoseTrack's tables of it. The functions here work on `Frame`s and give
every count, for those who look for a difference:

    frames = evaluated_frames(frames)
    joint_precision(frames).ap                  # [J]
    joint_tracking(frames).mota                 # [J]

All is counted on the host in float64, by the definitions of the original program, its oddities included, so that
numbers compare: the last frame of each video does not count in tracking, and a frame where either side is empty counts
there as one person, missed, and one false alarm, for each joint.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxpose.data.annotations import HEAD_SIZE_OF_BOX
from jaxpose.errors import DataError
from jaxpose.evaluation.pck import part_of

THRESHOLD = 0.5
"""Share of the head's size within which a joint is found; a joint exactly there is."""
PARTS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
"""Columns of PoseTrack's tables; "head" is nose, head_bottom (the neck) and head_top."""

_HEAD = ("nose", "head_bottom", "head_top")
_COUNTS = ("misses", "switches", "false_positives", "objects", "detections", "distance")


# --- frames ---


@dataclasses.dataclass(frozen=True)
class Figures:
    """The people of one side of a frame, true or found.

    Attributes:
      points: [N, J, 2] joints in pixels.
      present: [N, J] bool mask of the joints that are annotated, or were predicted.
      track: [N] int ids, the same for a person over the frames of a video.
      score: [N, J] scores of predicted joints; zeros for true ones.
      head_size: [N] sizes of true people's heads in pixels; zeros for predicted ones. Nothing is ever near a joint of
        size 0.

    Raises:
      DataError: a joint that is present, its score or a head's size is not finite.
    """

    points: np.ndarray
    present: np.ndarray
    track: np.ndarray
    score: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    head_size: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def __post_init__(self):
        people = np.shape(self.present)
        fields = {
            "points": np.asarray(self.points, np.float64),
            "present": np.asarray(self.present, bool),
            "track": np.asarray(self.track, np.int64),
            "score": np.asarray(self.score, np.float64) if np.size(self.score) else np.zeros(people),
            "head_size": np.asarray(self.head_size, np.float64) if np.size(self.head_size) else np.zeros(people[0]),
        }
        for name, values in fields.items():
            object.__setattr__(self, name, values)
        finite = np.isfinite(self.points).all(-1) & np.isfinite(self.score)
        if not finite[self.present].all() or not np.isfinite(self.head_size).all():
            raise DataError("joints, scores and sizes of heads must be finite numbers; is the network's output NaN?")

    @classmethod
    def empty(cls, joints: int) -> "Figures":
        """Nobody."""
        return cls(np.zeros((0, joints, 2)), np.zeros((0, joints)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.track)

    def pick(self, rows: np.ndarray) -> "Figures":
        """Some of the people, by a mask or by indices."""
        return Figures(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of a video as it is evaluated.

    Attributes:
      video: name of the video, the same for the frames of one video, which follow each other in time.
      truth: annotated people.
      found: predicted people.
      ignored: polygons [V, 2], regions in which nobody is annotated.
    """

    video: Any
    truth: Figures
    found: Figures
    ignored: tuple[np.ndarray, ...] = ()


def head_sizes(corners: np.ndarray) -> np.ndarray:
    """[...] the lengths that distances are divided by, of head boxes [..., 4] (x1, y1, x2, y2)."""
    corners = np.asarray(corners, np.float64)
    return HEAD_SIZE_OF_BOX * np.linalg.norm(corners[..., 2:] - corners[..., :2], axis=-1)


def evaluated_frames(frames: Iterable[Frame], keep_empty: bool = False) -> list[Frame]:
    """The frames and people that count.

    A frame that lists no true person is left out, whatever was predicted there. In the others, points inside ignored
    regions are removed on both sides, then people without points; what was predicted in a frame whose true people are
    all gone is wrong.

    Args:
      frames: all frames of all videos.
      keep_empty: whether true people without points stay where a frame has no ignored region. poseval keeps those of
        files in the form of 2018 and drops those of 2017. Only tracking sees it, in a frame where nobody has a point.
    """
    return [_cleaned(frame, keep_empty) for frame in frames if len(frame.truth)]


def _cleaned(frame: Frame, keep_empty: bool) -> Frame:
    sides = {}
    for name in ("truth", "found"):
        people = getattr(frame, name)
        present = people.present & ~_inside_any(people.points, frame.ignored)
        stay = present.any(-1) | (keep_empty and name == "truth" and not frame.ignored)
        sides[name] = dataclasses.replace(people, present=present).pick(stay)
    return dataclasses.replace(frame, **sides)


def _inside_any(points: np.ndarray, polygons: Sequence[np.ndarray]) -> np.ndarray:
    inside = np.zeros(points.shape[:-1], bool)
    for polygon in polygons:
        inside |= inside_polygon(points, polygon)
    return inside


def inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether points [..., 2] lie inside a polygon [V, 2], by the even-odd rule; not so on its border."""
    x, y = np.moveaxis(np.asarray(points, np.float64)[..., None, :], -1, 0)  # [..., 1] against [V] edges
    start = np.asarray(polygon, np.float64).reshape(-1, 2)
    (x0, y0), (x1, y1) = start.T, np.roll(start, -1, axis=0).T
    cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
    between = (
        (x >= np.minimum(x0, x1)) & (x <= np.maximum(x0, x1)) & (y >= np.minimum(y0, y1)) & (y <= np.maximum(y0, y1))
    )
    on_border = ((cross == 0) & between).any(-1)
    to_the_right = np.where(y1 > y0, cross > 0, cross < 0)  # the edge crosses the ray from the point towards larger x
    crossed = ((y0 > y) != (y1 > y)) & to_the_right
    return (crossed.sum(-1) % 2 == 1) & ~on_border


def head_distances(found: Figures, truth: Figures) -> np.ndarray:
    """[P, G, J] distances of predicted from true joints in head sizes; infinite where either joint is absent."""
    return _in_heads(found.points[:, None], truth.points, found.present[:, None] & truth.present, truth.head_size)


def _in_heads(found: np.ndarray, truth: np.ndarray, both: np.ndarray, head_size: np.ndarray) -> np.ndarray:
    """[..., G, J] distances of points [..., G, J, 2] in head sizes [G]; infinite unless `both` are there."""
    usable = both & (head_size > 0)[:, None]
    offset = np.where(usable[..., None], found - truth, 0)
    size = np.where(head_size > 0, head_size, 1)[:, None]
    return np.where(usable, np.sqrt((offset**2).sum(-1)) / size, np.inf)


# --- average precision ---


@dataclasses.dataclass(frozen=True)
class Precision:
    """Precision and recall of joints, joint by joint [J].

    Attributes:
      ap: area under precision over recall, in [0, 1]; NaN for a joint that was predicted but is nowhere annotated, 0
        for one that was not predicted.
      precision, recall: shares of correct joints in all predicted and in all annotated ones, whatever their score.
        Precision is 0 where nothing was predicted; recall is NaN where ap is.
      annotated, predicted, correct: numbers of joints.
    """

    ap: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    annotated: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray


def joint_precision(frames: Sequence[Frame], threshold: float = THRESHOLD) -> Precision:
    """Average precision of every joint over frames from `evaluated_frames`.

    In each frame a prediction is assigned to the person of whom it finds the largest share of the annotated joints,
    and a person keeps the best of its predictions. A joint is correct if its pose is assigned and it lies near the
    joint of that very person. Scores only rank joints over all frames; equal ones keep the order of frames and people.

    Raises:
      DataError: there is no frame.
    """
    if not frames:
        raise DataError("there is no frame with annotated people to evaluate")
    correct = np.concatenate([_correct(frame, threshold) for frame in frames])
    present = np.concatenate([frame.found.present for frame in frames])
    score = np.concatenate([frame.found.score for frame in frames])
    annotated = np.sum([frame.truth.present.sum(0) for frame in frames], axis=0)
    columns = [
        average_precision(score[here, k], correct[here, k], int(annotated[k])) for k, here in enumerate(present.T)
    ]
    ap, precision, recall = np.array(columns).T
    return Precision(ap, precision, recall, annotated, present.sum(0), (correct & present).sum(0))


def _correct(frame: Frame, threshold: float) -> np.ndarray:
    """[P, J] bool, the predicted joints that count as found."""
    near = head_distances(frame.found, frame.truth) <= threshold
    person = assign_poses(near, frame.truth.present.sum(-1))
    out = np.zeros(frame.found.present.shape, bool)
    assigned = np.flatnonzero(person >= 0)
    out[assigned] = near[assigned, person[assigned]]
    return out


def assign_poses(near: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """[P] the person of each prediction, -1 where none.

    Args:
      near: [P, G, J] bool, which predicted joints match which true ones.
      annotated: [G] numbers of true joints of each person.
    """
    person = np.full(near.shape[0], -1)
    if not near.size:
        return person
    share = near.sum(-1) / np.maximum(annotated, 1)
    best = np.arange(share.shape[1]) == share.argmax(1)[:, None]
    share = np.where(best, share, 0)
    taken = np.flatnonzero(share.max(0) > 0)
    person[share.argmax(0)[taken]] = taken
    return person


def average_precision(score: np.ndarray, correct: np.ndarray, annotated: int) -> tuple[float, float, float]:
    """Area under the curve, precision and recall of n predictions of one joint; see `Precision`."""
    if not len(score):
        return 0.0, 0.0, 0.0
    if not annotated:
        return np.nan, 0.0, np.nan
    hits = np.cumsum(correct[np.argsort(-score, kind="stable")])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / annotated
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * monotone).sum()), float(precision[-1]), float(recall[-1])


# --- tracking ---


@dataclasses.dataclass(frozen=True)
class Tracking:
    """Events of tracking, joint by joint [J], and the CLEAR MOT numbers made of them (Bernardin and Stiefelhagen).

    Attributes:
      misses: annotated joints that no prediction was matched with.
      switches: matches of a person with another track than its last one.
      false_positives: predicted joints without a match.
      objects: annotated joints.
      detections: matches, switches among them.
      distance: summed distances of the matches, in head sizes.
    """

    misses: np.ndarray
    switches: np.ndarray
    false_positives: np.ndarray
    objects: np.ndarray
    detections: np.ndarray
    distance: np.ndarray

    @property
    def mota(self) -> np.ndarray:
        """1 - (misses + switches + false positives) / objects: at most 1, maybe negative; NaN without objects."""
        return 1 - _ratio(self.misses + self.switches + self.false_positives, self.objects)

    @property
    def motp(self) -> np.ndarray:
        """1 - mean distance of the matches; 0 without any."""
        return np.where(self.detections > 0, 1 - _ratio(self.distance, self.detections), 0)

    @property
    def precision(self) -> np.ndarray:
        """Share of the predicted joints that were matched; NaN without any."""
        return _ratio(self.detections, self.detections + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        """Share of the annotated joints that were matched; NaN without any."""
        return _ratio(self.detections, self.objects)


def joint_tracking(frames: Sequence[Frame], threshold: float = THRESHOLD) -> Tracking:
    """Tracking events of every joint over frames from `evaluated_frames`, each video but for its last frame.

    Every joint is tracked by itself: people and predictions are matched by its distance alone, and tracks are those of
    whole people.

    Raises:
      DataError: there is no frame.
    """
    if not frames:
        raise DataError("there is no frame with annotated people to evaluate")
    videos: dict[Any, list[Frame]] = {}
    for frame in frames:
        videos.setdefault(frame.video, []).append(frame)
    joints = frames[0].truth.present.shape[1]
    counts = np.zeros((joints, len(_COUNTS)))
    for of_video in videos.values():
        last: list[dict[int, int]] = [{} for _ in range(joints)]
        for frame in of_video[:-1]:
            counts += _frame_events(frame, last, threshold)
    return Tracking(*counts.T)


def _frame_events(frame: Frame, last: list[dict[int, int]], threshold: float) -> np.ndarray:
    """[J, 6] counts of one frame; `last`, the track that each person had last, is brought up to date."""
    truth, found = frame.truth, frame.found
    if not len(truth) or not len(found):
        return np.tile([1.0, 0, 1, 1, 0, 0], (len(last), 1))
    distance = np.swapaxes(head_distances(found, truth), 0, 1)
    distance = np.where(distance <= threshold, distance, np.inf)
    counts = np.zeros((len(last), len(_COUNTS)))
    for joint, tracks in enumerate(last):
        rows, columns = truth.present[:, joint], found.present[:, joint]
        people, hypotheses = truth.track[rows], found.track[columns]
        costs = distance[rows][:, columns, joint]
        pairs = match_tracks(people, hypotheses, costs, tracks)
        switches = 0
        for i, j in pairs:
            switches += tracks.get(people[i], hypotheses[j]) != hypotheses[j]
            tracks[people[i]] = hypotheses[j]
        matched = len(pairs)
        total = sum(costs[i, j] for i, j in pairs)
        counts[joint] = len(people) - matched, switches, len(hypotheses) - matched, len(people), matched, total
    return counts


def match_tracks(
    people: np.ndarray, tracks: np.ndarray, distance: np.ndarray, last: Mapping[int, int]
) -> list[tuple[int, int]]:
    """Which person of a frame is which track.

    A person whose last track is there and near enough keeps it, earlier people first. The others are matched so that
    the summed distance is minimal, where leaving a pair out costs more than any two distances.

    Args:
      people: [G] ids of people.
      tracks: [P] ids of tracks.
      distance: [G, P] distances, infinite for a pair that cannot be.
      last: {person: the track that it had last}.

    Returns:
      Pairs of indices (person, track), those that were kept first.
    """
    possible = np.isfinite(distance)
    if not possible.any():
        return []
    pairs = []
    free = np.ones(len(tracks), bool)
    waiting = np.ones(len(people), bool)
    for i, person in enumerate(people.tolist()):
        same = np.flatnonzero((tracks == last[person]) & free) if person in last else np.zeros(0, np.int64)
        if len(same) and possible[i, same[0]]:
            pairs.append((i, int(same[0])))
            waiting[i], free[same[0]] = False, False
    impossible = 2 * distance[possible].max() + 1
    costs = np.where(possible & waiting[:, None] & free, distance, impossible)
    if (costs < impossible).any():
        rows, columns = linear_sum_assignment(costs)
        pairs += [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if costs[i, j] < impossible]
    return pairs


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


# --- summaries ---


def mean(values: np.ndarray) -> float:
    """The mean over joints, NaN left out: the column "Total" of tables. NaN if nothing is left."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def parts(values: np.ndarray, joints: Sequence[str]) -> dict[str, float]:
    """The plain means of values [J] over the joints of each of `PARTS`: NaN where one of them is, or there is none."""
    members = np.array(["head" if joint in _HEAD else part_of(joint) for joint in joints])
    return {part: float(np.mean(values[members == part])) if part in members else float("nan") for part in PARTS}


def paired_pckh(found: Figures, truth: Figures, threshold: float = THRESHOLD) -> tuple[np.ndarray, float]:
    """PCKh of poses whose person is known: prediction i belongs to person i.

    An annotated joint that was not predicted is wrong.

    Returns:
      [J] shares of the annotated joints that were found, NaN without any; and the share of all joints of all people.
    """
    near = _in_heads(found.points, truth.points, found.present & truth.present, truth.head_size) <= threshold
    return _ratio(near.sum(0), truth.present.sum(0)), float(_ratio(near.sum(), truth.present.sum()))
