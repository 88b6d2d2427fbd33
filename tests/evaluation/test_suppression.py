"""Suppression of a data set's poses: merged image by image, with all columns in step; new scores before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.config import base
from jaxpose.errors import CheckpointError, ConfigError, DataError
from jaxpose.evaluation import rescoring
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.coco import CocoKeypoints
from jaxpose.evaluation.rescoring import PoseFeatures, RescoringNet
from jaxpose.evaluation.suppression import Suppression, suppress
from jaxpose.ops.pose_nms import PoseNMS, pose_nms
from jaxpose.skeleton import COCO

PARAMETRIC = Suppression("parametric")
BOX = np.array([0.0, 0.0, 80.0, 200.0])
NOISE = 2.0


def make_rows(people: dict[int, int], copies: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Poses with boxes: in each image so many people 300 pixels apart, of each so many nearly equal poses.

    Args:
      people: {image id: number of people}, ids rising.
      copies: poses of each person.
      seed: of poses and scores.

    Returns:
      Rows as `CocoKeypoints.update` takes them, an image's people in random order, and "person", a number for each.
    """
    rng = np.random.default_rng(seed)
    image_id = np.concatenate([np.full(count * copies, image) for image, count in people.items()])
    person = np.concatenate([rng.permutation(np.repeat(np.arange(count), copies)) for count in people.values()])
    place = person[:, None] * np.array([300.0, 0.0])
    true = {(i, p): rng.uniform(BOX[:2], BOX[2:], (17, 2)) for i, p in sorted(set(zip(image_id, person)))}
    pose = np.stack([true[key] for key in zip(image_id, person)]) + place[:, None]
    return {
        "image_id": image_id,
        "index": rng.permutation(len(person)),
        "keypoints": pose + rng.normal(0, NOISE, pose.shape),
        "scores": rng.uniform(0.4, 1, pose.shape[:2]),
        "person_score": rng.random(len(person)),
        "area": np.full(len(person), BOX[2:].prod()),
        "box": BOX + np.concatenate([place, 0 * place], -1),
        "box_score": rng.random(len(person)),
        "person": person,
    }


def take(rows, indices):
    return {name: values[indices] for name, values in rows.items()}


ROWS = make_rows({3: 2, 8: 1, 20: 4, 21: 6})


@pytest.fixture(scope="module")
def merged():
    return suppress(ROWS, COCO.sigmas, PARAMETRIC)


def test_one_pose_a_person_remains(merged):
    assert_array_equal(merged["image_id"], [3] * 2 + [8] + [20] * 4 + [21] * 6)
    assert sorted(zip(merged["image_id"], merged["person"])) == sorted(set(zip(ROWS["image_id"], ROWS["person"])))
    assert {name: values.dtype for name, values in merged.items()} == {name: v.dtype for name, v in ROWS.items()}


def test_columns_stay_in_step(merged):
    """Fields that are not merged are those of the picked pose: the copy with the best mean joint score."""
    for i in range(len(merged["index"])):
        copies = (ROWS["image_id"] == merged["image_id"][i]) & (ROWS["person"] == merged["person"][i])
        best = np.flatnonzero(copies)[np.argmax(ROWS["scores"][copies].mean(-1))]
        for name in ("index", "box", "box_score", "area"):
            assert_array_equal(merged[name][i], ROWS[name][best], err_msg=name)
        low, high = (f(ROWS["keypoints"][copies], axis=0) for f in (np.min, np.max))
        assert (merged["keypoints"][i] >= low - 1e-3).all()
        assert (merged["keypoints"][i] <= high + 1e-3).all()
        assert np.abs(merged["keypoints"][i] - ROWS["keypoints"][best]).max() > 0.1


def test_values_are_those_of_an_image_alone(merged):
    own, remaining = take(ROWS, ROWS["image_id"] == 20), take(merged, merged["image_id"] == 20)
    fields = (own[name] for name in ("keypoints", "scores", "box", "box_score"))
    found = pose_nms(*fields, np.ones(len(own["index"]), bool), PARAMETRIC.rules)
    order = np.asarray(found.order)[np.asarray(found.keep)[found.order]]
    assert_array_equal(remaining["index"], own["index"][order])
    for name in ("keypoints", "scores", "person_score"):
        assert_allclose(remaining[name], np.asarray(getattr(found, name))[order], rtol=1e-5)


@pytest.mark.parametrize("people", [1, 2, 3, 11, 13])
@pytest.mark.parametrize("others", [{21: 1}, {21: 40}, {21: 1, 22: 2, 23: 3, 24: 12}])
def test_other_images_and_padding_do_not_matter(people, others):
    """An image's poses come out the same, whatever other images are there and whatever capacity it is padded to."""
    image = make_rows({20: people}, seed=1)
    more = make_rows(others, seed=2)
    alone = suppress(image, COCO.sigmas, PARAMETRIC)
    together = suppress({name: np.r_[image[name], more[name]] for name in image}, COCO.sigmas, PARAMETRIC)
    assert_array_equal(np.unique(together["image_id"]), [20, *others])
    together = take(together, together["image_id"] == 20)
    assert len(alone["index"]) == people
    for name, values in alone.items():
        assert_allclose(together[name], values, rtol=1e-6, err_msg=name)


def test_weak_poses_are_dropped():
    rows = make_rows({3: 2, 4: 1})
    weak = (rows["image_id"] == 3) & (rows["person"] == 1)
    rows["scores"][weak] *= 0.1
    assert_array_equal(suppress(rows, COCO.sigmas, PARAMETRIC)["image_id"], [3, 4])
    rows["scores"] *= 0.1
    assert all(len(values) == 0 for values in suppress(rows, COCO.sigmas, PARAMETRIC).values())


def test_all_poses_may_be_dropped():
    """An evaluation early in training may be left with nobody."""
    rows = make_rows({3: 2, 4: 1})
    metric = CocoKeypoints(MetricContext(COCO, suppression=PARAMETRIC))
    metric.update(rows | {"scores": 0.1 * rows["scores"]})
    assert metric.results() == []


def test_rules_count():
    """Without any similarity that suffices, nothing is a duplicate."""
    rules = PoseNMS.preset(gamma=1e9, match_count=18)
    apart = suppress(ROWS, COCO.sigmas, Suppression("parametric", rules=rules))
    assert sorted(apart["index"]) == sorted(ROWS["index"])


def test_no_poses():
    empty = take(ROWS, np.zeros(0, int))
    remaining = suppress(empty, COCO.sigmas, PARAMETRIC)
    assert {name: values.shape for name, values in remaining.items()} == {name: v.shape for name, v in empty.items()}


@pytest.mark.parametrize("missing", [["box"], ["box_score"], ["box", "box_score"]])
def test_missing_boxes_are_named(missing):
    rows = {name: values for name, values in ROWS.items() if name not in missing}
    listed = str(missing).replace("[", r"\[").replace("]", r"\]")
    pattern = f"parametric suppression looks at keypoints, scores, box, box_score, but .*{listed}"
    with pytest.raises(DataError, match=pattern):
        suppress(rows, COCO.sigmas, PARAMETRIC)
    metric = CocoKeypoints(MetricContext(COCO, suppression=PARAMETRIC))
    metric.update(rows)
    with pytest.raises(DataError, match=pattern):
        metric.results()
    metric.context = MetricContext(COCO, suppression=Suppression("none"))
    assert len(metric.results()) == len(ROWS["index"])
    with pytest.raises(DataError, match=rf"with their boxes, but lack the fields {missing}".replace("[", r"\[")):
        metric.results(boxes=True)


def test_results_with_boxes():
    metric = CocoKeypoints(MetricContext(COCO, suppression=Suppression("none")))
    metric.update(ROWS)
    plain, rows = metric.results(), metric.rows()
    for i, record in enumerate(metric.results(boxes=True)):
        assert record == plain[i] | {"person_box": rows["box"][i].tolist(), "box_score": rows["box_score"][i]}


def test_from_config():
    config = base("sketch").evaluate
    assert Suppression.create(config, 17) == Suppression("hard", 0.9, PoseNMS.preset("alphapose"))
    config.update(
        {"suppression": "parametric", "oks": 0.5, "pose_nms": ConfigDict({"rules": "rmpe2017", "gamma": 9.0})}
    )
    assert Suppression.create(config, 17) == Suppression("parametric", 0.5, PoseNMS.preset("rmpe2017", gamma=9.0))
    config.pose_nms.gama = 1.0
    with pytest.raises(ConfigError, match=r"unknown parameters \['gama'\]"):
        Suppression.create(config, 17)
    config.suppression = "greedy"
    del config.pose_nms.gama
    with pytest.raises(ConfigError, match="suppression is 'greedy'"):
        Suppression.create(config, 17)


@pytest.mark.parametrize("count", [0, 1, 100])
def test_rescoring_comes_first(tmp_path, count):
    """People get new scores from a file, and duplicates are removed by them."""
    features = PoseFeatures.of(COCO)
    params = RescoringNet(4).init(jax.random.key(0), jnp.zeros(features.size))["params"]
    rescoring.save(tmp_path / "r.npz", rescoring.Rescoring(features, params))
    config = base("sketch").evaluate
    config.update({"suppression": "none", "rescoring": str(tmp_path / "r.npz")})
    rng = np.random.default_rng(0)
    rows = {
        "image_id": np.zeros(count, np.int64),
        "keypoints": rng.uniform(0, 100, (count, 17, 2)),
        "scores": rng.uniform(size=(count, 17)),
        "person_score": rng.uniform(0.1, 1, count),
    }
    found = suppress(rows, COCO.sigmas, Suppression.create(config, 17))
    expected = rescoring.load(tmp_path / "r.npz", 17)(rows["keypoints"], rows["scores"], rows["person_score"])
    assert_allclose(found["person_score"], expected, rtol=1e-5)
    assert (found["person_score"] != rows["person_score"]).all()
    with pytest.raises(CheckpointError, match="rescores poses of 17 joints, these have 14"):
        Suppression.create(config, 14)
