"""PCK and PCKh over whole evaluations: collect poses and true joints, divide once at the end.

    metric = Pckh(MetricContext(skeleton.MPII))
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute()                  # {"PCKh@0.5": ..., "PCKh@0.5/ankle": ..., ...}
    print(metric.table(numbers))

The metrics "pckh", "pck" and "pck_box" are `KeypointPck` with other references.

Rows are put in order of index, so that the numbers do not depend on batches or processes.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation import pck
from jaxpose.evaluation.labelled_people import PEOPLE, PeopleMetric
from jaxpose.evaluation.metrics import Numbers, percent, two_lines
from jaxpose.evaluation.rows import Column, Rows

logger = logging.getLogger(__name__)

Reference = Literal["head", "torso", "box"]

UNCOUNTED = ("pelvis", "thorax")
"""Joints that the numbers leave out, as MPII's evaluation does."""

_NUMBER = {"head": "PCKh", "torso": "PCK", "box": "PCKb"}
_count = jax.jit(pck.coordinate_pck, static_argnames=("thresholds", "inclusive"))
_STEP = 0.01
"""Distance of the thresholds of the curve."""
_COLUMNS = ("head", "head_top", "neck", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


@dataclasses.dataclass
class KeypointPck(PeopleMetric):
    """Share of joints that lie within a fraction of the person's size from their true place, for any skeleton.

    Its rows are people: index [n]; keypoints [n, K, 2] predicted and truth [n, K, 2], pixels of the image; visibility
    [n, K], positive for labelled joints; head_size [n] pixels, 0 where unknown, only for the reference "head".

    All labelled joints of all people are pooled (not a mean over joints or people), but for pelvis and thorax: with the
    reference "head" and MPII's joints this is the "total_mpii" of DSNT and the "Mean" of MPII's table.

    Attributes:
      reference: size that distances are divided by. "head" is the annotated head size, and a joint exactly at the
        threshold counts (MPII's PCKh); "torso" is the way from left shoulder to right hip, "box" the longer side of the
        tight box of the labelled joints, and for both a joint exactly at the threshold does not count (LSP's PCK and
        its kin).
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
        if self.reference == "torso" and not {"left_shoulder", "right_hip"} <= set(self.context.skeleton.joints):
            raise ConfigError(
                f"PCK by the size of the torso needs the joints left_shoulder and right_hip, and skeleton "
                f"{self.context.skeleton.name!r} has only {', '.join(self.context.skeleton.joints)}"
            )

    @property
    def number(self) -> str:
        """Name of the numbers: "PCKh", "PCK" or "PCKb"."""
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
            text = "%s: %d of %d people are left out, since their %s size is unknown"
            logger.warning(text, self.number, left_out, len(size), self.reference)
        steps = np.arange(0, self.thresholds[0] + _STEP / 2, _STEP).round(6).tolist()
        arrays = (rows[name] for name in ("keypoints", "truth", "visibility"))
        inclusive = self.reference == "head"
        counts = _count(*arrays, size, thresholds=(*self.thresholds, *steps), inclusive=inclusive)
        return self._numbers(np.asarray(counts.correct, np.float64), np.asarray(counts.counted, np.float64), len(size))

    def _numbers(self, correct: np.ndarray, counted: np.ndarray, people: int) -> dict[str, float]:
        """From joints within each threshold and step of the curve [T, K], and joints that were looked at [K]."""
        parts = np.array([pck.part_of(joint) for joint in self.context.skeleton.joints])
        pooled = ~np.isin(parts, UNCOUNTED)
        if not counted[pooled].sum():
            raise DataError(
                f"{self.number} cannot be told: of {people} people none has both a labelled joint and a "
                f"{self.reference} size; evaluate data with such labels, or another metric"
            )
        curve = correct[:, pooled].sum(-1) / counted[pooled].sum()
        names = [f"{self.number}@{threshold:g}" for threshold in self.thresholds]
        numbers = dict(zip(names, map(float, curve), strict=False))
        numbers[f"{self.number}_AUC"] = float(curve[len(names) :].mean())
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
            ends = [self.context.skeleton.index("left_shoulder"), self.context.skeleton.index("right_hip")]
            return np.linalg.norm(np.diff(rows["truth"][:, ends], axis=1)[:, 0], axis=-1) * labelled[:, ends].all(-1)
        low = np.min(rows["truth"], axis=1, where=labelled[..., None], initial=np.inf)
        high = np.max(rows["truth"], axis=1, where=labelled[..., None], initial=-np.inf)
        return np.where(labelled.any(-1), np.max(high - low, axis=-1), 0)

    def table(self, numbers: Numbers) -> str:
        """The numbers as two aligned lines; see `table`."""
        return table(numbers)

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
    return two_lines({name: percent(value) for name, value in cells})


def _title(part: str) -> str:
    return part[0].upper() + part[1:].replace("_", " ")
