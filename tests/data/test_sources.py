"""What happens to data that is not as it should be: an error that says where, or a count in the log."""

import dataclasses
import json
import logging
import pathlib

import numpy as np
import pytest
import tiny

from configs import prtr
from jaxpose import methods, skeleton
from jaxpose.data import build, images
from jaxpose.data.examples import person_boxes
from jaxpose.data.sources import coco, open_source
from jaxpose.errors import ConfigError, DataError, ImageError


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    return tiny.write_coco(tmp_path)


def first_person(change):
    """An edit of the first annotation."""
    return lambda content: change(content["annotations"][0])


class TestCoco:
    def test_reads_what_is_there(self, folder):
        source = open_source(tiny.config(folder).data, "train")
        assert len(source) == 12
        example = source[3]
        assert example["image_id"] == 103
        assert example["keypoints"].shape == (1, 17, 2)
        assert images.decode(example["image"], "x").shape == (80, 64, 3)
        content = json.loads((folder / "labels.json").read_text())
        truth = source.annotations.to_coco()
        np.testing.assert_allclose(
            truth["annotations"][3]["keypoints"], content["annotations"][3]["keypoints"], rtol=1e-6
        )

    def test_any_number_of_joints(self, folder):
        def four_joints(content):
            content["categories"][0]["keypoints"] = ["nose", "left_paw", "right_paw", "tail"]
            for person in content["annotations"]:
                person["keypoints"] = person["keypoints"][:12]

        tiny.edit_labels(folder, four_joints)
        annotations = coco.read_keypoints(folder / "labels.json")
        assert annotations.skeleton.joints == ("nose", "left_paw", "right_paw", "tail")
        assert annotations.skeleton.flip_pairs == ((1, 2),)
        assert annotations.keypoints.shape == (12, 4, 2)
        with pytest.raises(ConfigError, match=r"config.data.skeleton is 'coco'.*4 joints"):
            open_source(tiny.config(folder).data, "train")

    def test_missing_folder(self, tmp_path):
        data = tiny.config(tmp_path / "nowhere").data
        with pytest.raises(ConfigError, match=r"config.data.dir: '.*nowhere' does not exist. It must name"):
            open_source(data, "train")

    def test_truncated_json(self, folder):
        path = folder / "labels.json"
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"labels.json: not valid JSON .* fetch it again"):
            open_source(tiny.config(folder).data, "train")

    def test_keypoints_that_do_not_fit_the_skeleton(self, folder):
        tiny.edit_labels(folder, first_person(lambda person: person["keypoints"].pop()))
        with pytest.raises(
            DataError, match=r"labels.json: annotation 1: field 'keypoints' has 50 numbers, expected 51"
        ):
            open_source(tiny.config(folder).data, "train")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda p: p["keypoints"].__setitem__(0, float("nan")), "'keypoints': expected finite numbers"),
            (lambda p: p.update(bbox=[3, 3, 0, 9]), "'bbox' has no area"),
            (lambda p: p.update(bbox=[3, 3, 9]), "'bbox': expected 4"),
            (lambda p: p.update(image_id=5), "'image_id' names an image that the file does not list"),
        ],
    )
    def test_bad_record_is_counted_named_and_skipped(self, folder, caplog, change, reason):
        tiny.edit_labels(folder, first_person(change))
        with caplog.at_level(logging.WARNING, "jaxpose"):
            source = open_source(tiny.config(folder).data, "train")
        assert source.annotations.num_people == 11
        assert "skipped 1: field " + reason in caplog.text
        assert "annotation 1" in caplog.text

    def test_not_a_keypoint_file(self, folder):
        tiny.edit_labels(folder, lambda content: content["categories"][0].pop("keypoints"))
        with pytest.raises(DataError, match=r"none of \['person'\] lists 'keypoints'"):
            open_source(tiny.config(folder).data, "train")

    def test_area_defaults_to_the_share_of_the_box(self, folder):
        tiny.edit_labels(folder, first_person(lambda person: person.pop("area")))
        annotations = coco.read_keypoints(folder / "labels.json")
        np.testing.assert_allclose(annotations.area[0], 0.53 * 44 * 60)

    def test_people_without_labels_leave_regions(self, folder, caplog):
        """Of crowds, of people without joints and of records that cannot be used; broken ones are named."""
        corners = [[1, 1, 20, 1, 20, 30]]

        def change(content):
            people_ = content["annotations"]
            people_[0].update(iscrowd=1, segmentation={"size": [80, 64], "counts": [0, 80, 63 * 80]})
            people_[1].update(num_keypoints=0, keypoints=[0] * 51, segmentation=corners)
            people_[2].update(bbox=[3, 3, 0, 9], segmentation=corners)
            people_[3].update(segmentation=corners)
            people_[4].update(iscrowd=1, segmentation=[[1, 2, 3]])

        tiny.edit_labels(folder, change)
        with caplog.at_level(logging.WARNING, "jaxpose"):
            annotations = coco.read_keypoints(folder / "labels.json")
        assert [len(annotations.unlabelled.of(i)) for i in range(6)] == [1, 1, 1, 0, 0, 0]
        column = annotations.unlabelled_mask(0)
        assert column.shape == (80, 64)
        assert column[:, 0].all()
        assert not column[:, 1:].any()
        assert annotations.unlabelled_mask(3) is None
        assert "skipped 1: field 'segmentation' is neither polygons nor" in caplog.text
        assert "annotation 5" in caplog.text

    def test_counts_and_crowd_index_are_those_of_the_file(self, folder):
        """CrowdPose's own count leaves out head and neck, so that people with joints may count as without."""

        def change(content):
            content["annotations"][0]["num_keypoints"] = 0
            content["annotations"][1].pop("num_keypoints")
            content["images"][2]["crowdIndex"] = 0.8

        tiny.edit_labels(folder, change)
        annotations = coco.read_keypoints(folder / "labels.json")
        assert annotations.num_keypoints[:3].tolist() == [0, 17, 17]
        truth = annotations.to_coco(np.array([0, 2]))
        assert [image.get("crowdIndex") for image in truth["images"]] == [None, 0.8]
        assert [person["num_keypoints"] for person in truth["annotations"]] == [0, 17]
        fewer = dataclasses.replace(skeleton.COCO, name="face", joints=skeleton.COCO.joints[:5],
                                    sigmas=skeleton.COCO.sigmas[:5], limbs=(), upper_body=())  # fmt: skip
        assert annotations.with_skeleton(fewer).num_keypoints.tolist() == [5] * 12

    def test_people_of_an_image_are_in_the_order_of_the_file(self, folder):
        def change(content):
            for k, person in enumerate(content["annotations"]):
                person["image_id"] = 100 + k % 5

        tiny.edit_labels(folder, change)
        annotations = coco.read_keypoints(folder / "labels.json")
        assert [annotations.people_of(i).tolist() for i in (0, 1, 4, 5)] == [[0, 5, 10], [1, 6, 11], [4, 9], []]

    def test_unknown_source(self, folder):
        data = tiny.config(folder).data
        data.source = "imagenet"
        with pytest.raises(ConfigError, match="config.data.source is 'imagenet'; it can be"):
            open_source(data, "train")


class TestPeople:
    def test_only_people_worth_looking_at(self, folder, caplog):
        def change(content):
            people_ = content["annotations"]
            people_[0]["iscrowd"] = 1
            people_[1]["keypoints"] = [0] * 51
            people_[2]["bbox"] = [70, 90, 10, 10]
            people_[3]["area"] = 0

        tiny.edit_labels(folder, change)
        with caplog.at_level(logging.INFO, "jaxpose"):
            seen = person_boxes.annotated(coco.read_keypoints(folder / "labels.json"), "set")
        assert len(seen) == 8
        for reason in ("crowd regions", "no labelled joint", "box outside the image", "no area"):
            assert f"skipped 1: {reason}" in caplog.text

    @pytest.mark.parametrize(
        "box",
        [[40, 40, 1, 1], [63, 79, 30, 30], [0.2, 0.2, 0.5, 0.6], [40, 40, 0.5, 30], [40, 40, 30, 1], [-1, -1, 1, 1]],
    )
    @pytest.mark.parametrize("detected", [False, True])
    def test_a_box_of_a_pixel_is_outside_the_image(self, folder, caplog, box, detected):
        """Its crop would be the map of nothing: not a number. All others are looked at as ever."""
        tiny.edit_labels(folder, first_person(lambda person: person.update(bbox=box)))
        config = tiny.config(folder)
        if detected:
            content = json.loads((folder / "labels.json").read_text())["annotations"]
            (folder / "boxes.json").write_text(json.dumps([person | {"score": 0.5} for person in content]))
            config.data.train.boxes = str(folder / "boxes.json")
        with caplog.at_level(logging.INFO, "jaxpose"):
            examples = build.train_examples(config, methods.create(config.method))["source"]
        assert len(examples) == 11
        assert "skipped 1: box outside the image" in caplog.text
        for i in range(len(examples)):
            example = examples.load(i, np.random.default_rng(i))
            assert all(np.isfinite(example[name]).all() for name in ("keypoints", "to_image"))

    def test_nobody_left(self, folder):
        tiny.edit_labels(folder, lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
        with pytest.raises(DataError, match="none of the 12 annotated people"):
            person_boxes.annotated(coco.read_keypoints(folder / "labels.json"), "set")

    @pytest.mark.parametrize(("clip", "expected"), [(True, [0, 0, 29, 39]), (False, [-10, -10, 30, 40])])
    def test_boxes_that_are_regions_are_not_clipped(self, folder, clip, expected):
        tiny.edit_labels(folder, first_person(lambda person: person.update(bbox=[-10, -10, 30, 40])))
        labels = coco.read_keypoints(folder / "labels.json")
        seen = person_boxes.annotated(dataclasses.replace(labels, clip_boxes=clip), "set")
        np.testing.assert_array_equal(seen.box[0], expected)

    def test_detections(self, folder, caplog):
        records = [
            {"image_id": 101, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
            {"image_id": 999, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
            {"image_id": 102, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5},
            {"image_id": 102, "category_id": 1, "bbox": [1, 2, 0, 4], "score": 0.5},
        ]
        (folder / "boxes.json").write_text(json.dumps(records))
        with caplog.at_level(logging.WARNING, "jaxpose"):
            labels = coco.read_keypoints(folder / "labels.json")
            boxes = coco.read_detections(folder / "boxes.json", labels.image_id)
            seen = person_boxes.detected(labels, boxes, "boxes.json")
        assert seen.image.tolist() == [1]
        assert seen.score.tolist() == [0.5]
        assert "outside the data set (record 1)" in caplog.text
        assert "no area (record 3)" in caplog.text


class TestImages:
    def test_cut_off_jpeg(self, folder):
        data = (folder / "images" / "000.jpg").read_bytes()
        with pytest.raises(ImageError, match=r"image a.jpg: the JPEG is cut off after \d+ bytes"):
            images.decode(data[: len(data) // 2], "a.jpg")

    @pytest.mark.parametrize("data", [b"", b"not a picture"])
    def test_no_image(self, data):
        with pytest.raises(ImageError, match="image a.png: "):
            images.decode(data, "a.png")

    def test_grey_becomes_rgb(self):
        import cv2

        data = cv2.imencode(".png", np.full((3, 4), 7, np.uint8))[1].tobytes()
        np.testing.assert_array_equal(images.decode(data, "g.png"), np.full((3, 4, 3), 7))

    def test_broken_image_is_skipped_in_training_and_an_error_in_evaluation(self, folder, caplog):
        (folder / "images" / "003.jpg").write_bytes(b"\xff\xd8 broken")
        config = tiny.config(folder)
        method = methods.create(config.method)
        examples = build.train_examples(config, method)["source"]
        with caplog.at_level(logging.WARNING, "jaxpose"):
            assert examples.load(3, None)["index"] == 4
            examples.load(3, None)
        assert list(examples.bad) == ["003.jpg"]
        assert caplog.text.count("skipped an example") == 1
        with pytest.raises(ImageError, match=r"003.jpg"):
            list(build.evaluation_stream(config, build.evaluation_examples(config, method)))

    def test_too_many_broken_images_are_an_error(self, folder):
        for i in (3, 4):
            (folder / "images" / f"00{i}.jpg").write_bytes(b"")
        config = tiny.config(folder)
        examples = build.train_examples(config, methods.create(config.method))["source"]
        with pytest.raises(DataError, match="2 of 12 images cannot be read"):
            examples.load(3, None)


class TestConfig:
    def test_unknown_method_field(self):
        with pytest.raises(
            ValueError, match="num_querys is set, but PRTR has no such field. Did you mean 'num_queries'"
        ):
            methods.create({"name": "prtr", "num_querys": 3})

    def test_unknown_method(self):
        with pytest.raises(ValueError, match=r"config.method.name is 'prtx'"):
            methods.create({"name": "prtx"})

    def test_unknown_variant(self):
        with pytest.raises(ValueError, match="no variant 'cocoa'; there are coco_laptop"):
            prtr.get_config("cocoa")

    @pytest.mark.parametrize("variant", ["", "coco_laptop", *prtr.RECIPES])
    def test_every_variant_makes_a_method(self, variant):
        config = prtr.get_config(variant)
        assert methods.create(config.method).joints == skeleton.COCO
