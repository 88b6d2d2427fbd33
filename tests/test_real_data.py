"""Real pictures, end to end: train, evaluate with true and with detected boxes, predict."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiny

from configs import anatomy3d, prtr
from jaxpose.cli import lift, predict
from jaxpose.evaluation.evaluator import evaluate
from jaxpose.training.loop import train

ROOT = pathlib.Path(__file__).parents[1]
LABELS = "annotations/person_keypoints_train2017.json"


def coco_config(folder, steps: int):
    """The laptop model on a COCO folder whose training images are also the validation images."""
    config = prtr.get_config("coco_laptop")
    config.data.dir = str(folder)
    config.data.augmentation.update({"scale": 0.0, "rotation": 0.0, "mirror": 0.0})
    config.method.flip_test = False
    for split in ("train", "validation"):
        config.data[split].update({"annotations": LABELS, "images": "train2017"})
    config.train.update({"steps": steps, "log_every": 100})
    config.evaluate.update({"every": 0, "batch_size": 32})
    return config


def sample_config(config, folder):
    """`config`, to be evaluated on sample pictures with a detector's boxes."""
    config.data.dir = str(folder)
    config.data.validation.update(
        {
            "annotations": "test_coco.json",
            "images": ".",
            "boxes": str(folder / "test_coco_det_AP_H_56.json"),
        }
    )
    return config


def test_trains_evaluates_and_predicts(real_data, tmp_path):
    config = coco_config(real_data / "coco_mini", steps=4)
    train(config, tmp_path / "run")
    assert 0 <= evaluate(config, tmp_path / "run")["AP"] <= 1
    samples = real_data / "samples" / "coco"
    scores = evaluate(sample_config(config, samples), tmp_path / "run")
    assert 0 <= scores["AP"] <= 1
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert {r["image_id"] for r in results} == {785, 40083, 196141, 197388}
    boxes = ["--boxes", str(samples / "test_coco_det_AP_H_56.json")]
    assert predict.main([str(tmp_path / "run"), str(samples), "--output", str(tmp_path / "out"), *boxes]) == 0
    poses = json.loads((tmp_path / "out" / "poses.json").read_text())
    assert {p["image_id"] for p in poses} == {785, 40083, 196141, 197388}
    assert len(list((tmp_path / "out").glob("*.png")) + list((tmp_path / "out").glob("*.jpg"))) == 4


CROWD = {"annotations": "test_crowdpose.json", "images": "."}
WHOLE = {
    "coco": ("coco_mini", {"annotations": LABELS, "images": "train2017"}, "AP_L"),
    "crowdpose": ("samples/crowdpose", CROWD, "AP_medium"),
}
"""Folder, splits, and a score that only this data set has, by skeleton."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "skeleton"), [("higherhrnet", "coco"), ("dekr", "crowdpose")])
def test_bottom_up_trains_evaluates_and_predicts(real_data, tmp_path, name, skeleton):
    folder, split, score = WHOLE[skeleton]
    config = tiny.config(real_data / folder, name)
    config.method.skeleton = config.data.skeleton = skeleton
    for part in ("train", "validation"):
        config.data[part].update(split)
    config.train.steps = 2
    config.evaluate.metrics = (skeleton,)
    train(config, tmp_path / "run")
    assert -1 <= evaluate(config, tmp_path / "run")[score] <= 1
    images = real_data / "samples" / "crowdpose"
    assert predict.main([str(tmp_path / "run"), str(images), "--output", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2


@pytest.mark.slow
def test_learns_the_pictures_by_heart(real_data, tmp_path):
    flags = [
        f"--config.data.dir={real_data / 'coco_mini'}",
        "--config.train.steps=2500",
        "--config.evaluate.every=2500",
    ]
    flags += [f"--config.data.validation.annotations={LABELS}", "--config.data.validation.images=train2017"]
    flags += [f"--config.data.augmentation.{name}=0.0" for name in ("scale", "rotation", "mirror")]
    command = [sys.executable, "-m", "jaxpose.main", "--config=configs/prtr.py:coco_laptop", "--platform=cpu"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    flags += ["--config.method.flip_test=False", f"--workdir={tmp_path}"]
    subprocess.run([*command, *flags], cwd=ROOT, env=environment, check=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert next(line for line in lines if line["split"] == "validation")["AP"] >= 0.6


def test_video_method_trains_evaluates_and_predicts(real_data, tmp_path):
    """PoseTrack 2018: three frames with labels, each of a video of its own, so clips have one frame; then a video."""
    samples = real_data / "samples" / "posetrack18"
    config = tiny.config(samples, "dcpose")
    config.method.skeleton = config.data.skeleton = "posetrack"
    config.data.source = "posetrack"
    for split in ("train", "validation"):
        config.data[split].update({"annotations": "annotations/val", "images": "."})
    config.train.steps = 2
    config.evaluate.update({"metrics": ("posetrack", "coco"), "best": "mAP"})
    train(config, tmp_path / "run")
    boxes = samples / "annotations" / "test_posetrack18_human_detections.json"
    config.data.validation.update({"boxes": str(boxes), "box_threshold": 0.2})
    scores = evaluate(config, tmp_path / "run")
    assert {"mAP", "mAP/head", "AP"} <= scores.keys()
    assert not {"MOTA", "MOTP"} & scores.keys()  # which leave the last frame of every video out
    written = sorted(path.stem for path in (tmp_path / "run" / "evaluation" / "posetrack").iterdir())
    assert written == ["003418_mpii_test", "009473_mpii_test", "012834_mpii_test"]
    (video,) = (samples / "videos").rglob("*.mp4")
    assert predict.main([str(tmp_path / "run"), str(video), "--output", str(tmp_path / "out"), "--birth", "0"]) == 0
    people = json.loads((tmp_path / "out" / f"{video.stem}.json").read_text())
    assert {p["track_id"] for p in people} == {1}
    assert [p["frame"] for p in people] == list(range(len(people)))
    assert len(people) >= 5
    assert (tmp_path / "out" / f"{video.stem}.mp4").stat().st_size > 10_000


def test_lifts_motion_capture(real_data, tmp_path):
    """Clips of CMU's subject 02: after some steps the poses of a clip that was held out are nearer than before."""
    config = anatomy3d.get_config("cmu")
    config.data.dir = str(real_data / "cmu_mocap")
    config.data.train.clips, config.data.validation.clips = ("02_01", "02_02"), ("02_03",)
    config.method.update({"widths": (3, 3), "channels": 32})
    config.optim.schedule.warmup = 0
    config.train.update({"steps": 60, "batch_size": 32, "log_every": 30, "checkpoint_every": 60})
    config.evaluate.update({"every": 30, "batch_size": 8})
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    early, late = (line for line in lines if line["split"] == "validation")
    assert late["P-MPJPE"] < late["MPJPE"] < early["MPJPE"]
    assert late["MPJPE"] == late["MPJPE/02_03"]
    arguments = ["--validation", "0", "--format", "none", "--output", str(tmp_path / "out")]
    assert lift.main([str(tmp_path / "run"), *arguments]) == 0
    lifted = json.loads((tmp_path / "out" / "validation_3d.json").read_text())
    assert [entry["frame"] for entry in lifted] == list(range(len(lifted)))
    assert (tmp_path / "out" / "validation_0.png").is_file()
