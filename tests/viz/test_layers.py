"""Sheets of decoder layers show attention and joints where they are."""

import numpy as np
import pytest

from jaxpose.skeleton import COCO
from jaxpose.viz.layers import CELL, draw_dots, draw_heat, draw_layers

GREY = np.full((60, 80, 3), 100, np.uint8)


def cells(rows, columns, size):
    """[rows * columns, 2] middles of the cells of a map over an image of this size."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return np.stack([x, y], -1).reshape(-1, 2) * size - 0.5


@pytest.mark.parametrize("strongest", [0, 7, 11])
def test_heat_is_brightest_where_attention_is_strongest(strongest):
    places = cells(3, 4, (80, 60))
    weights = np.full(12, 0.02)
    weights[strongest] = 0.78
    light = draw_heat(GREY, places, weights, (3, 4)).sum(-1)
    y, x = np.unravel_index(light.argmax(), light.shape)
    assert (np.abs([x, y] - places[strongest]) <= [80 / 4 / 2 + 1, 60 / 3 / 2 + 1]).all()
    rows, columns = np.indices(light.shape)
    far = np.hypot(columns - places[strongest, 0], rows - places[strongest, 1]) > 40
    assert light[far].max() < light.max() / 2


def test_heat_of_a_single_cell():
    assert draw_heat(GREY, np.array([[39.5, 29.5]]), np.ones(1), (1, 1)).shape == GREY.shape


def test_dots_are_where_is_read_and_larger_for_more_weight():
    places = np.array([[20.0, 20.0], [60.0, 40.0], [-50.0, 10.0]])
    picture = draw_dots(GREY, places, np.array([0.7, 0.2, 0.1])).astype(int)
    plain = draw_dots(GREY, places[2:], np.ones(1)).astype(int)
    assert np.all(plain == plain[0, 0])
    changed = (picture != plain).any(-1)
    assert picture[20, 20, 0] > picture[40, 60, 0] > plain[0, 0, 0]
    assert changed[10:31, 10:31].sum() > changed[30:51, 50:71].sum() > 0
    changed[10:31, 10:31] = changed[30:51, 50:71] = False
    assert not changed.any()


@pytest.fixture
def views():
    """Two layers of a person whose joints move to the right."""
    rng = np.random.default_rng(0)
    first = np.stack([rng.uniform(5, 40, 17), rng.uniform(5, 55, 17)], -1)
    return {
        "keypoints": np.stack([first, first + [30, 0]]),
        "scores": np.ones(17),
        "places": cells(3, 4, (80, 60))[None, None],
        "weights": rng.dirichlet(np.ones(12), (2, 17)),
    }


ALL = np.array([-0.5, -0.5, 80, 60])


def test_sheet_has_a_column_a_layer_and_a_row_a_joint(views):
    few, many = (
        draw_layers(GREY, **views, skeleton=COCO, region=ALL, grid=(3, 4), joints=names)
        for names in (["nose"], ["nose", "left_wrist", "right_wrist"])
    )
    assert few.shape[1] == many.shape[1]
    assert 2 * CELL[0] <= few.shape[1] < 2.2 * CELL[0]
    row = (many.shape[0] - few.shape[0]) / 2
    assert CELL[1] <= row < 1.2 * CELL[1]
    assert abs(few.shape[0] - 2 * row) < 10
    everything = draw_layers(GREY, **views, skeleton=COCO, region=ALL, grid=(3, 4))
    assert everything.shape[0] == few.shape[0] + 16 * row


def test_region_is_cut_out_with_what_lies_in_it(views):
    """A quarter of the picture fills the cells; the joint in its middle is in theirs."""
    views["keypoints"] = np.full((2, 17, 2), 500.0)
    views["keypoints"][:, 0] = [59.5, 44.5]
    views["scores"][1:] = 0
    quarter = [39.5, 29.5, 40, 30]
    plain, found = (
        draw_layers(GREY, **views | {"keypoints": points}, skeleton=COCO, region=quarter, grid=(3, 4), joints=["nose"])
        for points in (np.full((2, 17, 2), np.nan), views["keypoints"])
    )
    height, header = found.shape[0] // 2, 8 + 26
    changed = (plain != found).any(-1)
    for row in range(2):
        for column in range(2):
            left, top = 8 + column * (CELL[0] + 8), row * (height - 4) + header
            y, x = np.nonzero(changed[top : top + CELL[1], left : left + CELL[0]])
            np.testing.assert_allclose([x.mean(), y.mean()], np.array(CELL) / 2 - 0.5, atol=2)


def test_layers_without_heads_have_no_pose(views):
    views["keypoints"][0] = np.nan
    sheet = draw_layers(GREY, **views, skeleton=COCO, region=ALL, joints=["nose"])
    first = sheet[34 : 34 + CELL[1], 8 : 8 + CELL[0]]
    assert np.all(first == first[0, 0])


def test_input_is_not_changed(views):
    image = GREY.copy()
    draw_layers(image, **views, skeleton=COCO, region=ALL, joints=["nose"])
    np.testing.assert_array_equal(image, GREY)


def test_what_does_not_fit_is_refused(views):
    with pytest.raises(ValueError, match="has no joint 'tail'"):
        draw_layers(GREY, **views, skeleton=COCO, region=ALL, joints=["tail"])
    with pytest.raises(ValueError, match=r"keypoints has shape \(1, 17, 2\), expected \(2, 17, 2\)"):
        draw_layers(GREY, **views | {"keypoints": views["keypoints"][:1]}, skeleton=COCO, region=ALL)
