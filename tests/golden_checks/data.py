"""One training example of the top-down family: random view, crop, targets."""

import jax
import numpy as np
from numpy.testing import assert_allclose

from jaxpose import skeleton
from jaxpose.data.transforms import NO_AUGMENTATION, Augmentation, PersonCrop, View
from jaxpose.methods.prtr import PRTR

COCO = skeleton.COCO
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
    method = PRTR(input_size=(width, height), channels="rgb" if attrs["color_rgb"] else "bgr")
    image = np.ascontiguousarray(inputs["image"][..., ::-1])
    for name, draws in attrs["draws"].items():
        rng = Draws(
            [draws["normal_for_scale"], draws["normal_for_rotation"]],
            [draws["uniform_for_rotation"], draws["uniform_for_flip"]],
        )
        if draws["uniform_for_rotation"] > 0.6:
            rng = Draws([draws["normal_for_scale"]], [draws["uniform_for_rotation"], draws["uniform_for_flip"]])
        start = View(inputs["center"].astype(np.float64), 200 * inputs["scale"].astype(np.float64))
        view = augmentation(start, inputs["joints"], inputs["visibility"], COCO, rng)
        _check_view(view, case.outputs, f"{name}.", image.shape[1])
        example = PersonCrop((width, height)).example(image, view, inputs["joints"], inputs["visibility"], COCO)
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
    draws = attrs["draws"]
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
        view = augmentation(view, inputs["joints"][:, :2], visible, COCO, rng)
    _check_view(view, case.outputs, "", image.shape[1])
    crop, image = PersonCrop(tuple(attrs["image_size_wh"])), np.ascontiguousarray(image)
    example = crop.example(image, view, inputs["joints"][:, :2], visible, COCO)
    _check_image(crop, image, view, example["image"], case.outputs["image"])
    assert_allclose(example["visible"], case.outputs["joints_vis"][:, 0])
    assert_allclose(example["keypoints"], case.outputs["joints"][:, :2], atol=1e-3)


CHECKS = {"prtr/sample": check_sample, "hrnet/augment": check_augment}
