"""MPII: the published .mat file, the JSON form, and what is wrong with them."""

import json
import logging
import os

import cv2
import numpy as np
import pytest
import scipy.io
from ml_collections import ConfigDict

from jaxpose.data.annotations import Skipped
from jaxpose.data.formats import pictures, record_files
from jaxpose.data.sources import folder as folders
from jaxpose.data.sources import mpii, open_source
from jaxpose.data.sources.records import open_records
from jaxpose.errors import ConfigError, DataError
from jaxpose.skeleton import MARIONETTE, MPII

NECK, TOP = MPII.index("neck"), MPII.index("head_top")


def write_images(folder, names, size=(64, 48)):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / "images" / name), np.zeros((size[1], size[0], 3), np.uint8))


def config(folder, annotations, skeleton="mpii", **fields):
    split = {"annotations": annotations, "images": "images"} | fields
    return ConfigDict({"source": "mpii", "dir": str(folder), "skeleton": skeleton, "train": split})


def struct(**fields):
    """A MATLAB structure of one element."""
    out = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        out[0, 0][name] = value
    return out


def structs(*rows):
    """A MATLAB structure array from structures with the same fields."""
    return np.concatenate(rows, axis=1)


EMPTY = np.zeros((0, 0))


def point(joint, x, y, visible=1):
    return struct(id=joint, x=x, y=y, is_visible=EMPTY if visible is None else visible)


def person(points, box=(11, 21, 41, 61), position=(30.0, 40.0), scale=0.2):
    corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    joints = struct(point=structs(*points)) if points else EMPTY
    place = struct(x=position[0], y=position[1]) if position else EMPTY
    return struct(**corners, annopoints=joints, scale=EMPTY if scale is None else scale, objpos=place)


PAIR = (point(0, 10.0, 20.0), point(8, 12.5, 13.5, None), point(9, 14.0, 9.0, None), point(13, 30.0, 31.0, "0"))


def write_matlab(folder, images, training, single=None):
    """`images`: {name: people, from `person`}."""
    entries = []
    for name, people in images.items():
        entries.append(struct(image=struct(name=name), annorect=structs(*people) if people else EMPTY))
    alone = np.empty((len(images), 1), object)
    for i, numbers in enumerate(single or [[]] * len(images)):
        alone[i, 0] = np.array(numbers, float).reshape(-1, 1)
    release = struct(annolist=structs(*entries), img_train=np.array([training]), single_person=alone)
    scipy.io.savemat(folder / "mpii.mat", {"RELEASE": release})
    write_images(folder, images)


@pytest.fixture
def published(tmp_path):
    """Two training images with 1 and 3 people, of whom the last has no joints; one test image."""
    images = {
        "015601864.jpg": [person(PAIR)],
        "000000007.jpg": [person(PAIR[:1]), person(PAIR[3:], scale=0.1, position=(5.0, 6.0)), person(())],
        "099999999.jpg": [person(PAIR)],
    }
    write_matlab(tmp_path, images, [1, 1, 0], [[1], [2], []])
    return tmp_path


class TestMatlab:
    def test_reads_what_is_there(self, published, caplog):
        with caplog.at_level(logging.WARNING, "jaxpose"):
            source = open_source(config(published, "mpii.mat"), "train")
        a = source.annotations
        assert a.file_name.tolist() == ["015601864.jpg", "000000007.jpg"]
        assert a.image_id.tolist() == [15601864, 7]
        assert (a.width.tolist(), a.height.tolist()) == ([64, 64], [48, 48])
        assert a.person_image.tolist() == [0, 1, 1]
        assert "skipped 1: no joint is labelled (000000007.jpg, person 3)" in caplog.text
        labels = np.zeros(16, int)
        labels[[0, NECK, TOP, MPII.index("left_shoulder")]] = 2, 2, 2, 1
        np.testing.assert_array_equal(a.visibility[0], labels)
        np.testing.assert_array_equal(a.keypoints[0][[0, NECK, 1]], [[9, 19], [11.5, 12.5], [0, 0]])
        np.testing.assert_allclose(a.head_size, 0.6 * 50)
        np.testing.assert_allclose(a.area, 0.53 * np.array([20 * 22, 1, 1]))
        assert source[1]["head_size"].shape == (2,)

    def test_box_is_the_square_of_the_original_crops(self, published):
        box = open_source(config(published, "mpii.mat"), "train").annotations.box
        np.testing.assert_allclose(box[0], [29 - 25, 39 + 3 - 25, 50, 50], atol=1e-5)
        np.testing.assert_allclose(box[2], [4 - 12.5, 5 + 1.5 - 12.5, 25, 25], atol=1e-5)

    def test_separated_people(self, published):
        a = open_source(config(published, "mpii.mat", people="separated"), "train").annotations
        assert a.visibility.sum(-1).tolist() == [7, 1]
        assert a.person_id.tolist() == [1, 2]
        with pytest.raises(ConfigError, match=r"config.data.train.people is 'lonely'; it can be 'all' or 'separated'"):
            open_source(config(published, "mpii.mat", people="lonely"), "train")

    def test_images_of_a_list(self, published):
        (published / "names.txt").write_text("000000007.jpg\n000000007.jpg\n")
        a = open_source(config(published, "mpii.mat", names="names.txt"), "train").annotations
        assert a.file_name.tolist() == ["000000007.jpg"]
        (published / "names.txt").write_text("000000007.jpg\n099999999.jpg\n")
        with pytest.raises(DataError, match=r"names.txt: 1 of its 2 images have nobody .*099999999.jpg first"):
            open_source(config(published, "mpii.mat", names="names.txt"), "train")

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (person(PAIR, scale=None), "fields 'objpos' and 'scale' don't tell position and size"),
            (person(PAIR, position=None), "fields 'objpos' and 'scale' don't tell position and size"),
            (person(PAIR, scale=-1.0), "fields 'center' (or 'objpos') and 'scale' don't tell position and size"),
            (person((point(16, 1.0, 1.0),)), "field 'annopoints' has a point that is no joint"),
            (person((point(3, np.nan, 1.0),)), "field 'annopoints' has a point that is no joint"),
            (person((point(3, 1e300, 1.0),)), "field 'annopoints' has a point that is no joint"),
            (person(PAIR, scale=np.inf), "fields 'objpos' and 'scale' don't tell position and size"),
        ],
    )
    def test_bad_person_is_counted_named_and_skipped(self, tmp_path, caplog, bad, reason):
        write_matlab(tmp_path, {"1.jpg": [person(PAIR), bad]}, [1])
        with caplog.at_level(logging.WARNING, "jaxpose"):
            assert open_source(config(tmp_path, "mpii.mat"), "train").annotations.num_people == 1
        assert f"skipped 1: {reason} (1.jpg, person 2)" in caplog.text

    def test_nobody_left(self, tmp_path):
        write_matlab(tmp_path, {"1.jpg": [person(())]}, [1])
        with pytest.raises(DataError, match="none of the 1 people that it lists can be used"):
            open_source(config(tmp_path, "mpii.mat"), "train")

    def test_not_the_file(self, published):
        data = (published / "mpii.mat").read_bytes()
        (published / "mpii.mat").write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match=r"mpii.mat: is no complete .mat file .* fetch it again"):
            open_source(config(published, "mpii.mat"), "train")
        scipy.io.savemat(published / "mpii.mat", {"joints": 1})
        with pytest.raises(DataError, match=r"structure 'RELEASE' lacks \['annolist', 'img_train'\]"):
            open_source(config(published, "mpii.mat"), "train")
        with pytest.raises(DataError, match=r"none.mat: cannot be read .No such file"):
            open_source(config(published, "none.mat"), "train")
        with pytest.raises(ConfigError, match="config.data.train.annotations is missing"):
            open_source(config(published, ""), "train")

    def test_missing_images_are_counted_and_named(self, published):
        (published / "images" / "000000007.jpg").unlink()
        with pytest.raises(DataError, match=r"images: 1 of 2 pictures cannot be read \(000000007.jpg: No such file"):
            open_source(config(published, "mpii.mat"), "train")


def record(image="a.jpg", labelled=16, **change):
    joints = np.arange(32.0).reshape(16, 2) + 1
    joints[TOP] = joints[NECK] + [12, 16]
    fields = {"image": image, "center": [30.0, 40.0], "scale": 0.2}
    return fields | {"joints": joints.tolist(), "joints_vis": [1] * labelled + [0] * (16 - labelled)} | change


class TestList:
    def write(self, folder, *people):
        (folder / "valid.json").write_text(json.dumps(people))
        write_images(folder, {p["image"] for p in people})
        return config(folder, "valid.json")

    def test_reads_what_is_there(self, tmp_path):
        data = self.write(tmp_path, record(), record("b.jpg", labelled=9), record())
        a = open_source(data, "train").annotations
        assert (a.image_id.tolist(), a.person_image.tolist()) == ([1, 2], [0, 1, 0])
        assert a.visibility.tolist() == [[2] * 16, [2] * 9 + [0] * 7, [2] * 16]
        np.testing.assert_array_equal(a.keypoints[0, :2], [[0, 1], [2, 3]])
        assert not a.keypoints[1, 9:].any()
        np.testing.assert_allclose(a.head_size, [0.75 * 20, 0, 0.75 * 20])
        np.testing.assert_allclose(a.box[0], [4, 17, 50, 50], atol=1e-5)

    def test_head_boxes(self, tmp_path):
        data = self.write(tmp_path, record(), record(labelled=3))
        boxes = np.array([[0, 0, 30, 40], [5, 5, 8, 9]], float).reshape(2, 2, 2).transpose(1, 2, 0)
        scipy.io.savemat(tmp_path / "gt.mat", {"headboxes_src": boxes})
        data.train.head_boxes = "gt.mat"
        np.testing.assert_allclose(open_source(data, "train").annotations.head_size, [30, 3])
        scipy.io.savemat(tmp_path / "gt.mat", {"headboxes_src": boxes[..., :1]})
        with pytest.raises(DataError, match="valid.json: lists 2 people, but there are 1 head boxes"):
            open_source(data, "train")
        scipy.io.savemat(tmp_path / "gt.mat", {"boxes": boxes})
        with pytest.raises(DataError, match=r"gt.mat: variable 'headboxes_src' is missing, expected \(2, 2, people\)"):
            open_source(data, "train")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"joints": [[1, 2]] * 14}, "field 'joints': expected 32 (record 1 has 28 numbers)"),
            ({"joints": "none"}, "field 'joints': expected a list of 32 numbers (record 1 is 'none')"),
            ({"joints": [[1, None]] * 16}, "field 'joints': expected finite numbers (record 1 holds None)"),
            ({"joints_vis": [1e300] * 16}, "field 'joints_vis': expected finite numbers (record 1 holds 1e+300)"),
            ({"scale": float("nan")}, "field 'scale': expected a finite number (record 1 is nan)"),
            ({"center": [1e300, 0]}, "field 'center': expected finite numbers (record 1 holds 1e+300)"),
            ({"scale": "big"}, "field 'scale': expected a finite number (record 1 is 'big')"),
            ({"center": [-1, -1]}, "fields 'center' (or 'objpos') and 'scale' don't tell position and size"),
            ({"joints_vis": [0] * 16}, "no joint is labelled"),
        ],
    )
    def test_bad_record_is_counted_named_and_skipped(self, tmp_path, caplog, change, reason):
        data = self.write(tmp_path, record(), record(**change))
        with caplog.at_level(logging.WARNING, "jaxpose"):
            assert open_source(data, "train").annotations.num_people == 1
        assert f"skipped 1: {reason}" in caplog.text
        assert "(record 1" in caplog.text

    @pytest.mark.parametrize("image", [7, "", None, ["1.jpg"], "a\0.jpg"])
    def test_an_image_without_name(self, tmp_path, image):
        (tmp_path / "valid.json").write_text(json.dumps([record() | {"image": image}]))
        skipped = Skipped("valid.json")
        assert mpii.read_list(tmp_path / "valid.json", skipped) == []
        assert skipped.total == 1

    def test_other_files(self, tmp_path):
        data = self.write(tmp_path, record())
        (tmp_path / "valid.json").write_text(json.dumps({"annotations": []}))
        with pytest.raises(DataError, match=r"is in COCO's format, .* config.data.source='coco'"):
            open_source(data, "train")
        (tmp_path / "valid.json").write_text("[1]")
        with pytest.raises(DataError, match="expected a list of records with"):
            open_source(data, "train")


def test_head_sizes_stay_through_skeletons_and_records(published, tmp_path):
    source = open_source(config(published, "mpii.mat"), "train")
    wrists = MARIONETTE.joints[9:11]
    chosen = type(MPII)("wrists", wrists, (), (0.1, 0.1), ())
    np.testing.assert_array_equal(source.annotations.with_skeleton(chosen).head_size, source.annotations.head_size)
    copy = open_records(record_files.write({"train": source}, tmp_path / "records"), "train")
    np.testing.assert_array_equal(copy.annotations.head_size, source.annotations.head_size)


class TestPictureSizes:
    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    def test_equals_decoding(self, tmp_path, suffix):
        for i, size in enumerate([(1, 2), (300, 7), (65, 129)]):
            write_images(tmp_path, [f"{i}.{suffix}"], size)
        found = folders.picture_sizes(tmp_path / "images", [f"{i}.{suffix}" for i in range(3)], "")
        np.testing.assert_array_equal(found, [(1, 2), (300, 7), (65, 129)])

    def test_header_behind_long_metadata(self, tmp_path):
        write_images(tmp_path, ["a.jpg"], (33, 44))
        path = tmp_path / "images" / "a.jpg"
        data = path.read_bytes()
        extra = b"\xff\xff\xe1\xff\xff" + bytes(65533)
        for head in (data[:500], data[:2] + extra + data[2:-9]):
            assert pictures.header(head).size == (33, 44)
        assert pictures.header(data[:2] + extra + data[2:100]).size is None
        path.write_bytes(data[:2] + extra + data[2:])
        np.testing.assert_array_equal(folders.picture_sizes(tmp_path / "images", ["a.jpg"], ""), [(33, 44)])

    def test_files_that_are_no_pictures(self, tmp_path):
        write_images(tmp_path, ["a.jpg"])
        for name, data in (("b.jpg", b""), ("c.jpg", b"\xff\xd8\xff"), ("d.png", b"text")):
            (tmp_path / "images" / name).write_bytes(data)
        with pytest.raises(DataError, match=r"3 of 4 pictures cannot be read \(b.jpg: .*c.jpg: .*d.png: .*Do this."):
            folders.picture_sizes(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg", "d.png"], "Do this.")


def test_real_people(real_data):
    """The head sizes are those of the published file, which takes them from the heads' boxes."""
    data = config(real_data / "samples" / "mpii", "test_mpii.json", images=".")
    source = open_source(data, "train")
    assert source.annotations.image_id.tolist() == [5808361, 52475643, 51423444, 4645041, 60754485]
    assert set(zip(source.annotations.width, source.annotations.height, strict=True)) == {(1280, 720), (854, 480)}
    np.testing.assert_allclose(source.annotations.head_size, [117.9622, 44.0459, 78.4808, 81.2219, 84.3699], rtol=1e-5)
    inside = source.annotations.keypoints < np.stack([source.annotations.width, source.annotations.height], -1)[:, None]
    assert inside.all()
    assert len(source[0]["image"]) == os.path.getsize(real_data / "samples" / "mpii" / "005808361.jpg")
