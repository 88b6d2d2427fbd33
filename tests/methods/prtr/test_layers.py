"""What decoder layers look at, as the networks themselves say it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose.errors import ConfigError
from jaxpose.methods.prtr.deformable import ring
from jaxpose.methods.prtr.detr import DETR
from jaxpose.methods.prtr.method import PRTR
from jaxpose.methods.prtr.sequential_prtr import SequentialPRTR
from jaxpose.methods.prtr.tiny import RESNET, TRANSFORMER
from jaxpose.training import optim
from jaxpose.types import synthetic_batch

SMALL = RESNET | TRANSFORMER | {"decoder_layers": 3, "num_queries": 20}
SIZE = (64, 96)
DENSE = PRTR(**SMALL, input_size=SIZE, flip_test=False)
DEFORMABLE = dataclasses.replace(DENSE, deformable=True, decoder_points=3)
SEQUENTIAL = SequentialPRTR(
    **SMALL,
    input_size=(96, 64),
    dropout=0.0,
    short_side=64,
    long_side=96,
    max_people=3,
    keypoint_dim=16,
    keypoint_heads=2,
    keypoint_encoder_layers=1,
    keypoint_decoder_layers=2,
    keypoint_feedforward=16,
    keypoint_queries=18,
    crop_size=(4, 5),
    top_people=3,
)


@functools.cache
def run(method):
    """(views, what the method predicts, batch) for random pictures; queries of the second of PRTR's layers are zero."""
    variables = method.init(jax.random.key(1))
    assert set(variables) <= {"params", "batch_stats"}
    asked = "decoder/layer1/cross_attention/query/"
    flat = optim.flatten(variables["params"])
    flat = {path: jnp.zeros_like(value) if path.startswith(asked) else value for path, value in flat.items()}
    variables["params"] = optim.unflatten(flat)
    batch = {"source": dict(synthetic_batch(method.spec(2))["source"])}
    batch["source"]["to_image"] = np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1))
    if "size" in batch["source"]:
        batch["source"]["size"] = np.array([[96, 64], [70, 50]], np.float32)
    views, poses = jax.jit(lambda v, b: (method.layer_views(v, b), method.predict(v, b)))(variables, batch)
    return views, poses, batch


def test_cells_of_the_map():
    views, poses, batch = run(DENSE)
    assert views.grid == (3, 2)
    assert views.keypoints.shape == (3, 2, 17, 2)
    np.testing.assert_allclose(views.keypoints[-1], poses.keypoints[:, 0], atol=1e-4)
    np.testing.assert_allclose(views.scores, poses.scores[:, 0], atol=1e-6)
    np.testing.assert_array_equal(views.person_score, batch["source"]["person_score"])
    assert views.weights.shape == (3, 2, 17, 6)
    np.testing.assert_allclose(views.weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(views.places[0, 0, 0], [[x, y] for y in (15.5, 47.5, 79.5) for x in (15.5, 47.5)])
    np.testing.assert_array_equal(views.regions, [[-0.5, -0.5, 64, 96]] * 2)


def test_weights_are_those_of_the_layer():
    """Queries that ask for nothing attend to all cells alike, in the layer where they do so alone."""
    views, _, _ = run(DENSE)
    np.testing.assert_allclose(views.weights[1], 1 / 6, atol=1e-6)
    assert np.ptp(views.weights[0], -1).min() > 1e-3
    assert np.ptp(views.weights[2], -1).min() > 1e-3


def test_places_of_the_deformable_form():
    """At first every head reads along its own direction from the query's reference, everything with equal weight."""
    views, poses, _ = run(DEFORMABLE)
    heads, levels, points = 2, 4, 3
    assert views.grid is None
    assert views.places.shape == (3, 2, 17, heads * levels * points, 2)
    np.testing.assert_allclose(views.keypoints[-1], poses.keypoints[:, 0], atol=1e-4)
    np.testing.assert_allclose(views.weights, 1 / (heads * levels * points), atol=1e-6)
    offsets = ring(heads, levels, points).reshape(heads, levels, points, 2)
    strides = np.stack([[64 / columns, 96 / rows] for rows, columns in ((12, 8), (6, 4), (3, 2), (2, 1))])
    expected = (offsets * strides[:, None]).reshape(-1, 2)
    away = views.places - views.places.mean(-2, keepdims=True)
    np.testing.assert_allclose(away, np.broadcast_to(expected - expected.mean(0), away.shape), atol=1e-3)
    first = views.keypoints[0] - 0.5  # the head of positions adds nothing yet: joints are at their references
    np.testing.assert_allclose(views.places[0].mean(-2), first + expected.mean(0), atol=1e-3)


def test_people_in_a_whole_image():
    views, poses, batch = run(SEQUENTIAL)
    assert views.grid == (5, 4)
    assert views.keypoints.shape == (2, 6, 17, 2)
    assert np.isnan(views.keypoints[0]).all()
    np.testing.assert_allclose(views.keypoints[1], poses.keypoints.reshape(6, 17, 2), atol=1e-3)
    np.testing.assert_allclose(views.scores, poses.scores.reshape(6, 17), atol=1e-5)
    np.testing.assert_allclose(views.person_score, poses.detections.scores.reshape(6), atol=1e-5)
    assert views.weights.shape == (2, 6, 17, 20)
    np.testing.assert_allclose(views.weights.sum(-1), 1, atol=1e-5)
    boxes = poses.detections.boxes.reshape(6, 4)
    center, regions = boxes[:, :2] + boxes[:, 2:] / 2, views.regions
    np.testing.assert_allclose(regions[:, :2] + regions[:, 2:] / 2, center - 0.5, atol=1e-3)
    np.testing.assert_allclose(regions[:, 2:], 1.25 * boxes[:, 2:] + 1, atol=1e-3)
    np.testing.assert_allclose(views.places.mean(-2)[0, :, 0], center - 0.5, atol=1e-3)


def test_one_person_of_many():
    views = jax.device_get(run(SEQUENTIAL)[0])
    own = views.of(4)
    assert own.keypoints.shape == (2, 17, 2)
    np.testing.assert_array_equal(own.weights, views.weights[:, 4])
    np.testing.assert_array_equal(own.places, views.places[:, 4])
    np.testing.assert_array_equal(own.regions, views.regions[4])


def test_nothing_is_kept_where_nobody_asks():
    """Neither in training nor in prediction does the network put out its attention."""
    method = DENSE
    variables = method.init(jax.random.key(0))
    batch = method.targets(synthetic_batch(method.spec(2)), jax.random.key(0), train=True)
    stream = batch["source"]
    trained = jax.eval_shape(
        lambda v, x: method.module().apply(v, x, train=True, mutable=["batch_stats"]), variables, stream["image"]
    )
    assert set(trained[1]) == {"batch_stats"}
    assert set(jax.eval_shape(method.module().apply, variables, stream["image"])) == {"logits", "keypoints"}


def test_methods_without_joints_in_layers_are_refused():
    with pytest.raises(ConfigError, match="DETR has no decoder layers that look for joints"):
        DETR().layer_views({}, {})
