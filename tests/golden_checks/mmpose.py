"""mmpose's networks and its way from a box to joints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from golden_checks.networks import FORWARD, to_channels_first, to_channels_last
from jaxpose import load_config, methods
from jaxpose import skeleton as skeletons
from jaxpose.convert.conversion import convert
from jaxpose.data.views import PersonCrop
from jaxpose.methods.heatmap import Heatmap
from jaxpose.ops import heatmaps
from jaxpose.skeleton import Skeleton
from jaxpose.zoo.recognition import recognize

PIXELS = 0.01
"""Largest difference of joints in an image."""


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


CHECKS = {"mmpose/top_down": check_top_down, "mmpose/names": check_names}
