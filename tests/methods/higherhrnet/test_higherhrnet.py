import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import skeleton
from jaxpose.errors import ConfigError
from jaxpose.methods.higherhrnet.method import HigherHRNet
from jaxpose.ops import geometry, heatmaps
from jaxpose.types import synthetic_batch

S, N, K = 64, 3, 17
METHOD = HigherHRNet(
    input_size=S,
    max_people=N,
    capacity=6,
    backbone="hrnet_w4",
    backbone_stages=(1, 1, 1),
    stem_width=8,
    deconv_blocks=1,
    flip_test=False,
)
READER = dataclasses.replace(METHOD, input_size=128)
"""Draws and reads maps of 128 pixels; its network is not used."""


def host_batch(method: HigherHRNet = METHOD, size: int = 2) -> dict:
    """Everybody visible up to a few joints, the second image mirrored."""
    rng = np.random.default_rng(0)
    stream = synthetic_batch(method.spec(size))["source"]
    shape = stream["visible"].shape
    stream["keypoints"] = (rng.random((*shape, 2)) * method.input_size).astype(np.float32)
    stream["visible"] = (rng.random(shape) < 0.8).astype(np.float32)
    stream["mirror"] = np.arange(size) % 2 == 1
    for stride in method.mask_strides:
        stream[f"mask_{stride}"] = np.ones_like(stream[f"mask_{stride}"])
    stream["to_image"] = np.tile(np.eye(2, 3, dtype=np.float32), (size, 1, 1))
    return {"source": stream}


@functools.partial(jax.jit, static_argnums=1)
def prepare(batch: dict, method: HigherHRNet = METHOD) -> dict:
    return method.targets(batch, jax.random.key(1), train=True)


def outputs_of(method: HigherHRNet, size: tuple[int, int] = (64, 64), **kwargs) -> dict:
    """Shapes of the network's outputs for an image of a size (width, height)."""
    image = jax.ShapeDtypeStruct((2, size[1], size[0], 3), jnp.float32)
    return jax.eval_shape(lambda x: method.module().init_with_output(jax.random.key(0), x, **kwargs)[0], image)


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(jax.random.key(0))


@pytest.fixture(scope="module")
def forward():
    return jax.jit(METHOD.forward)


@pytest.fixture(scope="module")
def step():
    (phase,) = METHOD.phases()

    def loss(params, batch_stats, batch):
        return phase.loss({"params": params, "batch_stats": batch_stats}, batch, 0, jax.random.key(0))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def decode():
    return jax.jit(READER.decode)


# --- configs and networks ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet50"}, "backbone is 'resnet50'"),
        ({"backbone_stages": (1, 1)}, r"backbone_stages is \(1, 1\)"),
        ({"deconv_layers": 3}, "deconv_layers is 3, but HigherHRNet needs 0, 1 or 2"),
        ({"deconv_kernel": 5}, "deconv_kernel is 5"),
        ({"final_kernel": 2}, "final_kernel is 2"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": -1.0, "scale_aware": True}, "sigma is -1.0"),
        ({"push": "l2"}, "push is 'l2'"),
        ({"nms_window": 4}, "nms_window is 4"),
        ({"capacity": 20}, r"capacity is 20, but HigherHRNet needs room for max_people \(30\)"),
        ({"tag_stages": ()}, r"tag_stages is \(\)"),
        ({"tag_stages": (2,)}, r"tag_stages is \(2,\), but HigherHRNet needs numbers of stages, rising, of 0 to 1"),
        ({"tag_stages": (1, 0)}, r"tag_stages is \(1, 0\)"),
        ({"heatmap_stages": (1,)}, r"tag_stages is \(0,\), but HigherHRNet needs stages with a heatmap loss: \(1,\)"),
        ({"heatmap_stages": (0,), "averaged_stages": (1,)}, r"averaged_stages is \(1,\)"),
        ({"push_weight": (1.0, 1.0, 1.0)}, r"push_weight is \(1.0, 1.0, 1.0\)"),
        ({"scales": (1.0, 0.8)}, r"scales is \(1.0, 0.8\), but HigherHRNet needs multiples of half of the smallest"),
        ({"scales": (2.0,)}, r"scales is \(2.0,\)"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        HigherHRNet(**fields)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 28_645_331),
        ({"skeleton": "crowdpose"}, 28_641_962),
        ({"backbone": "hrnet_w48"}, 63_827_139),
        ({"deconv_layers": 0}, 28_536_113 + 17 * 33),  # HRNet for single people, and tags
    ],
)
def test_networks_are_as_large_as_published(fields, parameters):
    template = jax.eval_shape(HigherHRNet(**fields).init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(template)) == parameters


@pytest.mark.parametrize(
    ("fields", "channels"),
    [
        ({}, (34, 17)),
        ({"deconv_layers": 0}, (34,)),
        ({"deconv_layers": 2, "tag_stages": (0, 2)}, (34, 17, 34)),
        ({"tag_per_joint": False, "deconv_kernel": 3, "deconv_concat": False}, (18, 17)),
        ({"with_center": True, "deconv_kernel": 2, "final_kernel": 3, "deconv_features": 6}, (36, 18)),
    ],
)
def test_each_stage_doubles_the_maps(fields, channels):
    maps = outputs_of(dataclasses.replace(METHOD, **fields), (96, 64))
    assert {name: m.shape for name, m in maps.items()} == {
        f"stage{stage}": (2, 16 * 2**stage, 24 * 2**stage, count) for stage, count in enumerate(channels)
    }


def test_maps_are_float32_in_any_precision():
    maps = outputs_of(dataclasses.replace(METHOD, dtype="bfloat16"))
    assert {m.dtype for m in maps.values()} == {jnp.dtype("float32")}


def test_kernels_start_small_and_all_different(variables):
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    for path in ("backbone/layer1_1/conv2/kernel", "head/deconv1/kernel"):
        assert np.std(flat[path]) == pytest.approx(0.001, rel=0.2)
    assert not any(np.any(value) for path, value in flat.items() if path.endswith("bias"))
    kernels = [np.asarray(value).ravel()[:8].tobytes() for path, value in flat.items() if path.endswith("kernel")]
    assert len(set(kernels)) == len(kernels)


# --- targets ---


def test_targets_are_drawn_at_every_resolution():
    batch = host_batch()
    batch["source"]["people"][0, 1] = False
    stream = prepare(batch)["source"]
    for stride in (4, 2):
        side = S // stride
        points, visible = batch["source"]["keypoints"] / stride, batch["source"]["visible"].copy()
        visible[0, 1] = 0
        flip = skeleton.COCO.flip_index
        points[1], visible[1] = points[1][:, flip], visible[1][:, flip]
        points[1, ..., 0] = side - 1 - points[1, ..., 0]
        assert_array_equal(
            stream[f"heatmaps_{stride}"], heatmaps.people_targets(points, visible, (side, side), sigma=2.0)
        )
    places, used = np.trunc(points * 2 / 4), np.asarray(stream["used_4"])
    assert_array_equal(used[0], visible[0] > 0)
    assert_array_equal(np.asarray(stream["index_4"])[0][used[0]], (places[0] @ [1, 16])[used[0]])
    assert "index_2" not in stream


def test_images_that_fill_a_batch_have_no_targets():
    batch = host_batch()
    batch["source"]["valid"][1] = False
    stream = prepare(batch)["source"]
    assert not np.any(stream["heatmaps_2"][1])
    assert not np.any(stream["used_4"][1])
    assert np.any(stream["heatmaps_2"][0])


def test_centre_is_a_joint_of_its_own():
    batch = host_batch()
    stream = prepare(batch, dataclasses.replace(METHOD, with_center=True))["source"]
    visible = batch["source"]["visible"][0, :, :, None]
    center = (batch["source"]["keypoints"][0] * visible).sum(1) / visible.sum(1) / 4
    assert stream["heatmaps_4"].shape[-1] == stream["index_4"].shape[-1] == 18
    assert_array_equal(stream["index_4"][0, :, 17], np.trunc(center) @ [1, 16])


def test_larger_people_may_have_wider_targets():
    batch = host_batch()
    batch["source"]["area"][:] = (128**2 / 4, 256**2, 0)
    batch["source"]["to_image"][1] *= 2
    deviations = METHOD.deviations(batch["source"])
    assert_allclose(deviations, [[1, 4, 0.5], [0.5, 2, 0.5]])
    stream = prepare(batch, dataclasses.replace(METHOD, scale_aware=True))["source"]
    points, visible = batch["source"]["keypoints"][0] / 4, batch["source"]["visible"][0]
    expected = heatmaps.people_targets(points, visible, (16, 16), np.array(deviations[0]))
    assert_array_equal(stream["heatmaps_4"][0], expected)


# --- losses ---


def test_loss_is_the_sum_of_its_parts(variables, step):
    batch = prepare(host_batch())
    (loss, aux), gradients = step(variables["params"], variables["batch_stats"], batch)
    assert aux.metrics.keys() == {"heatmap_4", "push_4", "pull_4", "heatmap_2"}
    assert_allclose(loss, sum(aux.metrics.values()), rtol=1e-6)
    assert all(bool(jnp.all(jnp.isfinite(g))) and bool(jnp.any(g)) for g in jax.tree.leaves(gradients["head"]))
    assert not np.array_equal(aux.batch_stats["head"]["bn1"]["mean"], variables["batch_stats"]["head"]["bn1"]["mean"])


@pytest.mark.parametrize(("field", "value"), [("people", False), ("keypoints", -50.0), ("visible", 0)])
def test_images_that_show_nobody(variables, step, field, value):
    """No people, people with all joints outside, people without labels."""
    batch = host_batch()
    batch["source"][field][:] = value
    (loss, aux), gradients = step(variables["params"], variables["batch_stats"], prepare(batch))
    assert aux.metrics["push_4"] == aux.metrics["pull_4"] == 0
    assert jnp.isfinite(loss)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradients))


def synthetic_maps(method: HigherHRNet, size: int = 2, seed: int = 0) -> dict:
    """Random outputs of the network for images of the training canvas."""
    rng = np.random.default_rng(seed)
    side = method.input_size
    maps = outputs_of(method)
    return {
        name: rng.normal(size=(size, side // stride, side // stride, m.shape[-1])).astype(np.float32)
        for (name, m), stride in zip(maps.items(), method.strides, strict=True)
    }


def test_weights_of_losses():
    stream, maps = prepare(host_batch())["source"], synthetic_maps(METHOD)
    plain = METHOD.criterion(maps, stream)
    method = dataclasses.replace(METHOD, heatmap_weight=(1.0, 0.5), push_weight=(1.0,), pull_weight=(0.5, 9.0))
    weighted = method.criterion(maps, stream)
    for name, factor in {"heatmap_4": 1, "heatmap_2": 0.5, "push_4": 1000, "pull_4": 500}.items():
        assert_allclose(weighted[name], plain[name] * factor, rtol=1e-5)


def test_masked_pixels_do_not_matter():
    batch, maps = host_batch(), synthetic_maps(METHOD)
    batch["source"]["mask_4"][:, :, :8] = 0
    stream = prepare(batch)["source"]
    other = dict(maps, stage0=maps["stage0"].copy())
    other["stage0"][0, :, :8, :K] += 5
    other["stage0"][1, :, 8:, :K] += 5  # mirrored
    losses = [METHOD.criterion(m, stream)["heatmap_4"] for m in (maps, other)]
    assert_array_equal(*losses)


@pytest.mark.parametrize(
    ("fields", "names", "strides"),
    [
        ({"deconv_layers": 0}, {"heatmap_4", "push_4", "pull_4"}, (4,)),
        ({"heatmap_stages": (1,), "tag_stages": (1,)}, {"heatmap_2", "push_2", "pull_2"}, (2,)),
        ({"tag_stages": (0, 1), "tag_per_joint": False},
         {"heatmap_4", "push_4", "pull_4", "heatmap_2", "push_2", "pull_2"}, (2, 4)),
    ],
)  # fmt: skip
def test_stages_have_the_losses_that_are_asked_for(fields, names, strides):
    method = dataclasses.replace(METHOD, **fields)
    assert method.mask_strides == strides
    losses = method.criterion(synthetic_maps(method), prepare(host_batch(method), method)["source"])
    assert losses.keys() == names
    assert all(bool(jnp.all(jnp.isfinite(loss))) for loss in losses.values())


# --- geometry ---

sides = st.integers(1, 2000)


@given(sides, sides, st.sampled_from([(1.0,), (0.5, 1.0, 2.0), (1.0, 2.0)]), st.sampled_from([64, 256]))
@settings(max_examples=100, deadline=None)
def test_layouts_hold_the_image(width, height, scales, bucket):
    if max(width, height) > 20 * min(width, height):
        return
    method = HigherHRNet(scales=scales, bucket=bucket)
    layout = method.layout(width, height)
    assert method.scales[layout.base] == 1
    corners = np.array([[0, 0], [width, height]], np.float64)
    for scale, size, to_canvas in zip(scales, layout.sizes, layout.to_canvas, strict=True):
        short = 0 if width < height else 1
        assert size[short] == 512 * scale
        assert size[1 - short] % (64 * scale / min(scales)) == 0
        assert size[1 - short] * min(scales) / scale % bucket == 0
        low, high = geometry.apply_affine(to_canvas, corners)
        rounding = 1 + size[short] / min(width, height)  # of the centre to whole pixels, of the padding
        assert np.all(low >= -rounding)
        assert np.all(high <= np.array(size) + rounding)
        assert_allclose(to_canvas, layout.to_canvas[layout.base] * scale, rtol=1e-9)


# --- inference ---


def mirrored(maps: dict, method: HigherHRNet) -> dict:
    """What a network that knows left from right puts out for the mirrored image."""
    joints = method.flip_index
    order = np.append(joints, len(joints) + joints)
    return {name: m[:, :, ::-1][..., order[: m.shape[-1]]] for name, m in maps.items()}


def test_maps_of_the_mirrored_image_are_turned_back():
    maps = synthetic_maps(METHOD)
    joints, tags = METHOD.read(maps)
    joints_again, tags_again = METHOD.read(mirrored(maps, METHOD), mirrored=True)
    assert_allclose(joints_again, joints, atol=1e-6)
    assert_allclose(tags_again, tags, atol=1e-6)


def test_heatmaps_are_averages_and_tags_stand_side_by_side():
    maps, view = synthetic_maps(METHOD), synthetic_maps(METHOD, seed=1)
    found = METHOD.aggregate({1.0: [maps, view]}, (S, S))
    views = [METHOD.read(maps), METHOD.read(view, mirrored=True)]
    assert_allclose(found["heatmaps"], heatmaps.resize((views[0][0] + views[1][0]) / 2, (S, S)), atol=1e-5)
    assert found["tags"].shape == (2, S, S, K, 2)
    for index in range(2):
        assert_allclose(found["tags"][..., index], heatmaps.resize(views[index][1][0], (S, S)), atol=1e-5)


@pytest.mark.parametrize(("project", "side"), [(True, S), (False, S)])
def test_scales_are_averaged_and_tags_come_from_the_image_itself(project, side):
    method = dataclasses.replace(METHOD, scales=(1.0, 2.0), project_to_image=project)
    doubled = dataclasses.replace(METHOD, input_size=2 * S)
    outputs = {1.0: [synthetic_maps(METHOD)], 2.0: [synthetic_maps(doubled)]}
    found = method.aggregate(outputs, (S, S))
    assert found["heatmaps"].shape == (2, side, side, K)
    joints, (tags,) = METHOD.read(outputs[1.0][0])
    larger, _ = METHOD.read(outputs[2.0][0])
    expected = (heatmaps.resize(joints, (side, side)) + heatmaps.resize(larger, (side, side))) / 2
    assert_allclose(found["heatmaps"], expected, atol=1e-5)
    assert_allclose(found["tags"][..., 0], heatmaps.resize(tags, (side, side)), atol=1e-5)


def test_stages_to_average():
    maps = synthetic_maps(METHOD)
    finest, _ = dataclasses.replace(METHOD, averaged_stages=(1,)).read(maps)
    assert_array_equal(finest, maps["stage1"])


@pytest.mark.parametrize(("ignore", "count"), [(True, 17), (False, 18)])
def test_centre_is_read_or_left_out(ignore, count):
    method = dataclasses.replace(METHOD, with_center=True, ignore_center=ignore)
    maps = synthetic_maps(method)
    for is_mirrored in (False, True):
        joints, (tags,) = method.read(maps, is_mirrored)
        assert joints.shape[-1] == tags.shape[-1] == count
    assert method.grouping_rules.joint_order[:3] == ((0, 1, 2) if ignore else (17, 0, 1))


def test_forward_of_an_image(variables, forward):
    batch = METHOD.targets({"source": {"image": host_batch()["source"]["image"]}}, jax.random.key(0), train=False)
    outputs = forward(variables, batch)
    assert outputs["heatmaps"].shape == (2, S, S, K)
    assert outputs["tags"].shape == (2, S, S, K, 1)


def test_forward_looks_at_all_views():
    method = dataclasses.replace(METHOD, flip_test=True, scales=(0.5, 1.0))
    image = {name: jnp.zeros((2, side, 2 * side, 3)) for name, side in (("image", 64), ("image_x0.5", 32))}
    variables = jax.eval_shape(method.init, jax.random.key(0))
    outputs = jax.eval_shape(method.forward, variables, {"source": image})
    assert outputs["heatmaps"].shape == (2, 64, 128, K)
    assert outputs["tags"].shape == (2, 64, 128, K, 2)


# --- poses ---


def perfect_outputs(batch: dict, gap: float = 3.0) -> dict:
    """What a perfect network makes of a batch: its targets, and as tag of person n the number n * gap."""
    stream = prepare(batch, READER)["source"]
    tags = np.zeros((*stream["heatmaps_4"].shape[:3], K), np.float32)
    for image, person, joint in np.argwhere(stream["used_4"]):
        row, column = divmod(int(stream["index_4"][image, person, joint]), tags.shape[2])
        tags[image, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3, joint] = person * gap
    low = np.concatenate([stream["heatmaps_4"], tags], -1)
    return READER.aggregate({1.0: [{"stage0": low, "stage1": stream["heatmaps_2"]}]}, (128, 128))


def crowd() -> dict:
    """Three people side by side, everything visible, nothing mirrored."""
    batch = host_batch(READER)
    stream, rng = batch["source"], np.random.default_rng(3)
    x, y = rng.uniform(8, 34, (2, N, K)) + np.arange(N)[:, None] * 42, rng.uniform(8, 120, (2, N, K))
    stream["keypoints"] = np.stack([x, y], -1).astype(np.float32)
    stream["visible"][:] = 1
    stream["mirror"][:] = False
    stream["to_image"][:] = [[2, 0, 10], [0, 2, -5]]
    return batch


def test_perfect_maps_give_the_joints_back_without_bias(decode):
    batch = crowd()
    poses = decode(perfect_outputs(batch), batch)
    assert_array_equal(np.sum(poses.valid, -1), [N, N])
    truth = np.asarray(batch["source"]["keypoints"]) * 2 + [10, -5]
    found = np.asarray(poses.keypoints)[:, :N]
    order = np.argsort(found[..., 0].mean(-1), axis=-1)
    found = np.take_along_axis(found, order[..., None, None], 1)
    error = (found - truth) / 2
    assert np.abs(error).max() < 3
    assert np.all(np.abs(error.mean((0, 1, 2))) < 0.3)
    assert np.all(np.asarray(poses.scores)[:, :N] > 0.5)
    assert_allclose(poses.person_score[:, :N], np.mean(poses.scores[:, :N], -1), rtol=1e-5)


def test_nobody_is_found_in_empty_maps(decode):
    batch = crowd()
    outputs = jax.tree.map(jnp.zeros_like, perfect_outputs(batch))
    assert not np.any(decode(outputs, batch).valid)


def test_images_that_fill_a_batch_have_no_poses(decode):
    batch = crowd()
    outputs = perfect_outputs(batch)
    batch["source"]["valid"] = np.array([True, False])
    assert_array_equal(np.any(decode(outputs, batch).valid, -1), [True, False])


def test_missing_joints_are_at_the_corner_of_the_canvas(decode):
    """As the original code has it, which finds nothing by refinement where the heatmap is 0."""
    batch = crowd()
    batch["source"]["visible"][:, :, 5] = 0
    poses = decode(perfect_outputs(batch), batch)
    assert_array_equal(poses.scores[:, :N, 5], 0)
    assert_array_equal(poses.keypoints[:, :N, 5], np.broadcast_to([10, -5], (2, N, 2)))
    assert_allclose(poses.person_score[:, :N], np.mean(poses.scores[:, :N], -1), rtol=1e-5)


def test_positions_on_maps_that_are_smaller_than_the_image():
    points = jnp.array([[0.0, 0.0], [32.0, 24.0], [64.0, 48.0]])
    assert_array_equal(METHOD.to_canvas(points, (1, 48, 64, K), (1, 96, 128, 3)), [[0, 0], [64, 48], [128, 96]])
