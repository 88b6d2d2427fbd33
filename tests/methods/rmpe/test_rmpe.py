import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.rmpe.method import RMPE, LocalizationNetwork, RegionalPoseNetwork
from jaxpose.types import synthetic_batch

K = 17
TINY = RMPE(input_size=(32, 64), backbone="resnet18", backbone_width=4, backbone_stages=(1, 1, 1, 1), flip_test=False)
SSTN = dataclasses.replace(
    TINY, sstn=True, parallel="trained", localization_width=4, localization_stages=(1, 1), loss="mse_2017"
)
FROZEN = dataclasses.replace(SSTN, parallel="frozen")


def host_batch(method: RMPE, size: int = 2, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    batch = synthetic_batch(method.spec(size), seed)
    for stream in batch.values():
        for name in [name for name in stream if name.endswith("keypoints")]:
            stream[name] = (rng.random((size, K, 2)) * method.input_size).astype(np.float32)
        for name in [name for name in stream if name.endswith("visible")]:
            stream[name] = (rng.random((size, K)) < 0.7).astype(np.float32)
    return batch


def prepare(method: RMPE, seed: int = 0) -> dict:
    return method.targets(host_batch(method, seed=seed), jax.random.key(1), train=True)


def moved(tree: dict) -> bool:
    return any(np.any(leaf) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def variables():
    """Of SSTN, with a transform that is not the identity and depends on the image."""
    variables = SSTN.init(jax.random.key(0))
    theta = variables["params"]["localization"]["theta"]
    theta["bias"] += jnp.array([0.02, 0.1, 0.05, -0.1, 0.03, -0.04])
    theta["kernel"] += 0.01 * jax.random.normal(jax.random.key(1), theta["kernel"].shape)
    return variables


@pytest.fixture(scope="module")
def gradients(variables):
    """{phase: (loss, aux, gradient by all parameters)} of one batch."""
    batch = prepare(SSTN)

    def run(phase):
        loss = lambda params: phase.loss(variables | {"params": params}, batch, 0, jax.random.key(2))
        (value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        return value, aux, grads

    return {phase.name: run(phase) for phase in SSTN.phases()}


# --- network ---


class Dots(nn.Module):
    """Maps that are the image at a quarter of the resolution, sampled where map pixels are."""

    def __call__(self, image, train=False):
        rows, columns = (np.round(np.linspace(0, n - 1, n // 4)).astype(int) for n in image.shape[1:3])
        return [image[:, rows][:, :, columns]]


class Turned(nn.Module):
    """A fixed transform by (y, x)."""

    degrees: float

    def __call__(self, image, train=False):
        cos, sin = np.cos(np.radians(self.degrees)), np.sin(np.radians(self.degrees))
        return jnp.tile(jnp.array([[cos, -sin, 0.1], [sin, cos, -0.05]], jnp.float32), (len(image), 1, 1))


@pytest.mark.parametrize("degrees", [0, 40, -75])
def test_maps_are_moved_back_to_where_the_crop_had_them(degrees):
    """A smooth dot in a crop shows at the same place in the maps, however the crop was turned in between."""
    y, x = np.mgrid[:256, :256]
    dot = np.exp(-((x - 160) ** 2 + (y - 88) ** 2) / (2 * 16**2)).astype(np.float32)
    image = np.stack([dot, 0 * dot, dot], -1)[None]
    outputs = RegionalPoseNetwork(Dots(), Turned(degrees)).apply({}, image)
    straight, back = Dots()(image)[0], outputs["maps"][0]
    assert np.unravel_index(np.argmax(back[0, ..., 0]), (64, 64)) == (22, 40)
    assert_allclose(back, straight, atol=0.03)
    turned = np.unravel_index(np.argmax(outputs["raw"][0, 0, ..., 0]), (64, 64))
    assert degrees == 0 or np.hypot(turned[0] - 22, turned[1] - 40) > 8


def test_the_transform_starts_as_the_identity():
    """A fresh network with transformers sees and says what the same pose network does without them."""
    variables = FROZEN.init(jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (2, 64, 32, 3))
    outputs = jax.jit(FROZEN.module().apply)(variables, image)
    assert_array_equal(outputs["theta"], np.tile(np.eye(2, 3), (2, 1, 1)))
    assert_allclose(outputs["transformed"], image, atol=1e-4)
    pose = {name: {"pose": tree["pose"]} for name, tree in variables.items()}
    plain = jax.jit(TINY.module().apply)(pose, image)
    assert_allclose(outputs["maps"], plain["maps"], atol=1e-6 + 1e-3 * np.abs(plain["maps"]).max())
    assert "parallel" not in outputs


def test_localization_network_of_the_paper():
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    params = jax.eval_shape(LocalizationNetwork().init, jax.random.key(0), image)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 11_182_598
    assert not any("shortcut" in params[f"layer{stage}_1"] for stage in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 40_577_745),
        ({"backbone": "se_resnet101"}, 59_569_873),
        ({"backbone": "se_resnet152"}, 75_213_521),
        ({"deformable": True}, 41_158_587),
        ({"network": "fastpose_duc", "backbone": "shuffle50"}, 57_853_777),
        ({"network": "simplepose", "backbone": "resnet50"}, 33_999_697),
        ({"network": "hrnet_w32"}, 28_536_113),
        ({"network": "hourglass", "skeleton": "mpii", "input_size": (256, 256)}, 25_434_112),
    ],
)
def test_parameters_of_published_networks(fields, count):
    params = jax.eval_shape(RMPE(**fields).init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_lower_precision_keeps_maps_and_transforms_in_float32(variables):
    method = dataclasses.replace(SSTN, dtype="bfloat16")
    image = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    apply = lambda v, x: method.module().apply(v, x, guided=True)
    assert {o.dtype for o in jax.tree.leaves(jax.eval_shape(apply, variables, image))} == {jnp.dtype("float32")}


# --- batches ---


def test_true_boxes_are_asked_for_where_they_are_used():
    plain = set(TINY.spec(2)["source"])
    centered = {"centered_keypoints", "centered_visible"}
    fields = lambda method: {name: set(stream) - plain for name, stream in method.spec(2).items()}
    assert fields(TINY) == {"source": set()}
    assert fields(FROZEN) == {"source": centered}
    assert fields(SSTN) == {"source": centered, "plain": set()}


def test_targets():
    batch, prepared = host_batch(SSTN), prepare(SSTN)
    for name, stream in prepared.items():
        expected = batch[name]["image"] / 255 - np.array([0.406, 0.457, 0.480])
        assert_allclose(stream["image"], expected, atol=1e-5)
        assert stream["target"].shape == (2, 16, 8, K)
    stream = prepared["source"]
    seen = np.asarray(stream["centered_weight"]) > 0
    assert_array_equal(stream["centered_target"].max((1, 2)) > 0, seen)
    assert not np.array_equal(stream["target"], stream["centered_target"])
    assert "centered_target" not in prepared["plain"]


def test_evaluation_needs_no_true_box():
    batch = host_batch(TINY)
    prepared = SSTN.targets(batch, jax.random.key(0), train=False)
    assert set(prepared) == {"source"}
    assert "centered_target" not in prepared["source"]


def test_padding_rows_have_no_weight():
    batch = host_batch(TINY)
    batch["source"]["valid"] = np.array([True, False])
    weight = TINY.targets(batch, jax.random.key(0), train=True)["source"]["weight"]
    assert weight[0].any()
    assert not weight[1].any()


def test_window_of_2017():
    method = dataclasses.replace(TINY, sigma=1.75, radius=3)
    target = prepare(method)["source"]["target"]
    cells = (np.asarray(target) > 0).sum((1, 2))
    assert cells.max() <= 49


# --- start from loaded values ---


def filled(method: RMPE, seed: int) -> dict:
    """Variables of a method with random numbers, without running its network."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), shapes)


def leaves(variables: dict, branch: str) -> dict:
    """{path within the branch: array}."""
    trees = {name: tree[branch] for name, tree in variables.items() if branch in tree}
    return flatten_dict(trees, sep="/")


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert_array_equal(ours[path], theirs[path], err_msg=path)


class TestAdopt:
    @pytest.mark.parametrize("method", [FROZEN, SSTN], ids=["frozen", "trained"])
    def test_the_parallel_branch_starts_as_the_pose_network(self, method):
        loaded = filled(TINY, 1)
        adopted = method.adopt(loaded, filled(method, 0))
        assert_same(leaves(adopted, "parallel"), leaves(loaded, "pose"))
        assert_same(leaves(adopted, "pose"), leaves(loaded, "pose"))
        assert leaves(adopted, "localization") == {}

    def test_a_loaded_parallel_branch_stays(self):
        loaded = filled(SSTN, 1)
        adopted = FROZEN.adopt(loaded, filled(FROZEN, 0))
        for branch in ("pose", "parallel", "localization"):
            assert_same(leaves(adopted, branch), leaves(loaded, branch))
        assert not np.array_equal(*(adopted["params"][b]["backbone"]["conv1"]["kernel"] for b in ("pose", "parallel")))

    def test_fewer_hourglasses_take_the_first(self):
        single = RMPE(
            network="hourglass", input_size=(64, 64), backbone_width=4, stacks=3, hourglass_depth=2, hourglass_modules=1
        )
        whole = dataclasses.replace(single, sstn=True, parallel="frozen", parallel_stacks=2, localization_width=4)
        loaded, fresh = filled(single, 1), filled(whole, 0)
        adopted = whole.adopt(loaded, fresh)
        found, pose = leaves(adopted, "parallel"), leaves(loaded, "pose")
        assert_same(found, {path: pose[path] for path in leaves(fresh, "parallel")})
        assert 0 < len(found) < len(pose)
        assert {"hourglass0", "hourglass1"} == {p for path in found for p in path.split("/") if p[:9] == "hourglass"}

    @pytest.mark.parametrize("loaded", [{}, {"params": {"pose": {"backbone": {}}}}], ids=["nothing", "empty"])
    def test_a_frozen_branch_without_values_is_refused(self, loaded):
        fresh = filled(FROZEN, 0)
        count = len(leaves(fresh, "parallel"))
        message = (
            f"no values for {count} of its variables, such as batch_stats/parallel/backbone/bn1/mean. Name the run"
        )
        with pytest.raises(ConfigError, match=message):
            FROZEN.adopt(loaded, fresh)

    def test_one_missing_leaf_of_a_frozen_branch_is_named(self):
        loaded = filled(TINY, 1)
        del loaded["batch_stats"]["pose"]["backbone"]["bn1"]["mean"]
        with pytest.raises(ConfigError, match="1 of its variables, such as batch_stats/parallel/backbone/bn1/mean"):
            FROZEN.adopt(loaded, filled(FROZEN, 0))
        adopted = SSTN.adopt(loaded, filled(SSTN, 0))
        assert len(leaves(adopted, "parallel")) == len(leaves(loaded, "pose"))

    def test_a_trained_branch_may_start_fresh(self):
        assert SSTN.adopt({}, filled(SSTN, 0)) == {}

    def test_without_a_parallel_branch_nothing_is_copied(self):
        loaded = filled(TINY, 1)
        assert TINY.adopt(loaded, filled(TINY, 0)) is loaded


# --- losses ---


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    maps, target = rng.normal(size=(2, 3, 4, 5, 6)), rng.random((3, 4, 5, 6))
    weight = np.array([[1.0, 0, 1, 1, 0, 1]] * 3)
    masked = ((maps - target) * weight[:, None, None]) ** 2
    assert_allclose(TINY.criterion(maps, target, weight), 0.5 * masked.mean((1, 2, 3, 4)), rtol=1e-4)
    assert_allclose(SSTN.criterion(maps, target, weight), ((maps - target) ** 2).mean((1, 2, 3, 4)), rtol=1e-4)


def test_phases_move_their_own_groups(gradients):
    assert [(p.name, p.updates) for p in SSTN.phases()] == [("parallel", ("parallel",)), ("pose", ("pose",))]
    assert [(p.name, p.updates) for p in FROZEN.phases()] == [("pose", ("pose",))]
    assert [(p.name, p.updates) for p in TINY.phases()] == [("pose", ())]
    for name, (value, aux, grads) in gradients.items():
        assert np.isfinite([value, aux.metrics["pose_loss"]]).all()
        expected = {"parallel"} if name == "parallel" else {"pose", "localization"}
        assert {part for part, tree in grads.items() if moved(tree)} == expected


def test_phases_move_their_own_statistics(variables, gradients):
    for name, (_, aux, _) in gradients.items():
        change = jax.tree.map(lambda a, b: a - b, aux.batch_stats, variables["batch_stats"])
        expected = {"parallel"} if name == "parallel" else {"pose", "localization"}
        assert {part for part, tree in change.items() if moved(tree)} == expected


def test_the_parallel_branch_guides_the_transform(variables, gradients):
    """Without its loss the transform gets another gradient, and the pose network the same."""
    alone = dataclasses.replace(SSTN, parallel_weight=0.0)
    batch = prepare(SSTN)
    loss = lambda params: alone.pose_loss(variables | {"params": params}, batch, 0, jax.random.key(2))[0]
    without, (_, _, both) = jax.jit(jax.grad(loss))(variables["params"]), gradients["pose"]
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-3, atol=1e-6), without["pose"], both["pose"])
    theta = [g["localization"]["theta"]["bias"] for g in (without, both)]
    assert np.abs(theta[0] - theta[1]).max() > 1e-3 * np.abs(theta[1]).max()


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_integral_loss_falls_to_zero_at_the_target(normalization):
    method = dataclasses.replace(TINY, loss="integral", normalization=normalization)
    points = np.array([[[8.0, 20.0]] * K], np.float32)
    stream = {"keypoints": points, "visible": np.ones((1, K), np.float32), "valid": np.ones(1, bool)}
    labels = method.labels(stream)
    assert_allclose(labels["target"], points / [32, 64])
    maps = np.full((1, 1, 16, 8, K), -30, np.float32)
    maps[..., 5, 2, :] = 30
    assert_allclose(method.criterion(maps, labels["target"], labels["weight"]), 0, atol=1e-5)
    maps[..., 5, 2, :], maps[..., 5, 3, :] = -30, 30
    assert_allclose(method.criterion(maps, labels["target"], labels["weight"]), K * 1 / 8, rtol=1e-4)


# --- inference ---


def test_the_control_reads_the_parallel_branch_alone(variables):
    batch = {"source": SSTN.targets(host_batch(TINY), jax.random.key(0), train=False)["source"]}
    control = SSTN.control()
    outputs = jax.jit(control.forward)(variables, batch)
    plain = {name: {"pose": tree["parallel"]} for name, tree in variables.items()}
    assert_allclose(outputs["maps"], jax.jit(TINY.forward)(plain, batch)["maps"], atol=1e-6)
    assert not np.allclose(outputs["maps"], jax.jit(SSTN.forward)(variables, batch)["maps"], atol=1e-4)
    found = {name: (c.method, c.suppression) for name, c in SSTN.ablations().items()}
    assert found == {
        "plain": (control, "none"),
        "plain with pose NMS": (control, ""),
        "without pose NMS": (SSTN, "none"),
    }
    assert TINY.ablations() == FROZEN.ablations() == {}


def stream_of(size: int = 2) -> dict:
    to_image = np.tile(np.array([[2.0, 0, 10], [0, 2, -5]], np.float32), (size, 1, 1))
    scores = np.linspace(0.5, 0.9, size).astype(np.float32)
    return {"source": {"to_image": to_image, "person_score": scores, "valid": np.ones(size, bool)}}


def test_decode():
    maps = np.zeros((2, 16, 8, K), np.float32)
    maps[:, 5, 3] = 0.8
    maps[:, 5, 4] = 0.1
    poses = jax.jit(TINY.decode)({"maps": maps}, stream_of())
    assert_allclose(poses.keypoints[:, 0], np.broadcast_to([3.25 * 8 + 10, 5 * 8 - 5], (2, K, 2)), atol=1e-4)
    assert_allclose(poses.scores, 0.8, atol=1e-6)
    assert_allclose(poses.person_score[:, 0], 0.8 + np.array([0.5, 0.9]) + 1.25 * 0.8, atol=1e-5)


def test_expected_positions_are_averaged_after_decoding():
    method = dataclasses.replace(TINY, loss="integral", normalization="softmax", flip_test=True, flip_shift=False)
    maps = np.full((1, 2, 16, 8, K), -30, np.float32)
    maps[:, 0, 5, 3] = 30
    maps[:, 1, 7, 4] = 30
    positions, _ = method.read(maps)
    assert_allclose(positions, np.broadcast_to([14.0, 24.0], (1, K, 2)), atol=1e-3)
    one, _ = method.read(maps[:, 0])
    assert_allclose(one, np.broadcast_to([12.0, 20.0], (1, K, 2)), atol=1e-3)


@pytest.mark.parametrize("loss", ["mse", "integral"])
def test_mirrored_crops_give_mirrored_poses(loss):
    """With the flip test and exact mirroring, the prediction for the mirrored crop is the mirrored prediction."""
    method = dataclasses.replace(TINY, loss=loss, flip_test=True, flip_shift=False)
    variables = method.init(jax.random.key(3))
    batch = method.targets(host_batch(TINY), jax.random.key(0), train=False)
    mirrored = {"source": batch["source"] | {"image": batch["source"]["image"][:, :, ::-1]}}
    forward = jax.jit(method.forward)
    ours, theirs = forward(variables, batch)["maps"], forward(variables, mirrored)["maps"]
    turned = theirs[..., ::-1, :][..., method.joints.flip_index]
    if loss == "integral":
        turned = turned[:, ::-1]
    assert_allclose(ours, turned, atol=1e-6)


# --- configuration ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "slowpose"}, "network"),
        ({"backbone": "se_resnet18"}, "backbone"),
        ({"backbone": "vgg"}, "backbone"),
        ({"network": "simplepose"}, "plain ResNet"),
        ({"backbone": "resnet50", "deformable": True}, "deformable"),
        ({"network": "hrnet_w32", "deformable": True}, "deformable"),
        ({"input_size": (100, 128)}, "multiples of 32"),
        ({"network": "hourglass"}, "multiples of 64"),
        ({"parallel": "frozen"}, "without sstn"),
        ({"read_branch": "parallel"}, "without a parallel branch"),
        ({"loss": "l2"}, "one of mse, mse_2017, integral"),
        ({"normalization": "none"}, "normalization"),
        ({"determinant_floor": -1.0}, "determinant_floor"),
    ],
)
def test_values_that_cannot_work_are_refused(fields, message):
    if fields == {"network": "hourglass"}:
        fields = fields | {"input_size": (96, 96)}
    with pytest.raises(ConfigError, match=message):
        RMPE(**fields)
