"""Whole images: random square views for training, canvases of all scales for evaluation."""

import dataclasses
import logging
import pickle

import cv2
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import methods
from jaxpose.data.examples.images import EvaluationImages, TrainingImages, lay_out
from jaxpose.data.loader import TrainStream, evaluation_batches
from jaxpose.data.sources import Source, coco
from jaxpose.data.views import CanvasAugmentation
from jaxpose.errors import DataError, ImageError
from jaxpose.evaluation.people import rows_of
from jaxpose.inference.requests import ImagePreprocessor, Picture, Request
from jaxpose.methods import bottom_up
from jaxpose.ops import geometry
from jaxpose.skeleton import COCO, CROWDPOSE
from jaxpose.types import MOST_CANVAS_SIDE, Detections, Layout, PaddedLayout, Poses

SIZE = 64
WRIST = COCO.index("left_wrist")


def person(image: int, points: dict[int, tuple[float, float]], **fields) -> dict:
    """An annotation of the image with that row, with some labelled joints."""
    keypoints = np.zeros((17, 3))
    for joint, point in points.items():
        keypoints[joint] = (*point, 2)
    default = {"category_id": 1, "iscrowd": 0, "num_keypoints": len(points), "bbox": [1, 1, 9, 9], "area": 50.0}
    return default | {"image_id": image, "keypoints": keypoints.ravel().tolist()} | fields


@dataclasses.dataclass(frozen=True)
class Dots:
    """Reads image i of these sizes as a PNG: black, with a soft dot in its middle."""

    sizes: list[tuple[int, int]]

    def __call__(self, i: int) -> bytes:
        width, height = self.sizes[i]
        rows, columns = np.mgrid[:height, :width]
        squared = (rows - height // 2) ** 2 + (columns - width // 2) ** 2
        picture = np.repeat(255 * np.exp(-squared / 8)[..., None], 3, axis=-1).astype(np.uint8)
        return cv2.imencode(".png", picture)[1].tobytes()


def make_source(sizes: list[tuple[int, int]], people: list[dict] | None = None) -> Source:
    """Images of these sizes; unless told otherwise, each has one person, whose left wrist is the dot."""
    if people is None:
        people = [person(i, {WRIST: (w // 2, h // 2)}) for i, (w, h) in enumerate(sizes)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)],
        "annotations": [annotation | {"id": i} for i, annotation in enumerate(people, start=1)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }
    return Source("dots", coco.parse_keypoints(content, "dots"), Dots(sizes))


def training(source: Source, **fields) -> TrainingImages:
    return TrainingImages(source, **{"size": SIZE, "max_people": 3} | fields)


def fit(width: int, height: int, scales: tuple[float, ...] = (1.0,)) -> Layout:
    """The longer side on 32 pixels, padded to multiples of 16, for each scale."""
    sizes, maps = [], []
    for scale in scales:
        factor = scale * 32 / max(width, height)
        sizes.append(tuple(int(np.ceil(side * factor / 16)) * 16 for side in (width, height)))
        offset = [(size - factor * side) / 2 for size, side in zip(sizes[-1], (width, height), strict=True)]
        maps.append(np.array([[factor, 0, offset[0]], [0, factor, offset[1]]]))
    return Layout(tuple(sizes), tuple(maps), base=scales.index(1.0))


def fit_two(width: int, height: int) -> Layout:
    return fit(width, height, (2.0, 1.0))


def center_of_light(image: np.ndarray) -> np.ndarray:
    light = np.asarray(image)[..., 0].astype(float)
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]]
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


# --- random views ---


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 400), st.sampled_from(["short", "long"]))
def test_views_are_within_their_bounds(seed, width, height, side):
    view = CanvasAugmentation(side=side)(width, height, np.random.default_rng(seed))
    compared = (min if side == "short" else max)(width, height)
    assert view.size[0] == view.size[1]
    assert 0.75 * compared <= view.size[0] <= 1.5 * compared
    assert abs(view.rotation) <= 30
    moved, reach = view.center - np.array([width, height]) / 2, int(view.size[0] / 5)
    assert_array_equal(moved, np.round(moved))
    assert (moved >= -reach).all()
    assert (moved <= max(0, reach - 1)).all()


def test_without_randomness_the_view_is_plain():
    still = CanvasAugmentation(scale=(1.0, 1.0), rotation=0.0, shift=0.0, mirror=0.0)
    view, plain = still(50, 40, np.random.default_rng(0)), still.plain(50, 40)
    assert_array_equal(view.center, plain.center)
    assert_array_equal(view.size, [40, 40])
    assert (view.rotation, view.mirror) == (0, False)


# --- training ---


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(41, 90), st.integers(41, 90))
def test_joints_are_where_the_canvas_shows_them(seed, width, height):
    """Through warp, padding and the mirror on device, a joint stays on the dot that it was put on."""
    examples = training(make_source([(width, height)]), augmentation=CanvasAugmentation(shift=20.0))
    example = examples.load(0, np.random.default_rng(seed))
    batch = {name: jnp.asarray(value)[None] for name, value in example.items()}
    image = bottom_up.mirror_where(batch["mirror"], batch["image"])[0]
    points, visible = bottom_up.joints_on_map(batch, SIZE, COCO.flip_index)
    joint = COCO.flip_index[WRIST] if example["mirror"] else WRIST
    assert np.argwhere(visible[0]).tolist() == [[0, joint]]
    assert_allclose(points[0, 0, joint], center_of_light(image), atol=0.05)
    back = geometry.apply_affine(example["to_image"], example["keypoints"][0, WRIST][None])[0]
    assert_allclose(back, [width // 2, height // 2], atol=1e-3)


def test_joints_without_label_are_the_images_corner():
    example = training(make_source([(60, 50)])).load(0, np.random.default_rng(3))
    corner = geometry.apply_affine(geometry.invert_affine(example["to_image"]), np.zeros((1, 2)))[0]
    without = np.arange(17) != WRIST
    assert_allclose(example["keypoints"][0, without], np.tile(corner, (16, 1)), atol=1e-3)
    assert not example["keypoints"][1:].any()
    assert example["people"].tolist() == [True, False, False]


def test_plain_view_without_a_generator():
    """The short side fills the canvas, upright."""
    example = training(make_source([(128, 64)]), mask_strides=(2, 4)).load(0, None)
    assert_allclose(example["to_image"], [[1, 0, 32], [0, 1, 0]], atol=1e-5)
    assert not example["mirror"]
    assert example["mask_2"].shape == (32, 32)
    assert example["mask_4"].all()


def test_loss_counts_neither_outside_the_image_nor_where_people_lack_labels():
    polygon = [[8.0, 8.0, 24.0, 8.0, 24.0, 24.0, 8.0, 24.0]]
    people = [
        person(0, {WRIST: (40, 40)}, segmentation=[[30.0, 30, 50, 30, 50, 50]]),
        person(0, {}, segmentation=polygon),
    ]
    augmentation = CanvasAugmentation(scale=(2.0, 2.0), rotation=0.0, shift=0.0, mirror=0.0)
    example = training(make_source([(64, 64)], people), augmentation=augmentation).load(0, np.random.default_rng(0))
    inside = np.zeros((SIZE, SIZE), bool)  # the image is the canvas's middle half
    inside[16:48, 16:48] = True
    inside[20:28, 20:28] = False
    assert_array_equal(example["mask_2"], inside[::2, ::2])
    assert example["people"].tolist() == [True, True, False]


def test_images_without_annotations_are_no_examples(caplog):
    crowd = person(2, {}, iscrowd=1, segmentation={"size": [60, 50], "counts": [0, 3000]})
    source = make_source([(50, 60)] * 4, [person(1, {WRIST: (25, 30)}), crowd])
    with caplog.at_level(logging.INFO, "jaxpose"):
        examples = training(source)
    assert "skipped 2: images without annotations (0.png, 3.png)" in caplog.text
    assert len(examples) == 2
    assert examples.names(np.array([1, 0])) == ["2.png", "1.png"]
    only_crowd = examples.load(1, None)
    assert only_crowd["index"] == 1
    assert not only_crowd["people"].any()
    assert not only_crowd["mask_2"].any()
    with pytest.raises(DataError, match="none of the 4 images has annotated people"):
        training(make_source([(50, 60)] * 4, []))


def test_the_largest_people_stay_and_the_others_do_not_count(caplog):
    """Order stays that of the file; a person without labels goes first, however large."""
    areas, boxes = [5.0, 9.0, 1.0, 7.0], [[0, 0, 9, 9], [9, 0, 9, 9], [30.2, 30.2, 9.6, 9.6], [20, 0, 9, 9]]
    people = [person(0, {WRIST: (10 * k, 5)}, area=areas[k], bbox=boxes[k]) for k in range(4)]
    people.append(person(0, {}, area=100.0, bbox=[50, 50, 10, 10]))
    with caplog.at_level(logging.INFO, "jaxpose"):
        examples = training(make_source([(64, 64)], people))
    assert "skipped 2: people beyond the largest 3 of an image (annotation 3, annotation 5)" in caplog.text
    example = examples.load(0, None)
    assert example["area"].tolist() == [5, 9, 7]
    assert_allclose(example["keypoints"][:, WRIST, 0], [0, 10, 30], atol=1e-4)
    expected = np.ones((32, 32), bool)
    expected[15:20, 15:20] = False
    expected[25:30, 25:30] = False
    assert_array_equal(example["mask_2"], expected)
    assert training(examples.source, max_people=5).load(0, None)["mask_2"].all()


def test_another_size_than_annotated_is_an_error():
    source = make_source([(50, 60), (60, 50)])
    swapped = dataclasses.replace(source, read=Dots([(60, 50), (60, 50)]))
    with pytest.raises(ImageError, match=r"image 0.png: has 60 x 50 pixels, but 50 x 60 in the annotations"):
        training(swapped).load(0, None)
    assert training(swapped, skip_bad_images=True).load(0, None)["index"] == 1


def test_stream_is_a_function_of_the_step():
    examples = training(make_source([(50, 60), (60, 50), (44, 44)]))
    whole, later = (TrainStream(examples, seed=0, batch_size=4, step=step) for step in (0, 2))
    batches = [next(whole) for _ in range(3)]
    again = next(later)
    copy = pickle.loads(pickle.dumps(examples)).load(1, np.random.default_rng(5))
    for stream in (whole, later):
        stream.close()
    for name, values in again.items():
        assert_array_equal(values, batches[2][name], err_msg=name)
    for name, value in examples.load(1, np.random.default_rng(5)).items():
        assert_array_equal(value, copy[name], err_msg=name)


# --- evaluation ---


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([(40, 30), (30, 40), (20, 20), (48, 36)]), min_size=1, max_size=9),
    st.sampled_from([(2, 1), (4, 1), (4, 2), (6, 3)]),
)
def test_every_image_once_in_batches_of_one_size(sizes, batching):
    batch_size, processes = batching
    examples = EvaluationImages(make_source(sizes), layout=fit)
    shares = [
        list(evaluation_batches(examples, batch_size=batch_size, process=(p, processes), threads=2))
        for p in range(processes)
    ]
    buckets = [fit(*size).sizes for size in sizes]
    assert {len(share) for share in shares} == {sum(-(-buckets.count(b) // batch_size) for b in set(buckets))}
    seen = []
    for parts in zip(*shares, strict=True):
        shapes = {part["image"].shape for part in parts}
        assert len(shapes) == 1
        assert shapes.pop()[0] == batch_size // processes
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        indices = whole["index"][whole["valid"]].tolist()
        assert len({buckets[i] for i in indices}) == 1
        assert buckets[indices[0]] == ((whole["image"].shape[2], whole["image"].shape[1]),)
        assert not whole["image"][~whole["valid"]].any()
        seen += indices
    assert sorted(seen) == list(range(len(sizes)))
    assert seen == sorted(seen, key=lambda i: (buckets.index(buckets[i]), i))


def test_every_scale_shows_the_image_and_labels_are_those_of_the_base(caplog):
    with caplog.at_level(logging.INFO, "jaxpose"):
        examples = EvaluationImages(make_source([(48, 36), (36, 48), (44, 33)]), layout=fit_two, scales=(2.0, 1.0))
    assert "3 images on canvases of 2 sizes" in caplog.text
    assert examples.bucket(0) == examples.bucket(2) != examples.bucket(1)
    example = examples.load(1, None)
    assert example["image_x2"].shape == (64, 48, 3)
    assert example["image"].shape == (32, 32, 3)
    assert_allclose(center_of_light(example["image"]), example["keypoints"][0, WRIST], atol=0.05)
    for scale, field in ((1, "image"), (0, "image_x2")):
        back = geometry.invert_affine(fit_two(36, 48).to_canvas[scale])
        assert_allclose(geometry.apply_affine(back, center_of_light(example[field])[None])[0], [18, 24], atol=0.1)
    assert_allclose(geometry.apply_affine(example["to_image"], example["keypoints"][0])[WRIST], [18, 24], atol=1e-4)
    assert example["index"] == 1
    assert pickle.loads(pickle.dumps(examples)).load(1, None).keys() == example.keys()


def test_padded_layouts_say_how_far_the_image_goes():
    image = np.full((36, 48, 3), 200, np.uint8)
    plain = fit(48, 36)
    padded = PaddedLayout(plain.sizes, (np.array([[0.5, 0, 0], [0, 0.5, 0]]),), extent=(24, 18))
    assert "size" not in lay_out(image, plain, (1.0,))
    fields = lay_out(image, padded, (1.0,))
    assert fields["size"].dtype == np.float32
    assert_array_equal(fields["size"], [24, 18])
    assert fields["image"][17, 23].all()
    assert not fields["image"][18:].any()
    assert not fields["image"][:, 24:].any()


def test_canvases_and_scales_must_agree():
    with pytest.raises(ValueError, match="zip"):
        lay_out(np.zeros((36, 48, 3), np.uint8), fit_two(48, 36), (1.0,))


def test_rows_of_found_poses():
    examples = EvaluationImages(make_source([(40, 30), (30, 40)]), layout=fit)
    keypoints = np.random.default_rng(0).uniform(0, 30, (2, 3, 17, 2)).astype(np.float32)
    valid = np.array([[True, False, True], [False, True, False]])
    poses = Poses(keypoints, np.ones((2, 3, 17), np.float32), np.arange(6.0).reshape(2, 3), valid)
    rows = rows_of(poses, examples.shown(np.array([1, 0])))
    assert rows["image_id"].tolist() == rows["index"].tolist() == [1, 1, 0]
    assert rows["person_score"].tolist() == [0, 2, 4]
    low, high = keypoints[valid].min(1), keypoints[valid].max(1)
    assert_allclose(rows["box"], np.concatenate([low, high - low], -1), rtol=1e-6)
    assert_allclose(rows["area"], (high - low).prod(-1), rtol=1e-5)
    none = rows_of(dataclasses.replace(poses, valid=np.zeros((2, 3), bool)), examples.shown(np.array([1, 0])))
    assert {len(values) for values in none.values()} == {0}


def test_rows_of_found_boxes():
    """Of a detector alone, and of poses that were found in them, whose area stays that of the joints."""
    rng = np.random.default_rng(0)
    examples = EvaluationImages(make_source([(40, 30), (30, 40)]), layout=fit)
    boxes, scores = rng.uniform(1, 30, (2, 3, 4)), rng.random((2, 3))
    valid = np.array([[True, False, True], [False, True, False]])
    found = Detections(boxes, scores, np.zeros((2, 3), int), valid)
    rows = rows_of(found, examples.shown(np.array([1, 0])))
    assert set(rows) == {"image_id", "index", "box", "box_score"}
    assert rows["image_id"].tolist() == rows["index"].tolist() == [1, 1, 0]
    assert_array_equal(rows["box"], boxes[valid])
    assert_array_equal(rows["box_score"], scores[valid])
    keypoints = rng.uniform(0, 30, (2, 3, 17, 2))
    poses = Poses(keypoints, np.ones((2, 3, 17)), np.ones((2, 3)), valid, found)
    with_poses = rows_of(poses, examples.shown(np.array([1, 0])))
    alone = rows_of(dataclasses.replace(poses, detections=None), examples.shown(np.array([1, 0])))
    assert with_poses.keys() == alone.keys() | {"box_score"}
    for name in alone:
        assert_array_equal(with_poses[name], rows["box"] if name == "box" else alone[name])
    assert_array_equal(with_poses["box_score"], rows["box_score"])


def test_true_boxes_are_on_the_canvas():
    people = [person(0, {}, bbox=[4.0, 3, 10, 20]), person(0, {}, bbox=[0.0, 0, 48, 36])]
    example = EvaluationImages(make_source([(48, 36)], people), layout=fit, max_people=3).load(0, None)
    to_image = example["to_image"]
    corner = geometry.apply_affine(to_image, example["boxes"][:2, :2])
    assert_allclose(corner, [[4, 3], [0, 0]], atol=1e-4)
    assert_allclose(example["boxes"][:2, 2:] * to_image[0, 0], [[10, 20], [48, 36]], rtol=1e-5)
    assert not example["boxes"][2].any()


# --- real data ---


def open_images(folder, annotations: str, images: str) -> Source:
    labels = coco.read_keypoints(folder / annotations)
    return Source(annotations, labels, lambda i: (folder / images / str(labels.file_name[i])).read_bytes())


def test_real_coco(real_data):
    source = open_images(real_data / "coco_mini", "annotations/person_keypoints_train2017.json", "train2017")
    examples = TrainingImages(source, size=128, max_people=30)
    assert len(examples) == len(np.unique(source.annotations.person_image)) < len(source)
    for i in range(len(examples)):
        example = examples.load(i, np.random.default_rng(i))
        row = examples.image_rows(i)
        people = source.annotations.people_of(row)
        assert example["people"].sum() == (~source.annotations.crowd[people]).sum()
        assert example["visible"].sum() == (source.annotations.visibility[people] > 0).sum()
        assert 0 < example["mask_2"].mean() <= 1


def test_real_crowdpose(real_data):
    source = open_images(real_data / "samples" / "crowdpose", "test_crowdpose.json", ".")
    a = source.annotations
    assert a.skeleton == CROWDPOSE
    assert a.crowd_index.tolist() == [0.33, 0.39]
    assert [image["crowdIndex"] for image in a.to_coco()["images"]] == [0.33, 0.39]
    batches = list(evaluation_batches(EvaluationImages(source, layout=fit), batch_size=2))
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert sorted(index) == [0, 1]
    assert sum(batch["people"].sum() for batch in batches) == a.num_people


STRIPS = [(4000, 10), (10, 4000), (65535, 1)]


@pytest.mark.parametrize("size", STRIPS)
@pytest.mark.parametrize("name", ["higherhrnet", "dekr"])
def test_strips_on_endless_canvases_are_refused(size, name):
    """4000 x 10 pixels would be 76,800 x 192 on a canvas whose short side is 192."""
    method = methods.create({"name": name, "skeleton": "coco", "input_size": 192})
    with pytest.raises(DataError, match=r"the canvas .* has [\d,]+ x [\d,]+ pixels; the limit is 65,536 a side"):
        method.layout(*size)
    with pytest.raises(ImageError, match=rf"image 1.png: has {size[0]} x {size[1]} pixels: the canvas"):
        EvaluationImages(make_source([(50, 60), size]), layout=method.layout)
    assert max(method.layout(800, 10).sizes[0]) <= MOST_CANVAS_SIDE


def test_strips_in_prediction():
    method = methods.create({"name": "higherhrnet", "skeleton": "coco", "input_size": 192})
    picture = Picture("strip.png", np.zeros((10, 4000, 3), np.uint8))
    request = Request.open(picture, np.zeros((1, 4)) + [0, 0, 4000, 10], np.ones(1))
    with pytest.raises(ImageError, match=r"image strip.png: has 4000 x 10 pixels: the canvas .* 76,800 x 192"):
        list(ImagePreprocessor(method)(request))
