"""Training the rescorer: what it learns, and the command on files."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.cli import fit_rescoring
from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation import rescoring, rescoring_training
from jaxpose.evaluation.rescoring import PoseFeatures
from jaxpose.evaluation.rescoring_training import Recipe
from jaxpose.skeleton import COCO

FEATURES = PoseFeatures.of(COCO)
SMALL = Recipe(epochs=3, batch_size=16, hidden=8)


def write_people(folder, images=12):
    """Images of two people, each found well and badly, with scores that do not tell which is which."""
    rng = np.random.default_rng(0)
    standing = rng.random((17, 2))
    files, people, poses = [], [], []
    for image in range(1, images + 1):
        files.append({"id": image, "file_name": f"{image}.jpg", "width": 640, "height": 480})
        for x in (50.0, 350.0):
            true = np.array([x, 100]) + standing * [150, 300] + rng.normal(0, 5, (17, 2))
            person = {"id": len(people) + 1, "image_id": image, "category_id": 1, "bbox": [x, 100.0, 150.0, 300.0]}
            triples = np.concatenate([true, np.full((17, 1), 2)], 1).ravel().tolist()
            people.append(person | {"area": 45000.0, "iscrowd": 0, "keypoints": triples, "num_keypoints": 17})
            for noise in (2.0, 30.0):
                found = true + rng.normal(0, noise, (17, 2))
                triples = np.concatenate([found, rng.uniform(0.4, 0.6, (17, 1))], 1).ravel().tolist()
                poses.append(
                    {"image_id": image, "category_id": 1, "keypoints": triples, "score": rng.uniform(0.4, 0.6)}
                )
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []}
    truth = {"images": files, "annotations": people, "categories": [category]}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "poses.json").write_text(json.dumps(poses))
    return truth, poses


def arguments(folder, *more):
    names = (("annotations", "truth.json"), ("poses", "poses.json"), ("output", "rescoring.npz"))
    return [*(f"--{name}={folder / file}" for name, file in names), *more]


def test_the_command_raises_the_ap(tmp_path, capsys):
    _, poses = write_people(tmp_path)
    assert fit_rescoring.main(arguments(tmp_path, "--epochs=60", "--batch-size=24", "--hidden=32")) == 0
    report = json.loads((tmp_path / "rescoring.json").read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert report["AP_before"] < report["AP"] <= 1
    assert report["rank_correlation_before"] < 0.5 < report["rank_correlation"]
    assert report["poses"] == len(poses) == report["samples"] / 3
    assert len(report["loss"]) == 60
    assert report["loss"][-1] < report["loss"][0]
    rescorer = rescoring.load(tmp_path / "rescoring.npz", 17)
    keypoints = np.array([p["keypoints"] for p in poses], np.float32).reshape(1, -1, 17, 3)
    score = rescorer(keypoints[..., :2], keypoints[..., 2], np.array([[p["score"] for p in poses]]))
    assert score[0, ::2].mean() > score[0, 1::2].mean() + 0.1  # well found and badly found


def test_equal_runs_write_equal_files(tmp_path):
    write_people(tmp_path, images=4)
    output = tmp_path / "rescoring.npz"
    written = []
    for seed in (0, 0, 1):
        assert fit_rescoring.main(arguments(tmp_path, "--epochs=2", "--hidden=8", f"--seed={seed}")) == 0
        with np.load(output) as file:
            written.append({name: file[name] for name in file.files})
    for name, array in written[0].items():
        assert_array_equal(array, written[1][name])
    assert any((array != written[2][name]).any() for name, array in written[0].items())


def test_samples_are_ranges_of_poses():
    """Training on R ranges is training on R copies of the poses."""
    rng = np.random.default_rng(0)
    inputs, wanted = rng.normal(size=(10, FEATURES.size)), rng.random((2, 10))
    start = rescoring_training.fit(FEATURES, inputs, wanted, Recipe(epochs=1, batch_size=100, hidden=8))[0].params
    orders = [rng.permutation(20) for _ in range(2)]
    found, losses = rescoring_training.train(start, inputs, wanted, orders, SMALL)
    copies, copied_losses = rescoring_training.train(
        start, np.tile(inputs, (2, 1)), wanted.reshape(1, 20), orders, SMALL
    )
    assert_allclose(losses, copied_losses, rtol=1e-6)
    assert_allclose(found["layer0"]["kernel"], copies["layer0"]["kernel"], rtol=1e-5, atol=1e-7)


def test_perfect_poses():
    oks = [0.3, 1.0, np.nextafter(np.float32(1), 0)]
    assert_array_equal(rescoring_training.targets(oks), np.float32([0.3, 0, oks[2]]))
    assert_array_equal(rescoring_training.targets(oks, perfect_as_zero=False), np.float32(oks))


def test_box_areas_for_crowdpose(tmp_path):
    truth, _ = write_people(tmp_path, images=1)
    areas = [a["area"] for a in rescoring_training.with_box_areas(truth)["annotations"]]
    assert_allclose(areas, 0.53 * 150 * 300)
    assert truth["annotations"][0]["area"] == 45000.0


def test_files_without_areas(tmp_path, capsys):
    """CrowdPose's have none, so its evaluation takes them from boxes."""
    truth, _ = write_people(tmp_path, images=2)
    for person in truth["annotations"]:
        del person["area"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert fit_rescoring.main(arguments(tmp_path)) == 1
    assert "truth.json: annotation 1: lacks the fields ['area']" in capsys.readouterr().err
    assert fit_rescoring.main(arguments(tmp_path, "--area=box", "--epochs=1", "--hidden=8")) == 0


def test_nothing_to_learn_from():
    with pytest.raises(DataError, match="no pose to learn from"):
        rescoring_training.fit(FEATURES, np.zeros((0, 74)), np.zeros((3, 0)), SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "record 3: field 'score' is nan, expected a finite number"),
        ({"keypoints": [1.0, 2.0]}, "record 3: field 'keypoints' has 2 numbers, expected 51; take results.json"),
        ({"image_id": "a3"}, "record 3: field 'image_id' is 'a3', expected a whole number"),
    ],
)
def test_unusable_poses(tmp_path, change, message):
    _, poses = write_people(tmp_path, images=1)
    poses[3] |= change
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    with pytest.raises(DataError, match=message):
        rescoring_training.read_poses(tmp_path / "poses.json", COCO)


def test_poses_of_other_images(tmp_path, capsys):
    _, poses = write_people(tmp_path, images=1)
    (tmp_path / "poses.json").write_text(json.dumps([p | {"image_id": 99} for p in poses]))
    assert fit_rescoring.main(arguments(tmp_path)) == 1
    assert "1 images are not in the annotations: [99]" in capsys.readouterr().err


def test_impossible_recipes():
    with pytest.raises(ConfigError, match="epochs is 0, expected a positive number"):
        Recipe(epochs=0)
