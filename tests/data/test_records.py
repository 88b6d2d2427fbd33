"""A source written as records is the same source."""

import hashlib
import shutil

import numpy as np
import pytest
import tiny

from jaxpose.data.formats import record_files
from jaxpose.data.formats.storage import write_columns
from jaxpose.data.sources import open_source
from jaxpose.data.sources.posetrack import VideoAnnotations
from jaxpose.data.sources.records import open_records, read_columns
from jaxpose.errors import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tiny.write_coco(tmp_path_factory.mktemp("coco"))

    def change(content):
        content["images"][3]["crowdIndex"] = 0.1
        content["annotations"][2]["num_keypoints"] = 3
        content["annotations"][0].update(num_keypoints=0, segmentation=[[1, 1, 20, 1, 20, 30]])
        content["annotations"][1].update(iscrowd=1, segmentation={"size": [80, 64], "counts": [80, 40, 62 * 80 + 40]})

    tiny.edit_labels(folder, change)
    return open_source(tiny.config(folder).data, "train")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    return record_files.write({"train": source}, tmp_path_factory.mktemp("records"))


def test_same_images_and_labels(source, folder):
    copy = open_records(folder, "train")
    assert len(copy) == len(source)
    assert copy.annotations.skeleton == source.annotations.skeleton
    for i in range(len(source)):
        ours, theirs = copy[i], source[i]
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_same_truth_and_regions(source, folder):
    copy = open_records(folder, "train").annotations
    assert copy.to_coco() == source.annotations.to_coco()
    assert copy.to_coco()["images"][3]["crowdIndex"] == 0.1
    assert copy.num_keypoints[:3].tolist() == [0, 17, 3]
    for i in range(copy.num_images):
        assert copy.unlabelled.of(i) == source.annotations.unlabelled.of(i)
    assert copy.unlabelled_mask(1).sum() == 40
    assert copy.unlabelled_mask(2) is None


def test_videos_stay_videos(tmp_path):
    """With tracks, sizes of heads and regions that are ignored."""
    folder = tiny.write_coco(tmp_path / "coco", images=4)

    def change(content):
        for i, image in enumerate(content["images"]):
            image.update(video_id=1 + i // 2, frame_id=3 * (i % 2), file_name=image["file_name"])
        content["images"][1].update(ignore_regions_x=[[0, 9, 9]], ignore_regions_y=[[0, 0, 9]])
        for person in content["annotations"]:
            person.update(track_id=5, bbox_head=[1, 2, 6, 8])

    tiny.edit_labels(folder, change)
    data = tiny.config(folder, "dcpose").data
    data.source = "posetrack"
    source = open_source(data, "train")
    copy = open_records(record_files.write({"train": source}, tmp_path / "records"), "train").annotations
    assert isinstance(copy, VideoAnnotations)
    assert copy.to_coco() == source.annotations.to_coco()
    assert copy.video_id.tolist() == source.annotations.video_id.tolist() == [1, 1, 2, 2]
    assert copy.frame_id.tolist() == source.annotations.frame_id.tolist()
    assert copy.to_coco()["annotations"][0]["head_size"] == pytest.approx(6)
    assert copy.to_coco()["images"][1]["ignore_regions_x"] == [[0, 9, 9]]


def test_labels_of_earlier_records_can_be_read(source, folder, tmp_path):
    """Those that say nothing of regions, counts and crowds."""
    with np.load(folder / "annotations-train.npz") as columns:
        new = ("num_keypoints", "crowd_index", "unlabelled_")
        write_columns(tmp_path / "old.npz", {name: columns[name] for name in columns.files if not name.startswith(new)})
    old = read_columns(tmp_path / "old.npz")
    assert len(old.unlabelled) == 0
    assert old.num_keypoints.tolist() == [17] * 12
    assert np.isnan(old.crowd_index).all()


def test_equal_data_give_equal_files(source, folder, tmp_path):
    again = record_files.write({"train": source}, tmp_path)
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(p.name for p in again.iterdir())
    assert [digest(folder / n) for n in names] == [digest(again / n) for n in names]


def test_missing_split_and_folder(folder, tmp_path):
    with pytest.raises(DataError, match=r"has no split 'validation'; there are \['train'\]"):
        open_records(folder, "validation")
    with pytest.raises(DataError, match="has no dataset_info.json"):
        open_records(tmp_path, "train")


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def test_flipped_bits_of_labels(source, folder, tmp_path):
    """Each is an error, or changes nothing (what a ZIP archive says of dates and systems)."""
    data = (folder / "annotations-train.npz").read_bytes()
    rng, found = np.random.default_rng(0), 0
    for _ in range(100):
        (tmp_path / "labels.npz").write_bytes(flipped(data, rng))
        try:
            copy = read_columns(tmp_path / "labels.npz")
        except DataError:
            found += 1
        else:
            assert copy.to_coco() == source.annotations.to_coco()
    assert found > 60


@pytest.mark.parametrize(
    "name", ["annotations-train.npz", "dataset_info.json", "features.json", "checksums.json", "pose_records-train*"]
)
def test_flipped_bits_of_any_file(folder, tmp_path, name):
    """Each is found when the folder is opened or its records are read, or changes nothing of them."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (path,) = copy.glob(name)
    data, rng, found = path.read_bytes(), np.random.default_rng(0), 0
    whole = open_records(folder, "train")
    expected = [whole.read(i) for i in range(len(whole))]
    for _ in range(40):
        path.write_bytes(flipped(data, rng))
        try:
            source = open_records(copy, "train")
            assert [source.read(i) for i in range(len(source))] == expected
            assert source.annotations.to_coco() == whole.annotations.to_coco()
        except DataError:
            found += 1
    assert found == 40 or name.endswith("*")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_descriptions(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checksums.json"))
    for data in (b"", b"{", b"[]", b"{}", (copy / name).read_bytes()[:-40]):
        (copy / name).write_bytes(data)
        with pytest.raises(DataError, match=r"copy: (is damaged|has no split)"):
            open_records(copy, "train")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("box", None),
        ("joints", None),
        ("box", np.zeros((12, 3), np.float32)),
        ("box", np.full((12, 4), np.nan, np.float32)),
        ("joints", np.zeros((12, 16, 3), np.float32)),
        ("joints", np.full((12, 17, 3), 0.9, np.float32)),
        ("area", np.zeros(12, int)),
        ("width", np.zeros(11, np.int32)),
        ("file_name", np.zeros(12)),
        ("person_image", np.full(12, 12, np.int32)),
        ("person_image", np.full(12, -1, np.int32)),
        ("crowd", np.zeros((12, 1), bool)),
    ],
)
def test_arrays_that_do_not_fit(folder, tmp_path, name, value):
    with np.load(folder / "annotations-train.npz") as columns:
        table = {other: columns[other] for other in columns.files}
    if value is None:
        del table[name]
    else:
        table[name] = value
    write_columns(tmp_path / "odd.npz", table)
    with pytest.raises(DataError, match="odd.npz: .*(array|joints).*write it again"):
        read_columns(tmp_path / "odd.npz")
