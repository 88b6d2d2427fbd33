import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data import square_boxes

corners = st.tuples(*[st.floats(-20, 340)] * 4).map(
    lambda c: np.array([min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])])
)


@given(corners, st.sampled_from([(320, 320), (400, 250)]))
def test_squares_lie_in_the_image_and_are_as_large_as_it_allows(box, size):
    left, upper, right, lower = square_boxes.square_box(box, size)
    side = min(round(1.5 * max(box[2] - box[0], box[3] - box[1])), *size)
    assert right - left + 1 == lower - upper + 1 == side
    assert left >= 0
    assert upper >= 0
    assert right < size[0]
    assert lower < size[1]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 20, 30, 40), (5, 15, 34, 44)),
        ((10.5, 20.5, 31.5, 40.5), (5, 14, 36, 45)),  # a side of 31.5 and a top of 14.5, both to the even number
        ((300, 300, 330, 330), (275, 275, 319, 319)),
        ((0, 0, 319, 319), (0, 0, 319, 319)),
    ],
)
def test_squares_by_hand(box, expected):
    assert_array_equal(square_boxes.square_box(np.array(box), (320, 320)), expected)


def test_areas_include_both_ends():
    a, b = np.array([0, 0, 9, 4]), np.array([5, 2, 20, 20])
    assert_array_equal(square_boxes.intersection(a, b), [5, 2, 9, 4])
    assert square_boxes.area(square_boxes.intersection(a, b)) == 15
    assert square_boxes.area(square_boxes.intersection(a, b + 20)) == 0


def test_projection_inverts_back_projection():
    rng = np.random.default_rng(0)
    keypoints, depth = rng.uniform(0, 320, (21, 2)), rng.uniform(0.3, 1, 21)
    intrinsics = np.array([[300.0, 0, 160], [0, 310, 155], [0, 0, 1]])
    points = square_boxes.back_project(keypoints, intrinsics, depth)
    assert_allclose(points[:, 2], depth)
    assert_allclose(square_boxes.project(points, intrinsics), keypoints)
    assert_allclose(square_boxes.tight_box(keypoints), [*keypoints.min(0), *keypoints.max(0)])
