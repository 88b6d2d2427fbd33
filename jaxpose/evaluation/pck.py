"""Percentage of correct keypoints: PCKh of MPII, PCK of coordinates, PCK of heatmaps.

All of them count on device. A function turns a batch into `Counts`, counts of batches and devices add up, and one
division at the end gives the exact mean over a data set, however it was cut into batches:

    counts = heatmap_pck(output, target)        # under jit
    counts = counts + heatmap_pck(...)
    counts.mean()                               # [T], one number a threshold
"""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops import heatmaps
from jaxpose.skeleton import MPII
from jaxpose.types import Array

MPII_THRESHOLDS = (0.5, 0.11)
"""PCKh@0.5, and the one that tables call "Mean@0.1": the original code reads .11 from its curve."""

_METER_OF = {"neck": "upperneck", "head_top": "headtop"}  # other joints: "left_knee" is "lknee"
_METER_GROUPS = {
    "ubody": ("wrist", "elbow", "shoulder"),
    "total_anewell": ("ankle", "knee", "hip", "wrist", "elbow"),
    "total_mpii": ("ankle", "knee", "hip", "neck", "head_top", "wrist", "elbow", "shoulder"),
    "all": ("ankle", "knee", "hip", "pelvis", "thorax", "neck", "head_top", "wrist", "elbow", "shoulder"),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counts:
    """Sums over people, which add up over batches and devices.

    Attributes:
      correct: [T, K] float32, joints within each threshold.
      counted: [K] float32, joints that were looked at.
      error: [K] float32, their summed distances, in units of the size that they were divided by.
    """

    correct: Array
    counted: Array
    error: Array

    def __add__(self, other: "Counts") -> "Counts":
        return jax.tree.map(operator.add, self, other)

    def accuracy(self) -> np.ndarray:
        """[T, K] share of correct joints, NaN for a joint that was never counted."""
        return _divide(self.correct, self.counted)

    def mean(self) -> np.ndarray:
        """[T] mean over the joints that were counted; NaN if none was."""
        counted = np.asarray(self.counted) > 0
        total = np.sum(np.where(counted, self.accuracy(), 0), axis=-1)
        return _divide(total, np.asarray(np.sum(counted)))

    def auc(self) -> float:
        """Area under the curve: the mean over evenly spaced thresholds."""
        return float(np.mean(self.mean()))

    def mean_error(self) -> float:
        """Mean distance over all counted joints: EPE for a size of 1, NME for any other; NaN if none was counted."""
        return float(_divide(np.sum(self.error), np.sum(self.counted)))


def _divide(total: Array, count: Array) -> np.ndarray:
    total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
    return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


def coordinate_pck(
    keypoints: Array,
    truth: Array,
    visible: Array,
    size: Array | float,
    thresholds: tuple[float, ...] = (0.2,),
    inclusive: bool = False,
) -> Counts:
    """Counts the joints whose distance to the truth is below a fraction of a person's size.

    Args:
      keypoints: [B, K, 2] predicted joints in pixels.
      truth: [B, K, 2] true joints in pixels.
      visible: [B, K] numbers, positive for joints that count.
      size: size of each person in pixels, [B], [B, 2] for (x, y), or a number; a person whose size is not positive is
        left out.
      thresholds: T fractions of the size.
      inclusive: whether a distance equal to the threshold is correct (MPII) or not (everybody else).
    """
    size = jnp.broadcast_to(jnp.asarray(size, jnp.float32), (keypoints.shape[0],) + jnp.shape(size)[1:])
    divisor = jnp.where(size > 0, size, 1)[:, None]
    offset = jnp.asarray(keypoints, jnp.float32) - jnp.asarray(truth, jnp.float32)
    if size.ndim == 1:  # divide last, so that a joint at the threshold is judged as the original evaluations do
        distance = jnp.linalg.norm(offset, axis=-1) / divisor
    else:
        distance = jnp.linalg.norm(offset / divisor, axis=-1)
    usable = size > 0 if size.ndim == 1 else jnp.all(size > 0, axis=-1)
    counted = (jnp.asarray(visible) > 0) & usable[:, None]
    limits = jnp.asarray(thresholds, jnp.float32)[:, None, None]
    within = distance <= limits if inclusive else distance < limits
    return Counts(
        correct=jnp.sum(within & counted, axis=1, dtype=jnp.float32),
        counted=jnp.sum(counted, axis=0, dtype=jnp.float32),
        error=jnp.sum(jnp.where(counted, distance, 0), axis=0),
    )


def torso_size(truth: Array, left_shoulder: int = 9, right_hip: int = 2) -> jax.Array:
    """[B] length of the torso's diagonal, left shoulder to right hip, from [B, K, 2]; the indices default to LSP."""
    return jnp.linalg.norm(jnp.asarray(truth)[:, left_shoulder] - jnp.asarray(truth)[:, right_hip], axis=-1)


def box_size(truth: Array) -> jax.Array:
    """[B] longer side of the tight box around all joints of [B, K, 2]."""
    return jnp.max(jnp.ptp(jnp.asarray(truth), axis=1), axis=-1)


def mpii_pckh(keypoints: Array, truth: Array, visible: Array, head_boxes: Array) -> Counts:
    """PCKh of MPII at `MPII_THRESHOLDS`: correct within a fraction of the head's size, .6 of its box's diagonal.

    Args:
      keypoints: [B, 16, 2] predicted joints.
      truth: [B, 16, 2] true joints in the same pixel coordinates (the published file is 1-based: subtract 1).
      visible: [B, 16] numbers, positive for annotated joints.
      head_boxes: [B, 4] corners (x1, y1, x2, y2) of the heads' boxes.
    """
    head_boxes = jnp.asarray(head_boxes, jnp.float32)
    size = 0.6 * jnp.linalg.norm(head_boxes[:, 2:] - head_boxes[:, :2], axis=-1)
    return coordinate_pck(keypoints, truth, visible, size, MPII_THRESHOLDS, inclusive=True)


def mpii_numbers(counts: Counts) -> dict[str, float]:
    """The usual table of MPII, in percent, from the sums of `mpii_pckh`.

    "Head" is the head top, others are the mean of left and right. "Mean" and "Mean@0.1" weight joints by how often they
    are annotated and leave out pelvis and thorax. A part that was never annotated is NaN.
    """
    share = 100 * counts.accuracy()
    weight = np.array(counts.counted, np.float64)
    weight[[MPII.index("pelvis"), MPII.index("thorax")]] = 0
    parts = {"Head": share[0, MPII.index("head_top")]}
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        sides = [MPII.index(f"{side}_{part}") for side in ("left", "right")]
        seen = [joint for joint in sides if weight[joint] > 0]
        parts[part.capitalize()] = np.mean(share[0, seen]) if seen else np.nan
    means = _divide(np.sum(np.where(weight > 0, share * weight, 0), axis=-1), weight.sum())
    return {name: float(value) for name, value in (parts | {"Mean": means[0], "Mean@0.1": means[1]}).items()}


def pckh_meters(
    keypoints: Array, truth: Array, visible: Array, head_size: Array, threshold: float = 0.5
) -> dict[str, float]:
    """PCKh of MPII joint by joint and in groups, as the authors of DSNT report it, in [0, 1].

    Groups pool all labelled joints (not a mean over joints): "ubody" wrists, elbows and shoulders; "total_anewell"
    ankles, knees, hips, wrists and elbows; "total_mpii" all but pelvis and thorax; "all".

    Args:
      keypoints: [B, 16, 2] predicted joints.
      truth: [B, 16, 2] true joints in the same pixels.
      visible: [B, 16] numbers, positive for labelled joints.
      head_size: [B] sizes of the heads in pixels; people whose head has no size are left out.
      threshold: fraction of the head's size; a joint exactly there is correct.

    Returns:
      {"rankle", ..., "lwrist" in MPII's order, "ubody", "total_anewell", "total_mpii", "all"}; NaN where nothing is
      labelled.
    """
    counts = coordinate_pck(keypoints, truth, visible, head_size, (threshold,), inclusive=True)
    correct, counted = np.asarray(counts.correct, np.float64)[0], np.asarray(counts.counted, np.float64)
    members = {_meter_name(joint): [i] for i, joint in enumerate(MPII.joints)}
    for group, parts in _METER_GROUPS.items():
        members[group] = [i for i, joint in enumerate(MPII.joints) if part_of(joint) in parts]
    return {name: float(_divide(correct[i].sum(), counted[i].sum())) for name, i in members.items()}


def part_of(joint: str) -> str:
    """The part of the body that a joint belongs to, whatever its side: "left_knee" -> "knee"."""
    return joint.removeprefix("left_").removeprefix("right_")


def _meter_name(joint: str) -> str:
    part = part_of(joint)
    return _METER_OF.get(part, (joint[0] if part != joint else "") + part)


def heatmap_pck(output: Array, target: Array, thresholds: tuple[float, ...] = (0.5,), swapped: bool = True) -> Counts:
    """PCK between the maxima of two sets of heatmaps: the training accuracy of the heatmap family, RegDA's metric.

    Distances are in units of a tenth of the map, so that the usual threshold .5 is a twentieth of it ("PCK@0.05").
    A joint counts where the target's maximum has x > 1 and y > 1, as in the original code.

    Args:
      output: [B, H, W, K] predicted heatmaps.
      target: [B, H, W, K] heatmaps of the truth.
      thresholds: T fractions of a tenth of the map.
      swapped: whether x is divided by the height and y by the width, as SimpleBaselines, HRNet and RegDA do; it only
        matters for maps that are not square. AlphaPose divides x by the width.
    """
    _, height, width, _ = output.shape
    size = jnp.array([height, width] if swapped else [width, height], jnp.float32) / 10
    truth = heatmaps.maxima(target)[0]
    size = jnp.broadcast_to(size, (output.shape[0], 2))
    return coordinate_pck(heatmaps.maxima(output)[0], truth, jnp.all(truth > 1, axis=-1), size, thresholds)
