"""Accuracy by groups of joints, as RegDA and the domain adaptations that are compared with it report it."""

import numpy as np

from jaxpose.metrics.pck import Counts, part_of
from jaxpose.skeleton import Skeleton
from jaxpose.types import Array

Groups = dict[str, np.ndarray]
"""{group: indices of its joints}."""

HAND = {"MCP": "mcp", "PIP": "pip", "DIP": "dip", "fingertip": "tip"}
"""Groups of a hand, which are the ends of its joints' names; "all" is every joint."""
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
    """The groups of a body's or hand's joints, and "all"."""
    hand = any(joint.endswith("_tip") for joint in skeleton.joints)
    parts = [joint.rpartition("_")[2] if hand else part_of(joint) for joint in skeleton.joints]
    members = {name: np.flatnonzero(np.equal(parts, part)) for name, part in (HAND if hand else BODY).items()}
    members = {name: joints for name, joints in members.items() if len(joints)}
    limbs = [joints for name, joints in members.items() if name != "head"]
    return members | {"all": np.arange(skeleton.num_joints) if hand else np.sort(np.concatenate(limbs))}


def pooled(counts: Counts, groups: Groups) -> dict[str, float]:
    """Share of correct joints in each group at the first threshold, over everything that was counted; NaN if nothing.

    Args:
      counts: of a whole data set.
      groups: from `groups_of`.
    """
    correct, counted = np.asarray(counts.correct, np.float64)[0], np.asarray(counts.counted, np.float64)
    totals = {name: (correct[joints].sum(), counted[joints].sum()) for name, joints in groups.items()}
    return {name: float(right / number) if number else np.nan for name, (right, number) in totals.items()}


def batch_means(counts: Counts, groups: Groups) -> dict[str, float]:
    """Mean accuracy over the joints of each group at the first threshold, as the original code takes it of one batch.

    A joint that nobody in the batch counts for enters with -1. The published numbers are means of this over batches of
    32, weighted by their sizes, and so depend on how the data are cut into batches. `pooled` does not.

    Args:
      counts: of one batch.
      groups: from `groups_of`.
    """
    accuracy: Array = np.nan_to_num(counts.accuracy()[0], nan=-1)
    return {name: float(np.mean(accuracy[joints])) for name, joints in groups.items()}
