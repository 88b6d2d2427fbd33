"""PoseTrack's files of both forms, other video sets, and what is wrong with them."""

import json
import logging

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxpose.data.formats import posetrack as forms
from jaxpose.data.sources import posetrack
from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.posetrack import PoseTrackKeypoints
from jaxpose.skeleton import from_coco_category

NOSE, NECK, ANKLE = (forms.KEYPOINTS.index(joint) for joint in ("nose", "head_bottom", "right_ankle"))


def write_pictures(folder, video, frames, digits=6, size=(64, 48)):
    (folder / "images" / video).mkdir(parents=True, exist_ok=True)
    for frame in frames:
        path = folder / "images" / video / f"{frame:0{digits}d}.jpg"
        cv2.imwrite(str(path), np.zeros((*size[::-1], 3), np.uint8))


def keypoints(**points):
    """51 numbers with some joints: name=(x, y, v)."""
    triples = {joint: points.get(joint, (0, 0, 0)) for joint in forms.KEYPOINTS}
    return [value for triple in triples.values() for value in triple]


def person(image, number, track, **points):
    return {
        "id": image * 100 + number,
        "image_id": image,
        "category_id": 1,
        "track_id": track,
        "bbox": [4.0, 5.0, 30.0, 40.0],
        "bbox_head": [10, 6, 6, 8],
        "keypoints": keypoints(**points),
    }


def image(video, number, name, **fields):
    return {"id": number, "file_name": f"images/{video}/{name}.jpg", "vid_id": video[:6], "nframes": 4} | fields


@pytest.fixture
def folder(tmp_path):
    """Two videos, each with a file: frames 0, 1 and 2 of four, of which the last is not labelled; and frame 1."""
    region = {"ignore_regions_x": [[0, 20, 20, 0]], "ignore_regions_y": [[0, 0, 10, 10]]}
    size = {"width": 64, "height": 48}
    first = {
        "images": [
            image("000007_a", 10, "000000", **size, **region),
            image("000007_a", 11, "000001", **size),
            image("000007_a", 12, "000002", **size, is_labeled=False),
        ],
        "annotations": [
            person(10, 0, 3, nose=(12.5, 8, 1), right_ankle=(20, 44, 1)),
            person(10, 1, 4, nose=(40, 9, 0)),
            person(11, 0, 3, nose=(13, 8, 1), head_bottom=(14, 15, 1)),
        ],
    }
    second = {"images": [image("000007_b", 20, "000001", **size)], "annotations": [person(20, 0, 0, nose=(5, 6, 1))]}
    (tmp_path / "labels").mkdir()
    for name, content in (("000007_a", first), ("000007_b", second)):
        content["categories"] = [forms.category()]
        (tmp_path / "labels" / f"{name}.json").write_text(json.dumps(content))
    write_pictures(tmp_path, "000007_a", range(4))
    write_pictures(tmp_path, "000007_b", [1])
    return tmp_path


def edit(folder, change, name="000007_a"):
    path = folder / "labels" / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def open_source(folder, annotations="labels", **fields):
    split = {"annotations": annotations, "images": "."} | fields
    return posetrack.open_split(ConfigDict({"dir": str(folder), "train": split}), "train")


class TestForm2018:
    def test_reads_what_is_there(self, folder):
        source = open_source(folder)
        a = source.annotations
        assert a.skeleton.joints == forms.KEYPOINTS
        assert a.image_id.tolist() == [10, 11, 12, 20, 21]
        assert a.person_image.tolist() == [0, 0, 1, 3]
        assert a.track_id.tolist() == [3, 4, 3, 0]
        np.testing.assert_allclose(a.head_size, 0.6 * 10)
        np.testing.assert_array_equal(a.keypoints[2][[NOSE, NECK]], [[13, 8], [14, 15]])
        assert (a.visibility.sum(-1)).tolist() == [2, 0, 2, 1]
        assert len(source[0]["box"]) == 2

    def test_videos_and_frames(self, folder):
        """Two videos share the number 7; a picture that no label lists is a frame, too."""
        a = open_source(folder).annotations
        assert a.video_id.tolist() == [1, 1, 1, 2, 1]
        assert a.frame_id.tolist() == [0, 1, 2, 1, 3]
        assert a.num_frames.tolist() == [4] * 5
        assert str(a.file_name[4]) == "images/000007_a/000003.jpg"

    def test_regions(self, folder):
        """Ignored ones, and everything in a frame that is not labelled."""
        a = open_source(folder).annotations
        drawn = a.unlabelled_mask(0)
        assert drawn[2:9, 2:19].all()
        assert not drawn[12:].any()
        assert a.unlabelled_mask(1) is None
        assert a.unlabelled_mask(2).all()
        assert a.unlabelled_mask(4).all()
        assert len(a.ignored) == 1

    def test_evaluation_takes_the_labels_as_they_were_read(self, folder):
        """The file itself and the dictionary of the annotations give the same frames."""
        source = open_source(folder)
        a = source.annotations
        contexts = (MetricContext(a.skeleton, labels) for labels in (a.to_coco(), folder / "labels"))
        ours, file = (PoseTrackKeypoints(context).frames() for context in contexts)
        assert len(ours) == len(file) == 3
        for left, right in zip(ours, file, strict=True):
            for field in ("points", "present", "track", "head_size"):
                values = (getattr(side.truth, field) for side in (left, right))
                np.testing.assert_allclose(*values, rtol=1e-6, err_msg=field)
            assert len(left.ignored) == len(right.ignored)
        hidden = forms.EVALUATED.index("nose")
        assert file[0].truth.present[:, hidden].tolist() == [False, True], "one is ignored, one hidden but placed"

    def test_joints_of_a_skeleton(self, folder):
        a = open_source(folder).annotations
        fewer = a.with_skeleton(from_coco_category({"name": "few", "keypoints": ["right_ankle", "nose"]}))
        assert isinstance(fewer, posetrack.VideoAnnotations)
        assert fewer.video_id.tolist() == a.video_id.tolist()
        np.testing.assert_array_equal(fewer.keypoints[0], [[20, 44], [12.5, 8]])

    def test_person_without_a_box_gets_one(self, folder):
        """Around the joints, or of a single joint and the head's box."""

        def change(content):
            content["annotations"][2]["keypoints"] = keypoints(nose=(13, 8, 1))
            for number in (0, 2):
                del content["annotations"][number]["bbox"]

        edit(folder, change)
        boxes = open_source(folder).annotations.box
        np.testing.assert_allclose(boxes[0], [12.5 - 0.15 * 7.5, 8 - 0.15 * 36, 1.3 * 7.5, 1.3 * 36], rtol=1e-6)
        np.testing.assert_allclose(boxes[2], [10 - 0.15 * 6, 6 - 0.15 * 8, 1.3 * 6, 1.3 * 8], rtol=1e-6)

    def test_sizes_from_the_pictures(self, folder):
        def change(content):
            for listed in content["images"]:
                del listed["width"], listed["height"]

        expected = open_source(folder).annotations
        edit(folder, change)
        found = open_source(folder).annotations
        np.testing.assert_array_equal(found.width, expected.width)
        np.testing.assert_array_equal(found.height, expected.height)
        (folder / "images" / "000007_a" / "000001.jpg").unlink()
        with pytest.raises(DataError, match=r"1 of 4 pictures cannot be read .*000001.jpg.*fetch them again"):
            open_source(folder)


class TestForm2017:
    @pytest.fixture
    def old(self, folder):
        """The same labels, in files whose names have eight digits and count from 1."""
        content = forms.read(folder / "labels")
        (folder / "old").mkdir()
        for (_, images), file in forms.to_annolists(content).items():
            for entry in file["annolist"]:
                number = entry["imgnum"][0]
                entry["image"][0]["name"] = f"{images}/{number:08d}.jpg"
            (folder / "old" / f"{images.split('/')[-1]}.json").write_text(json.dumps(file))
        write_pictures(folder, "000007_a", range(1, 5), digits=8)
        write_pictures(folder, "000007_b", [2], digits=8)
        return folder

    def test_equals_the_form_of_2018(self, old):
        a, reference = open_source(old, "old").annotations, open_source(old, "labels").annotations
        kept = reference.file_name.astype(str)
        kept = [row for row, name in enumerate(kept) if len(name.rpartition("/")[2]) == len("000000.jpg")]
        assert a.frame_id.tolist() == reference.frame_id[kept].tolist() == [0, 1, 2, 1, 3]
        assert a.video_id.tolist() == reference.video_id[kept].tolist()
        np.testing.assert_array_equal(a.keypoints, reference.keypoints)
        np.testing.assert_array_equal(a.track_id, reference.track_id)
        np.testing.assert_allclose(a.head_size, reference.head_size)
        assert a.image_id.tolist() == [1, 2, 3, 4, 5]
        assert a.visibility[0].max() == 2
        assert a.visibility[1, NOSE] == 1, "hidden, but annotated"
        assert [len(a.ignored.of(i)) for i in range(5)] == [1, 0, 0, 0, 0]

    def test_incomplete_entry(self, old):
        path = old / "old" / "000007_a.json"
        content = json.loads(path.read_text())
        content["annolist"][1]["annorect"][0]["annopoints"][0]["point"][0]["x"] = []
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"000007_a.json: entry 1 of 'annolist' is incomplete \(IndexError"):
            open_source(old, "old")

    def test_what_matlab_leaves_empty(self):
        entry = {"image": [{"name": "v/00000001.jpg"}], "annorect": [{"annopoints": [], "track_id": [5]}, {}]}
        content = forms.from_annolist({"annolist": [entry | {"ignore_regions": []}]}, "x")
        assert [p["track_id"] for p in content["annotations"]] == [5, -1]
        assert [p["num_keypoints"] for p in content["annotations"]] == [0, 0]
        assert not content["images"][0].get("ignore_regions_x")


class TestOtherSets:
    def test_videos_by_number_and_frames_by_field(self):
        listed = [
            {"id": 1, "file_name": "x_b.jpg", "video_id": 4, "frame_id": 2},
            {"id": 2, "file_name": "x_a.jpg", "video_id": 4, "frame_id": 0},
            {"id": 3, "file_name": "y.jpg", "video_id": 9},
        ]
        content = {"images": [i | {"width": 64, "height": 48} for i in listed], "annotations": []}
        a = posetrack.parse(content | {"categories": [forms.category()]}, "x")
        assert a.video_id.tolist() == [1, 1, 2]
        assert a.frame_id.tolist() == [2, 0, 0]
        assert a.num_frames.tolist() == [3, 3, 1]
        assert [i["id"] for i in forms.in_time(listed[:2])] == [2, 1]

    def test_single_pictures_are_videos_of_one_frame(self):
        picture = {"id": 1, "file_name": "x/000.jpg", "width": 64, "height": 48}
        content = {"images": [picture], "annotations": [], "categories": [forms.category()]}
        a = posetrack.parse(content, "x")
        alone = posetrack.VideoAnnotations(**{f: getattr(a, f) for f in PLAIN})
        assert (alone.video_id.tolist(), alone.frame_id.tolist(), alone.num_frames.tolist()) == ([1], [0], [1])


PLAIN = (
    *("skeleton", "image_id", "file_name", "width", "height", "person_image", "person_id", "box", "keypoints"),
    *("visibility", "area", "crowd", "track_id"),
)


class TestErrors:
    def test_fields(self, folder):
        with pytest.raises(ConfigError, match=r"config.data.train.annotations is missing"):
            open_source(folder, "")
        with pytest.raises(ConfigError, match=r"config.data.train.images: .* does not exist"):
            open_source(folder, images="nowhere")
        (folder / "empty").mkdir()
        with pytest.raises(DataError, match=r"empty: the folder has no .json file; expected one for each video"):
            open_source(folder, "empty")

    def test_not_posetrack(self, folder):
        edit(folder, lambda content: content.pop("images"))
        with pytest.raises(DataError, match=r"000007_a.json: field 'images': expected a list, or 'annolist'"):
            open_source(folder)

    def test_files_that_do_not_belong_together(self, folder):
        edit(folder, lambda content: content["categories"][0]["keypoints"].reverse(), "000007_b")
        with pytest.raises(DataError, match=r"000007_b.json: field 'categories' names other joints than 000007_a.json"):
            open_source(folder)
        edit(folder, lambda content: content["categories"][0]["keypoints"].reverse(), "000007_b")
        edit(folder, lambda content: content["images"][0].update(id=11), "000007_b")
        with pytest.raises(DataError, match="1 ids of 'images' occur more than once, 11 first"):
            open_source(folder)

    def test_region_that_is_no_polygon(self, folder, caplog):
        edit(folder, lambda content: content["images"][0].update(ignore_regions_x=[[0, 5]], ignore_regions_y=[[0, 5]]))
        with caplog.at_level(logging.WARNING, "jaxpose"):
            a = open_source(folder).annotations
        assert "skipped 1: a region of 'ignore_regions_x' and _y is no polygon (image 10)" in caplog.text
        assert a.unlabelled_mask(0) is None


def test_real_labels(real_data):
    root = real_data / "samples" / "posetrack18"
    for annotations, people in (("annotations/val", 14), ("annotations/test_posetrack18_val.json", 14)):
        source = open_source(root, annotations)
        a = source.annotations
        assert (a.num_images, a.num_people) == (3, people)
        assert (a.head_size > 0).all()
        assert sorted(a.num_frames.tolist()) == [101, 140, 149]
        assert a.frame_id.tolist() == [0, 0, 0]
        assert [len(a.ignored.of(i)) for i in range(3)] != [0, 0, 0]
        labelled = a.visibility > 0
        rows = {
            "image_id": a.image_id[a.person_image],
            "index": np.arange(people),
            "keypoints": a.keypoints,
            "scores": np.where(labelled, 0.9, 0.1),
            "track_id": a.track_id,
        }
        metric = PoseTrackKeypoints(MetricContext(a.skeleton, root / annotations))
        metric.update(rows)
        assert metric.compute()["mAP"] == pytest.approx(1)
