"""COCO AP: against pycocotools on random data, and what happens at the edges."""

import contextlib
import copy
import dataclasses
import io
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.metrics import MetricContext, coco
from jaxpose.evaluation.metrics.coco import CocoKeypoints, write_results
from jaxpose.evaluation.suppression import Suppression, suppress
from jaxpose.skeleton import COCO, CROWDPOSE


def make_truth(rng, images=6, joints=COCO, first_id=1):
    """A keypoint file with crowds, unlabelled people, all sizes, and images without anybody."""
    annotations = []
    for image in range(1, images):
        for _ in range(rng.integers(0, 4)):
            width, height = rng.uniform(20, 200, 2)
            x, y = rng.uniform(0, 300, 2)
            visibility = rng.integers(0, 3, joints.num_joints) * (rng.random() > 0.2)
            points = rng.uniform([x, y], [x + width, y + height], (joints.num_joints, 2)).round()
            keypoints = np.concatenate([points * (visibility > 0)[:, None], visibility[:, None]], axis=-1)
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": 10 * image,
                    "category_id": 1,
                    "iscrowd": int(rng.random() < 0.15),
                    "num_keypoints": int((visibility > 0).sum()),
                    "keypoints": keypoints.reshape(-1).tolist(),
                    "bbox": [x, y, width, height],
                    "area": 0.6 * width * height,
                }
            )
    images = [{"id": 10 * i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(1, images + 1)]
    category = {"id": 1, "name": "person", "keypoints": list(joints.joints), "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def make_rows(rng, truth, joints=COCO, false_positives=5):
    """Poses near the truth, copies of them, and nonsense; scores from few levels, so that ties are common."""
    poses, image_id = [], []
    for annotation in truth["annotations"]:
        points = np.reshape(annotation["keypoints"], (-1, 3))[:, :2]
        for _ in range(rng.integers(0, 3)):
            noise = rng.choice([0.5, 4, 20]) * rng.standard_normal(points.shape)
            poses.append(points + noise)
            image_id.append(annotation["image_id"])
    for _ in range(false_positives):
        poses.append(rng.uniform(0, 300, (joints.num_joints, 2)))
        image_id.append(rng.choice([i["id"] for i in truth["images"]]))
    count = len(poses)
    return {
        "image_id": np.array(image_id),
        "index": np.arange(count),
        "keypoints": np.array(poses).reshape(count, joints.num_joints, 2),
        "scores": rng.random((count, joints.num_joints)),
        "person_score": rng.integers(1, 5, count) / 4,
        "area": rng.uniform(1e3, 3e4, count),
    }


def reference(truth, results, joints, ids, sizes=None):
    tools = pytest.importorskip("pycocotools.coco", reason="the cross-check needs pycocotools")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        index = tools.COCO()
        index.dataset = truth
        index.createIndex()
        evaluation = COCOeval(index, index.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(joints.sigmas)
        evaluation.params.imgIds = ids
        if sizes:
            evaluation.params.areaRng = [[0, 1e10], [0, sizes[0]], [sizes[0], sizes[1]], [sizes[1], 1e10]]
            evaluation.params.areaRngLbl = ["all", "small", "medium", "large"]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def make_metric(truth=None, joints=COCO, **fields):
    return CocoKeypoints(MetricContext(joints, truth, **fields))


def changed(metric, **fields):
    """The metric with the same rows and other fields of the context."""
    other = type(metric)(dataclasses.replace(metric.context, **fields))
    other.merge(metric)
    return other


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["hard", "soft", "none"]), st.sampled_from([COCO, CROWDPOSE]))
def test_numbers_equal_pycocotools(seed, suppression, joints):
    rng = np.random.default_rng(seed)
    truth = make_truth(rng, joints=joints)
    metric = make_metric(truth, joints, suppression=Suppression(suppression))
    metric.update(make_rows(rng, truth, joints))
    ids = [image["id"] for image in truth["images"]]
    numbers = metric.compute()
    expected = reference(truth, metric.results(), joints, ids).stats
    np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1000.0, 6000.0), (500.0, 1e5), (32.0**2, 96.0**2)]))
def test_sizes_equal_pycocotools(seed, sizes):
    rng = np.random.default_rng(seed)
    truth = make_truth(rng, images=9)
    metric = make_metric(truth, sizes=sizes)
    metric.update(make_rows(rng, truth))
    ids = [image["id"] for image in truth["images"]]
    numbers = metric.compute()
    found = reference(truth, metric.results(), COCO, ids, sizes).eval
    for s, size in enumerate("SML", start=1):
        for name, values in (("AP", found["precision"][:, :, 0, s, 0]), ("AR", found["recall"][:, 0, s, 0])):
            known = values[values > -1]
            assert numbers[f"{name}_{size}"] == pytest.approx(known.mean() if known.size else -1, abs=1e-12)
    plain = make_metric(truth)
    plain.merge(metric)
    same = plain.compute()
    names = [name for name in coco.NUMBERS if "_" not in name or sizes == (32.0**2, 96.0**2)]
    assert {name: numbers[name] for name in names} == pytest.approx({name: same[name] for name in names}, abs=1e-12)


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(7)
    truth = make_truth(rng, images=8)
    return truth, make_rows(rng, truth, false_positives=20)


def perfect_rows(truth):
    people = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    points = np.array([a["keypoints"] for a in people]).reshape(-1, 17, 3)
    return {
        "image_id": np.array([a["image_id"] for a in people]),
        "index": np.arange(len(people)),
        "keypoints": points[..., :2],
        "scores": np.ones(points.shape[:2]),
        "person_score": np.ones(len(people)),
        "area": np.array([a["area"] for a in people]),
    }


def take(rows, indices):
    return {name: np.asarray(values)[indices] for name, values in rows.items()}


def test_perfect_poses_score_one(sample):
    truth, _ = sample
    metric = make_metric(truth)
    metric.update(perfect_rows(truth))
    assert metric.compute() == pytest.approx(dict.fromkeys(coco.NUMBERS, 1.0))


def test_batches_and_processes_do_not_matter(sample):
    truth, rows = sample
    whole = make_metric(truth)
    whole.update(rows)
    count = len(rows["index"])
    shares = [make_metric(truth) for _ in range(3)]
    for number, block in enumerate(np.array_split(np.random.default_rng(0).permutation(count), 7)):
        shares[number % 3].update(take(rows, block))
    merged = make_metric(truth)
    for share in shares:
        merged.merge(share)
    exchanged = make_metric(truth)
    exchanged.update(merged.rows())
    assert merged.results() == exchanged.results() == whole.results()
    assert merged.compute() == whole.compute()


def test_poses_of_one_example_keep_their_order():
    poses = {
        "image_id": [5, 5, 5],
        "index": [0, 0, 0],
        "keypoints": np.arange(3)[:, None, None] * np.full((3, 17, 2), 100.0),
        "scores": np.ones((3, 17)),
        "person_score": [0.5, 0.5, 0.5],
        "area": [100, 100, 100],
    }
    metric = make_metric(suppression=Suppression("none"))
    metric.update(poses)
    assert [r["keypoints"][0] for r in metric.results()] == [0, 100, 200]
    metric = make_metric(suppression=Suppression("hard"))
    metric.update(poses)
    assert [r["keypoints"][0] for r in metric.results()] == [200, 100, 0]


@pytest.mark.parametrize("people", [1, 8, 9, 40, 150])
def test_suppression_does_not_depend_on_padding(people):
    """Copies of a pose at two places: the best of each place stays, whatever the capacity an image is padded to."""
    rng = np.random.default_rng(people)
    place = np.arange(people) % 2
    rows = {
        "image_id": np.r_[np.full(people, 3), 4],
        "keypoints": np.r_[place, 0][:, None, None] * np.full((people + 1, 17, 2), 500.0),
        "person_score": np.r_[rng.permutation(people) / people, 0.5],
        "area": np.full(people + 1, 1e3),
        "index": np.arange(people + 1),
    }
    kept = suppress(rows, COCO.sigmas, Suppression("hard"))["index"]
    score = rows["person_score"][:people]
    best = [np.flatnonzero(place == p)[np.argmax(score[place == p])] for p in np.unique(place)]
    assert kept.tolist() == sorted(best, key=lambda i: -score[i]) + [people]


def test_nothing_predicted_is_zero(sample):
    truth, rows = sample
    assert set(make_metric(truth).compute().values()) == {0.0}
    empty = make_metric(truth)
    empty.update(take(rows, np.zeros(0, int)))
    assert set(empty.compute().values()) == {0.0}
    assert empty.results() == []


def test_size_without_people_is_minus_one(sample):
    truth, _ = sample
    large = [dict(a, area=200.0**2) for a in truth["annotations"]]
    metric = make_metric(truth | {"annotations": large})
    metric.update(perfect_rows(truth | {"annotations": large}))
    numbers = metric.compute()
    assert numbers["AP_M"] == numbers["AR_M"] == -1
    assert numbers["AP_L"] == pytest.approx(1)


def test_images_without_poses_count_as_missed(sample):
    truth, _ = sample
    rows = perfect_rows(truth)
    metric = make_metric(truth)
    metric.update(take(rows, rows["image_id"] == rows["image_id"][0]))
    share = np.mean(rows["image_id"] == rows["image_id"][0])
    assert metric.compute()["AR"] == pytest.approx(share)
    assert changed(metric, image_ids=[rows["image_id"][0]]).compute()["AR"] == pytest.approx(1)


def test_poses_in_images_without_people_are_mistakes(sample):
    truth, _ = sample
    rows = perfect_rows(truth)
    empty = next(i["id"] for i in truth["images"] if i["id"] not in {a["image_id"] for a in truth["annotations"]})
    wrong = take(rows, [0]) | {"image_id": [empty], "index": [1000], "person_score": [2.0]}
    metric = make_metric(truth)
    metric.update(rows)
    metric.update(wrong)
    numbers = metric.compute()
    assert numbers["AR"] == pytest.approx(1)
    assert numbers["AP"] < 1


def test_annotation_ids_may_start_at_zero(sample):
    truth, rows = sample
    from_zero = truth | {"annotations": [dict(a, id=a["id"] - 1) for a in truth["annotations"]]}
    metric = make_metric(truth)
    metric.update(rows)
    assert changed(metric, labels=from_zero).compute() == metric.compute()


def test_results_file(sample, tmp_path):
    truth, rows = sample
    metric = make_metric(truth, suppression=Suppression("none"))
    metric.update(rows)
    write_results(metric.results(), tmp_path / "a.json")
    again = make_metric(suppression=Suppression("none"))
    for i in reversed(range(len(rows["index"]))):
        again.update(take(rows, [i]))
    write_results(again.results(), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    stored = json.loads((tmp_path / "a.json").read_text())
    assert [set(r) for r in stored] == [{"image_id", "category_id", "keypoints", "score"}] * len(rows["index"])
    assert all(len(r["keypoints"]) == 51 for r in stored)
    ids = [image["id"] for image in truth["images"]]
    stats = coco.match(coco.load_truth(truth, COCO), stored, COCO.sigmas, ids).stats
    np.testing.assert_array_equal(stats, list(metric.compute().values()))


def test_truth_from_file(sample, tmp_path):
    truth, rows = sample
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    metric = make_metric(truth)
    metric.update(rows)
    assert changed(metric, labels=tmp_path / "truth.json").compute() == metric.compute()


@pytest.mark.parametrize("field", ["person_score", "scores", "keypoints", "area"])
def test_non_finite_numbers_are_refused(sample, field):
    _, rows = sample
    values = np.array(rows[field])
    values[3] = np.nan
    with pytest.raises(DataError, match=rf"image {rows['image_id'][3]} .*{field!r} is not finite in 1 pose"):
        make_metric().update(rows | {field: values})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((2, 16))}, "'keypoints' has shape"),
        ({"person_score": np.zeros(3)}, "'person_score' has shape"),
        ({"image_id": np.zeros((2, 1))}, "'image_id' has shape"),
        ({"scores": 1.0}, "'keypoints' has shape"),
    ],
)
def test_shapes_are_checked(sample, change, message):
    _, rows = sample
    with pytest.raises(DataError, match=message):
        make_metric().update(take(rows, [0, 1]) | change)


def test_missing_field_is_named(sample):
    _, rows = sample
    with pytest.raises(DataError, match=r"lack the fields \['area'\]"):
        make_metric().update({k: v for k, v in rows.items() if k != "area"})


def test_repeated_example_is_refused(sample):
    _, rows = sample
    metric = make_metric()
    metric.update(rows)
    metric.update(take(rows, [4]))
    with pytest.raises(DataError, match="example 4 .*more than once"):
        metric.rows()


def test_unknown_images_are_refused(sample):
    truth, rows = sample
    metric = make_metric(truth)
    metric.update(rows | {"image_id": np.full(len(rows["index"]), 987)})
    with pytest.raises(DataError, match=r"not among the 8 evaluated ones: \[987\]"):
        metric.compute()
    with pytest.raises(DataError, match=r"ground truth lacks: \[987\]"):
        changed(metric, image_ids=[10, 987]).compute()
    with pytest.raises(DataError, match="no image to evaluate"):
        changed(metric, image_ids=[]).compute()


def test_wrong_skeleton_is_refused(sample):
    truth, rows = sample
    metric = make_metric(truth)
    metric.update(rows)
    with pytest.raises(DataError, match="annotation 1: field 'keypoints' has 51 numbers, expected 42"):
        changed(metric, skeleton=CROWDPOSE).compute()
    with pytest.raises(DataError, match="the poses have 17 joints"):
        changed(metric, skeleton=CROWDPOSE).results()
    metric.update(take(rows, [0]) | {"keypoints": np.zeros((1, 14, 2)), "scores": np.zeros((1, 14))})
    with pytest.raises(DataError, match=r"poses with \[14, 17\] joints"):
        metric.rows()


def test_broken_truth_is_named(sample, tmp_path):
    truth, rows = sample
    metric = make_metric(truth)
    metric.update(rows)
    (tmp_path / "cut.json").write_text(json.dumps(truth)[:100])
    with pytest.raises(DataError, match=r"cut\.json: not valid JSON"):
        changed(metric, labels=tmp_path / "cut.json").compute()
    with pytest.raises(DataError, match="field 'annotations': expected a list"):
        changed(metric, labels={"images": [], "categories": []}).compute()
    without_area = [{k: v for k, v in a.items() if k != "area"} for a in truth["annotations"]]
    with pytest.raises(DataError, match=r"annotation 1: lacks the fields \['area'\]"):
        changed(metric, labels=truth | {"annotations": without_area}).compute()
    two = truth["categories"] + [{"id": 2, "name": "dog", "keypoints": list(COCO.joints)}]
    with pytest.raises(DataError, match="field 'categories': expected one with 17 keypoints"):
        changed(metric, labels=truth | {"categories": two}).compute()


def test_other_categories_are_left_out(sample):
    truth, rows = sample
    metric = make_metric(truth)
    metric.update(rows)
    car = {"id": 900, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 5], "area": 25.0}
    more = truth | {
        "categories": [{"id": 3, "name": "car"}, *truth["categories"]],
        "annotations": [car, *truth["annotations"]],
    }
    assert changed(metric, labels=more).compute() == metric.compute()


def test_unknown_suppression_is_refused():
    with pytest.raises(ConfigError, match="suppression is 'greedy'"):
        Suppression("greedy")


ODD = {
    "image without id": (lambda t: t["images"][0].pop("id"), "image 0 of 'images'.*field 'id' is missing"),
    "image id as text": (lambda t: t["images"][0].update(id="a"), "field 'id' is 'a', expected a whole number"),
    "image twice": (lambda t: t["images"].append(t["images"][0]), "several images have the same id 10"),
    "image null": (lambda t: t["images"].append(None), "image 8 of 'images'.* is None, expected an object"),
    "no object": (lambda t: t["annotations"].append(7), "of 'annotations' is 7, expected an object"),
    "area null": (lambda t: t["annotations"][0].update(area=None), r"lacks the fields \['area'\]"),
    "area negative": (lambda t: t["annotations"][0].update(area=-3), "field 'area' is -3, expected .* number from 0"),
    "box NaN": (lambda t: t["annotations"][0]["bbox"].__setitem__(0, float("nan")), "field 'bbox' holds nan"),
    "box short": (lambda t: t["annotations"][0]["bbox"].pop(), "field 'bbox' has 3 numbers, expected 4"),
    "joint null": (lambda t: t["annotations"][0]["keypoints"].__setitem__(4, None), "field 'keypoints' holds None"),
    "joints as text": (lambda t: t["annotations"][0].update(keypoints="x"), "field 'keypoints' is 'x'"),
    "crowd 2": (lambda t: t["annotations"][0].update(iscrowd=2), "field 'iscrowd' is 2, expected 0 or 1"),
    "count NaN": (lambda t: t["annotations"][0].update(num_keypoints=float("nan")), "field 'num_keypoints' is nan"),
    "category null": (lambda t: t["annotations"][0].update(category_id=None), "field 'category_id' is missing"),
    "category without id": (lambda t: t["categories"][0].pop("id"), "field 'categories': field 'id' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_fields_of_the_truth_are_named(sample, case):
    truth, _ = sample
    change, message = ODD[case]
    odd = copy.deepcopy(truth)
    for image in odd["annotations"]:
        image["keypoints"], image["bbox"] = list(image["keypoints"]), list(image["bbox"])
    change(odd)
    with pytest.raises(DataError, match=message):
        coco.load_truth(odd, COCO)


def test_numbers_in_quotes_and_people_without_a_number_of_their_own(sample, caplog):
    """The same labels, less carefully written, give the same numbers."""
    truth, rows = sample
    metric = make_metric(truth)
    metric.update(rows)
    odd = copy.deepcopy(truth)
    for person in odd["annotations"]:
        person |= {
            "area": str(person["area"]),
            "image_id": float(person["image_id"]),
            "iscrowd": bool(person["iscrowd"]),
        }
        person |= {
            "id": 1,
            "keypoints": [value if k % 3 < 2 else value / 2 for k, value in enumerate(person["keypoints"])],
        }
    assert changed(metric, labels=odd).compute() == metric.compute()
    assert "ids occur repeatedly; all " in caplog.text
    assert "third numbers that are not 0, 1 or 2, such as 0.5: above 0 counts as labelled" in caplog.text


def test_people_of_images_that_are_not_listed_are_counted(sample, caplog):
    truth, rows = sample
    metric = make_metric(truth)
    metric.update(rows)
    stranger = dict(truth["annotations"][0]) | {"id": 999, "image_id": 999}
    assert (
        changed(metric, labels=truth | {"annotations": [*truth["annotations"], stranger]}).compute() == metric.compute()
    )
    assert "1 people are of images that are not listed, and not evaluated (annotation 999 first)" in caplog.text
