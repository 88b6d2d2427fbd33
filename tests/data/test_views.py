"""Crops and random views of one person."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data.views import NO_AUGMENTATION, Augmentation, CanvasAugmentation, PersonCrop, View, random_part
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import geometry
from jaxpose.skeleton import COCO

SIZE = (24, 32)
PICTURE = np.random.default_rng(0).integers(0, 256, (128, 96, 3)).astype(np.uint8)
CONVENTIONS = [(half_pixel, antialias) for half_pixel in (False, True) for antialias in (False, True)]


def box_means(picture: np.ndarray, side: int) -> np.ndarray:
    """Means of side x side blocks of a picture."""
    height, width = picture.shape[0] // side, picture.shape[1] // side
    return picture[: height * side, : width * side].reshape(height, side, width, side, 3).mean((1, 3))


# --- crops ---


@pytest.mark.parametrize(("half_pixel", "antialias"), CONVENTIONS)
def test_a_region_of_the_crops_size_is_cut_out_as_it_is(half_pixel, antialias):
    crop = PersonCrop(SIZE, padding=1.0, half_pixel=half_pixel, antialias=antialias)
    canvas, to_image = crop.crop(PICTURE, np.array([10, 20, *SIZE]))
    assert_array_equal(canvas, PICTURE[20:52, 10:34])
    assert_allclose(to_image, [[1, 0, 10], [0, 1, 20]], atol=1e-5)


@pytest.mark.parametrize("side", [2, 3, 4])
def test_antialiased_pixels_are_the_mean_of_what_they_cover(side):
    crop = PersonCrop(SIZE, padding=1.0, half_pixel=True, antialias=True)
    canvas, to_image = crop.crop(PICTURE, np.array([0, 0, SIZE[0] * side, SIZE[1] * side]))
    assert_allclose(canvas, box_means(PICTURE, side)[:32, :24], atol=0.51)
    assert_allclose(to_image, [[side, 0, (side - 1) / 2], [0, side, (side - 1) / 2]], atol=1e-5)


def test_by_pixel_indices_means_lie_around_the_index():
    """Without half pixels, crop pixel p of a region twice as large is at image pixel 2 p, and covers 2 p -+ 1."""
    crop = PersonCrop(SIZE, padding=1.0, antialias=True)
    canvas, to_image = crop.crop(PICTURE, np.array([0, 0, 48, 64]))
    assert_allclose(to_image, [[2, 0, 0], [0, 2, 0]], atol=1e-5)
    sharp = PersonCrop(SIZE, padding=1.0).crop(PICTURE, np.array([0, 0, 48, 64]))[0]
    assert_array_equal(sharp, PICTURE[:64:2, :48:2])
    weights = np.array([0.25, 0.5, 0.25])
    around = sum(
        weights[i] * weights[j] * PICTURE[1 + i : 62 + i : 2, 1 + j : 46 + j : 2].astype(float)
        for i in range(3)
        for j in range(3)
    )
    assert_allclose(canvas[1:, 1:], around, atol=1.1)


def test_small_regions_are_not_averaged():
    box = np.array([30, 30, 12, 16])
    crops = [PersonCrop(SIZE, padding=1.0, half_pixel=True, antialias=a).crop(PICTURE, box)[0] for a in (False, True)]
    assert_array_equal(*crops)


def test_few_samples_are_taken_of_huge_regions():
    """A region beyond MAX_FINER samples a side still gives a smooth mean."""
    crop = PersonCrop((3, 4), padding=1.0, half_pixel=True, antialias=True)
    canvas = crop.crop(PICTURE, np.array([0, 0, 96, 128]))[0]
    assert_allclose(canvas, box_means(PICTURE, 32), atol=15)
    sharp = PersonCrop((3, 4), padding=1.0, half_pixel=True).crop(PICTURE, np.array([0, 0, 96, 128]))[0]
    assert np.abs(sharp - box_means(PICTURE, 32)).max() > 40


@pytest.mark.parametrize(("half_pixel", "antialias"), CONVENTIONS)
@pytest.mark.parametrize("mirror", [False, True])
def test_joints_are_where_the_crop_shows_them(half_pixel, antialias, mirror):
    """A bright dot at a joint lies at the joint in a turned, mirrored crop; labels of left and right are exchanged."""
    picture, (x, y) = np.zeros((128, 96, 3), np.uint8), (52.0, 61.0)
    picture[60:63, 51:54] = 255
    keypoints, visible = np.zeros((17, 2), np.float32), np.zeros(17, np.uint8)
    left, right = COCO.index("left_wrist"), COCO.index("right_wrist")
    keypoints[left], visible[left] = (x, y), 2
    crop = PersonCrop(SIZE, half_pixel=half_pixel, antialias=antialias)
    view = View(np.array([48.0, 64.0]), np.array([36.0, 48.0]), rotation=30.0, mirror=mirror)
    example = crop.example(picture, view, keypoints, visible, COCO)
    shown = right if mirror else left
    assert np.flatnonzero(example["visible"]).tolist() == [shown]
    light = example["image"][..., 0].astype(float)
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    center = [(light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()]
    assert_allclose(example["keypoints"][shown], center, atol=0.15)
    linear, offset = example["to_image"][:, :2], example["to_image"][:, 2]
    assert_allclose(linear @ example["keypoints"][shown] + offset, [x, y], atol=1e-3)


SIDES = st.one_of(st.floats(0, 1e9), st.sampled_from([0.0, 1.0, 1e-3, 1e-30, 5e-324, 1e9]))
PLACES = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([0.0, -1e9, 1e9]))


@given(PLACES, PLACES, SIDES, SIDES, st.sampled_from(CONVENTIONS), st.booleans(), st.integers(0, 2**32 - 1))
def test_crops_around_any_box_are_finite(x, y, w, h, convention, unbiased, seed):
    """Boxes without a side and far away too, plain and in random views; joints of the crop are joints of the image."""
    half_pixel, antialias = convention
    unbiased = unbiased and not half_pixel
    crop = PersonCrop(SIZE, half_pixel=half_pixel, antialias=antialias, unbiased=unbiased)
    plain = crop.view(np.array([x, y, w, h]))
    visible = np.full(17, 2)
    points = plain.center + np.random.default_rng(seed).uniform(-0.5, 0.5, (17, 2)) * plain.size
    drawn = Augmentation(scale=0.9, rotation=40.0, mirror=0.5, half_body=0.5)
    for view in (plain, drawn(plain, points, visible, COCO, np.random.default_rng(seed))):
        example = crop.example(PICTURE, view, points.astype(np.float32), visible, COCO)
        assert np.isfinite(example["to_image"]).all()
        assert np.isfinite(example["keypoints"]).all()
        assert np.isfinite(np.linalg.inv(np.vstack([crop.affine(view), [0, 0, 1]]))).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300, 2e9])
@pytest.mark.parametrize("field", range(4))
def test_boxes_of_other_numbers_are_refused(field, bad):
    boxes = np.tile([10.0, 20, 30, 40], (3, 1))
    boxes[1, field] = bad
    for box in (boxes[1], boxes):
        with pytest.raises(DataError, match=r"the box \[.*\] cannot be cut out; expected \(x, y, w, h\) in pixels"):
            PersonCrop(SIZE).view(box)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Augmentation(scale=1.0),
        lambda: Augmentation(scale=-0.1),
        lambda: Augmentation(scale=float("nan")),
        lambda: Augmentation(scale=1000.0, octaves=True),
        lambda: CanvasAugmentation(scale=(0.0, 1.0)),
        lambda: CanvasAugmentation(scale=(2.0, 1.0)),
        lambda: CanvasAugmentation(scale=(1.0, float("inf"))),
        lambda: CanvasAugmentation(scale=(1.0,)),  # type: ignore
    ],
)
def test_scales_that_leave_no_region_are_refused(make):
    with pytest.raises(ConfigError, match=r"scale is .*; expected"):
        make()


def test_images_that_opencv_does_not_take():
    with pytest.raises(DataError, match=r"an image of 0 x 9 pixels cannot be laid on a canvas of 24 x 32 .*smaller"):
        PersonCrop(SIZE).crop(np.zeros((9, 0, 3), np.uint8), np.array([0, 0, 5, 5]))


# --- random views ---

VIEW = View(np.array([50.0, 40.0]), np.array([60.0, 80.0]))
NOBODY = (np.zeros((17, 2)), np.zeros(17), COCO)


def draw(augmentation: Augmentation, count: int = 400) -> list[View]:
    rng = np.random.default_rng(0)
    return [augmentation(VIEW, *NOBODY, rng) for _ in range(count)]


def test_no_augmentation_changes_nothing():
    for view in draw(NO_AUGMENTATION, 20):
        assert_array_equal(view.center, VIEW.center)
        assert_array_equal(view.size, VIEW.size)
        assert (view.rotation, view.mirror) == (0, False)


@given(st.floats(-5, 5), st.floats(0.01, 1))
def test_scale_in_octaves(normal, scale):
    """A draw and its negative shrink and enlarge by the same factor, no more than two deviations."""
    augmentation = Augmentation(scale=scale, octaves=True)
    factor = augmentation.factor(normal)
    assert_allclose(np.log2(factor), np.clip(normal, -2, 2) * scale, atol=1e-9)
    assert_allclose(factor * augmentation.factor(-normal), 1)


@given(st.floats(-5, 5), st.floats(0.01, 0.9))
def test_scale_as_a_share(normal, scale):
    assert_allclose(Augmentation(scale=scale).factor(normal), 1 + np.clip(normal, -1, 1) * scale)


def test_the_region_is_scaled_by_the_factor():
    for octaves, limits in ((False, (0.75, 1.25)), (True, (2**-0.5, 2**0.5))):
        factors = np.array([view.size / VIEW.size for view in draw(Augmentation(scale=0.25, octaves=octaves))])
        assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-12)
        assert_allclose([factors.min(), factors.max()], limits)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_share_of_turned_views(probability):
    turned = [v.rotation != 0 for v in draw(Augmentation(rotation=30, rotation_probability=probability))]
    assert abs(np.mean(turned) - probability) < (0.08 if 0 < probability < 1 else 1e-9)


def test_rotation_is_clipped_at_twice_its_deviation():
    angles = np.array([v.rotation for v in draw(Augmentation(rotation=30, rotation_probability=1))])
    assert_allclose([angles.min(), angles.max()], [-60, 60])
    assert 24 < np.abs(angles).mean() * np.sqrt(np.pi / 2) < 33


@pytest.mark.parametrize("mirror", [0.0, 0.5, 1.0])
def test_share_of_mirrored_views(mirror):
    mirrored = [v.mirror for v in draw(Augmentation(mirror=mirror))]
    assert abs(np.mean(mirrored) - mirror) < (0.08 if mirror == 0.5 else 1e-9)


def test_a_view_that_is_mirrored_is_mirrored_back():
    rng = np.random.default_rng(0)
    mirrored = View(VIEW.center, VIEW.size, mirror=True)
    assert all(NO_AUGMENTATION(mirrored, *NOBODY, rng).mirror for _ in range(5))
    assert not any(Augmentation(mirror=1.0)(mirrored, *NOBODY, rng).mirror for _ in range(5))


def test_angles_within_limits():
    augmentation = Augmentation(rotation=180, uniform_rotation=True, rotation_probability=1)
    angles = np.array([v.rotation for v in draw(augmentation, 2000)])
    assert_allclose([angles.min(), angles.max()], [-180, 180], atol=1)
    counts, _ = np.histogram(angles, bins=8, range=(-180, 180))
    assert counts.min() > 180


@given(
    st.floats(-180, 180), st.booleans(), st.integers(0, 20), st.integers(0, 20), st.integers(5, 40), st.integers(5, 40)
)
def test_a_part_of_a_view_is_cut_out_of_its_crop(rotation, mirror, left, upper, width, height):
    """Joints in the crop of a part are where the crop of the whole, pixel by pixel, has them, less the corner."""
    view = View(np.array([33.0, 47.0]), np.array([60.0, 60.0]), rotation, mirror)
    points = np.random.default_rng(0).uniform(0, 90, (9, 2))
    whole = geometry.apply_affine(PersonCrop((60, 60)).affine(view), points)
    part = view.part((left, upper, width, height))
    assert_array_equal(part.size, [width, height])
    assert (part.rotation, part.mirror) == (rotation, mirror)
    found = geometry.apply_affine(PersonCrop((width, height)).affine(part), points)
    assert_allclose(found, whole - [left, upper], atol=1e-9)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**31))
def test_random_parts_lie_in_the_region(width, height, seed):
    left, upper, w, h = random_part(np.array([width, height]), (0.6, 1.3), np.random.default_rng(seed))
    assert 0 <= left <= width - w
    assert 0 <= upper <= height - h
    assert min(w, h) > 0
    if width == height:
        assert w == h


def test_shares_of_the_area():
    """Those above 1 don't fit and are drawn again, so that shares are uniform up to 1."""
    views = draw(Augmentation(area=(0.6, 1.3)), 2000)
    shares = np.array([view.size.prod() for view in views]) / VIEW.size.prod()
    assert_allclose([shares.min(), shares.max()], [0.6, 1.0], atol=0.02)
    assert_allclose(shares.mean(), 0.8, atol=0.02)
    low, high = (np.array([view.center + side * view.size / 2 for view in views]) for side in (-1, 1))
    assert (low >= VIEW.center - VIEW.size / 2 - 1e-9).all()
    assert (high <= VIEW.center + VIEW.size / 2 + 1e-9).all()
    assert (low.max(0) > VIEW.center - VIEW.size / 2 + 9).all()


@pytest.mark.parametrize("area", [(0.6,), (0.0, 1.0), (0.9, 0.6), (1.2, 1.3)])
def test_areas_that_are_none(area):
    with pytest.raises(ConfigError, match=r"config.data.augmentation.area is .*expected \(\) or \(least, greatest\)"):
        Augmentation(area=area)
