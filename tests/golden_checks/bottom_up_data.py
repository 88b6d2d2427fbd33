"""Whole images for HigherHRNet and DEKR: random views, masks, canvases of inference, and evaluation."""

import dataclasses

import cv2
import hotcoco
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import methods, skeleton
from jaxpose.data.annotations import Annotations
from jaxpose.data.examples.images import EvaluationImages, TrainingImages, lay_out
from jaxpose.data.formats.regions import Regions
from jaxpose.data.sources import Source, coco
from jaxpose.data.views import CanvasAugmentation, warp
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.coco import CocoKeypoints
from jaxpose.evaluation.metrics.crowdpose import CrowdPoseKeypoints
from jaxpose.evaluation.people import rows_of
from jaxpose.evaluation.suppression import Suppression
from jaxpose.methods import bottom_up
from jaxpose.types import Layout, Poses, image_field

ONE_LEVEL = 1


class Draws:
    """Gives out recorded draws in order, and keeps the bounds that whole numbers were asked for within."""

    def __init__(self, uniform: list[float], integers: list[int]):
        self._uniform, self._integers = iter(uniform), iter(integers)
        self.bounds: list[tuple[int, int]] = []

    def random(self) -> float:
        return next(self._uniform)

    def integers(self, low: int, high: int) -> int:
        self.bounds.append((low, high))
        return int(next(self._integers))


def _augmentation(attrs: dict) -> CanvasAugmentation:
    return CanvasAugmentation(
        scale=(attrs["min_scale"], attrs["max_scale"]),
        rotation=attrs["max_rotation"],
        shift=attrs["max_translate"],
        mirror=0.5,
        side=attrs["scale_type"],
    )


def _joints(dataset: str, count: int) -> skeleton.Skeleton:
    """The joints of a data set, and the person's centre where there are more."""
    known = skeleton.COCO if dataset.upper().startswith("COCO") else skeleton.CROWDPOSE
    if count == known.num_joints:
        return known
    return dataclasses.replace(known, joints=(*known.joints, "center"), sigmas=(*known.sigmas, 1.0))


def _one_image(image: np.ndarray, mask: np.ndarray, joints: np.ndarray, names: skeleton.Skeleton) -> Source:
    """A data set of one image, whose people [n, K, 2...] are labelled in every joint, and which counts in `mask`."""
    count, (height, width) = len(joints), image.shape[:2]
    runs = hotcoco.mask.encode(np.asfortranarray(mask == 0).astype(np.uint8))
    region = {"size": [height, width], "counts": runs["counts"].decode()}
    annotations = Annotations(
        skeleton=names,
        image_id=np.array([1]),
        file_name=np.array(["1.png"]),
        width=np.array([width]),
        height=np.array([height]),
        person_image=np.zeros(count, np.int32),
        person_id=1 + np.arange(count),
        box=np.zeros((count, 4), np.float32),
        keypoints=joints[..., :2],
        visibility=np.full(joints.shape[:2], 2, np.uint8),
        area=np.ones(count, np.float32),
        crowd=np.zeros(count, bool),
        track_id=np.full(count, -1),
        unlabelled=Regions.pack([0], [region]),
    )
    png = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
    return Source("case", annotations, lambda i: png)


def _view(case, names: skeleton.Skeleton, strides: tuple[int, ...], rng: Draws) -> dict[str, np.ndarray]:
    """The example that recorded draws make of a case, as a batch of one, with labels but no rows of padding."""
    inputs, attrs = case.inputs, case.attrs
    joints = inputs["joints"]
    examples = TrainingImages(
        _one_image(inputs["image"], inputs["mask"], joints, names),
        max_people=len(joints),
        size=attrs["input_size"],
        mask_strides=strides,
        augmentation=_augmentation(attrs),
    )
    return {name: jnp.asarray(value)[None] for name, value in examples.load(0, rng).items()}


def _check_matrix(example: dict, expected: np.ndarray, stride: int) -> None:
    """The canvas goes back to the image by the inverse of the original's map; maps have 1 / stride of the pixels."""
    rows = [np.asarray(m, np.float64)[:2] for m in (expected, example["to_image"][0])]
    to_map, to_image = (np.vstack([m, [0, 0, 1]]) for m in rows)
    assert_allclose(to_map @ to_image @ np.diag([stride, stride, 1]), np.eye(3), atol=1e-4)


def _mirrored(example: dict, name: str) -> np.ndarray:
    return np.asarray(bottom_up.mirror_where(example["mirror"], example[name]))[0]


def _check_mask(example: dict, mask: np.ndarray, stride: int, expected: np.ndarray) -> None:
    """Equal, but for pixels that see half of the mask to within the precision of the recorded draws."""
    side = len(expected)
    to_map = np.linalg.inv(np.vstack([example["to_image"][0], [0, 0, 1]]).astype(np.float64))[:2] / stride
    share = np.asarray(warp((mask > 0).astype(np.float32), to_map, (side, side)))[None]
    tie = np.abs(_mirrored(example | {"share": jnp.asarray(share)}, "share") - 0.5) < 1e-4
    assert_array_equal(_mirrored(example, f"mask_{stride}")[~tie], expected[~tie])


def check_higherhrnet_augment(case) -> None:
    """Scale, rotation, shift, mirror: the picture, and masks and joints at every output size."""
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    names = _joints(attrs["flip_config"], inputs["joints"].shape[1])
    assert_array_equal(names.flip_index, attrs["flip_index"])
    strides = tuple(attrs["input_size"] // side for side in attrs["output_size"])
    draws = Draws([*inputs["uniform_scale_rot"].tolist(), 0.0 if attrs["flip"] else 1.0], inputs["dx_dy"].tolist())
    example = _view(case, names, strides, draws)
    assert bool(example["mirror"][0]) == attrs["flip"]
    assert np.abs(_mirrored(example, "image").astype(int) - expected["image"]).max() <= ONE_LEVEL
    _check_matrix(example, expected["matrix_input"], 1)
    example["visible"] = (inputs["joints"][..., 2] > 0)[None].astype(np.float32)
    for number, (side, stride) in enumerate(zip(attrs["output_size"], strides, strict=True)):
        _check_matrix(example, expected[f"matrix{number}"], stride)
        _check_mask(example, inputs["mask"], stride, expected[f"mask{number}"])
        points, visible = bottom_up.joints_on_map(example, side, names.flip_index)
        joints = expected[f"joints{number}"]
        assert_allclose(points[0], joints[..., :2], rtol=1e-6, atol=1e-4)
        assert_array_equal(visible[0], joints[..., 2] > 0)
        if attrs["scale_aware_sigma"]:
            sigmas = inputs["joints"][..., 3] / _growth(example, inputs["image"], attrs["scale_type"])
            assert_allclose(joints[..., 3], sigmas[:, names.flip_index] if attrs["flip"] else sigmas, rtol=1e-5)


def _growth(example: dict, image: np.ndarray, side: str) -> float:
    """By how much the region that a canvas shows exceeds the image."""
    region = np.linalg.norm(example["to_image"][0, :, 0]) * example["image"].shape[2]
    return region / (min if side == "short" else max)(image.shape[:2])


def check_dekr_augment(case) -> None:
    """The same class of views: before and after mirroring, the person's centre among the joints."""
    attrs, expected = case.attrs, case.outputs
    names = _joints(attrs["dataset"], case.inputs["joints"].shape[1])
    side, stride = attrs["output_size"], attrs["input_size"] // attrs["output_size"]
    draws = Draws([attrs["u_scale"], attrs["u_rotation"], attrs["u_flip"]], [attrs["dx"], attrs["dy"]])
    example = _view(case, names, (stride,), draws)
    assert set(draws.bounds) == {tuple(int(v) for v in attrs["translate_low_high"])}
    assert bool(example["mirror"][0]) == (attrs["u_flip"] < 0.5)
    _check_matrix(example, expected["matrix_input"], 1)
    _check_matrix(example, expected["matrix_output"], stride)
    growth = abs(np.linalg.det(example["to_image"][0, :, :2]))
    for name, mirror in (("affine", np.zeros(1, bool)), ("flip", example["mirror"])):
        shown = example | {"mirror": mirror, "visible": (case.inputs["joints"][..., 2] > 0)[None]}
        image = _mirrored(shown, "image")
        assert np.abs(image.astype(int) - expected[f"{name}/image"]).max() <= ONE_LEVEL
        _check_mask(shown, case.inputs["mask"], stride, expected[f"{name}/mask"])
        points, visible = bottom_up.joints_on_map(shown, side, names.flip_index)
        assert_allclose(points[0], expected[f"{name}/joints"][..., :2], rtol=1e-6, atol=1e-4)
        assert_array_equal(visible[0], expected[f"{name}/joints"][..., 2] > 0)
        assert_allclose(case.inputs["area"] / growth, expected[f"{name}/area"], rtol=1e-4)
    normal = np.asarray(methods.create({"name": "dekr"}).normalize(expected["flip/image"].astype(np.float32) / 255))
    statistics = np.stack([normal.mean((0, 1)), normal.std((0, 1))], -1)
    assert_allclose(statistics, expected["normalized_mean_std"], atol=1e-4)


def check_mask(case) -> None:
    """Crowd regions and people without labelled joints are left out of the loss, others are not."""
    attrs, inputs = case.attrs, case.inputs
    size = {"width": attrs["width"], "height": attrs["height"]}
    person = {"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 9, 9], "keypoints": [0] * 51}
    labelled = {"num_keypoints": 9, "keypoints": [5, 6, 2] * 9 + [0] * 24}
    polygons = [inputs[name].tolist() for name in sorted(inputs) if name.startswith("unlabelled_polygon")]
    runs = {"size": [attrs["height"], attrs["width"]], "counts": inputs["crowd_counts"].tolist()}
    content = {
        "images": [size | {"id": 1, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.COCO.joints)}],
        "annotations": [
            person | {"id": 1, "num_keypoints": 0, "iscrowd": 1, "segmentation": runs},
            person | {"id": 2, "num_keypoints": 0, "segmentation": polygons},
            person | labelled | {"id": 3, "segmentation": [inputs["labelled_polygon"].tolist()]},
        ],
    }
    found = coco.parse_keypoints(content, "case").unlabelled_mask(0)
    assert_array_equal(~found, case.outputs["mask"] > 0.5)


def _check_canvas(layout: Layout, number: int, size: tuple, center: np.ndarray, scale: np.ndarray) -> None:
    """A canvas of that size, and the image's `center` in its middle, scaled so that 200 `scale` pixels fill it."""
    assert layout.sizes[number] == tuple(int(v) for v in size)
    factor = size[0] / (200 * scale[0])
    offset = np.array(size) / 2 - factor * np.array(center)
    assert_allclose(layout.to_canvas[number], [[factor, 0, offset[0]], [0, factor, offset[1]]], rtol=1e-5, atol=1e-3)


def check_resize_align(case) -> None:
    """A whole image on the canvases of all test scales."""
    attrs, image, expected = case.attrs, case.inputs["image"], case.outputs
    scales = tuple(float(scale) for scale in attrs["scale_factor"])
    method = methods.create({"name": "higherhrnet", "input_size": attrs["input_size"], "scales": scales})
    layout = method.layout(image.shape[1], image.shape[0])
    fields = lay_out(image, layout, scales)
    for number, scale in enumerate(attrs["scale_factor"]):
        theirs = {name: expected[f"scale_{scale}/{name}"] for name in ("image", "center", "scale")}
        _check_canvas(layout, number, theirs["image"].shape[1::-1], theirs["center"], theirs["scale"])
        ours = fields[image_field(scale)].astype(int)
        assert np.abs(ours - theirs["image"]).max() <= ONE_LEVEL


def check_resize_sizes(case) -> None:
    """Sizes of canvases and where images lie on them, for many sizes of images."""
    for query, answer in zip(case.inputs["query"], case.outputs["answer"], strict=True):
        height, width, side, scale = (query.tolist()[0], query.tolist()[1], int(query[2]), float(query[3]))
        scales = (1.0,) if scale == 1 else (1.0, scale)
        layout = methods.create({"name": "dekr", "input_size": side, "scales": scales}).layout(int(width), int(height))
        _check_canvas(layout, scales.index(scale), answer[:2].tolist(), answer[2:4], answer[4:])


def check_evaluate(case) -> None:
    """From annotation file and padded poses to the published numbers."""
    inputs, is_coco = case.inputs, case.attrs["dataset"] == "coco"
    annotations = coco.parse_keypoints(_truth(inputs), "case")
    joints = annotations.skeleton
    assert joints == (skeleton.COCO if is_coco else skeleton.CROWDPOSE)
    examples = EvaluationImages(Source("case", annotations, lambda i: b""), layout=_any_layout)
    poses, index = _padded(inputs)
    rows = rows_of(poses, examples.shown(index))
    by_image = np.argsort(rows["image_id"], kind="stable")
    by_result = np.argsort(case.outputs["result_image"], kind="stable")
    assert_array_equal(rows["image_id"][by_image], case.outputs["result_image"][by_result])
    assert_allclose(rows["box"][by_image], case.outputs["result_bbox"][by_result], rtol=1e-5, atol=1e-3)
    context = MetricContext(joints, annotations.to_coco(), suppression=Suppression("none"))
    metric = (CocoKeypoints if is_coco else CrowdPoseKeypoints)(context)
    metric.update(rows)
    numbers = metric.compute()
    assert_allclose(list(numbers.values()), case.outputs["stats"], rtol=0, atol=1e-6)


def _any_layout(width: int, height: int) -> Layout:
    return Layout(((width, height),), (np.eye(2, 3),))


def _padded(inputs: dict) -> tuple[Poses, np.ndarray]:
    """All poses as one batch of images, in the order in which they are listed, and the images' rows."""
    of_image = [np.flatnonzero(inputs["pred_image"] == i) for i in inputs["image_ids"]]
    valid = np.arange(max(map(len, of_image)))[None] < np.array([[len(found)] for found in of_image])
    source = np.zeros(valid.shape, int)
    source[valid] = np.concatenate(of_image)
    points = inputs["pred_keypoints"][source]
    poses = Poses(points[..., :2], points[..., 2], inputs["pred_scores"][source], valid)
    return poses, np.arange(len(of_image))


def _truth(inputs: dict) -> dict:
    """The annotation file of a case; CrowdPose's has no areas."""
    is_crowdpose = "crowd_index" in inputs
    images = [{"id": int(i), "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in inputs["image_ids"]]
    for image, index in zip(images, inputs["crowd_index"].tolist() if is_crowdpose else (), strict=False):
        image["crowdIndex"] = float(f"{index:.6g}")  # stored as float32, decimal in the file
    fields = ("keypoints", "image", "bbox", "area", "iscrowd", "num_keypoints")
    columns = zip(*(inputs[f"gt_{field}"].tolist() for field in fields), strict=True)
    people = [
        {
            "id": number,
            "category_id": 1,
            "image_id": image,
            "keypoints": np.ravel(keypoints).tolist(),
            "bbox": bbox,
            "iscrowd": crowd,
            "num_keypoints": count,
        }
        | ({} if is_crowdpose else {"area": area})
        for number, (keypoints, image, bbox, area, crowd, count) in enumerate(columns, start=1)
    ]
    names = skeleton.COCO if inputs["gt_keypoints"].shape[1] == 17 else skeleton.CROWDPOSE
    category = {"id": 1, "name": "person", "keypoints": list(names.joints)}
    return {"images": images, "annotations": people, "categories": [category]}


CHECKS = {
    "higherhrnet/augment": check_higherhrnet_augment,
    "higherhrnet/resize_align": check_resize_align,
    "higherhrnet/evaluate": check_evaluate,
    "dekr/augment": check_dekr_augment,
    "dekr/mask": check_mask,
    "dekr/resize_sizes": check_resize_sizes,
}
