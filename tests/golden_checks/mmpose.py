"""mmpose's networks and its way from a box to joints."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from golden_checks.networks import FORWARD, to_channels_first, to_channels_last
from jaxpose import load_config, methods
from jaxpose import skeleton as skeletons
from jaxpose.convert.conversion import convert
from jaxpose.data.views import PersonCrop
from jaxpose.methods.dsnt import DSNT
from jaxpose.methods.heatmap import Heatmap
from jaxpose.ops import heatmaps
from jaxpose.skeleton import Skeleton
from jaxpose.zoo.recognition import recognize

PIXELS = 0.01
"""Largest difference of joints in an image."""
ROUNDING = 1e-5
"""Largest relative difference of logits."""


def skeleton_of(attrs: dict) -> Skeleton:
    """The skeleton with as many joints, of which those are pairs that the manifest exchanges."""
    fitting = [s for s in skeletons.SKELETONS.values() if s.num_joints == attrs["joints"]]
    return next(s for s in fitting if s.flip_index.tolist() == attrs["flip_indices"])


def decoding_of(codec: dict) -> str:
    """Our name of mmpose's way to read maps."""
    if codec["type"] == "UDPHeatmap":
        return "udp"
    return "dark" if codec.get("unbiased") else "mmpose"


def make_method(case) -> Heatmap:
    attrs, shapes = case.attrs, dict(case.manifest["params"])
    codec, config = attrs["codec"], attrs["config"]
    name = config.rpartition("/")[2]
    backbone = next(
        part for part in name.replace("-", "_").split("_") if part.startswith(("res", "hrnet", "hourglass"))
    )
    if backbone.startswith("hrnet"):
        backbone = f"hrnet_w{shapes['head.final_layer.weight'][1]}"
    elif backbone.startswith("res"):
        backbone = backbone.replace("res", "resnet")
    return Heatmap(
        skeleton=skeleton_of(attrs).name,
        backbone=backbone,
        input_size=tuple(attrs["input_size"]),
        mean=tuple(value / 255 for value in attrs["mean"]),
        std=tuple(value / 255 for value in attrs["std"]),
        flip_test=False,
        flip_shift=attrs["test_cfg"]["shift_heatmap"],
        decoding=decoding_of(codec),
        blur_cells=codec.get("blur_kernel_size", 11),
    )


def batch_of(case, method, unbiased: bool) -> dict:
    """The boxes of a case as a batch."""
    corners = case.inputs["boxes"]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    crop = PersonCrop(method.input_size, case.attrs["padding"], unbiased=unbiased)
    image = case.inputs["image"][..., ::-1] if case.attrs["bgr_to_rgb"] else case.inputs["image"]
    crops, to_image = zip(*(crop.crop(np.ascontiguousarray(image), box) for box in boxes), strict=True)
    fields = {"image": jnp.asarray(np.stack(crops)), "to_image": jnp.asarray(np.stack(to_image))}
    shapes = {name: leaf for name, leaf in method.spec(len(boxes))["source"].items() if name not in fields}
    return {"source": fields | {name: jnp.ones(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}}


class DrawnPlaces(DSNT):
    """mmpose's integral regression with places of cells as the case has drawn them, as if they were parameters."""

    places: ClassVar[tuple[np.ndarray, np.ndarray]]

    def _expected(self, maps):
        heatmaps = super()._expected(maps)[1]
        columns, rows = self.places
        shares = jnp.stack([jnp.einsum("bhwk,w->bk", heatmaps, columns), jnp.einsum("bhwk,h->bk", heatmaps, rows)], -1)
        return self.to_normalized(shares * np.array(self.input_size)), heatmaps


def check_dsnt(case) -> None:
    """The distributions of the first box's crop, their expectations, and the joints of all boxes."""
    attrs = case.attrs
    told = recognize({name: tuple(shape) for name, shape in case.manifest["params"]}, case.name)[1]
    fields = {name: value for name, value in load_config(told.config).method.to_dict().items() if name != "name"}
    fields |= {"skeleton": skeleton_of(attrs).name, "input_size": tuple(attrs["input_size"])}
    fields |= {part: tuple(value / 255 for value in attrs[part]) for part in ("mean", "std")}
    method = DrawnPlaces(**fields | dict(told.fields))
    DrawnPlaces.places = tuple(case.state_dict[f"head.linspace_{axis}"].reshape(-1) for axis in "xy")
    variables = convert(case.state_dict, method)
    batch = batch_of(case, method, unbiased=False)
    prepared = method.targets(batch, jax.random.key(0), train=False)
    maps = method.maps(variables, jnp.asarray(to_channels_last(case.outputs["crops"][:1])))
    assert_allclose(to_channels_first(method._expected(maps)[1]), case.outputs["forward1"][:1], rtol=0, atol=FORWARD)
    cells = np.argmax(case.outputs["forward1"][0].reshape(len(case.outputs["forward1"][0]), -1), -1)
    true = method.to_pixels(DSNT._expected(method, maps)[0])[0] / method.stride
    sharp = case.outputs["forward1"][0].max((1, 2)) > 1 - 1e-6
    width = maps.shape[2]
    assert_allclose(true[sharp], np.stack([cells % width, cells // width], -1)[sharp], rtol=0, atol=1e-3)
    points = method._expected(method.maps(variables, prepared["source"]["image"]))[0]
    shares = method.to_pixels(points) / np.array(method.input_size)
    assert_allclose(shares, case.outputs["forward0"], rtol=0, atol=PIXELS / max(method.input_size))
    for flip in (0, 1):
        flipping = dataclasses.replace(method, flip_test=bool(flip))
        found = flipping.decode(flipping.forward(variables, prepared), prepared)
        difference = np.abs(found.keypoints[:, 0] - case.outputs[f"keypoints_flip{flip}"])
        allowed = allowed_of_expectations(method, variables, prepared["source"], bool(flip))
        assert np.all(difference <= allowed), f"flip {flip}: {np.max(difference / allowed)} times"
        assert_allclose(found.scores[:, 0], case.outputs[f"scores_flip{flip}"], rtol=0, atol=FORWARD)


def allowed_of_expectations(method: DrawnPlaces, variables, stream, flip: bool) -> np.ndarray:
    """[B, K, 1] differences in pixels of the image: a hundredth, and more where the mass is divided between cells.

    There a change of the logits moves the expectation by that change times the deviation of the places.
    """
    images = [stream["image"], stream["image"][:, :, ::-1]][: 1 + flip]
    columns, rows = method.places
    scale = np.abs(stream["to_image"][:, 0, 0])[:, None] * max(method.input_size)
    moved = []
    for image in images:
        maps = method.maps(variables, image)
        heatmaps = method._expected(maps)[1]
        squared = 0.0
        for places, axes in ((columns, "bhwk,w->bk"), (rows, "bhwk,h->bk")):
            mean = jnp.einsum(axes, heatmaps, places)
            squared += jnp.maximum(jnp.einsum(axes, heatmaps, places**2) - mean**2, 0)
        moved.append(ROUNDING * jnp.abs(maps).max((1, 2)) * jnp.sqrt(squared))
    moved[-1] = moved[-1][:, method.joints.flip_index] if flip else moved[-1]
    return np.asarray(PIXELS + scale * np.mean(moved, 0))[..., None]


def check_joints(case, method, variables, batch) -> None:
    """Joints and scores with and without the flip test, from the picture on.

    Of a map without a positive value nobody knows the joint; there the original's UDP reads other joints' maps. Where
    the paraboloid is flat, Newton's step leads further than two cells and multiplies rounding: a hundredth of a pixel
    is allowed for each cell.
    """
    prepared = method.targets(batch, jax.random.key(0), train=False)
    for flip in (0, 1):
        flipping = dataclasses.replace(method, flip_test=bool(flip))
        maps = flipping.forward(variables, prepared)["maps"]
        found = flipping.decode({"maps": maps}, prepared)
        keypoints, scores = np.asarray(found.keypoints)[:, 0], np.asarray(found.scores)[:, 0]
        known = (scores > 0) | (method.decoding != "udp")
        positions, _ = method.read(maps)
        step = np.linalg.norm(np.asarray(positions) / method.cell - heatmaps.maxima(maps)[0], axis=-1)
        allowed = PIXELS * np.where(step > 2, step, 1)[..., None]
        difference = np.abs(keypoints - case.outputs[f"keypoints_flip{flip}"])
        assert np.all((difference <= allowed)[known]), f"flip {flip}: {np.max((difference / allowed)[known])} times"
        assert_allclose(scores, case.outputs[f"scores_flip{flip}"], rtol=0, atol=FORWARD, err_msg=f"flip {flip}")


def check_top_down(case) -> None:
    """The crop of the first box, its maps, and the joints of all boxes."""
    method = make_method(case)
    variables = convert(case.state_dict, method)
    batch = batch_of(case, method, unbiased=method.decoding == "udp")
    normal = method.normalize(batch["source"]["image"][:1].astype(jnp.float32) / 255)
    difference = np.abs(to_channels_first(normal) - case.outputs["crops"][:1])
    assert np.quantile(difference, 0.999) < FORWARD
    assert difference.max() < 1.01 / (255 * min(method.std))  # one step of a byte, where the two maps round apart
    maps = method.maps(variables, jnp.asarray(to_channels_last(case.outputs["crops"][:1])))
    recorded = next(case.outputs[name] for name in ("heatmaps", "forward0") if name in case.outputs)
    assert_allclose(to_channels_first(maps), recorded, rtol=0, atol=FORWARD)
    check_joints(case, method, variables, batch)


def check_names(case) -> None:
    """The entries tell the network; every entry has a place, and every leaf an entry."""
    shapes = {name: tuple(shape) for name, shape in case.manifest["params"]}
    name, recognized = recognize(shapes, case.name)
    usual = load_config(recognized.config).method.skeleton
    fitting = [s.name for s in skeletons.SKELETONS.values() if s.num_joints == recognized.joints]
    skeleton = usual if usual in fitting else fitting[0]
    convert(
        case.state_dict, methods.create({"name": name, "skeleton": skeleton, **recognized.fields, **recognized.usual})
    )


CHECKS = {"mmpose/top_down": check_top_down, "mmpose/dsnt": check_dsnt, "mmpose/names": check_names}
