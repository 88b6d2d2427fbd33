import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.ops import geometry, sampling

WIDTH, HEIGHT = 7, 5
sample = jax.jit(sampling.sample, static_argnums=2)
warp = jax.jit(sampling.warp_affine, static_argnums=(2, 3))
crop = jax.jit(sampling.crop_and_resize, static_argnums=(2, 3, 4))
transform = jax.jit(sampling.spatial_transform, static_argnums=(2, 3))


def images(count: int = 2, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, HEIGHT, WIDTH, channels)).astype(np.float32)


def rotation(degrees: float) -> np.ndarray:
    """A map on (y, x, 1)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[[cos, -sin, 0], [sin, cos, 0]]], np.float32)


def interpolated(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Four neighbours, one after the other."""
    total = np.zeros(image.shape[2])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return total


coordinate = st.floats(-3, 10, width=32)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_sample_is_the_weighted_sum_of_four_neighbours(points):
    picture = images(1)
    ours = sample(picture, np.array([points], np.float32))
    assert_allclose(ours[0], [interpolated(picture[0], x, y) for x, y in points], atol=1e-4)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_border_padding_is_the_nearest_position_inside(points):
    picture, points = images(1), np.array([points], np.float32)
    inside = np.clip(points, 0, [WIDTH - 1, HEIGHT - 1])
    assert_allclose(sample(picture, points, "border"), sample(picture, inside, "zeros"), atol=1e-6)


def test_whole_pixels_are_copied_whatever_the_type():
    picture = np.arange(HEIGHT * WIDTH * 2, dtype=np.uint8).reshape(1, HEIGHT, WIDTH, 2)
    points = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1)[None].astype(np.float32)
    assert_array_equal(sample(picture, points), picture)
    assert sample(picture, points).dtype == jnp.float32
    assert sample(jnp.asarray(picture, jnp.bfloat16), points).dtype == jnp.bfloat16


def test_far_and_undefined_points_are_zero():
    points = np.array([[[np.nan, 1], [1, np.inf], [1e30, -1e30], [-1, 0]]] * 2, np.float32)
    assert_array_equal(sample(images(), points), 0)


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_gradients_agree_with_finite_differences(padding):
    points = np.array([[[0.4, 0.6], [2.3, 3.7], [5.6, 1.2], [6.4, -0.3]]], np.float32)
    check_grads(lambda i, p: sampling.sample(i, p, padding), (images(1), points), 1, ["rev"], eps=1e-2, atol=2e-3)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_grids_and_gradients_are_those_of_torch(align_corners, padding):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    picture = images()
    theta = (np.eye(2, 3) + 0.4 * rng.normal(size=(2, 2, 3))).astype(np.float32)
    cotangent = rng.normal(size=(2, 6, 4, 3)).astype(np.float32)
    leaves = [torch.tensor(a, requires_grad=True) for a in (picture.transpose(0, 3, 1, 2), theta)]
    grid = torch.nn.functional.affine_grid(leaves[1], (2, 3, 6, 4), align_corners=align_corners)
    out = torch.nn.functional.grid_sample(leaves[0], grid, "bilinear", padding, align_corners)
    (out * torch.tensor(cotangent.transpose(0, 3, 1, 2))).sum().backward()

    def ours(picture, theta):
        grid = sampling.affine_grid(theta, (4, 6), align_corners)
        out = sampling.grid_sample(picture, grid, align_corners, padding)
        return (out * cotangent).sum(), (grid, out)

    (_, (our_grid, our_out)), gradients = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(picture, theta)
    assert_allclose(our_grid, grid.detach(), atol=1e-5)
    assert_allclose(our_out.transpose(0, 3, 1, 2), out.detach(), atol=1e-5)
    assert_allclose(gradients[0].transpose(0, 3, 1, 2), leaves[0].grad, atol=1e-4)
    assert_allclose(gradients[1], leaves[1].grad, atol=1e-3)


def test_rules_place_points():
    assert_allclose(sampling.fractions(5, "corners"), [0, 0.25, 0.5, 0.75, 1])
    assert_allclose(sampling.fractions(4, "centers"), [0.125, 0.375, 0.625, 0.875])
    assert_allclose(sampling.fractions(4, "starts"), [0, 0.25, 0.5, 0.75])
    for rule in sampling.RULES:
        grid = np.stack([2 * sampling.fractions(WIDTH, rule) - 1] * 2, -1)
        assert_allclose(sampling.to_pixels(grid, (WIDTH, WIDTH), rule)[:, 0], np.arange(WIDTH), atol=1e-5)


@pytest.mark.parametrize("convention", sampling.CONVENTIONS)
def test_the_identity_keeps_an_image(convention):
    picture = images(1)
    assert_allclose(transform(picture, np.eye(2, 3, dtype=np.float32)[None], None, convention), picture, atol=1e-5)


def test_a_quarter_turn_has_one_direction():
    """theta acts on (y, x): with [[0, -1], [1, 0]] the output at (row, column) shows the input at (-column, row)."""
    picture = images(1)[:, :, :HEIGHT]
    turned = transform(picture, rotation(90), None, "torch7")
    expected = np.stack([[picture[0, HEIGHT - 1 - c, r] for c in range(HEIGHT)] for r in range(HEIGHT)])
    assert_allclose(turned[0], expected, atol=1e-5)


def test_swapped_order_is_the_grid_of_torch():
    theta = (np.eye(2, 3) + np.random.default_rng(2).normal(size=(3, 2, 3))).astype(np.float32)
    ours = sampling.transformer_grid(theta, (WIDTH, HEIGHT))[..., ::-1]
    assert_allclose(ours, sampling.affine_grid(sampling.swap_order(theta), (WIDTH, HEIGHT), True), atol=1e-5)
    assert_array_equal(sampling.swap_order(sampling.swap_order(theta)), theta)


numbers = st.floats(-2, 2, width=32)


@given(st.lists(numbers, min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_inverse_in_either_order(entries):
    theta = np.array(entries, np.float32).reshape(2, 3)
    determinant = np.linalg.det(theta[:, :2].astype(np.float64))
    if abs(determinant) < 0.05:
        return
    inverse = sampling.invert_theta(theta)
    product = np.asarray(inverse)[:, :2].astype(np.float64) @ theta[:, :2]
    assert_allclose(product, np.eye(2), atol=1e-4)
    assert_allclose(np.asarray(inverse)[:, :2] @ theta[:, 2] + inverse[:, 2], 0, atol=1e-3)
    swapped = sampling.invert_theta(sampling.swap_order(theta))
    assert_allclose(sampling.swap_order(swapped), inverse, rtol=1e-4, atol=1e-4)


def test_determinant_floor():
    thin = np.array([[1e-3, 0, 0.5], [0, 1, -0.5]], np.float32)
    singular = np.array([[1, 1, 0.5], [1, 1, -0.5]], np.float32)
    assert_allclose(sampling.invert_theta(thin)[0, 0], 1e3, rtol=1e-5)
    assert_allclose(sampling.invert_theta(thin, 0.01)[1, 1], 0.1, rtol=1e-5)
    assert_allclose(sampling.invert_theta(thin * [[-1], [1]], 0.01)[0, 0], -100, rtol=1e-5)
    guarded = jax.jacobian(lambda t: sampling.invert_theta(t, 0.01))(singular)
    assert np.isfinite(guarded).all()
    assert not np.isfinite(jax.jacobian(sampling.invert_theta)(singular)).all()
    safe = np.array([[0.8, 0.1, 0.5], [0.2, 1.1, -0.5]], np.float32)
    assert_array_equal(sampling.invert_theta(safe, 0.01), sampling.invert_theta(safe))
    check_grads(sampling.invert_theta, (safe,), 1, ["rev"], eps=1e-3, atol=1e-2)


def test_warp_is_the_crop_of_geometry():
    center, size = np.array([[3.2, 2.1]], np.float32), np.array([[4.0, 4.0]], np.float32)
    to_crop = geometry.crop_affine(center, size, (6, 6), rotation=np.array([30.0]))
    picture = images(1)
    ours = warp(picture, geometry.invert_affine(to_crop), (6, 6), "zeros")
    x, y = geometry.apply_affine(geometry.invert_affine(to_crop), np.array([[[4.0, 1.0]]]))[0, 0]
    assert_allclose(ours[0, 1, 4], interpolated(picture[0], x, y), atol=1e-4)


def test_upright_crops_are_warps():
    """The default rule of a box's crop is the map of `crop_affine`."""
    box = np.array([0.7, 1.1, 4.2, 2.8], np.float32)
    to_crop = geometry.crop_affine(box[:2] + box[2:] / 2, box[2:], (6, 4))
    picture = images(1)
    crops = jax.jit(sampling.crop_and_resize, static_argnums=2)(picture, box[None, None], (6, 4))
    assert_allclose(crops[:, 0], warp(picture, geometry.invert_affine(to_crop)[None], (6, 4), "zeros"), atol=1e-4)


eighths = st.integers(-96, 96).map(lambda n: n / 8)
lengths = st.one_of(st.just(0.0), st.integers(1, 160).map(lambda n: n / 8))


@pytest.mark.parametrize("padding", sampling.PADDINGS)
@pytest.mark.parametrize("rule", sampling.RULES)
@given(boxes=st.lists(st.tuples(eighths, eighths, lengths, lengths), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_crops_and_their_gradients_are_right_for_any_box(rule, padding, boxes):
    """Also for boxes without width or height, outside the image, and between or on its pixels."""
    size = (5, 3) if rule == "corners" else (4, 2)
    picture, boxes = images(1), np.array(boxes)
    cotangent = np.random.default_rng(2).normal(size=(3, size[1], size[0], 3))
    crops, back = jax.vjp(lambda b: crop(picture, b, size, rule, padding), boxes[None].astype(np.float32))
    wanted = [naive_crop(picture[0], box, size, rule, padding, up) for box, up in zip(boxes, cotangent, strict=True)]
    assert_allclose(crops[0], [values for values, _ in wanted], atol=1e-4)
    (gradient,) = back(jnp.asarray(cotangent[None], jnp.float32))
    assert_allclose(gradient[0], [slopes for _, slopes in wanted], atol=1e-3)


def naive_crop(
    image: np.ndarray, box: np.ndarray, size: tuple[int, int], rule: str, padding: str, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A crop, pixel after pixel, and the gradient by the box."""
    crop, gradient = np.zeros((size[1], size[0], 3)), np.zeros(4)
    place = {"starts": lambda i, n: i / n, "centers": lambda i, n: (i + 0.5) / n, "corners": lambda i, n: i / (n - 1)}
    for i, j in np.ndindex(size[1], size[0]):
        u, v = place[rule](j, size[0]), place[rule](i, size[1])
        x, y = box[0] + u * box[2], box[1] + v * box[3]
        free = [1, 1]
        if padding == "border":
            free = [0 < x < WIDTH - 1, 0 < y < HEIGHT - 1]
            x, y = np.clip(x, 0, WIDTH - 1), np.clip(y, 0, HEIGHT - 1)
        crop[i, j] = interpolated(image, x, y)
        left, top = np.floor(x), np.floor(y)
        across = interpolated(image, left + 1, y) - interpolated(image, left, y)
        down = interpolated(image, x, top + 1) - interpolated(image, x, top)
        dx, dy = free[0] * cotangent[i, j] @ across, free[1] * cotangent[i, j] @ down
        gradient += [dx, dy, u * dx, v * dy]
    return crop, gradient


@pytest.mark.parametrize("rule", sampling.RULES)
def test_boxes_get_gradients(rule):
    boxes = np.array([[[0.73, 1.12, 3.31, 2.57], [1.21, 0.33, 4.12, 3.24]]], np.float32)
    crop = lambda i, b: sampling.crop_and_resize(i, b, (3, 2), rule, "border")
    check_grads(crop, (images(1, 1), boxes), 1, ["rev"], eps=5e-3, atol=1e-2, rtol=1e-2)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="padding is 'mirror'"):
        sampling.sample(images(), np.zeros((2, 1, 2)), "mirror")
    with pytest.raises(ValueError, match="rule is 'edges'"):
        sampling.fractions(3, "edges")
    with pytest.raises(ValueError, match="convention is 'torch'"):
        sampling.transformer_grid(np.zeros((1, 2, 3)), (2, 2), "torch")
