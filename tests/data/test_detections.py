"""A stand-in for a person detector."""

import dataclasses

import numpy as np
import pytest
from boxed_people import HEIGHT, WIDTH, write_people
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data.detections import simulate_detections
from jaxpose.data.sources import coco


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_people(folder)
    return coco.read_keypoints(folder / "truth.json")


def test_simulated_boxes_depend_on_the_person_alone(annotations):
    found = simulate_detections(annotations, seed=1, copies=2, false_positives=0.5)
    assert_array_equal(np.sort(found["image"]), found["image"])
    half = dataclasses.replace(
        annotations,
        **{
            name: getattr(annotations, name)[100:]
            for name in ("person_image", "person_id", "box", "keypoints", "visibility", "area", "crowd", "track_id")
        },
    )
    fewer = simulate_detections(half, seed=1, copies=2)
    for row in (100, 199):
        mine, same = (d["box"][d["image"] == row] for d in (found, fewer))
        assert_array_equal(mine[:2], same)
    other = simulate_detections(annotations, seed=2, copies=2)
    assert not np.array_equal(other["box"][:10], found["box"][:10])


def test_simulated_boxes_are_as_bad_as_asked(annotations):
    exact = simulate_detections(annotations, seed=0, copies=1, jitter=0)
    assert_allclose(exact["box"], annotations.box, rtol=1e-6)
    assert exact["score"].min() >= 0.9 - 1e-6
    rough = simulate_detections(annotations, seed=0, copies=4, jitter=0.15, misses=0.25, false_positives=1.0)
    assert 0 <= rough["score"].min() <= rough["score"].max() <= 1
    low, high = rough["box"][:, :2], rough["box"][:, :2] + rough["box"][:, 2:]
    assert (low >= 0).all()
    assert (high <= np.array([WIDTH, HEIGHT]) + 1e-3).all()
    nobody = simulate_detections(annotations, seed=0, misses=1.0)
    assert nobody["box"].shape == (0, 4)
    found = len(simulate_detections(annotations, seed=0, copies=1, misses=0.25)["box"])
    assert_allclose(found / annotations.num_people, 0.75, atol=0.1)
    false = len(simulate_detections(annotations, seed=0, misses=1.0, false_positives=1.0)["box"])
    assert_allclose(false / annotations.num_images, 1.0, atol=0.2)
