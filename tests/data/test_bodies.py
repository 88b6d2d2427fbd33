"""Bodies that RegDA cuts out of SURREAL and Human3.6M, LSP as it takes it, and pictures without labels."""

import numpy as np
import pictures
import pytest
import tiny
from domains import CAMERA, write_frames, write_lsp, write_surreal
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import config as configs
from jaxpose import methods
from jaxpose.data import build
from jaxpose.data.examples import person_boxes
from jaxpose.data.examples.people import PersonExamples
from jaxpose.data.loader import TrainStream
from jaxpose.data.single_people import drawn_rows, part_rows
from jaxpose.data.sources import h36m_frames, open_source
from jaxpose.data.views import Augmentation, PersonCrop
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import geometry
from jaxpose.skeleton import LSP, MPII

RNG = np.random.default_rng(0)


# --- SURREAL ---


def open_surreal(root, split="train", **fields):
    data = pictures.config("surreal", root, "mpii", split, **configs.surreal_folders()[split] | fields)
    return open_source(data, split)


def test_surreal_takes_parts_of_both_folders(tmp_path):
    train, test = (write_surreal(tmp_path, part) for part in ("train", "test"))
    for split, listed, rows in (("train", train, part_rows(12, "train")), ("validation", test, part_rows(12, "test"))):
        a = open_surreal(tmp_path, split).annotations
        assert a.file_name.tolist() == [listed[row][0] for row in rows]
        assert_allclose(a.keypoints[:, 0], [listed[row][1][7] for row in rows], rtol=1e-6)
        assert_allclose(a.keypoints[:, MPII.index("left_shoulder")], [listed[row][1][14] for row in rows], rtol=1e-6)
        assert_array_equal(a.box[:, 2:], np.stack([a.width, a.height], -1))
        assert (a.visibility == 2).all()


def test_surreal_files_that_are_wrong(tmp_path):
    write_surreal(tmp_path)
    (tmp_path / "train" / "run1" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 12 pictures cannot be read .run1/2.jpg.*Unpack the archives"):
        open_surreal(tmp_path, part="all")
    pictures.write_json(tmp_path / "train" / "run1.json", [{"name": "0.jpg", "keypoint2d": np.zeros((23, 2))}])
    with pytest.raises(DataError, match=r"run1.json: .*'keypoint2d': record 0 has \(23, 2\), expected .* \(24, 2\)"):
        open_surreal(tmp_path)
    pictures.write_json(tmp_path / "train" / "run1.json", [{"name": "../../a.jpg", "keypoint2d": np.ones((24, 2))}])
    with pytest.raises(DataError, match=r"1 images lie outside .*'run1/../../a.jpg' first"):
        open_surreal(tmp_path)
    (tmp_path / "train" / "run0.json").unlink()
    with pytest.raises(DataError, match=r"run0.json: cannot be read"):
        open_surreal(tmp_path)


# --- Human3.6M ---


def open_frames(root, split="train", **fields):
    data = pictures.config("h36m_frames", root, "mpii", split, **configs.h36m_frames_folders()[split] | fields)
    return open_source(data, split)


def test_every_fifth_frame(tmp_path):
    joints = write_frames(tmp_path)
    a = open_frames(tmp_path, subjects=(1,)).annotations
    assert a.file_name.tolist() == ["s_01/000000.jpg", "s_01/000005.jpg", "s_01/000010.jpg"]
    depth = joints[:, 0, 2] + 4000
    centers = np.array([60, 70, 60])
    pelvis = np.stack([1100 * joints[:, 0, 0] / depth + centers, 1110 * joints[:, 0, 1] / depth + 50], -1)
    assert_allclose(a.keypoints[:, MPII.index("pelvis")], pelvis, rtol=1e-5)
    shoulders = joints[:, [11, 14]].mean(1)
    thorax = 1110 * shoulders[:, 1] / (shoulders[:, 2] + 4000) + 50
    assert_allclose(a.keypoints[:, MPII.index("thorax"), 1], thorax, rtol=1e-5)


def test_boxes_of_frames_are_squares_in_them(tmp_path):
    write_frames(tmp_path)
    a = open_frames(tmp_path, subjects=(1,)).annotations
    low, high = a.keypoints.min(1), a.keypoints.max(1)
    side = np.minimum(np.round(1.5 * (high - low).max(-1)), 100)
    assert_array_equal(a.box[:, 2:], np.stack([side, side], -1))
    assert (a.box[:, :2] >= 0).all()
    assert (a.box[:, :2] + a.box[:, 2:] <= [120, 100]).all()


def test_frames_are_tested_by_draws(tmp_path):
    for subject in (9, 11):
        write_frames(tmp_path, subject)
    a = open_frames(tmp_path, "validation").annotations
    assert (a.num_people, a.num_images) == (3200, 6)
    names = [f"s_{subject:02d}/{i:06d}.jpg" for subject in (9, 11) for i in (0, 5, 10)]
    assert a.file_name[a.person_image].tolist() == [names[row] for row in drawn_rows(6)]
    assert open_frames(tmp_path, "validation", part="all").annotations.num_people == 6


def test_frames_that_are_cut_out(tmp_path):
    rows = [{"name": f"s_01/{i}.jpg", "keypoint2d": RNG.uniform(0, 512, (16, 2))} for i in range(3)]
    pictures.write_json(tmp_path / "annotations" / "keypoints2d_1.json", rows)
    for row in rows:
        pictures.write(tmp_path / "crop_images" / row["name"], (512, 512))
    a = open_frames(tmp_path, subjects=(1,), images="crop_images").annotations
    assert_allclose(a.keypoints, [row["keypoint2d"] for row in rows], rtol=1e-6)
    assert a.box.tolist() == [[0, 0, 512, 512]] * 3


def test_frames_whose_files_are_wrong(tmp_path):
    write_frames(tmp_path)
    folder = tmp_path / "annotations"
    with pytest.raises(DataError, match=r"Human36M_subject5_data.json: cannot be read"):
        open_frames(tmp_path)
    pictures.write_json(folder / "Human36M_subject1_camera.json", {"1": CAMERA})
    with pytest.raises(DataError, match=r"Human36M_subject1_\*.json don't fit each other: '2' is missing"):
        open_frames(tmp_path, subjects=(1,))
    pictures.write_json(folder / "Human36M_subject1_camera.json", {"1": CAMERA, "2": CAMERA | {"R": np.eye(4)}})
    with pytest.raises(DataError, match=r"camera.json: 'R' of '2': record 0 has \(4, 4\), expected .* \(3, 3\)"):
        open_frames(tmp_path, subjects=(1,))
    pictures.write_json(folder / "Human36M_subject1_data.json", {"frames": []})
    with pytest.raises(DataError, match="field 'images': expected a list of frames"):
        h36m_frames.read_frames(folder, 1)
    with pytest.raises(DataError, match=r"keypoints2d_1.json: cannot be read"):
        h36m_frames.read_cut_out(folder, 1)


# --- LSP as a target domain ---


@pytest.fixture
def lsp(tmp_path):
    """Three people, of whom the second has a hidden wrist."""
    return tmp_path, write_lsp(tmp_path, hidden=(1, LSP.index("left_wrist")))


def open_lsp(root, skeleton="mpii", **fields):
    return open_source(pictures.config("lsp", root, skeleton, **configs.lsp_folders()["train"] | fields), "train")


def test_lsp_with_the_joints_of_mpii(lsp):
    root, joints = lsp
    a = open_lsp(root).annotations
    assert a.skeleton == MPII
    lacking = [MPII.index("pelvis"), MPII.index("thorax")]
    assert np.flatnonzero(a.visibility[0] == 0).tolist() == lacking
    for name in set(MPII.joints) & set(LSP.joints) - {"left_wrist"}:
        assert_allclose(a.keypoints[:, MPII.index(name)], joints[:, LSP.index(name), :2], rtol=1e-6)
    wrist = MPII.index("left_wrist")
    assert a.visibility[:, wrist].tolist() == [2, 0, 2]
    assert open_lsp(root, hidden="labelled").annotations.visibility[:, wrist].tolist() == [2, 1, 2]
    assert open_lsp(root, "lsp", hidden="").annotations.visibility.shape == (3, 14)
    with pytest.raises(ConfigError, match="config.data.train.hidden is 'gone'; it can be one of labelled, unlabelled"):
        open_lsp(root, hidden="gone")


def test_whole_images_are_padded_to_a_square(lsp):
    root, joints = lsp
    seen = person_boxes.whole_images(open_lsp(root).annotations, "lsp")
    crop = PersonCrop((120, 120), padding=1.0)
    moved, visible = crop.joints(crop.view(seen.box[0]), seen.keypoints[0], seen.visibility[0], MPII)
    assert visible.sum() == 14
    assert_allclose(moved[0], 2 * joints[0, 0, :2] + [20, 0], rtol=1e-5)


def test_real_people_as_a_target(real_data):
    """Views of real people keep their joints where they are in the picture, and mostly show them."""
    fields = configs.lsp_folders()["train"] | {"range": (0, 2000)}
    source = open_source(pictures.config("lsp", real_data / "lspet", "mpii", **fields), "train")
    assert len(source) == 2000
    labelled = (source.annotations.visibility > 0).mean(0)
    assert (labelled[[MPII.index("pelvis"), MPII.index("thorax")]] == 0).all()
    assert (np.delete(labelled, [MPII.index("pelvis"), MPII.index("thorax")]) > 0.8).all()
    augmentation = Augmentation(rotation=30.0, uniform_rotation=True, rotation_probability=1.0, area=(0.6, 1.3))
    crop, seen = (
        PersonCrop((64, 64), padding=1.0, antialias=True),
        person_boxes.whole_images(source.annotations, "lspet"),
    )
    stream = TrainStream(PersonExamples(source, seen, crop, augmentation), seed=0, batch_size=32)
    batch = next(stream)
    stream.close()
    assert (batch["image"].std((1, 2, 3)) > 5).all()
    visible = batch["visible"] > 0
    points = geometry.apply_affine(batch["to_image"], batch["keypoints"])
    truth = source.annotations.keypoints[batch["index"]]
    assert_allclose(points[visible], truth[visible], atol=0.01)
    inside = ((batch["keypoints"] >= 0) & (batch["keypoints"] < 64)).all(-1)
    assert inside[visible].mean() > 0.9


def test_a_stream_keeps_no_boxes_of_another_data_set():
    config = configs.base("x")
    config.data.update({"source": "lsp"} | configs.lsp_folders())
    config.data.streams = {"source": {"source": "surreal"} | configs.surreal_folders()}
    data = build.stream_data(config.data, "source")
    assert (config.data.train.boxes, data.train.boxes, data.validation.boxes) == ("image", "", "")
    assert (data.train.images, data.train.part) == ("train", "train")


# --- pictures without labels ---


def open_folder(root, **fields):
    fields = {"annotations": "", "images": "target", "boxes": "image"} | fields
    return open_source(pictures.config("folder", root, "coco", **fields), "train")


def test_folder_of_pictures(tmp_path):
    for name, size in (("b.png", (20, 30)), ("a/2.JPG", (40, 10)), ("a/10.jpg", (5, 5))):
        pictures.write(tmp_path / "target" / name, size)
    (tmp_path / "target" / "notes.txt").write_text("not a picture")
    source = open_folder(tmp_path)
    a = source.annotations
    assert a.file_name.tolist() == ["a/10.jpg", "a/2.JPG", "b.png"]
    assert (a.width.tolist(), a.height.tolist(), a.num_people) == ([5, 40, 20], [5, 10, 30], 0)
    assert source[2]["image"] == (tmp_path / "target" / "b.png").read_bytes()
    seen = person_boxes.whole_images(a, source.name)
    assert seen.box.tolist() == [[0, 0, 5, 5], [0, 0, 40, 10], [0, 0, 20, 30]]
    assert not seen.visibility.any()


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"config.data.train.images: .*must name a folder of pictures"):
        open_folder(tmp_path)
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match=r"target: has no pictures; expected files that end in .jpg, "):
        open_folder(tmp_path)
    pictures.write(tmp_path / "target" / "a.png")
    with pytest.raises(ConfigError, match="config.data.train.boxes is empty.*Set it to 'image' if each picture"):
        open_folder(tmp_path, boxes="")
    (tmp_path / "target" / "b.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"1 of 2 pictures cannot be read \(b.jpg.*take them out of the folder"):
        open_folder(tmp_path)


def test_a_folder_is_a_stream_of_training(tmp_path):
    """Labelled people of one data set, pictures of another one without any labels."""
    tiny.write_coco(tmp_path / "coco", images=4)
    for i in range(3):
        pictures.write(tmp_path / "street" / "target" / f"{i}.jpg", (30, 40))
    config = tiny.config(tmp_path / "coco", "rmpe")
    changes = {"source": "folder", "dir": str(tmp_path / "street"), "train": {"images": "target", "boxes": "image"}}
    config.data.streams = {"plain": changes}
    examples = build.train_examples(config, methods.create(config.method))
    assert (len(examples["source"]), len(examples["plain"])) == (4, 3)
    example = examples["plain"].load(1, np.random.default_rng(0))
    assert not example["visible"].any()
    assert example["image"].max() == 99
    assert examples["source"].load(1, np.random.default_rng(0))["visible"].all()
