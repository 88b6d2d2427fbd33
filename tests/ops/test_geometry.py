import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxpose.ops import geometry

CROP = (96, 128)
pixels = st.floats(-500, 500)
lengths = st.floats(1, 400)
boxes = st.tuples(pixels, pixels, lengths, lengths).map(np.array)
degrees = st.floats(-180, 180)


def crop_of(box, rotation=0.0, mirror=False):
    center, size = geometry.box_to_center_size(box, CROP[0] / CROP[1])
    return center, size, geometry.crop_affine(center, size, CROP, rotation, mirror)


@given(boxes, degrees, st.booleans())
def test_inverse_undoes_the_crop(box, rotation, mirror):
    *_, affine = crop_of(box, rotation, mirror)
    points = np.array([[0.0, 0.0], [3.0, -200.0], [95.0, 127.0]])
    back = geometry.apply_affine(geometry.invert_affine(affine), geometry.apply_affine(affine, points))
    assert_allclose(back, points, atol=1e-6)


@given(boxes, degrees, st.booleans())
def test_center_maps_to_the_middle_and_lengths_scale(box, rotation, mirror):
    center, size, affine = crop_of(box, rotation, mirror)
    middle, right = geometry.apply_affine(affine, np.stack([center, center + [size[0] / 2, 0]]))
    assert_allclose(middle, [CROP[0] / 2, CROP[1] / 2], atol=1e-7)
    assert_allclose(np.linalg.norm(right - middle), CROP[0] / 2, rtol=1e-9)


@given(boxes, degrees, st.integers(10, 800))
def test_mirroring_equals_mirroring_the_image(box, rotation, width):
    """The original mirrors image, points and centre, x -> width - 1 - x, and crops the result."""
    center, size, affine = crop_of(box, rotation, mirror=True)
    mirrored_center = np.array([width - 1 - center[0], center[1]])
    original = geometry.crop_affine(mirrored_center, size, CROP, rotation)
    points = np.array([[0.0, 0.0], [50.0, -20.0], [7.0, 300.0]])
    mirrored_points = np.stack([width - 1 - points[:, 0], points[:, 1]], -1)
    ours = geometry.apply_affine(affine, points)
    assert_allclose(ours, geometry.apply_affine(original, mirrored_points), atol=1e-6 * max(1, np.abs(ours).max()))


@given(boxes)
def test_region_holds_the_box_in_the_aspect_ratio(box):
    center, size, affine = crop_of(box)
    assert_allclose(size[0] / size[1], CROP[0] / CROP[1])
    corners = np.array([box[:2], box[:2] + box[2:]])
    inside = geometry.apply_affine(affine, corners)
    margin = 0.1 * np.array(CROP)  # a padding of 1.25 leaves a tenth on each side
    assert (inside[0] >= margin - 1e-6).all()
    assert (inside[1] <= np.array(CROP) - margin + 1e-6).all()


@given(st.lists(boxes, min_size=1, max_size=4).map(np.stack), degrees)
@settings(max_examples=10, deadline=None)
def test_numpy_and_jax_agree(batch, rotation):
    batch = batch.astype(np.float32)
    on_host = crop_of(batch, np.full(len(batch), rotation, np.float32), np.ones(len(batch), bool))
    on_device = crop_of(jnp.asarray(batch), jnp.full(len(batch), rotation), jnp.ones(len(batch), bool))
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in on_host)
    assert all(isinstance(x, jax.Array) for x in on_device)
    for a, b in zip(on_host, on_device, strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_crops_trace_with_batched_rotation():
    affine = jax.jit(lambda b, r: crop_of(b, r)[2])(jnp.ones((3, 4)), jnp.arange(3.0))
    assert affine.shape == (3, 2, 3)


def test_positive_rotation_turns_content_counter_clockwise_on_screen():
    affine = geometry.crop_affine(np.zeros(2), np.array([96.0, 128.0]), CROP, 90.0)
    right_of_center = geometry.apply_affine(affine, np.array([[10.0, 0.0]]))
    assert_allclose(right_of_center, [[48.0, 54.0]], atol=1e-9)  # above the middle: y points down


@given(boxes, st.integers(1, 600), st.integers(1, 600))
def test_clipped_boxes_lie_inside(box, width, height):
    clipped, inside = geometry.clip_boxes(box, (width, height))
    overlaps = (box[:2] <= [width - 1, height - 1]).all() and (box[:2] + np.maximum(box[2:] - 1, 0) >= 0).all()
    if inside:
        assert (clipped >= 0).all()
        assert (clipped[:2] + clipped[2:] <= [width - 1, height - 1]).all()
    elif overlaps:
        # a box that starts left of the image keeps its length, so it can only be dropped for starting too far
        assert (np.maximum(box[:2], 0) > [width - 1, height - 1]).any()


def test_box_inside_the_image_loses_one_pixel():
    clipped, inside = geometry.clip_boxes(np.array([10.0, 20.0, 30.0, 40.0]), (640, 480))
    assert inside
    assert_allclose(clipped, [10, 20, 29, 39])


@pytest.mark.parametrize(("prefer_upper", "expected"), [(True, 5.0), (False, 50.0)])
def test_half_body_takes_the_preferred_half(prefer_upper, expected):
    keypoints = np.array([[0, 0], [5, 0], [10, 10], [40, 40], [50, 60], [60, 50]], float)
    center, size = geometry.half_body_box(keypoints, np.ones(6), (0, 1, 2), prefer_upper, aspect=1.0, padding=2.0)
    assert center[0] == expected
    assert_allclose(size, [20, 20] if prefer_upper else [40, 40])


def test_half_body_falls_back_and_gives_up():
    keypoints = np.arange(12.0).reshape(6, 2)
    one_lower = np.array([1, 1, 1, 1, 0, 0])
    center, _ = geometry.half_body_box(keypoints, one_lower, (0, 1, 2), prefer_upper=False, aspect=1.0)
    assert_allclose(center, keypoints[:3].mean(0))
    only_one = np.array([1, 0, 0, 0, 0, 0])
    assert geometry.half_body_box(keypoints, only_one, (0, 1, 2), prefer_upper=True, aspect=1.0) is None


@pytest.mark.parametrize("side", [0.0, 1e-30, 1e-9])
def test_no_box_is_so_small_that_its_crop_is_infinite(side):
    center, size = geometry.box_to_center_size(np.array([3.0, 4.0, side, side]), CROP[0] / CROP[1])
    affine = geometry.crop_affine(center, size, CROP)
    assert np.isfinite(affine.astype(np.float32)).all()
    assert np.isfinite(geometry.invert_affine(affine)).all()
    assert size.min() >= geometry.LEAST_SIDE


def test_half_of_a_body_whose_joints_are_all_at_one_place_is_no_region():
    keypoints = np.repeat([[5.0, 6.0], [50.0, 60.0]], 3, axis=0)
    assert geometry.half_body_box(keypoints, np.ones(6), (0, 1, 2), prefer_upper=True, aspect=1.0) is None
    keypoints[1, 1] += 2
    center, size = geometry.half_body_box(keypoints, np.ones(6), (0, 1, 2), prefer_upper=True, aspect=1.0)
    assert_allclose(size, [3, 3])
