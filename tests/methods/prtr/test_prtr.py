import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.prtr.method import PRTR
from jaxpose.methods.top_down import IMAGENET_MEAN, IMAGENET_STD
from jaxpose.types import synthetic_batch

SIZE = (32, 64)
METHOD = PRTR(
    input_size=SIZE,
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1, 1, 1),
    frozen_norm=False,
    frozen_stages=0,
    hidden_dim=16,
    heads=2,
    encoder_layers=1,
    decoder_layers=2,
    feedforward=16,
    num_queries=20,
    channels="rgb",
)
K, Q = 17, 20
criterion = jax.jit(METHOD.criterion)


def host_batch(size: int = 4, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    stream = synthetic_batch(METHOD.spec(size), seed)["source"]
    stream["keypoints"] = (rng.random((size, K, 2)) * SIZE).astype(np.float32)
    stream["visible"] = (rng.random((size, K)) < 0.7).astype(np.float32)
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
def predict():
    return jax.jit(METHOD.predict)


def proposals(size: int = 3, seed: int = 0, method: PRTR = METHOD) -> dict:
    """What a network might say: for every joint one query is sure of it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, Q, K + 1))
    queries = np.stack([rng.permutation(Q)[:K] for _ in range(size)])
    logits[np.arange(size)[:, None], queries, np.arange(K)] += 12
    keypoints = rng.random((size, Q, 2))
    truth = np.take_along_axis(keypoints, queries[..., None], 1)
    return {"logits": logits.astype(np.float32), "keypoints": keypoints.astype(np.float32), "truth": truth}


def crops(size: int = 3) -> dict:
    to_image = np.tile(np.array([[2.0, 0.0, 10.0], [0.0, 2.0, -5.0]], np.float32), (size, 1, 1))
    return {
        "source": {
            "to_image": to_image,
            "person_score": np.linspace(0.5, 1.0, size).astype(np.float32),
            "valid": np.arange(size) < 2,
        }
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positional": "cosine"}, "positional is 'cosine'"),
        ({"channels": "grb"}, "channels is 'grb'"),
        ({"hidden_dim": 30}, "hidden_dim is 30"),
        ({"heads": 7}, "heads is 7"),
        ({"num_queries": 16}, "num_queries is 16"),
        ({"backbone": "hrnet_w32", "input_size": (100, 128)}, r"input_size is \(100, 128\)"),
        ({"backbone": "vgg16"}, "backbone is 'vgg16'"),
        ({"backbone": "resnet51"}, "backbone is 'resnet51'"),
        ({"skeleton": "octopus"}, "skeleton is 'octopus'"),
        ({"backbone": "hrnet_w32", "deformable": True}, "deformable is True"),
        ({"deformable": True, "pre_norm": True}, "pre_norm is True"),
        ({"feature_levels": 2}, "feature_levels is 2"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        PRTR(**fields)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 41_505_236),
        ({"backbone": "resnet101"}, 60_445_140),
        ({"backbone": "hrnet_w32"}, 57_234_004),
        ({"skeleton": "mpii"}, 41_505_236 - 257),
        ({"deformable": True}, 46_251_734),
        ({"deformable": True, "backbone": "resnet101"}, 65_191_638),
    ],
)
def test_parameters_of_published_models(fields, parameters):
    shapes = jax.eval_shape(PRTR(**fields).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.5, "positional": "learned", "pre_norm": True, "dilation": True}])
def test_network_outputs(fields):
    method = dataclasses.replace(METHOD, **fields)
    image = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    outputs, _ = jax.eval_shape(method.module().init_with_output, jax.random.key(0), image)
    assert {name: value.shape for name, value in outputs.items()} == {
        "logits": (2, 2, Q, K + 1),
        "keypoints": (2, 2, Q, 2),
    }


def test_parameter_paths_suit_groups(variables):
    assert set(variables["params"]) == {
        "backbone", "class_head", "decoder", "encoder", "input_projection", "keypoint_head", "queries"
    }  # fmt: skip


def test_targets_are_fractions_and_images_normalised(prepared):
    raw, stream = host_batch()["source"], prepared["source"]
    expected = (raw["image"] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert_allclose(stream["image"], expected, atol=1e-5)
    visible = raw["visible"] > 0
    assert_allclose(stream["targets"][visible], (raw["keypoints"] / SIZE)[visible], rtol=1e-6)
    assert not np.any(stream["targets"][~visible])


def test_bgr_swaps_colours_but_not_their_constants():
    raw = host_batch()
    swapped = dataclasses.replace(METHOD, channels="bgr").targets(raw, jax.random.key(0), train=False)
    expected = (raw["source"]["image"][..., ::-1] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert_allclose(swapped["source"]["image"], expected, atol=1e-5)


def test_training_step_fits_one_batch(variables, prepared, step):
    params, stats, losses = variables["params"], variables["batch_stats"], []
    for _ in range(30):
        (loss, aux), gradients = step(params, stats, prepared)
        params = jax.tree.map(lambda p, g: p - 0.003 * g / (1e-6 + jnp.sqrt((g**2).mean())), params, gradients)
        stats = aux.batch_stats
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.6 * losses[0]
    assert set(aux.metrics) == {"loss_ce", "loss_kpts", "class_error", "cardinality_error"}


def test_every_parameter_learns(variables, prepared, step):
    _, gradients = step(variables["params"], variables["batch_stats"], prepared)
    paths = flax.traverse_util.flatten_dict(gradients, sep="/")
    still = {path for path, gradient in paths.items() if not jnp.any(gradient)}
    # The first self-attention of the decoder sees zeros at the start of training, whatever the image.
    assert {
        path for path in still if not path.startswith(("decoder/layer0/self_attention", "decoder/layer0/norm1"))
    } == set()


def test_batch_statistics_move_only_in_training(variables, prepared, step):
    (_, aux), _ = step(variables["params"], variables["batch_stats"], prepared)
    before, after = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(aux.batch_stats)
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_criterion_does_not_depend_on_the_order_of_queries():
    outputs, rng = proposals(), np.random.default_rng(1)
    order = rng.permutation(Q)
    targets, visible = rng.random((3, K, 2)), np.ones((3, K))
    one = criterion(outputs["logits"][None], outputs["keypoints"][None], targets, visible)
    two = criterion(outputs["logits"][None, :, order], outputs["keypoints"][None, :, order], targets, visible)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), one, two)


def test_perfect_proposals_have_no_error():
    outputs = proposals()
    outputs["logits"][..., K] += 6 * (outputs["logits"][..., :K].max(-1) < 8)
    losses = criterion(
        outputs["logits"][None], outputs["keypoints"][None], outputs["truth"].astype(np.float32), np.ones((3, K))
    )
    assert_allclose(losses["loss_kpts"], 0, atol=1e-6)
    assert_allclose(losses["class_error"], 0, atol=1e-4)
    assert_allclose(losses["cardinality_error"], 0)
    assert losses["loss_ce"][0] < 0.05


def test_invisible_joints_are_classified_but_not_placed():
    outputs, rng = proposals(), np.random.default_rng(2)
    targets = rng.random((3, K, 2)).astype(np.float32)
    visible = np.ones((3, K), np.float32)
    visible[:, 5] = 0

    def losses(keypoints, visible):
        return criterion(outputs["logits"][None], keypoints[None], targets, visible)

    gradient = jax.grad(lambda k: losses(k, visible)["loss_kpts"].sum())(outputs["keypoints"])
    assert_array_equal((gradient != 0).any(-1).sum(-1), K - 1)
    hidden, shown = losses(outputs["keypoints"], visible), losses(outputs["keypoints"], np.ones((3, K)))
    assert_array_equal(hidden["loss_ce"], shown["loss_ce"])
    assert hidden["loss_kpts"][0] < shown["loss_kpts"][0]


def test_loss_is_normalised_by_the_whole_batch():
    outputs, rng = proposals(6), np.random.default_rng(3)
    targets, visible = rng.random((6, K, 2)), np.ones((6, K))

    def losses(rows):
        logits, keypoints = outputs["logits"][None, rows], outputs["keypoints"][None, rows]
        return criterion(logits, keypoints, targets[rows], visible[rows])

    whole, first, second = losses(slice(None)), losses(slice(0, 3)), losses(slice(3, 6))
    for name in ("loss_ce", "loss_kpts"):
        assert_allclose(whole[name], (first[name] + second[name]) / 2, rtol=1e-5)


def test_decoding_finds_planted_joints_in_image_pixels():
    outputs = proposals()
    poses = METHOD.decode({k: outputs[k] for k in ("logits", "keypoints")}, crops())
    expected = outputs["truth"] * SIZE * 2 + [10, -5]
    assert_allclose(poses.keypoints[:, 0], expected, rtol=1e-4, atol=1e-3)
    assert (poses.scores > 0.9).all()
    person_score = crops()["source"]["person_score"] * poses.scores[:, 0].mean(-1)
    assert_allclose(poses.person_score[:, 0], person_score, rtol=1e-5)
    assert_array_equal(poses.valid[:, 0], [True, True, False])


def test_two_joints_never_share_a_query():
    logits = np.zeros((1, Q, K + 1), np.float32)
    logits[0, 3] = 5  # one query claims everything
    logits[0, 3, K] = 0
    keypoints = np.random.default_rng(0).random((1, Q, 2)).astype(np.float32)
    found, _ = METHOD.select(logits, keypoints)
    assert len(np.unique(np.asarray(found[0]), axis=0)) == K


def test_background_lowers_scores_only_if_asked():
    outputs = proposals()
    outputs["logits"][..., K] += 30
    _, scores = METHOD.select(outputs["logits"], outputs["keypoints"])
    _, lower = dataclasses.replace(METHOD, background_logit=True).select(outputs["logits"], outputs["keypoints"])
    assert (scores > 0.9).all()
    assert (lower < 0.01).all()


def test_person_without_a_confident_joint_scores_zero():
    outputs = {"logits": np.zeros((3, Q, K + 1), np.float32), "keypoints": np.zeros((3, Q, 2), np.float32)}
    assert_array_equal(METHOD.decode(outputs, crops()).person_score, 0)


@pytest.mark.parametrize(("flip_shift", "offset"), [(True, 0.5), (False, 0.0)])
def test_mirrored_prediction_averages_out(flip_shift, offset):
    """A network that is right about the crop and its mirror image. The original's way moves x by half a crop pixel."""
    outputs = proposals()
    flip = METHOD.joints.flip_index
    mirrored = outputs["keypoints"] * [-1, 1] + [1 - 1 / SIZE[0], 0]
    both = {
        "logits": outputs["logits"],
        "keypoints": outputs["keypoints"],
        "flipped_logits": outputs["logits"][..., [*flip, K]],
        "flipped_keypoints": mirrored.astype(np.float32),
    }
    poses = dataclasses.replace(METHOD, flip_shift=flip_shift).decode(both, crops())
    expected = (outputs["truth"] * SIZE + [offset, 0]) * 2 + [10, -5]
    assert_allclose(poses.keypoints[:, 0], expected, atol=1e-3)


def test_prediction_is_per_person(variables, predict):
    batch = host_batch()
    poses = predict(variables, batch)
    assert poses.keypoints.shape == (4, 1, K, 2)
    assert poses.valid.all()
    reverse = predict(variables, {"source": {k: v[::-1] for k, v in batch["source"].items()}})
    assert_allclose(reverse.keypoints[::-1], poses.keypoints, atol=1e-3)
    assert_allclose(reverse.scores[::-1], poses.scores, atol=1e-4)


def test_flip_test_runs_the_mirrored_crop(variables):
    batch = METHOD.targets(host_batch(2), jax.random.key(0), train=False)
    mirrored = {"source": batch["source"] | {"image": batch["source"]["image"][:, :, ::-1]}}
    forward = jax.jit(METHOD.forward)
    outputs, swapped = forward(variables, batch), forward(variables, mirrored)
    for name in ("logits", "keypoints"):
        assert_allclose(outputs[f"flipped_{name}"], swapped[name], atol=1e-4)
        assert_allclose(outputs[name], swapped[f"flipped_{name}"], atol=1e-4)


def test_frozen_backbone_keeps_statistics_and_first_stage():
    method = dataclasses.replace(METHOD, frozen_norm=True, frozen_stages=1)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    assert "bn1" not in shapes["params"]["backbone"]
    assert set(shapes["batch_stats"]["backbone"]["bn1"]) == {"scale", "bias", "mean", "var"}


# --- deformable variant ---

DEFORMABLE = dataclasses.replace(METHOD, deformable=True, dilation=True, encoder_points=2, decoder_points=3)


@pytest.fixture(scope="module")
def deformable_step():
    def loss(params, batch_stats, batch):
        return DEFORMABLE.loss({"params": params, "batch_stats": batch_stats}, batch, 0, jax.random.key(0))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_deformable_predictions_start_where_queries_look(prepared):
    variables = DEFORMABLE.init(jax.random.key(0))
    apply = jax.jit(lambda v, x: DEFORMABLE.module().apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    outputs, captured = apply(variables, prepared["source"]["image"])
    (reference,) = captured["intermediates"]["reference_points"]["__call__"]
    expected = np.broadcast_to(jax.nn.sigmoid(reference), outputs["keypoints"].shape)
    assert_allclose(outputs["keypoints"], expected, atol=1e-5)
    assert outputs["logits"].shape == (2, 4, Q, K + 1)


def test_every_parameter_of_the_deformable_variant_learns(prepared, deformable_step):
    variables = DEFORMABLE.init(jax.random.key(0))
    rng = np.random.default_rng(0)  # away from the zeros at the start, where little depends on anything
    params = jax.tree.map(lambda p: p + 0.05 * rng.normal(size=p.shape).astype(np.float32), variables["params"])
    losses = []
    for _ in range(20):
        (loss, _), gradients = deformable_step(params, variables["batch_stats"], prepared)
        losses.append(float(loss))
        if len(losses) == 1:
            still = [p for p, g in flax.traverse_util.flatten_dict(gradients, sep="/").items() if not jnp.any(g)]
            assert still == []
        params = jax.tree.map(lambda p, g: p - 0.003 * g / (1e-6 + jnp.sqrt((g**2).mean())), params, gradients)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("fields", "projections"), [({"feature_levels": 1}, 1), ({"feature_levels": 5, "positional": "learned"}, 5)]
)
def test_levels_of_the_deformable_variant(fields, projections):
    method = dataclasses.replace(DEFORMABLE, **fields)
    params = jax.eval_shape(method.init, jax.random.key(0))["params"]
    assert len([name for name in params if name.endswith("_conv")]) == projections
    assert params["level_vectors"].shape == (projections, 16)
    last = params[f"project{projections - 1}_conv"]["kernel"].shape
    assert last == ((1, 1, 32, 16) if projections == 1 else (3, 3, 16, 16))
