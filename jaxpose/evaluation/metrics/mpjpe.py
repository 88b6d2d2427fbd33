"""Errors of 3D poses: MPJPE, P-MPJPE, N-MPJPE and the velocity error, over whole evaluations and by action.

    metric = SequenceErrors(MetricContext(skeleton.H36M))
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute()                  # {"MPJPE": ..., "P-MPJPE": ..., "MPJPE/Walking": ..., ...}
    print(metric.table(numbers))

Errors are in the unit of the poses, millimetres in evaluations. They are computed on the host in float64, where nearly
flat poses are aligned well, too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import SEQUENCES, Metric, Numbers
from jaxpose.evaluation.rows import Rows
from jaxpose.ops.arrays import fits_float32

NUMBERS = ("MPJPE", "P-MPJPE", "N-MPJPE", "MPJVE")
"""Names of the errors that `SequenceErrors.compute` gives, over all actions and for each."""

PCK_3D = 150.0
"""Millimetres within which a joint is correct on MPI-INF-3DHP."""


# --- errors of frames ---


def distances(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[..., K] float64, how far joints are from their true place, of poses [..., K, 3]."""
    return np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=-1)


def mpjpe(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Mean per-joint position error, "protocol 1".

    Nothing is aligned: poses are relative to the root, and the predicted root counts like any other joint.

    Args:
      predicted: [..., K, 3] predicted poses.
      truth: [..., K, 3] true poses.
      counted: [..., K] bool, joints that count; all if None.

    Returns:
      [...] the mean over the joints that count; NaN where none does.
    """
    return _mean(distances(predicted, truth), counted)


def p_mpjpe(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """MPJPE after the best similarity transform of every pose, "protocol 2"; arguments as for `mpjpe`."""
    return mpjpe(align(predicted, truth, counted), truth, counted)


def n_mpjpe(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """MPJPE after the best scaling of every pose about the origin, the root; arguments as for `mpjpe`."""
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    weight = _weight(truth, counted)
    scale = _ratio((weight * truth * predicted).sum((-2, -1)), (weight * predicted**2).sum((-2, -1)))
    return mpjpe(predicted * scale[..., None, None], truth, counted)


def velocity_errors(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Errors of the motion from each frame to the next, whose mean is the velocity error (MPJVE).

    Args:
      predicted: [T, K, 3] predicted poses of consecutive frames of one video.
      truth: [T, K, 3] true poses.
      counted: [T, K] bool; a joint's motion counts where both of its places do; all if None.

    Returns:
      [T - 1] means over the joints that count; NaN where none does.
    """
    ours, theirs = (np.diff(np.asarray(poses, np.float64), axis=0) for poses in (predicted, truth))
    return mpjpe(ours, theirs, None if counted is None else counted[1:] & counted[:-1])


def align(predicted: np.ndarray, truth: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Poses turned, scaled and moved, but not mirrored, so that they lie best on the true ones (Procrustes analysis).

    Args:
      predicted: [..., K, 3] predicted poses.
      truth: [..., K, 3] true poses.
      counted: [..., K] bool, joints to look at; all if None.

    Returns:
      [..., K, 3] float64. A pose whose joints are all in one place gets the middle of the true one.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    weight = _weight(truth, counted)
    total = np.maximum(weight.sum(-2, keepdims=True), 1)
    centres = [(weight * poses).sum(-2, keepdims=True) / total for poses in (predicted, truth)]
    ours, theirs = (weight * (poses - centre) for poses, centre in zip((predicted, truth), centres))
    u, singular, vt = np.linalg.svd(np.swapaxes(ours, -1, -2) @ theirs)
    proper = np.ones_like(singular)
    proper[..., 2] = np.sign(np.linalg.det(u @ vt))  # a reflection is undone along the weakest axis
    scale = _ratio((singular * proper).sum(-1), (ours**2).sum((-2, -1)))
    turn = (u * proper[..., None, :]) @ vt
    return (predicted - centres[0]) @ turn * scale[..., None, None] + centres[1]


def pck_3d(
    predicted: np.ndarray,
    truth: np.ndarray,
    threshold: float = PCK_3D,
    counted: np.ndarray | None = None,
    joints: int | None = None,
) -> np.ndarray:
    """Share of joints nearer than a threshold.

    Args:
      predicted: [..., K, 3] predicted poses.
      truth: [..., K, 3] true poses.
      threshold: distance in the unit of the poses.
      counted: [..., K] bool, joints that count; all if None.
      joints: divisor of the number of correct joints; the number of those that count if None. The original code of
        Anatomy3D divides by the 14 joints of MPI-INF-3DHP, whatever the skeleton is.

    Returns:
      [...] in [0, 1]; NaN where no joint counts.
    """
    counted = np.ones(np.shape(truth)[:-1], bool) if counted is None else np.asarray(counted, bool)
    correct = (distances(predicted, truth) < threshold) & counted
    return _ratio(correct.sum(-1), counted.sum(-1) if joints is None else joints, np.nan)


def auc_3d(
    predicted: np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray | None = None,
    counted: np.ndarray | None = None,
    joints: int | None = None,
) -> np.ndarray:
    """Mean of `pck_3d` over thresholds, 0, 1, ... 149 unless others are given; other arguments as there."""
    thresholds = np.arange(PCK_3D) if thresholds is None else thresholds
    return np.mean([pck_3d(predicted, truth, threshold, counted, joints) for threshold in thresholds], axis=0)


def _weight(poses: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    """[..., K, 1], 1 for joints that count and 0 for others."""
    counted = np.ones(poses.shape[:-1]) if counted is None else counted
    return np.asarray(counted, np.float64)[..., None]


def _mean(values: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    """Mean over the last axis of what counts; NaN where nothing does."""
    if counted is None:
        return values.mean(-1)
    return _ratio(np.where(counted, values, 0).sum(-1), np.sum(counted, -1), np.nan)


def _ratio(above: np.ndarray, below: np.ndarray | float, otherwise: float = 0.0) -> np.ndarray:
    """above / below, and `otherwise` where `below` is not positive."""
    below = np.broadcast_to(below, np.shape(above))
    return np.where(below > 0, above / np.where(below > 0, below, 1), otherwise)


# --- whole evaluations ---

_FIELDS = {"index": np.int64, "frame": np.int64, "keypoints": np.float32, "truth": np.float32, "action": np.str_}
_COUNTED = "counted"


@dataclasses.dataclass
class SequenceErrors(Metric):
    """Errors of all frames of all videos, as tables of Human3.6M have them.

    An action's number is the mean over the frames of its videos; the overall number is the mean over actions, however
    many frames they have. The velocity error of a video is weighted by its number of frames, as in the original code;
    a video without two consecutive frames has none. Rows are put in order of video and frame, so that the numbers do
    not depend on batches or processes.
    """

    needs = (SEQUENCES,)
    lower_is_better = NUMBERS
    unit = 1.0

    _blocks: list[Rows] = dataclasses.field(default_factory=list, init=False, repr=False)

    def update(self, rows: Mapping[str, Any]) -> None:
        """Adds n frames.

        Args:
          rows: arrays with leading axis n, padding already removed; others than these are ignored:
            index [n] int, number of the video;
            frame [n] int, number of the frame in it;
            keypoints [n, K, 3], predicted joints in millimetres relative to the root;
            truth [n, K, 3], true joints likewise;
            action [n] str, name of the action;
            counted [n, K] bool, joints that count; all if the field is missing.

        Raises:
          DataError: a field is missing, has another shape, or holds a number that is not finite.
        """
        self._blocks.append(_checked(rows))

    def merge(self, other: "SequenceErrors") -> None:
        """Adds all frames of another metric, such as another process's."""
        self._blocks.extend(other._blocks)

    def table(self, numbers: Numbers) -> str:
        """The numbers as aligned lines, one a metric; see `table`."""
        return table(numbers)

    def rows(self) -> Rows:
        """All frames so far, ordered by video and frame. What `update` takes, so that processes can exchange it.

        Raises:
          DataError: there is none, or one came in twice, or some have other joints.
        """
        blocks = [block for block in self._blocks if len(block["index"])]
        if not blocks:
            raise DataError("there is no frame to evaluate: the validation split is empty, or no frame is valid")
        joints = sorted({block["truth"].shape[1] for block in blocks})
        if len(joints) > 1:
            raise DataError(f"field 'truth' has {joints} joints in different updates; expected one skeleton")
        rows = {name: np.concatenate([block[name] for block in blocks]) for name in (*_FIELDS, _COUNTED)}
        order = np.lexsort((rows["frame"], rows["index"]))
        rows = {name: values[order] for name, values in rows.items()}
        place = np.stack([rows["index"], rows["frame"]], -1)
        repeated = (place[1:] == place[:-1]).all(-1)
        if repeated.any():
            video, frame = place[1:][repeated][0]
            raise DataError(f"frame {frame} of video {video} came in twice; update with every frame once")
        return rows

    def compute(self) -> dict[str, float]:
        """{"MPJPE", "P-MPJPE", "N-MPJPE", "MPJVE"} in millimetres, and each as "NUMBER/action".

        What has no value, as MPJVE of videos with a single frame, is left out.

        Raises:
          DataError: there is no frame; see `rows`.
        """
        rows = self.rows()
        edges = np.flatnonzero(np.diff(rows["index"])) + 1
        videos = [
            _VideoErrors.of(*parts) for parts in zip(*(np.split(rows[name], edges) for name in (*_FIELDS, _COUNTED)))
        ]
        actions = sorted({video.action for video in videos})
        table = np.array([_weighted([video for video in videos if video.action == action]) for action in actions])
        with_value = np.isfinite(table)
        overall = _ratio(np.where(with_value, table, 0).sum(0), with_value.sum(0), np.nan)
        numbers = dict(zip(NUMBERS, overall.tolist()))
        for action, values in zip(actions, table.tolist()):
            numbers |= {f"{name}/{action}": value for name, value in zip(NUMBERS, values)}
        return {name: value for name, value in numbers.items() if not np.isnan(value)}


@dataclasses.dataclass(frozen=True)
class _VideoErrors:
    """Mean errors [4] of a video in the order of NUMBERS, NaN where there are none, and their weights [4]."""

    action: str
    errors: np.ndarray
    frames: np.ndarray

    @classmethod
    def of(
        cls,
        index: np.ndarray,
        frame: np.ndarray,
        predicted: np.ndarray,
        truth: np.ndarray,
        action: np.ndarray,
        counted: np.ndarray,
    ) -> "_VideoErrors":
        if len(set(action.tolist())) > 1:
            raise DataError(f"video {index[0]} has the actions {sorted(set(action.tolist()))}; expected one")
        arrays = predicted, truth, counted
        errors = [measure(*arrays) for measure in (mpjpe, p_mpjpe, n_mpjpe)]
        steps = velocity_errors(*arrays)[np.diff(frame) == 1] if len(frame) > 1 else np.zeros(0)
        seen = np.isfinite(errors[0])
        frames = np.array([seen.sum()] * 3 + [seen.sum() * np.isfinite(steps).any()])
        return cls(str(action[0]), np.array([_finite_mean(values) for values in (*errors, steps)]), frames)


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def _weighted(videos: list[_VideoErrors]) -> np.ndarray:
    """[4] means over videos by their frames; NaN where none has any."""
    frames = np.stack([video.frames for video in videos])
    errors = np.stack([video.errors for video in videos])
    return _ratio(np.where(frames > 0, errors * frames, 0).sum(0), frames.sum(0), np.nan)


def _checked(rows: Mapping[str, Any]) -> Rows:
    if missing := [name for name in _FIELDS if name not in rows]:
        raise DataError(f"frames lack the fields {missing}; expected {list(_FIELDS)}")
    arrays = {name: np.array(rows[name], dtype) for name, dtype in _FIELDS.items()}
    shape = arrays["truth"].shape[:2]
    arrays[_COUNTED] = np.array(rows.get(_COUNTED, np.ones(shape)), bool)
    tails = {"keypoints": (*shape[1:], 3), "truth": (*shape[1:], 3), _COUNTED: shape[1:]}
    count = np.size(arrays["index"])
    for name, values in arrays.items():
        expected = (count, *tails.get(name, ()))
        if values.shape != expected:
            raise DataError(f"field {name!r} has shape {values.shape}, expected {expected} for {count} frames")
    for name, why in (("keypoints", "the network's outputs hold NaN or infinite numbers"), ("truth", "fix the labels")):
        bad = ~fits_float32(arrays[name]).all(-1) & arrays[_COUNTED]
        if bad.any():
            row = int(np.argmax(bad.any(-1)))
            place = f"video {arrays['index'][row]}, frame {arrays['frame'][row]}"
            raise DataError(f"{place}: field {name!r} is not finite; {why}")
        arrays[name] = np.where(arrays[_COUNTED][..., None], arrays[name], 0)
    return arrays


def table(numbers: Mapping[str, float]) -> str:
    """The numbers of `SequenceErrors.compute` as aligned lines, one a metric; actions are columns, the mean is last."""
    actions = [name.partition("/")[2] for name in numbers if name.startswith(f"{NUMBERS[0]}/")]
    width = [max(len(action), 7) + 2 for action in (*actions, "Mean")]
    lines = ["mm     " + "".join(f"{action:>{w}}" for action, w in zip((*actions, "Mean"), width))]
    for name in NUMBERS:
        values = [numbers.get(key) for key in (*(f"{name}/{action}" for action in actions), name)]
        cells = ("-" if value is None else f"{value:.1f}" for value in values)
        lines.append(f"{name:<7}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, width)))
    return "\n".join(lines)
