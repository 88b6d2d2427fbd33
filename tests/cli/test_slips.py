"""What people mistype: each slip is answered by one line, without a traceback."""

import pathlib

import cv2
import numpy as np
import pytest

from jaxpose import cli

SMALL = ("--config.data.marionettes.train=8", "--config.data.marionettes.validation=8", "--config.train.steps=1")
TRAIN = ("train", "--config=prtr", "--workdir=run", *SMALL)
COCO = ("train", "--config=prtr:coco_laptop", "--workdir=run")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder to work in with a picture, a file that is no JSON, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cv2.imwrite("1.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "empty").mkdir()
    return tmp_path


def status_of(arguments: tuple[str, ...]) -> int | str | None:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return end.code


USAGE = {
    ("trian",): "there is no subcommand 'trian'. Did you mean 'train'?",
    ("train",): "the following arguments are required: --config",
    (*TRAIN, "--platform=xpu"): "argument --platform: invalid choice: 'xpu'",
    (*TRAIN, "--batch-size=3"): "unrecognized arguments: --batch-size=3",
    (*TRAIN, "run"): "unrecognized arguments: run",
    (*TRAIN, "--cpu-devices=two"): "argument --cpu-devices: 'two' is not a whole number from 0",
    (*TRAIN, "--coordinator=localhost:1"): "--coordinator=localhost:1 needs --num-processes and --process-id",
    (*TRAIN, "--num-processes=2"): "--num-processes and --process-id need --coordinator=HOST:PORT",
    ("train", "--config=prt"): "config 'prt': there is no such config file. Did you mean 'prtr'?",
    ("train", "--config=prtr:cocoa"): "configs/prtr.py has no variant 'cocoa'",
    (*TRAIN, "--config.optim.learning_rat=1"): "Did you mean --config.optim.learning_rate?",
    (*TRAIN, "--config.train.steps=many"): "--config.train.steps: found 'many', expected a whole number",
    (*TRAIN, "--stage=first"): "--stage is 'first', but the config has no stages",
    (*TRAIN, "--config.method.name=prttr"): "config.method.name is 'prttr'",
    (
        *TRAIN,
        "--config.method.name=nolab.poses.Mine",
    ): "config.method.name is 'nolab.poses.Mine', but Python finds no module 'nolab.poses'",
    (*TRAIN, "--config.method.backbone=resnet51"): "resnet51",
    (*TRAIN, "--config.dtype=float33"): "config.method.dtype is 'float33'",
    (
        *TRAIN,
        "--config.method.skeleton=cocoo",
    ): "config.method.skeleton is 'cocoo', but PRTR needs one of",
    (*TRAIN, "--config.data.skeleton=cocoo"): "unknown skeleton 'cocoo'; known: ap10k, coco, crowdpose",
    (*TRAIN, "--config.data.skeleton=mpii"): "config.data.skeleton asks for the joints of 'mpii'",
    (*TRAIN, "--config.data.source=cocoo"): "config.data.source is 'cocoo'",
    (*TRAIN, "--config.data.marionettes.look=studioo"): "look: found 'studioo', expected one of studio, street",
    (*TRAIN, "--config.data.marionettes.scene=singel"): "scene: found 'singel', expected one of single, crowd",
    (*COCO, "--config.data.dir=nowhere"): "config.data.dir: 'nowhere' does not exist",
    (*TRAIN, "--config.optim.optimizer=adamm"): "adamm",
    (*TRAIN, "--config.optim.schedule.name=cosin"): "cosin",
    ("compile", "--config=prtr", "--topology=v5e"): "--topology is 'v5e'; expected one like v5e:4x4",
    ("predict", "run"): "the following arguments are required: inputs, --output",
    ("predict", "run", "1.png", "--output=out", "--boxes=b", "--detector=d"): "not allowed with argument",
    ("lift", "run", "--output=out"): "give either a JSON file of poses or --validation",
    ("lift", "run", "a.json", "--output=out", "--joints=cocoo"): "argument --joints: invalid choice: 'cocoo'",
    ("convert", "a.pth", "--output=a.npz"): "needs either --config=NAME or --rescorer",
    ("convert", "a.pth", "--output=a.npz", "--config=prtr", "--skeleton=coco"): "--skeleton goes with --rescorer",
    ("marionettes", "--look=studioo", "--output=a.png"): "argument --look: invalid choice: 'studioo'",
    ("marionettes", "--size", "1", "1", "--output=a.png"): "width: found 1, expected 32 to 4096",
    ("write-records", "--config=prtr", "--output=out"): "config.data.train.annotations",
}
"""{command line that cannot work: part of the answer}."""

FAILURES = {
    ("evaluate", "--config=prtr", "--workdir=nowhere"): "nowhere: has no config.json",
    (*TRAIN, "--config.init_from=nowhere.npz"): "nowhere.npz: there is no such run or file",
    ("predict", "nowhere", "1.png", "--output=out"): "nowhere: has no config.json",
    ("predict", "nowhere", "1.png", "--output=1.png"): "--output 1.png is a file; give a folder",
    ("predict", "nowhere", "1.png", "--output=out", "--boxes=broken.json"): "broken.json: not valid JSON",
    ("predict", "nowhere", "1.png", "--output=out", "--annotations=no.json"): "no.json: cannot be read",
    ("layers", "nowhere", "1.png", "--output=out"): "nowhere: has no config.json",
    ("lift", "nowhere", "broken.json", "--output=out"): "nowhere: has no config.json",
    ("convert", "no.pth", "--output=a.npz", "--config=prtr"): "no.pth",
    ("convert", "no.pth", "--output=a.npz", "--rescorer"): "no.pth",
    ("marionettes", "--count=1", "--output=sheet.xyz"): "sheet.xyz: there is no image format '.xyz'",
    ("fit-pose-nms", "--annotations=no.json", "--poses=broken.json", "--output=a.json"): "no.json: cannot be read",
    ("fit-rescoring", "--annotations=broken.json", "--poses=broken.json", "--output=a.npz"): "not valid JSON",
    ("fit-proposals", "--annotations=no.json", "--boxes=broken.json", "--output=a.json"): "no.json: cannot be read",
}
"""{command line that fails at run time: part of the answer}."""

SLIPS = [(line, 2, answer) for line, answer in USAGE.items()] + [(line, 1, answer) for line, answer in FAILURES.items()]


@pytest.mark.parametrize(
    ("line", "status", "answer"),
    SLIPS,
    ids=[" ".join(each for each in line if each not in SMALL) for line, _, _ in SLIPS],
)
def test_a_slip_is_answered_by_one_line(line, status, answer, capsys):
    assert status_of(line) == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jaxpose: error: ")
    assert answer in last


def test_track_looks_at_videos_only(caplog):
    assert status_of(("track", "nowhere", "1.png", "no.mov", "--output=out")) == 1
    assert "1.png: is no video; jaxpose predict looks at images" in caplog.text
    assert "no.mov: there is no such file" in caplog.text
