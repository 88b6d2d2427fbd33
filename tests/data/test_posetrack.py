"""PoseTrack's files of both forms, other video sets, and what is wrong with them."""

import json
import logging
import re

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


def first_point(person):
    return person["annopoints"][0]["point"][0]


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

    def odd(self, old, change):
        """The labels after a change of the content of the first file."""
        path = old / "old" / "000007_a.json"
        content = json.loads(path.read_text())
        change(content["annolist"])
        path.write_text(json.dumps(content))
        return open_source(old, "old").annotations

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda p: first_point(p).update(x=[]), r"field 'x' is missing"),
            (lambda p: first_point(p).update(y=["a"]), r"field 'y': expected a finite number"),
            (lambda p: first_point(p).update(x=[1, 2]), r"field 'x': expected a finite number"),
            (lambda p: first_point(p).update(x=[1e300]), r"field 'x': expected a finite number"),
            (lambda p: first_point(p).update(id=[-1]), r"field 'id': expected a whole number from 0 to 14"),
            (lambda p: first_point(p).update(id=[15]), r"field 'id': expected a whole number from 0 to 14"),
            (lambda p: first_point(p).update(is_visible=[7]), r"field 'is_visible': expected 0 or 1"),
            (lambda p: p["annopoints"][0]["point"].append(first_point(p)), r"field 'annopoints' has two joints"),
            (lambda p: p.update(annopoints=[3]), r"field 'point' is missing in 3"),
            (lambda p: p.update(x1=[None]), None),
            (lambda p: p.pop("x2"), r"field 'x2' is missing"),
            (lambda p: p.update(y2=["nan"]), r"field 'y2': expected a finite number"),
            (lambda p: p.update(track_id=[0.5]), r"field 'track_id': expected a whole number"),
        ],
    )
    def test_people_of_whom_something_is_odd(self, old, change, reason, caplog):
        """They are left out, counted and named; the others stay as they are."""
        expected = open_source(old, "old").annotations
        a = self.odd(old, lambda entries: change(entries[1]["annorect"][0]))
        if reason is None:
            assert a.head_size.tolist() == [6, 6, 0, 6]
            return
        np.testing.assert_array_equal(a.keypoints, expected.keypoints[[0, 1, 3]])
        assert "000007_a.json: skipped 1: " in caplog.text
        assert re.search(reason + r".* \(person 0 of entry 1", caplog.text)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda e: e.update(image=[]), r"field 'image' holds None, expected objects"),
            (lambda e: e.update(image=[{"name": [3]}]), r"field 'file_name' is 3, expected text"),
            (lambda e: e.update(annorect="people"), r"field 'annorect' is 'people', expected a list"),
            (lambda e: e.update(is_labeled=["maybe"]), r"field 'is_labeled' is 'maybe', expected 0 or 1"),
        ],
    )
    def test_images_of_which_something_is_odd(self, old, change, reason):
        with pytest.raises(DataError, match=r"000007_a.json: entry 1 of 'annolist' \(counted from 0\): " + reason):
            self.odd(old, lambda entries: change(entries[1]))

    def test_numbers_in_quotes(self, old):
        def change(entries):
            point = first_point(entries[1]["annorect"][0])
            point.update({name: [str(value[0])] for name, value in point.items()})
            entries[1]["annorect"][0]["track_id"] = ["3"]

        expected, a = open_source(old, "old").annotations, self.odd(old, change)
        for field in ("keypoints", "visibility", "track_id", "box"):
            np.testing.assert_array_equal(getattr(a, field), getattr(expected, field))

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
        assert [i["id"] for i in forms.in_time(listed[:2], "x")] == [2, 1]

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


class TestOddFields2018:
    """Images that cannot be used are errors that name them; people are left out, counted and named."""

    def change_image(self, folder, **changes):
        edit(folder, lambda content: content["images"][1].update(changes))
        return open_source(folder).annotations

    @pytest.mark.parametrize(
        ("field", "value", "expected"),
        [
            ("id", "eleven", "a whole number"),
            ("id", 11.5, "a whole number"),
            ("id", None, "is missing"),
            ("file_name", 5, "text"),
            ("file_name", "", "text"),
            ("file_name", "a\0.jpg", "text"),
            ("file_name", f"images/000007_a/{'9' * 400}.jpg", "that of a frame"),
            ("frame_id", -1, "a whole number from 0"),
            ("frame_id", 1e300, "a whole number from 0"),
            ("frame_id", float("nan"), "a whole number from 0"),
            ("nframes", [4], "a whole number from 0"),
            ("vid_id", {}, "a whole number"),
            ("vid_id", 7.5, "a whole number"),
            ("width", -64, "a whole number from 0"),
            ("height", 1e12, "a whole number from 0"),
            ("is_labeled", "yes", "0 or 1"),
        ],
    )
    def test_images(self, folder, field, value, expected):
        with pytest.raises(DataError, match=rf"image 1 of 'images' \(counted from 0\): field '{field}' .*{expected}"):
            self.change_image(folder, **{field: value})

    def test_images_that_are_no_objects(self, folder):
        edit(folder, lambda content: content["images"].append("000003.jpg"))
        with pytest.raises(DataError, match=r"image 3 of 'images' .* holds '000003.jpg', expected objects"):
            open_source(folder)

    def test_images_of_one_id(self, folder):
        with pytest.raises(DataError, match=r"000007_a.json: 1 ids of 'images' occur more than once, 10 first"):
            self.change_image(folder, id=10)

    def test_fields_in_quotes(self, folder):
        expected = open_source(folder).annotations
        a = self.change_image(folder, id="11", width="64", height=48.0, nframes="4", is_labeled=1)
        for name in ("image_id", "width", "height", "num_frames", "frame_id", "person_image"):
            np.testing.assert_array_equal(getattr(a, name), getattr(expected, name))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"image_id": "ten"}, r"field 'image_id': expected a whole number"),
            ({"track_id": 2.5}, r"field 'track_id': expected a whole number"),
            ({"bbox_head": [1, 2, 3]}, r"field 'bbox_head': expected 4"),
            ({"bbox_head": {"x": 1}}, r"field 'bbox_head': expected a list of 4 numbers"),
            ({"bbox_head": [1, 2, float("inf"), 3]}, r"field 'bbox_head': expected finite numbers"),
            ({"bbox": [1, 2, 3, "x"]}, r"field 'bbox': expected finite numbers"),
            ({"keypoints": "none"}, r"field 'keypoints': expected a list of numbers"),
            ({"keypoints": [[1, 2, 3]] * 17}, r"field 'keypoints': expected finite numbers"),
            ({"scores": ["high"] * 17}, r"field 'scores': expected finite numbers"),
            ({"head_size": -3}, r"field 'head_size': expected a finite number from 0"),
            ({"iscrowd": 2}, r"field 'iscrowd': expected 0 or 1"),
            ({"category_id": 1.5}, r"field 'category_id': expected a whole number"),
        ],
    )
    def test_people(self, folder, change, reason, caplog):
        expected = open_source(folder).annotations
        edit(folder, lambda content: content["annotations"][1].update(change))
        a = open_source(folder).annotations
        np.testing.assert_array_equal(a.keypoints, expected.keypoints[[0, 2, 3]])
        assert re.search(rf"000007_a.json: skipped 1: {reason} \(annotation 1001", caplog.text)

    def test_people_of_other_categories(self, folder, caplog):
        def change(content):
            content["categories"] += [{"id": 2, "name": "car"}, {"id": 3, "name": "dog", "keypoints": ["tail"]}]
            content["annotations"][1]["category_id"] = 2
            content["annotations"][2] |= {"category_id": 3, "keypoints": [1, 2, 2]}

        edit(folder, change)
        assert open_source(folder).annotations.num_people == 2
        for category in ("car", "dog"):
            assert f"skipped 1: category '{category}', which has other joints or none" in caplog.text

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (["a person"], "holds 'a person', expected objects"),
            ([{"id": 1, "keypoints": [1, 2]}], "is 1, expected text"),
            ([{"id": 1, "keypoints": "nose"}], "is 'nose', expected a list of names"),
            ([{"id": 1, "keypoints": ["nose", "nose"]}], "names a joint twice"),
            ([{"id": "one", "keypoints": list(forms.KEYPOINTS)}], "is 'one', expected a whole number"),
        ],
    )
    def test_categories(self, folder, value, reason):
        edit(folder, lambda content: content.update(categories=value))
        with pytest.raises(DataError, match=f"000007_a.json: field 'categories': field .* {reason}"):
            open_source(folder)

    @pytest.mark.parametrize(
        ("xs", "ys"),
        [
            ([[0, 5, 5]], [[0, 5]]),
            ([[0, 5, 5], [1, 2, 3]], [[0, 0, 5]]),
            ([["a", 5, 5]], [[0, 0, 5]]),
            ([[1e300, 5, 5]], [[0, 0, 5]]),
            ([0, 5, 5], [0, 0, 5]),
            ("all", "all"),
            ([[0, 5, 5]], None),
            ([[0] * 20_000], [[0] * 20_000]),
        ],
    )
    def test_regions(self, folder, xs, ys, caplog):
        """They are left out and counted, for training and for evaluation."""
        edit(folder, lambda content: content["images"][0].update(ignore_regions_x=xs, ignore_regions_y=ys))
        a = open_source(folder).annotations
        assert a.unlabelled_mask(0) is None
        assert "'ignore_regions_x' and _y" in caplog.text
        assert "(image 10" in caplog.text
        metric = PoseTrackKeypoints(MetricContext(a.skeleton, folder / "labels"))
        assert [frame.ignored for frame in metric.frames()] == [(), (), ()]


class TestOrder:
    """Frames are in the order of their numbers, whatever lies beside them."""

    @pytest.mark.parametrize("stray", ["thumb.jpg", "000010 (copy).jpg", ".DS_Store", "desktop.ini", "._000001.jpg"])
    def test_stray_files(self, folder, stray):
        expected = open_source(folder).annotations
        (folder / "images" / "000007_a" / stray).write_bytes(b"?")
        a = open_source(folder).annotations
        assert a.file_name.tolist() == expected.file_name.tolist()
        assert a.frame_id.tolist() == expected.frame_id.tolist()

    def test_lists_in_any_order(self, folder):
        edit(folder, lambda content: content["images"].reverse())
        a = open_source(folder).annotations
        assert dict(zip(a.image_id.tolist(), a.frame_id.tolist())) == {10: 0, 11: 1, 12: 2, 20: 1, 21: 3}
        content = forms.read(folder / "labels")
        assert [i["id"] for i in forms.in_time(content["images"][:3], "x")] == [10, 11, 12]

    def test_the_same_frame_twice(self, folder):
        copy = image("000007_a", 13, "000001 (copy)", width=64, height=48)
        edit(folder, lambda content: content["images"].append(copy))
        reason = r"000001.jpg and .*000001 \(copy\).jpg are both frame 1 of video 000007 of images/000007_a"
        with pytest.raises(DataError, match=reason):
            open_source(folder)

    def test_images_without_a_number_among_numbered_ones(self, folder):
        cover = image("000007_a", 13, "cover", width=64, height=48)
        edit(folder, lambda content: content["images"].append(cover))
        with pytest.raises(DataError, match=r"1 of 5 images of video .* have no number as a frame.*cover.jpg first"):
            open_source(folder)

    def test_ids_up_to_the_largest(self, folder):
        """Frames that no label lists get ids that are free."""
        edit(folder, lambda content: content["images"][2].update(id=2**63 - 1))
        a = open_source(folder).annotations
        assert len(set(a.image_id.tolist())) == 5
        assert (a.image_id > 0).all()


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
