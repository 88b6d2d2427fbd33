"""One training example of the top-down family: random view, crop, targets."""

import dataclasses
import itertools

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks.skeletons import skeleton_of
from jaxpose import skeleton
from jaxpose.data.sources import mpii
from jaxpose.data.views import NO_AUGMENTATION, Augmentation, PersonCrop, View
from jaxpose.methods import top_down
from jaxpose.methods.dsnt import coordinates as dsnt
from jaxpose.methods.dsnt.method import DSNT
from jaxpose.methods.prtr.method import PRTR
from jaxpose.ops import geometry

TIE = 0.02
"""How far from the middle between two grey levels an interpolated value may be rounded either way."""


class Draws:
    """Gives out recorded draws in order."""

    def __init__(self, normal: list[float], uniform: list[float]):
        self._normal, self._uniform = iter(normal), iter(uniform)

    def standard_normal(self) -> float:
        return next(self._normal)

    def random(self) -> float:
        return next(self._uniform)


def _check_view(view: View, outputs: dict, prefix: str, width: int) -> None:
    center = np.array([width - 1 - view.center[0], view.center[1]]) if view.mirror else view.center
    assert_allclose(center, outputs[f"{prefix}center"], atol=1e-3)
    assert_allclose(view.size / 200, outputs[f"{prefix}scale"], rtol=1e-5)
    assert_allclose(view.rotation, outputs[f"{prefix}rotation"], atol=1e-4)


def _check_image(crop: PersonCrop, image: np.ndarray, view: View, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Both are the interpolated values rounded to a grey level, and they are equal but for ties."""
    exact = crop.cut(image.astype(np.float32), view)[0]
    for rounded in (ours, theirs):
        assert np.abs(rounded - exact).max() <= 0.5 + TIE
    differs = ours != theirs
    assert np.abs(exact - np.floor(exact) - 0.5)[differs].max(initial=0) <= TIE


def check_sample(case) -> None:
    """Random view, crop, normalisation in the stored channel order, and coordinates as fractions."""
    attrs, inputs = case.attrs, case.inputs
    augmentation = Augmentation(scale=attrs["scale_factor"], rotation=attrs["rot_factor"], mirror=0.5)
    width, height = attrs["image_size_wh"]
    joints = skeleton_of(len(inputs["joints"]), attrs["flip_pairs"])
    channels = "rgb" if attrs["color_rgb"] else "bgr"
    method = PRTR(input_size=(width, height), channels=channels, skeleton=joints.name)
    image = np.ascontiguousarray(inputs["image"][..., ::-1])
    for name, draws in attrs["draws"].items():
        rng = Draws(
            [draws["normal_for_scale"], draws["normal_for_rotation"]],
            [draws["uniform_for_rotation"], draws["uniform_for_flip"]],
        )
        if draws["uniform_for_rotation"] > 0.6:
            rng = Draws([draws["normal_for_scale"]], [draws["uniform_for_rotation"], draws["uniform_for_flip"]])
        start = View(inputs["center"].astype(np.float64), 200 * inputs["scale"].astype(np.float64))
        view = augmentation(start, inputs["joints"], inputs["visibility"], joints, rng)
        _check_view(view, case.outputs, f"{name}.", image.shape[1])
        example = PersonCrop((width, height)).example(image, view, inputs["joints"], inputs["visibility"], joints)
        batch = {"source": {k: v[None] for k, v in example.items()}}
        ours = jax.device_get(method.targets(batch, jax.random.key(0), train=True))["source"]
        one_level = 1 / 255 / 0.224 + 1e-4
        assert_allclose(ours["image"][0].transpose(2, 0, 1), case.outputs[f"{name}.input"], atol=one_level)
        weight = case.outputs[f"{name}.target_weight"]
        assert_allclose(ours["visible"][0], weight[:, 0])
        assert_allclose(ours["targets"][0] * weight, case.outputs[f"{name}.target"] * weight, atol=1e-5)


def check_augment(case) -> None:
    """Half body, scale, rotation, mirror, and the joints that result."""
    attrs, inputs = case.attrs, case.inputs
    draws, joints = attrs["draws"], skeleton_of(len(inputs["joints"]), attrs["flip_pairs"], attrs.get("upper_body_ids"))
    augmentation = NO_AUGMENTATION
    if attrs["is_train"]:
        augmentation = Augmentation(
            scale=attrs["scale_factor"],
            rotation=attrs["rotation_factor"],
            mirror=0.5,
            half_body=attrs["prob_half_body"],
        )
    image = inputs["image_bgr"][..., ::-1] if attrs["color_rgb"] else inputs["image_bgr"]
    visible = inputs["joints_vis"][:, 0]
    view = View(inputs["center"].astype(np.float64), 200 * inputs["scale"].astype(np.float64))
    if attrs["is_train"]:
        half_body = draws["rand"] if (visible > 0).sum() > 8 else []
        rng = Draws(draws["randn"], half_body + draws["random"])
        view = augmentation(view, inputs["joints"][:, :2], visible, joints, rng)
    _check_view(view, case.outputs, "", image.shape[1])
    crop, image = PersonCrop(tuple(attrs["image_size_wh"])), np.ascontiguousarray(image)
    example = crop.example(image, view, inputs["joints"][:, :2], visible, joints)
    _check_image(crop, image, view, example["image"], case.outputs["image"])
    assert_allclose(example["visible"], case.outputs["joints_vis"][:, 0])
    assert_allclose(example["keypoints"], case.outputs["joints"][:, :2], atol=1e-3)


def check_mpii_augmentation(case) -> None:
    """The box of a person, a random view of it, joints, the way back to the image, and the picture.

    The original resamples three times (to a square with a margin, to turn it, to the network's size), which blurs; here
    it is once. So pictures are compared by how they lie on each other.
    """
    attrs, inputs, expected = case.attrs, case.inputs, case.outputs
    x, y, w, h = box = np.array(mpii.square(tuple(inputs["center"].tolist()), float(inputs["scale"])))
    assert_allclose([x, y, x + w, y + h], expected["bounding_box"], rtol=1e-5)
    size = (attrs["size"], attrs["size"])
    crop = PersonCrop(size, padding=1.0, half_pixel=True, antialias=True)
    augmentation = Augmentation(scale=0.25, octaves=True, rotation=30.0, rotation_probability=0.4, mirror=0.5)
    method = DSNT(input_size=size, dilate=0, truncate=2)
    for name, draws in attrs["draws"].items():
        view = crop.view(box)
        if draws:
            normal = [draws["scale_exponent"] / 0.25, draws["rotate_degrees"] / 30]
            rng = Draws(normal, [draws["rotate_u"], 0.0 if draws["hflip"] else 1.0])
            view = augmentation(view, inputs["keypoints"], inputs["mask"], skeleton.MPII, rng)
        example = crop.example(inputs["image"], view, inputs["keypoints"], inputs["mask"], skeleton.MPII)
        labels = jax.device_get(method.labels({k: v[None] for k, v in (example | {"valid": np.True_}).items()}))
        mask = expected[f"{name}_part_mask"] > 0
        assert_array_equal(labels["mask" if draws else "labelled"][0], mask)
        coords = expected[f"{name}_part_coords"]
        assert_allclose(labels["points"][0][mask], coords[mask], atol=2e-5)
        pixels = coords @ expected[f"{name}_transform_m"].T + expected[f"{name}_transform_b"]
        ours = geometry.apply_affine(example["to_image"], np.asarray(dsnt.normalized_to_pixel(coords, size)))
        assert_allclose(ours, pixels, atol=2e-3)
        theirs = expected[f"{name}_input"].transpose(1, 2, 0)
        if name in attrs["subtract_mean"]:
            theirs = theirs + np.float32(attrs["mean"])
        gain = np.array(draws["channel_gain"] if draws else (1, 1, 1), np.float32)
        _check_aligned(crop, inputs["image"], view, gain, theirs)


def _check_aligned(crop: PersonCrop, image: np.ndarray, view: View, gain: np.ndarray, theirs: np.ndarray) -> None:
    """Of crops that are moved a little, the one most like the original's is less than a pixel of the image away.

    The original rounds the corners of its first crop to whole pixels.
    """
    per_pixel = float(view.size[0] / crop.size[0])

    def difference(move: tuple[float, float]) -> float:
        moved = dataclasses.replace(view, center=view.center + np.array(move))
        return float(np.abs(top_down.recolor(crop.cut(image, moved)[0] / np.float32(255), gain) - theirs).mean())

    steps = np.linspace(-1, 1, 17) * per_pixel
    best = min(itertools.product(steps, steps), key=difference)
    assert np.abs(best).max() < 1
    assert difference(best) < 0.016


CHECKS = {
    "prtr/sample": check_sample,
    "hrnet/augment": check_augment,
    "dsnt/mpii_augmentation": check_mpii_augmentation,
}
