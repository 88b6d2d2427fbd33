import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.prtr.detr import DETR
from jaxpose.methods.prtr.sequential_prtr import SequentialPRTR, crop_features, crop_grid
from jaxpose.methods.prtr.tiny import RESNET, TRANSFORMER
from jaxpose.types import synthetic_batch

WIDTH, HEIGHT = 96, 64
N, P, Q, K, TOP = 3, 6, 20, 17, 4
DETECTOR = {
    **RESNET,
    **TRANSFORMER,
    "input_size": (WIDTH, HEIGHT),
    "decoder_layers": 1,
    "dropout": 0.0,
    "num_queries": P,
    "max_people": N,
}
METHOD = SequentialPRTR(
    **DETECTOR,
    crop_size=(4, 5),
    keypoint_dim=16,
    keypoint_heads=2,
    keypoint_encoder_layers=1,
    keypoint_decoder_layers=1,
    keypoint_feedforward=16,
    keypoint_queries=Q,
    top_people=TOP,
)
SIZES = np.array([[96, 64], [70, 50]], np.float32)
COUNTS = np.array([3, 1])


def host_batch(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    stream = synthetic_batch(METHOD.spec(2), seed)["source"]
    low, high = np.sort(rng.random((2, 2, N, 2)), axis=0) * SIZES[:, None]
    stream["size"] = SIZES
    stream["boxes"] = np.concatenate([low, high - low], -1).astype(np.float32)
    stream["people"] = np.arange(N) < COUNTS[:, None]
    stream["keypoints"] = (low[:, :, None] + rng.random((2, N, K, 2)) * (high - low)[:, :, None]).astype(np.float32)
    stream["visible"] = (rng.random((2, N, K)) < 0.8).astype(np.float32)
    return {"source": stream}


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(jax.random.key(0))


@pytest.fixture(scope="module")
def prepared():
    return METHOD.targets(host_batch(), jax.random.key(1), train=True)


@pytest.fixture(scope="module")
def step():
    def loss(params, batch_stats, batch):
        return METHOD.loss({"params": params, "batch_stats": batch_stats}, batch, 0, jax.random.key(0))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def parts(variables, prepared):
    """What the detector says of the batch, and a compiled function from boxes to joints."""
    network, inside = METHOD.module(), prepared["source"]["inside"]
    outputs, maps = jax.jit(lambda v, *x: network.apply(v, *x, method="detect"))(
        variables, prepared["source"]["image"], inside
    )
    return outputs, maps, jax.jit(lambda boxes: network.apply(variables, maps, boxes, inside, method="locate"))


# --- crop ---

MAPS = [np.random.default_rng(i).normal(size=(1, h, w, c)).astype(np.float32) for i, (h, w, c) in enumerate(
    [(8, 12, 2), (4, 6, 3)]
)]  # fmt: skip
SIZE = (3, 4)
cut = jax.jit(lambda boxes, ratio: crop_features(MAPS, crop_grid(boxes, ratio, SIZE, 1.25)))


def naive_crop(box, ratio) -> np.ndarray:
    """Point by point in float64."""
    cx, cy, w, h = np.asarray(box, float) * np.tile(ratio, 2)
    out = np.zeros((SIZE[1], SIZE[0], 5))
    for i, v in enumerate(np.linspace(-0.5, 0.5, SIZE[1])):
        for j, u in enumerate(np.linspace(-0.5, 0.5, SIZE[0])):
            x, y = cx + 1.25 * u * w, cy + 1.25 * v * h  # fractions of the canvas
            out[i, j] = np.concatenate([_nearest_inside(grid[0], x, y) for grid in MAPS])
    return out


def _nearest_inside(grid: np.ndarray, x: float, y: float) -> np.ndarray:
    rows, columns, _ = grid.shape
    x, y = np.clip(x * columns - 0.5, 0, columns - 1), np.clip(y * rows - 0.5, 0, rows - 1)
    j, i = min(int(x), columns - 2), min(int(y), rows - 2)
    top, bottom = (grid[r, j] * (j + 1 - x) + grid[r, j + 1] * (x - j) for r in (i, i + 1))
    return top * (i + 1 - y) + bottom * (y - i)


def test_outermost_points_lie_on_the_edges_of_the_grown_box():
    grid = crop_grid(np.array([[[0.5, 0.4, 0.4, 0.2]]]), np.array([[0.5, 1.0]]), (5, 3), 1.25)
    assert grid.shape == (1, 1, 3, 5, 2)
    # on the canvas: centre (.25, .4), size (.2, .2), grown to (.25, .25); [-1, 1] is twice as long
    assert_allclose(grid[0, 0, 0, 0], [2 * (0.25 - 0.125) - 1, 2 * (0.4 - 0.125) - 1], atol=1e-6)
    assert_allclose(grid[0, 0, -1, -1], [2 * (0.25 + 0.125) - 1, 2 * (0.4 + 0.125) - 1], atol=1e-6)
    assert_allclose(grid[0, 0, 1, 2], [2 * 0.25 - 1, 2 * 0.4 - 1], atol=1e-6)


PART = st.floats(0, 1, width=32)


@settings(deadline=None, max_examples=50)
@given(st.tuples(PART, PART, PART, PART), st.tuples(st.floats(0.25, 1, width=32), st.floats(0.25, 1, width=32)))
def test_crop_by_definition(box, ratio):
    """Boxes of any size, of none, and reaching beyond the image."""
    found = cut(np.array([[box]], np.float32), np.array([ratio], np.float32))
    assert_allclose(found[0, 0], naive_crop(box, ratio), atol=2e-4)


def test_gradient_by_boxes_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 2, *SIZE[::-1], 5)).astype(np.float32)
    ratio = np.array([[0.9, 0.8]], np.float32)
    boxes = np.array([[[0.43, 0.52, 0.31, 0.37], [0.61, 0.33, 0.2, 0.41]]], np.float32)
    total = jax.jit(lambda b: (crop_features(MAPS, crop_grid(b, ratio, SIZE, 1.25)) * weights).sum())
    gradient = np.asarray(jax.grad(total)(boxes))
    step = 2e-4
    for index in np.ndindex(boxes.shape):
        shift = np.zeros_like(boxes)
        shift[index] = step
        difference = (total(boxes + shift) - total(boxes - shift)) / (2 * step)
        assert_allclose(gradient[index], difference, rtol=0.05, atol=0.05)


def test_a_box_outside_the_image_sees_its_border_and_has_no_gradient():
    boxes, ratio = jnp.array([[[3.0, 0.5, 0.1, 0.0]]]), jnp.ones((1, 2))
    assert_allclose(cut(boxes, ratio)[0, 0, :, 0, :2], np.broadcast_to(MAPS[0][0, 3:5, -1].mean(0), (4, 2)), atol=1e-5)
    gradient = jax.grad(lambda b: cut(b, ratio).sum())(boxes)
    assert_array_equal(gradient[..., [0, 2]], 0)


# --- method ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": (3, 4)}, r"levels is \(3, 4\)"),
        ({"levels": ()}, r"levels is \(\)"),
        ({"keypoint_dim": 20}, "keypoint_dim is 20"),
        ({"keypoint_heads": 3}, "keypoint_heads is 3"),
        ({"keypoint_queries": 16}, "keypoint_queries is 16"),
        ({"top_people": 101}, "top_people is 101"),
        ({"crop_size": (0, 4)}, r"crop_size is \(0, 4\)"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        SequentialPRTR(**fields)


def test_parameters_of_the_full_network():
    shapes = jax.eval_shape(SequentialPRTR().init, jax.random.key(0))["params"]
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
    assert_allclose(count(shapes), 88.1, atol=0.05)
    assert_allclose(count([shapes["pose"], shapes["position"]]), 46.6, atol=0.05)


def test_starts_from_a_detector(variables):
    detector = jax.eval_shape(DETR(**DETECTOR).init, jax.random.key(0))
    known = jax.tree.map(jnp.shape, {name: variables["params"][name] for name in ("backbone", "detector")})
    assert jax.tree.map(jnp.shape, detector["params"]) == known
    assert set(variables["params"]) == {"backbone", "detector", "pose", "position"}


def test_targets_are_fractions_of_the_image_without_padding(prepared):
    raw, stream = host_batch()["source"], prepared["source"]
    seen = raw["visible"] > 0
    assert_allclose(stream["joints"][seen], (raw["keypoints"] / SIZES[:, None, None])[seen], rtol=1e-5)
    assert not np.any(stream["joints"][~seen])
    assert {"labels", "targets", "inside"} <= set(stream)


def test_people_are_found_independently(parts):
    outputs, _, locate = parts
    boxes = outputs["boxes"][-1]
    whole, some = locate(boxes), locate(boxes[:, ::-1])
    assert whole["logits"].shape == (2, P, Q, K + 1)
    for name in whole:
        assert_allclose(some[name][:, ::-1], whole[name], atol=1e-5)


def test_joints_stay_in_the_grown_box_and_in_the_image(parts):
    boxes = jnp.broadcast_to(jnp.array([[0.9, 0.5, 0.4, 0.2]]), (2, P, 4))
    keypoints = parts[2](boxes)["keypoints"]
    assert (keypoints >= np.array([0.9 - 0.25, 0.5 - 0.125]) - 1e-6).all()
    assert (keypoints <= np.array([1.0, 0.5 + 0.125]) + 1e-6).all()


def test_loss_of_joints_reaches_the_boxes(variables, prepared, parts):
    outputs, maps, _ = parts
    columns = jnp.array([[4, 0, 2], [1, -1, -1]])

    @jax.jit
    @jax.grad
    def gradient(boxes):
        losses = METHOD.joint_losses(variables, maps, boxes, columns, prepared["source"], jax.random.key(0))
        return losses["loss_ce"] + METHOD.keypoint_loss * losses["loss_kpts"]

    moved = np.abs(gradient(outputs["boxes"][-1])).max(-1) > 0
    assert_array_equal(np.flatnonzero(moved[0]), [0, 2, 4])
    assert_array_equal(np.flatnonzero(moved[1]), [1])


def test_rows_without_a_person_do_not_count(variables, prepared, parts):
    outputs, maps, _ = parts
    columns = jnp.array([[4, 0, 2], [1, -1, -1]])
    stream = prepared["source"]

    @jax.jit
    def losses(joints, visible):
        changed = stream | {"joints": joints, "visible": visible}
        return METHOD.joint_losses(variables, maps, outputs["boxes"][-1], columns, changed, jax.random.key(0))

    garbage = losses(stream["joints"].at[1, 1:].set(0.7), jnp.asarray(stream["visible"]).at[1, 1:].set(1))
    jax.tree.map(assert_array_equal, garbage, losses(stream["joints"], jnp.asarray(stream["visible"])))
    assert garbage["loss_kpts"] > 0


def test_both_transformers_learn_together(variables, prepared, step):
    params, stats, metrics = variables["params"], variables["batch_stats"], []
    for _ in range(60):
        (_, aux), gradients = step(params, stats, prepared)
        params = jax.tree.map(lambda p, g: p - 0.003 * g / (1e-6 + jnp.sqrt((g**2).mean())), params, gradients)
        stats = aux.batch_stats
        metrics.append(jax.device_get(aux.metrics))
    for names in (("loss_ce", "loss_bbox", "loss_giou"), ("loss_kpt_ce", "loss_kpts")):
        first, last = (sum(m[name] for name in names) for m in (metrics[0], metrics[-1]))
        assert last < 0.9 * first


def test_every_parameter_learns(variables, prepared, step):
    _, gradients = step(variables["params"], variables["batch_stats"], prepared)
    paths = flax.traverse_util.flatten_dict(gradients, sep="/")
    still = {path for path, gradient in paths.items() if not jnp.any(gradient)}
    sees_zeros = ("decoder/layer0/self_attention", "decoder/layer0/norm1")
    assert {path for path in still if not any(part in path for part in sees_zeros)} == set()


def test_decoding_finds_planted_joints_in_image_pixels():
    rng = np.random.default_rng(0)
    queries = np.stack([rng.permutation(Q)[:K] for _ in range(2 * TOP)]).reshape(2, TOP, K)
    logits = rng.normal(size=(2, TOP, Q, K + 1))
    np.put_along_axis(logits[..., :-1].swapaxes(-1, -2), queries[..., None], 15, -1)
    logits[..., K] += 30  # "no keypoint" does not count
    keypoints = rng.random((2, TOP, Q, 2))
    person = np.broadcast_to(np.linspace(0.9, 0.1, TOP), (2, TOP))
    boxes = np.concatenate([rng.uniform(0.3, 0.7, (2, TOP, 2)), rng.uniform(0.1, 0.4, (2, TOP, 2))], -1)
    outputs = {"logits": logits, "keypoints": keypoints, "person": person, "boxes": boxes}
    stream = host_batch()["source"]
    stream["to_image"] = np.tile(np.array([[2.0, 0, 1], [0, 3.0, -1]], np.float32), (2, 1, 1))
    stream["valid"] = np.array([True, False])
    outputs = {name: jnp.asarray(value, jnp.float32) for name, value in outputs.items()}
    poses = METHOD.decode(outputs, {"source": stream})
    truth = np.take_along_axis(keypoints, queries[..., None], 2) * SIZES[:, None, None] * [2, 3] + [1, -1]
    assert_allclose(poses.keypoints, truth, rtol=1e-4, atol=1e-3)
    assert (poses.scores > 0.99).all()
    assert_allclose(poses.person_score, person * poses.scores.mean(-1), rtol=1e-5)
    assert_array_equal(poses.valid, [[True] * TOP, [False] * TOP])
    sides = boxes[..., 2:] * SIZES[:, None] * [2, 3]
    corner = (boxes[..., :2] - boxes[..., 2:] / 2) * SIZES[:, None] * [2, 3] + [1, -1]
    assert_allclose(poses.detections.boxes, np.concatenate([corner, sides], -1), rtol=1e-4, atol=1e-3)
    assert_allclose(poses.detections.scores, person, rtol=1e-6)
    assert_array_equal(poses.detections.valid, poses.valid)


def test_prediction_looks_at_the_likeliest_people(variables, parts):
    batch = METHOD.targets(host_batch(), jax.random.key(0), train=False)
    outputs = jax.jit(METHOD.forward)(variables, batch)
    probability = jax.nn.softmax(parts[0]["logits"][-1])[..., 0]
    order = np.argsort(-probability, -1)[:, :TOP]
    assert_allclose(outputs["person"], np.take_along_axis(probability, order, 1), atol=1e-5)
    joints = parts[2](parts[0]["boxes"][-1])["keypoints"]
    expected = np.take_along_axis(joints, order[..., None, None], 1)
    assert_allclose(outputs["keypoints"], expected, atol=1e-4)
    poses = METHOD.decode(outputs, batch)
    assert poses.keypoints.shape == (2, TOP, K, 2)


def test_any_backbone_with_four_maps():
    method = dataclasses.replace(METHOD, backbone="hrnet_w4", backbone_width=0, backbone_stages=(1, 1, 1))
    shapes = jax.eval_shape(method.init, jax.random.key(0))["params"]
    assert shapes["pose"]["input_projection"]["kernel"].shape[2] == 8 + 16 + 32
    assert shapes["detector"]["input_projection"]["kernel"].shape[2] == 32
