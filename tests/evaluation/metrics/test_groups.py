import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation import pck
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics import groups as joint_groups
from jaxpose.evaluation.metrics.groups import JointGroups
from jaxpose.ops import geometry, heatmaps
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


def test_joints_that_belong_to_no_group():
    with pytest.raises(ConfigError, match="asks for \"groups\", but skeleton 'nose' has none of the joints head_top"):
        joint_groups.groups_of(Skeleton("nose", ("nose",), (), (0.1,), ()))


CROP, MAP, PEOPLE = (128, 96), (32, 24), 70


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    """People whose predictions are pixels of a map, near the truth or not; some joints lie outside or have no label."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(-0.15, 1.15, (PEOPLE, 16, 2)) * CROP
    found = np.round(truth / 4 + rng.normal(0, 1.2, truth.shape)).clip(0, np.subtract(MAP, 1)) * 4
    to_crop = np.zeros((PEOPLE, 2, 3))
    to_crop[:, 0, 0] = to_crop[:, 1, 1] = rng.uniform(0.5, 2, PEOPLE)
    to_crop[:, :, 2] = rng.uniform(-50, 50, (PEOPLE, 2))
    to_image = geometry.invert_affine(to_crop)
    return {
        "index": rng.permutation(PEOPLE),
        "keypoints": geometry.apply_affine(to_image, found).astype(np.float32),
        "truth": geometry.apply_affine(to_image, truth),
        "visibility": (rng.random((PEOPLE, 16)) < 0.8) * (np.arange(16) != MPII.index("head_top")),
        "to_crop": to_crop,
        "crop_found": found,
        "crop_truth": truth,
    }


def computed(rows: dict, map_size: tuple[int, int] | None = MAP, parts: int = 1) -> dict[str, float]:
    metric = JointGroups(MetricContext(MPII, crop_size=CROP, map_size=map_size))
    for part in np.array_split(np.arange(len(rows["index"])), parts):
        metric.update({name: values[part] for name, values in rows.items()})
    return metric.compute()


def test_published_numbers_are_those_of_maps(rows):
    """What the original code computes from maps follows from the poses that are read from them."""
    order = np.argsort(rows["index"])
    target, _ = heatmaps.gaussian_targets(
        rows["crop_truth"][order], rows["visibility"][order], 4.0, MAP, 2.0, center_inside=True
    )
    output, _ = heatmaps.gaussian_targets(rows["crop_found"][order], np.ones((PEOPLE, 16)), 4.0, MAP, 2.0)
    groups, expected = joint_groups.groups_of(MPII), 0
    for first in range(0, PEOPLE, 32):
        counts = pck.heatmap_pck(output[first : first + 32], target[first : first + 32])
        share = min(32, PEOPLE - first) / PEOPLE
        expected += share * np.array(list(joint_groups.batch_means(counts, groups).values()))
    numbers = computed(rows)
    found = [numbers["batch_PCK@0.05" if name == "all" else f"batch_PCK@0.05/{name}"] for name in groups]
    assert_allclose(found, expected, atol=1e-9)
    assert 0.2 < numbers["batch_PCK@0.05"] < 0.9


def test_pooled_numbers_count_every_label_once_where_it_is(rows):
    offset = np.linalg.norm((rows["crop_found"] - rows["crop_truth"]) / CROP, axis=-1)
    numbers = computed(rows)
    for name, joints in joint_groups.groups_of(MPII).items():
        right = (offset < 0.05)[:, joints][rows["visibility"][:, joints] > 0]
        expected = right.mean() if right.size else -1
        assert numbers["PCK@0.05" if name == "all" else f"PCK@0.05/{name}"] == pytest.approx(expected)
    assert numbers["PCK@0.05/head"] == numbers["batch_PCK@0.05/head"] == -1


def test_numbers_do_not_depend_on_how_people_come(rows):
    order = np.random.default_rng(1).permutation(PEOPLE)
    assert computed(rows) == computed({name: values[order] for name, values in rows.items()}, parts=5)


def test_methods_without_maps_have_pooled_numbers_alone(rows):
    pooled = {name: value for name, value in computed(rows).items() if not name.startswith("batch")}
    assert computed(rows, None) == pooled


def test_nobody_has_labels(rows):
    with pytest.raises(DataError, match="none of 70 people has a labelled joint"):
        computed(rows | {"visibility": np.zeros((PEOPLE, 16))})


def test_merged_metrics_are_one(rows):
    halves = [JointGroups(MetricContext(MPII, crop_size=CROP, map_size=MAP)) for _ in range(2)]
    for half, part in zip(halves, np.array_split(np.arange(PEOPLE), 2), strict=True):
        half.update({name: values[part] for name, values in rows.items()})
    halves[0].merge(halves[1])
    assert halves[0].compute() == computed(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"to_crop": np.zeros((PEOPLE, 3, 3))},
            r"'to_crop' has shape \(70, 3, 3\), expected \(70, 2, 3\) for 70 people",
        ),
        ({"keypoints": np.full((PEOPLE, 16, 2), np.nan)}, "'keypoints' is not finite in 70 people; the network's"),
        ({"index": np.zeros(PEOPLE, int)}, "example 0 .*was added more than once"),
    ],
)
def test_rows_that_do_not_fit(rows, change, message):
    with pytest.raises(DataError, match=message):
        computed(rows | change)


def test_places_of_joints_without_labels_do_not_matter(rows):
    unknown = np.where(rows["visibility"][..., None] > 0, rows["truth"], np.nan)
    assert computed(rows | {"truth": unknown}) == computed(rows)
