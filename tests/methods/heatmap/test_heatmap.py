import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import skeleton
from jaxpose.errors import ConfigError
from jaxpose.methods.heatmap.method import Heatmap, joint_weights
from jaxpose.ops import heatmaps
from jaxpose.types import synthetic_batch

SIZE = (32, 64)
METHOD = Heatmap(
    input_size=SIZE,
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1, 1, 1),
    deconv_features=8,
)
K = 17


def host_batch(size: int = 4, method: Heatmap = METHOD) -> dict:
    rng = np.random.default_rng(0)
    stream = synthetic_batch(method.spec(size))["source"]
    stream["keypoints"] = (rng.random((size, K, 2)) * SIZE).astype(np.float32)
    stream["visible"] = (rng.random((size, K)) < 0.7).astype(np.float32)
    return {"source": stream}


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(jax.random.key(0))


@pytest.fixture(scope="module")
def prepared():
    return METHOD.targets(host_batch(), jax.random.key(1), train=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "vgg16"}, "backbone is 'vgg16'"),
        ({"backbone": "resnet51"}, "backbone is 'resnet51'"),
        ({"channels": "grb"}, "channels is 'grb'"),
        ({"loss": "l1"}, "loss is 'l1'"),
        ({"loss": "ohkm", "ohkm_joints": 18}, "ohkm_joints is 18, but Heatmap needs 1 to 17"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"final_kernel": 2}, "final_kernel is 2"),
        ({"backbone": "resnet18", "deconv_kernel": 5}, "deconv_kernel is 5"),
        ({"backbone": "resnet18", "deconv_layers": 6}, "deconv_layers is 6, but Heatmap needs 0 to 5"),
        ({"backbone_stages": (1, 1)}, r"backbone_stages is \(1, 1\)"),
        ({"input_size": (100, 128)}, r"input_size is \(100, 128\), but Heatmap needs multiples of 32"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Heatmap(**fields)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 28_536_113),
        ({"backbone": "hrnet_w48"}, 63_595_745),
        ({"skeleton": "mpii"}, 28_536_080),
        ({"backbone": "resnet18"}, 15_376_721),
        ({"backbone": "resnet50"}, 33_999_697),
        ({"backbone": "resnet152"}, 68_635_473),
    ],
)
def test_networks_are_as_large_as_published(fields, parameters):
    template = jax.eval_shape(Heatmap(**fields).init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(template)) == parameters


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (48, 64)),
        ({"backbone": "resnet50", "input_size": (288, 384)}, (72, 96)),
        ({"backbone": "resnet18", "deconv_layers": 2, "input_size": (128, 128)}, (16, 16)),
        ({"backbone": "resnet18", "backbone_stages": (1, 1, 1), "deconv_layers": 2, "input_size": (48, 64)}, (12, 16)),
        ({"backbone": "hrnet_w8", "backbone_stages": (1, 1, 1), "input_size": (64, 96)}, (16, 24)),
    ],
)
def test_size_of_the_maps(fields, size):
    method = Heatmap(**fields)
    assert method.map_size == size
    image = jax.ShapeDtypeStruct((2, *method.input_size[::-1], 3), jnp.float32)
    outputs = jax.eval_shape(lambda x: method.module().init_with_output(jax.random.key(0), x)[0], image)
    assert (outputs["maps"].shape, outputs["maps"].dtype) == ((2, *size[::-1], method.joints.num_joints), jnp.float32)


def test_labels(prepared):
    stream, host = prepared["source"], host_batch()["source"]
    assert stream["target"].shape == (4, 16, 8, K)
    assert_array_equal(stream["weight"], host["visible"])
    found = heatmaps.maxima(stream["target"])[0]
    centre = np.trunc(host["keypoints"] / 4 + 0.5)
    drawn = (host["visible"] > 0) & (centre < [8, 16]).all(-1)
    assert_array_equal(np.asarray(found)[drawn], centre[drawn])


def test_published_colour_orders():
    image = host_batch()["source"]["image"]
    rgb, bgr = (
        dataclasses.replace(METHOD, channels=order).targets(host_batch(), jax.random.key(0), train=False)
        for order in ("rgb", "bgr")
    )
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    assert_allclose(rgb["source"]["image"], (image / 255 - mean) / std, atol=1e-5)
    assert_allclose(bgr["source"]["image"], (image[..., ::-1] / 255 - mean) / std, atol=1e-5)


def test_joint_weights_are_the_published_ones():
    coco = [1, 1, 1, 1, 1, 1, 1, 1.2, 1.2, 1.5, 1.5, 1, 1, 1.2, 1.2, 1.5, 1.5]
    mpii = [1.5, 1.2, 1, 1, 1.2, 1.5, 1, 1, 1, 1, 1.5, 1.2, 1, 1, 1.2, 1.5]
    assert_allclose(joint_weights(skeleton.COCO), coco)
    assert_allclose(joint_weights(skeleton.MPII), mpii)
    weighted = dataclasses.replace(METHOD, weighted_joints=True)
    stream = weighted.targets(host_batch(), jax.random.key(0), train=True)["source"]
    assert_allclose(stream["weight"], host_batch()["source"]["visible"] * np.array(coco, np.float32))


def test_losses_by_name(prepared):
    stream = prepared["source"]
    maps = np.random.default_rng(0).random(stream["target"].shape).astype(np.float32)
    arrays = maps, stream["target"], stream["weight"]
    assert METHOD.criterion(*arrays) == heatmaps.mse(*arrays)
    hard = dataclasses.replace(METHOD, loss="ohkm", ohkm_joints=3)
    assert hard.criterion(*arrays) == heatmaps.ohkm(*arrays, 3)


def test_decoding_maps_of_known_joints():
    """Peaks at whole pixels of the map, an image twice as large as the crop."""
    points = np.stack([np.arange(K) % 4 + 2, np.arange(K) % 9 + 3], -1)[None].astype(np.float32)
    maps, _ = heatmaps.gaussian_targets(points, np.ones((1, K)), 1, METHOD.map_size)
    stream = {
        "to_image": np.array([[[2.0, 0.0, 10.0], [0.0, 2.0, -5.0]]], np.float32),
        "person_score": np.array([0.5], np.float32),
        "valid": np.array([True]),
    }
    scale = np.where(np.arange(K) < 4, 0.2, 0.6)
    poses = METHOD.decode({"maps": maps * scale}, {"source": stream})
    assert np.abs(np.asarray(poses.keypoints)[0, 0] - (points[0] * 8 + [10, -5])).max() <= 2 + 1e-4
    assert_allclose(poses.scores[0, 0], scale, rtol=1e-6)
    assert_allclose(poses.person_score, [[0.5 * 0.6]], rtol=1e-5)  # joints at the threshold of .2 are left out
    assert_array_equal(poses.valid, [[True]])


def test_flip_test_averages_with_the_mirrored_crop(variables):
    batch = METHOD.targets(host_batch(2), jax.random.key(0), train=False)
    maps = jax.jit(lambda v, x: METHOD.maps(v, x))
    image = batch["source"]["image"]
    for shift in (True, False):
        method = dataclasses.replace(METHOD, flip_shift=shift)
        mirrored = heatmaps.flip_back(maps(variables, image[:, :, ::-1]), METHOD.joints.flip_index, shift)
        expected = (maps(variables, image) + mirrored) / 2
        assert_allclose(jax.jit(method.forward)(variables, batch)["maps"], expected, atol=1e-6)
    assert (METHOD.flip_test, METHOD.flip_shift) == (True, True)  # as published scores are taken
