import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.ops import boxes

SIDE = st.floats(0, 50, width=32)
PLACE = st.floats(-50, 50, width=32)
BOX = st.tuples(PLACE, PLACE, SIDE, SIDE).map(lambda values: np.array(values, np.float32))
overlaps = jax.jit(lambda a, b: (*boxes.corner_iou(a, b), boxes.generalized_iou(a, b)))


def naive_overlap(a, b) -> tuple[float, float]:
    """IoU and generalized IoU of two (x, y, w, h) in float64, 0 instead of 0 / 0."""
    a, b = a.astype(float), b.astype(float)
    spans, hull = [], []
    for axis in (0, 1):
        ends = (a[axis], a[axis] + a[axis + 2]), (b[axis], b[axis] + b[axis + 2])
        spans.append(max(0.0, min(ends[0][1], ends[1][1]) - max(ends[0][0], ends[1][0])))
        hull.append(max(ends[0][1], ends[1][1]) - min(ends[0][0], ends[1][0]))
    common, enclosure = spans[0] * spans[1], hull[0] * hull[1]
    union = a[2] * a[3] + b[2] * b[3] - common
    iou = common / union if union else 0.0
    return iou, iou - ((enclosure - union) / enclosure if enclosure else 0.0)


@settings(deadline=None)
@given(BOX)
def test_forms_lead_back(box):
    corner = boxes.box_to_corner(box)
    assert_allclose(boxes.corner_to_box(corner), box, atol=1e-4)
    assert_allclose(boxes.center_to_box(boxes.box_to_center(box)), box, atol=1e-4)
    assert_allclose(boxes.center_to_corner(boxes.box_to_center(box)), corner, atol=1e-4)
    assert_allclose(boxes.corner_to_center(corner), boxes.box_to_center(box), atol=1e-4)
    assert isinstance(corner, np.ndarray)
    assert isinstance(boxes.box_to_corner(jnp.asarray(box)), jax.Array)


@settings(deadline=None)
@given(BOX.filter(lambda b: b[2] * b[3] > 0.1), BOX)
def test_overlap_by_definition(a, b):
    iou, _, generalized = overlaps(boxes.box_to_corner(a), boxes.box_to_corner(b))
    expected = naive_overlap(a, b)
    assert_allclose(iou, expected[0], atol=1e-3)
    assert_allclose(generalized, expected[1], atol=1e-3)
    assert -1 <= generalized <= iou + 1e-6


def test_pairs_by_broadcasting():
    rng = np.random.default_rng(0)
    a, b = (boxes.box_to_corner(rng.uniform(1, 9, (count, 4)).astype(np.float32)) for count in (3, 4))
    iou, union, generalized = overlaps(a[:, None], b[None])
    assert iou.shape == union.shape == generalized.shape == (3, 4)
    assert_allclose(generalized[2, 1], boxes.generalized_iou(a[2], b[1]), rtol=1e-6)
    assert_allclose(boxes.generalized_iou(a, a), 1, atol=1e-6)


def test_box_iou_counts_pixels():
    """Two boxes of 4 x 4 pixels (width 3 between pixel centres) that share one column of 4 pixels."""
    a = np.array([[0, 0, 3, 3], [3, 0, 3, 3], [50, 50, 3, 3]], np.float32)
    assert_allclose(boxes.box_iou(a[:1], a, extra=1.0), [1, 4 / 28, 0], rtol=1e-6)
    assert_allclose(boxes.box_iou(a[:1], a), [1, 0, 0])


def test_box_iou_of_empty_boxes_is_zero():
    assert not np.any(boxes.box_iou(np.zeros((3, 1, 4)), np.zeros((3, 4))))


@settings(deadline=None)
@given(BOX, BOX)
def test_box_iou_in_the_precision_of_the_boxes(a, b):
    precise = boxes.box_iou(a.astype(np.float64), b.astype(np.float64))
    assert precise.dtype == np.float64
    assert_allclose(precise, naive_overlap(a, b)[0], atol=1e-12)
    for box in (a, b):  # a side that is lost beside its place in float32 has no overlap
        assume(np.all((box[2:] == 0) | (box[2:] > 1e-3 * (1 + np.abs(box[:2])))))
    assert_allclose(boxes.box_iou(jnp.asarray(a), jnp.asarray(b)), precise, atol=1e-3)


def test_boxes_without_area_are_finite():
    empty = jnp.zeros((2, 4))
    value, gradient = jax.value_and_grad(lambda a: boxes.generalized_iou(a, empty).sum())(empty)
    assert_array_equal(value, 0)
    assert np.isfinite(gradient).all()


def test_distant_boxes_are_drawn_together():
    """IoU alone has no gradient where boxes do not touch."""
    a, b = jnp.array([0.0, 0, 1, 1]), jnp.array([5.0, 0, 6, 1])
    assert_array_equal(jax.grad(lambda a: boxes.corner_iou(a, b)[0])(a), 0)
    gradient = jax.grad(boxes.generalized_iou)(a, b)
    assert gradient[2] > 0


@settings(deadline=None)
@given(st.integers(10, 3000), st.integers(10, 3000), st.integers(1, 900), st.integers(900, 1400))
def test_fitted_size_keeps_the_aspect_within_a_pixel(width, height, short, longest):
    new = boxes.fitted_size(width, height, short, longest)
    scale = min(short / min(width, height), longest / max(width, height))
    assert (new[0] >= new[1]) == (width >= height) or new[0] == new[1]
    if min(width, height) == min(new):  # kept, or as if
        return
    assert abs(min(new) - scale * min(width, height)) <= 0.5 + 1e-6
    assert abs(max(new) - min(new) * max(width, height) / min(width, height)) < 1


@pytest.mark.parametrize(
    ("image", "limits", "expected"),
    [
        ((640, 480), (800, 1333), (1066, 800)),
        ((480, 640), (800, None), (800, 1066)),
        ((800, 1200), (800, 1333), (800, 1200)),
        ((2000, 500), (800, 1333), (1332, 333)),
    ],
)
def test_fitted_sizes_by_hand(image, limits, expected):
    assert boxes.fitted_size(*image, *limits) == expected


@settings(deadline=None)
@given(BOX)
def test_mirrored_twice_is_as_before(box):
    corners = boxes.box_to_corner(box)
    mirrored = boxes.mirror_corners(corners, 100.0)
    assert_allclose(boxes.mirror_corners(mirrored, 100.0), corners, atol=1e-4)
    assert_allclose(boxes.corner_to_box(mirrored)[2:], box[2:], atol=1e-4)


def test_cut_and_resized():
    corners = np.array([[2, 3, 12, 13], [0, 0, 3, 4], [20, 20, 30, 30], [8, 0, 9, 40]], np.float32)
    cut, kept = boxes.cut_corners(corners, (4, 5, 10, 20))
    assert_array_equal(kept, [True, False, False, True])
    assert_array_equal(cut[kept], [[0, 0, 8, 8], [4, 0, 5, 20]])
    assert_array_equal(boxes.scale_corners(cut[kept], (10, 20), (20, 10)), [[0, 0, 16, 4], [8, 0, 10, 10]])
