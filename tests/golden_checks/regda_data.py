"""RegDA's data: what its data sets show of an example, and its views for training.

Pictures are compared in the convention of Pillow, in which pixels are squares (`half_pixel`), joints in that of the
original's formulas, which move pixel indices. A crop here is one map of the original picture, interpolated once.
"""

import functools
import json
import pathlib
import pickle
import tempfile

import cv2
import numpy as np
import scipy.io
from ml_collections import ConfigDict
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import config as configs
from jaxpose.data import images, square_boxes
from jaxpose.data.examples import person_boxes
from jaxpose.data.sources import Source, open_source, rhd
from jaxpose.data.views import PersonCrop, View, random_part
from jaxpose.methods.regda.method import RegDA
from jaxpose.methods.top_down import IMAGENET_MEAN, IMAGENET_STD
from jaxpose.ops import geometry, heatmaps, photometric

STEPS = np.array([(x, y) for x in (-0.5, 0, 0.5) for y in (-0.5, 0, 0.5) if x or y])
"""Moves, in pixels of the crop, each of which makes a crop less like the original's."""
FRAME = (1000, 1000)
"""Of Human3.6M; (width, height)."""


# --- pictures ---


def _cut(size: tuple[int, int], view: View, image: np.ndarray, move: np.ndarray | tuple = (0, 0)) -> np.ndarray:
    """[H, W, 3] float64 levels of a crop, moved by some of its pixels."""
    crop = PersonCrop(size, half_pixel=True, antialias=True)
    back = geometry.invert_affine(crop.affine(view))[:, :2]
    moved = View(view.center + back @ np.asarray(move, np.float64), view.size, view.rotation, view.mirror)
    return crop.cut(image, moved)[0].astype(np.float64)


def _difference(size: tuple[int, int], view: View, image: np.ndarray, theirs: np.ndarray, move=(0, 0)) -> float:
    """Mean over what is not at the border, where Pillow takes no black from outside."""
    return float(np.abs(_cut(size, view, image, move) - theirs)[1:-1, 1:-1].mean())


def _check_picture(view: View, image: np.ndarray, theirs: np.ndarray, tolerance: float = 1.5) -> None:
    """A crop is as the original's but for how they average, and no crop half a pixel away is as much like it."""
    size = (theirs.shape[1], theirs.shape[0])
    found = _difference(size, view, image, theirs)
    assert found < tolerance
    assert found < min(_difference(size, view, image, theirs, move) for move in STEPS)


def _check_nearest(view: View, image: np.ndarray, theirs: np.ndarray) -> None:
    """The original takes the pixel of the image in which the centre of the crop's pixel lies."""
    height, width = theirs.shape[:2]
    to_image = geometry.invert_affine(PersonCrop((width, height), half_pixel=True).affine(view))
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    points = np.floor(geometry.apply_affine(to_image, np.stack([x, y], -1).reshape(-1, 2)) + 0.5 + 1e-9).astype(int)
    inside = ((points >= 0) & (points < [image.shape[1], image.shape[0]])).all(-1)
    ours = np.zeros((height * width, 3), np.uint8)
    ours[inside] = image[points[inside, 1], points[inside, 0]]
    assert (ours.reshape(theirs.shape) != theirs).any(-1).mean() < 0.01


def _pad_shift(size: tuple[int, int], side: int) -> np.ndarray:
    """By how much joints lie further where the original rounds the narrower side of a resized picture down."""
    exact = side * np.array(size) / max(size)
    return (exact - np.floor(exact)) / 2


# --- transforms ---


def _whole(image: np.ndarray) -> View:
    size = np.array([image.shape[1], image.shape[0]], np.float64)
    return View(size / 2, size)


def _region(top: float, left: float, height: float, width: float) -> View:
    return View(np.array([left + width / 2, top + height / 2]), np.array([width, height], np.float64))


def check_transforms(case) -> None:
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    square, tall = inputs["image"], inputs["tall"]
    for name in (key.removesuffix("_keypoints") for key in expected if key.endswith("_keypoints")):
        theirs = expected[f"{name}_image"]
        if name.startswith("pad"):
            _check_pad(inputs[name.removeprefix("pad_")], inputs["keypoints"], theirs, expected[f"{name}_keypoints"])
        elif name.startswith("rotate"):
            view = View(_whole(square).center, _whole(square).size, rotation=float(name.removeprefix("rotate_")))
            _check_moved(case, name, view)
            _check_nearest(view, square, theirs)
        elif name.startswith("resize"):
            view, box = _whole(square), attrs["resized_crop"]
            if name == "resized_crop":
                view = view.part((box["left"], box["top"], box["width"], box["height"]))
            _check_moved(case, name, view)
            _check_picture(view, square, theirs)
        elif name == "crop":
            view = _region(**attrs["crop"])
            _check_moved(case, name, view)
            assert_array_equal(_cut((theirs.shape[1], theirs.shape[0]), view, square), theirs)
        else:
            view = shown = _whole(tall)
            if name == "center_crop":
                height, width = attrs["center_crop"]
                corner = (round((side - part) / 2) for side, part in zip(tall.shape[:2], (height, width)))
                view = shown = _region(*corner, height, width)
            else:
                assert name == "hflip"
                box = square_boxes.cut_region(np.array([0, 0, tall.shape[1], tall.shape[0]]), mirrored=True)
                shown = View(view.center, view.size, mirror=True)
                view = View(box[:2] + box[2:] / 2, view.size, mirror=True)
            _check_moved(case, name, view)
            assert_array_equal(_cut((theirs.shape[1], theirs.shape[0]), shown, tall), theirs)
    _check_random_crops(attrs["scale"], inputs["random_crop_draws"], expected["random_crop_boxes"], inputs)
    _check_colors(square, expected)


def _check_moved(case, name: str, view: View) -> None:
    height, width = case.outputs[f"{name}_image"].shape[:2]
    moved = geometry.apply_affine(PersonCrop((width, height)).affine(view), case.inputs["keypoints"])
    assert_allclose(moved, case.outputs[f"{name}_keypoints"], atol=1e-9, err_msg=name)


def _check_pad(image: np.ndarray, keypoints: np.ndarray, theirs: np.ndarray, moved: np.ndarray) -> None:
    """A picture padded to a square is the crop of a box of the whole picture, but for the original's rounding."""
    side, size = len(theirs), (image.shape[1], image.shape[0])
    crop = PersonCrop((side, side), padding=1.0)
    view = crop.view(np.array([0, 0, *size]))
    joints = geometry.apply_affine(crop.affine(view), keypoints)
    assert_allclose(joints + _pad_shift(size, side), moved, atol=1e-9)
    _check_pad_picture(view, image, theirs)


def _check_pad_picture(view: View, image: np.ndarray, theirs: np.ndarray) -> None:
    """Of moved crops, the one most like the original's is no more than half a pixel away."""
    moves = [(x, y) for x in np.linspace(-2, 2, 9) for y in np.linspace(-2, 2, 9)]
    best = min(moves, key=functools.partial(_difference, theirs.shape[1::-1], view, image, theirs))
    assert np.abs(best).max() <= 0.5


class _Draws:
    """Gives out the numbers that the original drew for one crop: shares of the area, then top and left."""

    def __init__(self, area: tuple[float, float], draws: np.ndarray):
        self._area, self._draws = area, iter(draws[np.isfinite(draws)].tolist())

    def random(self) -> float:
        return (next(self._draws) - self._area[0]) / (self._area[1] - self._area[0])

    def integers(self, low: int, high: int) -> int:
        value = next(self._draws)
        assert low <= value < high
        return int(value)


def _check_random_crops(area, draws: np.ndarray, boxes: np.ndarray, inputs: dict) -> None:
    for i, (row, (top, left, height, width)) in enumerate(zip(draws, boxes)):
        image = inputs["image"] if i < 8 else inputs["wide"]
        size = np.array([image.shape[1], image.shape[0]])
        found = random_part(size, tuple(area), _Draws(area, row), aspect=1.0)
        assert found == (left, top, width, height)


def _check_colors(image: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    """Pillow cuts every result off to a whole level, and rounds greys and each pass of the blur to one."""
    pixels = image[None].astype(np.float32) / 255
    kinds = ("brightness", "contrast", "saturation")
    for name, theirs in expected.items():
        kind, _, number = name.rpartition("_")
        if kind == "blur":
            levels = 255 * np.asarray(photometric.blur(pixels, np.array([float(number)])))[0] - theirs
            assert np.abs(levels).max() <= 3
            assert np.abs(levels).mean() < 0.5
        elif kind in kinds:
            factors = np.where(np.equal(kinds, kind), float(number), 1)[None].astype(np.float32)
            levels = 255 * np.asarray(photometric.recolor(pixels, np.array([[0, 1, 2]]), factors))[0] - theirs
            rounding = abs(1 - float(number)) + 1e-3
            assert levels.min() >= -rounding
            assert levels.max() <= 1 + rounding
    theirs = expected["normalized"].transpose(1, 2, 0)
    ours = RegDA(skeleton="hand").normalize(pixels[0])[: theirs.shape[0], : theirs.shape[1]]
    assert_allclose(ours, theirs, atol=1e-5)


# --- data sets ---


def _write_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    """Without loss, whatever the name's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def _write_json(path: pathlib.Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, default=lambda array: array.tolist()))


def _open(source: str, root: pathlib.Path, skeleton: str, split: dict) -> Source:
    return open_source(ConfigDict({"source": source, "dir": str(root), "skeleton": skeleton, "train": split}), "train")


def _check_example(
    case, tag: str, source: Source, person: int, picture: np.ndarray, raw: np.ndarray | None = None
) -> np.ndarray:
    """What a method sees of a person of a source, against image, target, weight and joints of the original.

    Returns:
      joints [K, 2] in pixels of the crop; of hidden ones too, where `raw` [K, 2] tells them.
    """
    attrs, expected = case.attrs, case.outputs
    side, maps = attrs["image_size"], attrs["heatmap_size"]
    a, crop = source.annotations, PersonCrop((side, side), padding=1.0)
    mirror = bool(a.mirror[person])
    view = crop.view(a.box[person])
    view = View(view.center, view.size, mirror=mirror)
    joints, seen = crop.joints(view, a.keypoints[person], a.visibility[person], a.skeleton)
    target, weight = heatmaps.gaussian_targets(
        joints, seen, side // maps, (maps, maps), attrs["sigma"], center_inside=True
    )
    assert_allclose(np.asarray(target).transpose(2, 0, 1), expected[f"{tag}_target"], atol=1e-6)
    assert_array_equal(weight, expected[f"{tag}_weight"][:, 0])
    assert_allclose(joints[seen > 0], expected[f"{tag}_keypoint2d"][seen > 0], atol=1e-4)
    if raw is not None:
        joints = geometry.apply_affine(crop.affine(view), raw)
        assert_allclose(joints, expected[f"{tag}_keypoint2d"], atol=1e-9)
    shown = View(view.center + [float(mirror), 0], view.size, mirror=mirror)
    read = images.decode(source.read(int(a.person_image[person])), tag)
    assert_array_equal(read, picture)
    _check_picture(shown, picture, _levels(expected[f"{tag}_image"]), tolerance=3)
    return joints


def _levels(image: np.ndarray) -> np.ndarray:
    """Grey levels [H, W, 3] of a normalised image [3, H, W]."""
    return 255 * (image.transpose(1, 2, 0) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN))


def _check_3d(joints: np.ndarray, intrinsics: np.ndarray, zoom: float, depth: np.ndarray, expected: np.ndarray) -> None:
    """Joints in the camera's frame, the tenth as origin and as far from the first as a unit.

    The original scales a camera with the picture, but does not move it with the crop.
    """
    points = square_boxes.back_project(joints, np.array([[zoom], [zoom], [1]]) * intrinsics, depth)
    points = points - points[9]
    assert_allclose(points / np.linalg.norm(points[0]), expected, rtol=1e-6, atol=1e-6)


def _check_rhd(case, root: pathlib.Path) -> None:
    inputs, expected = case.inputs, case.outputs
    count = sum(key.endswith("_picture") for key in inputs)
    entries = {}
    for i in range(count):
        entries[i] = {"uv_vis": inputs[f"rhd_{i}_uv_vis"], "xyz": inputs[f"rhd_{i}_xyz"], "K": inputs["rhd_K"]}
        _write_picture(root / "color" / f"{i:05d}.png", inputs[f"rhd_{i}_picture"])
    (root / "anno.pickle").write_bytes(pickle.dumps(entries))
    source = _open("rhd", root, "hand", {"annotations": "anno.pickle", "images": "color"})
    a, samples = source.annotations, case.attrs["rhd_samples"]
    found = [(str(a.file_name[i]), not mirror) for i, mirror in zip(a.person_image, a.mirror)]
    assert found == [(pathlib.Path(sample["name"]).name, sample["left"]) for sample in samples]
    for i, (name, left) in enumerate(found):
        number, order = int(name.removesuffix(".png")), rhd.ORDER + (0 if left else 21)
        raw, depth = inputs[f"rhd_{number}_uv_vis"][order, :2], inputs[f"rhd_{number}_xyz"][order, 2]
        joints = _check_example(case, f"rhd_{i}", source, i, inputs[f"rhd_{number}_picture"], raw)
        zoom = case.attrs["image_size"] / a.box[i, 2]
        _check_3d(joints, inputs["rhd_K"], zoom, depth, expected[f"rhd_{i}_keypoint3d"])


def _check_h36m(case, root: pathlib.Path) -> None:
    inputs, expected = case.inputs, case.outputs
    frame = {"file_name": "frame.jpg", "action_idx": 2, "subaction_idx": 1, "cam_idx": 1, "frame_idx": 0}
    camera = {"1": {key: inputs[f"h36m_{key}"] for key in ("R", "t", "f", "c")}}
    content = {"data": {"images": [frame]}, "camera": camera, "joint_3d": {"2": {"1": {"0": inputs["h36m_joints"]}}}}
    for kind, value in content.items():
        _write_json(root / "annotations" / f"Human36M_subject1_{kind}.json", value)
    _write_picture(root / "images" / "frame.jpg", np.zeros((*FRAME[::-1], 3), np.uint8))
    split = {"annotations": "annotations", "images": "images", "subjects": (1,), "part": "all"}
    a = _open("h36m_frames", root, "mpii", split).annotations
    crop = PersonCrop((512, 512), padding=1.0)
    joints = crop.joints(crop.view(a.box[0]), a.keypoints[0], a.visibility[0], a.skeleton)[0]
    assert_allclose(joints, expected["h36m_keypoint2d"], atol=1e-3)
    side, maps = case.attrs["image_size"], case.attrs["heatmap_size"]
    small = crop_joints(PersonCrop((side, side), padding=1.0), a)
    assert_allclose(small, expected["h36m_sample_keypoint2d"], atol=1e-4)
    ones = np.ones(len(small), np.float32)
    target, _ = heatmaps.gaussian_targets(
        small, ones, side // maps, (maps, maps), case.attrs["sigma"], center_inside=True
    )
    assert_allclose(np.asarray(target).transpose(2, 0, 1), expected["h36m_sample_target"], atol=1e-6)


def crop_joints(crop: PersonCrop, a) -> np.ndarray:
    """Joints of the first person of annotations in the crop of their box."""
    return crop.joints(crop.view(a.box[0]), a.keypoints[0], a.visibility[0], a.skeleton)[0]


def _check_surreal(case, root: pathlib.Path) -> None:
    inputs, names = case.inputs, ("keypoint2d", "keypoint3d")
    record = {"name": "picture.jpg"} | {name: inputs[f"surreal_{name}"] for name in names}
    for run in ("run0", "run1", "run2"):
        _write_json(root / "train" / f"{run}.json", [record])
        _write_picture(root / "train" / run / "picture.jpg", inputs["surreal_image"])
    source = _open("surreal", root, "mpii", {"annotations": "train", "images": "train", "part": "all"})
    order = case.attrs["surreal_index"]
    joints = _check_example(case, "surreal", source, 0, inputs["surreal_image"], inputs["surreal_keypoint2d"][order])
    zoom = case.attrs["image_size"] / source.annotations.box[0, 2]
    depth = inputs["surreal_keypoint3d"][order, 2]
    _check_3d(joints, inputs["surreal_K"], zoom, depth, case.outputs["surreal_keypoint3d"])


def _check_freihand(case, root: pathlib.Path) -> None:
    """Its camera and picture are those of the case's SURREAL."""
    inputs, camera = case.inputs, case.inputs["surreal_K"]
    _write_json(root / "training_xyz.json", [_points(inputs, camera)])
    _write_json(root / "training_K.json", [camera])
    _write_picture(root / "training" / "rgb" / "00000000.jpg", inputs["surreal_image"])
    split = {"annotations": "training_xyz.json", "images": "training/rgb", "version": "gs", "part": "all"}
    source = _open("freihand", root, "hand", split)
    joints = _check_example(case, "freihand", source, 0, inputs["surreal_image"], inputs["freihand_keypoint2d"])
    zoom = case.attrs["image_size"] / source.annotations.box[0, 2]
    _check_3d(joints, camera, zoom, inputs["freihand_keypoint3d"][:, 2], case.outputs["freihand_keypoint3d"])


def _points(inputs: dict[str, np.ndarray], camera: np.ndarray) -> np.ndarray:
    """Points that project to the case's joints."""
    return square_boxes.back_project(inputs["freihand_keypoint2d"], camera, inputs["freihand_keypoint3d"][:, 2])


def _check_lsp(case, root: pathlib.Path) -> None:
    inputs, expected, side = case.inputs, case.outputs, case.attrs["image_size"]
    picture = inputs["lsp_image"]
    scipy.io.savemat(root / "joints.mat", {"joints": inputs["lsp_joints"][..., None]})
    _write_picture(root / "images" / "im0001.jpg", picture)
    source = _open("lsp", root, "mpii", configs.lsp_folders()["train"])
    seen = person_boxes.whole_images(source.annotations, "lsp")
    crop = PersonCrop((side, side), padding=1.0)
    joints, visible = crop.joints(
        crop.view(seen.box[0]), seen.keypoints[0], seen.visibility[0], source.annotations.skeleton
    )
    assert_array_equal(visible, expected["lsp_weight"][:, 0])
    shift = _pad_shift((picture.shape[1], picture.shape[0]), side)
    assert_allclose((joints + shift)[visible > 0], expected["lsp_keypoint2d"][visible > 0], atol=1e-4)
    _check_pad_picture(crop.view(seen.box[0]), picture, _levels(expected["lsp_image"]))


def check_datasets(case) -> None:
    """Every class of data sets, from files as they lie on disk."""
    for check in (_check_rhd, _check_h36m, _check_surreal, _check_freihand, _check_lsp):
        with tempfile.TemporaryDirectory() as folder:
            check(case, pathlib.Path(folder))


CHECKS = {
    "regda/datasets": check_datasets,
    "regda/transforms": check_transforms,
}
