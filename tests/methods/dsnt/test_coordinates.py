"""The transform against exact answers and against double-precision formulas, in one, two and three dimensions."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.dsnt import coordinates as dsnt

SHAPES = {1: (7,), 2: (5, 8), 3: (3, 4, 5)}
JOINTS = 2
FEW = settings(max_examples=25, deadline=None)


@functools.cache
def compiled(function, *args):
    return jax.jit(lambda *x: function(*x, *args))


def maps_of(ndim: int, low: float = -6, high: float = 6):
    finite = st.floats(low, high, width=32)
    return arrays(np.float32, (2, *SHAPES[ndim], JOINTS), elements=finite)


def random_logits(ndim: int = 2, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(2, *SHAPES[ndim], JOINTS))).astype(np.float32)


anything = st.integers(1, 3).flatmap(lambda ndim: st.tuples(st.just(ndim), maps_of(ndim)))


class TestCoordinates:
    @FEW
    @given(arrays(np.float32, (4, 2), elements=st.floats(-3, 3, width=32)), st.integers(1, 500), st.integers(1, 500))
    def test_conversions_are_inverse(self, points, width, height):
        pixels = dsnt.normalized_to_pixel(points, (width, height))
        assert_allclose(dsnt.pixel_to_normalized(pixels, (width, height)), points, atol=1e-5)

    def test_edges_and_centers(self):
        assert_allclose(dsnt.cell_centers(4), [-0.75, -0.25, 0.25, 0.75])
        assert_allclose(dsnt.normalized_to_pixel(np.array([-1.0, 1.0]), (8, 4)), [-0.5, 3.5])
        assert_allclose(dsnt.normalized_to_pixel(np.array([-7 / 8, 3 / 4]), (8, 4)), [0, 3], atol=1e-6)

    @FEW
    @given(anything)
    def test_softmax_gives_distributions_with_means_inside(self, case):
        ndim, logits = case
        points, maps = compiled(dsnt.logits_to_points, ndim)(logits)
        dsnt.require_distributions(maps, ndim, tolerance=1e-5)
        assert points.shape == (2, JOINTS, ndim)
        assert (np.abs(points) < 1).all()

    @pytest.mark.parametrize("ndim", SHAPES)
    def test_a_single_cell_is_its_own_mean(self, ndim):
        """In the order x, y, z, against the array's order z, y, x."""
        rng = np.random.default_rng(ndim)
        cell = [rng.integers(n) for n in SHAPES[ndim]]
        maps = np.zeros((*SHAPES[ndim], 1), np.float32)
        maps[(*cell, 0)] = 1
        assert_allclose(dsnt.dsnt(maps, ndim, normalized=False)[0], cell[::-1])
        expected = dsnt.pixel_to_normalized(np.array(cell[::-1]), SHAPES[ndim][::-1])
        assert_allclose(dsnt.dsnt(maps, ndim)[0], expected, atol=1e-6)

    def test_mirrored_maps_have_mirrored_means(self):
        maps = dsnt.flat_softmax(random_logits())
        mirrored = dsnt.dsnt(maps[:, :, ::-1])
        assert_allclose(mirrored, dsnt.dsnt(maps) * jnp.array([-1, 1]), atol=1e-6)

    def test_the_resolution_does_not_move_the_mean(self):
        maps = dsnt.flat_softmax(random_logits())
        finer = maps.repeat(3, 1).repeat(2, 2) / 6
        assert_allclose(dsnt.dsnt(finer), dsnt.dsnt(maps), atol=1e-6)

    def test_reduced_precision_is_widened_first(self):
        logits = jnp.asarray(random_logits(), jnp.bfloat16)
        points, maps = dsnt.logits_to_points(logits)
        assert points.dtype == maps.dtype == jnp.float32
        assert_array_equal(points, dsnt.logits_to_points(logits.astype(jnp.float32))[0])

    def test_logits_in_place_of_maps_are_found(self):
        with pytest.raises(ValueError, match="make them from logits with flat_softmax"):
            dsnt.require_distributions(random_logits())
        with pytest.raises(ValueError, match="sum to between"):
            dsnt.require_distributions(np.full((4, 4, 1), np.nan))

    def test_sharpening_normalizes_each_map(self):
        maps = dsnt.flat_softmax(random_logits())
        sharp = dsnt.sharpen_heatmaps(maps, 3.0)
        dsnt.require_distributions(sharp)
        assert (np.asarray(dsnt.peak_confidence(sharp)) > np.asarray(dsnt.peak_confidence(maps))).all()

    def test_under_vmap(self):
        logits = random_logits()
        assert_allclose(jax.vmap(dsnt.logits_to_points)(logits)[0], dsnt.logits_to_points(logits)[0], atol=1e-6)


class TestRectifiers:
    @pytest.mark.parametrize("name", dsnt.RECTIFIERS)
    def test_sums_to_one_or_is_empty(self, name):
        logits = random_logits()
        logits[0, ..., 0] = -3  # nothing for relu and the threshold to keep
        total = np.asarray(dsnt.RECTIFIERS[name](logits).sum((1, 2)))
        empty = name in ("relu", "thresholded_softmax")
        assert_allclose(total, [[0 if empty else 1, 1], [1, 1]], atol=1e-5)

    @pytest.mark.parametrize("name", dsnt.RECTIFIERS)
    def test_gradients_stay_finite_on_empty_maps(self, name):
        def spread(logits):
            return jnp.square(dsnt.RECTIFIERS[name](logits)).sum()

        assert np.isfinite(jax.grad(spread)(jnp.zeros((4, 4, 1)))).all()

    def test_threshold_stops_gradients(self):
        logits = random_logits()
        gradient = jax.grad(lambda x: dsnt.dsnt(dsnt.thresholded_softmax(x)).sum())(logits)
        assert (np.asarray(gradient)[logits < -0.5] == 0).all()
        assert (np.asarray(gradient)[logits >= -0.5] != 0).all()

    def test_without_effect_the_threshold_leaves_a_softmax(self):
        logits = random_logits()
        ours = dsnt.thresholded_softmax(logits, 2, -100.0)
        assert_allclose(ours, dsnt.flat_softmax(logits), atol=1e-6)


class TestGauss:
    @FEW
    @given(st.integers(1, 3), st.floats(0.5, 2), st.integers(0, 99))
    def test_double_precision_formula(self, ndim, sigma, seed):
        shape = SHAPES[ndim]
        means = np.random.default_rng(seed).uniform(-1.5, 1.5, (JOINTS, ndim)).astype(np.float32)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)[..., ::-1]
        pixels = ((means.astype(np.float64) + 1) * shape[::-1] - 1) / 2
        gauss = np.exp(-np.square(grid[..., None, :] - pixels).sum(-1) / (2 * sigma**2))
        assert_allclose(dsnt.make_gauss(means, shape, sigma, normalize=False), gauss, rtol=1e-4, atol=1e-7)
        normalized = gauss / (gauss.sum(tuple(range(ndim))) + 1e-24)
        assert_allclose(dsnt.make_gauss(means, shape, sigma), normalized, rtol=1e-4, atol=1e-7)

    def test_far_outside_there_is_nothing_and_no_nan(self):
        means = jnp.array([[9.0, -9.0]])
        assert (dsnt.make_gauss(means, (6, 9), 1.0) == 0).all()
        gradient = jax.grad(lambda m: jnp.square(dsnt.make_gauss(m, (6, 9), 1.0)).sum())(means)
        assert_array_equal(gradient, np.zeros((1, 2)))

    def test_gradient(self):
        means = jnp.array([[0.2, -0.6], [1.1, 0.0]])
        check_grads(lambda m: dsnt.make_gauss(m, (6, 9), 1.0), (means,), order=1, modes=("rev",), rtol=1e-2)

    def test_wrong_number_of_axes(self):
        with pytest.raises(ValueError, match="means have 3 coordinates"):
            dsnt.make_gauss(np.zeros((2, 3)), (4, 4), 1.0)


class TestLosses:
    @pytest.mark.parametrize("name", dsnt.COORDINATE_LOSSES)
    def test_no_loss_and_no_gradient_at_the_target(self, name):
        point = jnp.array([[0.3, -0.2]])
        value, gradient = jax.value_and_grad(lambda x: dsnt.COORDINATE_LOSSES[name](x, point).sum())(point)
        assert value == 0
        assert_array_equal(gradient, np.zeros((1, 2)))

    def test_values(self):
        losses = {n: float(f(np.array([3.0, 4.0]), np.zeros(2))) for n, f in dsnt.COORDINATE_LOSSES.items()}
        assert losses == {"euclidean": 5.0, "l1": 3.5, "mse": 12.5}

    @pytest.mark.parametrize("loss", [dsnt.kl_reg_losses, dsnt.js_reg_losses, dsnt.mse_reg_losses])
    @pytest.mark.parametrize("ndim", SHAPES)
    def test_a_gaussian_is_what_regularizers_want(self, loss, ndim):
        means = np.random.default_rng(0).uniform(-0.5, 0.5, (JOINTS, ndim))
        gauss = dsnt.make_gauss(means, SHAPES[ndim], 1.0)
        assert_allclose(loss(gauss, means, 1.0), np.zeros(JOINTS), atol=1e-6)
        other = dsnt.flat_softmax(random_logits(ndim)[0], ndim)
        assert (np.asarray(loss(other, means, 1.0)) > 0.01).all()

    @FEW
    @given(maps_of(2))
    def test_js_is_between_zero_and_log_two(self, logits):
        means = np.zeros((2, JOINTS, 2), np.float32)
        js = np.asarray(compiled(_js)(logits, means))
        assert (js >= -1e-6).all()
        assert (js <= np.log(2) + 1e-5).all()

    def test_variance_regularizer_in_both_units(self):
        """Two cells d apart have the variance d^2 / 4 along that axis and none along the other."""
        maps = np.zeros((8, 8, 1), np.float32)
        maps[3, 1] = maps[3, 5] = 0.5
        pixels = dsnt.variance_reg_losses(maps, 1.0)
        assert_allclose(pixels, [(4 - 1) ** 2 + (0 - 1) ** 2], rtol=1e-5)
        assert_allclose(dsnt.variance_reg_losses(maps, 1.0, units="normalized"), pixels * (2 / 8) ** 4, rtol=1e-5)

    @pytest.mark.parametrize("ndim", SHAPES)
    def test_gradients(self, ndim):
        means = jnp.asarray(np.random.default_rng(1).uniform(-0.5, 0.5, (2, JOINTS, ndim)), jnp.float32)

        def total(logits):
            points, maps = dsnt.logits_to_points(logits, ndim)
            losses = dsnt.euclidean_losses(points, means)
            losses += dsnt.js_reg_losses(maps, means, 1.0) + dsnt.kl_reg_losses(maps, means, 1.0)
            return dsnt.average_loss(losses + 0.1 * dsnt.variance_reg_losses(maps, 1.0, ndim))

        check_grads(jax.jit(total), (jnp.asarray(random_logits(ndim, scale=0.5)),), 1, ("rev",), rtol=2e-2, atol=2e-3)

    def test_masks(self):
        losses = np.array([1.0, 2.0, 4.0])
        assert dsnt.average_loss(losses) == pytest.approx(7 / 3)
        assert dsnt.average_loss(losses, np.array([1, 0, 1])) == 2.5
        assert dsnt.average_loss(losses, np.zeros(3)) == 0
        assert dsnt.average_loss(losses, np.array([0.5, 0, 0])) == 0.5

    def test_masked_joints_have_no_gradient(self):
        logits, means = random_logits(), np.zeros((2, JOINTS, 2), np.float32)
        mask = np.array([[1, 0], [0, 0]])

        def total(logits):
            points, maps = dsnt.logits_to_points(logits)
            return dsnt.average_loss(dsnt.euclidean_losses(points, means) + dsnt.js_reg_losses(maps, means, 1.0), mask)

        moved = np.abs(jax.grad(total)(logits)).max((1, 2)) > 0
        assert_array_equal(moved, mask > 0)


def _js(logits, means):
    return dsnt.js_reg_losses(dsnt.flat_softmax(logits), means, 1.0)


class TestConfidence:
    def test_one_peak_is_trusted_and_two_are_not(self):
        one = dsnt.make_gauss(np.array([[-0.4, 0.1]]), (16, 24), 1.0)
        two = (one + dsnt.make_gauss(np.array([[0.6, 0.1]]), (16, 24), 1.0)) / 2
        flat = jnp.full_like(one, 1 / 384)
        for confidence in (dsnt.mass_confidence, dsnt.variance_confidence):
            values = [float(confidence(maps)[0]) for maps in (one, two, flat)]
            assert values[0] > max(values[1:])
        assert float(dsnt.mass_confidence(one)[0]) > 0.7
        assert float(dsnt.mass_confidence(two)[0]) < 0.05

    @pytest.mark.parametrize("ndim", SHAPES)
    def test_a_single_cell_has_full_confidence(self, ndim):
        maps = np.zeros((*SHAPES[ndim], 1), np.float32)
        maps[(1,) * ndim] = 1
        assert_allclose(dsnt.mass_confidence(maps, ndim=ndim), [1], atol=1e-6)
        assert_allclose(dsnt.variance_confidence(maps, ndim), [0], atol=1e-6)
        assert_allclose(dsnt.peak_confidence(maps, ndim), [1])

    @FEW
    @given(anything)
    def test_mass_is_a_share(self, case):
        ndim, logits = case
        mass = np.asarray(compiled(_mass, ndim)(logits))
        assert ((mass >= 0) & (mass <= 1)).all()


def _mass(logits, ndim):
    return dsnt.mass_confidence(dsnt.flat_softmax(logits, ndim), ndim=ndim)


def _decode_encoded(points):
    return dsnt.decode_heatmaps(dsnt.encode_heatmaps(points, (12, 20)))


class TestHeatmapMatching:
    @FEW
    @given(arrays(np.float32, (3, 2), elements=st.floats(-1, 1, width=32)))
    def test_decoding_finds_the_encoded_cell(self, points):
        inside = np.clip(points, -0.96875, 0.96875)
        found, peak = compiled(_decode_encoded)(inside)
        cells = dsnt.normalized_to_pixel(found, (20, 12)) - dsnt.normalized_to_pixel(inside, (20, 12))
        assert (np.abs(cells) <= 0.5 + 1e-4).all()
        assert_array_equal(peak, np.ones(3))

    def test_halves_go_to_the_even_cell(self):
        halves = dsnt.pixel_to_normalized(np.array([[0.5, 2.0], [1.5, 2.0], [2.5, 2.0]]), (8, 8))
        maps = dsnt.encode_heatmaps(halves, (8, 8))
        assert_array_equal(maps[2].argmax(0), [0, 2, 2])

    def test_windows_outside_leave_empty_maps(self):
        pixels = np.array([[-3.0, 2], [-4.0, 2], [10.0, 2], [11.0, 2]])
        maps = dsnt.encode_heatmaps(dsnt.pixel_to_normalized(pixels, (8, 8)), (8, 8))
        assert_array_equal(maps.max((0, 1)) > 0, [True, False, True, False])

    def test_width_divides_the_flat_index(self):
        maps = np.zeros((4, 9, 1), np.float32)
        maps[2, 7] = 1
        points, peak = dsnt.decode_heatmaps(maps, refine=False)
        assert_allclose(dsnt.normalized_to_pixel(points, (9, 4)), [[7, 2]], atol=1e-5)
        assert peak[0] == 1

    def test_quarter_towards_the_larger_neighbour_but_not_on_the_border(self):
        maps = np.zeros((5, 6, 2), np.float32)
        maps[2, 1, 0], maps[2, 2, 0], maps[1, 1, 0] = 1, 0.5, 0.25
        maps[2, 0, 1], maps[2, 1, 1] = 1, 0.5
        points, _ = dsnt.decode_heatmaps(maps)
        assert_allclose(dsnt.normalized_to_pixel(points, (6, 5)), [[1.25, 1.75], [0, 2]], atol=1e-5)


def test_pooling_keeps_the_mean_of_even_windows_and_identity():
    image = np.random.default_rng(0).random((2, 12, 8, 3)).astype(np.float32)
    assert_allclose(dsnt.adaptive_avg_pool(image, (12, 8)), image, atol=1e-7)
    blocks = image.reshape(2, 3, 4, 4, 2, 3).mean((2, 4))
    assert_allclose(dsnt.adaptive_avg_pool(image, (3, 4)), blocks, atol=1e-6)
