"""A released detector of photographs beside any top-down network, by the same door."""

import json

import cv2
import numpy as np
import pytest
from convert import originals
from numpy.testing import assert_allclose

import jaxpose
from jaxpose.cli import predict
from jaxpose.zoo import table
from jaxpose.zoo.opening import open_file

WIDTH = 16


def detr(classes: int) -> dict[str, tuple[int, ...]]:
    """A small DETR as its authors name it."""
    shapes = originals.prtr(originals.resnet(4), 32, WIDTH, 24, 12, classes)
    boxes = {name.replace("kpt_embed", "bbox_embed"): shape for name, shape in shapes.items()}
    return boxes | originals.linear("bbox_embed.layers.2", 4, WIDTH)


def pose() -> dict[str, tuple[int, ...]]:
    shapes = originals.resnet(4)
    inputs = 32
    for i in range(3):
        shapes[f"deconv_layers.{3 * i}.weight"] = (inputs, 8, 4, 4)
        shapes |= originals.norm(f"deconv_layers.{3 * i + 1}", 8, True)
        inputs = 8
    return shapes | {"final_layer.weight": (17, 8, 1, 1), "final_layer.bias": (17,)}


def sure_of(number: int) -> dict[str, np.ndarray]:
    """Entries by which one class is found everywhere, in boxes in the middle that are half as large as the image."""
    return {
        "bbox_embed.layers.2.weight": np.zeros((4, WIDTH), np.float32),
        "bbox_embed.layers.2.bias": np.zeros(4, np.float32),
        "class_embed.weight": np.zeros((92, WIDTH), np.float32),
        "class_embed.bias": np.where(np.arange(92) == number, 20, -20).astype(np.float32),
    }


def write(path, shapes, **changed):
    entries = originals.fill(shapes)
    entries |= {name: abs(value) for name, value in entries.items() if name.endswith("running_var")}
    np.savez(path, **entries | changed)
    return path


@pytest.fixture
def detector(tmp_path):
    """A released detector of 91 classes, which is sure of people wherever it looks."""
    return write(tmp_path / "detector.npz", detr(91), **sure_of(1))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8))
    return path


def test_people_are_the_first_of_its_classes(detector):
    _, method, _ = open_file(detector)
    assert (method.num_classes, method.person_class, method.outputs) == (91, 1, ("boxes",))


SMALL = {"method.short_side": 64, "method.long_side": 96}


def test_its_boxes_are_looked_at(detector, photo, tmp_path):
    boxes = jaxpose.load(detector, changes=SMALL, batch_size=1)
    network = jaxpose.load(write(tmp_path / "pose.npz", pose()), detector=boxes, batch_size=4)
    (people,) = network([cv2.imread(str(photo))[..., ::-1]])
    assert len(people.boxes) >= 1
    assert_allclose(people.boxes, np.tile([22.5, 30, 45, 60], (len(people.boxes), 1)), rtol=0, atol=1)


def test_nobody_is_found_where_other_classes_are_likelier(photo, tmp_path):
    cats = write(tmp_path / "cats.npz", detr(91), **sure_of(17))
    network = jaxpose.load(write(tmp_path / "pose.npz", pose()), detector=jaxpose.load(cats, changes=SMALL))
    assert len(network([cv2.imread(str(photo))])[0].boxes) == 0


def test_a_name_of_the_zoo_is_a_detector(detector, photo, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    row = table.Weights("small-detector", "detector.npz", "-", "-", "-", "prtr:detector_coco")
    detector.rename(weights / "detector.npz")
    monkeypatch.setattr(table, "rows", lambda: (row,))
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(weights))
    arguments = [str(write(tmp_path / "pose.npz", pose())), str(photo), f"--output={tmp_path / 'out'}"]
    assert predict.main([*arguments, "--detector=small-detector"]) == 0
    assert len(json.loads((tmp_path / "out" / "poses.json").read_text())) >= 1
