"""Whole images for a detector: labels go where the picture goes, and views are those that DETR draws."""

import dataclasses
import logging
import pickle

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny
from hypothesis import assume, given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import methods
from jaxpose.data import build
from jaxpose.data.examples.detection import DetectionImages
from jaxpose.data.examples.images import lay_out
from jaxpose.data.loader import TrainStream
from jaxpose.data.sources import Source, coco
from jaxpose.data.views import CornerCanvas, DetectionAugmentation
from jaxpose.errors import ConfigError, DataError, ImageError
from jaxpose.methods.prtr.detr import DETR
from jaxpose.ops import boxes as box_ops
from jaxpose.ops import geometry
from jaxpose.skeleton import COCO

LEFT, RIGHT = COCO.index("left_wrist"), COCO.index("right_wrist")
CANVAS = CornerCanvas((96, 80), short_side=64, long_side=90)
PAPER = CornerCanvas((1344, 1344), short_side=800, long_side=1333)
WHOLE = DetectionAugmentation(mirror=0.0, crop=0.0)
SIDES = st.integers(30, 120)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Reads images as PNG files."""

    images: list[np.ndarray]

    def __call__(self, i: int) -> bytes:
        return cv2.imencode(".png", cv2.cvtColor(self.images[i], cv2.COLOR_RGB2BGR))[1].tobytes()


def person(box, wrist=None, image: int = 0, **fields) -> dict:
    keypoints = np.zeros((17, 3))
    if wrist is not None:
        keypoints[LEFT] = (*wrist, 2)
    default = {"category_id": 1, "iscrowd": 0, "num_keypoints": int(wrist is not None), "area": 50.0}
    return (
        default | {"image_id": image, "bbox": list(map(float, box)), "keypoints": keypoints.ravel().tolist()} | fields
    )


def make_examples(images: list[np.ndarray], people: list[dict], canvas=CANVAS, **fields) -> DetectionImages:
    sizes = [{"width": image.shape[1], "height": image.shape[0]} for image in images]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} | size for i, size in enumerate(sizes)],
        "annotations": [annotation | {"id": i} for i, annotation in enumerate(people, start=1)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }
    source = Source("pictures", coco.parse_keypoints(content, "pictures"), Pictures(images))
    return DetectionImages(source, canvas=canvas, **{"max_people": 3, "joints": True} | fields)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def black(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def stretch(example: dict) -> np.ndarray:
    """[2] pixels of the canvas for one of the image."""
    return 1 / np.abs(np.diag(example["to_image"]))


# --- labels go where the picture goes ---


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_joints_are_where_the_canvas_shows_them(seed, width, height, x, y):
    """A soft dot at a person's left wrist: in whatever view, the wrist is labelled there, of the side it then has."""
    dot = np.array([round(x * (width - 1)), round(y * (height - 1))])
    rows, columns = np.mgrid[:height, :width]
    light = 255 * np.exp(-((rows - dot[1]) ** 2 + (columns - dot[0]) ** 2) / 8)
    image = np.repeat(light[..., None], 3, axis=-1).astype(np.uint8)
    example = make_examples([image], [person([0, 0, width, height], dot)]).load(0, np.random.default_rng(seed))
    mirrored = example["to_image"][0, 0] < 0
    joint = RIGHT if mirrored else LEFT
    point, scale = example["keypoints"][0, joint], stretch(example)
    seen = geometry.apply_affine(geometry.invert_affine(example["to_image"].astype(float)), dot[None].astype(float))[0]
    assume(np.abs(seen).min() > 1e-3 and np.abs(seen - example["size"]).min() > 1e-3)
    inside = ((seen > 0) & (seen < example["size"])).all()
    assert np.flatnonzero(example["visible"][0]).tolist() == ([joint] if inside else [])
    margin = 8 * scale
    assume((seen > margin).all() and (seen < example["size"] - margin).all())
    shown = example["image"][..., 0].astype(float)
    rows, columns = np.mgrid[: shown.shape[0], : shown.shape[1]]
    found = np.array([(shown * columns).sum(), (shown * rows).sum()]) / shown.sum()
    assert_allclose(point, found, atol=0.15)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), SIDES, SIDES, st.lists(st.integers(0, 119), min_size=4, max_size=4))
def test_boxes_are_what_is_seen_of_a_person(seed, width, height, corners):
    """A white rectangle is a person: the box is around the white pixels, or nobody is labelled where there are none."""
    (x0, x1), (y0, y1) = np.sort(np.array(corners).reshape(2, 2) % [[width], [height]])
    image = black(width, height)
    image[y0 : y1 + 1, x0 : x1 + 1] = 255
    box = [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
    example = make_examples([image], [person(box)]).load(0, np.random.default_rng(seed))
    white = example["image"][..., 0] > 127
    tolerance = stretch(example) + 1  # pixel borders against pixel centres, and white means more than half
    if not example["people"][0]:
        assert white.sum() == 0 or min(np.ptp(np.argwhere(white), axis=0) - 2 * tolerance[::-1]) < 0
        assert not example["boxes"].any()
        return
    (x, y), size = example["boxes"][0, :2], example["boxes"][0, 2:]
    if not white.any():
        assert (size < tolerance).any()
        return
    rows, columns = np.argwhere(white).T
    assert_allclose([x, x + size[0]], [columns.min(), columns.max() + 1], atol=tolerance[0])
    assert_allclose([y, y + size[1]], [rows.min(), rows.max() + 1], atol=tolerance[1])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), SIDES, SIDES)
def test_nothing_leaves_the_canvas(seed, width, height):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.uniform(-20, np.minimum(140, 2 * np.array([width, height])), (2, 6, 2)), axis=0)
    people = [person([*a, *(b - a)], rng.uniform(0, [width, height])) for a, b in zip(low, high, strict=True)]
    examples = make_examples([noise(width, height)], people, max_people=8)
    example = examples.load(0, rng)
    size, here = example["size"], example["people"]
    assert (size >= 1).all()
    assert (size <= CANVAS.size).all()
    assert not example["image"][int(size[1]) :].any()
    assert not example["image"][:, int(size[0]) :].any()
    assert example["image"][: int(size[1]), : int(size[0])].any()
    boxes = box_ops.box_to_corner(example["boxes"])
    assert (boxes >= 0).all()
    assert (boxes <= np.tile(size, 2) * (1 + 1e-6)).all()
    assert (example["boxes"][here, 2:] > 0).all()
    assert not example["boxes"][~here].any()
    assert not example["visible"][~here].any()
    assert not example["keypoints"][example["visible"] == 0].any()
    assert (example["keypoints"] >= 0).all()
    assert (example["keypoints"] <= size).all()


def test_a_mirrored_picture_is_the_picture_of_a_mirrored_world():
    """Where nothing is resized, exactly: pixels, boxes and joints, of which left and right are exchanged."""
    width, height = 90, 64
    image, box, wrist = noise(width, height), [10, 5, 20, 30], (12, 9)
    mirror = DetectionAugmentation(short_sides=(1.0,), mirror=1.0, crop=0.0)
    found = make_examples([image], [person(box, wrist)], augmentation=mirror).load(0, np.random.default_rng(0))
    assert_array_equal(found["image"][:height, :width], image[:, ::-1])
    assert_allclose(found["boxes"][0], [width - 30, 5, 20, 30], atol=1e-5)
    assert_allclose(found["keypoints"][0, RIGHT], [width - 1 - 12, 9], atol=1e-5)
    assert np.flatnonzero(found["visible"][0]).tolist() == [RIGHT]
    assert_allclose(found["to_image"], [[-1, 0, width - 1], [0, 1, 0]], atol=1e-5)


# --- views ---


def test_the_plain_view_is_that_of_inference():
    method = DETR(input_size=(96, 96), short_side=48, long_side=90)
    canvas = CornerCanvas(method.input_size, method.short_side, method.long_side)
    for width, height in ((60, 50), (50, 60), (48, 48), (200, 70)):
        image = noise(width, height)
        layout = method.layout(width, height)
        looked_at = lay_out(image, layout, method.scales)
        example = make_examples([image], [person([0, 0, 9, 9])], canvas).load(0, None)
        assert_array_equal(example["size"], looked_at["size"])
        assert_allclose(example["to_image"], looked_at["to_image"], rtol=1e-6)
        right, bottom = layout.extent
        assert_array_equal(example["image"][:bottom, :right], looked_at["image"][:bottom, :right])


@given(st.integers(0, 2**32 - 1), st.integers(300, 900), st.integers(300, 900))
def test_views_of_the_paper(seed, width, height):
    """Short sides of 480 to 800 pixels in steps of 32; of a part, 384 to 600 pixels a side at 400, 500 or 600."""
    window = PAPER.draw(width, height, DetectionAugmentation(), np.random.default_rng(seed))
    whole = window.region == (0, 0, width, height)
    parts = [(width, height)] if whole else parts_of_the_paper(window.region, width, height)
    extents = [box_ops.fitted_size(*part, short, 1333) for part in parts for short in range(480, 801, 32)]
    assert window.extent in [tuple(map(int, extent)) for extent in extents]


def parts_of_the_paper(region, width, height):
    """(width, height) in whole pixels that a region can have been, of the image at each of the three sizes."""
    parts = []
    for short in (400, 500, 600):
        resized = box_ops.fitted_size(width, height, short)
        exact = np.array(region) * np.tile(np.divide(resized, (width, height)), 2)
        left, top, *part = np.round(exact).astype(int).tolist()
        inside = 0 <= left <= resized[0] - part[0] and 0 <= top <= resized[1] - part[1]
        if inside and np.abs(exact - np.round(exact)).max() < 1e-6 and 384 <= min(part) <= max(part) <= 600:
            parts.append(part)
    return parts


def test_every_kind_of_view_is_drawn():
    rng, augmentation = np.random.default_rng(0), DetectionAugmentation()
    windows = [PAPER.draw(640, 480, augmentation, rng) for _ in range(400)]
    whole = [window for window in windows if window.region == (0, 0, 640, 480)]
    assert 150 < len(whole) < 250
    assert 150 < sum(window.mirror for window in windows) < 250
    assert {min(window.extent) for window in whole} == set(range(480, 801, 32))
    assert len({window.region for window in windows}) > 100
    still = DetectionAugmentation(mirror=0.0, crop=0.0, short_sides=(1.0,))
    assert PAPER.draw(640, 480, still, rng) == PAPER.plain(640, 480)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 200), st.integers(32, 200), st.floats(0.3, 1.5))
def test_images_of_any_shape_fit_any_canvas(width, height, columns, rows, short_side):
    extent = CornerCanvas((columns, rows), 150, 200).fit(width, height, short_side)
    assert 1 <= extent[0] <= columns
    assert 1 <= extent[1] <= rows
    roomy = CornerCanvas((4000, 4000), 150, 200).fit(width, height, short_side)
    assert extent == roomy or extent[0] == columns or extent[1] == rows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"short_sides": ()}, r"detection.short_sides is \(\)"),
        ({"crop_short_sides": (0.5, 0.0)}, r"detection.crop_short_sides is \(0.5, 0.0\)"),
        ({"crop_sides": (0.8, 0.5)}, r"detection.crop_sides is \(0.8, 0.5\); expected \(least, greatest\)"),
        ({"mirror": 1.5}, "detection.mirror is 1.5; expected a probability"),
    ],
)
def test_impossible_views_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        DetectionAugmentation(**fields)


# --- who is there ---


def test_crowds_are_nobody_and_empty_images_stay(caplog):
    crowd = person([5, 5, 30, 30], image=1, iscrowd=1, segmentation={"size": [60, 50], "counts": [0, 3000]})
    people = [crowd, person([5, 5, 9, 9], (8, 8), image=1), person([1, 1, 40, 40], image=2, iscrowd=1)]
    with caplog.at_level(logging.INFO, "jaxpose"):
        examples = make_examples([noise(50, 60)] * 4, people)
    assert "3 of 4 images have no people, and are kept" in caplog.text
    assert len(examples) == 4
    assert [examples.load(i, None)["people"].sum() for i in range(4)] == [0, 1, 0, 0]
    assert examples.names(np.array([3, 0])) == ["3.png", "0.png"]
    with pytest.raises(DataError, match="none of the 1 images has annotated people"):
        make_examples([noise(50, 60)], [person([1, 1, 40, 40], iscrowd=1)])


def test_the_largest_people_stay(caplog):
    """In the order of the data set; who is outside the image is nobody, and someone without labels a person."""
    boxes = [[0, 0, 9, 9], [0, 0, 30, 30], [70, 0, 20, 20], [9, 0, 20, 20], [0, 0, 10, 10]]
    people = [person(box, (4, 4) if i == 0 else None) for i, box in enumerate(boxes)]
    canvas = CornerCanvas((64, 64), 64, 64)
    with caplog.at_level(logging.INFO, "jaxpose"):
        examples = make_examples([noise(64, 64)], people, canvas)
    assert "1 images have more than 3 people, of whom the largest that are seen stay (0.png first)" in caplog.text
    example = examples.load(0, None)
    assert_array_equal(example["boxes"], [boxes[1], boxes[3], boxes[4]])
    assert not example["visible"].any()


def test_another_size_than_annotated_is_an_error():
    examples = make_examples([noise(50, 60), noise(60, 50)], [person([0, 0, 9, 9])])
    swapped = dataclasses.replace(examples.source, read=Pictures([noise(60, 50)] * 2))
    with pytest.raises(ImageError, match=r"image 0.png: has 60 x 50 pixels, but 50 x 60 in the annotations"):
        dataclasses.replace(examples, source=swapped).load(0, None)


# --- streams ---


def test_examples_are_a_function_of_the_generator_and_batches_of_the_step():
    examples = make_examples([noise(50, 60), noise(60, 50), noise(44, 44)], [person([9, 9, 20, 20], (12, 12))])
    whole, later = (TrainStream(examples, seed=0, batch_size=4, step=step) for step in (0, 2))
    batches = [next(whole) for _ in range(3)]
    again = next(later)
    for stream in (whole, later):
        stream.close()
    for name, values in again.items():
        assert_array_equal(values, batches[2][name], err_msg=name)
    copy = pickle.loads(pickle.dumps(examples)).load(1, np.random.default_rng(5))
    for name, value in examples.load(1, np.random.default_rng(5)).items():
        assert_array_equal(value, copy[name], err_msg=name)
    views = {examples.load(0, np.random.default_rng(seed))["to_image"].tobytes() for seed in range(8)}
    assert len(views) == 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_coco(tmp_path_factory.mktemp("coco"), images=3)


@pytest.mark.parametrize("name", ["detr", "sequential_prtr"])
def test_fields_are_those_of_the_method(folder, name):
    config = tiny.config(folder, name)
    method = methods.create(config.method)
    examples = build.train_examples(config, method)["source"]
    example = examples.load(0, np.random.default_rng(0))
    found = {field: (np.shape(value), np.asarray(value).dtype) for field, value in example.items()}
    assert found == {field: (leaf.shape[1:], leaf.dtype) for field, leaf in method.spec(1)["source"].items()}
    assert examples.skip_bad_images
    seen = build.evaluation_examples(config, method).load(0, None)
    assert {"image", "size", "to_image", "boxes", "people"} <= seen.keys()
    assert_array_equal(seen["size"], [51, 63])
    assert_allclose(seen["boxes"][0] * np.tile([64 / 51, 80 / 63], 2), [10, 10, 44, 60], rtol=1e-5)


def test_settings_come_from_the_config(folder):
    config = tiny.config(folder, "detr")
    config.data.detection.update({"mirror": 0.25, "short_sides": (0.5, 1.5)})
    config.method.long_side = 60
    config.method.short_side = 50
    examples = build.train_examples(config, methods.create(config.method))["source"]
    assert examples.augmentation == DetectionAugmentation(mirror=0.25, short_sides=(0.5, 1.5))
    assert examples.canvas == CornerCanvas((64, 64), short_side=50, long_side=60)
    assert not examples.joints


# --- real data ---


@pytest.mark.parametrize("name", ["detr", "sequential_prtr"])
def test_real_coco(real_data, name):
    config = tiny.config(real_data / "coco_mini", name)
    config.data.train.update({"annotations": "annotations/person_keypoints_train2017.json", "images": "train2017"})
    config.method.max_people = config.method.num_queries = 30
    examples = build.train_examples(config, methods.create(config.method))["source"]
    a = examples.source.annotations
    for i in range(len(examples)):
        people = a.people_of(i)[~a.crowd[a.people_of(i)]]
        plain = examples.load(i, None)
        assert plain["people"].sum() == len(people)
        back = np.concatenate([plain["boxes"][:, :2], plain["boxes"][:, :2] + plain["boxes"][:, 2:]], -1)
        back = geometry.apply_affine(plain["to_image"], back[: len(people)].reshape(-1, 2)).reshape(-1, 4)
        assert_allclose(back, box_ops.box_to_corner(a.box[people]), atol=0.02)
        random = examples.load(i, np.random.default_rng(i))
        assert random["people"].sum() <= len(people)
        if name == "sequential_prtr":
            assert plain["visible"].sum() == (a.visibility[people] > 0).sum()
            assert random["visible"].sum() <= plain["visible"].sum()
