"""Leeds Sports Pose and its extension; head sizes of marionettes, whose records lack them."""

import logging

import cv2
import numpy as np
import pytest
import scipy.io
from ml_collections import ConfigDict

from jaxpose import skeleton as skeletons
from jaxpose.data.examples import person_boxes
from jaxpose.data.sources import open_source
from jaxpose.data.sources.records import marionette_head_size, read_columns
from jaxpose.errors import ConfigError, DataError
from jaxpose.skeleton import LSP, MARIONETTE


def write(folder, joints, extended=True):
    """joints.mat from [N, 14, 3], and its images."""
    order = (1, 2, 0) if extended else (2, 1, 0)
    scipy.io.savemat(folder / "joints.mat", {"joints": joints.transpose(order)})
    (folder / "images").mkdir(exist_ok=True)
    for i in range(len(joints)):
        name = f"im{i + 1:05d}.jpg" if extended else f"im{i + 1:04d}.jpg"
        cv2.imwrite(str(folder / "images" / name), np.zeros((90, 70 + i, 3), np.uint8))


def config(folder, **fields):
    split = {"annotations": "joints.mat", "images": "images"} | fields
    return ConfigDict({"source": "lsp", "dir": str(folder), "skeleton": "lsp", "train": split})


def poses(people_=4):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(5, 60, (people_, 14, 2)), np.ones((people_, 14, 1))], -1)


def test_extension_marks_what_is_labelled(tmp_path):
    joints = poses()
    joints[1, LSP.index("head_top")] = 0, -26, 0
    write(tmp_path, joints)
    source = open_source(config(tmp_path), "train")
    a = source.annotations
    assert a.file_name.tolist() == ["im00001.jpg", "im00002.jpg", "im00003.jpg", "im00004.jpg"]
    assert (a.width.tolist(), a.height.tolist()) == ([70, 71, 72, 73], [90] * 4)
    assert a.visibility[1].tolist() == [2] * 13 + [0]
    np.testing.assert_allclose(a.keypoints[0], joints[0, :, :2], rtol=1e-6)
    assert not a.keypoints[1, 13].any()
    neck, top = joints[:, LSP.index("neck"), :2], joints[:, LSP.index("head_top"), :2]
    expected = 0.75 * np.linalg.norm(neck - top, axis=-1) * (np.arange(4) != 1)
    np.testing.assert_allclose(a.head_size, expected, rtol=1e-6)
    assert source[2]["keypoints"].shape == (1, 14, 2)


def test_first_set_marks_what_is_hidden(tmp_path):
    joints = poses()
    joints[..., 2] = 0
    joints[2, 5, 2] = 1
    write(tmp_path, joints, extended=False)
    a = open_source(config(tmp_path), "train").annotations
    assert a.file_name[3] == "im0004.jpg"
    assert a.visibility[2].tolist() == [2] * 5 + [1] + [2] * 8
    np.testing.assert_allclose(a.keypoints[2], joints[2, :, :2], rtol=1e-6)


def test_box_is_the_tight_one_grown(tmp_path):
    joints = poses()
    joints[3, :, :2] = 30, 40
    joints[3, :2, :2] = [20, 40], [40, 80]
    joints[3, 2] = -500, -500, 0
    write(tmp_path, joints)
    a = open_source(config(tmp_path), "train").annotations
    np.testing.assert_allclose(a.box[3], [18, 36, 24, 48], rtol=1e-6)
    np.testing.assert_allclose(a.area[3], 0.53 * 24 * 48, rtol=1e-6)


def test_people_without_a_box_are_no_examples(tmp_path, caplog):
    joints = poses()
    joints[0, :, 2] = 0
    joints[2, 1:, 2] = 0
    joints[3, 4, 0] = np.nan
    write(tmp_path, joints)
    with caplog.at_level(logging.INFO, "jaxpose"):
        a = open_source(config(tmp_path), "train").annotations
        seen = person_boxes.annotated(a, "set")
    assert "skipped 1: a joint is not finite: taken as not labelled (im00004.jpg)" in caplog.text
    assert a.visibility[3, 4] == 0
    assert seen.image.tolist() == [1, 3]
    assert "skipped 2: no area" in caplog.text


def test_range(tmp_path):
    write(tmp_path, poses())
    a = open_source(config(tmp_path, range=(1, 3)), "train").annotations
    assert a.image_id.tolist() == a.person_id.tolist() == [2, 3]
    assert a.file_name.tolist() == ["im00002.jpg", "im00003.jpg"]
    assert open_source(config(tmp_path, range=()), "train").annotations.num_images == 4


@pytest.mark.parametrize("limits", [(0, 5), (2, 2), (-1, 2), (1,), (0.0, 1.0)])
def test_range_that_is_none(tmp_path, limits):
    write(tmp_path, poses())
    with pytest.raises(ConfigError, match=r"config.data.train.range is \(.*0 <= first < end <= 4"):
        open_source(config(tmp_path, range=limits), "train")


def test_missing_images(tmp_path):
    write(tmp_path, poses())
    (tmp_path / "images" / "im00003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 pictures .*im00003.jpg.*narrow config.data.train.range"):
        open_source(config(tmp_path), "train")
    assert len(open_source(config(tmp_path, range=(0, 2)), "train")) == 2


def test_other_files(tmp_path):
    write(tmp_path, poses())
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": np.zeros((16, 2, 5))})
    with pytest.raises(DataError, match=r"variable 'joints' has shape \(16, 2, 5\), expected \(3, 14, people\)"):
        open_source(config(tmp_path), "train")
    with pytest.raises(ConfigError, match="config.data.train.annotations is missing: for LSP it is 'joints.mat'"):
        open_source(config(tmp_path, annotations=""), "train")


def test_skeleton():
    assert LSP.flip_pairs == ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9))
    assert skeletons.get("lsp") is LSP
    assert MARIONETTE.select(LSP).shape == (14,)


def test_marionettes_have_head_sizes(tmp_path):
    """A skull of 200 mm at 2 m, seen with a focal length of 500 pixels, however it is turned."""
    joints = np.zeros((3, 25, 3), np.float32)
    joints[:, MARIONETTE.index("head")] = [[0, 0, 2000], [300, 100, 2000], [0, 0, -5]]
    joints[:, MARIONETTE.index("head_top")] = joints[:, MARIONETTE.index("head")]
    joints[0, MARIONETTE.index("head_top"), 1] -= 100
    joints[1, MARIONETTE.index("head_top"), 2] += 100
    found = marionette_head_size(joints, np.full(3, 500.0))
    np.testing.assert_allclose(found, [0.6 * np.hypot(50, 50 * 77 / 116)] * 2 + [0], rtol=1e-6)


def test_records_without_head_sizes(tmp_path):
    names = {"width": 1, "height": 1, "person_image": 2, "person_id": 2, "track_id": 2}
    columns = {name: np.zeros(count, np.int64) for name, count in names.items()}
    columns |= {"image_id": np.ones(1, np.int64), "file_name": np.array(["a"]), "box": np.ones((2, 4), np.float32)}
    columns |= {"joints": np.zeros((2, 25, 3), np.float32), "area": np.zeros(2, np.float32), "crowd": np.zeros(2, bool)}
    np.savez(tmp_path / "old.npz", **columns)
    np.testing.assert_array_equal(read_columns(tmp_path / "old.npz").head_size, np.zeros(2, np.float32))
    joints = np.random.default_rng(0).uniform(1000, 1200, (2, 25, 3))
    camera = np.diag([400.0, 400, 1])[None]
    np.savez(tmp_path / "marionettes.npz", **columns, joints_3d=joints, intrinsics=camera)
    expected = marionette_head_size(joints, np.full(2, 400.0))
    np.testing.assert_array_equal(read_columns(tmp_path / "marionettes.npz").head_size, expected)


def test_real_people(real_data):
    folder = real_data / "lspet"
    with pytest.raises(DataError, match="7600 of 10000 pictures cannot be read .im02401.jpg"):
        open_source(config(folder), "train")
    a = open_source(config(folder, range=(2000, 2400)), "train").annotations
    assert (a.num_images, a.file_name[0], a.file_name[-1]) == (400, "im02001.jpg", "im02400.jpg")
    size = np.stack([a.width, a.height], -1)[:, None]
    assert (a.keypoints < size).all()
    assert (a.area > 0).all()
    assert 0.7 < (a.head_size > 0).mean() < 0.9
    assert len(person_boxes.annotated(a, "lspet")) == 400
