import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.ops import cameras

SIZE = (1000, 1002)
PIXELS = np.array([1145.0, 1143.8, 512.5, 515.5, -0.207, 0.248, -0.0031, -0.00098, -0.0014], np.float32)
seeds = st.integers(0, 1000)


def draw(seed: int, *leading: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points [..., 5, 3], orientations [..., 4] and positions [..., 3]."""
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=(*leading, 4))
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    points, position = rng.normal(size=(*leading, 5, 3)), rng.normal(size=(*leading, 3))
    return tuple(x.astype(np.float32) for x in (points, quaternion, position))


def in_front(seed: int, *leading: int) -> np.ndarray:
    """Points [..., 5, 3] that a camera sees."""
    return draw(seed, *leading)[0] + np.array([0, 0, 6], np.float32)


@given(seeds)
def test_rotation_keeps_lengths_and_its_inverse_undoes_it(seed):
    points, quaternion, _ = draw(seed)
    turned = cameras.rotate(quaternion, points)
    assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(points, axis=-1), rtol=1e-5)
    assert_allclose(cameras.rotate(cameras.conjugate(quaternion), turned), points, atol=1e-5)


def test_a_quarter_turn_about_z_takes_x_to_y():
    quaternion = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    assert_allclose(cameras.rotate(quaternion, np.eye(3)), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-7)


@given(seeds)
def test_world_and_camera_frame(seed):
    points, orientation, position = draw(seed, 2)
    seen = cameras.world_to_camera(points, orientation, position)
    assert_allclose(cameras.camera_to_world(seen, orientation, position), points, atol=1e-5)
    assert_allclose(cameras.world_to_camera(position[:, None], orientation, position), 0, atol=1e-6)


def test_without_distortion_it_is_a_pinhole():
    points, focal, center = in_front(0), PIXELS[:2], PIXELS[2:4]
    expected = focal * points[:, :2] / points[:, 2:] + center
    assert_allclose(cameras.project(points, PIXELS, distort=False), expected, rtol=1e-5)
    straight = np.concatenate([PIXELS[:4], np.zeros(5, np.float32)])
    assert_allclose(cameras.project(points, straight), expected, rtol=1e-5)


def test_the_lens_acts_on_the_flat_point():
    x, y, (k1, k2, k3, p1, p2) = 0.3, -0.2, PIXELS[4:]
    square = x * x + y * y
    factor = 1 + k1 * square + k2 * square**2 + k3 * square**3 + p1 * x + p2 * y
    expected = [1145.0 * (x * factor + p1 * square) + 512.5, 1143.8 * (y * factor + p2 * square) + 515.5]
    assert_allclose(cameras.project(np.array([0.6, -0.4, 2.0]), PIXELS), expected, rtol=1e-6)


def test_far_off_points_are_clamped():
    edge, beyond = np.array([3.0, -3.0, 3.0]), np.array([30.0, -90.0, 3.0])
    assert_allclose(cameras.project(beyond, PIXELS), cameras.project(edge, PIXELS))


@given(seeds, st.integers(1, 2000), st.integers(1, 2000))
def test_normalised_intrinsics_give_normalised_screen_coordinates(seed, width, height):
    points = in_front(seed, 2)
    screen = cameras.project(points, cameras.normalize_intrinsics(PIXELS, (width, height)))
    pixels = cameras.project(points, PIXELS)
    assert_allclose(screen, cameras.normalize_screen(pixels, (width, height)), atol=1e-5 * (1 + np.abs(screen).max()))
    assert_allclose(cameras.screen_to_pixels(screen, (width, height)), pixels, rtol=1e-4, atol=1e-2)


def test_the_screen_is_two_wide():
    corners = np.array([[0, 0], [1000, 1002], [500, 501]])
    assert_allclose(cameras.normalize_screen(corners, SIZE), [[-1, -1.002], [1, 1.002], [0, 0]], atol=1e-6)


@given(seeds)
def test_the_mirrored_camera_sees_the_mirrored_world(seed):
    points, intrinsics = in_front(seed), cameras.normalize_intrinsics(PIXELS, SIZE)
    mirrored = cameras.project(points * [-1, 1, 1], cameras.mirror_intrinsics(intrinsics))
    assert_allclose(mirrored, cameras.project(points, intrinsics) * [-1, 1], atol=1e-6)


def test_leading_axes_of_cameras_are_the_first_of_points():
    points, orientation, position = draw(3, 2, 4)
    intrinsics = np.stack([PIXELS, PIXELS * 2])
    seen = cameras.project(in_front(3, 2, 4), intrinsics)
    for row in range(2):
        assert_allclose(seen[row], cameras.project(in_front(3, 2, 4)[row], intrinsics[row]))
    turned = cameras.world_to_camera(points, orientation, position)
    assert_allclose(turned[1, 2], cameras.world_to_camera(points[1, 2], orientation[1, 2], position[1, 2]))


def test_numpy_and_jax_agree():
    points, orientation, position = draw(4, 2)

    def see(points, orientation, position, intrinsics):
        inside = cameras.world_to_camera(points, orientation, position)
        screen = cameras.project(inside, cameras.normalize_intrinsics(intrinsics, SIZE))
        return cameras.screen_to_pixels(screen, SIZE)

    inputs = points, orientation, position, PIXELS
    on_host, on_device = see(*inputs), jax.jit(see)(*(jnp.asarray(x) for x in inputs))
    assert isinstance(on_host, np.ndarray)
    assert on_host.dtype == np.float32
    assert_allclose(on_device, on_host, rtol=1e-4, atol=1e-2)


def test_mirroring_twice_changes_nothing():
    assert_array_equal(cameras.mirror_intrinsics(cameras.mirror_intrinsics(PIXELS)), PIXELS)
