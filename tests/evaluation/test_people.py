"""From poses to people: batched over images as one image at a time, in evaluation as in prediction."""

import dataclasses
from typing import ClassVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numpy.testing import assert_array_equal, assert_array_max_ulp

from jaxpose import sharding
from jaxpose.data.annotations import tight_boxes
from jaxpose.data.build import person_crop
from jaxpose.errors import ConfigError
from jaxpose.evaluation import suppression as suppression_module
from jaxpose.evaluation.evaluator import Evaluator
from jaxpose.evaluation.rescoring import PoseFeatures, Rescoring, RescoringNet
from jaxpose.evaluation.suppression import Suppression, padded_images
from jaxpose.inference.predictor import Predictor
from jaxpose.inference.requests import Picture, stack
from jaxpose.methods.bottom_up import BottomUp
from jaxpose.methods.top_down import CropInput, person_spec
from jaxpose.ops import nms
from jaxpose.ops.pose_nms import pose_nms
from jaxpose.skeleton import COCO
from jaxpose.types import Detections, Layout, Poses

PICTURES, MOST, JOINTS = 21, 40, 17
SIZE = (48, 64)
FIELDS = ("keypoints", "scores", "person_score", "boxes")
SUPPRESSIONS = ["hard", "soft", "parametric", "none"]


def table(seed=0):
    """Poses by the number of a picture: several of each of a few people, in pictures with up to 40 poses."""
    rng = np.random.default_rng(seed)
    person = rng.integers(0, 6, (PICTURES, MOST))
    shape = rng.uniform(0, 60, (PICTURES, 6, JOINTS, 2)) + np.arange(6)[:, None, None] * np.array([40.0, 0.0])
    points = np.take_along_axis(shape, person[..., None, None], 1) + rng.normal(0, 2, (PICTURES, MOST, JOINTS, 2))
    count = rng.integers(0, 9, PICTURES)
    count[:2] = 0, MOST
    boxes = np.concatenate([points.min(-2), np.ptp(points, axis=-2)], -1)
    scores = rng.uniform(0.2, 1, (PICTURES, MOST, JOINTS))
    score = rng.integers(1, 30, (PICTURES, MOST)) / 30  # some of them equal
    rows = {"keypoints": points, "scores": scores, "person_score": score, "boxes": boxes, "box_score": score[:, ::-1]}
    return {name: np.float32(v) for name, v in rows.items()} | {"valid": np.arange(MOST) < count[:, None]}


TABLE = table()


def picture(number):
    return np.full((64, 96, 3), number, np.uint8)


@dataclasses.dataclass(frozen=True)
class Listed(BottomUp):
    """Finds the poses of the table whose number the picture's colour tells."""

    def layout(self, width, height):
        return Layout(((width, height),), (np.eye(2, 3),))

    def predict(self, variables, batch):
        number = batch["source"]["image"][:, 0, 0, 0].astype(jnp.int32)
        rows = {name: values[number] for name, values in variables.items()}
        valid = rows["valid"] & batch["source"]["valid"][:, None]
        labels = jnp.zeros(valid.shape, jnp.int32)
        boxes = Detections(rows["boxes"], rows["box_score"], labels, valid)
        if not self.finds_poses:
            return boxes
        poses = Poses(rows["keypoints"], rows["scores"], rows["person_score"], valid)
        return dataclasses.replace(poses, detections=boxes) if self.finds_boxes else poses

    module = labels = init = phases = forward = decode = None


class ListedInBoxes(Listed):
    outputs: ClassVar[tuple[str, ...]] = ("poses", "boxes")


class ListedBoxes(Listed):
    outputs: ClassVar[tuple[str, ...]] = ("boxes",)


@dataclasses.dataclass(frozen=True)
class ListedCrops(CropInput):
    """Finds the first pose of the table in every crop, moved to the crop's place."""

    def spec(self, batch_size):
        return {"source": person_spec(batch_size, SIZE, JOINTS)}

    def predict(self, variables, batch):
        crops = batch["source"]
        number = crops["image"][:, SIZE[1] // 2, SIZE[0] // 2, 0].astype(jnp.int32)
        rows = {name: values[number, :1] for name, values in variables.items()}
        points = rows["keypoints"] + crops["to_image"][:, None, None, :, 2]
        score = rows["person_score"] * crops["person_score"][:, None]
        return Poses(points, rows["scores"], score, crops["valid"][:, None])

    module = targets = init = phases = forward = decode = None


METHODS = {"top-down": ListedCrops(), "bottom-up": Listed(), "boxed poses": ListedInBoxes(), "boxes": ListedBoxes()}


def make_suppression(kind, rescored):
    features = PoseFeatures.of(COCO)
    params = RescoringNet(32).init(jax.random.key(0), jnp.zeros(features.size))["params"]
    rescoring = Rescoring(features, jax.tree.map(np.asarray, params)) if rescored else None
    return Suppression(kind, oks=0.6, rescoring=rescoring)


def boxes_of(number):
    """Up to ten boxes of a picture, most of them about one another, and their scores."""
    rng = np.random.default_rng(number)
    count = number % 11
    boxes = np.array([20, 10, 40, 50]) + rng.choice([0.0, 1.0, 2.0, 30.0], (count, 4))
    return boxes.astype(np.float32), rng.uniform(0.3, 1, count).astype(np.float32)


# --- one picture at a time ---


hard, soft, parametric = (jax.jit(function) for function in (nms.oks_nms, nms.soft_oks_nms, pose_nms))
rescore = jax.jit(lambda rescoring, *fields: rescoring(*fields))


def found_alone(predictor, request, threshold):
    """What the method finds in one picture, in order of its boxes: (columns, number of the box of each row)."""
    inputs = list(predictor.preprocess(request))
    if not inputs:
        return {}, np.zeros(0, int)
    rows = -(-len(inputs) // predictor.batch_size) * predictor.batch_size
    batch = {"source": stack(inputs, rows)}
    found = jax.device_get(jax.jit(predictor.method.predict)(predictor.variables, batch))
    valid = np.asarray(found.valid)
    boxes = found if isinstance(found, Detections) else found.detections
    if boxes is not None:
        valid = valid & (boxes.scores >= threshold) & (boxes.boxes[..., 2:] > 0).all(-1)
    columns = {}
    if isinstance(found, Poses):
        columns = {name: getattr(found, name)[valid] for name in ("keypoints", "scores", "person_score")}
    if boxes is not None:
        columns |= {"box": boxes.boxes[valid], "box_score": boxes.scores[valid]}
    return columns, np.nonzero(valid)[0]


def padded(values, capacity):
    return np.pad(values, [(0, capacity - len(values))] + [(0, 0)] * (values.ndim - 1))


def people_alone(predictor, suppression, number, threshold, images=1):
    """(keypoints, scores, person_score, boxes) of a picture by the definitions, without any other picture.

    Args:
      predictor: predictor that finds people.
      suppression: rescoring, and suppression of duplicates.
      number: number of the picture.
      threshold: least score of boxes that the method finds.
      images: number of images that suppression looks at, of which all others are empty.
    """
    request = next(predictor.requests([named(number)], find))
    columns, box_number = found_alone(predictor, request, threshold)
    count = len(box_number)
    if not predictor.method.finds_poses:
        order = np.argsort(-columns["box_score"], kind="stable")
        return np.zeros((count, 0, 2)), np.zeros((count, 0)), columns["box_score"][order], columns["box"][order]
    if not count:
        return np.zeros((0, JOINTS, 2)), np.zeros((0, JOINTS)), np.zeros(0), np.zeros((0, 4))
    keypoints, scores, person_score = (columns[name] for name in ("keypoints", "scores", "person_score"))
    box = tight_boxes(keypoints, np.ones_like(scores))
    area = box[:, 2:].prod(-1)
    box_score = request.scores[box_number]
    if predictor.takes_boxes:
        box = request.boxes[box_number]
        area = predictor.preprocess._crop.view(box).size.prod(-1)
    box, box_score = columns.get("box", box), columns.get("box_score", box_score)
    if suppression.rescoring:
        fields = (padded(values, 64) for values in (keypoints, scores, person_score))
        person_score = np.asarray(rescore(suppression.rescoring, *fields))[:count]
    capacity = next(size for size in (16, 64, 256) if size >= count)
    fill = lambda *arrays: [padded(padded(values, capacity)[None], images) for values in arrays]
    (valid,) = fill(np.ones(count, bool))
    chosen = np.arange(count)
    if suppression.kind in ("hard", "soft"):
        suppress = {"hard": hard, "soft": soft}[suppression.kind]
        arrays = fill(keypoints, person_score, area)
        order, keep = jax.device_get(suppress(*arrays, valid, np.float32(COCO.sigmas), suppression.oks))
        chosen = order[0][keep[0][order[0]]]
    if suppression.kind == "parametric":
        arrays = fill(keypoints, scores, box, box_score)
        merged = jax.device_get(parametric(*arrays, valid, suppression.rules))
        chosen = merged.order[0][merged.keep[0][merged.order[0]]]
        keypoints, scores, person_score = merged.keypoints[0], merged.scores[0], merged.person_score[0]
    chosen = chosen[np.argsort(-person_score[chosen], kind="stable")]
    return keypoints[chosen], scores[chosen], person_score[chosen], box[chosen]


def named(number):
    return Picture(f"number {number}", picture(number), id=number)


def find(shown):
    return boxes_of(shown.id)


# --- equal results ---


def predict_all(finder, suppression):
    predictor = Predictor(METHODS[finder], TABLE, batch_size=8, suppression=suppression, box_threshold=0.4)
    found = list(predictor.stream(map(named, range(PICTURES)), find if predictor.takes_boxes else None))
    assert [shown.id for shown, _ in found] == list(range(PICTURES))
    assert sum(len(people) for _, people in found) > PICTURES
    return predictor, [[getattr(people, name) for name in FIELDS] for _, people in found]


@pytest.mark.parametrize("rescored", [False, True], ids=["", "rescored"])
@pytest.mark.parametrize("kind", SUPPRESSIONS)
@pytest.mark.parametrize("finder", ["top-down", "bottom-up", "boxed poses"])
def test_people_of_many_pictures_are_those_of_each_alone(finder, kind, rescored):
    """To the last bit, whatever pictures go to the device together."""
    suppression = make_suppression(kind, rescored)
    predictor, found = predict_all(finder, suppression)
    for number, people in enumerate(found):
        images = 16 if kind == "parametric" else 1
        expected = people_alone(predictor, suppression, number, 0.4, images)
        for name, values, wanted in zip(FIELDS, people, expected, strict=True):
            assert_array_equal(values, wanted, err_msg=f"picture {number}, {name}")


def test_merged_people_of_one_image_at_a_time():
    """XLA adds scores of joints up in an order that depends on the number of images, so a mean may differ by a bit."""
    suppression = make_suppression("parametric", False)
    predictor, found = predict_all("bottom-up", suppression)
    for number, people in enumerate(found):
        for name, values, wanted in zip(FIELDS, people, people_alone(predictor, suppression, number, 0.4), strict=True):
            if name == "person_score":
                assert_array_max_ulp(values, wanted.astype(np.float32), maxulp=2)
            else:
                assert_array_equal(values, wanted)


def test_boxes_of_a_detector():
    predictor, found = predict_all("boxes", Suppression())
    for number, people in enumerate(found):
        for values, wanted in zip(people, people_alone(predictor, Suppression(), number, 0.4), strict=True):
            assert_array_equal(values, wanted)


@pytest.mark.parametrize("kind", SUPPRESSIONS)
def test_evaluation_and_prediction_find_the_same_people(tmp_path, kind):
    """In a data set's boxes: the results of an evaluation are what a predictor finds in them."""
    config = tiny.config(tiny.write_coco(tmp_path, images=12), "heatmap")
    config.evaluate.suppression = kind
    config.data.validation.boxes = "simulated"
    method = ListedCrops()
    variables = {name: np.resize(values, (256, *values.shape[1:])) for name, values in TABLE.items()}
    evaluator = Evaluator(config, method, sharding.make_mesh(config.sharding))
    results = evaluator.report.results(evaluator.predict(method, variables))["results.json"]
    source, people = evaluator.examples.source, evaluator.examples.people
    images = [cv2.imdecode(np.frombuffer(source.read(i), np.uint8), 1)[..., ::-1] for i in range(len(source))]
    rows = [people.image == i for i in range(len(source))]
    crop, suppression = person_crop(config.data, method), evaluator.suppression
    predictor = Predictor(method, variables, crop=crop, batch_size=8, suppression=suppression)
    found = predictor(images, [people.box[own] for own in rows], [people.score[own] for own in rows])
    for image_id, mine in zip(source.annotations.image_id.tolist(), found, strict=True):
        theirs = [record for record in results if record["image_id"] == image_id]
        order = np.argsort([-record["score"] for record in theirs], kind="stable")
        triples = np.array([theirs[i]["keypoints"] for i in order], np.float32).reshape(-1, JOINTS, 3)
        assert len(mine) == len(theirs) > 0
        assert_array_equal(mine.keypoints, triples[..., :2])
        assert_array_equal(mine.scores, triples[..., 2])
        assert_array_equal(mine.person_score, np.float32([theirs[i]["score"] for i in order]))


# --- batches ---


def test_pictures_are_suppressed_together(monkeypatch):
    """A batch of pictures at a time, in a handful of shapes."""
    shapes = []

    def watched(image_id):
        for slots, valid in padded_images(image_id):
            shapes.append(slots.shape)
            yield slots, valid

    monkeypatch.setattr(suppression_module, "padded_images", watched)
    predict_all("bottom-up", Suppression("hard"))
    assert len(shapes) <= 2 * -(-PICTURES // 8)
    assert set(shapes) <= {(16, 16), (16, 64)}


# --- suppression of one's own ---


MINE = """
import jax.numpy as jnp

from jaxpose.evaluation.suppression import DeviceSuppressor, Remaining


class Best(DeviceSuppressor):
    columns = ("person_score",)

    @staticmethod
    def remaining(poses, valid, sigmas, options):
        order = jnp.argsort(jnp.where(valid, -poses["person_score"], jnp.inf), axis=-1)
        return Remaining(order, valid & (jnp.arange(valid.shape[-1]) == order[:, :1]), {})


class NoContract:
    pass
"""


def test_suppression_from_outside_the_library(tmp_path, monkeypatch):
    (tmp_path / "mylab_suppression.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    _, everybody = predict_all("bottom-up", Suppression("none"))
    predictor = Predictor(Listed(), TABLE, batch_size=8, suppression=Suppression("mylab_suppression.Best"))
    best = [people for _, people in predictor.stream(map(named, range(PICTURES)))]
    for (_, _, person_score, _), people in zip(everybody, best, strict=True):
        assert people.person_score.tolist() == person_score[:1].tolist()
    with pytest.raises(ConfigError, match=r"suppression names 'mylab_suppression.NoContract'; expected one class that"):
        Suppression("mylab_suppression.NoContract")
