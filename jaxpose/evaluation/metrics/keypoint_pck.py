"""PCK and PCKh over whole evaluations: collect poses and true joints, divide once at the end.

    metric = KeypointPck.create("pckh", skeleton.MPII)
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute()                  # {"PCKh@0.5": ..., "PCKh@0.5/ankle": ..., ...}
    print(table(numbers))

Rows are put in order of index, so that the numbers do not depend on batches or processes.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.metrics import pck
from jaxpose.evaluation.metrics.rows import PEOPLE, CollectedPeople, Column, Rows
from jaxpose.skeleton import Skeleton

logger = logging.getLogger(__name__)

Reference = Literal["head", "torso", "box"]

UNCOUNTED = ("pelvis", "thorax")
"""Joints that the numbers leave out, as MPII's evaluation does."""

_NUMBER = {"head": "PCKh", "torso": "PCK", "box": "PCKb"}
_NAMES = {"pckh": ("head", (0.5, 0.1)), "pck": ("torso", (0.2,)), "pck_box": ("box", (0.2,))}
_count = jax.jit(pck.coordinate_pck, static_argnames=("thresholds", "inclusive"))
_STEP = 0.01  # between the thresholds of the curve
_COLUMNS = ("head", "head_top", "neck", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


@dataclasses.dataclass
class KeypointPck(CollectedPeople):
    """Share of joints that lie within a fraction of the person's size from their true place, for any skeleton.

    Its rows are people: index [n]; keypoints [n, K, 2] predicted and truth [n, K, 2], pixels of the image; visibility
    [n, K], positive for labelled joints; head_size [n] pixels, 0 where unknown, only for the reference "head".

    All labelled joints of all people are pooled (not a mean over joints or people), but for pelvis and thorax: with the
    reference "head" and MPII's joints this is the "total_mpii" of DSNT and the "Mean" of MPII's table.

    Attributes:
      skeleton: of the poses.
      reference: "head" divides by the annotated head size and counts a joint exactly at the threshold (MPII's PCKh);
        "torso" divides by the way from left shoulder to right hip, "box" by the longer side of the tight box of the
        labelled joints, and both leave out a joint exactly at the threshold (LSP's PCK and its kin).
      thresholds: fractions of the size. Joints are told apart at the first, and the curve ends there.
    """

    columns = PEOPLE | {"head_size": Column(np.float64, label=True)}

    reference: Reference = "head"
    thresholds: tuple[float, ...] = (0.5, 0.1)

    def __post_init__(self):
        if self.reference not in ("head", "torso", "box"):
            raise ConfigError(f"reference is {self.reference!r}; it can be 'head', 'torso' or 'box'")
        if not self.thresholds or min(self.thresholds) <= 0:
            raise ConfigError(f"thresholds are {self.thresholds}; expected one or more positive fractions")
        if self.reference == "torso" and not {"left_shoulder", "right_hip"} <= set(self.skeleton.joints):
            raise ConfigError(
                f"PCK by the size of the torso needs the joints left_shoulder and right_hip, and skeleton "
                f"{self.skeleton.name!r} has only {', '.join(self.skeleton.joints)}"
            )

    @classmethod
    def create(cls, name: str, skeleton: Skeleton) -> "KeypointPck":
        """The metric that `config.evaluate.metrics` calls "pckh" (PCKh@0.5, PCKh@0.1), "pck" (PCK@0.2 of the torso) or
        "pck_box" (PCKb@0.2).

        Raises:
          ConfigError: another name, or joints that the metric needs are missing.
        """
        if name not in _NAMES:
            known = ", ".join(("coco", "crowdpose", *_NAMES, "groups", "boxes", "posetrack", "mpjpe"))
            raise ConfigError(f"config.evaluate.metrics names {name!r}; it can name {known}")
        return cls(skeleton, *_NAMES[name])

    @property
    def name(self) -> str:
        """What the numbers are called: "PCKh", "PCK" or "PCKb"."""
        return _NUMBER[self.reference]

    def compute(self) -> dict[str, float]:
        """Numbers in [0, 1], for the reference "head" and the thresholds .5 and .1:

        "PCKh@0.5", "PCKh@0.1", "PCKh_AUC" (the mean over the thresholds 0, .01, ..., .5), and for each part of the body
        "PCKh@0.5/ankle" and so on, left and right pooled, -1 where it is never labelled. People without a size are left
        out; the log counts them.

        Raises:
          DataError: an example came in twice, or nobody has both a size and a labelled joint.
        """
        rows = self.rows()
        size = self.sizes(rows)
        if left_out := int((size <= 0).sum()):
            text = "%s: left out %d of %d people, of whom no %s size is known"
            logger.warning(text, self.name, left_out, len(size), self.reference)
        steps = np.arange(0, self.thresholds[0] + _STEP / 2, _STEP).round(6).tolist()
        arrays = (rows[name] for name in ("keypoints", "truth", "visibility"))
        inclusive = self.reference == "head"
        counts = _count(*arrays, size, thresholds=(*self.thresholds, *steps), inclusive=inclusive)
        return self._numbers(np.asarray(counts.correct, np.float64), np.asarray(counts.counted, np.float64), len(size))

    def _numbers(self, correct: np.ndarray, counted: np.ndarray, people: int) -> dict[str, float]:
        """From joints within each threshold and step of the curve [T, K], and joints that were looked at [K]."""
        parts = np.array([pck.part_of(joint) for joint in self.skeleton.joints])
        pooled = ~np.isin(parts, UNCOUNTED)
        if not counted[pooled].sum():
            raise DataError(
                f"{self.name} cannot be told: of {people} people none has both a labelled joint and a "
                f"{self.reference} size; evaluate data with such labels, or another metric"
            )
        curve = correct[:, pooled].sum(-1) / counted[pooled].sum()
        names = [f"{self.name}@{threshold:g}" for threshold in self.thresholds]
        numbers = dict(zip(names, map(float, curve), strict=False))
        numbers[f"{self.name}_AUC"] = float(curve[len(names) :].mean())
        for part in dict.fromkeys(parts[pooled].tolist()):
            right, all_ = correct[0, parts == part].sum(), counted[parts == part].sum()
            numbers[f"{names[0]}/{part}"] = float(right / all_) if all_ else -1.0
        return numbers

    def sizes(self, rows: Rows) -> np.ndarray:
        """[n] pixels that distances are divided by; 0 where labels don't tell."""
        if self.reference == "head":
            return rows["head_size"]
        labelled = rows["visibility"] > 0
        if self.reference == "torso":
            ends = [self.skeleton.index("left_shoulder"), self.skeleton.index("right_hip")]
            return np.linalg.norm(np.diff(rows["truth"][:, ends], axis=1)[:, 0], axis=-1) * labelled[:, ends].all(-1)
        low = np.min(rows["truth"], axis=1, where=labelled[..., None], initial=np.inf)
        high = np.max(rows["truth"], axis=1, where=labelled[..., None], initial=-np.inf)
        return np.where(labelled.any(-1), np.max(high - low, axis=-1), 0)

    def _checked(self, rows: Mapping[str, Any]) -> Rows:
        unused = {"head_size": np.zeros(np.size(rows.get("index", ())))}
        return super()._checked(rows if self.reference == "head" else {**rows, **unused})


def table(numbers: Mapping[str, float]) -> str:
    """The numbers of `KeypointPck` or `JointGroups` as two aligned lines in percent, in the order of MPII's table.

    Columns: Head (the head top), Neck, Shoulder, Elbow, Wrist, Hip, Knee, Ankle, any others, then the pooled numbers;
    "-" for a part that is never labelled. If several numbers are told apart by parts, the parts of the first are shown.
    """
    first = next((name.partition("/")[0] for name in numbers if "/" in name), "")
    parts = {name.partition("/")[2]: value for name, value in numbers.items() if name.startswith(f"{first}/")}
    order = [part for part in _COLUMNS if part in parts] + [part for part in parts if part not in _COLUMNS]
    cells = [("Head" if part == "head_top" else _title(part), parts[part]) for part in order]
    cells += [(name, value) for name, value in numbers.items() if "/" not in name]
    width = max(5, *(len(name) for name, _ in cells)) + 2
    return "".join(name.rjust(width) for name, _ in cells) + "\n" + "".join(percent(v).rjust(width) for _, v in cells)


def _title(part: str) -> str:
    return part[0].upper() + part[1:].replace("_", " ")


def percent(value: float) -> str:
    """A share in percent; "-" for the -1 that stands for none."""
    return "-" if value < 0 else f"{100 * value:.1f}"
