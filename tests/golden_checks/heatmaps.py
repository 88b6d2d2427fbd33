"""RMPE and AlphaPose: heatmap targets, integral regression, decoding."""

import jax
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks.networks import to_channels_first, to_channels_last
from jaxpose.ops import geometry, heatmaps

PIXELS = 1e-3
"""Largest difference of positions in an image."""


def _flip_index(attrs: dict, joints: int) -> np.ndarray:
    index = np.arange(joints)
    for a, b in attrs["joint_pairs"]:
        index[[a, b]] = b, a
    return index


def _to_image(positions, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Positions in a map of `size` (width, height), of which a box (x1, y1, x2, y2) gives middle and width."""
    center, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    to_image = geometry.invert_affine(geometry.crop_affine(center, extent, size))
    return geometry.apply_affine(to_image, np.asarray(positions))


def check_flip_heatmap(case) -> None:
    """The original shifts by copying a row onto itself one column further, which PyTorch leaves undefined.

    In maps as narrow as these the first column ends up everywhere. So the recorded shift is only compared where it does
    not depend on the order of copying, and otherwise what was recorded before the shift is moved as intended.
    """
    maps, expected = to_channels_last(case.inputs["heatmap"]), case.outputs
    index = _flip_index(case.attrs, maps.shape[-1])
    assert_array_equal(to_channels_first(heatmaps.flip_back(maps, index, shift=False)), expected["flipped"])
    shifted = to_channels_first(heatmaps.flip_back(maps, index, shift=True))
    assert_array_equal(shifted[..., :2], expected["flipped_shifted"][..., :2])
    assert_array_equal(shifted[..., 1:], expected["flipped"][..., :-1])
    joints, expected = case.inputs["joints"], case.outputs["joints"]
    keypoints, visible = heatmaps.flip_keypoints(joints[:, :2, 0], joints[:, 0, 1], index, case.attrs["width"])
    assert_allclose(keypoints, expected[:, :2, 0], rtol=1e-6)
    assert_array_equal(visible, expected[:, 0, 1])


def check_target_heatmap(case) -> None:
    """Sizes of this case are (height, width)."""
    joints, expected = case.inputs["joints"], case.outputs
    height, width = case.attrs["heatmap_size"]
    stride = case.attrs["input_size"][1] / width
    keypoints, visible = joints[:, :2, 0], joints[:, 0, 1]
    maps, weight = heatmaps.gaussian_targets(keypoints, visible, stride, (width, height), case.attrs["sigma"])
    assert_allclose(np.moveaxis(maps, -1, 0), expected["heatmap"], rtol=0, atol=1e-6)
    assert_array_equal(weight, expected["weight"].reshape(-1))
    fractions = keypoints / np.array(case.attrs["input_size"][::-1], np.float32)
    assert_allclose(fractions.reshape(-1) - 0.5, expected["coordinates"], rtol=0, atol=1e-6)
    assert_array_equal(joints[:, :2, 1].reshape(-1), expected["coordinate_weight"])


def check_decode_simple(case) -> None:
    maps, flipped = (to_channels_last(case.inputs[name]) for name in ("heatmap", "heatmap_flip"))
    height, width = maps.shape[1:3]
    for suffix, found in (("", maps), ("_flip", (maps + flipped) / 2)):
        positions, scores = heatmaps.decode(found, 1.0)
        image = _to_image(positions, case.inputs["box_xyxy"], (width, height))
        assert_allclose(image, case.outputs[f"keypoints{suffix}"], rtol=0, atol=PIXELS)
        assert_allclose(scores, case.outputs[f"score{suffix}"][..., 0], rtol=1e-6)
    assert_array_equal(heatmaps.maxima(maps)[0], case.outputs["argmax"])


def check_decode_integral(case) -> None:
    """With a mirrored crop, positions and scores are averaged."""
    kind = case.attrs["norm_type"]
    found = [heatmaps.decode_integral(to_channels_last(case.inputs[n]), 1.0, kind) for n in ("logits", "logits_flip")]
    height, width = case.inputs["logits"].shape[2:]
    images = [_to_image(positions, case.inputs["box_xyxy"], (width, height)) for positions, _ in found]
    scores = [np.asarray(score)[..., None] for _, score in found]
    assert_allclose(images[0], case.outputs["keypoints"], rtol=0, atol=PIXELS)
    assert_allclose(scores[0], case.outputs["score"], rtol=1e-6)
    assert_allclose(np.mean(images, axis=0), case.outputs["keypoints_flip"], rtol=0, atol=PIXELS)
    assert_allclose(np.mean(scores, axis=0), case.outputs["score_flip"], rtol=1e-6)


def check_integral_loss(case) -> None:
    """Targets of the original lie in (-.5, .5), ours in (0, 1)."""
    kind, expected = case.attrs["norm_type"], case.outputs
    maps = to_channels_last(case.inputs["logits"])
    target, weight = (case.inputs[name].reshape(len(maps), -1, 2) for name in ("target", "weight"))
    loss = jax.value_and_grad(heatmaps.integral_loss)
    for name, symmetric in (("d_logits", True), ("d_logits_plain", False)):
        value, gradient = loss(maps, target + 0.5, weight, kind, symmetric)
        assert_allclose(value, expected["loss"], rtol=1e-5)
        assert_allclose(to_channels_first(gradient), expected[name], rtol=1e-4, atol=1e-7, err_msg=name)
    probabilities, confidence = heatmaps.normalize(maps, kind)
    fractions = heatmaps.expectation(probabilities) / np.array(case.inputs["logits"].shape[:1:-1], np.float32)
    assert_allclose(fractions.reshape(len(maps), -1) - 0.5, expected["coordinates"], rtol=0, atol=1e-6)
    assert_allclose(confidence[..., None], expected["score"], rtol=1e-6)


COUNTED_FROM = np.array([1.0, 0.5], np.float32)
"""The first column and row in the decoding of 2017, half a pixel too far to the right, as the library's is not."""


def check_decode_2017(case) -> None:
    size = case.attrs["image_width"], case.attrs["image_height"]
    boxes = np.trunc(heatmaps.grow_boxes(case.inputs["box_xyxy"], size))
    assert_array_equal(boxes, case.outputs["crop_box"])
    maps = np.maximum(to_channels_last(case.inputs["heatmap"]), 0)
    positions, scores = heatmaps.maxima(maps)
    to_image = heatmaps.padded_crop_to_image(boxes, maps.shape[2:0:-1], gap=1)
    keypoints = geometry.apply_affine(to_image, np.asarray(positions) + COUNTED_FROM)
    assert_array_equal(np.trunc(keypoints), case.outputs["keypoints"])
    assert_allclose(scores, case.outputs["score"], rtol=1e-6)


def check_box_transform_2018(case) -> None:
    """Sizes of this case are (height, width)."""
    to_image = heatmaps.padded_crop_to_image(case.inputs["box_xyxy"], tuple(case.attrs["heatmap_size"][::-1]))
    on_map = geometry.apply_affine(geometry.invert_affine(to_image), case.inputs["point"][:, None])[:, 0]
    in_image = geometry.apply_affine(to_image, case.inputs["map_point"][:, None])[:, 0]
    assert_array_equal(np.round(on_map), case.outputs["to_map"])
    assert_allclose(in_image, case.outputs["to_image"], rtol=0, atol=PIXELS)


CHECKS = {
    "rmpe/flip_heatmap": check_flip_heatmap,
    "rmpe/target_heatmap": check_target_heatmap,
    "rmpe/decode_simple": check_decode_simple,
    "rmpe/decode_integral": check_decode_integral,
    "rmpe/integral_loss": check_integral_loss,
    "rmpe/decode_2017": check_decode_2017,
    "rmpe/box_transform_2018": check_box_transform_2018,
}
