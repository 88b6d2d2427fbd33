import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.ops import heatmaps

SIZE = (12, 16)
STRIDE = 4.0
JOINTS = 3
draw = jax.jit(heatmaps.gaussian_targets, static_argnums=(2, 3, 4, 5))
decode = jax.jit(heatmaps.decode)
positions = st.lists(st.tuples(st.floats(-80, 130), st.floats(-80, 130)), min_size=JOINTS, max_size=JOINTS).map(
    lambda points: np.array([points], np.float32)
)


def single(x: float, y: float, sigma: float = 2.0, radius: int | None = None):
    """Map [H, W] and weight of one joint at crop pixel (x, y)."""
    maps, weight = draw(np.array([[[x, y]]], np.float32), np.ones((1, 1)), STRIDE, SIZE, sigma, radius)
    return np.asarray(maps)[0, ..., 0], float(weight[0, 0])


# --- targets ---


def reference(point, sigma: float, radius: int) -> tuple[np.ndarray, float]:
    """A target pixel by pixel."""
    width, height = SIZE
    mu_x, mu_y = (int(np.trunc(v / np.float32(STRIDE) + np.float32(0.5))) for v in point)
    outside = mu_x - radius >= width or mu_y - radius >= height or mu_x + radius + 1 < 0 or mu_y + radius + 1 < 0
    target = np.zeros((height, width))
    for y in range(max(0, mu_y - radius), min(height, mu_y + radius + 1)):
        for x in range(max(0, mu_x - radius), min(width, mu_x + radius + 1)):
            target[y, x] = np.exp(-((x - mu_x) ** 2 + (y - mu_y) ** 2) / (2 * sigma**2))
    return target, float(not outside)


@given(positions)
@settings(max_examples=40, deadline=None)
def test_targets_equal_a_loop_over_pixels(points):
    maps, weight = draw(points, np.ones((1, JOINTS)), STRIDE, SIZE, 2.0, None)
    for joint in range(JOINTS):
        target, expected = reference(points[0, joint], 2.0, 6)
        assert weight[0, joint] == expected
        assert_allclose(maps[0, ..., joint], target, atol=1e-6)


@pytest.mark.parametrize(("x", "column"), [(17.9, 4), (18.0, 5), (-2.1, 0), (-5.9, 0), (-6.0, -1)])
def test_centres_are_rounded_towards_zero_after_adding_a_half(x, column):
    target, weight = single(x, 30.0)
    assert weight == 1
    assert_allclose(target[8], np.exp(-np.square(np.arange(12) - column) / 8) * (abs(np.arange(12) - column) <= 6))


@pytest.mark.parametrize(("x", "weight"), [(-30.0, 1), (-34.0, 0), (68.0, 1), (70.0, 0)])
def test_window_that_ends_at_the_border_counts_and_is_empty(x, weight):
    """A centre at -7 has its last column at -1; one at 17 still reaches column 11, and one at 18 does not."""
    target, found = single(x, 30.0)
    assert found == weight
    assert (target.max() > 0) == (x == 68.0)


def test_targets_of_2017_are_seven_wide():
    target, _ = single(24.0, 32.0, sigma=1.75, radius=3)
    assert np.flatnonzero(target.any(0)).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert_allclose(target[8, 9], np.exp(-9 / (2 * 1.75**2)), rtol=1e-6)


def test_joints_that_do_not_count_are_not_drawn():
    points = np.array([[[20, 20], [20, 20], [np.nan, 20]]], np.float32)
    maps, weight = draw(points, np.array([[1.0, 0.0, 1.0]]), STRIDE, SIZE, 2.0, None)
    assert_array_equal(weight, [[1, 0, 0]])
    assert_array_equal(np.asarray(maps).max((0, 1, 2)), [1, 0, 0])


def test_stride_may_differ_between_axes():
    maps, _ = draw(np.array([[[20.0, 20.0]]]), np.ones((1, 1)), (4.0, 2.0), SIZE, 2.0, None)
    assert_array_equal(heatmaps.maxima(maps)[0], [[[5, 10]]])


# --- targets of several people ---


draw_people = jax.jit(heatmaps.people_targets, static_argnums=(2, 3))


def people_reference(people: np.ndarray, visible: np.ndarray, sigma) -> np.ndarray:
    """Maps [H, W, K], patch by patch."""
    width, height = SIZE
    maps = np.zeros((height, width, people.shape[1]))
    for person, (points, seen) in enumerate(zip(people, visible, strict=True)):
        s = float(np.broadcast_to(sigma, len(people))[person])
        reach = 3 * s + 1
        for joint, ((x, y), v) in enumerate(zip(points, seen, strict=True)):
            column, row = int(x), int(y)
            if v <= 0 or not (0 <= column < width and 0 <= row < height):
                continue
            left, top = round(column - reach), round(row - reach)
            for j in range(max(0, top), min(height, round(row + reach + 1))):
                for i in range(max(0, left), min(width, round(column + reach + 1))):
                    distance = (i - left - reach) ** 2 + (j - top - reach) ** 2
                    maps[j, i, joint] = max(maps[j, i, joint], np.exp(-distance / (2 * s**2)))
    return maps


people_of_an_image = st.lists(
    st.lists(st.tuples(st.floats(-5, 20), st.floats(-5, 20)), min_size=JOINTS, max_size=JOINTS), min_size=3, max_size=3
).map(lambda points: np.array(points, np.float32))


@pytest.mark.parametrize("sigma", [2.0, 0.5])
@given(people=people_of_an_image)
@settings(max_examples=20, deadline=None)
def test_targets_of_people_equal_a_loop_over_patches(sigma, people):
    visible = np.array([[1, 1, 0], [2, 1, 1], [1, 0, 1]])
    expected = people_reference(people, visible, sigma)
    assert_allclose(draw_people(people, visible, SIZE, sigma), expected, atol=1e-6)


def test_every_person_may_have_another_deviation():
    people = np.array([[[3.2, 4.0]], [[8.0, 9.9]], [[2.0, 14.0]]], np.float32)
    sigma = np.array([0.5, 1.5, 1.1], np.float32)
    maps = heatmaps.people_targets(people, np.ones((3, 1)), SIZE, sigma)
    assert_allclose(maps, people_reference(people, np.ones((3, 1)), sigma), atol=1e-6)


def test_both_ways_to_draw_people_agree():
    rng = np.random.default_rng(0)
    rows, columns = (rng.random((2, 4, length, JOINTS)).astype(np.float32) for length in (6, 5))
    assert_array_equal(heatmaps._largest(rows, columns), heatmaps._largest_in_turn(rows, columns))


@pytest.mark.parametrize("people", [np.zeros((0, 3, 2)), np.full((2, 3, 2), -50.0), np.full((1, 1, 2), np.nan)])
def test_nobody_on_the_map(people):
    maps = heatmaps.people_targets(people.astype(np.float32), np.ones(people.shape[:2]), SIZE)
    assert_array_equal(maps, np.zeros((SIZE[1], SIZE[0], people.shape[1])))


def test_negative_deviation_stands_for_a_part_of_the_map():
    point, size = np.array([[[20.0, 30.0]]], np.float32), (128, 64)
    maps = [heatmaps.people_targets(point, np.ones((1, 1)), size, sigma) for sigma in (-1.0, 2.0)]
    assert_array_equal(*maps)


def test_masked_pixels_count_in_the_divisor():
    maps, targets = np.full((2, 4, 5, JOINTS), 3.0, np.float32), np.ones((2, 4, 5, JOINTS), np.float32)
    mask = np.ones((2, 4, 5), np.float32)
    mask[1, :2] = 0
    assert_allclose(heatmaps.masked_mse(maps, targets, mask), [4.0, 2.0])


# --- resolution ---


resize = jax.jit(heatmaps.resize, static_argnums=1)


def interpolated(maps: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Maps as functions on [0, 1] along an axis, known in the middles of their cells, seen in `count` cells."""
    have, want = ((np.arange(n) + 0.5) / n for n in (maps.shape[axis], count))
    return np.apply_along_axis(lambda line: np.interp(want, have, line), axis, maps)


@pytest.mark.parametrize("size", [(14, 10), (23, 19), (3, 4), (7, 5)])
def test_resized_maps_are_linear_between_centres(size):
    maps = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = interpolated(interpolated(maps, 1, size[1]), 2, size[0])
    assert_allclose(resize(maps, size), expected, atol=1e-6)
    library = jax.image.resize(maps, (2, size[1], size[0], 3), "bilinear", antialias=False)
    assert_allclose(library, expected, atol=1e-5)  # other platforms' way


def test_a_doubled_map_has_its_peak_between_four_pixels():
    maps = np.zeros((1, 4, 4, 1), np.float32)
    maps[0, 1, 2] = 1
    doubled = np.asarray(heatmaps.resize(maps, (8, 8)))[0, ..., 0]
    assert_array_equal(np.argwhere(doubled == doubled.max()), [[2, 4], [2, 5], [3, 4], [3, 5]])


# --- maxima ---


def test_first_maximum_in_row_major_order_wins():
    maps = np.zeros((1, 4, 5, 1))
    maps[0, 1, 3], maps[0, 2, 0] = 2.0, 2.0
    found, scores = heatmaps.maxima(maps)
    assert_array_equal(found, [[[3, 1]]])
    assert_array_equal(scores, [[2]])


def test_map_without_positive_value_lies_at_the_origin():
    maps = np.full((1, 4, 5, 2), -1.0)
    maps[0, 2, 2] = [-0.5, 0.0]
    found, scores = heatmaps.maxima(maps)
    assert_array_equal(found, np.zeros((1, 2, 2)))
    assert_array_equal(scores, [[-0.5, 0]])


def peak(x: int, y: int, right: float = 0.5, below: float = 0.5) -> np.ndarray:
    """[6, 8, 1] with 1 at (x, y) and slopes towards the right and below."""
    maps = np.zeros((6, 8, 1))
    maps[:, x + 1 :], maps[y + 1 :] = maps[:, x + 1 :] + right / 4, maps[y + 1 :] + below / 4
    maps[y, x] = 1
    return maps


@pytest.mark.parametrize(
    ("x", "y", "moved"),
    [(3, 3, True), (2, 2, True), (1, 3, False), (3, 1, False), (6, 4, True), (7, 3, False), (3, 5, False)],
)
def test_quarter_offset_needs_an_inner_pixel(x, y, moved):
    """Index 1 stays and the last but one moves."""
    maps = peak(x, y)
    assert_allclose(heatmaps.quarter_offset(maps, np.array([[x, y]], float)), np.array([[x, y]]) + 0.25 * moved)


def test_quarter_offset_follows_the_sign_of_the_slope():
    maps = peak(3, 3, right=0.5, below=-0.5)
    assert_allclose(heatmaps.quarter_offset(maps, np.array([[3.0, 3.0]])), [[3.25, 2.75]])
    level = peak(3, 3, right=0.0, below=0.0)
    assert_allclose(heatmaps.quarter_offset(level, np.array([[3.0, 3.0]])), [[3, 3]])
    assert_allclose(heatmaps.quarter_offset(maps, np.array([[3.4, 2.6]]), amount=0.2), [[3.6, 2.4]])


@given(st.integers(8, 36), st.integers(8, 50))
@settings(max_examples=20, deadline=None)
def test_decoding_finds_what_was_drawn(x, y):
    """The maximum is the rounded centre, so no more than half a stride is lost."""
    maps, _ = draw(np.array([[[x, y]]], np.float32), np.ones((1, 1)), STRIDE, SIZE, 2.0, None)
    found, scores = decode(maps, STRIDE)
    assert np.abs(np.asarray(found) - [x, y]).max() <= STRIDE / 2
    assert scores[0, 0] == 1


# --- flips ---


FLIP = np.array([0, 2, 1])


def test_flip_back_undoes_a_flip():
    maps = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    mirrored = maps[:, :, ::-1][..., FLIP]
    assert_array_equal(heatmaps.flip_back(mirrored, FLIP, shift=False), maps)
    shifted = np.asarray(heatmaps.flip_back(mirrored, FLIP))
    assert_array_equal(shifted[:, :, 1:], maps[:, :, :-1])
    assert_array_equal(shifted[:, :, 0], maps[:, :, 0])


def test_shift_brings_mirrored_targets_to_within_a_quarter_pixel():
    """Crop positions x and 47 - x, averaged over three strides."""
    offsets = {True: [], False: []}
    for x in np.arange(16, 28, 1 / 4) + 1 / 8:
        straight, _ = single(x, 30.0)
        mirrored, _ = single(47 - x, 30.0)
        for shift, found in offsets.items():
            back = heatmaps.flip_back(mirrored[..., None], [0], shift)
            found.append(float(heatmaps.maxima(back)[0][0, 0]) - straight[8].argmax())
    assert_allclose(np.mean(offsets[False]), -0.75)
    assert_allclose(np.mean(offsets[True]), 0.25)


def test_flipped_keypoints():
    keypoints, visible = heatmaps.flip_keypoints(
        np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]), np.array([1.0, 0.0, 1.0]), FLIP, 11
    )
    assert_array_equal(keypoints, [[9, 5], [7, 7], [0, 0]])
    assert_array_equal(visible, [1, 1, 0])


# --- losses ---


def random_maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((4, 10, 20, JOINTS)).astype(np.float32), rng.random((4, 10, 20, JOINTS)).astype(np.float32)


def test_weights_enter_the_loss_squared():
    maps, target = random_maps()
    whole = heatmaps.mse(maps, target, np.ones((4, JOINTS)))
    assert_allclose(whole, 0.5 * np.square(maps - target).mean(), rtol=1e-6)
    assert_allclose(heatmaps.mse(maps, target, np.full((4, JOINTS), 1.5)), 2.25 * whole, rtol=1e-6)


def test_ohkm_of_all_joints_is_mse():
    maps, target = random_maps()
    weight = np.ones((4, JOINTS))
    assert_allclose(heatmaps.ohkm(maps, target, weight, JOINTS), heatmaps.mse(maps, target, weight), rtol=1e-6)
    assert heatmaps.ohkm(maps, target, weight, 1) > heatmaps.ohkm(maps, target, weight, 2)


@pytest.mark.parametrize(("swapped", "expected"), [(True, 1.0), (False, 0.0)])
def test_accuracy_divides_x_by_the_height_unless_told(swapped, expected):
    """Two rows of a map of 80 x 20 (width x height) are a tenth of its height and a fortieth of its width."""
    target, maps = np.zeros((1, 20, 80, 1)), np.zeros((1, 20, 80, 1))
    target[0, 10, 10], maps[0, 12, 10] = 1, 1
    assert heatmaps.accuracy(maps, target, swapped=swapped) == expected


def test_accuracy_skips_the_first_rows_and_columns():
    target = np.zeros((1, 10, 10, 3))
    target[0, 5, 1, 0], target[0, 1, 5, 1], target[0, 2, 2, 2] = 1, 1, 1
    found = np.zeros_like(target)
    found[0, 2, 2, 2] = 1
    assert heatmaps.accuracy(found, target) == 1
    assert heatmaps.accuracy(found, target * [1, 1, 0]) == 0


# --- integral regression ---


@pytest.mark.parametrize("kind", heatmaps.NORMALIZATIONS)
def test_normalised_maps_sum_to_one(kind):
    maps, _ = random_maps()
    probabilities, confidence = heatmaps.normalize(maps, kind)
    assert_allclose(np.sum(probabilities, axis=(1, 2)), 1, rtol=1e-5)
    expected = jax.nn.sigmoid(maps.max((1, 2))) if kind == "sigmoid" else np.ones((4, JOINTS))
    assert_allclose(confidence, expected, rtol=1e-6)


def test_unknown_normalisation_is_named():
    with pytest.raises(ValueError, match="'sparsemax'; known: softmax"):
        heatmaps.normalize(np.zeros((1, 2, 2, 1)), "sparsemax")


def test_symmetric_gradient_changes_the_gradient_alone():
    maps = np.zeros((3, 4, 1), np.float32)
    maps[1, 2] = 1
    assert_array_equal(heatmaps.expectation(maps, symmetric=True), heatmaps.expectation(maps))

    def gradient(symmetric: bool) -> np.ndarray:
        return np.asarray(jax.grad(lambda m: heatmaps.expectation(m, symmetric)[0, 0])(maps))[..., 0]

    assert_array_equal(gradient(False), np.tile([0, 1, 2, 3], (3, 1)))
    assert_array_equal(gradient(True), np.tile([-2, -2, 2, 2], (3, 1)))


def test_symmetric_gradient_is_positive_beyond_the_map():
    gradient = jax.grad(lambda m: heatmaps.expectation(m, symmetric=True)[0, 0])(jnp.ones((1, 4, 1)))
    assert_array_equal(gradient, np.full((1, 4, 1), 2))


def test_integral_loss_is_zero_at_the_truth():
    maps = np.full((2, *SIZE[::-1], 1), -40.0, np.float32)
    maps[:, 4, 9] = 40
    truth = np.array([[[9 / 12, 4 / 16]]] * 2, np.float32)
    assert_allclose(heatmaps.integral_loss(maps, truth, np.ones((2, 1)), "softmax"), 0, atol=1e-6)
    off = heatmaps.integral_loss(maps, truth + np.float32(0.1), np.array([[1.0], [0.0]]), "softmax")
    assert_allclose(off, 0.1, rtol=1e-5)
    found, scores = heatmaps.decode_integral(maps, STRIDE)
    assert_allclose(found, [[[36, 16]]] * 2, rtol=1e-5)
    assert_allclose(scores, 1)


# --- padded crops ---


def test_padded_crops_centre_the_box():
    boxes = np.array([[10.0, 20.0, 30.0, 100.0], [10.0, 20.0, 110.0, 60.0]], np.float32)
    to_image = heatmaps.padded_crop_to_image(boxes, (48, 64))
    middle = np.asarray(to_image) @ [24, 32, 1]
    assert_allclose(middle, [[20, 60], [60, 40]], rtol=1e-6)
    assert_allclose(np.asarray(to_image)[:, 0, 0], [80 / 64, 100 / 48], rtol=1e-6)


def test_grown_boxes_stay_in_the_image():
    boxes = heatmaps.grow_boxes(np.array([[10.0, 10.0, 110.0, 50.0]]), (120, 100))
    assert_allclose(boxes, [[0, 4, 120, 56]], atol=1e-5)


def test_gradients_reach_maps_under_vmap_and_jit():
    maps, target = random_maps()
    gradient = jax.jit(jax.grad(lambda m: heatmaps.mse(m, target, jnp.ones((4, JOINTS)))))(maps)
    assert_allclose(gradient, (maps - target) / maps.size, rtol=1e-4, atol=1e-9)
    one_by_one = jax.vmap(lambda m: heatmaps.decode(m, STRIDE)[0])(maps)
    assert_array_equal(one_by_one, heatmaps.decode(maps, STRIDE)[0])


# --- divergence of distributions ---


def test_divergence_is_that_of_distributions():
    maps, target = random_maps()
    target = np.maximum(target, 0) + 0.1
    wanted = target / target.sum((1, 2), keepdims=True)
    found = np.exp(maps) / np.exp(maps).sum((1, 2), keepdims=True)
    expected = (wanted * np.log(wanted / found)).sum((1, 2))
    assert_allclose(heatmaps.joint_kl(maps, target), expected, rtol=1e-4, atol=1e-6)
    assert_allclose(heatmaps.joint_kl(np.log(target), target), np.zeros(expected.shape), atol=1e-6)


def test_divergence_from_an_empty_target_is_zero_unless_it_is_made_uniform():
    maps, target = random_maps()
    value, gradient = jax.value_and_grad(lambda m: heatmaps.joint_kl(m, 0 * target).sum())(maps)
    assert value == 0
    assert_array_equal(gradient, np.zeros_like(maps))
    even = heatmaps.joint_kl(maps, 0 * target, epsilon=1e-7)
    assert_allclose(even, heatmaps.joint_kl(maps, np.ones_like(target)), rtol=1e-4)


def test_joint_losses_leave_weights_to_the_caller():
    maps, target = random_maps()
    weight = np.tile([1.0, 0.0, 1.0], (4, 1))
    assert_allclose(jnp.mean(weight * heatmaps.joint_mse(maps, target)), heatmaps.mse(maps, target, weight), rtol=1e-5)


@pytest.mark.parametrize(("x", "weight"), [(-5.9, 1), (-6.0, 0), (45.9, 1), (46.0, 0)])
def test_joints_whose_centre_must_be_inside(x, weight):
    """With a stride of 4 and 12 columns, -6 falls on column -1 and 46 on column 12."""
    maps, found = heatmaps.gaussian_targets(
        np.array([[[x, 30.0]]], np.float32), np.ones((1, 1)), STRIDE, SIZE, center_inside=True
    )
    assert found[0, 0] == weight
    assert bool(np.any(maps)) == bool(weight)
