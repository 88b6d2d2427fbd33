import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.dsnt import coordinates as dsnt
from jaxpose.methods.dsnt.method import DSNT
from jaxpose.ops import heatmaps
from jaxpose.types import synthetic_batch

WIDTH, HEIGHT, K = 48, 32, 16
TINY = {"input_size": (WIDTH, HEIGHT), "backbone": "resnet18", "backbone_width": 4, "backbone_stages": (1, 1)}
METHOD = DSNT(dilate=0, **TINY)
FC = dataclasses.replace(METHOD, strategy="fc")
GAUSS = dataclasses.replace(METHOD, strategy="gauss", regularizer="none")
METRICS = {"coord_loss", "reg_loss", "error_px"}
HOURGLASS = DSNT(input_size=(128, 64), backbone="hourglass", backbone_width=8, stacks=2, dilate=0)


def host_batch(method: DSNT = METHOD, size: int = 2, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    stream = synthetic_batch(method.spec(size), seed)["source"]
    stream["keypoints"] = (rng.random((size, K, 2)) * method.input_size).astype(np.float32)
    stream["visible"] = (rng.random((size, K)) < 0.7).astype(np.float32)
    stream["to_image"] = np.tile(np.array([[2.0, 0.0, 10.0], [0.0, 2.0, -5.0]], np.float32), (size, 1, 1))
    return {"source": stream}


def prepared(method: DSNT = METHOD, **fields) -> dict:
    return method.targets(host_batch(method, **fields), jax.random.key(1), train=False)


def maps_at(points: np.ndarray, sigma: float = 0.3) -> jax.Array:
    """Logits [B, 4, 6, K] of Gaussians at normalized points [B, K, 2]."""
    return jnp.log(dsnt.make_gauss(points, (4, 6), sigma) + 1e-24)


def random_maps(seed: int = 0, stacks: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(stacks, 2, 4, 6, K)), jnp.float32)


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"strategy": "argmax"}, "strategy is 'argmax'.*dsnt, fc, gauss"),
            ({"rectifier": "tanh"}, "rectifier"),
            ({"regularizer": "l2"}, "regularizer"),
            ({"coordinate_loss": "huber"}, "coordinate_loss"),
            ({"variance_units": "cells"}, "variance_units"),
            ({"sigma": 0.0}, "sigma"),
            ({"flip_shift": True}, "flip_shift"),
            ({"backbone": "vgg16"}, "backbone"),
            ({"dilate": 4}, "dilate is 4.*0 to 3"),
            ({"dilate": 0, "truncate": 4}, "truncate"),
            ({"dilate": 1, "truncate": 1}, "truncate is 1.*0 where dilate is not 0"),
            ({"stacks": 2}, "stacks"),
            ({"input_size": (225, 224)}, "multiples of 8"),
            ({"strategy": "gauss"}, "regularizer is 'js'"),
            ({"strategy": "gauss", "regularizer": "none", "rectifier": "relu"}, "rectifier"),
            ({"backbone": "hourglass"}, "dilate is 2"),
            ({"backbone": "hourglass", "dilate": 0}, "multiples of 64"),
            ({"backbone": "hourglass", "dilate": 0, "input_size": (256, 256), "strategy": "fc"}, "strategy"),
        ],
    )
    def test_what_cannot_work_is_refused(self, fields, message):
        with pytest.raises(ConfigError, match=message):
            DSNT(**fields)


class TestNetwork:
    @pytest.mark.parametrize(
        ("fields", "parameters", "shape"),
        [
            ({"backbone": "resnet18", "dilate": 0}, 11_184_704, (7, 7)),
            ({"backbone": "resnet34", "dilate": 2}, 21_292_864, (28, 28)),
            ({"backbone": "resnet50", "dilate": 3}, 23_540_800, (56, 56)),
            ({"backbone": "resnet101", "dilate": 1}, 42_532_928, (14, 14)),
            ({"backbone": "resnet18", "dilate": 0, "strategy": "fc"}, 11_184_704 + 2 * 49 + 2, (7, 7)),
            (
                {"backbone": "hourglass", "dilate": 0, "stacks": 2, "input_size": (256, 256)},
                6_730_912,
                (64, 64),
            ),
        ],
        ids=lambda value: "-".join(str(v) for v in value.values()) if isinstance(value, dict) else None,
    )
    def test_published_sizes(self, fields, parameters, shape):
        method = DSNT(**fields)
        variables = jax.eval_shape(method.init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
        image = jax.ShapeDtypeStruct((1, *method.input_size[::-1], 3), jnp.float32)
        maps = jax.eval_shape(method.maps, variables, image)
        assert maps.shape == (1, *shape, K)
        assert method.map_shape == shape

    def test_truncation_leaves_out_stages(self):
        method = DSNT(backbone="resnet18", dilate=0, truncate=1)
        params = jax.eval_shape(method.init, jax.random.key(0))["params"]
        assert not any(name.startswith("layer4") for name in params["backbone"])
        assert params["head"]["kernel"].shape == (1, 1, 256, K)
        assert method.map_shape == (14, 14)

    def test_logits_are_float32_in_bfloat16(self):
        for method in (METHOD, HOURGLASS):
            half = dataclasses.replace(method, dtype="bfloat16")
            variables = jax.eval_shape(half.init, jax.random.key(0))
            image = jax.ShapeDtypeStruct((1, *half.input_size[::-1], 3), jnp.float32)
            assert jax.eval_shape(half.maps, variables, image).dtype == jnp.float32


class TestTargets:
    def test_points_and_masks(self):
        batch = host_batch(size=3)
        stream = batch["source"]
        stream["keypoints"][0, :3] = [[-0.5, 5], [WIDTH - 0.5, 5], [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]]
        stream["visible"][0, :4] = [1, 2, 1, 0]
        stream["keypoints"][0, 3] = np.nan
        stream["valid"][2] = False
        labels = METHOD.targets(batch, jax.random.key(0), train=True)["source"]
        assert_allclose(labels["points"][0, :4, 0], [-1, 1, 0, 0], atol=1e-6)
        assert_array_equal(labels["labelled"][0, :4], [True, True, True, False])
        assert_array_equal(labels["mask"][0, :4], [False, False, True, False])
        assert not labels["labelled"][2].any()

    def test_colors_stay_as_they_are(self):
        batch = host_batch()
        image = METHOD.targets(batch, jax.random.key(0), train=False)["source"]["image"]
        assert_allclose(image, batch["source"]["image"] / 255, atol=1e-6)


class TestLosses:
    points = np.random.default_rng(3).uniform(-0.8, 0.8, (2, K, 2)).astype(np.float32)
    mask = np.random.default_rng(4).random((2, K)) < 0.6

    @pytest.mark.parametrize("regularizer", ["none", "variance", "kl", "js", "mse"])
    def test_criterion_is_the_sum_over_joints_that_count(self, regularizer):
        method = dataclasses.replace(METHOD, regularizer=regularizer, coordinate_loss="l1")
        maps = random_maps()
        losses = method.criterion({"maps": maps}, self.points, self.mask)
        found, probabilities = dsnt.logits_to_points(maps[0])
        distance = np.abs(found - self.points).mean(-1)
        assert_allclose(losses["coord_loss"], [distance[self.mask].mean()], rtol=1e-5)
        each = np.asarray(method.regularization(probabilities, self.points))
        assert_allclose(losses["reg_loss"], [each[self.mask].mean()], rtol=1e-5)
        assert (losses["reg_loss"] > 0).all() == (regularizer != "none")

    def test_variance_units_of_the_experiments(self):
        pixels = dataclasses.replace(METHOD, regularizer="variance")
        normalized = dataclasses.replace(pixels, variance_units="normalized")
        square = dsnt.flat_softmax(random_maps()[..., :4, :4, :])
        ratio = normalized.regularization(square, self.points) / pixels.regularization(square, self.points)
        assert_allclose(ratio, np.full_like(ratio, (2 / 4) ** 4), rtol=1e-4)

    def test_every_stack_counts(self):
        maps = random_maps(stacks=2)
        both = METHOD.criterion({"maps": maps}, self.points, self.mask)
        for stack in range(2):
            alone = METHOD.criterion({"maps": maps[stack : stack + 1]}, self.points, self.mask)
            for name, value in alone.items():
                assert_allclose(value[0], both[name][stack], rtol=1e-6)

    def test_matching_wants_empty_maps_for_unlabelled_joints_unless_masked(self):
        weight = self.mask[:, None, None, :]
        targets = dsnt.encode_heatmaps(self.points, (4, 6)) * weight
        maps = random_maps()
        squared = np.square(maps[0] - targets)
        ours = GAUSS.matching_losses(maps, self.points, self.mask)["coord_loss"]
        assert_allclose(ours, [squared.mean()], rtol=1e-5)
        masked = dataclasses.replace(GAUSS, mask_heatmaps=True)
        ours = masked.matching_losses(maps, self.points, self.mask)["coord_loss"]
        assert_allclose(ours, [squared.mean((1, 2))[self.mask].mean()], rtol=1e-5)

    @pytest.mark.parametrize("method", [FC, GAUSS], ids=["fc", "gauss"])
    def test_training_lowers_the_loss(self, method):
        batch, variables = prepared(method), method.init(jax.random.key(0))

        @jax.jit
        def step(variables):
            def loss(params):
                return method.loss(variables | {"params": params}, batch, 0, jax.random.key(0))

            (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            params = jax.tree.map(lambda p, g: p - 0.003 * jnp.sign(g), variables["params"], gradient)
            return {"params": params, "batch_stats": aux.batch_stats}, value, aux.metrics

        values = []
        for _ in range(12):
            variables, value, metrics = step(variables)
            values.append(float(value))
        assert values[-1] < 0.9 * values[0]
        assert set(metrics) == METRICS
        assert all(np.isfinite(v) and np.shape(v) == () for v in metrics.values())

    def test_hourglasses_fit_the_loss(self):
        batch, variables = prepared(HOURGLASS), jax.eval_shape(HOURGLASS.init, jax.random.key(0))

        def loss(params, batch_stats):
            variables = {"params": params, "batch_stats": batch_stats}
            return HOURGLASS.loss(variables, batch, 0, jax.random.key(0))

        step = jax.value_and_grad(loss, has_aux=True)
        (value, aux), gradient = jax.eval_shape(step, variables["params"], variables["batch_stats"])
        assert value.shape == ()
        assert {name: metric.shape for name, metric in aux.metrics.items()} == dict.fromkeys(METRICS, ())
        assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, variables["params"])


class TestInference:
    points = np.random.default_rng(5).uniform(-0.6, 0.6, (2, K, 2)).astype(np.float32)

    def test_positions_are_those_of_the_original_image(self):
        batch = prepared()
        poses = METHOD.decode({"maps": random_maps()[0]}, batch)
        expected = dsnt.normalized_to_pixel(dsnt.logits_to_points(random_maps()[0])[0], (WIDTH, HEIGHT))
        assert_allclose(poses.keypoints[:, 0], expected * 2 + np.array([10, -5]), rtol=1e-5)
        assert poses.scores.shape == (2, 1, K)
        assert ((poses.scores >= 0) & (poses.scores <= 1)).all()

    def test_scores_fall_with_doubt(self):
        far = jnp.asarray(self.points * np.array([-1.0, 1.0])) + jnp.array([0.0, 0.1])
        sure = maps_at(self.points)
        divided = jnp.logaddexp(sure, maps_at(np.sign(far) * 0.7))
        scores = [METHOD.read(maps)[1] for maps in (sure, divided, jnp.zeros_like(sure))]
        assert (scores[0] > 0.9).all()
        assert (scores[1] < scores[0]).all()
        assert (scores[2] < scores[0]).all()

    def test_people_with_wide_maps_keep_their_order(self):
        batch = prepared()
        batch["source"]["person_score"] = np.array([0.9, 0.3], np.float32)
        scores = FC.decode({"maps": jnp.zeros((2, 4, 6, K)), "points": jnp.zeros((2, K, 2))}, batch).person_score
        assert_allclose(scores[:, 0], np.array([0.9, 0.3]) / 24, rtol=1e-5)

    def test_matched_heatmaps_are_read_at_their_maximum(self):
        cells = np.array([[1, 2]] * K, np.float32)
        maps = 0.8 * dsnt.encode_heatmaps(dsnt.pixel_to_normalized(cells, (6, 4)), (4, 6))[None]
        positions, scores = GAUSS.read(maps)
        assert_allclose(positions[0], np.tile([(1 + 0.5) * 8 - 0.5, (2 + 0.5) * 8 - 0.5], (K, 1)), atol=1e-4)
        assert_allclose(scores, np.full((1, K), 0.8), rtol=1e-6)

    def test_flip_test_averages_logits(self):
        method = dataclasses.replace(METHOD, flip_test=True)
        variables, batch = method.init(jax.random.key(0)), prepared()
        image = batch["source"]["image"]
        ours = jax.jit(method.forward)(variables, batch)["maps"]
        maps = jax.jit(method.maps)
        back = heatmaps.flip_back(maps(variables, image[:, :, ::-1]), method.joints.flip_index, shift=False)
        assert_allclose(ours, (maps(variables, image) + back) / 2, atol=1e-5)

    def test_the_linear_layer_sees_the_averaged_logits(self):
        variables, batch = FC.init(jax.random.key(0)), prepared(FC)
        outputs = jax.jit(FC.forward)(variables, batch)
        layer = variables["params"]["regressor"]
        flat = np.asarray(dsnt.flat_softmax(outputs["maps"])).reshape(2, 24, K).swapaxes(1, 2)
        points = flat @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        assert_allclose(outputs["points"], points, atol=1e-5)
        poses = FC.decode(outputs, batch)
        pixels = dsnt.normalized_to_pixel(points, (WIDTH, HEIGHT))
        assert_allclose(poses.keypoints[:, 0], pixels * 2 + np.array([10, -5]), rtol=1e-4)


class TestMmposesForm:
    """Transposed convolutions, places at the cells' corners, and a flip test that averages positions."""

    METHOD = DSNT(
        input_size=(64, 32),
        backbone="resnet18",
        backbone_width=4,
        backbone_stages=(1, 1, 1),
        dilate=0,
        deconv_layers=2,
        deconv_features=8,
        corners=True,
        flip_points=True,
        flip_test=True,
        score="one",
    )

    def test_maps_are_as_large_as_the_transposed_convolutions_make_them(self):
        assert (self.METHOD.stride, self.METHOD.map_shape) == (4, (8, 16))
        maps = self.METHOD.maps(self.METHOD.init(jax.random.key(0)), jnp.zeros((1, 32, 64, 3)))
        assert maps.shape == (1, 8, 16, K)

    def test_a_cell_stands_for_its_corner(self):
        maps = np.full((1, 8, 16, K), -1e9, np.float32)
        maps[:, 3, 5] = 0
        positions, scores = self.METHOD.read(jnp.asarray(maps))
        assert_allclose(positions, np.broadcast_to([20.0, 12.0], (1, K, 2)), atol=1e-5)
        assert_array_equal(scores, np.ones((1, K)))

    def test_labels_are_in_the_same_frame(self):
        method, batch = self.METHOD, host_batch(self.METHOD)
        points = method.labels(batch["source"])["points"]
        labelled = batch["source"]["visible"] > 0
        pixels = np.asarray(method.to_pixels(points))
        assert_allclose(pixels[labelled], batch["source"]["keypoints"][labelled], rtol=0, atol=1e-4)

    def test_the_flip_test_averages_positions(self, monkeypatch):
        """Of a crop and its mirror image, whose pixel x is pixel W - 1 - x of the crop."""
        method, seen = self.METHOD, []

        def maps(self, variables, image):
            seen.append(image)
            given = np.full((4, 8, 16, K), -1e9, np.float32)
            given[::2, 2, 3] = given[1::2, 4, 6] = 0
            return jnp.asarray(given)

        monkeypatch.setattr(DSNT, "maps", maps)
        batch = prepared(method)
        outputs = method.forward({}, batch)
        assert_array_equal(seen[0][1::2], batch["source"]["image"][:, :, ::-1])
        expected = [((3 * 4) + (63 - 6 * 4)) / 2, (2 * 4 + 4 * 4) / 2]
        assert_allclose(method.to_pixels(outputs["points"]), np.broadcast_to(expected, (2, K, 2)), atol=1e-4)

    @pytest.mark.parametrize(
        "fields",
        [{"deconv_layers": 6}, {"backbone": "hourglass", "dilate": 0, "deconv_layers": 1}, {"score": "peak"},
         {"flip_points": True, "strategy": "fc"}],
    )  # fmt: skip
    def test_what_cannot_work_is_refused(self, fields):
        with pytest.raises(ConfigError):
            DSNT(**{"dilate": 0} | fields)
