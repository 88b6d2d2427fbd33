"""Overlays show what they are given, where it is."""

import numpy as np
import pytest

from jaxpose.skeleton import COCO
from jaxpose.viz import draw_poses, drawing_scale, panel
from jaxpose.viz.overlay import LIMB_COLORS, PERSON_COLORS

GREY = np.full((480, 640, 3), 128, np.uint8)


@pytest.fixture
def person():
    """A person with every joint in a place of its own, at least 40 px from any other."""
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1).reshape(-1, 2)[:17]
    return (grid * [90.0, 100.0] + [100, 80])[None], np.ones((1, 17))


def limb_middle(points, a, b):
    x, y = (points[0, COCO.index(a)] + points[0, COCO.index(b)]) / 2
    return round(y), round(x)


def test_joints_and_limbs_are_where_they_should_be(person):
    points, scores = person
    picture = draw_poses(GREY, points, scores, None, skeleton=COCO)
    for x, y in points[0].astype(int):
        np.testing.assert_array_equal(picture[y, x], PERSON_COLORS[0])
    alone = np.zeros((1, 17))
    for side, pair in {
        "left": ("left_shoulder", "left_elbow"),
        "right": ("right_knee", "right_ankle"),
        "center": ("left_hip", "right_hip"),
    }.items():
        alone[:] = 0
        alone[0, [COCO.index(joint) for joint in pair]] = 1
        picture = draw_poses(GREY, points, alone, None, skeleton=COCO)
        np.testing.assert_array_equal(picture[limb_middle(points, *pair)], LIMB_COLORS[side])


def test_people_keep_the_colour_of_their_track(person):
    """Whatever their place among the people of a frame; and somebody without a track has one, too."""
    points, scores = person
    joint = points[0, 0].astype(int)
    draw = lambda *ids: draw_poses(GREY, np.concatenate([points] * len(ids)), np.repeat(scores, len(ids), 0), None,
                                   skeleton=COCO, track_id=np.array(ids))  # fmt: skip
    for number in (0, 3, 12, -1):
        np.testing.assert_array_equal(draw(number)[joint[1], joint[0]], PERSON_COLORS[number % len(PERSON_COLORS)])
    np.testing.assert_array_equal(draw(1, 4)[joint[1], joint[0]], PERSON_COLORS[4])  # drawn over the first


def test_tracks_are_named(person):
    label = lambda ids: draw_poses(GREY, *person, np.array([0.5]), skeleton=COCO, track_id=ids)
    plain, without, named = (label(ids) for ids in (None, np.array([-7]), np.array([7])))
    np.testing.assert_array_equal(plain, without)
    assert (plain != named).any()
    with pytest.raises(ValueError, match="track_id has shape"):
        label(np.array([1, 2]))


def test_input_is_not_changed(person):
    image = GREY.copy()
    draw_poses(image, *person, np.array([0.5]), skeleton=COCO, boxes=np.array([[10, 10, 50, 50]]))
    np.testing.assert_array_equal(image, GREY)


def test_joints_below_threshold_and_their_limbs_are_left_out(person):
    points, scores = person
    np.testing.assert_array_equal(draw_poses(GREY, points, 0.29 * scores, None, skeleton=COCO, threshold=0.3), GREY)
    points[0, COCO.index("left_elbow")] = 600, 450
    corner = np.s_[420:, 500:]
    assert np.any(draw_poses(GREY, points, scores, None, skeleton=COCO)[corner] != GREY[corner])
    scores[0, COCO.index("left_elbow")] = 0.1
    np.testing.assert_array_equal(draw_poses(GREY, points, scores, None, skeleton=COCO)[corner], GREY[corner])


def test_absent_joints_are_left_out_at_any_threshold(person):
    points, scores = person
    picture = draw_poses(GREY, points, 0 * scores, None, skeleton=COCO, threshold=0.0)
    np.testing.assert_array_equal(picture, GREY)


def test_confidence_is_opacity(person):
    points, scores = person
    y, x = points[0, 0, ::-1].astype(int)
    faint, clear = (draw_poses(GREY, points, s * scores, None, skeleton=COCO)[y, x] for s in (0.4, 0.9))
    assert np.all(clear > faint)


def test_not_a_number_and_far_away_joints_are_survived(person):
    points, scores = person
    points[0, 3] = np.nan
    points[0, 4] = 1e7
    points[0, 5] = -300
    picture = draw_poses(GREY, points, scores, np.array([0.9]), skeleton=COCO)
    assert picture.shape == GREY.shape
    x, y = points[0, 0].astype(int)
    np.testing.assert_array_equal(picture[y, x], PERSON_COLORS[0])


def test_nobody():
    none = np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros(0)
    np.testing.assert_array_equal(draw_poses(GREY, *none, skeleton=COCO, boxes=np.zeros((0, 4))), GREY)


def test_small_images_are_enlarged(person):
    points, scores = person
    small = np.full((48, 64, 3), 128, np.uint8)
    assert drawing_scale(48, 64) == 10
    picture = draw_poses(small, points / 10, scores, None, skeleton=COCO)
    assert picture.shape == (480, 640, 3)
    for x, y in points[0]:
        # The centre of pixel (p, q) of the small image is at ((p + .5) * 10 - .5, (q + .5) * 10 - .5).
        np.testing.assert_array_equal(picture[round(y + 4.5), round(x + 4.5)], PERSON_COLORS[0])


@pytest.mark.parametrize(("size", "scale"), [((480, 640), 1), ((3000, 4000), 1), ((120, 480), 4), ((100, 4000), 1)])
def test_scale_is_bounded(size, scale):
    assert drawing_scale(*size) == scale


def test_better_people_are_drawn_on_top(person):
    points, scores = person
    both, twice = np.concatenate([points, points]), np.concatenate([scores, scores])
    y, x = points[0, 0, ::-1].astype(int)
    for person_score, top in (([0.9, 0.1], 0), ([0.1, 0.9], 1)):
        picture = draw_poses(GREY, both, twice, np.array(person_score), skeleton=COCO)
        np.testing.assert_array_equal(picture[y, x], PERSON_COLORS[top])


def test_boxes_are_drawn(person):
    points, scores = person
    box = np.array([[200.0, 30.0, 300.0, 420.0]])
    picture = draw_poses(GREY, points, 0 * scores, None, skeleton=COCO, boxes=box)
    changed = np.argwhere((picture != GREY).any(-1))
    assert np.all(np.abs(changed.min(0) - [30, 200]) <= 3)
    assert np.all(np.abs(changed.max(0) - [450, 500]) <= 3)
    np.testing.assert_array_equal(picture[40:440, 210:490], GREY[40:440, 210:490])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((5, 5, 3), np.float32)}, r"image is float32\[5, 5, 3\], expected uint8"),
        ({"image": np.zeros((5, 5), np.uint8)}, r"expected uint8 \[H, W, 3\]"),
        ({"keypoints": np.zeros((1, 14, 2))}, "keypoints has shape"),
        ({"scores": np.zeros((2, 17))}, "scores has shape"),
        ({"person_score": np.zeros(2)}, "person_score has shape"),
        ({"boxes": np.zeros((1, 5))}, "boxes has shape"),
    ],
)
def test_arrays_that_do_not_fit(person, change, message):
    arguments = {"image": GREY, "keypoints": person[0], "scores": person[1], "person_score": None, "skeleton": COCO}
    with pytest.raises(ValueError, match=message):
        draw_poses(**(arguments | change))


def test_panel_places_images():
    images = [np.full((20 + 10 * i, 30, 3), 40 * i, np.uint8) for i in range(5)]
    sheet = panel(images, columns=2, gap=4)
    assert sheet.shape == (3 * 64 + 4, 2 * 34 + 4, 3)
    for number in range(5):
        center = sheet[4 + (number // 2) * 64 + 30, 4 + (number % 2) * 34 + 15]
        np.testing.assert_array_equal(center, 40 * number)
    captioned = panel(images, columns=2, captions=["truth", "prediction"] * 2 + ["truth"], gap=4)
    assert captioned.shape[0] > sheet.shape[0]


def test_panel_needs_images():
    with pytest.raises(ValueError, match="at least one image"):
        panel([], 2)
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        panel([GREY, GREY], 2, ["truth"])
