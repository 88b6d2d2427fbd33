"""ViTPose: names, network, and the way from a box to joints, as transformers has them."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from golden_checks.networks import FORWARD, to_channels_first, to_channels_last
from jaxpose import skeleton as skeletons
from jaxpose.convert.conversion import convert
from jaxpose.data.views import PersonCrop
from jaxpose.methods.vitpose import ViTPose
from jaxpose.methods.vitpose.transformer import Block
from jaxpose.ops import geometry, heatmaps

PIXELS = 0.01
"""Largest difference of joints in an image."""


def make_method(attrs: dict) -> ViTPose:
    """The network that a manifest describes; the skeleton is one with as many joints."""
    skeleton = next(s.name for s in skeletons.SKELETONS.values() if s.num_joints == attrs["joints"])
    return ViTPose(
        skeleton=skeleton,
        size="",
        width=attrs["hidden"],
        layers=attrs["layers"],
        heads=attrs["heads"],
        head="simple" if attrs["simple_decoder"] else "classic",
        experts=attrs["experts"] if attrs["experts"] > 1 else 0,
        expert_features=attrs.get("part_features") or 0,
        input_size=tuple(attrs.get("input_size", (192, 256))),
        epsilon=attrs.get("layer_norm_eps", 1e-12),
    )


def _flip_index(case, method: ViTPose) -> np.ndarray:
    return np.array(case.attrs.get("flip_indices", method.joints.flip_index))


def check_names(case) -> None:
    """Every entry has a place, and every leaf an entry."""
    variables = convert(case.state_dict, make_method(case.attrs))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == sum(
        int(np.prod(shape)) for name, shape in case.manifest["params"] if not name.endswith("num_batches_tracked")
    )


def check_forward(case) -> None:
    """Maps, the tokens after each recorded layer, and the maps of the mirrored crop turned back."""
    method = make_method(case.attrs)
    variables = convert(case.state_dict, method)
    image = jnp.asarray(to_channels_last(case.inputs["image"]))
    expert = jnp.asarray(case.inputs.get("dataset_index", 0))
    keep = lambda module, name: isinstance(module, Block)
    outputs, captured = method.apply(
        variables, image, False, expert, capture_intermediates=keep, mutable=["intermediates"]
    )
    assert_allclose(to_channels_first(outputs["maps"]), case.outputs["heatmaps"], rtol=0, atol=FORWARD)
    blocks = captured["intermediates"]["backbone"]
    for name, expected in case.outputs.items():
        if name.startswith("hidden"):
            number, part = name.removeprefix("hidden").split("_")
            tokens = np.asarray(blocks[f"block{int(number) - 1}"]["__call__"][0])
            rows, columns = expected.shape[1:] if part == "crop" else (0, 0)
            found = tokens[:, :rows, :columns] if part == "crop" else tokens.mean(1)
            assert_allclose(found, expected, rtol=0, atol=FORWARD, err_msg=name)
    turned = method.apply(variables, image[:, :, ::-1], False, expert)["maps"]
    turned = heatmaps.flip_back(turned, _flip_index(case, method), method.flip_shift)
    expected = case.outputs["heatmaps_of_flipped_turned_back"]
    assert_allclose(to_channels_first(turned), expected, rtol=0, atol=FORWARD)


def check_end_to_end(case) -> None:
    """Crops, maps and joints of boxes. Of a map without a positive value nobody knows the joint: the original then
    reads cells of other joints' maps.
    """
    method, attrs = make_method(case.attrs), case.attrs
    variables = convert(case.state_dict, method)
    crop = PersonCrop(method.input_size, attrs["padding"], unbiased=True)
    boxes = case.inputs["boxes"]
    crops, to_image = zip(*(crop.crop(case.inputs["image"], box) for box in boxes), strict=True)
    normal = method.normalize(jnp.asarray(np.stack(crops), jnp.float32) / 255)
    recorded = case.outputs["crops"]
    difference = np.abs(to_channels_first(normal[: len(recorded)]) - recorded)
    assert np.quantile(difference, 0.98) < FORWARD  # pixels between image and black differ: scipy takes no mean there
    maps = method.maps(variables, jnp.asarray(to_channels_last(recorded)))
    assert_allclose(to_channels_first(maps), case.outputs["heatmaps"], rtol=0, atol=FORWARD)
    for which, read in (("", case.outputs["heatmaps"]), ("clean_", case.inputs["clean_maps"])):
        positions, scores = method.read(jnp.asarray(to_channels_last(read)))
        count = len(read)
        found = geometry.apply_affine(np.stack(to_image)[:count], np.asarray(positions))
        known = np.asarray(scores) > 0
        assert known.any()
        expected = case.outputs[f"{which}keypoints"][:count]
        assert_allclose(found[known], expected[known], rtol=0, atol=PIXELS)
        assert_array_equal(scores, case.outputs[f"{which}scores"][:count])


CHECKS = {
    "vitpose/names": check_names,
    "vitpose/forward": check_forward,
    "vitpose/end_to_end": check_end_to_end,
}
