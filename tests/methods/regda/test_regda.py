import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import config as configs
from jaxpose import methods, sharding
from jaxpose.data import build
from jaxpose.errors import ConfigError
from jaxpose.methods.regda.method import LABELS, RegDA, scale_gradient, warm_start
from jaxpose.ops import heatmaps
from jaxpose.runs import digest
from jaxpose.runs.state import TrainState
from jaxpose.training import optim, train_step
from jaxpose.training.loop import train
from jaxpose.training.pretrained import merge_pretrained
from jaxpose.training.train_step import accumulated_grad, apply_phase
from jaxpose.types import synthetic_batch

K = 16
TINY = RegDA(
    input_size=(32, 48),
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1),
    deconv_features=(6,),
    deconv_kernels=(4,),
)
PLAIN = dataclasses.replace(TINY, adaptation="none", head_layers=1)
GROUPS = (
    {"name": "features", "match": "^(backbone|upsampling)/", "multiplier": 0.1},
    {"name": "head", "match": "^head/"},
    {"name": "adversary", "match": "^adversary/"},
)


def host_batch(method: RegDA = TINY, size: int = 4) -> dict:
    rng = np.random.default_rng(0)
    batch = synthetic_batch(method.spec(size))
    for stream in batch.values():
        if "keypoints" in stream:
            stream["keypoints"] = (rng.random((size, K, 2)) * method.input_size).astype(np.float32)
            stream["visible"] = (rng.random((size, K)) < 0.7).astype(np.float32)
    return batch


@functools.cache
def optimizer(weight_decay: float = 1e-4) -> optim.Optimizer:
    config = configs.optim()
    config.update({"optimizer": "sgd", "nesterov": True, "learning_rate": 0.1, "weight_decay": weight_decay})
    config.groups = GROUPS
    return optim.create(config, total_steps=1)


def start(method: RegDA, step: int, weight_decay: float = 1e-4) -> TrainState:
    """A state in which maps are far from flat, so that gradients are not all tiny."""
    variables = method.init(jax.random.key(0))
    for name in ("head", "adversary"):
        if name in variables["params"]:
            kernel = variables["params"][name]["final_layer"]["kernel"]
            variables["params"][name]["final_layer"]["kernel"] = 300 * kernel
    params = variables["params"]
    return TrainState(jnp.int32(step), params, variables["batch_stats"], optimizer(weight_decay).init(params))


@functools.cache
def compiled_step(method: RegDA, weight_decay: float = 1e-4):
    return jax.jit(functools.partial(train_step.train_step, method=method, optimizer=optimizer(weight_decay), seed=0))


@functools.cache
def compiled_phase(method: RegDA, index: int, weight_decay: float = 1e-4):
    def run(state, batch):
        phase = method.phases()[index]
        key = jax.random.key(0)
        return train_step.apply_phase(state, batch, key, phase, optimizer(weight_decay), train_step.accumulated_grad)

    return jax.jit(run)


def changed(before: TrainState, after: TrainState) -> set[str]:
    """Names of the parts of the network whose parameters differ."""
    old, new = optim.flatten(before.params), optim.flatten(after.params)
    return {path.partition("/")[0] for path in old if not np.array_equal(old[path], new[path])}


# --- labels of the target ---


def test_no_label_of_the_target_reaches_a_step():
    """They are not in the spec; and were they in the batch, unknown or absurd ones give the same step bit for bit."""
    assert set(TINY.spec(1)["target"]) == set(TINY.spec(1)["source"]) - set(LABELS)
    batch = host_batch()
    batch["target"] |= {name: batch["source"][name] for name in LABELS}
    absurd = batch | {"target": batch["target"] | {name: batch["target"][name] * np.nan for name in LABELS}}
    assert set(TINY.targets(batch, jax.random.key(0), train=True)["target"]) == {"image", "weight"}
    results = [compiled_step(TINY)(start(TINY, 500), b) for b in (batch, absurd)]
    jax.tree.map(assert_array_equal, *results)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results[0]))


def run_with_target(folder, workdir, monkeypatch, change) -> tuple[dict, list[dict]]:
    """Digests of the state after two steps of a whole run, and which fields were sent to the device."""
    config = tiny.config(folder, "regda")
    config.train.update({"steps": 2, "checkpoint_every": 2})
    original, sent = build.train_examples, []

    def changed(*args):
        examples = original(*args)
        return examples | {"target": change(examples["target"])}

    def put(batch, mesh):
        sent.append({name: set(stream) for name, stream in batch.items()})
        return original_put(batch, mesh)

    original_put = sharding.put_batch
    with monkeypatch.context() as patch:
        patch.setattr(build, "train_examples", changed)
        patch.setattr(sharding, "put_batch", put)
        state = train(config, workdir)
    return digest.digests((state.params, state.batch_stats, state.opt_state)), sent


def test_no_label_of_the_target_leaves_the_host(tmp_path, monkeypatch):
    """Neither does its absence change a whole run, nor do labels of the target that are no numbers."""
    folder = tiny.write_coco(tmp_path / "data")

    def poisoned(examples):
        assert examples.people.visibility.any()
        bad = {"keypoints": np.nan * examples.people.keypoints, "visibility": 0 * examples.people.visibility}
        return dataclasses.replace(examples, people=dataclasses.replace(examples.people, **bad))

    found = [
        run_with_target(folder, tmp_path / name, monkeypatch, change)
        for name, change in (("labelled", lambda examples: examples), ("poisoned", poisoned))
    ]
    assert found[0][0] == found[1][0]
    for _, sent in found:
        assert len(sent) == 2
        for fields in sent:
            assert set(LABELS) <= fields["source"]
            assert not set(LABELS) & fields["target"]


def test_a_target_needs_no_annotations(tmp_path):
    """A folder of pictures is enough."""
    config = tiny.config(tiny.write_coco(tmp_path, images=4), "regda")
    target = {"source": "folder", "train": {"images": "images", "boxes": "image"}}
    config.data.streams = ConfigDict({"target": target})
    method = methods.create(config.method)
    examples = build.train_examples(config, method)
    with contextlib.closing(build.TrainBatches(config, examples, 0, method.spec(1))) as batches:
        batch = next(batches)
    spec = method.spec(config.train.batch_size)
    assert {name: {k: v.shape for k, v in s.items()} for name, s in batch.items()} == {
        name: {k: v.shape for k, v in s.items()} for name, s in spec.items()
    }
    assert batch["target"]["image"].any()


def test_weights_of_the_target_are_an_option_that_uses_labels():
    method = dataclasses.replace(TINY, target_weights=True)
    assert set(method.spec(1)["target"]) >= set(LABELS)
    batch = host_batch(method)
    batch["target"]["visible"][:] = 0
    batch["target"]["visible"][1, 3] = 1
    weight = method.targets(batch, jax.random.key(0), train=True)["target"]["weight"]
    assert_array_equal(np.argwhere(weight), [[1, 3]])
    assert_array_equal(TINY.targets(batch, jax.random.key(0), train=True)["target"]["weight"], np.ones((4, K)))


def test_labels_are_drawn_where_the_centre_is_inside():
    batch = host_batch()
    batch["source"]["keypoints"][:, 0] = -9
    batch["source"]["visible"][:] = 1
    stream = TINY.targets(batch, jax.random.key(0), train=True)["source"]
    centre = np.trunc(batch["source"]["keypoints"] / 4 + 0.5)
    assert_array_equal(stream["weight"], ((centre >= 0) & (centre < [8, 12])).all(-1))
    assert not np.any(stream["target"][..., 0])
    drawn = np.asarray(stream["weight"]) > 0
    assert_array_equal(np.asarray(heatmaps.maxima(stream["target"])[0])[drawn], centre[drawn])


def test_evaluation_needs_no_target():
    batch = {"source": host_batch()["source"]}
    poses = jax.jit(TINY.predict)(TINY.init(jax.random.key(0)), batch)
    assert poses.keypoints.shape == (4, 1, K, 2)


# --- phases ---


def test_each_phase_moves_its_groups_and_all_statistics():
    state, batch = start(TINY, 500), TINY.targets(host_batch(), jax.random.key(0), train=True)
    features = {"backbone", "upsampling"}
    for index, parts in enumerate((features | {"head", "adversary"}, {"adversary"}, features)):
        after, metrics = compiled_phase(TINY, index)(state, batch)
        assert changed(state, after) == parts
        assert metrics[f"finite/{TINY.phases()[index].name}"]
        still = jax.tree.map(np.array_equal, state.batch_stats, after.batch_stats)
        assert not any(jax.tree.leaves(still))
        owners = {name for name in state.opt_state if changed_tree(state.opt_state[name], after.opt_state[name])}
        assert owners == {("features" if part in features else part) for part in parts}
        state = after


ODD_GROUPS = (
    {"name": "stem", "match": "^backbone/conv1/", "frozen": True},
    {"name": "features", "match": "^(backbone|upsampling)/", "multiplier": 0.1, "weight_decay": 0.0},
    {"name": "head", "match": "^head/", "weight_decay": 0.03},
    {"name": "adversary", "match": "^adversary/", "multiplier": 0.5, "weight_decay": 0.02},
)
PHASE_GROUPS = (("features", "head", "adversary"), ("adversary",), ("features",))


def test_every_leaf_moves_as_its_group_says():
    """Nesterov's momentum, decay and rate, of each group its own: all leaves of two steps against their formulas."""
    config = configs.optim()
    config.update({"optimizer": "sgd", "nesterov": True, "learning_rate": 0.1, "groups": ODD_GROUPS})
    config.schedule.update({"name": "inverse", "gamma": 1e-4, "power": 0.75})
    tx = optim.create(config, total_steps=1)
    fields = {group["name"]: group for group in ODD_GROUPS}
    begun = start(TINY, 500)
    state = begun.replace(opt_state=tx.init(begun.params))
    batch = TINY.targets(host_batch(), jax.random.key(0), train=True)
    owner = tx.assign(list(optim.flatten(state.params)))
    velocity = {path: np.zeros(leaf.shape) for path, leaf in optim.flatten(state.params).items()}
    gradients = [jax.jit(jax.grad(phase.loss, has_aux=True)) for phase in TINY.phases()]
    steps = [
        jax.jit(lambda s, b, p=phase: apply_phase(s, b, jax.random.key(0), p, tx, accumulated_grad))
        for phase in TINY.phases()
    ]
    for step in (500, 501):
        state = state.replace(step=jnp.int32(step))
        rate = 0.1 * (1 + 1e-4 * step) ** -0.75
        for gradient, apply, moving in zip(gradients, steps, PHASE_GROUPS, strict=True):
            grads = optim.flatten(gradient(state.variables, batch, state.step, jax.random.key(0))[0]["params"])
            before = optim.flatten(state.params)
            state, _ = apply(state, batch)
            for path, after in optim.flatten(state.params).items():
                group = fields[owner[path]]
                if group["name"] not in moving:
                    assert_array_equal(after, before[path], err_msg=path)
                    continue
                decayed = np.asarray(grads[path], np.float64) + group["weight_decay"] * before[path]
                velocity[path] = decayed + 0.9 * velocity[path]
                moved = before[path] - rate * group.get("multiplier", 1) * (decayed + 0.9 * velocity[path])
                assert_allclose(after, moved, rtol=1e-4, atol=1e-6, err_msg=path)
    assert set(state.opt_state) == {"features", "head", "adversary"}
    assert set(changed(begun, state)) == {"backbone", "upsampling", "head", "adversary"}
    assert_array_equal(state.params["backbone"]["conv1"]["kernel"], begun.params["backbone"]["conv1"]["kernel"])


def changed_tree(old, new) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))


def test_before_the_warm_start_the_adversary_does_not_pull_at_the_features():
    """Without weight decay and momentum, step C of the first iteration leaves everything where it is."""
    batch = TINY.targets(host_batch(), jax.random.key(0), train=True)
    for step, parts in ((0, set()), (500, {"backbone", "upsampling"})):
        state = start(TINY, step, weight_decay=0.0)
        after, _ = compiled_phase(TINY, 2, 0.0)(state, batch)
        assert changed(state, after) == parts


def test_a_step_is_the_three_phases_in_turn():
    batch = host_batch()
    whole, metrics = compiled_step(TINY)(start(TINY, 500), batch)
    state, prepared = start(TINY, 500), TINY.targets(batch, jax.random.key(0), train=True)
    for index, phase in enumerate(TINY.phases()):
        state, values = compiled_phase(TINY, index)(state, prepared)
        assert_allclose(metrics[f"{phase.name}/loss"], values["loss"], rtol=1e-4)
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-3, atol=1e-5), whole.params, state.params)
    assert int(whole.step) == 501
    assert_allclose(metrics["source/coefficient"], warm_start(500))


def test_the_disparity_discrepancy_drives_the_adversary_away_from_the_prediction():
    """One phase has the same loss as the features' with the opposite sign, and lets the adversary disagree more."""
    method = dataclasses.replace(TINY, adaptation="disparity")
    state, batch = start(method, 500), method.targets(host_batch(), jax.random.key(0), train=True)
    _, adversary, features = method.phases()
    losses = [jax.jit(p.loss)(state.variables, batch, state.step, jax.random.key(0))[0] for p in (adversary, features)]
    assert_allclose(losses[0], -losses[1], rtol=1e-5)
    after, _ = compiled_phase(method, 1)(state, batch)
    assert changed(state, after) == {"adversary"}
    disagreement = jax.jit(features.loss)(after.variables, batch, state.step, jax.random.key(0))[0]
    assert disagreement > losses[1]


def test_learning_from_labels_alone_lowers_the_loss():
    batch = {"source": host_batch(PLAIN)["source"]}
    for loss in ("kl", "mse"):
        method = dataclasses.replace(PLAIN, loss=loss)
        assert set(method.spec(1)) == {"source"}
        config = configs.optim()
        config.update({"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 0.0})
        tx = optim.create(config, total_steps=1)
        variables = method.init(jax.random.key(0))
        params = variables["params"]
        state = TrainState(jnp.int32(0), params, variables["batch_stats"], tx.init(params))
        step = jax.jit(functools.partial(train_step.train_step, method=method, optimizer=tx, seed=0))
        losses = []
        for _ in range(40):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < 0.8 * losses[0]


# --- gradients ---


@given(st.integers(0, 200_000), st.floats(0.1, 10), st.floats(0, 1), st.floats(0, 1))
def test_warm_start_is_the_published_quotient(step, alpha, low, high):
    published = 2 * (high - low) / (1 + np.exp(-alpha * step / 1000)) - (high - low) + low
    assert_allclose(warm_start(step, alpha, low, high), published, rtol=1e-5, atol=1e-7)


def test_gradients_are_scaled_and_values_are_not():
    x = jnp.array([1e-8, 3.0, -1e20])
    assert_array_equal(scale_gradient(x, 0.3), x)
    assert_allclose(jax.grad(lambda x: (x * scale_gradient(x, 0.3)).sum())(x), 1.3 * x, rtol=1e-6)


# --- variables ---


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 54_176_864),
        ({"backbone": "resnet50"}, 35_184_736),
        ({"adaptation": "none", "head_layers": 1}, 52_991_568),
        ({"adaptation": "none", "head_layers": 1, "backbone": "resnet50"}, 33_999_440),
    ],
)
def test_networks_are_as_large_as_the_original_ones_without_classifier(fields, count):
    params = jax.eval_shape(RegDA(**fields).init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_adaptation_starts_from_features_alone():
    pretrained, fresh = PLAIN.init(jax.random.key(1)), TINY.init(jax.random.key(0))
    adopted = TINY.adopt(pretrained, fresh)
    for collection in ("params", "batch_stats"):
        assert set(adopted[collection]) == {"backbone", "upsampling"}
    merged = merge_pretrained(fresh, adopted, "a run")
    assert_array_equal(
        merged["params"]["backbone"]["conv1"]["kernel"], pretrained["params"]["backbone"]["conv1"]["kernel"]
    )
    jax.tree.map(assert_array_equal, merged["params"]["head"], fresh["params"]["head"])
    assert TINY.adopt(fresh, fresh) is fresh  # what has an adversary was adapted before and goes on as a whole
    assert PLAIN.adopt(pretrained, fresh) is pretrained
    assert TINY.adopt({}, fresh) == {}


# --- inference ---


def test_decode():
    maps = np.full((2, 12, 8, K), -20, np.float32)
    maps[:, 5, 3] = 20
    maps[:, :, :, 1] = -1
    stream = {
        "to_image": np.tile(np.array([[2.0, 0, 10], [0, 2, -5]], np.float32), (2, 1, 1)),
        "person_score": np.array([0.5, 1.0], np.float32),
        "valid": np.array([True, False]),
    }
    poses = jax.jit(TINY.decode)({"maps": maps}, {"source": stream})
    expected = np.tile([3 * 8 + 10, 5 * 8 - 5], (K, 1))
    expected[1] = 10, -5  # nothing above 0
    assert_allclose(poses.keypoints[0, 0], expected)
    assert_allclose(poses.scores[:, 0, 0], 1, rtol=1e-5)
    assert_allclose(poses.scores[:, 0, 1], 16 / 96, rtol=1e-5)  # 4 x 4 of 12 x 8 equal pixels lie in the window
    assert_array_equal(poses.valid[:, 0], [True, False])


# --- configuration ---


def test_created_by_name():
    method = methods.create(
        {"name": "regda", "backbone": "resnet18", "deconv_features": [8, 8], "deconv_kernels": [4, 2]}
    )
    assert (method.stride, method.map_size) == (8, (32, 32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adaptation": "dann"}, "adaptation is 'dann', but RegDA needs one of regda, disparity, none"),
        ({"loss": "mse"}, "loss is 'mse'"),
        ({"loss": "l1", "adaptation": "none"}, "one of kl, mse"),
        ({"window": "round"}, "one of square, disc"),
        ({"backbone": "hrnet_w32"}, "backbone"),
        ({"deconv_features": ()}, "deconv_features"),
        ({"deconv_kernels": (4, 4)}, "a size of 4, 3 or 2 for each of the 3"),
        ({"deconv_kernels": (4, 4, 5)}, "deconv_kernels"),
        ({"head_layers": 0}, "head_layers"),
        ({"sigma": 0.0}, "sigma"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"warm_start_steps": 0}, "warm_start_steps"),
        ({"input_size": (100, 128)}, "multiples of 32"),
    ],
)
def test_values_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        RegDA(**fields)
