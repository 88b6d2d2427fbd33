"""Hands of three data sets: which are used, where they are, and what is wrong with files."""

import pickle

import numpy as np
import pictures
import pytest
from domains import hand, write_freihand, write_h3d, write_rhd
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import config as configs
from jaxpose.data.examples.people import PersonExamples
from jaxpose.data.examples.person_boxes import annotated
from jaxpose.data.formats import record_files
from jaxpose.data.single_people import part_rows
from jaxpose.data.sources import freihand, open_source, rhd
from jaxpose.data.sources.records import open_records
from jaxpose.data.views import Augmentation, PersonCrop
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import geometry

# --- Rendered Handpose ---


def open_rhd(root, pairs, numbers=None, **fields):
    """A training set of pictures with the pairs (left hand, right hand)."""
    write_rhd(root, pairs, numbers)
    data = pictures.config("rhd", root, "hand", **configs.rhd_folders()["train"] | fields)
    return open_source(data, "train")


def test_hands_that_are_used(tmp_path):
    far = hand((250, 250), 20)
    pairs = [
        (hand((80, 80), 60), far),  # the right one is too small
        (far, hand((80, 80), 60)),
        (hand((80, 80), 60, visible=16), hand((240, 240), 60, visible=17)),
        (hand((80, 160), 60), hand((240, 160), 60)),  # both
        (hand((80, 160), 60), hand((100, 160), 60)),  # neither: each in the other's way
        (hand((80, 160), 44), far),  # a box of 66 pixels is large enough
        (hand((80, 160), 43), far),  # one of 64, the even neighbour of 64.5, is not
    ]
    numbers = [7, 1, 20, 3, 4, 5, 6]
    a = open_rhd(tmp_path, pairs, numbers).annotations
    found = [(str(a.file_name[i]), bool(mirror)) for i, mirror in zip(a.person_image, a.mirror)]
    expected = [(7, False), (1, True), (20, True), (3, False), (3, True), (5, False)]
    assert found == [(f"{number:05d}.png", mirror) for number, mirror in expected]
    assert a.visibility[2].sum() == 34
    assert a.visibility[0].sum() == 42
    assert not a.clip_boxes


def test_fingers_are_counted_from_the_palm(tmp_path):
    pair = (hand((80, 80), 60), hand((240, 240), 60))
    a = open_rhd(tmp_path, [pair]).annotations
    for joints, points in zip(pair, a.keypoints):
        assert_allclose(points[0], joints[0, :2], rtol=1e-6)
        assert_allclose(points[1:5], joints[4:0:-1, :2], rtol=1e-6)
        assert_allclose(points[17:], joints[20:16:-1, :2], rtol=1e-6)


def test_boxes_are_squares_around_all_joints(tmp_path):
    pair = (hand((100, 90), 60, visible=18), hand((240, 240), 60))
    a = open_rhd(tmp_path, [pair]).annotations
    for box, joints, mirror in zip(a.box, pair, (0, 1)):
        low, high = joints[:, :2].min(0), joints[:, :2].max(0)
        side = np.round(1.5 * (high - low).max())
        assert_allclose(box[2:], side - 1)
        assert_allclose(box[:2] + [mirror, 0] + side / 2, (low + high) / 2, atol=0.51)


def test_right_hands_are_seen_as_left_ones(tmp_path):
    """Mirrored, their joints are where the original code has them: w - 1 - x in a crop of w columns."""
    source = open_rhd(tmp_path, [(hand((80, 80), 60), hand((240, 240), 60))])
    a, crop = source.annotations, PersonCrop((64, 64), padding=1.0)
    examples = PersonExamples(source, annotated(a, "rhd"), crop)
    left, right = (examples.load(i, None) for i in (0, 1))
    zoom = 64 / a.box[:, 2, None, None]
    assert_allclose(left["keypoints"], zoom[0] * (a.keypoints[0] - a.box[0, :2]), atol=1e-4)
    width, corner = a.box[1, 2], a.box[1, :2] + [1, 0]
    inside = a.keypoints[1] - corner
    assert_allclose(right["keypoints"], zoom[1] * np.stack([width - 1 - inside[:, 0], inside[:, 1]], -1), atol=1e-4)
    for example, points in ((left, a.keypoints[0]), (right, a.keypoints[1])):
        assert_allclose(geometry.apply_affine(example["to_image"], example["keypoints"]), points, atol=1e-3)


def test_random_views_of_mirrored_hands_stay_mirrored(tmp_path):
    source = open_rhd(tmp_path, [(hand((80, 80), 60), hand((240, 240), 60))])
    augmentation = Augmentation(rotation=180.0, uniform_rotation=True, rotation_probability=1.0, area=(0.6, 1.3))
    crop = PersonCrop((64, 64), padding=1.0)
    examples = PersonExamples(source, annotated(source.annotations, "rhd"), crop, augmentation)
    for seed in range(5):
        for i, sign in ((0, 1), (1, -1)):
            example = examples.load(i, np.random.default_rng(seed))
            assert np.sign(np.linalg.det(example["to_image"][:, :2])) == sign
            points = geometry.apply_affine(example["to_image"], example["keypoints"])
            assert_allclose(points, source.annotations.keypoints[i], atol=1e-3)


def test_records_keep_who_is_mirrored(tmp_path):
    source = open_rhd(tmp_path, [(hand((80, 80), 60), hand((240, 240), 60))])
    copy = open_records(record_files.write({"train": source}, tmp_path / "records"), "train")
    assert copy.annotations.mirror.tolist() == [False, True]
    assert_array_equal(copy.annotations.box, source.annotations.box)


def test_pictures_with_a_joint_that_is_none_are_skipped(tmp_path, caplog):
    pair = (hand((80, 80), 60), hand((240, 240), 60))
    broken = pair[0].copy()
    broken[5, 1] = np.nan
    a = open_rhd(tmp_path, [pair, (broken, pair[1])]).annotations
    assert a.file_name.tolist() == ["00000.png"]
    assert "skipped 1: a joint is not finite (00001.png)" in caplog.text


def test_rhd_files_that_are_wrong(tmp_path):
    pair = (hand((80, 80), 60), hand((240, 240), 60))
    open_rhd(tmp_path, [pair, pair])
    with pytest.raises(ConfigError, match=r"config.data.train.annotations is missing: .*anno_training.pickle"):
        open_rhd(tmp_path, [pair], annotations="")
    with pytest.raises(DataError, match=r"record 1 has \(41, 3\), expected numbers of shape \(42, 3\)"):
        open_rhd(tmp_path, [pair, (pair[0], pair[1][1:])])
    with pytest.raises(DataError, match="none of the 0 people that it lists can be used"):
        open_rhd(tmp_path, [(hand((80, 80), 9), hand((240, 240), 9))])
    (tmp_path / "RHD_published_v2" / "training" / "color" / "00000.png").unlink()
    data = pictures.config("rhd", tmp_path, "hand", **configs.rhd_folders()["train"])
    with pytest.raises(DataError, match=r"1 of 1 pictures cannot be read .00000.png.*Unpack RHD_v1-1.zip again"):
        open_source(data, "train")
    (tmp_path / "wrong.pickle").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="is it RHD's anno_training.pickle"):
        rhd.read_joints(tmp_path / "wrong.pickle")
    joints = {"uv_vis": np.concatenate(pair)}
    for content, message in (
        ({0: 5}, "is it RHD's anno_training.pickle"),
        ({"a": joints}, "field 'number' is 'a', expected a whole number from 0, by which pictures are called"),
        ({-1: joints}, "field 'number' is -1"),
    ):
        (tmp_path / "wrong.pickle").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            rhd.read_joints(tmp_path / "wrong.pickle")


# --- Hand-3D-Studio ---


def open_h3d(root, split="train", **fields):
    return open_source(pictures.config("h3d", root, "hand", split, **configs.h3d_folders()[split] | fields), split)


def test_h3d_is_split_after_hands_are_chosen(tmp_path):
    hands = write_h3d(tmp_path)
    free = [h for h in hands if h["without_object"]]
    expected = [free[i] for i in part_rows(30, "test")]
    a = open_h3d(tmp_path, "validation").annotations
    assert a.file_name.tolist() == [h["name"] for h in expected]
    assert_allclose(a.keypoints, [h["keypoint2d"] for h in expected], rtol=1e-6)
    assert_array_equal(a.box[:, 2], a.width)
    assert not a.box[:, :2].any()
    assert not a.mirror.any()
    train = open_h3d(tmp_path).annotations
    assert not set(train.file_name) & set(a.file_name)
    assert train.num_people == 24
    assert open_h3d(tmp_path, hands="with_object", part="all").annotations.num_people == 10
    assert open_h3d(tmp_path, hands="all", part="all").annotations.num_people == 40


def test_h3d_files_that_are_wrong(tmp_path):
    with pytest.raises(ConfigError, match="It must name the folder that holds H3D_crop/"):
        open_h3d(tmp_path / "nowhere")
    hands = write_h3d(tmp_path)
    with pytest.raises(ConfigError, match="config.data.train.hands is 'both'; it can be one of without_object, "):
        open_h3d(tmp_path, hands="both")
    del hands[5]["without_object"]
    pictures.write_json(tmp_path / "H3D_crop" / "annotation.json", hands)
    with pytest.raises(DataError, match=r"annotation.json: record 5 .* not \['without_object'\]"):
        open_h3d(tmp_path)
    with pytest.raises(ConfigError, match=r"config.data.train.images: .*the folder 'H3D_crop'"):
        open_h3d(tmp_path, images="H3D")
    for change, message in (
        ({"without_object": 2}, "record 5: field 'without_object' is 2, expected 0 or 1"),
        ({"without_object": 1, "name": None}, "record 5: field 'name' is missing"),
        ({"without_object": 1, "name": "../5.jpg"}, "1 images lie outside .*'../5.jpg' first.*allow_outside"),
    ):
        changed = [hand | change if i == 5 else hand for i, hand in enumerate(hands)]
        pictures.write_json(tmp_path / "H3D_crop" / "annotation.json", changed)
        with pytest.raises(DataError, match=message):
            open_h3d(tmp_path, part="all")


# --- FreiHAND ---


def open_freihand(root, split="train", **fields):
    data = pictures.config("freihand", root, "hand", split, **configs.freihand_folders()[split] | fields)
    return open_source(data, split)


def test_freihand_pictures_of_every_version(tmp_path):
    joints = write_freihand(tmp_path)
    a = open_freihand(tmp_path, part="all").annotations
    listed = [i + 6 * version for version in (0, 3, 2, 1) for i in range(6)]
    shuffled = [listed[row] for row in part_rows(24, "all")]
    assert a.file_name.tolist() == [f"{i:08d}.jpg" for i in shuffled]
    assert_allclose(a.keypoints, joints[np.array(shuffled) % 6], rtol=1e-5)
    assert a.mirror.all()
    assert_array_equal(a.box[:, 2], a.box[:, 3])
    test, train = (open_freihand(tmp_path, split).annotations for split in ("validation", "train"))
    assert [*test.file_name, *train.file_name] == a.file_name.tolist()
    assert test.num_people == 4
    sample = open_freihand(tmp_path, part="all", version="sample").annotations
    assert sorted(sample.file_name) == [f"{i:08d}.jpg" for i in range(12, 18)]


def test_freihand_hands_that_are_none_are_skipped(tmp_path, caplog):
    write_freihand(tmp_path)
    points = np.random.default_rng(0).uniform(0.5, 0.7, (6, 21, 3))
    points[2] = np.nan
    pictures.write_json(tmp_path / "training_xyz.json", points)
    a = open_freihand(tmp_path, version="gs", part="all").annotations
    assert sorted(a.file_name) == [f"{i:08d}.jpg" for i in (0, 1, 3, 4, 5)]
    assert "skipped 1: a joint is not finite (00000002.jpg)" in caplog.text


def test_freihand_files_that_are_wrong(tmp_path):
    write_freihand(tmp_path)
    with pytest.raises(ConfigError, match="config.data.train.version is 'green'; it can be one of gs, hom, sample, "):
        open_freihand(tmp_path, version="green")
    with pytest.raises(DataError, match="expected a file whose name ends in _xyz.json"):
        open_freihand(tmp_path, annotations="training_K.json")
    pictures.write_json(tmp_path / "training_K.json", [np.eye(3)] * 5)
    with pytest.raises(DataError, match=r"has 6 samples, but .*training_K.json has 5"):
        freihand.read_keypoints(tmp_path / "training_xyz.json")
    (tmp_path / "training_K.json").write_text("[[[1, 0")
    with pytest.raises(DataError, match="not valid JSON"):
        freihand.read_keypoints(tmp_path / "training_xyz.json")
