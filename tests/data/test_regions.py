"""Regions of people without labels: packed, and drawn as COCO's tools draw them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from jaxpose.data.formats import regions
from jaxpose.data.formats.regions import Regions
from jaxpose.data.sources import coco
from jaxpose.files.json_files import read_json

WIDTH, HEIGHT = 37, 29
CORNER = st.tuples(st.floats(-5, WIDTH + 5), st.floats(-5, HEIGHT + 5))
POLYGON = st.lists(CORNER, min_size=3, max_size=8).map(lambda corners: [round(v, 2) for c in corners for v in c])


def reference(segmentations: list, width: int, height: int) -> np.ndarray:
    tools = pytest.importorskip("pycocotools.mask", reason="the cross-check needs pycocotools")
    found = np.zeros((height, width), bool)
    for segmentation in segmentations:
        runs = tools.frPyObjects(segmentation, height, width)
        for run in runs if isinstance(runs, list) else [runs]:
            found |= tools.decode(run).astype(bool)
    return found


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed, by columns, background first."""
    changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False))
    counts = np.diff([0, *changes, mask.size])
    return {"size": list(mask.shape), "counts": counts.tolist()}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(POLYGON, min_size=1, max_size=3), min_size=1, max_size=3))
def test_polygons_are_drawn_as_pycocotools_does(segmentations):
    found = regions.draw(segmentations, WIDTH, HEIGHT)
    assert found.shape == (HEIGHT, WIDTH)
    assert_array_equal(found, reference(segmentations, WIDTH, HEIGHT))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_run_lengths_are_drawn_as_they_were_taken(seed, compressed):
    import hotcoco

    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.3
    segmentation = run_lengths(mask)
    if compressed:
        counts = hotcoco.mask.encode(np.asfortranarray(mask))["counts"].decode()
        segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    assert regions.is_drawable(segmentation, WIDTH, HEIGHT)
    assert_array_equal(regions.draw([segmentation], WIDTH, HEIGHT), mask)


def test_packed_regions_belong_to_their_images():
    shapes = [[[float(i), 0, 9, 0, 9, 9]] for i in range(4)]
    packed = Regions.pack([5, 2, 5, 0], shapes)
    assert len(packed) == 4
    assert [packed.of(i) for i in (0, 1, 2, 5, 6)] == [[shapes[3]], [], [shapes[1]], [shapes[0], shapes[2]], []]
    assert packed.mask(1, WIDTH, HEIGHT) is None
    assert Regions.pack([], []).mask(0, WIDTH, HEIGHT) is None


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, "6"]],
        {"size": [HEIGHT, WIDTH], "counts": [5, 6]},
        {"size": [WIDTH, HEIGHT], "counts": "abc"},
        {"counts": "abc"},
        "polygon",
        None,
        7,
        [[1, 2, 3, 4, 5, None]],
        [[1, 2, 3, 4, 5, True]],
        [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, 1e300]],
        [[1, 2, 3, 4, 5, 6], 7],
        {"size": [HEIGHT, WIDTH], "counts": [-1, WIDTH * HEIGHT + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [0.0, float(WIDTH * HEIGHT)]},
        {"size": [HEIGHT, WIDTH], "counts": [0, str(WIDTH * HEIGHT)]},
        {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [0, [WIDTH * HEIGHT]]},
        {"size": [HEIGHT, WIDTH], "counts": []},
        {"size": [HEIGHT, WIDTH], "counts": None},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": "abc"},
        {"size": [HEIGHT, WIDTH], "counts": "o" * 50},
        {"size": [HEIGHT, WIDTH], "counts": "\u0660é"},
        {"size": [float(HEIGHT), WIDTH], "counts": [WIDTH * HEIGHT]},
        {"size": HEIGHT, "counts": [WIDTH * HEIGHT]},
        {"size": None, "counts": [WIDTH * HEIGHT]},
    ],
)
def test_what_cannot_be_drawn(segmentation):
    assert not regions.is_drawable(segmentation, WIDTH, HEIGHT)


CHARACTER = st.characters(min_codepoint=ord("0") - 1, max_codepoint=ord("0") + 64)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 60), CHARACTER | st.just("")), max_size=3))
def test_changed_run_lengths_are_drawn_as_they_were_checked(seed, changes):
    """Whatever passes the check is drawn, as pycocotools draws it."""
    import hotcoco

    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.01
    counts = list(hotcoco.mask.encode(np.asfortranarray(mask))["counts"].decode())
    for at, character in changes:
        counts[at : at + 1] = character
    segmentation = {"size": [HEIGHT, WIDTH], "counts": "".join(counts)}
    if regions.is_drawable(segmentation, WIDTH, HEIGHT):
        tools = pytest.importorskip("pycocotools.mask", reason="the cross-check needs pycocotools")
        expected = tools.decode(segmentation | {"counts": segmentation["counts"].encode()}).astype(bool)
        assert_array_equal(regions.draw([segmentation], WIDTH, HEIGHT), expected)
    else:
        assert changes


def test_no_region_is_drawn_in_an_image_that_fills_the_memory():
    corners = [[0, 0, 5, 0, 5, 5]]
    assert regions.is_drawable(corners, 1 << 14, 1 << 13)
    assert not regions.is_drawable(corners, (1 << 14) + 1, 1 << 13)
    assert not regions.is_drawable({"size": [65535, 65535], "counts": [65535**2]}, 65535, 65535)


def test_real_crowds_and_unlabelled_people(real_data):
    path = real_data / "coco_mini" / "annotations" / "person_keypoints_train2017.json"
    content, annotations = read_json(path), coco.read_keypoints(path)
    ignored = [a for a in content["annotations"] if a["iscrowd"] or not a["num_keypoints"]]
    assert len(annotations.unlabelled) == len(ignored) > 5
    with_regions = 0
    for row, image in enumerate(content["images"]):
        expected = [a["segmentation"] for a in ignored if a["image_id"] == image["id"]]
        found = annotations.unlabelled_mask(row)
        assert (found is None) == (not expected)
        if expected:
            with_regions += 1
            assert_array_equal(found, reference(expected, image["width"], image["height"]))
    assert with_regions > 5
