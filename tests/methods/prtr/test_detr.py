import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.prtr.detr import COCO_PERSON, DETR
from jaxpose.methods.top_down import IMAGENET_MEAN, IMAGENET_STD
from jaxpose.types import synthetic_batch

WIDTH, HEIGHT = 96, 64
N, Q = 4, 10
METHOD = DETR(
    input_size=(WIDTH, HEIGHT),
    backbone="resnet18",
    backbone_width=4,
    backbone_stages=(1, 1, 1, 1),
    frozen_norm=False,
    frozen_stages=0,
    dilation=True,
    hidden_dim=20,
    heads=2,
    encoder_layers=1,
    decoder_layers=2,
    feedforward=16,
    dropout=0.0,
    num_queries=Q,
    max_people=N,
)
SIZES = np.array([[96, 64], [70, 64], [96, 40]], np.float32)
COUNTS = np.array([4, 1, 2])
criterion, match = jax.jit(METHOD.criterion), jax.jit(METHOD.match)


def host_batch(method: DETR = METHOD, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    stream = synthetic_batch(method.spec(3), seed)["source"]
    stream["size"] = SIZES
    low, high = np.sort(rng.random((2, 3, N, 2)), axis=0) * SIZES[:, None]
    stream["boxes"] = np.concatenate([low, high - low], -1).astype(np.float32)
    stream["people"] = np.arange(N) < COUNTS[:, None]
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


def proposals(layers: int = 2, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Random logits and boxes of every layer."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(layers, 3, Q, METHOD.num_classes + 1))
    boxes = rng.uniform(0.2, 0.8, (layers, 3, Q, 4))
    return jnp.asarray(logits, jnp.float32), jnp.asarray(boxes, jnp.float32)


def truth(seed: int = 1) -> tuple[jax.Array, jax.Array]:
    labels = np.where(np.arange(N) < COUNTS[:, None], 0, -1)
    targets = np.random.default_rng(seed).uniform(0.2, 0.8, (3, N, 4)) * (labels >= 0)[..., None]
    return jnp.asarray(labels), jnp.asarray(targets, jnp.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_people": 101}, "max_people is 101"),
        ({"person_class": 1}, "person_class is 1"),
        ({"short_side": 1500}, "short_side is 1500"),
        ({"bucket": 48}, "bucket is 48"),
        ({"backbone": "hrnet_w32", "input_size": (100, 128)}, r"input_size is \(100, 128\)"),
        ({"heads": 7}, "heads is 7"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        DETR(**fields)


def test_parameters_of_the_published_model():
    shapes = jax.eval_shape(DETR(num_classes=91, person_class=1).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 41_524_768


def test_network_outputs(variables, prepared):
    stream = prepared["source"]
    outputs = jax.eval_shape(METHOD.module().apply, variables, stream["image"], stream["inside"])
    assert {name: value.shape for name, value in outputs.items()} == {"logits": (2, 3, Q, 2), "boxes": (2, 3, Q, 4)}
    assert set(variables["params"]) == {"backbone", "detector"}


def test_padding_is_zero_after_normalisation(prepared):
    raw, stream = host_batch()["source"], prepared["source"]
    assert_array_equal(stream["inside"][1], np.broadcast_to(np.arange(WIDTH) < 70, (HEIGHT, WIDTH)))
    assert_array_equal(stream["inside"][2], np.broadcast_to(np.arange(HEIGHT)[:, None] < 40, (HEIGHT, WIDTH)))
    expected = (raw["image"] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    inside = np.asarray(stream["inside"])
    assert_allclose(stream["image"][inside], expected[inside], atol=1e-5)
    assert not np.any(stream["image"][~inside])


def test_targets_are_fractions_of_the_image_without_padding(prepared):
    raw, stream = host_batch()["source"], prepared["source"]
    x, y, w, h = raw["boxes"][1, 0]
    assert_allclose(stream["targets"][1, 0], [(x + w / 2) / 70, (y + h / 2) / 64, w / 70, h / 64], rtol=1e-5)
    assert_array_equal(stream["labels"], np.where(raw["people"], 0, -1))
    assert not np.any(stream["targets"][~raw["people"]])


def test_rows_without_a_person_have_no_query():
    labels, targets = truth()
    columns = np.asarray(match(*proposals(), labels, targets))
    assert_array_equal((columns >= 0).sum(-1), np.broadcast_to(COUNTS, (2, 3)))
    for row in columns.reshape(-1, N):
        chosen = row[row >= 0]
        assert len(set(chosen)) == len(chosen)
    garbage = jnp.where(labels[..., None] >= 0, targets, 0.9)
    assert_array_equal(match(*proposals(), labels, garbage), columns)


def test_perfect_proposals_are_found_and_cost_nothing():
    labels, targets = truth()
    logits, boxes = proposals(layers=1)
    places = np.random.default_rng(2).permutation(Q)[:N]
    boxes = boxes.at[0, :, places].set(jnp.swapaxes(jnp.where(labels[..., None] >= 0, targets, 0.5), 0, 1))
    logits = jnp.full_like(logits, 0).at[..., 1].set(20)
    logits = logits.at[0, :, places, 0].set(jnp.where(labels >= 0, 40, 0).T)
    columns = match(logits, boxes, labels, targets)
    assert_array_equal(columns[0], np.where(labels >= 0, places, -1))
    for name, value in criterion(logits, boxes, labels, targets, columns).items():
        assert_allclose(value, 0, atol=1e-5, err_msg=name)


def losses_of(logits, boxes, labels, targets) -> dict:
    return criterion(logits, boxes, labels, targets, match(logits, boxes, labels, targets))


def test_criterion_does_not_depend_on_the_order_of_queries_or_people():
    (logits, boxes), (labels, targets) = proposals(), truth()
    rng = np.random.default_rng(3)
    queries, people = rng.permutation(Q), rng.permutation(N)
    one = losses_of(logits, boxes, labels, targets)
    two = losses_of(logits[:, :, queries], boxes[:, :, queries], labels[:, people], targets[:, people])
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), one, two)


def test_boxes_count_alike_whatever_image_they_are_in():
    (logits, boxes), (labels, targets) = proposals(), truth()
    whole = losses_of(logits, boxes, labels, targets)
    parts = [losses_of(logits[:, i, None], boxes[:, i, None], labels[i, None], targets[i, None]) for i in range(3)]
    for name in ("loss_bbox", "loss_giou"):
        expected = sum(part[name] * count for part, count in zip(parts, COUNTS, strict=True)) / COUNTS.sum()
        assert_allclose(whole[name], expected, rtol=1e-5)


def test_nobody_in_the_whole_batch():
    logits, boxes = proposals()
    labels, targets = jnp.full((3, N), -1), jnp.zeros((3, N, 4))

    def total(boxes):
        return METHOD.total(criterion(logits, boxes, labels, targets, jnp.full((2, 3, N), -1)))

    value, gradient = jax.jit(jax.value_and_grad(total))(boxes)
    assert np.isfinite(value)
    assert_array_equal(gradient, 0)


def test_training_step_fits_one_batch(variables, prepared, step):
    params, stats, losses = variables["params"], variables["batch_stats"], []
    for _ in range(40):
        (loss, aux), gradients = step(params, stats, prepared)
        params = jax.tree.map(lambda p, g: p - 0.003 * g / (1e-6 + jnp.sqrt((g**2).mean())), params, gradients)
        stats = aux.batch_stats
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]
    assert set(aux.metrics) == {"loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error"}


def test_every_parameter_learns(variables, prepared, step):
    _, gradients = step(variables["params"], variables["batch_stats"], prepared)
    paths = flax.traverse_util.flatten_dict(gradients, sep="/")
    first = ("detector/decoder/layer0/self_attention", "detector/decoder/layer0/norm1")  # sees zeros at first
    assert {path for path, gradient in paths.items() if not jnp.any(gradient) and not path.startswith(first)} == set()


def test_only_the_last_layer_without_auxiliary_losses():
    logits, boxes = proposals()
    outputs = {"logits": logits, "boxes": boxes}
    assert [len(part) for part in METHOD.trained_layers(outputs)] == [2, 2]
    last = dataclasses.replace(METHOD, aux_loss=False).trained_layers(outputs)
    assert_array_equal(last[1], boxes[-1:])


def test_boxes_come_out_in_pixels_of_the_original_image():
    stream = host_batch()["source"]
    stream["to_image"] = np.tile(np.array([[2.0, 0, 0], [0, 3.0, 0]], np.float32), (3, 1, 1))
    stream["valid"] = np.array([True, True, False])
    boxes = jnp.broadcast_to(jnp.array([0.5, 0.5, 0.2, 0.4]), (3, Q, 4))
    logits = jnp.zeros((3, Q, 2)).at[..., 0].set(jnp.log(3.0))
    found = METHOD.decode({"logits": logits, "boxes": boxes}, {"source": stream})
    assert_allclose(found.boxes[1, 0], [0.4 * 70 * 2, 0.3 * 64 * 3, 0.2 * 70 * 2, 0.4 * 64 * 3], rtol=1e-5)
    assert_allclose(found.scores, 0.75, rtol=1e-6)
    assert_array_equal(found.valid.all(-1), stream["valid"])


def test_other_classes_are_no_people():
    method = dataclasses.replace(METHOD, num_classes=3, person_class=1)
    logits = jnp.zeros((3, Q, 4)).at[:, 0, 1].set(2).at[:, 1, 2].set(2).at[:, 2, 3].set(9).at[:, 2, 1].set(1)
    found = method.decode({"logits": logits, "boxes": proposals()[1][0]}, host_batch())
    assert_array_equal(found.labels[:, :3], [[1, 2, 1]] * 3)
    assert_array_equal(found.valid[:, :3], [[True, False, True]] * 3)
    assert (found.scores[:, 2] < 0.01).all()


def test_prediction_is_per_image(variables, predict):
    batch = host_batch()
    found = predict(variables, batch)
    assert found.boxes.shape == (3, Q, 4)
    reverse = predict(variables, {"source": {k: v[::-1] for k, v in batch["source"].items()}})
    assert_allclose(reverse.boxes[::-1], found.boxes, atol=1e-2)
    assert_allclose(reverse.scores[::-1], found.scores, atol=1e-4)


def test_what_lies_in_the_padding_has_no_influence(variables, predict):
    batch = host_batch()
    found = predict(variables, batch)
    image = batch["source"]["image"].copy()
    image[1, :, 70:], image[2, 40:] = 255, 0
    again = predict(variables, {"source": batch["source"] | {"image": image}})
    assert_allclose(again.boxes, found.boxes, atol=1e-3)


def test_an_image_that_is_padding_alone_gives_numbers(variables, predict):
    batch = host_batch()
    batch["source"]["size"] = np.zeros((3, 2), np.float32)
    assert np.isfinite(predict(variables, batch).scores).all()


@pytest.mark.parametrize(
    ("size", "extent", "canvas"),
    [
        ((640, 480), (1066, 800), (1088, 832)),
        ((480, 640), (800, 1066), (832, 1088)),
        ((1000, 200), (1335, 267), (1344, 320)),
    ],
)
def test_layout_of_images(size, extent, canvas):
    layout = DETR().layout(*size)
    assert layout.extent == extent
    assert layout.sizes == (canvas,)
    (matrix,) = layout.to_canvas
    assert matrix.shape == (2, 3)
    assert_allclose(matrix @ [*size, 1], extent)


def test_detector_of_all_classes_starts_one_of_people():
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(16, 92)), "bias": rng.normal(size=92)}
    loaded = {"params": {"detector": {"class_head": head, "queries": np.zeros((Q, 16))}}}
    adopted = METHOD.adopt(loaded, {})["params"]["detector"]
    assert_array_equal(adopted["class_head"]["kernel"], head["kernel"][:, [COCO_PERSON, 91]])
    assert_array_equal(adopted["class_head"]["bias"], head["bias"][[COCO_PERSON, 91]])
    assert "queries" in adopted
    assert METHOD.adopt({}, {}) == {}
    whole = dataclasses.replace(METHOD, num_classes=91, person_class=1).adopt(loaded, {})
    assert whole["params"]["detector"]["class_head"]["bias"].shape == (92,)
