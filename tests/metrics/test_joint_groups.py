import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.metrics import joint_groups, pck
from jaxpose.skeleton import COCO, LSP, MPII, Skeleton

FINGERS = ("thumb", "index", "middle", "ring", "little")
HAND = Skeleton(
    name="hand of the test",
    joints=("wrist", *(f"{finger}_{part}" for finger in FINGERS for part in ("mcp", "pip", "dip", "tip"))),
    limbs=(),
    sigmas=(0.03,) * 21,
    upper_body=(),
)


def test_groups_of_a_hand():
    groups = joint_groups.groups_of(HAND)
    assert list(groups) == ["MCP", "PIP", "DIP", "fingertip", "all"]
    assert_array_equal(groups["PIP"], [2, 6, 10, 14, 18])
    assert_array_equal(groups["all"], np.arange(21))


@pytest.mark.parametrize(
    ("skeleton", "head", "shoulder", "limbs"),
    [(MPII, [9], [12, 13], 12), (LSP, [13], [8, 9], 12), (COCO, None, [5, 6], 12)],
)
def test_groups_of_a_body(skeleton, head, shoulder, limbs):
    groups = joint_groups.groups_of(skeleton)
    assert list(groups)[-1] == "all"
    assert ("head" in groups) == (head is not None)
    if head is not None:
        assert_array_equal(groups["head"], head)
    assert_array_equal(groups["shoulder"], shoulder)
    assert len(groups["all"]) == limbs
    assert set(groups["all"]).isdisjoint(head or ())


def test_batches_differ_from_pooled_joints_where_joints_are_missing():
    counts = pck.Counts(
        correct=np.array([[1.0, 3.0, 0.0, 0.0]]), counted=np.array([2.0, 4.0, 4.0, 0.0]), error=np.zeros(4)
    )
    groups = {"both": np.array([0, 1]), "some": np.array([2, 3]), "none": np.array([3])}
    assert_allclose(list(joint_groups.batch_means(counts, groups).values()), [0.625, -0.5, -1])
    assert_allclose(list(joint_groups.pooled(counts, groups).values()), [4 / 6, 0, np.nan])
