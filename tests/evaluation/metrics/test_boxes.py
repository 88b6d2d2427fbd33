"""AP of boxes: the same numbers as pycocotools, COCO's rules about crowds and sizes, results for a pose stage."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data.sources.coco import read_detections
from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.boxes import NUMBERS, CocoBoxes
from jaxpose.evaluation.metrics.coco import write_results
from jaxpose.skeleton import COCO


def make_truth(boxes_of_images: list[list], crowd: tuple[int, ...] = (), categories=({"id": 1, "name": "person"},)):
    """A COCO dictionary; annotations are numbered from 1 over all images, and those in `crowd` are crowds."""
    people = [(image, box) for image, boxes in enumerate(boxes_of_images) for box in boxes]
    return {
        "images": [{"id": 10 * i, "width": 640, "height": 480} for i in range(len(boxes_of_images))],
        "annotations": [
            {
                "id": number,
                "image_id": 10 * image,
                "category_id": 1,
                "bbox": [float(v) for v in box],
                "area": float(box[2] * box[3]),
                "iscrowd": int(number in crowd),
            }
            for number, (image, box) in enumerate(people, start=1)
        ],
        "categories": list(categories),
    }


def rows_of(boxes_of_images: list[list], scores_of_images: list[list] | None = None) -> dict[str, np.ndarray]:
    image = np.repeat(np.arange(len(boxes_of_images)), [len(boxes) for boxes in boxes_of_images])
    scores = np.full(len(image), 0.5) if scores_of_images is None else np.concatenate(scores_of_images)
    boxes = np.concatenate([np.reshape(boxes, (-1, 4)) for boxes in boxes_of_images])
    return {"image_id": 10 * image, "index": image, "box": boxes, "box_score": scores}


def make_metric(truth: dict | None = None, **fields) -> CocoBoxes:
    return CocoBoxes(MetricContext(COCO, truth, **fields))


def measure(truth: dict, rows: dict, **fields) -> dict[str, float]:
    metric = make_metric(truth, **fields)
    metric.update(rows)
    return metric.compute()


def random_case(seed: int) -> tuple[dict, dict]:
    """People of all sizes in several images, found more or less well, and false boxes."""
    rng = np.random.default_rng(seed)
    true, found, scores = [], [], []
    for _ in range(12):
        size = np.exp(rng.uniform(np.log(8), np.log(220), (rng.integers(0, 6), 2)))
        boxes = np.concatenate([rng.uniform(0, 400, size.shape), size], -1)
        moved = boxes + np.tile(size, 2) * rng.normal(0, 0.08, boxes.shape)
        false = rng.uniform(5, 200, (rng.integers(0, 4), 4))
        true.append(boxes)
        found.append(np.concatenate([moved[rng.random(len(moved)) < 0.85], false]))
        scores.append(rng.random(len(found[-1])))
    return make_truth(true, crowd=(2, 9)), rows_of(found, scores)


@pytest.mark.parametrize("seed", range(4))
def test_the_twelve_numbers_are_those_of_pycocotools(seed, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, rows = random_case(seed)
    metric = make_metric(truth)
    metric.update(rows)
    theirs = COCO()
    theirs.dataset = json.loads(json.dumps(truth))
    theirs.createIndex()
    evaluation = COCOeval(theirs, theirs.loadRes(metric.results()), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    ours = metric.compute()
    assert tuple(ours) == NUMBERS
    assert_allclose(list(ours.values()), evaluation.stats, atol=1e-9)
    assert 0.05 < ours["box_AP"] < 0.95


def test_true_boxes_are_perfect_and_none_are_nothing():
    boxes = [[[0, 0, 20, 20], [50, 50, 60, 60]], [[5, 5, 200, 200]], []]
    perfect = measure(make_truth(boxes), rows_of(boxes))
    assert_allclose([v for name, v in perfect.items() if name != "box_AR1"], 1)
    assert perfect["box_AR1"] == pytest.approx(2 / 3)
    nothing = measure(make_truth(boxes), rows_of([[], [], []]))
    assert set(nothing.values()) == {0.0}
    only_large = measure(make_truth(boxes[1:]), rows_of(boxes[1:]))
    assert (only_large["box_AP_S"], only_large["box_AP_M"]) == (-1, -1)
    assert only_large["box_AP_L"] == pytest.approx(1)


def test_sizes_divide_people_as_told():
    boxes = [[[0, 0, 20, 20], [50, 50, 60, 60]], [[5, 5, 200, 200]]]
    found = [[boxes[0][0]], []]
    assert measure(make_truth(boxes), rows_of(found))["box_AR_S"] == 1
    ours = measure(make_truth(boxes), rows_of(found), sizes=(3700.0, 30000.0))
    assert ours["box_AR_S"] == pytest.approx(0.5)
    assert (ours["box_AR_M"], ours["box_AR_L"]) == (-1, 0)
    assert ours["box_AR"] == pytest.approx(1 / 3)


def test_a_box_in_a_crowd_is_no_mistake():
    boxes = [[[0, 0, 300, 300], [400, 50, 60, 60]]]
    found = [[[400, 50, 60, 60], [10, 10, 40, 40], [100, 100, 50, 50]]]
    better = [[0.5, 0.9, 0.8]]
    assert measure(make_truth(boxes, crowd=(1,)), rows_of(found, better))["box_AP"] == pytest.approx(1)
    assert measure(make_truth(boxes), rows_of(found, better))["box_AP"] < 0.5


def test_order_of_updates_does_not_count():
    truth, rows = random_case(7)
    whole, *parts = (make_metric(truth) for _ in range(3))
    whole.update(rows)
    for image in np.random.default_rng(0).permutation(12):
        mask = rows["index"] == image
        parts[image % 2].update({name: values[mask] for name, values in rows.items()})
    parts[1].merge(parts[0])
    assert parts[1].results() == whole.results()
    assert parts[1].compute() == whole.compute()


def test_results_are_what_a_pose_stage_reads(tmp_path):
    _, rows = random_case(3)
    metric = make_metric()
    metric.update(rows)
    write_results(metric.results(), tmp_path / "results.json")
    found = read_detections(tmp_path / "results.json", 10 * np.arange(12))
    order = np.lexsort((-rows["box_score"], rows["index"]))
    assert_array_equal(found["image"], rows["index"][order])
    assert_allclose(found["box"], rows["box"][order], rtol=1e-6)
    assert_allclose(found["score"], rows["box_score"][order], rtol=1e-6)


class TestErrors:
    ROWS = rows_of([[[0, 0, 5, 5]], [[0, 0, 5, 5]]])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"box": np.zeros((2, 3))}, r"'box' has shape \(2, 3\), expected \(2, 4\) for 2 boxes"),
            ({"box_score": np.array([0.5, np.nan])}, r"image 10 \(example 1\): field 'box_score' is not finite in 1"),
            ({"image_id": np.array([0])}, r"'image_id' has shape \(1,\), expected \(2,\)"),
        ],
    )
    def test_unusable_rows(self, changes, message):
        with pytest.raises(DataError, match=message):
            make_metric().update(self.ROWS | changes)

    def test_missing_field(self):
        rows = dict(self.ROWS)
        del rows["box_score"]
        with pytest.raises(DataError, match=r"boxes lack the fields \['box_score'\]"):
            make_metric().update(rows)

    def test_an_example_twice(self):
        metric = make_metric()
        metric.update(self.ROWS)
        metric.update(self.ROWS)
        with pytest.raises(DataError, match="example 0 .* was added more than once"):
            metric.results()

    def test_boxes_of_another_split(self):
        metric = make_metric(make_truth([[[0, 0, 5, 5]]]))
        metric.update(self.ROWS)
        with pytest.raises(DataError, match=r"boxes were added for 1 images .* 1 evaluated ones: \[10\]"):
            metric.compute()

    def test_unusable_truth(self):
        categories = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})
        with pytest.raises(DataError, match=r"expected a category 'person', or a single one; found \['cat', 'dog'\]"):
            measure(make_truth([[[0, 0, 5, 5]], []], categories=categories), self.ROWS)
        truth = make_truth([[[0, 0, 5, 5]], []])
        del truth["annotations"][0]["area"]
        with pytest.raises(DataError, match=r"annotation 1: lacks the fields \['area'\]"):
            measure(truth, self.ROWS)
