import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.anatomy3d.method import Anatomy3D
from jaxpose.ops import bones, cameras
from jaxpose.types import synthetic_batch

METHOD = Anatomy3D(skeleton="marionette", widths=(3, 5), channels=8, num_drawn=4, dropout=0.1, flip_test=False, chunk=4)
CAUSAL = dataclasses.replace(METHOD, causal=True)
DIRECT = dataclasses.replace(METHOD, direct=True)
KINDS = pytest.mark.parametrize("method", [METHOD, CAUSAL, DIRECT], ids=["anatomy", "causal", "direct"])
TREE, K, FIELD = METHOD.tree, METHOD.joints.num_joints, METHOD.receptive_field
TERMS = {"joints", "drawn", "augmented", "lengths", "augmented_lengths", "directions", "shifts"}


def training_batch(method: Anatomy3D = METHOD, size: int = 3, seed: int = 0) -> dict:
    """Random people 5 m away from a pinhole camera."""
    rng = np.random.default_rng(seed)
    stream = synthetic_batch(method.spec(size), seed)["source"]
    for field in ("joints_3d", "drawn_3d"):
        stream[field] = rng.normal(0, 0.5, stream[field].shape).astype(np.float32)
        stream[field] -= stream[field][:, :, TREE.root, None]
    stream["camera"] = np.tile(np.array([2.3, 2.3, 0, 0, 0, 0, 0, 0, 0], np.float32), (size, 1))
    return {"source": jax.tree.map(jnp.asarray, stream)}


def sequences(count: int = 7, size: int = 2, seed: int = 0) -> np.ndarray:
    """[size, count, K, 3] (u, v, score)."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(-1, 1, (size, count, K, 2))
    return np.concatenate([keypoints, rng.random((size, count, K, 1))], -1).astype(np.float32)


def inference_batch(method: Anatomy3D, sequence: np.ndarray, behind: int = 0, **fields) -> dict:
    """Sequences with `behind` frames of padding, of which the last is repeated."""
    size, count = sequence.shape[:2]
    padded = np.pad(sequence, ((0, 0), (0, behind), (0, 0), (0, 0)), mode="edge")
    frames = np.broadcast_to(np.arange(count + behind) < count, (size, count + behind))
    return {"source": {"window": method.pad(padded), "frames": frames, "valid": np.ones(size, bool)} | fields}


def variables_of(method: Anatomy3D) -> dict:
    """Fresh variables with running statistics that are not neutral; the same for all methods that can share them."""
    return _variables(method.direct)


@functools.cache
def _variables(direct: bool) -> dict:
    variables = dict((DIRECT if direct else METHOD).init(jax.random.key(0)))
    rng = np.random.default_rng(1)
    stats = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), variables["batch_stats"])
    return variables | {"batch_stats": stats}


@functools.cache
def compiled(method: Anatomy3D, name: str):
    return jax.jit(getattr(method, name))


def forward(method: Anatomy3D, batch: dict) -> dict:
    return jax.device_get(compiled(method, "forward")(variables_of(method), batch))


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"widths": ()}, "widths"),
            ({"widths": (3, 4)}, r"widths is \(3, 4\).*odd numbers"),
            ({"widths": (1, 3)}, "widths"),
            ({"middle_label": True}, "middle_label"),
            ({"dropout": 1.0}, "dropout"),
            ({"channels": 0}, "channels"),
            ({"num_drawn": 0}, "num_drawn"),
            ({"length_frames": -1}, "length_frames"),
            ({"bn_momentum_end": 0.5}, "bn_momentum is 0.1.*0.5"),
            ({"skeleton": "lsp"}, "parents.*'lsp', of which no tree is known"),
            ({"parents": (-1, 0)}, "parents.*one for each of the skeleton's 25 joints"),
            ({"parents": (-1, -1)}, "parents: .*2 roots"),
        ],
    )
    def test_what_cannot_work_is_refused(self, fields, message):
        with pytest.raises(ConfigError, match=message):
            Anatomy3D(**{"skeleton": "marionette"} | fields)

    def test_any_skeleton_with_parents_will_do(self):
        method = Anatomy3D(skeleton="lsp", parents=(1, 2, 12, 12, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12))
        assert method.tree.num_bones == 13

    def test_windows(self):
        assert (FIELD, METHOD.padding, METHOD.label_frame) == (15, (7, 7), 7)
        assert (CAUSAL.padding, CAUSAL.label_frame) == ((14, 0), 14)
        assert dataclasses.replace(CAUSAL, middle_label=True).label_frame == 7


@pytest.mark.parametrize(("levels", "parameters"), [(3, 31_885_932), (4, 45_531_756), (5, 59_177_580)])
def test_published_sizes(levels, parameters):
    variables = jax.eval_shape(Anatomy3D(widths=(3,) * levels).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@functools.cache
def targets(method: Anatomy3D, seed: int = 2) -> dict:
    """The stream of `training_batch` with targets for training."""
    return jax.jit(functools.partial(method.targets, train=True))(training_batch(), jax.random.key(seed))["source"]


class TestTargets:
    source = training_batch()["source"]

    def test_labels(self):
        joints = self.source["joints_3d"]
        for method in (METHOD, CAUSAL):
            labels = targets(method)
            assert_array_equal(labels["joints"], joints[:, method.label_frame])
            assert_allclose(labels["lengths"], bones.lengths(TREE, joints).mean(1), rtol=1e-6)
            assert_allclose(labels["directions"], bones.directions(TREE, labels["joints"]), rtol=1e-6)

    def test_augmented_people_have_other_bones_in_the_same_pose(self):
        stream = targets(METHOD)
        before, after = stream["drawn_3d"], stream["augmented_3d"]
        assert_array_equal(before, self.source["drawn_3d"])
        lengths = np.asarray(bones.lengths(TREE, before))
        change = np.asarray(bones.lengths(TREE, after)) - lengths
        bound = 0.3 * lengths.mean((0, 1))
        assert (np.abs(change) <= bound + 1e-4).all()
        assert_allclose(change, np.broadcast_to(change[:, :1], change.shape), atol=1e-5)
        assert np.abs(change).max() > 0.1 * bound.max()
        assert_allclose(bones.directions(TREE, after), bones.directions(TREE, before), atol=1e-3)
        assert_allclose(stream["augmented_lengths"], bones.lengths(TREE, after).mean(1), rtol=1e-4)

    def test_augmented_people_stand_before_the_camera(self):
        still = dataclasses.replace(METHOD, trajectory_deviation=0.0)
        stream = targets(still)
        joints = stream["augmented_3d"] + np.array([0, -0.3, 5], np.float32)
        assert_allclose(stream["augmented"], cameras.project(joints, stream["camera"]), atol=1e-5)
        shift = np.asarray(targets(METHOD)["augmented"] - stream["augmented"])[:, :, TREE.root]
        assert 0.05 < shift.std() < 0.5
        assert len(np.unique(shift[..., 0])) == shift[..., 0].size

    def test_aliased_targets_of_the_original_code(self):
        stream = targets(dataclasses.replace(METHOD, alias_rand_target=True))
        assert_array_equal(stream["drawn_3d"], stream["augmented_3d"])
        assert_array_equal(stream["drawn"], self.source["drawn"])

    def test_keys_decide(self):
        assert not np.array_equal(targets(METHOD)["augmented"], targets(METHOD, 3)["augmented"])
        targets.cache_clear()
        again = targets(METHOD)["augmented"]
        targets.cache_clear()
        assert_array_equal(again, targets(METHOD)["augmented"])


class TestLosses:
    @pytest.mark.parametrize("method", [METHOD, DIRECT], ids=["anatomy", "direct"])
    def test_training_lowers_the_loss(self, method):
        batch = {"source": targets(method)}
        variables = variables_of(method)

        @jax.jit
        def step(variables, key):
            def loss(params):
                return method.loss(variables | {"params": params}, batch, 0, key)

            (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            params = jax.tree.map(lambda p, g: p - 0.003 * jnp.sign(g), variables["params"], gradient)
            return {"params": params, "batch_stats": aux.batch_stats}, value, aux.metrics

        values = []
        for i in range(20):
            variables, value, metrics = step(variables, jax.random.key(i))
            values.append(float(value))
        assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])
        terms = {"joints"} if method.direct else TERMS
        assert set(metrics) == {f"loss_{name}" for name in terms} | {"mpjpe_mm"}
        assert all(np.isfinite(v) and np.shape(v) == () for v in metrics.values())

    def test_each_part_learns_from_its_own_losses(self):
        """Which parts of the network a term's gradient reaches."""
        method = dataclasses.replace(METHOD, dropout=0.0)
        variables, stream = variables_of(METHOD), targets(METHOD)

        @jax.jit
        def gradients(params):
            def terms(params):
                inputs = stream["window"], stream["drawn"], stream["augmented"]
                outputs, _ = method.module().apply(
                    variables | {"params": params}, *inputs, train=True, mutable=["batch_stats"]
                )
                return method.criterion(outputs, stream, 1)

            values, pull = jax.vjp(terms, params)
            zero = dict.fromkeys(values, jnp.zeros(()))
            norms = {name: pull(zero | {name: jnp.ones(())})[0] for name in values}
            return jax.tree.map(lambda g: jnp.abs(g).max(), norms)

        reached = {
            name: {part for part, leaves in parts.items() if max(jax.tree.leaves(leaves)) > 0}
            for name, parts in jax.device_get(gradients(variables["params"])).items()
        }
        second = {"contexts", "propagation", "direction2"}
        assert reached == {
            "joints": {"fusion"},
            "drawn": {"frame"},
            "augmented": {"frame"},
            "lengths": {"attention"},
            "augmented_lengths": {"attention"},
            "directions": {"trunk", "direction1"} | second,
            "shifts": {"trunk", "direction1", "shift1", "shift2"} | second,
        }

    def test_statistics_of_the_trunk_follow_the_step(self):
        method = dataclasses.replace(METHOD, bn_momentum_steps=100, bn_momentum_end=0.001)
        variables = variables_of(METHOD)
        batch = {"source": targets(METHOD)}
        run = jax.jit(lambda step: method.loss(variables, batch, step, jax.random.key(1))[1].batch_stats)
        early, late = run(jnp.asarray(0)), run(jnp.asarray(100))
        moved = {
            part: jax.tree.map(lambda a, b: np.abs(a - b).max(), early[part], variables["batch_stats"][part])
            for part in early
        }
        for part, norms in early.items():
            for name, leaves in norms.items():
                same = jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), leaves, late[part][name]))
                follows = part == "trunk" and name != "score_bn"
                assert same != follows, f"{part}/{name}"
                assert moved[part][name]["mean"] > 0
        before, name = variables["batch_stats"]["trunk"]["expand_bn"]["mean"], "expand_bn"
        fast, slow = (stats["trunk"][name]["mean"] - before for stats in (early, late))
        assert_allclose(slow, 0.01 * fast, rtol=1e-2, atol=1e-6)

    def test_momentum_falls_in_steps_of_an_epoch(self):
        method = dataclasses.replace(METHOD, bn_momentum_steps=40, bn_momentum_every=10)
        momentum = [float(method.norm_momentum(jnp.asarray(step))) for step in (0, 9, 10, 20, 40)]
        assert_allclose(momentum, [0.1, 0.1, 0.1 * 0.01**0.25, 0.01, 0.001], rtol=1e-5)
        assert float(METHOD.norm_momentum(jnp.asarray(10**6))) == pytest.approx(0.1)


class TestSequences:
    @KINDS
    def test_each_frame_is_that_of_its_window(self, method):
        batch = inference_batch(method, sequences())
        outputs, window = forward(method, batch), batch["source"]["window"]
        slide = compiled(method, "slide")
        for frame in range(7):
            lengths = (
                outputs["lengths"][:, frame if method.causal else 0] if "lengths" in outputs else np.zeros((2, 24))
            )
            alone = slide(variables_of(method), window[:, frame : frame + FIELD], lengths)
            assert_allclose(alone, outputs["joints"][:, frame], atol=1e-5)

    @KINDS
    def test_padding_behind_a_sequence_has_no_effect(self, method):
        batch = inference_batch(method, sequences(5), behind=2)
        usual, end = forward(method, batch), method.padding[0] + 5 + method.padding[1]
        batch["source"]["window"] = batch["source"]["window"].at[:, end:].set(9)
        for name, values in forward(method, batch).items():
            values, expected = (x if x.shape[1] == 1 else x[:, :5] for x in (values, usual[name]))
            assert_allclose(values, expected, atol=1e-6, err_msg=name)

    def test_causal_poses_do_not_know_the_future(self):
        sequence = sequences()
        changed = sequence.copy()
        changed[:, 4:] = sequences(seed=5)[:, 4:]
        before, after = (forward(CAUSAL, inference_batch(CAUSAL, s)) for s in (sequence, changed))
        for name in before:
            assert_allclose(after[name][:, :4], before[name][:, :4], atol=1e-6)
            assert np.abs(after[name][:, 4:] - before[name][:, 4:]).max() > 1e-3

    def test_one_frame_is_a_sequence(self):
        frame = sequences(1)
        one, many = (forward(METHOD, inference_batch(METHOD, np.repeat(frame, n, 1))) for n in (1, 7))
        assert_allclose(one["joints"][:, 0], many["joints"][:, 6], atol=1e-5)

    def test_chunks_bound_memory_only(self):
        batch = inference_batch(METHOD, sequences())
        at_once, in_chunks = (forward(m, batch) for m in (dataclasses.replace(METHOD, chunk=64), METHOD))
        for name, values in at_once.items():
            assert_allclose(values, in_chunks[name], atol=1e-6)

    def test_known_lengths_are_used(self):
        lengths = np.random.default_rng(0).uniform(0.1, 0.5, (2, TREE.num_bones)).astype(np.float32)
        batch = inference_batch(METHOD, sequences())
        measured, given = forward(METHOD, batch), forward(METHOD, inference_batch(METHOD, sequences(), lengths=lengths))
        assert_array_equal(given["lengths"], lengths[:, None])
        assert_array_equal(given["directions"], measured["directions"])
        again = forward(METHOD, inference_batch(METHOD, sequences(), lengths=measured["lengths"][:, 0]))
        assert_allclose(again["joints"], measured["joints"], atol=1e-6)

    def test_frames_must_fit_the_window(self):
        batch = inference_batch(METHOD, sequences())
        batch["source"]["frames"] = batch["source"]["frames"][:, 1:]
        with pytest.raises(ValueError, match="window has 21 frames and frames 6, but a receptive field of 15"):
            METHOD.forward(variables_of(METHOD), batch)

    def test_outputs_are_float32_in_bfloat16(self):
        batch = inference_batch(METHOD, sequences())
        for method in (METHOD, DIRECT):
            half = dataclasses.replace(method, dtype="bfloat16")
            outputs = jax.eval_shape(half.forward, variables_of(method), batch)
            assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}


class TestFlipTest:
    @KINDS
    def test_a_mirrored_person_has_the_mirrored_pose(self, method):
        method = dataclasses.replace(method, flip_test=True)
        sequence = sequences()
        lengths = np.random.default_rng(0).uniform(0.1, 0.5, (2, TREE.num_bones)).astype(np.float32)
        mirrored_lengths = lengths[:, TREE.flip(method.joints.flip_index)]
        pose, mirrored = (
            forward(method, inference_batch(method, s, lengths=x))["joints"]
            for s, x in ((sequence, lengths), (np.array(method.mirror(sequence)), mirrored_lengths))
        )
        assert_allclose(method.mirror(mirrored), pose, atol=1e-5)

    def test_it_averages(self):
        batch = inference_batch(METHOD, sequences())
        window = METHOD.mirror(batch["source"]["window"])
        plain, mirrored = (
            forward(METHOD, {"source": batch["source"] | {"window": w}})["joints"]
            for w in (batch["source"]["window"], window)
        )
        both = forward(dataclasses.replace(METHOD, flip_test=True), batch)["joints"]
        assert_allclose(both, (plain + METHOD.mirror(mirrored)) / 2, atol=1e-5)


def test_some_frames_of_the_past_tell_the_lengths():
    some = dataclasses.replace(CAUSAL, length_frames=3)
    batch = inference_batch(CAUSAL, sequences())
    ours, again, all_frames = (forward(m, batch)["lengths"] for m in (some, some, CAUSAL))
    assert_array_equal(ours, again)
    assert_allclose(ours[:, :3], all_frames[:, :3], atol=1e-6)
    assert np.abs(ours[:, 3:] - all_frames[:, 3:]).max() > 1e-4


class TestDecoding:
    def decode(self, method: Anatomy3D, batch: dict) -> tuple[np.ndarray, object]:
        joints = np.random.default_rng(0).normal(size=(*batch["source"]["frames"].shape, K, 3)).astype(np.float32)
        return joints, jax.device_get(method.decode({"joints": joints}, batch))

    def test_millimetres_and_scores_of_the_frames(self):
        for method in (METHOD, CAUSAL):
            batch = inference_batch(method, sequences(5), behind=2)
            batch["source"]["valid"] = np.array([True, False])
            joints, poses = self.decode(method, batch)
            assert_allclose(poses.keypoints, 1000 * joints, rtol=1e-6)
            assert_array_equal(poses.scores[:, :5], sequences(5)[..., 2])
            assert_array_equal(poses.person_score, 1)
            assert_array_equal(poses.valid, [[True] * 5 + [False] * 2, [False] * 7])

    def test_middle_labels_come_late(self):
        method = dataclasses.replace(CAUSAL, middle_label=True)
        joints, poses = self.decode(method, inference_batch(method, sequences(10), behind=2))
        assert_allclose(poses.keypoints[:, :5], 1000 * joints[:, 7:], rtol=1e-6)
        assert_array_equal(poses.valid, np.broadcast_to(np.arange(12) < 3, (2, 12)))

    def test_a_batch_of_the_host_is_all_it_takes(self):
        poses = compiled(METHOD, "predict")(variables_of(METHOD), inference_batch(METHOD, sequences()))
        assert poses.keypoints.shape == (2, 7, K, 3)
        assert poses.valid.all()
