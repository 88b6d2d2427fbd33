"""Fields of COCO's files as people write them: converted, refused, or left out and counted."""

import contextlib
import copy
import io
import json
import logging
import math

import numpy as np
import pytest
import tiny
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import skeleton
from jaxpose.data.examples import person_boxes
from jaxpose.data.formats import record_files
from jaxpose.data.sources import coco, open_source, records
from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.coco import CocoKeypoints
from jaxpose.evaluation.suppression import Suppression
from jaxpose.skeleton import COCO

JOINTS = [value for k in range(17) for value in (20.0 + k, 30.0 + 2 * k, 2)]


def labels(people: int = 3, images: int = 3, **category) -> dict:
    """People of 17 joints in images of 96 x 128 pixels."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 96, "height": 128} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []} | category],
        "annotations": [
            {"id": i, "image_id": 1 + (i - 1) % images, "category_id": 1, "iscrowd": 0, "area": 2600.0,
             "bbox": [20.0, 20.0, 56.0, 88.0], "num_keypoints": 17, "keypoints": list(JOINTS)}
            for i in range(1, people + 1)
        ],
    }  # fmt: skip


def read(change=lambda content: None, **fields):
    content = labels(**fields)
    change(content)
    return coco.parse_keypoints(json.loads(json.dumps(content)), "labels.json")


def first(**fields):
    """An edit of the first person."""
    return lambda content: content["annotations"][0].update(fields)


def with_joint(position: int, value) -> dict:
    return {"keypoints": [*JOINTS[:position], value, *JOINTS[position + 1 :]]}


# --- images ---


@pytest.mark.parametrize("value", [None, "a1b2-c3", 2**63, 2.7, -1, math.nan, [1], True, 1e300])
def test_image_ids(value):
    with pytest.raises(DataError, match=r"labels.json: image 1 of 'images' \(counted from 0\): field 'id' is"):
        read(lambda content: content["images"][1].update(id=value))


@pytest.mark.parametrize("field", ["width", "height"])
@pytest.mark.parametrize("value", [None, 0, -96, 64.9, "wide", math.nan, 65536, 1e12, [96]])
def test_image_sizes(field, value):
    with pytest.raises(DataError, match=rf"image 0 of 'images'.*field '{field}' is"):
        read(lambda content: content["images"][0].update({field: value}))


@pytest.mark.parametrize("value", [None, "", 5, ["a.png"], "a\0b.png", "x" * 5000])
def test_file_names(value):
    with pytest.raises(DataError, match="image 2 of 'images'.*field 'file_name' is"):
        read(lambda content: content["images"][2].update(file_name=value))


def test_sizes_and_ids_of_other_types_are_the_same_numbers():
    def change(content):
        content["images"][0].update(id="1", width="96", height=128.0, crowdIndex="0.25")
        content["annotations"][0].update(image_id=1.0)

    a = read(change)
    assert (a.image_id[0], a.width[0], a.height[0], a.crowd_index[0], a.num_people) == (1, 96, 128, 0.25, 3)
    assert a.person_image[0] == 0


def test_images_of_one_id_are_named():
    with pytest.raises(DataError, match="'1.png' and '3.png' of 'images' have the same id 1"):
        read(lambda content: content["images"][2].update(id="1"))


def test_images_of_one_file_are_told(caplog):
    assert read(lambda content: content["images"][2].update(file_name="1.png")).num_images == 3
    assert "1 files are listed as several images, 1.png first" in caplog.text


@pytest.mark.parametrize("record", [None, 7, "x", [], [1]])
@pytest.mark.parametrize("field", ["images", "categories"])
def test_images_and_categories_are_objects(field, record):
    with pytest.raises(DataError, match=rf"of '{field}'.*expected an object"):
        read(lambda content: content[field].append(record))


# --- people ---

LEFT_OUT = {
    "image of a stranger": ({"image_id": 9}, "field 'image_id' names an image that the file does not list"),
    "image missing": ({"image_id": None}, "field 'image_id' is missing"),
    "image as text": ({"image_id": "first"}, "field 'image_id': expected a whole number"),
    "image of half": ({"image_id": 1.5}, "field 'image_id': expected a whole number"),
    "category missing": ({"category_id": None}, "field 'category_id' is missing"),
    "category of a stranger": ({"category_id": 4}, "field 'category_id' names a category that the file does not list"),
    "box missing": ({"bbox": None}, "field 'bbox' is missing"),
    "box as text": ({"bbox": "20,20,56,88"}, "field 'bbox': expected a list of 4 numbers"),
    "box of three": ({"bbox": [20, 20, 56]}, "field 'bbox': expected 4"),
    "box with null": ({"bbox": [20, None, 56, 88]}, "field 'bbox': expected finite numbers"),
    "box with NaN": ({"bbox": [20, 20, math.nan, 88]}, "field 'bbox': expected finite numbers"),
    "box too large for float32": ({"bbox": [20, 20, 1e300, 88]}, "field 'bbox': expected finite numbers"),
    "box without area": ({"bbox": [20, 20, 56, 0]}, "field 'bbox' has no area"),
    "box with a negative side": ({"bbox": [20, 20, -56, 88]}, "field 'bbox' has no area"),
    "box far away": ({"bbox": [99999, 20, 56, 88]}, "field 'bbox' lies far outside the image"),
    "box too wide": ({"bbox": [20, 20, 99999, 88]}, "field 'bbox' lies far outside the image"),
    "joint null": (with_joint(0, None), "field 'keypoints': expected finite numbers"),
    "joint NaN": (with_joint(4, math.nan), "field 'keypoints': expected finite numbers"),
    "joint as text": (with_joint(3, "left"), "field 'keypoints': expected finite numbers"),
    "joint too large for float32": (with_joint(3, 1e300), "field 'keypoints': expected finite numbers"),
    "joint far away": (with_joint(3, 99999), "field 'keypoints' lies far outside the image"),
    "joint far on the other side": (with_joint(4, -129), "field 'keypoints' lies far outside the image"),
    "joints as text": ({"keypoints": "none"}, "field 'keypoints': expected a list of numbers"),
    "area negative": ({"area": -1}, "field 'area': expected a finite number from 0"),
    "area NaN": ({"area": math.nan}, "field 'area': expected a finite number from 0"),
    "area too large for float32": ({"area": 1e300}, "field 'area': expected a finite number from 0"),
    "area as text": ({"area": "large"}, "field 'area': expected a finite number from 0"),
    "crowd unclear": ({"iscrowd": "maybe"}, "field 'iscrowd': expected 0 or 1"),
    "crowd of two": ({"iscrowd": 2}, "field 'iscrowd': expected 0 or 1"),
    "track as text": ({"track_id": "a"}, "field 'track_id': expected a whole number"),
    "track of half": ({"track_id": 0.5}, "field 'track_id': expected a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_people_that_cannot_be_used_are_counted_and_named(caplog, case):
    fields, reason = LEFT_OUT[case]
    a = read(first(**fields))
    assert a.person_id.tolist() == [2, 3]
    assert_array_equal(a.keypoints[0], np.reshape(JOINTS, (17, 3))[:, :2])
    assert f"labels.json: skipped 1: {reason} (annotation 1" in caplog.text


@pytest.mark.parametrize("record", [None, 7, "person", [], [[1]]])
def test_records_that_are_no_objects_are_counted(caplog, record):
    assert read(lambda content: content["annotations"].append(record)).num_people == 3
    assert "skipped 1: annotations that are no objects (record 3 is" in caplog.text


def test_the_same_fault_of_many_is_one_line(caplog):
    def change(content):
        for k, person in enumerate(content["annotations"]):
            person["area"] = -1.5 - k

    assert read(change, people=40).num_people == 0
    assert caplog.text.count("skipped") == 1
    assert "skipped 40: field 'area'" in caplog.text
    assert "annotation 2 is -2.5, " in caplog.text
    assert ", and 35 more)" in caplog.text


KEPT = {
    "box as text": ({"bbox": ["20", "20", "56", "88"]}, "box", [20, 20, 56, 88]),
    "joints as text": ({"keypoints": [str(v) for v in JOINTS]}, "keypoints", np.reshape(JOINTS, (17, 3))[:, :2]),
    "crowd as text": ({"iscrowd": "1"}, "crowd", True),
    "no crowd as text": ({"iscrowd": "0"}, "crowd", False),
    "crowd as truth value": ({"iscrowd": True}, "crowd", True),
    "crowd null": ({"iscrowd": None}, "crowd", False),
    "area null": ({"area": None}, "area", np.float32(0.53 * 56 * 88)),
    "area as text": ({"area": "99.5"}, "area", 99.5),
    "track null": ({"track_id": None}, "track_id", -1),
    "track as text": ({"track_id": "12"}, "track_id", 12),
    "count null": ({"num_keypoints": None}, "num_keypoints", 17),
    "count as text": ({"num_keypoints": "5"}, "num_keypoints", 5),
    "count 0 though joints are labelled (CrowdPose)": ({"num_keypoints": 0}, "num_keypoints", 0),
    "count too high": ({"num_keypoints": 18}, "num_keypoints", 17),
    "count negative": ({"num_keypoints": -1}, "num_keypoints", 17),
    "count NaN": ({"num_keypoints": math.nan}, "num_keypoints", 17),
    "keypoints empty (COCO Annotator)": ({"keypoints": []}, "visibility", np.zeros(17)),
    "keypoints null": ({"keypoints": None}, "num_keypoints", 0),
    "a joint without a position": ({"keypoints": [*JOINTS[:-3], None, None, 0]}, "num_keypoints", 16),
    "a joint at no number": ({"keypoints": [*JOINTS[:-3], math.nan, math.nan, 0]}, "visibility", [2] * 16 + [0]),
    "an unlabelled joint anywhere": ({"keypoints": [*JOINTS[:-3], -99999, 99999, 0]}, "num_keypoints", 16),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_fields_that_mean_a_number_are_that_number(case):
    fields, column, expected = KEPT[case]
    a = read(first(**fields))
    assert a.num_people == 3
    assert_array_equal(getattr(a, column)[0], expected)


def test_counts_that_cannot_be_are_told(caplog):
    read(first(num_keypoints=18))
    assert "field 'num_keypoints' is no count of labelled joints for 1 people (annotation 1 first)" in caplog.text


def test_people_without_keypoints_do_not_train_and_leave_regions():
    region = [[20, 20, 60, 20, 60, 100]]
    a = read(first(keypoints=[], segmentation=region))
    assert len(person_boxes.annotated(a, "set")) == 2
    assert a.unlabelled.of(0) == [region]


def test_lists_of_another_length_mean_another_skeleton():
    with pytest.raises(DataError, match="annotation 1: field 'keypoints' has 48 numbers, expected 51"):
        read(first(keypoints=JOINTS[3:]))


def test_regions_in_images_that_fill_the_memory_are_counted(caplog):
    def change(content):
        content["images"][0].update(width=65535, height=65535)
        content["annotations"][0].update(iscrowd=1, segmentation={"size": [65535, 65535], "counts": [65535**2]})

    assert len(read(change).unlabelled) == 0
    assert "field 'segmentation' is in an image of more than 134,217,728 pixels (annotation 1)" in caplog.text


# --- third numbers ---


def write_with_thirds(thirds) -> dict:
    rng = np.random.default_rng(0)
    content = labels(people=8, images=8)
    for person in content["annotations"]:
        points = np.stack([rng.uniform(24, 72, 17), rng.uniform(24, 104, 17)], -1)
        person["keypoints"] = np.c_[points, np.broadcast_to(thirds, 17)].reshape(-1).tolist()
    return content


def found_poses(content: dict, noise: float) -> list[tuple[int, np.ndarray, float]]:
    """Poses near the true ones, or random ones in their boxes, with scores."""
    rng = np.random.default_rng(5)
    truth = [(p["image_id"], np.reshape(p["keypoints"], (17, 3))[:, :2]) for p in content["annotations"]]
    anywhere = rng.uniform([20, 20], [76, 108], (len(truth), 17, 2))
    scores = rng.uniform(0.3, 1, len(truth)).tolist()
    near = [points + rng.normal(0, noise, (17, 2)) for _, points in truth]
    return [(i, near[k] if noise else anywhere[k], scores[k]) for k, (i, _) in enumerate(truth)]


def average_precision(a, found) -> float:
    metric = CocoKeypoints(MetricContext(COCO, a.to_coco(), suppression=Suppression("none")))
    image, points, score = (np.array(column) for column in zip(*found, strict=True))
    area = np.full(len(found), 4e3)
    rows = {"image_id": image, "index": np.arange(len(found)), "keypoints": points, "person_score": score}
    metric.update(rows | {"scores": np.ones((len(found), 17)), "area": area})
    return metric.compute()["AP"]


def reference_precision(content: dict, found) -> float:
    tools = pytest.importorskip("pycocotools.coco", reason="the cross-check needs pycocotools")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = tools.COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        poses = [
            {"image_id": i, "category_id": 1, "keypoints": np.c_[p, np.ones(17)].reshape(-1).tolist(), "score": s}
            for i, p, s in found
        ]
        evaluation = COCOeval(truth, truth.loadRes(poses), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


THIRDS = {
    "as they should be": ([2] * 17, [2] * 17),
    "confidences below 1": ([0.9] * 17, [1] * 17),
    "confidences": ([0.6, 0.9] * 8 + [1.0], [1] * 17),
    "-1 where nobody marked": ([2] * 10 + [-1] * 7, [2] * 10 + [0] * 7),
    "3 and 1.5": ([3] * 10 + [1.5] * 7, [2] * 17),
    "256, which a byte takes for 0": ([256] * 17, [2] * 17),
    "tiny": ([1e-6] * 9 + [0] * 8, [1] * 9 + [0] * 8),
}


@pytest.mark.parametrize("case", THIRDS)
@pytest.mark.parametrize("noise", [2.0, 0.0])
def test_third_numbers_decide_as_in_pycocotools(caplog, case, noise):
    thirds, expected = THIRDS[case]
    content = write_with_thirds(thirds)
    a = coco.parse_keypoints(content, "labels.json")
    assert_array_equal(a.visibility, [expected] * 8)
    found = found_poses(content, noise)
    assert_allclose(average_precision(a, found), reference_precision(content, found), atol=1e-9)
    odd = sum(v not in (0, 1, 2) for v in thirds)
    told = f"{8 * odd} joints of 8 people have third numbers that are not 0, 1 or 2, such as"
    assert caplog.text.count(told) == (odd > 0)


# --- ids ---


@pytest.mark.parametrize(
    "ids",
    [[1, 2] * 4, [1] * 8, [None] * 8, [0, 1, 2, 3, 4, 5, 6, 7], ["a"] * 8, [1.5, 2, 3, 4, 5, 6, 7, 8], [-3] * 8],
)
def test_perfect_poses_score_one_whatever_the_ids(caplog, ids):
    content = write_with_thirds([2] * 17)
    for person, number in zip(content["annotations"], ids, strict=True):
        person["id"] = number
        person["image_id"] = 1 + (person["image_id"] - 1) // 2
    a = coco.parse_keypoints(content, "labels.json")
    assert a.person_id.tolist() == list(range(1, 9))
    found = [(p["image_id"], np.reshape(p["keypoints"], (17, 3))[:, :2], 0.5) for p in content["annotations"]]
    assert average_precision(a, found) == pytest.approx(1.0)
    assert caplog.text.count("are numbered anew, from 1") == 1


def test_ids_of_the_file_stay_where_they_can():
    assert read(lambda content: content["annotations"][0].update(id="77")).person_id.tolist() == [77, 2, 3]


# --- categories ---


def two_categories(joints=COCO.joints, reverse=False):
    def change(content):
        content["categories"].append({"id": 9, "name": "adult", "keypoints": list(joints)})
        for person in content["annotations"][2:]:
            person["category_id"] = 9
            person["keypoints"] = person["keypoints"][: 3 * len(joints)]
        if reverse:
            content["categories"].reverse()

    return change


@pytest.mark.parametrize("reverse", [False, True])
def test_categories_with_the_same_joints_are_all_taken(reverse):
    a = read(two_categories(reverse=reverse), people=8)
    assert a.num_people == 8
    assert len(person_boxes.annotated(a, "set")) == 8
    assert len(a.to_coco()["categories"]) == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_people_of_other_categories_are_counted_and_the_wanted_skeleton_decides(caplog, reverse):
    content = labels(people=8)
    two_categories(COCO.joints[:5], reverse)(content)
    a = coco.parse_keypoints(content, "labels.json", COCO)
    assert (a.num_people, a.skeleton) == (2, COCO)
    assert 'skipped 6: category "adult", which has other joints (annotation 3, ' in caplog.text
    face = coco.parse_keypoints(content, "labels.json")
    assert face.num_people == (6 if reverse else 2)


def test_the_config_names_the_skeleton_that_decides(tmp_path):
    folder = tiny.write_coco(tmp_path)

    def change(content):
        content["categories"].insert(0, {"id": 5, "name": "hand", "keypoints": ["wrist", "thumb"]})

    tiny.edit_labels(folder, change)
    assert open_source(tiny.config(folder).data, "train").annotations.num_people == 12


def test_annotations_without_joints_are_one_quiet_line(caplog):
    def change(content):
        content["categories"] += [{"id": 3, "name": "car"}, {"id": 4, "name": "dog", "keypoints": []}]
        content["annotations"] += [{"id": 10 + i, "image_id": 1, "category_id": 3 + i % 2} for i in range(5)]

    with caplog.at_level(logging.INFO, "jaxpose"):
        assert read(change).num_people == 3
    assert "labels.json: 5 annotations of 2 categories without joints are not read (car 3, dog 2)" in caplog.text
    assert "skipped" not in caplog.text


def test_one_id_of_two_categories_is_refused():
    with pytest.raises(DataError, match="two categories with different joints have the same id 1"):
        read(lambda content: content["categories"].append({"id": 1, "name": "hand", "keypoints": ["a", "b"]}))


@pytest.mark.parametrize("fields", [{"keypoints": "nose"}, {"keypoints": [1] * 17}, {"id": None}, {"id": "x"}])
def test_a_category_that_makes_no_sense_is_named(fields):
    with pytest.raises(DataError, match=r"labels.json: category 0 of 'categories' \(counted from 0\)"):
        read(**fields)


def test_a_skeleton_without_limbs():
    joints = ["snout", *COCO.joints[1:]]
    for limbs in (None, "x", [[0, 1]], [[16, 99]]):
        assert read(keypoints=joints, skeleton=limbs).skeleton.limbs == ()


# --- mirroring ---


def four(*joints: str, **category) -> dict:
    content = labels(keypoints=list(joints), **category)
    for person in content["annotations"]:
        person |= {"keypoints": JOINTS[: 3 * len(joints)], "num_keypoints": len(joints)}
    return content


def test_sides_of_other_names_are_paired(caplog):
    a = coco.parse_keypoints(four("nose", "L_paw", "R_paw", "tail"), "labels.json")
    assert a.skeleton.flip_pairs == ((1, 2),)
    assert caplog.text == ""


def test_a_skeleton_without_pairs_is_told_unless_it_says_so(caplog):
    a = coco.parse_keypoints(four("nose", "paw1", "paw2", "tail"), "labels.json")
    assert a.skeleton.flip_pairs == ()
    assert "labels.json: mirroring exchanges no joints of skeleton 'person'" in caplog.text
    assert '"flip_pairs"' in caplog.text
    caplog.clear()
    a = coco.parse_keypoints(four("nose", "paw1", "paw2", "tail", flip_pairs=[[2, 3]]), "labels.json")
    assert a.skeleton.flip_pairs == ((1, 2),)
    coco.parse_keypoints(four("nose", "paw1", flip_pairs=[]), "labels.json")
    assert caplog.text == ""


def test_pairs_that_a_file_gives_come_through_an_evaluation():
    a = coco.parse_keypoints(four("nose", "paw1", "paw2", "tail", flip_pairs=[[2, 3]]), "labels.json")
    again = coco.parse_keypoints(a.to_coco(), "again")
    assert again.skeleton == a.skeleton


@pytest.mark.parametrize("pairs", [None, [], [[2, 3]], [["nose", "tail"], [2, 3]]])
def test_pairs_that_a_file_gives_come_through_records(tmp_path, pairs):
    a = coco.parse_keypoints(four("nose", "paw1", "paw2", "tail", flip_pairs=pairs), "labels.json")
    np.savez(tmp_path / "a.npz", **record_files.to_columns(a))
    assert records.read_columns(tmp_path / "a.npz").skeleton == a.skeleton


def test_a_side_without_its_other_is_told(caplog):
    coco.parse_keypoints(four("left_ear", "right_ear", "left_paw", "tail"), "labels.json")
    assert "mirroring leaves the joints left_paw of skeleton 'person' where they are" in caplog.text


def test_known_skeletons_are_not_doubted(caplog):
    read()
    coco.parse_keypoints(labels(keypoints=list(skeleton.HAND.joints), people=0) | {"annotations": []}, "labels.json")
    assert caplog.text == ""


# --- forms ---


def test_boxes_in_shares_of_the_image_are_refused():
    def change(content):
        for person in content["annotations"]:
            person["bbox"] = [0.2, 0.2, 0.5, 0.6]

    with pytest.raises(DataError, match="labels.json: 8 of 8 boxes lie within .0, 1., like shares of the image's"):
        read(change, people=8)


def test_corners_are_told(caplog):
    def change(content):
        for k, person in enumerate(content["annotations"]):
            person["bbox"] = [30 + k % 7, 50, 90, 120]

    with pytest.raises(DataError, match=r"the boxes look like \(x1, y1, x2, y2\)"):
        read(change, people=8)
    read(change, people=4)
    assert "the boxes look like (x1, y1, x2, y2): 100 % reach beyond their image" in caplog.text


# --- detections ---


def detect(tmp_path, records, sizes=True):
    (tmp_path / "boxes.json").write_text(json.dumps(records))
    return coco.read_detections(tmp_path / "boxes.json", np.array([1, 2, 3]), np.full((3, 2), 100) if sizes else None)


def boxes(count: int = 3, **fields) -> list[dict]:
    person = {"category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5}
    return [{"image_id": 1 + i % 3} | person | fields for i in range(count)]


ODD_DETECTIONS = {
    "box null": {"bbox": None},
    "box as text": {"bbox": "x"},
    "box NaN": {"bbox": [1, 2, math.nan, 4]},
    "box of float32 infinity": {"bbox": [1, 2, 1e300, 4]},
    "box of three": {"bbox": [1, 2, 3]},
    "box without area": {"bbox": [1, 2, 0, 4]},
    "score null": {"score": None},
    "score as a list": {"score": [0.5]},
    "score NaN": {"score": math.nan},
    "image null": {"image_id": None},
    "image as a list": {"image_id": [1]},
    "image of half": {"image_id": 1.5},
    "category as text": {"category_id": "person"},
}


@pytest.mark.parametrize("case", ODD_DETECTIONS)
def test_odd_detections_are_counted_and_named(tmp_path, caplog, case):
    found = detect(tmp_path, [*boxes(2), boxes(1)[0] | ODD_DETECTIONS[case]])
    assert found["image"].tolist() == [0, 1]
    assert_array_equal(found["box"], [[10, 20, 30, 40]] * 2)
    assert "skipped 1: field" in caplog.text
    assert "record 2" in caplog.text
    with pytest.raises(DataError, match="none of its 2 boxes can be used"):
        detect(tmp_path, boxes(2, **ODD_DETECTIONS[case]))


@pytest.mark.parametrize("category", [1, "1", 1.0, None])
def test_people_are_category_1_however_it_is_written(tmp_path, category):
    assert len(detect(tmp_path, boxes(3, category_id=category))["box"]) == 3


def test_detections_in_quotes(tmp_path):
    found = detect(tmp_path, boxes(1, image_id="2", bbox=["10", "20", "30", "40"], score="0.25"))
    assert (found["image"].tolist(), found["box"].tolist(), found["score"].tolist()) == (
        [1],
        [[10, 20, 30, 40]],
        [0.25],
    )


def test_the_only_category_is_taken_for_people(tmp_path, caplog):
    assert len(detect(tmp_path, boxes(3, category_id=0))["box"]) == 3
    assert "all boxes are of category 0, which is taken for people" in caplog.text


def test_other_categories_are_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "jaxpose"):
        found = detect(tmp_path, [*boxes(3), *boxes(2, category_id=3), *boxes(1, category_id=44)])
    assert len(found["box"]) == 3
    assert "boxes of category 1 are taken, of all (1: 3, 3: 2, 44: 1)" in caplog.text
    with pytest.raises(DataError, match=r"has boxes of the categories 2: 1, 3: 1, but none of category 1"):
        detect(tmp_path, [*boxes(1, category_id=2), *boxes(1, category_id=3)])
    detect(tmp_path, [*boxes(3), *boxes(2, category_id=0)])
    assert "is it counted from 0, so that 0 is people?" in caplog.text


@pytest.mark.parametrize("content", [{}, [1], [None], "x", [{"image_id": 1}], [[]]])
def test_files_that_are_no_detections(tmp_path, content):
    with pytest.raises(DataError, match="expected a list of records"):
        detect(tmp_path, content)


def test_nobody_detected_and_other_images_are_no_error(tmp_path, caplog):
    assert detect(tmp_path, [])["box"].shape == (0, 4)
    assert detect(tmp_path, boxes(2, image_id=9))["box"].shape == (0, 4)
    assert "skipped 2: field 'image_id' names an image outside the data set" in caplog.text


def test_detections_of_another_form_are_refused(tmp_path):
    corners = [{"image_id": 1 + i % 3, "bbox": [60, 50 + i, 95, 99], "score": 0.5} for i in range(8)]
    with pytest.raises(DataError, match=r"boxes.json: the boxes look like \(x1, y1, x2, y2\)"):
        detect(tmp_path, corners)
    assert len(detect(tmp_path, corners, sizes=False)["box"]) == 8
    with pytest.raises(DataError, match="like shares of the image's width and height"):
        detect(tmp_path, boxes(6, bbox=[0.1, 0.2, 0.3, 0.4]))


# --- paths ---


@pytest.mark.parametrize("name", ["../elsewhere/000.jpg", "/etc/hostname", "a/../../b.jpg"])
def test_images_outside_of_their_folder_are_read_only_where_that_is_allowed(tmp_path, name):
    folder = tiny.write_coco(tmp_path / "set")
    (tmp_path / "set" / "elsewhere").mkdir()
    (tmp_path / "set" / "elsewhere" / "000.jpg").write_bytes((folder / "images" / "000.jpg").read_bytes())
    tiny.edit_labels(folder, lambda content: content["images"][0].update(file_name=name))
    config = tiny.config(folder)
    with pytest.raises(DataError, match=r"1 images lie outside .*config.data.allow_outside"):
        open_source(config.data, "train")
    config.data.allow_outside = True
    source = open_source(config.data, "train")
    if name.startswith("../"):
        assert source.read(0) == (folder / "images" / "000.jpg").read_bytes()
    del config.data["allow_outside"]
    with pytest.raises(DataError, match="outside"):
        open_source(config.data, "train")


def test_links_within_the_folder_may_lead_elsewhere(tmp_path):
    folder = tiny.write_coco(tmp_path)
    target = tmp_path / "elsewhere.jpg"
    (folder / "images" / "000.jpg").rename(target)
    (folder / "images" / "000.jpg").symlink_to(target)
    assert open_source(tiny.config(folder).data, "train").read(0) == target.read_bytes()
