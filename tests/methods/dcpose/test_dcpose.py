import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.dcpose.method import DCPose, frame_weights, pose_residuals, weighted_maps, within_crop
from jaxpose.methods.heatmap.method import Heatmap
from jaxpose.ops import heatmaps
from jaxpose.types import synthetic_batch

SIZE = (32, 64)
METHOD = DCPose(
    input_size=SIZE,
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1),
    deconv_layers=1,
    deconv_features=4,
    fusion_blocks=1,
    combination_blocks=1,
    combination_features=4,
    dilations=(1, 2),
    freeze_backbone=False,
)
FROZEN = dataclasses.replace(METHOD, freeze_backbone=True)
K = 17
ROUGH = {"backbone", "head"}


def host_batch(size: int = 2) -> dict:
    rng = np.random.default_rng(0)
    stream = synthetic_batch(METHOD.spec(size))["source"]
    stream["keypoints"] = (rng.random((size, K, 2)) * SIZE).astype(np.float32)
    stream["visible"] = (rng.random((size, K)) < 0.7).astype(np.float32)
    stream["margin"] = rng.integers(1, 4, (size, 2)).astype(np.float32)
    return {"source": stream}


@pytest.fixture(scope="module")
def variables():
    """Fresh ones, but for kernels large enough that every part passes on what it finds."""
    fresh, rng = METHOD.init(jax.random.key(0)), np.random.default_rng(0)
    params = traverse_util.flatten_dict(fresh["params"], sep="/")
    for path, kernel in params.items():
        if path.endswith("kernel") and not path.startswith("backbone"):
            params[path] = jnp.array(rng.normal(size=kernel.shape) / np.sqrt(kernel[..., 0].size), jnp.float32)
    return fresh | {"params": traverse_util.unflatten_dict(params, sep="/")}


@pytest.fixture(scope="module")
def prepared():
    return METHOD.targets(host_batch(), jax.random.key(1), train=True)


@functools.cache
def step(method: DCPose):
    """Compiled: (params, statistics, batch) -> loss, aux and gradients."""
    (phase,) = method.phases()

    def loss(params, batch_stats, batch):
        return phase.loss({"params": params, "batch_stats": batch_stats}, batch, 0, jax.random.key(0))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def read(method: DCPose):
    """Compiled: (variables, image, margin) -> maps."""
    return jax.jit(method.maps)


def params_of(method: DCPose) -> dict:
    return jax.eval_shape(method.init, jax.random.key(0))["params"]


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merger": False, "correction": False}, "merger is False"),
        ({"single_frame": True}, "freeze_backbone is True"),
        ({"freeze_backbone": False, "freeze_statistics": True}, "freeze_statistics is True"),
        ({"dilations": (3, 3)}, r"dilations is \(3, 3\)"),
        ({"dilations": ()}, r"dilations is \(\)"),
        ({"fusion_blocks": 0}, "fusion_blocks is 0"),
        ({"combination_features": 2}, "combination_features is 2"),
        ({"color_jitter": 0.2}, "color_jitter is 0.2"),
        ({"backbone": "vgg16"}, "backbone is 'vgg16'"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        DCPose(**fields)


# --- network ---


def test_network_is_as_large_as_published():
    params = params_of(DCPose())
    assert count(params) == 65_198_798
    assert count(params["refinement"]) == 1_603_053


def test_small_hrnet_backbones():
    small = {"backbone": "hrnet_w4", "backbone_stages": (1, 1, 1), "backbone_blocks": 1}
    backbone = params_of(DCPose(**small, stem_width=4, stem_blocks=1))["backbone"]
    assert backbone["conv1"]["kernel"].shape == (3, 3, 3, 4)
    assert {name for name in backbone if name.startswith("layer1")} == {"layer1_0"}
    assert {name for name in backbone["stage2_0"] if name.startswith("branch")} == {"branch0_0", "branch1_0"}


def test_nearer_frames_weigh_more():
    assert_allclose(
        frame_weights(np.array([[1, 1], [1, 3], [4, 1]], np.float32)), [[0.5, 0.5], [0.75, 0.25], [0.2, 0.8]]
    )


def test_cues_of_a_joint_are_together():
    rough = np.array([[10, 20], [1, 4], [3, 8]], np.float32)[:, None, None, None]
    margin = np.array([[1, 3]], np.float32)
    residuals, maps = pose_residuals(rough, margin), weighted_maps(rough, margin)
    assert_allclose(residuals[0, 0, 0], [9, 6.75, 7, 1.75, 16, 12, 12, 3])
    assert_allclose(maps[0, 0, 0], [10, 0.75, 0.75, 20, 3, 2])


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({}, {"merger", "fusion", "combination", "correction"}),
        ({"merger": False}, {"fusion", "combination", "correction"}),
        ({"fusion": False}, {"merger", "combination", "correction"}),
        ({"correction": False}, {"merger"}),
    ],
)
def test_parts_can_be_left_out(fields, parts):
    method = dataclasses.replace(METHOD, **fields)
    variables = jax.eval_shape(method.init, jax.random.key(0))
    assert set(variables["params"]) == ROUGH | {"refinement"}
    assert set(variables["params"]["refinement"]) == parts
    batch = jax.eval_shape(lambda: method.targets(host_batch(), jax.random.key(0), train=True))
    loss, aux = jax.eval_shape(method.clip_loss, variables, batch, 0, jax.random.key(0))
    assert loss.shape == ()
    assert jax.tree.structure(aux.batch_stats) == jax.tree.structure(variables["batch_stats"])


def test_single_frame_is_the_backbone(variables):
    """The ablation has the parameters of the method "heatmap", and draws what its network does in the current frame."""
    single = dataclasses.replace(METHOD, single_frame=True)
    assert set(params_of(single)) == ROUGH
    fields = {f.name: getattr(METHOD, f.name) for f in dataclasses.fields(Heatmap)}
    plain = Heatmap(**fields)
    assert jax.tree.structure(params_of(single)) == jax.tree.structure(params_of(plain))
    batch = METHOD.targets(host_batch(), jax.random.key(0), train=False)["source"]
    expected = jax.jit(plain.maps)(variables, batch["image"][:, 0])
    assert_allclose(read(single)(variables, batch["image"], batch["margin"]), expected, atol=1e-5)
    rough = jax.jit(lambda v, *x: METHOD.module().apply(v, *x)["rough"])(variables, batch["image"], batch["margin"])
    assert_allclose(rough, expected, atol=1e-5)


def test_every_frame_and_the_margin_count(variables):
    batch = METHOD.targets(host_batch(), jax.random.key(0), train=False)["source"]
    image, margin = batch["image"], batch["margin"]
    plain = read(METHOD)(variables, image, margin)
    for frame in range(3):
        changed = read(METHOD)(variables, image.at[:, frame].multiply(0.5), margin)
        assert np.abs(changed - plain).max() > 1e-3, frame
    assert np.abs(read(METHOD)(variables, image, margin * np.array([3, 1])) - plain).max() > 1e-3
    assert_allclose(read(METHOD)(variables, image, 2 * margin), plain, atol=1e-5)


# --- training ---


def test_fields_of_a_batch():
    stream = DCPose().spec(4)["source"]
    assert (stream["image"].shape, stream["image"].dtype) == ((4, 3, 384, 288, 3), jnp.uint8)
    assert (stream["margin"].shape, stream["margin"].dtype) == ((4, 2), jnp.float32)
    assert stream["keypoints"].shape == (4, K, 2)


def test_joints_outside_the_crop_do_not_count():
    """Where the crop ends they do; its targets would reach into the map from farther away."""
    points = np.array([[0, 0], [32, 64], [-0.01, 5], [5, -0.01], [32.01, 5], [5, 64.01]], np.float32)
    assert_array_equal(within_crop(points, SIZE), [True, True, False, False, False, False])
    batch = host_batch(1)
    batch["source"]["keypoints"][0, :6] = points
    batch["source"]["visible"][:] = 1
    weight = METHOD.targets(batch, jax.random.key(0), train=True)["source"]["weight"]
    assert_array_equal(weight[0], [1, 1, 0, 0, 0, 0, *[1] * 11])


def test_loss_is_twice_that_of_single_frames(prepared):
    stream = prepared["source"]
    maps = np.random.default_rng(0).random(stream["target"].shape).astype(np.float32)
    arrays = maps, stream["target"], stream["weight"]
    assert_allclose(METHOD.criterion(*arrays), 2 * heatmaps.mse(*arrays), rtol=1e-6)
    few = dataclasses.replace(METHOD, effective_joints=15)
    assert_allclose(few.criterion(*arrays), 2 * 17 / 15 * heatmaps.mse(*arrays), rtol=1e-6)


def test_backbone_and_refinement_learn_together(variables, prepared):
    params, batch_stats = variables["params"], variables["batch_stats"]
    losses = []
    for _ in range(8):
        (loss, aux), gradients = step(METHOD)(params, batch_stats, prepared)
        params = jax.tree.map(lambda p, g: p - 0.03 * g, params, gradients)
        batch_stats = aux.batch_stats
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    assert_allclose(aux.metrics["rough_loss"] + aux.metrics["refined_loss"], loss, rtol=1e-5)
    assert {"accuracy", "rough_accuracy"} <= set(aux.metrics)
    assert METHOD.phases()[0].updates == ()


def test_frozen_backbone(variables, prepared):
    """Its weights have no gradient, but its statistics follow the batches, and normalize them, unless frozen too."""
    (loss, aux), gradients = step(FROZEN)(variables["params"], variables["batch_stats"], prepared)
    for name in ROUGH:
        assert all(not leaf.any() for leaf in jax.tree.leaves(gradients[name])), name
    assert all(part.any() for part in jax.tree.leaves(gradients["refinement"]["correction"]))
    before, after = (stats["head"]["bn0"]["mean"] for stats in (variables["batch_stats"], aux.batch_stats))
    assert not np.allclose(before, after)
    assert "rough_loss" not in aux.metrics
    assert FROZEN.phases()[0].updates == ("refinement",)
    still = dataclasses.replace(FROZEN, freeze_statistics=True)
    other, aux = jax.jit(still.clip_loss)(variables, prepared, 0, jax.random.key(0))
    assert not np.allclose(other, loss, rtol=1e-4)
    for name in ROUGH:
        jax.tree.map(assert_array_equal, aux.batch_stats[name], variables["batch_stats"][name])
    merger = aux.batch_stats["refinement"]["merger"]["block0"]["conv1"]["bn"]["mean"]
    assert merger.any()


def test_a_frozen_backbone_has_to_be_given(variables):
    rough = {kind: {name: tree[name] for name in ROUGH} for kind, tree in variables.items()}
    assert FROZEN.adopt(rough, variables) is rough
    assert METHOD.adopt({}, variables) == {}
    without_head = {kind: {"backbone": tree["backbone"]} for kind, tree in rough.items()}
    for loaded in ({}, without_head):
        with pytest.raises(ConfigError, match="freeze_backbone is True, but config.init_from gives no values for"):
            FROZEN.adopt(loaded, variables)


# --- inference ---


def test_three_frames_are_compared_with_one_where_both_learn():
    (ablation,) = METHOD.ablations().values()
    assert ablation.method == dataclasses.replace(METHOD, single_frame=True)
    assert ablation.method.ablations() == {}
    assert FROZEN.ablations() == {}


def test_predictions_are_in_pixels_of_the_image(variables):
    poses = jax.jit(METHOD.predict)(variables, host_batch())
    assert poses.keypoints.shape == (2, 1, K, 2)
    assert poses.scores.shape == (2, 1, K)
    assert np.isfinite(poses.keypoints).all()
    points = np.stack([np.arange(K) % 4 + 2, np.arange(K) % 9 + 3], -1)[None].astype(np.float32)
    maps, _ = heatmaps.gaussian_targets(points, np.ones((1, K)), 1, METHOD.map_size)
    stream = {
        "to_image": np.array([[[2.0, 0.0, 10.0], [0.0, 2.0, -5.0]]], np.float32),
        "person_score": np.array([0.5], np.float32),
        "valid": np.array([True]),
    }
    poses = METHOD.decode({"maps": maps}, {"source": stream})
    assert np.abs(np.asarray(poses.keypoints)[0, 0] - (points[0] * 8 + [10, -5])).max() <= 2 + 1e-4


def test_flip_test_averages_with_the_mirrored_clip(variables):
    batch = METHOD.targets(host_batch(), jax.random.key(0), train=False)
    image, margin = batch["source"]["image"], batch["source"]["margin"]
    plain, mirrored = (read(METHOD)(variables, x, margin) for x in (image, image[:, :, :, ::-1]))
    both = jax.jit(dataclasses.replace(METHOD, flip_test=True).forward)(variables, batch)["maps"]
    assert_allclose(both, (plain + heatmaps.flip_back(mirrored, METHOD.joints.flip_index)) / 2, atol=1e-5)
    assert not DCPose().flip_test  # as published scores are taken
