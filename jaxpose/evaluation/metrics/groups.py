"""Accuracy by groups of joints, as RegDA and the domain adaptations that are compared with it report it.

metric = JointGroups(MetricContext(skeleton.MPII, crop_size=(256, 256), map_size=(64, 64)))
for batch in batches:
    metric.update(rows)
numbers = metric.compute()      # {"PCK@0.05": ..., "PCK@0.05/shoulder": ..., "batch_PCK@0.05": ..., ...}
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.keypoint_pck import table
from jaxpose.evaluation.labelled_people import PEOPLE, PeopleMetric
from jaxpose.evaluation.metrics import Numbers
from jaxpose.evaluation.pck import Counts, coordinate_pck, part_of
from jaxpose.evaluation.rows import Column
from jaxpose.ops import geometry
from jaxpose.skeleton import Skeleton
from jaxpose.types import Array

Groups = dict[str, np.ndarray]
"""{group: indices of its joints}."""

HAND = {"MCP": "mcp", "PIP": "pip", "DIP": "dip", "fingertip": "tip"}
"""Groups of a hand, which are the ends of its joints' names; "all" is every joint."""
RADIUS = 0.05
"""A correct joint is closer to the truth than this share of the crop."""
PUBLISHED_BATCH = 32
"""People in a batch of the evaluation that published numbers come from."""
BODY = {
    "head": "head_top",
    "shoulder": "shoulder",
    "elbow": "elbow",
    "wrist": "wrist",
    "hip": "hip",
    "knee": "knee",
    "ankle": "ankle",
}
"""Groups of a body, which are parts of it whatever their side; "all" is their union without the head."""


def groups_of(skeleton: Skeleton) -> Groups:
    """The groups of a body's or hand's joints, and "all".

    Raises:
      ConfigError: there is no such joint.
    """
    hand = any(joint.endswith("_tip") for joint in skeleton.joints)
    parts = [joint.rpartition("_")[2] if hand else part_of(joint) for joint in skeleton.joints]
    members = {name: np.flatnonzero(np.equal(parts, part)) for name, part in (HAND if hand else BODY).items()}
    members = {name: joints for name, joints in members.items() if len(joints)}
    limbs = [joints for name, joints in members.items() if name != "head"]
    if not limbs:
        found = f"skeleton {skeleton.name!r} has none of the joints {', '.join(BODY.values())}"
        raise ConfigError(f'config.evaluate.metrics asks for "groups", but {found}')
    return members | {"all": np.arange(skeleton.num_joints) if hand else np.sort(np.concatenate(limbs))}


def pooled(counts: Counts, groups: Groups) -> dict[str, float]:
    """Share of correct joints in each group at the first threshold, over everything that was counted; NaN if nothing.

    Args:
      counts: sums over a whole data set.
      groups: groups as `groups_of` gives them.
    """
    correct, counted = np.asarray(counts.correct, np.float64)[0], np.asarray(counts.counted, np.float64)
    totals = {name: (correct[joints].sum(), counted[joints].sum()) for name, joints in groups.items()}
    return {name: float(right / number) if number else np.nan for name, (right, number) in totals.items()}


def batch_means(counts: Counts, groups: Groups) -> dict[str, float]:
    """Mean accuracy over the joints of each group at the first threshold, as the original code takes it of one batch.

    A joint that nobody in the batch counts for enters with -1. The published numbers are means of this over batches of
    32, weighted by their sizes, and so depend on how the data are cut into batches. `pooled` does not.

    Args:
      counts: sums over one batch.
      groups: groups as `groups_of` gives them.
    """
    accuracy: Array = np.nan_to_num(counts.accuracy()[0], nan=-1)
    return {name: float(np.mean(accuracy[joints])) for name, joints in groups.items()}


@dataclasses.dataclass
class JointGroups(PeopleMetric):
    """PCK@0.05 by groups of joints: what share of them lies closer to the truth than a twentieth of the crop.

    Its rows are people: index [n]; keypoints [n, K, 2] and truth [n, K, 2] in pixels of the image; visibility [n, K],
    positive for labelled joints; to_crop [n, 2, 3], the maps from pixels of the image to those of the crop.

    "PCK@0.05/GROUP" pools all labelled joints of a group, and "PCK@0.05" those of "all", with positions as they are.
    "batch_PCK@0.05" and its groups are what the original code would print: maxima of maps
    against the pixels of the targets' maxima, targets in the first two columns and rows left out, and the mean over
    batches of 32 of `batch_means`. -1 stands for a group without labels.

    Crops have `context.crop_size`, and joints are read from maps of `context.map_size`; without maps, nothing is given
    as the original code would print it.
    """

    columns = PEOPLE | {"to_crop": Column(np.float64, (2, 3))}

    def __post_init__(self):
        """Raises `ConfigError` for a skeleton without such joints, or a method without crops."""
        self._groups = groups_of(self.context.skeleton)
        if self.context.crop_size is None:
            raise ConfigError('config.evaluate.metrics asks for "groups", but the method looks at no crops of people')
        self._crop_size = self.context.crop_size

    def compute(self) -> dict[str, float]:
        """{name: share in [0, 1]}, people in order of index.

        Raises:
          DataError: no joint of anybody is labelled.
        """
        rows = self.rows()
        visible = rows["visibility"] > 0
        if not visible.any():
            nobody = f"none of {len(visible)} people has a labelled joint"
            raise DataError(f"PCK@{RADIUS:g} cannot be told: {nobody}; evaluate labelled data")
        found, truth = (geometry.apply_affine(rows["to_crop"], rows[name]) for name in ("keypoints", "truth"))
        size = np.tile(np.asarray(self._crop_size, np.float32), (len(found), 1))
        numbers = _named("", pooled(coordinate_pck(found, truth, visible, size, (RADIUS,)), self._groups))
        if self.context.map_size is None:
            return numbers
        return numbers | _named("batch_", self._published(found, truth, visible, self.context.map_size))

    def table(self, numbers: Numbers) -> str:
        """The numbers as two aligned lines; see `keypoint_pck.table`."""
        return table(numbers)

    def _published(
        self, found: np.ndarray, truth: np.ndarray, visible: np.ndarray, map_size: tuple[int, int]
    ) -> dict[str, float]:
        """{group: mean over batches} from joints [n, K, 2] in pixels of the crop."""
        width, height = map_size
        stride = np.divide(self._crop_size, map_size)
        found, truth = np.round(found / stride), np.trunc(truth.astype(np.float32) / stride + 0.5)
        counted = visible & np.all((truth > 1) & (truth < map_size), axis=-1)
        totals = dict.fromkeys(self._groups, 0.0)
        for first in range(0, len(found), PUBLISHED_BATCH):
            batch = slice(first, first + PUBLISHED_BATCH)
            size = np.tile(np.asarray([height, width], np.float32) / 10, (len(found[batch]), 1))
            counts = coordinate_pck(found[batch], truth[batch], counted[batch], size, (0.5,))
            for name, value in batch_means(counts, self._groups).items():
                totals[name] += value * len(found[batch]) / len(found)
        return totals


def _named(prefix: str, shares: Mapping[str, float]) -> dict[str, float]:
    """Shares of groups under the names that scores have; "all" without a part."""
    name = f"{prefix}PCK@{RADIUS:g}"
    shares = {group: -1.0 if np.isnan(share) else share for group, share in shares.items()}
    return {name if group == "all" else f"{name}/{group}": share for group, share in shares.items()}
