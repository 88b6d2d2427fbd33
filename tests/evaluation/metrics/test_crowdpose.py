"""CrowdPose AP: areas from boxes, subsets by crowd index."""

import dataclasses

import numpy as np
import pytest

from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.crowdpose import CrowdPoseKeypoints
from jaxpose.skeleton import CROWDPOSE


def one_person(image, offset):
    """A person in a box of 100 x 100, in an image of its own, and its pose moved by `offset` pixels."""
    points = np.stack([np.arange(14.0) * 7, np.arange(14.0) * 5], axis=-1)
    keypoints = np.concatenate([points, np.full((14, 1), 2)], axis=-1).reshape(-1).tolist()
    annotation = {
        "id": image,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 14,
        "keypoints": keypoints,
        "bbox": [0, 0, 100, 100],
    }
    return annotation, points + offset


def changed(metric, **fields):
    """The metric with the same rows and other fields of the context."""
    other = type(metric)(dataclasses.replace(metric.context, **fields))
    other.merge(metric)
    return other


@pytest.fixture(scope="module")
def sample():
    offsets = {1: 0.0, 2: 0.0, 3: 1e3, 4: 0.0}
    people = {image: one_person(image, offset) for image, offset in offsets.items()}
    crowd_index = {1: 0.0, 2: 0.2, 3: 0.5, 4: 0.8}
    truth = {
        "images": [{"id": i, "width": 640, "height": 480, "crowdIndex": c} for i, c in crowd_index.items()],
        "annotations": [annotation for annotation, _ in people.values()],
        "categories": [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE.joints)}],
    }
    metric = CrowdPoseKeypoints(MetricContext(CROWDPOSE, truth))
    metric.update(
        {
            "image_id": list(people),
            "index": list(people),
            "keypoints": np.stack([pose for _, pose in people.values()]),
            "scores": np.ones((4, 14)),
            "person_score": np.ones(4),
            "area": np.full(4, 1e4),
        }
    )
    return truth, metric


def test_subsets_by_crowd_index(sample):
    truth, metric = sample
    numbers = metric.compute()
    assert list(numbers) == ["AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"]
    assert numbers["AR"] == pytest.approx(0.75)
    assert numbers["AP_easy"] == numbers["AP_hard"] == 1
    assert 0 < numbers["AP_medium"] < 1


def test_subset_without_images_is_minus_one(sample):
    truth, metric = sample
    easy = CrowdPoseKeypoints(MetricContext(CROWDPOSE, truth, image_ids=[1]))
    easy.update({k: v[:1] for k, v in metric.rows().items()})
    numbers = easy.compute()
    assert (numbers["AP_easy"], numbers["AP_medium"], numbers["AP_hard"]) == (1, -1, -1)


def test_area_is_a_share_of_the_box(sample):
    """An area in the file, or none, makes no difference."""
    truth, metric = sample
    with_area = truth | {"annotations": [a | {"area": 1.0} for a in truth["annotations"]]}
    assert changed(metric, labels=with_area).compute() == metric.compute()


def test_sizes_add_to_the_numbers(sample):
    """All boxes are 100 x 100, so that all areas are 5300."""
    truth, metric = sample
    by_size = changed(metric, sizes=(1000.0, 5300.5))
    numbers, plain = by_size.compute(), metric.compute()
    assert {name: numbers[name] for name in plain} == plain
    assert numbers["AR_M"] == pytest.approx(0.75)
    assert {numbers[f"{name}_{size}"] for name in ("AP", "AR") for size in "SL"} == {-1}


def test_crowd_index_is_needed(sample):
    truth, metric = sample
    plain = truth | {"images": [{k: v for k, v in i.items() if k != "crowdIndex"} for i in truth["images"]]}
    with pytest.raises(DataError, match="4 images lack the field 'crowdIndex'"):
        changed(metric, labels=plain).compute()
