import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.dekr import method as dekr
from jaxpose.methods.dekr.method import DEKR
from jaxpose.types import synthetic_batch

K, S, N, B = 17, 64, 4, 2
R = S // 4
METHOD = DEKR(
    input_size=S,
    max_people=N,
    backbone="hrnet_w4",
    backbone_stages=(1, 1, 1),
    backbone_blocks=1,
    stem_width=8,
    stem_blocks=1,
    offset_features=3,
    kernel_deviation=0.0,
)
FLIP = METHOD.joints.flip_index


def host_stream(seed: int = 0) -> dict:
    """People all over the canvas, which shows the original at twice its size, moved by (-10, 4)."""
    rng = np.random.default_rng(seed)
    stream = synthetic_batch(METHOD.spec(B), seed)["source"]
    corner, size = rng.uniform(0, S / 2, (B, N, 1, 2)), rng.uniform(10, S / 2, (B, N, 1, 2))
    stream["visible"] = (rng.random((B, N, K)) < 0.8).astype(np.float32)
    keypoints = corner + size * rng.random((B, N, K, 2))
    to_image = np.array([[0.5, 0, 10], [0, 0.5, -4]])
    origin = np.array([-20.0, 8])
    stream["keypoints"] = np.where(stream["visible"][..., None] > 0, keypoints, origin).astype(np.float32)
    stream["to_image"] = np.broadcast_to(to_image, (B, 2, 3)).astype(np.float32)
    stream["area"] = rng.uniform(1000, 3000, (B, N)).astype(np.float32)
    stream["mirror"] = np.zeros(B, bool)
    stream["mask_4"] = np.ones_like(stream["mask_4"])
    return stream


def labels(method: DEKR = METHOD, **changes) -> dict:
    """What `targets` adds to `host_stream`, with some fields changed."""
    stream = jax.tree.map(jnp.asarray, host_stream() | changes)
    return jax.tree.map(np.asarray, method.targets({"source": stream}, jax.random.key(0), True)["source"])


def tiny(**changes) -> DEKR:
    return dataclasses.replace(METHOD, **changes)


# --- configs ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet50"}, "backbone is 'resnet50'"),
        ({"backbone_stages": (1, 1)}, r"backbone_stages is \(1, 1\)"),
        ({"area": "mask"}, "area is 'mask'"),
        ({"center_sigma": 0.0}, r"center_sigma is 0\.0"),
        ({"scales": (1.0, 0.75)}, r"scales is \(1\.0, 0\.75\), but DEKR needs multiples of \.5"),
        ({"nms_count": 17}, "nms_count is 17, but DEKR needs fewer than all joints"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**fields)


# --- targets, against the original's loops ---


def slow_heatmaps(points, visible, size, sigmas):
    """Person by person, joint by joint."""
    width, height = size
    maps, near = np.zeros((height, width, len(sigmas))), np.zeros((height, width, len(sigmas)), bool)
    for person in range(len(points)):
        for j, sigma in enumerate(sigmas):
            x, y = points[person, j]
            if visible[person, j] <= 0 or x < 0 or y < 0 or x >= width or y >= height:
                continue
            for row, column in np.ndindex(height, width):
                left, top = np.floor(x - 3 * sigma - 1), np.floor(y - 3 * sigma - 1)
                right, bottom = np.ceil(x + 3 * sigma + 2), np.ceil(y + 3 * sigma + 2)
                if left <= column < right and top <= row < bottom:
                    value = np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
                    maps[row, column, j] = max(maps[row, column, j], value)
                    near[row, column, j] = True
    return maps, near


def slow_offsets(points, visible, centers, present, areas, size, radius):
    """Person by person, joint by joint, cell by cell, as the original writes them."""
    width, height = size
    joints = points.shape[1]
    offsets, weights = np.zeros((height, width, joints, 2), np.float32), np.zeros((height, width, joints), np.float32)
    owners = np.zeros((height, width), np.float32)
    for person in range(len(points)):
        x, y = (int(v) for v in centers[person])
        if not present[person] or x < 0 or y < 0 or x >= width or y >= height:
            continue
        for j in range(joints):
            joint = points[person, j]
            if visible[person, j] <= 0 or np.any(joint < 0) or joint[0] >= width or joint[1] >= height:
                continue
            for row in range(max(y - radius, 0), min(y + radius, height)):
                for column in range(max(x - radius, 0), min(x + radius, width)):
                    if np.any(offsets[row, column, j] != 0) and owners[row, column] < areas[person]:
                        continue
                    offsets[row, column, j] = np.array([column, row], np.float32) - joint
                    weights[row, column, j] = 1 / np.sqrt(areas[person])
                    owners[row, column] = areas[person]
    return offsets, weights


SIZE = (11, 9)
GAUSSIANS = jax.jit(dekr.gaussian_maps, static_argnames="size")
OFFSETS = jax.jit(dekr.offset_targets, static_argnames=("size", "radius"))


def people(seed: int):
    """Overlapping people, some outside, some on whole cells, of few different areas."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, 14, (5, 4, 2)).astype(np.float32)
    points = np.where(rng.random((5, 4, 1)) < 0.3, np.round(points), points)
    return points, rng.integers(0, 3, (5, 4)), rng.choice([4.0, 9.0, 16.0], 5).astype(np.float32)


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_heatmaps_are_drawn_as_by_the_original(seed):
    points, visible, _ = people(seed)
    sigmas = np.array([0.7, 1.0, 1.0, 2.0])
    maps, near = GAUSSIANS(points, visible > 0, size=SIZE, sigmas=sigmas)
    expected, expected_near = slow_heatmaps(points, visible, SIZE, sigmas)
    assert_allclose(maps, expected, atol=1e-6)
    assert_array_equal(near, expected_near)


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=60, deadline=None)
def test_offsets_are_written_as_by_the_original(seed):
    points, visible, areas = people(seed)
    arguments = (points[:, :3], visible[:, :3], points[:, 3], visible[:, 3] > 0, areas)
    found = OFFSETS(*arguments, size=SIZE, radius=3)
    for ours, expected in zip(found, slow_offsets(*arguments, SIZE, 3), strict=True):
        assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_centers_are_means_of_labelled_joints():
    keypoints = np.array([[1, 2], [3, 6], [9, 9]], np.float32)
    assert_allclose(dekr.person_centers(keypoints, np.array([1, 2, 0])), [2, 4])
    corner = np.full((3, 2), 5.0)
    assert_allclose(dekr.person_centers(corner, np.zeros(3)), [5, 5])


def test_areas():
    keypoints = np.array([[10, 20], [13, 24], [0, 0]], np.float32)
    visible = np.array([2, 1, 0])
    assert dekr.person_areas(keypoints, visible, "origin") == 13**2 + 24**2
    assert dekr.person_areas(keypoints, visible, "box") == 25
    assert dekr.person_areas(keypoints, np.zeros(3), "box") == 0
    assert dekr.person_areas(keypoints, np.zeros(3), "origin") == 0


def test_labels_have_the_places_of_the_canvas():
    found = labels()
    assert found["heatmaps"].shape == found["heatmap_weight"].shape == (B, R, R, K + 1)
    assert found["offsets"].shape == (B, R, R, K, 2)
    cells = np.stack(np.meshgrid(np.arange(R), np.arange(R)), -1)
    told = found["offset_weight"] > 0
    assert told.any()
    joints = cells[None, :, :, None] - found["offsets"]
    nearest = np.abs(joints[:, :, :, None] - found["keypoints"][:, None, None] / 4).sum(-1).min(3)
    assert nearest[told].max() < 1e-4


def test_areas_of_labels_are_input_pixels():
    """The canvas shows the original at twice its size, so the original's areas count four times."""
    found, host = labels(), host_stream()
    original = host["keypoints"] @ host["to_image"][0, :, :2].T + host["to_image"][0, :, 2]
    areas = 4 * dekr.person_areas(original, host["visible"])
    weights = found["offset_weight"]
    distances = np.abs(weights[weights > 0][:, None] - 1 / np.sqrt(areas).ravel())
    assert distances.min(1).max() < 1e-6


def test_the_smallest_box_has_a_finite_weight():
    visible = np.zeros((B, N, K), np.float32)
    visible[..., 0] = 1
    middle = np.full((B, N, K, 2), S / 2, np.float32)
    weights = labels(tiny(area="box"), keypoints=middle, visible=visible)["offset_weight"]
    assert_allclose(np.unique(weights), [0, 1 / 32])


def test_rows_without_people_and_padding_leave_nothing():
    nobody = labels(people=np.zeros((B, N), bool))
    assert not nobody["heatmaps"].any()
    assert not nobody["offset_weight"].any()
    assert_allclose(nobody["heatmap_weight"], 0.1)
    padding = labels(valid=np.array([True, False]))
    assert padding["heatmaps"][0].any()
    for field in ("heatmaps", "heatmap_weight", "offset_weight"):
        assert not padding[field][1].any()


def test_people_with_all_joints_outside_leave_nothing():
    outside = labels(keypoints=np.full((B, N, K, 2), -50, np.float32))
    assert not outside["heatmaps"].any()
    assert not outside["offset_weight"].any()


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_images_of_a_few_pixels_fill_the_smallest_canvas(size):
    layout = METHOD.layout(*size)
    assert layout.sizes[0][1] == S
    assert layout.sizes[0][0] >= S * size[0] / size[1]


def test_the_mask_acts_on_heatmaps_alone():
    mask = np.ones((B, R, R), np.uint8)
    mask[:, : R // 2] = 0
    masked, plain = labels(mask_4=mask), labels()
    assert not masked["heatmap_weight"][:, : R // 2].any()
    assert_array_equal(masked["heatmap_weight"][:, R // 2 :], plain["heatmap_weight"][:, R // 2 :])
    assert_array_equal(masked["offset_weight"], plain["offset_weight"])


def test_small_people_have_heatmaps_but_no_centre():
    area = np.full((B, N), 32.0**2 - 1, np.float32)
    small = labels(area=area)
    assert small["heatmaps"][..., :-1].any()
    assert not small["heatmaps"][..., -1].any()
    assert not small["offset_weight"].any()
    assert labels(tiny(least_area=0.0), area=area)["heatmaps"][..., -1].any()


@pytest.mark.parametrize("keep", [False, True])
def test_unlabelled_people_have_a_centre_at_the_images_corner_if_kept(keep):
    corner = np.full((B, N, K, 2), [16.0, 8.0], np.float32)
    visible = np.zeros((B, N, K), np.float32)
    found = labels(tiny(keep_unlabelled=keep), keypoints=corner, visible=visible)
    assert not found["heatmaps"][..., :-1].any()
    assert not found["offset_weight"].any()
    assert found["heatmaps"][0, 2, 4, -1] == (1 if keep else 0)


@pytest.mark.parametrize(("aligned", "reflection"), [(False, 1.0), (True, 0.25)])
def test_mirrored_labels(aligned, reflection):
    """By default they lie .75 cells to the left of the content, which is at R - .25 - x."""
    middle = np.full((B, N, K, 2), 24.0, np.float32)
    visible = np.zeros((B, N, K), np.float32)
    left = METHOD.joints.index("left_wrist")
    visible[:, 0, left] = 1
    found = labels(
        tiny(aligned_mirror=aligned),
        keypoints=middle,
        visible=visible,
        mirror=np.ones(B, bool),
        people=np.ones((B, N), bool),
    )
    right = METHOD.joints.index("right_wrist")
    row = found["heatmaps"][0, 6, :, right]
    assert_allclose(row, np.where(row > 0, np.exp(-((np.arange(R) - (R - reflection - 6)) ** 2) / 8), 0), atol=1e-6)
    assert row.any()
    assert not found["heatmaps"][..., left].any()
    told = found["offset_weight"][0, 6, :, right] > 0
    assert_allclose(np.arange(R)[told] - found["offsets"][0, 6, told, right, 0], R - reflection - 6)


def test_what_aligned_labels_are_aligned_with():
    """A bright input pixel at 4 c, mirrored with its image, is seen at cell R - 1/4 - c."""
    cell = 5
    image = np.zeros((1, 1, S, 1))
    image[0, 0, 4 * cell] = 1
    mirrored = np.argmax(image[0, 0, ::-1, 0])
    assert mirrored / 4 == R - dekr.BALANCED_REFLECTION - cell


# --- losses ---


def test_nothing_to_tell_costs_nothing():
    zeros = np.zeros((1, 3, 3, 2, 2), np.float32)
    weights = np.zeros((1, 3, 3, 2, 1), np.float32)
    value, gradient = jax.value_and_grad(dekr.offset_loss)(zeros + 1, zeros, weights)
    assert value == 0
    assert not gradient.any()


def test_weighted_offsets_count_and_others_do_not():
    target = np.zeros((1, 1, 2, 1, 2), np.float32)
    found = target + np.array([0.5, 0.0], np.float32)
    weights = np.array([0.1, 0], np.float32).reshape(1, 1, 2, 1, 1)
    assert_allclose(dekr.offset_loss(found, target, weights), 0.1 * (0.5 - 0.5 / 9) / 2, rtol=1e-6)


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(jax.random.key(0))


def test_a_training_step(variables):
    (phase,) = METHOD.phases()
    batch = {"source": jax.tree.map(jnp.asarray, host_stream())}

    @jax.jit
    def step(params):
        prepared = METHOD.targets(batch, jax.random.key(0), True)
        run = lambda params: phase.loss(variables | {"params": params}, prepared, 0, jax.random.key(0))
        return jax.value_and_grad(run, has_aux=True)(params)

    (value, aux), gradients = step(variables["params"])
    assert_allclose(value, aux.metrics["heatmap"] + aux.metrics["offset"], rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert aux.metrics["offset"] > 0
    still = [path for path, leaf in jax.tree_util.tree_leaves_with_path(gradients) if not np.any(leaf)]
    assert not still


def test_first_values():
    """Kernels are N(0, .001^2) but those of the adaptive convolutions, whose A and t are 0."""
    params = tiny(kernel_deviation=0.001).init(jax.random.key(0))["params"]
    assert_allclose(np.std(params["backbone"]["layer1_0"]["conv2"]["kernel"]), 0.001, rtol=0.1)
    assert_allclose(np.std(params["offset_transition"]["conv"]["kernel"]), 0.001, rtol=0.1)
    block = params["offset_block0"]
    assert np.std(block["kernel"]) > 0.05
    assert not any(np.any(leaf) for name in ("transform", "translation") for leaf in jax.tree.leaves(block[name]))


# --- inference ---


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (704, 512)), ((480, 640), (512, 704)), ((500, 500), (512, 512)), ((2000, 100), (10240, 512))],
)
def test_layout(size, expected):
    layout = DEKR().layout(*size)
    assert layout.sizes == (expected,)
    middle = layout.to_canvas[0] @ [int(size[0] / 2 + 0.5), int(size[1] / 2 + 0.5), 1]
    assert_allclose(middle, np.array(expected) / 2)
    scale = layout.to_canvas[0][0, 0]
    assert_allclose(layout.to_canvas[0][:, :2], scale * np.eye(2), atol=1e-12)
    assert_allclose(scale, 512 / min(size))


def test_layout_of_several_scales_and_wide_buckets():
    method = DEKR(scales=(0.5, 1.0, 2.0), bucket=256)
    layout = method.layout(640, 480)
    assert layout.sizes == ((384, 256), (768, 512), (1536, 1024))
    assert layout.base == 1
    assert_allclose(layout.to_canvas[2], 2 * layout.to_canvas[1])
    assert_allclose(layout.to_canvas[1][0, 0], 512 / 480)


def test_input_sizes_between_multiples_of_64_are_rounded_up():
    assert DEKR(input_size=96).layout(100, 100).sizes == ((128, 128),)


def test_the_mirrored_input_has_its_cells_on_those_of_the_input():
    """Cell c of the mirrored view shows what cell w - 1 - c of the input shows."""
    image = np.arange(32, dtype=np.float32).reshape(1, 1, 32, 1)
    mirrored = dekr.mirror_input(jnp.asarray(image))
    assert_array_equal(mirrored[0, 0, ::4, 0], image[0, 0, ::4, 0][::-1])


def test_an_exact_network_is_unchanged_by_the_flip_test():
    """Maps that see the mirrored input exactly come back onto those of the input."""
    rng = np.random.default_rng(0)
    heatmaps, poses = rng.normal(size=(1, 5, 6, K + 1)), rng.normal(size=(1, 5, 6, K, 2))
    cells = dekr.to_poses(np.zeros((1, 5, 6, K, 2)))
    back = poses[:, :, ::-1][..., FLIP, :] * [-1, 1] + [5, 0]
    views = [
        {"heatmaps": jnp.asarray(heatmaps), "offsets": cells - poses},
        {"heatmaps": jnp.asarray(heatmaps[:, :, ::-1][..., [*FLIP, K]]), "offsets": cells - back},
    ]
    found_heatmaps, found_poses = dekr.merge_views(views, FLIP)
    assert_allclose(found_heatmaps, heatmaps, atol=1e-6)
    assert_allclose(found_poses, poses, atol=1e-5)


def ideal_outputs(scale: float = 1.0) -> tuple[dict, np.ndarray]:
    """Maps of a network that sees two people, and their joints in pixels of the canvas."""
    rng = np.random.default_rng(3)
    side = int(scale * R)
    joints = np.stack([rng.uniform(4, 30, (K, 2)), rng.uniform(32, 60, (K, 2))]).astype(np.float32)
    points = np.concatenate([joints, joints.mean(1, keepdims=True)], 1) * scale / 4
    maps, _ = dekr.gaussian_maps(points[None], np.ones((1, 2, K + 1), bool), (side, side), METHOD.sigmas / 2)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)
    nearest = np.argmin(np.linalg.norm(cells[:, :, None] - points[:, -1], axis=-1), -1)
    name = f"x{scale:g}"
    return {f"heatmaps_{name}": maps, f"poses_{name}": jnp.asarray(points[nearest][None, :, :, :-1])}, joints


def inference_batch(size: int) -> dict:
    to_image = np.broadcast_to(np.array([[2, 0, 5], [0, 2, -3]], np.float32), (size, 2, 3))
    return {"source": {"to_image": jnp.asarray(to_image), "valid": jnp.ones(size, bool)}}


@pytest.mark.parametrize("scales", [(1.0,), (2.0, 1.0)])
def test_decode_gives_pixels_of_the_original(scales):
    method, outputs = tiny(scales=scales), {}
    for scale in scales:
        maps, joints = ideal_outputs(scale)
        outputs |= maps
    poses = method.decode(outputs, inference_batch(1))
    assert poses.keypoints.shape == (1, N, K, 2)
    assert poses.valid[0].tolist() == [True, True, False, False]
    found = np.asarray(poses.keypoints[0, :2])
    found = found[np.argsort(found.mean((1, 2)))]
    assert_allclose(found, joints * 2 + [5, -3], atol=1e-3)
    padding = inference_batch(1)
    padding["source"]["valid"] = jnp.zeros(1, bool)
    assert not method.decode(outputs, padding).valid.any()


def test_forward(variables):
    """The flip test merges what the network says about both views; without it x can be moved."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, S, S, 3)).astype(np.float32))
    forward = jax.jit(lambda method, image: method.forward(variables, {"source": {"image": image}}), static_argnums=0)
    views = []
    for seen in (image, dekr.mirror_input(image)):
        alone = forward(tiny(flip_test=False, unflipped_shift=0.375), seen)
        poses = alone["poses_x1"] - np.array([0.375, 0])
        views.append({"heatmaps": alone["heatmaps_x1"], "offsets": dekr.to_poses(poses)})
    heatmaps, poses = dekr.merge_views(views, FLIP)
    both = forward(METHOD, image)
    assert both["heatmaps_x1"].shape == (1, R, R, K + 1)
    assert_allclose(both["heatmaps_x1"], heatmaps, atol=1e-5)
    assert_allclose(both["poses_x1"], poses, atol=1e-4)
