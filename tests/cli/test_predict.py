"""The command that predicts: its files and failures."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from bright_boxes import BrightBoxes
from bright_spot import VARIABLES, BrightSpot, BrightSpots, around, picture

from jaxpose.cli import inputs, predict
from jaxpose.errors import CheckpointError
from jaxpose.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor():
    return Predictor(BrightSpot(), VARIABLES, batch_size=4)


@pytest.fixture
def command(predictor, monkeypatch, tmp_path):
    """Runs the command on the spot finder, or another run; returns (exit status, content of poses.json or None)."""
    methods = {"detector": BrightBoxes, "finder": BrightSpots}

    def load(workdir, step, batch_size, changes, detector, box_threshold, like=""):
        if str(workdir) == "run":
            found = predictor
        else:
            found = Predictor(methods[str(workdir)](), {}, batch_size=batch_size, box_threshold=box_threshold)
        return found.with_detector(load(detector, None, 4, {}, None, box_threshold)) if detector else found

    monkeypatch.setattr(inputs, "load", load)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, workdir="run"):
        status = predict.main([workdir, *map(str, arguments), "--output", "out"])
        poses = tmp_path / "out" / "poses.json"
        return status, json.loads(poses.read_text()) if poses.exists() else None

    return run


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def test_folder_of_images(command, tmp_path):
    save(tmp_path / "in" / "b_12.png", picture((30, 40)))
    save(tmp_path / "in" / "deep" / "a_7.JPG", picture((90, 60)))
    save(tmp_path / "in" / "c.bmp", picture((50, 50)))
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    status, poses = command("in")
    assert status == 0
    assert [(p["file_name"], p["image_id"]) for p in poses] == [
        ("in/b_12.png", 12),
        ("in/c.bmp", None),
        ("in/deep/a_7.JPG", 7),
    ]
    np.testing.assert_allclose(np.reshape(poses[0]["keypoints"], (14, 3))[0], [30, 40, 0.9], atol=3)
    assert poses[0]["category_id"] == 1
    assert poses[0]["person_box"] == [0, 0, 160, 120]
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert written == ["b_12.png", "c.bmp.png", "deep/a_7.JPG", "poses.json"]
    overlay = cv2.imread(str(tmp_path / "out" / "b_12.png"))
    assert overlay.shape == (480, 640, 3)


def test_command_is_deterministic_and_skips_its_own_output(command, tmp_path):
    """A second run over the folder that holds the output gives the same, byte by byte."""
    for i in range(3):
        save(tmp_path / f"{i}.png", picture((30 + i, 40)))
    assert command(".")[0] == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert command(".")[0] == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == first
    assert len(first) == 4


def test_broken_and_missing_files_are_named_and_counted(command, tmp_path, caplog):
    save(tmp_path / "in" / "good.png", picture((30, 40)))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    status, poses = command("in", "missing.jpg", "nothing")
    assert status == 1
    assert [p["file_name"] for p in poses] == ["in/good.png"]
    for text in (
        "in/broken.jpg: ",
        "in/empty.png: the file is empty",
        "missing.jpg: there is no such",
        "4 of 5 inputs",
    ):
        assert text in caplog.text
    assert "nothing: the folder holds no image" in caplog.text


def test_nothing_usable(command, tmp_path):
    assert command("missing.jpg") == (1, None)
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_replaced(command, tmp_path, error):
    save(tmp_path / "out" / "1.png", picture((30, 40)))
    before = (tmp_path / "out" / "1.png").read_bytes()
    assert command(tmp_path / "out" / "1.png") == (1, None)
    assert "would replace the input" in error()
    assert (tmp_path / "out" / "1.png").read_bytes() == before
    save(tmp_path / "2.png", picture((30, 40)))
    (tmp_path / "out" / "poses.json").write_text("[]")
    assert command("2.png", "--boxes", "out/poses.json") == (1, [])


def test_same_names_get_numbers(command, tmp_path):
    for folder in "abc":
        save(tmp_path / folder / "x.png", picture((30, 40)))
    status, poses = command("a/x.png", "b/x.png", "c/x.png", "a/x.png", "a")
    assert status == 0
    assert [p["file_name"] for p in poses] == ["a/x.png", "b/x.png", "c/x.png"]
    assert [p.get("overlay") for p in poses] == [None, "x-2.png", "x-3.png"]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["x-2.png", "x-3.png", "x.png"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("target", ["out/1.png", "out/poses.json", "out/boxes.json"])
def test_other_names_of_inputs_are_never_replaced(command, tmp_path, error, link, target):
    save(tmp_path / "1.png", picture((30, 40)))
    before = (tmp_path / "1.png").read_bytes()
    (tmp_path / "out").mkdir()
    link((tmp_path / "1.png").absolute(), tmp_path / target)
    assert predict.main(["run", "1.png", "--output", "out"]) == 1
    assert f"would replace the input {target}" in error()
    assert (tmp_path / target).samefile(tmp_path / "1.png")
    assert (tmp_path / "1.png").read_bytes() == before


def test_names_that_differ_by_case_get_numbers(command, tmp_path):
    save(tmp_path / "a" / "X.png", picture((30, 40)))
    save(tmp_path / "b" / "x.png", picture((30, 40)))
    assert command("a/X.png", "b/x.png")[0] == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["X.png", "x-2.png"]


def test_a_stopped_command_goes_on(command, predictor, tmp_path, monkeypatch, error, caplog):
    """Whole lines are kept, a cut one is dropped, and poses.json is that of a command that was not stopped."""
    for i in range(12):
        save(tmp_path / "in" / f"{i}.png", picture((30 + 5 * i, 40)))
    assert command("in")[0] == 0
    expected = (tmp_path / "out" / "poses.json").read_bytes()
    (tmp_path / "out" / "poses.json").unlink()
    write, count = predict.write_image, 0

    def stop(*arguments):
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(predict, "write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        command("in")
    partial = tmp_path / "out" / "poses.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 6
    partial.write_bytes(partial.read_bytes()[:-9])
    written = []
    monkeypatch.setattr(predict, "write_image", lambda path, image: written.append(path.name) or write(path, image))
    assert command("in", "--resume", "--box-threshold", "0.5") == (1, None)
    assert "poses.partial.jsonl: cannot go on, as it was made with other values of --box-threshold" in error()
    assert command("in", "--resume")[0] == 0
    assert (tmp_path / "out" / "poses.json").read_bytes() == expected
    assert len(written) == 8
    assert not partial.exists()


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from bright_spot import VARIABLES, BrightSpot
from jaxpose.cli import inputs, predict
from jaxpose.inference.predictor import Predictor
inputs.load = lambda *_, **__: Predictor(BrightSpot(), VARIABLES, batch_size=4)
write, left = predict.write_image, [5]
def write_image(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)
predict.write_image = write_image
predict.main(["run", "in", "--output", "out"])
"""


def test_a_killed_command_goes_on(command, tmp_path):
    for i in range(9):
        save(tmp_path / "in" / f"{i}.png", picture((30 + 5 * i, 40)))
    tests = str(pathlib.Path(__file__).parents[1])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    killed = subprocess.run([sys.executable, "-c", KILLED.format(tests=tests)], cwd=tmp_path, env=environment)
    assert killed.returncode == -9
    partial = tmp_path / "out" / "poses.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 6
    assert command("in", "--resume")[0] == 0
    resumed = (tmp_path / "out" / "poses.json").read_bytes()
    assert command("in")[0] == 0
    assert (tmp_path / "out" / "poses.json").read_bytes() == resumed


@pytest.mark.parametrize("content", [None, b"", b"7", b"{}", b"[7]", b'{"images": 5}', b"\xff\x00", b"[" * 10**6])
@pytest.mark.parametrize("flag", ["--boxes", "--annotations"])
def test_files_of_another_kind_are_told_in_one_line(command, tmp_path, error, flag, content):
    save(tmp_path / "1.png", picture((30, 40)))
    if content is None:
        (tmp_path / "odd.json").mkdir()
    else:
        (tmp_path / "odd.json").write_bytes(content)
    assert command("1.png", flag, "odd.json") == (1, None)
    assert error().startswith("jaxpose: error: odd.json: ")
    assert error().count("\n") == 0


@pytest.mark.parametrize("flag", ["--box-threshold=nan", "--threshold=inf", "--birth=x", "--rate=0"])
def test_numbers_that_make_no_sense_are_refused(command, flag):
    with pytest.raises(SystemExit):
        command("1.png", flag)


def test_pictures_that_cannot_be_written_or_used_are_left_out(command, tmp_path, monkeypatch, caplog):
    for i in range(3):
        save(tmp_path / f"{i}.png", picture((30, 40)))
    (tmp_path / "out" / "1.png").mkdir(parents=True)
    status, poses = command("0.png", "1.png", "2.png")
    assert status == 1
    assert [p["file_name"] for p in poses] == ["0.png", "2.png"]
    assert "1.png: " in caplog.text
    assert "1 of 3 inputs could not be used" in caplog.text


def detections(*records):
    return json.dumps([{"image_id": i, "category_id": 1, "bbox": b.tolist(), "score": s} for i, b, s in records])


def test_boxes_by_the_digits_of_the_name(command, tmp_path):
    save(tmp_path / "in" / "COCO_val2014_000000000042.png", picture((30, 40), (100, 60)))
    save(tmp_path / "in" / "000000000043.png", picture((30, 40)))
    save(tmp_path / "in" / "nameless.png", picture((30, 40)))
    first, second = around((30, 40), (100, 60))
    (tmp_path / "boxes.json").write_text(detections((42, first, 0.6), (42, second, 0.8), (43, first, 0.2)))
    status, poses = command("in", "--boxes", "boxes.json")
    assert status == 1  # one file has no id
    assert [(p["image_id"], p["score"]) for p in poses] == [(42, 0.8), (42, 0.6)]
    np.testing.assert_allclose(poses[0]["person_box"], second)
    _, poses = command("in", "--boxes", "boxes.json", "--box_threshold", "0.1")
    assert [p["image_id"] for p in poses] == [43, 42, 42]


def test_boxes_by_annotations(command, tmp_path):
    """File names with folders: the folders have to agree."""
    for folder in "ab":
        save(tmp_path / "in" / folder / "1.png", picture((30, 40)))
    names = {"a/1.png": 500, "b/1.png": 600}
    images = [{"file_name": name, "id": image_id} for name, image_id in names.items()]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images}))
    (tmp_path / "boxes.json").write_text(detections((500, around((30, 40))[0], 0.6), (600, around((30, 40))[0], 0.7)))
    status, poses = command("in", "--boxes", "boxes.json", "--annotations", "truth.json")
    assert status == 0
    assert [(p["file_name"], p["image_id"], p["score"]) for p in poses] == [
        ("in/a/1.png", 500, 0.6),
        ("in/b/1.png", 600, 0.7),
    ]


def test_people_are_found_by_a_detector(command, tmp_path, caplog):
    """Without ids, as none are needed; what was looked at is drawn."""
    save(tmp_path / "in" / "x.png", picture((30, 40), (100, 60)))
    save(tmp_path / "in" / "y.png", picture())
    status, poses = command("in", "--detector", "detector")
    assert status == 0
    assert [p["file_name"] for p in poses] == ["in/x.png", "in/x.png"]
    assert sorted(p["person_box"] for p in poses) == around((29, 39), (99, 59)).tolist()
    assert "takes each image for one" not in caplog.text
    drawn = cv2.imread(str(tmp_path / "out" / "x.png")).astype(int)
    x, y, w, h = around((29, 39))[0].astype(int) * 4
    assert drawn[y + h // 4, x].sum() > 3 * 120
    assert command("in", "--detector", "detector", "--box_threshold", "1.1") == (0, [])


def test_detector_by_itself_writes_boxes_that_predict_reads(command, tmp_path):
    """The two routes to poses, through a file and without, agree."""
    save(tmp_path / "1.png", picture((30, 40), (100, 60)))
    save(tmp_path / "2.png", picture((50, 20), size=(64, 64)))
    assert command("1.png", "2.png", workdir="detector") == (0, None)
    boxes = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert [(b["file_name"], b["image_id"], b["category_id"]) for b in boxes] == [
        ("1.png", 1, 1),
        ("1.png", 1, 1),
        ("2.png", 2, 1),
    ]
    assert boxes[2]["bbox"] == around((49, 19))[0].tolist()
    assert boxes[2]["score"] == 1
    drawn = cv2.imread(str(tmp_path / "out" / "2.png"))
    assert drawn.shape == (480, 480, 3)
    assert (drawn != 0).any(-1).sum() > 2 * (24 + 30) * 7
    _, by_file = command("1.png", "2.png", "--boxes", "out/boxes.json")
    _, directly = command("1.png", "2.png", "--detector", "detector")
    assert by_file == directly
    assert len(directly) == 3


def test_whole_images_are_said_to_be_taken_for_people(command, tmp_path, caplog):
    for name in "12":
        save(tmp_path / f"{name}.png", picture((30, 40)))
    assert command("1.png", "2.png")[0] == 0
    assert caplog.text.count("takes each image for one; --detector RUN") == 1


def test_routes_that_make_no_sense(command, tmp_path, error):
    save(tmp_path / "1.png", picture((30, 40)))
    (tmp_path / "boxes.json").write_text(detections((1, around((30, 40))[0], 0.6)))
    with pytest.raises(SystemExit):
        command("1.png", "--boxes", "boxes.json", "--detector", "detector")
    for workdir in ("finder", "detector"):
        assert command("1.png", "--boxes", "boxes.json", workdir=workdir) == (1, None)
        assert f"--boxes boxes.json: {workdir} looks at whole images" in error()
        assert command("1.png", "--detector", "detector", workdir=workdir) == (1, None)
        assert "looks at whole images and finds people by itself" in error()
    assert command("1.png", "--detector", "run") == (1, None)
    assert "the detector's method is BrightSpot" in error()


def test_shared_ids_are_no_ids(tmp_path):
    a, b, c = (tmp_path / name for name in ("a/1.png", "b/01.png", f"{'9' * 30}.png"))
    assert inputs.image_ids([a, b, c], None) == {a: None, b: None, c: None}


def test_unusable_files_of_boxes(command, tmp_path, error):
    save(tmp_path / "1.png", picture((30, 40)))
    (tmp_path / "boxes.json").write_text("[{")
    assert command("1.png", "--boxes", "boxes.json") == (1, None)
    assert "boxes.json: not valid JSON" in error()
    (tmp_path / "truth.json").write_text("{}")
    assert command("1.png", "--annotations", "truth.json") == (1, None)
    assert "truth.json: field 'images'" in error()
    (tmp_path / "truth.json").write_text(json.dumps({"images": [{"id": 1}]}))
    assert command("1.png", "--annotations", "truth.json") == (1, None)
    assert "truth.json: image 0 (counted from 0): field 'file_name' is missing" in error()


def test_no_run(tmp_path, error, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "1.png", picture((30, 40)))
    assert predict.main(["nowhere", "1.png", "--output", "out"]) == 1
    assert "nowhere: has no config.json" in error()
    with pytest.raises(CheckpointError):
        inputs.load(tmp_path)


def test_poses_file_is_read_by_coco_tools(command, tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    save(tmp_path / "12.png", picture((30, 40)))
    _, poses = command("12.png")
    truth = {"images": [{"id": 12, "width": 160, "height": 120}], "categories": [{"id": 1, "name": "person"}]}
    loaded = hotcoco.COCO(truth | {"annotations": []}).loadRes(poses)
    assert len(loaded.anns) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--config.method.scales=[0.5, 1.0]", "--config.evaluate.pose_nms.file=nms.json", "--config.method.flip=false"],
        [
            "--config.method.scales",
            "[0.5, 1.0]",
            "--config.evaluate.pose_nms.file",
            "nms.json",
            "--noconfig.method.flip",
        ],
        ["--set", "method.scales=[0.5, 1.0]", "--set=evaluate.pose_nms.file=nms.json", "--set", "method.flip=false"],
    ],
)
def test_fields_of_the_run_can_be_changed(predictor, monkeypatch, tmp_path, flags):
    asked = {}

    def load(workdir, step, batch_size, changes, **detector):
        asked.update(changes)
        return predictor

    monkeypatch.setattr(inputs, "load", load)
    cv2.imwrite(str(tmp_path / "1.png"), picture((70, 30)))
    arguments = ["run", str(tmp_path / "1.png"), "--output", str(tmp_path / "out")]
    assert predict.main([*arguments, *flags]) == 0
    assert asked == {"method.scales": [0.5, 1.0], "evaluate.pose_nms.file": "nms.json", "method.flip": False}
    with pytest.raises(SystemExit):
        predict.main([*arguments, "--set", "method.scales"])
