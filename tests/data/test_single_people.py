"""What data sets with one person a record share: how lists are split, and what records become."""

import dataclasses
import random

import numpy as np
import pictures
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from jaxpose.data import single_people
from jaxpose.data.examples import person_boxes
from jaxpose.data.single_people import SinglePeople
from jaxpose.errors import ConfigError, DataError
from jaxpose.skeleton import HAND, LSP, MPII, from_coco_category


@given(st.integers(0, 400))
def test_parts_are_a_fifth_and_the_rest(count):
    test, train, whole = (single_people.part_rows(count, part) for part in ("test", "train", "all"))
    assert len(test) == int(count * 0.2)
    assert np.concatenate([test, train]).tolist() == whole.tolist()
    assert sorted(whole) == list(range(count))


def test_parts_are_those_of_a_shuffled_list():
    names = [f"hand{i}" for i in range(50)]
    rows = single_people.part_rows(50, "all")
    random.seed(42)
    random.shuffle(names)
    assert [f"hand{i}" for i in rows] == names
    assert len(single_people.part_rows(20_000, "test")) == 3200


def test_draws_are_those_of_the_original():
    random.seed(42)
    assert single_people.drawn_rows(7).tolist() == random.choices(range(7), k=3200)


def test_part_by_split():
    data = ConfigDict({"train": {"part": ""}, "validation": {}})
    assert single_people.part_of(data, "train") == "train"
    assert single_people.part_of(data, "validation") == "test"
    data.train.part = "some"
    with pytest.raises(ConfigError, match="config.data.train.part is 'some'; it can be one of train, test, all"):
        single_people.part_of(data, "train")


def test_lists(tmp_path):
    path = tmp_path / "list.json"
    with pytest.raises(DataError, match=r"list.json: cannot be read .*check config.data.dir"):
        single_people.read_list(path, ("name",))
    for content in ({"name": 1}, [], [1]):
        pictures.write_json(path, content)
        with pytest.raises(DataError, match=r"list.json: expected a list of records with \['name'\]"):
            single_people.read_list(path, ("name",))
    pictures.write_json(path, [{"name": "a"}, {"image": "b"}])
    with pytest.raises(DataError, match=r"record 1 has the fields \['image'\], but not \['name'\]"):
        single_people.read_list(path, ("name",))


@pytest.mark.parametrize(("row", "found"), [([[1, 2]], r"\(1, 2\)"), ([["x", 1]] * 3, "no numbers"), (None, "nan")])
def test_shapes(row, found):
    with pytest.raises(DataError, match=rf"x.json: record 1 has {found}, expected numbers of shape \(3, 2\)"):
        single_people.stack([np.zeros((3, 2)), row], (3, 2), "x.json")


@pytest.mark.parametrize("value", [1e300, -1e10, float("inf"), None, float("nan")])
def test_numbers_that_are_no_pixels_are_not_finite(value):
    (found,) = single_people.stack([[[1, 2], [value, 4]]], (2, 2), "x.json")
    assert np.isnan(found[1, 0])
    assert found[0].tolist() == [1, 2]


@pytest.mark.parametrize("row", [[[10**400, 1]] * 3, {"x": 1}, "text", [[[1], 2]] * 3])
def test_what_is_no_array_is_named(row):
    with pytest.raises(DataError, match="x.json: record 0 has"):
        single_people.stack([row], (3, 2), "x.json")


@pytest.mark.parametrize("name", [None, "", 7, ["a.jpg"], "a\0b"])
def test_names_are_text(name):
    with pytest.raises(DataError, match="x.json: record 1: field 'name' is .*fetch the file again"):
        single_people.texts([{"name": "a.jpg"}, {"name": name}], "name", "x.json")


@pytest.fixture
def three(tmp_path):
    """Three hands in two pictures; the second cannot be used."""
    for name, size in (("a.jpg", (40, 30)), ("b.png", (20, 60))):
        pictures.write(tmp_path / name, size)
    keypoints = np.random.default_rng(0).uniform(0, 20, (3, 21, 2))
    keypoints[1, 4] = np.nan
    return SinglePeople(tmp_path, ["b.png", "a.jpg", "b.png"], keypoints, mirror=np.array([True, False, False]))


def test_rows_become_people_in_their_order(three, caplog):
    sizes = three.image_sizes("")
    assert sizes.tolist() == [[20, 60], [40, 30], [20, 60]]
    source = three.source("hands", HAND, sizes)
    assert "hands: skipped 1: a joint is not finite (a.jpg)" in caplog.text
    a = source.annotations
    assert a.file_name.tolist() == ["b.png"]
    assert (a.width.tolist(), a.height.tolist(), a.person_image.tolist()) == ([20], [60], [0, 0])
    assert a.box.tolist() == [[0, 0, 20, 60]] * 2
    assert a.mirror.tolist() == [True, False]
    assert (a.visibility == 2).all()
    np.testing.assert_allclose(a.keypoints, three.keypoints[[0, 2]], rtol=1e-6)
    assert source[0]["mirror"].tolist() == [True, False]
    assert source[0]["image"] == (three.folder / "b.png").read_bytes()
    seen = person_boxes.annotated(a, "hands")
    assert seen.box.tolist() == a.box.tolist()
    assert seen.mirror.tolist() == [True, False]


@pytest.mark.parametrize("position", [(41, 5), (-21, 5), (5, 121), (5, -61)])
def test_people_with_a_joint_far_outside_are_counted(three, caplog, position):
    three.keypoints[0, 3] = position
    a = three.source("hands", HAND, three.image_sizes("")).annotations
    assert "hands: skipped 1: a joint lies far outside the image (b.png)" in caplog.text
    np.testing.assert_allclose(a.keypoints, three.keypoints[[2]], rtol=1e-6)
    hidden = dataclasses.replace(three, visibility=np.where(np.arange(21) == 3, 0, 2) + np.zeros((3, 1)))
    assert hidden.source("hands", HAND, three.image_sizes("")).annotations.num_people == 2


def test_nobody_left(three):
    three.keypoints[:] = np.inf
    with pytest.raises(DataError, match="hands: none of the 3 people that it lists can be used"):
        three.source("hands", HAND, three.image_sizes(""))


def test_missing_pictures(three):
    (three.folder / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 pictures cannot be read \(b.png: .*Do this\."):
        three.image_sizes("Do this.")


# --- whole images ---


def bodies(three, rows):
    """Bodies in the rows of `three`, the other pictures without anybody."""
    kept = SinglePeople(three.folder, three.names, np.ones((3, 16, 2)), np.full((3, 16), 1))
    a = kept.source("bodies", MPII, kept.image_sizes("")).annotations
    pick = np.array(rows)
    columns = ("person_image", "person_id", "box", "keypoints", "visibility", "area", "crowd", "track_id", "mirror")
    fields = {name: getattr(a, name)[pick] for name in columns}
    return dataclasses.replace(a, **fields, head_size=np.arange(1.0, 1 + len(rows)), num_keypoints=None)


def test_whole_images_keep_the_labels_of_their_person(three):
    seen = person_boxes.whole_images(bodies(three, [1]), "set")
    assert seen.box.tolist() == [[0, 0, 20, 60], [0, 0, 40, 30]]
    assert seen.visibility.tolist() == [[0] * 16, [1] * 16]
    assert seen.keypoints[1].tolist() == [[1, 1]] * 16
    assert seen.head_size.tolist() == [0, 1]
    assert (seen.true_boxes, seen.score.tolist(), seen.image.tolist()) == (True, [1, 1], [0, 1])


def test_whole_images_show_one_person(three):
    with pytest.raises(DataError, match="set: 1 of 2 images have several people, b.png first"):
        person_boxes.whole_images(bodies(three, [0, 2]), "set")


def test_joints_that_a_data_set_lacks_are_not_labelled(three):
    a = bodies(three, [0, 1]).with_skeleton(LSP)
    back = a.with_skeleton(MPII, partial=True)
    lacking = [MPII.index("pelvis"), MPII.index("thorax")]
    assert np.flatnonzero((back.visibility == 0).all(0)).tolist() == lacking
    assert not back.keypoints[:, lacking].any()
    assert (np.delete(back.keypoints, lacking, 1) == 1).all()
    assert back.num_keypoints.tolist() == [14, 14]
    with pytest.raises(ValueError, match=r"has no joints \['pelvis', 'thorax'\]"):
        a.with_skeleton(MPII)


@pytest.mark.parametrize("partial", [False, True])
def test_the_neck_is_also_called_head_bottom(three, partial):
    a = bodies(three, [0, 1])
    a.keypoints[:, MPII.index("neck")] = 3
    few = from_coco_category({"name": "few", "keypoints": ["head_top", "head_bottom"]})
    found = a.with_skeleton(few, partial)
    assert found.keypoints.tolist() == [[[1, 1], [3, 3]]] * 2
    assert (found.visibility > 0).all()


def test_hidden_joints_can_be_left_out(three):
    a = bodies(three, [0, 1])
    a.visibility[0, 3] = 2
    left = a.without_hidden()
    assert left.visibility.sum() == 2
    assert left.keypoints.sum() == 2
    assert left.num_keypoints.tolist() == [1, 0]
