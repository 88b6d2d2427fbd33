"""Evaluation: every box once, metrics by name, duplicates and ablations, and what fitting pose NMS needs."""

import dataclasses
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from jaxpose import methods, sharding
from jaxpose.cli import fit_pose_nms
from jaxpose.data import build
from jaxpose.data.formats import posetrack as forms
from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation import evaluator as evaluation
from jaxpose.evaluation import report
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.coco import CocoKeypoints
from jaxpose.evaluation.metrics.posetrack import PoseTrackKeypoints
from jaxpose.methods.base import Ablation, Method
from jaxpose.methods.bottom_up import DetectionInput
from jaxpose.methods.top_down import CropInput, person_spec
from jaxpose.ops import geometry
from jaxpose.runs.journal import Journal
from jaxpose.skeleton import COCO, POSETRACK
from jaxpose.types import Detections, PaddedLayout, Poses
from jaxpose.viz import overlay

SIZE = (48, 64)
SHAPE = np.random.default_rng(0).uniform([-24, -40], [24, 40], (17, 2)).astype(np.float32)
"""Every person's joints relative to the middle of the body, which a light marks."""


@dataclasses.dataclass(frozen=True)
class Light(CropInput):
    """Finds the light in a crop, and puts the one pose that people have around it.

    Attributes:
      noise: pixels by which joints are off, differently from box to box.
      ablation: as an ablation, evaluate the same with so much noise.
    """

    noise: float = 0.0
    ablation: float = 0.0

    def spec(self, batch_size):
        return {"source": person_spec(batch_size, SIZE, 17)}

    def predict(self, variables, batch):
        crops = batch["source"]
        light = crops["image"].astype(jnp.float32).sum(-1)
        rows, columns = jnp.mgrid[: SIZE[1], : SIZE[0]]
        middle = jnp.stack([(light * axis).sum((1, 2)) / light.sum((1, 2)) for axis in (columns, rows)], -1)
        poses = geometry.apply_affine(crops["to_image"], middle[:, None]) + SHAPE
        phase = 100 * crops["to_image"][:, :, 2] + crops["index"][:, None]
        poses += self.noise * jnp.sin(phase[:, None] * (1 + jnp.arange(17.0)[:, None]))
        return Poses(
            keypoints=poses[:, None],
            scores=jnp.full((len(light), 1, 17), 0.9),
            person_score=crops["person_score"][:, None],
            valid=crops["valid"][:, None],
        )

    def ablations(self):
        worse = dataclasses.replace(self, noise=self.ablation, ablation=0.0)
        return {"worse": Ablation(worse, "none")} if self.ablation else {}

    module = targets = init = phases = forward = decode = None


@dataclasses.dataclass(frozen=True)
class LightBoxes(DetectionInput):
    """Finds the light in each half of a whole image, and puts the box that people have around it.

    Attributes:
      displaced: pixels by which the first box of an image is too far right.
    """

    displaced: float = 0.0
    max_people: int = 4

    outputs = ("boxes",)
    scales = (1.0,)

    def layout(self, width, height):
        return PaddedLayout(((256, 192),), (np.eye(2, 3),), extent=(width, height))

    def predict(self, variables, batch):
        stream = batch["source"]
        light = stream["image"].astype(jnp.float32).sum(-1)
        rows, columns = jnp.mgrid[: light.shape[1], : light.shape[2]]
        left = columns < stream["size"][:, :1, None] / 2
        halves = jnp.stack([light * left, light * ~left], 1) + 1e-6
        middle = [(halves * axis).sum((2, 3)) / halves.sum((2, 3)) for axis in (columns, rows)]
        middle = geometry.apply_affine(stream["to_image"], jnp.stack(middle, -1))
        boxes = jnp.concatenate([middle - jnp.array([28.0, 44.0]), jnp.full_like(middle, 56).at[..., 1].set(88)], -1)
        boxes = boxes.at[:, 0, 0].add(self.displaced)
        nothing = jnp.ones_like(boxes[:, :1])
        valid = jnp.array([True, True, False]) & stream["valid"][:, None]
        scores = jnp.broadcast_to(jnp.array([0.9, 0.8, 0.99]), valid.shape)
        return Detections(jnp.concatenate([boxes, nothing], 1), scores, jnp.zeros(valid.shape, int), valid)

    spec = module = targets = init = phases = forward = decode = None


def write_lights(folder, images=3):
    """Two people in each image, folder/images/*.png and folder/labels.json."""
    (folder / "images").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person", "skeleton": []}]}
    content["categories"][0]["keypoints"] = list(COCO.joints)
    for i in range(images):
        picture = np.zeros((160, 240, 3), np.uint8)
        content["images"].append({"id": 7 * i, "file_name": f"{i}.png", "width": 240, "height": 160})
        for x, y in ((60, 80 - i), (180 - 5 * i, 75)):
            picture[y - 2 : y + 3, x - 2 : x + 3] = 255
            pose = np.concatenate([SHAPE + [x, y], np.full((17, 1), 2)], -1)
            box = [x - 28, y - 44, 56, 88]
            person = {"id": len(content["annotations"]) + 1, "image_id": 7 * i, "category_id": 1, "iscrowd": 0}
            person |= {"bbox": box, "area": 4928.0, "num_keypoints": 17, "keypoints": pose.reshape(-1).tolist()}
            content["annotations"].append(person)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    return write_lights(tmp_path_factory.mktemp("lights"))


def make_config(folder, copies: int = 0, **changes) -> ConfigDict:
    """Of the lights; true boxes, or so many displaced ones a person."""
    config = tiny.config(folder, "heatmap")
    config.evaluate.update(changes)
    if copies:
        config.data.validation.boxes = "simulated"
        config.data.simulated.update({"copies": copies, "jitter": 0.05})
    return config


def make_evaluator(config: ConfigDict, method: Method) -> evaluation.Evaluator:
    return evaluation.Evaluator(config, method, sharding.make_mesh(config.sharding))


class TestBoxes:
    def test_every_true_box_once(self, lights):
        evaluator = make_evaluator(make_config(lights), Light())
        rows = evaluator.predict(Light(), {})
        assert rows["index"].tolist() == list(range(6))
        assert rows["image_id"].tolist() == [0, 0, 7, 7, 14, 14]
        np.testing.assert_allclose(rows["keypoints"], rows["truth"], atol=0.5)
        assert (rows["visibility"] == 2).all()
        side = 87 * evaluator.config.data.padding  # of the clipped box
        np.testing.assert_allclose(rows["area"], side * side * SIZE[0] / SIZE[1])
        assert evaluator.score(rows)["AP"] == pytest.approx(1)

    @pytest.mark.parametrize(("suppression", "people", "perfect"), [("parametric", 6, True), ("none", 18, False)])
    def test_copies_of_detections(self, lights, tmp_path, monkeypatch, suppression, people, perfect):
        """Three boxes of each person give three poses; merged, they are right and nothing is double."""
        config = make_config(lights, copies=3, suppression=suppression)
        monkeypatch.setattr(evaluation, "load_for_inference", lambda workdir, changes, like: (config, Light(), {}))
        scores = evaluation.evaluate(config, tmp_path)
        results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
        assert len(results) == people
        assert scores["AR"] == pytest.approx(1)
        assert (scores["AP"] > 0.999) == perfect
        assert json.loads((tmp_path / "evaluation" / "scores.json").read_text()) == scores
        raw = tmp_path / "evaluation" / "raw_poses.json"
        assert raw.exists() == (suppression == "parametric")

    def test_no_metric_depends_on_the_batch_size(self, lights):
        scores = []
        for batch_size in (8, 16):
            config = make_config(lights, copies=3, suppression="parametric", batch_size=batch_size)
            evaluator = make_evaluator(config, Light(noise=4.0))
            scores.append(evaluator.score(evaluator.predict(evaluator.method, {})))
        assert scores[0] == scores[1]
        assert 0 < scores[0]["AP"] < 1


class TestMetrics:
    def test_pck(self, lights):
        scores = []
        for noise in (0.0, 40.0):
            evaluator = make_evaluator(make_config(lights, metrics=("pck", "pck_box")), Light(noise=noise))
            scores.append(evaluator.score(evaluator.predict(evaluator.method, {})))
        assert {"PCK@0.2", "PCK@0.2/wrist", "PCKb@0.2"} <= scores[0].keys()
        assert scores[0]["PCK@0.2"] == scores[0]["PCKb@0.2"] == 1
        assert scores[1]["PCK@0.2"] < 0.8

    def test_groups(self, lights):
        """Joints are off by at most `noise` pixels along x and y."""
        scores = []
        for noise in (0.0, 40.0):
            evaluator = make_evaluator(make_config(lights, metrics=("groups",)), Light(noise=noise))
            scores.append(evaluator.score(evaluator.predict(evaluator.method, {})))
        groups = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        assert set(scores[0]) == {"PCK@0.05", *(f"PCK@0.05/{group}" for group in groups)}
        assert set(scores[0].values()) == {1.0}
        assert scores[1]["PCK@0.05"] < 0.5

    def test_groups_as_published_need_maps(self, lights):
        method = dataclasses.make_dataclass("Maps", (), bases=(Light,), namespace={"map_size": (12, 16)}, frozen=True)()
        evaluator = make_evaluator(make_config(lights, metrics=("groups",)), method)
        scores = evaluator.score(evaluator.predict(method, {}))
        assert 0 < scores["batch_PCK@0.05"] <= 1

    def test_pckh_needs_the_size_of_heads(self, lights):
        evaluator = make_evaluator(make_config(lights, metrics=("pckh", "coco")), Light())
        with pytest.raises(DataError, match="PCKh cannot be told: of 6 people none"):
            evaluator.score(evaluator.predict(evaluator.method, {}))
        people = evaluator.examples.people
        evaluator.examples.people = dataclasses.replace(people, head_size=np.full(6, 10, np.float32))
        scores = evaluator.score(evaluator.predict(evaluator.method, {}))
        assert scores["PCKh@0.5"] == scores["PCKh@0.1"] == 1
        assert scores["AP"] == pytest.approx(1)

    @pytest.mark.parametrize("metric", ["pckh", "pck", "pck_box", "groups"])
    @pytest.mark.parametrize("boxes", ["simulated", "boxes.json"])
    def test_detections_have_no_true_joints(self, lights, metric, boxes):
        """That is told before any training, not after it."""
        config = make_config(lights, metrics=("coco", metric))
        config.data.validation.boxes = boxes
        with pytest.raises(ConfigError, match=f"'{metric}', which compares .* data.validation.boxes is '{boxes}'"):
            make_evaluator(config, Light())

    def test_unknown_names_are_refused(self, lights):
        with pytest.raises(ConfigError, match="metrics is 'pckk'; it can be boxes, coco, .*pckh.* mean 'pck"):
            make_evaluator(make_config(lights, metrics=("coco", "pckk")), Light())
        with pytest.raises(ConfigError, match="suppression is 'greedy'"):
            make_evaluator(make_config(lights, suppression="greedy"), Light())

    def test_best_must_be_one_of_the_scores(self, lights):
        evaluator = make_evaluator(make_config(lights, best="PCK@0.2"), Light())
        with pytest.raises(ConfigError, match=r"evaluate.best is 'PCK@0.2', but config.evaluate.metrics gives \['AP'"):
            evaluator({}, journal=None, step=1)


class TestStreams:
    def test_data_of_a_stream_of_training(self, lights, tmp_path):
        """What is evaluated is that of config.data, or of a stream if it is asked for."""
        config = make_config(lights)
        config.data.streams = {"source": {"dir": str(tiny.write_coco(tmp_path, images=2))}}
        assert len(make_evaluator(config, Light()).examples) == 6
        config.evaluate.stream = "source"
        assert len(make_evaluator(config, Light()).examples) == 2
        config.evaluate.stream = "target"
        with pytest.raises(ConfigError, match="evaluate.stream is 'target'; the method has the streams source"):
            _ = make_evaluator(config, Light()).examples

    def test_whole_images_are_true_boxes(self, tmp_path):
        config = make_config(tiny.write_coco(tmp_path, images=2), metrics=("groups",))
        config.data.validation.boxes = "image"
        evaluator = make_evaluator(config, Light())
        assert evaluator.score(evaluator.predict(evaluator.method, {})).keys() >= {"PCK@0.05"}


class TestVideos:
    """Two people in four frames, by PoseTrack's numbers."""

    @pytest.fixture(scope="class")
    def walk(self, tmp_path_factory):
        folder = write_lights(tmp_path_factory.mktemp("walk"), images=4)

        def change(content):
            content["categories"][0]["keypoints"] = list(POSETRACK.joints)
            for i, person in enumerate(content["annotations"]):
                person.update(track_id=i % 2, bbox_head=[person["bbox"][0], person["bbox"][1], 12, 16])

        tiny.edit_labels(folder, change)
        return folder

    @staticmethod
    def make(walk, method, **changes):
        config = make_config(walk, metrics=("posetrack",), best="mAP", suppression="none", **changes)
        config.data.update({"source": "posetrack", "skeleton": "posetrack"})
        return config, make_evaluator(config, method)

    def test_poses_and_tracks(self, walk):
        _, evaluator = self.make(walk, Light("posetrack"))
        scores = evaluator.score(evaluator.predict(evaluator.method, {}))
        expected = ["mAP", "mAP/head", "mAP/wrist", "MOTA", "MOTA/ankle", "MOT_recall"]
        assert [scores[name] for name in expected] == pytest.approx([1] * len(expected))
        _, evaluator = self.make(walk, Light("posetrack", noise=12.0))
        assert 0 < evaluator.score(evaluator.predict(evaluator.method, {}))["mAP"] < 0.9

    def test_duplicates_are_suppressed_as_the_config_says(self, walk):
        scores = {}
        for suppression in ("none", "hard"):
            config, _ = self.make(walk, Light("posetrack"))
            config.data.validation.boxes = "simulated"
            config.data.simulated.update({"copies": 3, "jitter": 0.02})
            config.evaluate.suppression = suppression
            evaluator = make_evaluator(config, Light("posetrack"))
            scores[suppression] = evaluator.score(evaluator.predict(evaluator.method, {}))
        assert scores["hard"]["mAP"] == scores["hard"]["MOTA"] == pytest.approx(1)
        assert scores["none"]["MOTA"] < 0

    def test_written_results_are_scored_alike(self, walk, tmp_path, monkeypatch):
        config, _ = self.make(walk, Light("posetrack"))
        method = Light("posetrack", noise=12.0)
        monkeypatch.setattr(evaluation, "load_for_inference", lambda workdir, changes, like: (config, method, {}))
        scores = evaluation.evaluate(config, tmp_path)
        (written,) = (tmp_path / "evaluation" / "posetrack").iterdir()
        found = forms.unified(json.loads(written.read_text()), "results")
        ids = sorted(image["id"] for image in json.loads((walk / "labels.json").read_text())["images"])
        people = found["annotations"]
        rows = {
            "image_id": np.array([ids[p["image_id"] - 1] for p in people]),
            "index": np.arange(len(people)),
            "keypoints": np.array([p["keypoints"] for p in people]).reshape(-1, 17, 3)[..., :2],
            "scores": np.array([p["scores"] for p in people]),
            "track_id": np.array([p["track_id"] for p in people]),
        }
        metric = PoseTrackKeypoints(MetricContext(POSETRACK, walk / "labels.json"))
        metric.update(rows)
        again = metric.compute()
        assert again == pytest.approx({name: scores[name] for name in again})

    def test_labels_without_heads_are_refused(self, lights):
        config = make_config(lights, metrics=("posetrack",))
        evaluator = make_evaluator(config, Light())
        with pytest.raises(DataError, match="has a head box"):
            evaluator.score(evaluator.predict(evaluator.method, {}))

    def test_table(self):
        videos, images = PoseTrackKeypoints(MetricContext(POSETRACK)), CocoKeypoints(MetricContext(POSETRACK))
        found = [(videos, {"mAP": 0.5, "mAP/head": 0.75}), (images, {"AP": 0.25, "AR": 0.5})]
        lines = report.table(found, {}, "mAP").splitlines()
        assert [line.split()[:2] for line in lines] == [["Head", "Shoulder"], ["mAP", "75.0"], ["AP", "AR"],
                                                        ["25.0", "50.0"]]  # fmt: skip
        ablations = {"single frame/mAP": 0.4}
        assert report.table(found, ablations, "mAP").endswith("mAP of single frame: 40.0; margin +10.0")

    def test_pictures_of_clips_show_the_current_frame(self, tmp_path):
        config = tiny.config(tiny.write_coco(tmp_path, images=3), "dcpose")
        method = methods.create(config.method)
        evaluator = make_evaluator(config, method)
        shown: list[np.ndarray] = []
        evaluator.predict(method, method.init(jax.random.key(0)), shown)
        assert len(shown) == 2 * 3
        assert all(picture.shape == (480, 480, 3) for picture in shown)
        assert set(evaluator.ablations(method.init(jax.random.key(0)))) >= {"single frame/AP"}


class TestDetectors:
    """Methods that find boxes, alone or before poses."""

    def test_boxes_of_a_detector_feed_a_pose_stage(self, lights, tmp_path, monkeypatch):
        config = make_config(lights, metrics=("boxes",), best="box_AP")
        monkeypatch.setattr(evaluation, "load_for_inference", lambda workdir, changes, like: (config, LightBoxes(), {}))
        scores = evaluation.evaluate(config, tmp_path)
        assert scores["box_AP"] == scores["box_AR"] == pytest.approx(1)
        assert json.loads((tmp_path / "evaluation" / "scores.json").read_text()) == scores
        results = tmp_path / "evaluation" / "results.json"
        found = json.loads(results.read_text())
        assert [record["image_id"] for record in found] == [0, 0, 7, 7, 14, 14]
        assert all(set(record) == {"image_id", "category_id", "bbox", "score"} for record in found)
        config = make_config(lights)
        config.data.validation.boxes = str(results)
        evaluator = make_evaluator(config, Light())
        assert evaluator.score(evaluator.predict(evaluator.method, {}))["AP"] == pytest.approx(1)

    def test_sizes_of_people_are_those_of_the_config(self, lights):
        config = make_config(lights, metrics=("boxes",), sizes=(5000.0, 6000.0))
        evaluator = make_evaluator(config, LightBoxes(displaced=30.0))
        scores = evaluator.score(evaluator.predict(evaluator.method, {}))
        assert scores["box_AP_S"] == scores["box_AP"]
        assert 0 < scores["box_AP"] < 0.7
        assert scores["box_AP_M"] == scores["box_AP_L"] == -1

    def test_pictures_show_true_and_found_boxes(self, lights):
        evaluator = make_evaluator(make_config(lights, metrics=("boxes",)), LightBoxes(displaced=30.0))
        shown: list[np.ndarray] = []
        evaluator.predict(evaluator.method, {}, shown)
        assert len(shown) == 2 * 3
        example = evaluator.examples.load(0, None)
        scale = overlay.drawing_scale(*example["image"].shape[:2])
        x, y, _, height = example["boxes"][0]
        for picture, left in ((shown[0], x), (shown[1], x + 30)):
            edge = picture[round((y + height / 2) * scale), round(left * scale)]
            assert edge.max() > 150
            assert picture[round((y + height / 2) * scale), round((left - 5) * scale)].max() < 50

    @pytest.mark.parametrize(
        ("metric", "method", "message"),
        [
            ("coco", "boxes", r"asks for 'coco', which looks at poses, but LightBoxes finds boxes. Use 'boxes'"),
            ("pckh", "boxes", "asks for 'pckh', which looks at poses, but LightBoxes finds boxes"),
            (
                "boxes",
                "poses",
                r"asks for 'boxes', which looks at boxes, but Light finds poses. Use 'coco'",
            ),
        ],
    )
    def test_metrics_of_what_is_not_found(self, lights, metric, method, message):
        method = {"boxes": LightBoxes(), "poses": Light()}[method]
        with pytest.raises(ConfigError, match=message):
            make_evaluator(make_config(lights, metrics=(metric,)), method)

    def test_the_cascade_is_scored_by_poses_and_boxes(self, tmp_path, monkeypatch):
        config = tiny.config(tiny.write_coco(tmp_path, images=3), "sequential_prtr")
        method = methods.create(config.method)
        variables = method.init(jax.random.key(0))
        monkeypatch.setattr(
            evaluation, "load_for_inference", lambda workdir, changes, like: (config, method, variables)
        )
        scores = evaluation.evaluate(config, tmp_path)
        assert {"AP", "AR", "box_AP", "box_AR"} <= scores.keys()
        folder = tmp_path / "evaluation"
        poses, boxes = (json.loads((folder / name).read_text()) for name in ("results.json", "boxes.json"))
        assert len(poses) == len(boxes) == 3 * method.top_people
        assert {"keypoints", "score"} <= poses[0].keys()
        assert {"bbox", "score"} <= boxes[0].keys()
        evaluator = make_evaluator(config, method)
        shown: list[np.ndarray] = []
        evaluator.predict(method, variables, shown)
        assert len(shown) == 2 * 3


class TestAblations:
    def test_they_are_scored_in_their_own_way(self, lights):
        """Like the method on the same boxes, but with their own suppression."""
        config = make_config(lights, copies=3, suppression="parametric")
        evaluator = make_evaluator(config, Light(ablation=6.0))
        ablations = evaluator.ablations({})
        config.evaluate.suppression = "none"
        alone = make_evaluator(config, Light(noise=6.0))
        expected = alone.score(alone.predict(alone.method, {}))
        assert ablations == {f"worse/{name}": value for name, value in expected.items()}
        assert ablations["worse/AP"] < 0.9

    def test_without_a_suppression_they_take_the_configs(self, lights):
        class Same(Light):
            def ablations(self):
                return {"same": Ablation(self)}

        evaluator = make_evaluator(make_config(lights, copies=3, suppression="parametric"), Same())
        assert evaluator.ablations({})["same/AP"] == pytest.approx(1)

    def test_table(self):
        scores = [(CocoKeypoints(MetricContext(COCO)), {"AP": 0.5, "AR": 0.625, "AP_M": -1.0})]
        lines = report.table(scores, {"plain/AP": 0.25, "plain/AR": 0.7, "other/AP": 0.75}, "AP").splitlines()
        assert [line.split() for line in lines[:2]] == [["AP", "AR", "AP_M"], ["50.0", "62.5", "-"]]
        assert lines[2:] == ["AP of plain: 25.0; margin +25.0", "AP of other: 75.0; margin -25.0"]
        assert report.table(scores, {}, "AP").splitlines() == lines[:2]

    def test_of_rmpe_show_what_the_transformer_gains(self, tmp_path, caplog):
        config = tiny.config(tiny.write_coco(tmp_path, images=4), "rmpe")
        method = methods.create(config.method)
        evaluator = make_evaluator(config, method)
        assert len(evaluator.examples) == 4 * config.data.simulated.copies
        journal = Journal(tmp_path / "run", config, step=0, total=1)
        with caplog.at_level("INFO", "jaxpose"):
            scores = evaluator(method.init(jax.random.key(0)), journal, step=1)
        journal.close()
        assert {name.removeprefix("plain/") for name in scores if name.startswith("plain/")} == {
            name for name in scores if "/" not in name
        }
        margin = 100 * (scores["AP"] - scores["plain/AP"])
        assert f"AP of plain: {100 * scores['plain/AP']:.1f}; margin {margin:+.1f}" in caplog.text
        line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
        assert line["plain/AP"] == scores["plain/AP"]
        assert (tmp_path / "run" / "pictures" / "validation_0000001.jpg").is_file()


def test_fitting_pose_nms_to_an_evaluation(lights, tmp_path, monkeypatch):
    """Evaluation writes what the fit reads; with what the fit finds, evaluation reaches the score that it promised."""
    config = make_config(lights, copies=4, suppression="parametric")
    monkeypatch.setattr(evaluation, "load_for_inference", lambda workdir, changes, like: (config, Light(noise=8.0), {}))
    before = evaluation.evaluate(config, tmp_path)
    folder, output = tmp_path / "evaluation", tmp_path / "pose_nms.json"
    raw = json.loads((folder / "raw_poses.json").read_text())
    detections = build.evaluation_examples(config, Light()).people
    np.testing.assert_allclose([r["person_box"] for r in raw], detections.box, rtol=1e-6)
    np.testing.assert_allclose([r["box_score"] for r in raw], detections.score, rtol=1e-6)
    arguments = ["--annotations", folder / "truth.json", "--poses", folder / "raw_poses.json", "--output", output]
    assert fit_pose_nms.main([*map(str, arguments), "--spread=4"]) == 0
    found = json.loads(output.read_text())
    assert found["AP_before"] == pytest.approx(before["AP"], abs=1e-9)
    assert found["AP"] > found["AP_before"]
    config.evaluate.pose_nms.file = str(output)
    assert evaluation.evaluate(config, tmp_path)["AP"] == pytest.approx(found["AP"], abs=1e-9)
