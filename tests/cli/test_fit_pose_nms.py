"""Fitting pose NMS: the search, and the command on files."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxpose.cli import fit_pose_nms
from jaxpose.errors import DataError
from jaxpose.evaluation import pose_nms_fitting
from jaxpose.evaluation.suppression import read_rules
from jaxpose.ops.pose_nms import PoseNMS
from jaxpose.skeleton import COCO

START = PoseNMS.preset("alphapose")


def write_people(folder, noise=8.0):
    """Two images of two people, four noisy poses each, with true boxes."""
    rng = np.random.default_rng(0)
    images, people, poses = [], [], []
    for image in (1, 2):
        images.append({"id": image, "file_name": f"{image}.jpg", "width": 640, "height": 480})
        for x in (50.0, 350.0):
            box, true = [x, 100.0, 150.0, 300.0], np.array([x, 100]) + rng.random((17, 2)) * [150, 300]
            triples = np.concatenate([true, np.full((17, 1), 2)], 1).reshape(-1).tolist()
            person = {"id": len(people) + 1, "image_id": image, "category_id": 1, "bbox": box, "area": 45000.0}
            people.append(person | {"iscrowd": 0, "keypoints": triples, "num_keypoints": 17})
            for _ in range(4):
                found = np.concatenate([true + rng.normal(0, noise, (17, 2)), rng.uniform(0.5, 1, (17, 1))], 1)
                keypoints = found.reshape(-1).tolist()
                poses.append({"image_id": image, "keypoints": keypoints, "person_box": box, "box_score": rng.random()})
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []}
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "annotations": people, "categories": [category]}, default=float)
    )
    (folder / "poses.json").write_text(json.dumps(poses))
    return poses


def test_search_climbs_to_the_best_pair():
    target = {"delta1": 0.35, "delta2": 6.0, "mu": 0.9, "gamma": 14.0}

    def value(rules):
        return -sum(math.log(getattr(rules, name) / best) ** 2 for name, best in target.items())

    found = pose_nms_fitting.fit(value, START)
    for name, best in target.items():
        assert abs(math.log(getattr(found, name) / best)) < math.log(1.1)
    assert dataclasses.replace(found, **{name: getattr(START, name) for name in target}) == START


def test_search_stays_where_nothing_gains():
    calls = []
    assert pose_nms_fitting.fit(lambda rules: calls.append(rules) or 0.5, START) == START
    assert len(calls) == len(set(calls))


def test_the_command_raises_the_ap(tmp_path, capsys):
    write_people(tmp_path)
    arguments = [
        f"--{name}={tmp_path / file}" for name, file in (("annotations", "truth.json"), ("poses", "poses.json"))
    ]
    assert fit_pose_nms.main([*arguments, f"--output={tmp_path / 'found.json'}", "--spread=4"]) == 0
    written = json.loads((tmp_path / "found.json").read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert written["AP_before"] < written["AP"] <= 1
    rules = read_rules(tmp_path / "found.json")
    assert rules == PoseNMS.preset(**written["pose_nms"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_score": None}, "record 3: field 'box_score' is missing; an evaluation with"),
        ({"person_box": [1, 2, 3]}, "record 3: field 'person_box' has 3 numbers, expected 4; "),
        ({"keypoints": [float("nan")] * 51}, "record 3: field 'keypoints' holds nan, expected finite numbers"),
    ],
)
def test_unusable_poses(tmp_path, change, message):
    poses = write_people(tmp_path)
    poses[3] |= change
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    with pytest.raises(DataError, match=message):
        pose_nms_fitting.read_poses(tmp_path / "poses.json", COCO)


def test_unusable_parameters(tmp_path):
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="field 'pose_nms'"):
        read_rules(tmp_path / "bad.json")
