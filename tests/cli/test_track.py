"""The command that follows people in videos."""

import json

import cv2
import numpy as np
import pytest
from bright_spot import VARIABLES, BrightSpot, around, picture

from jaxpose.cli import inputs, track
from jaxpose.errors import DataError, StorageError
from jaxpose.inference import video
from jaxpose.inference.predictor import Predictor


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command on the spot finder; returns (exit status, {name: content} of the files of poses)."""
    predictor = Predictor(BrightSpot(), VARIABLES, batch_size=8)
    monkeypatch.setattr(inputs, "load", lambda *_, **__: predictor)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = track.main(["run", *arguments, "--output", "out"])
        return status, {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}

    return run


def test_each_folder_is_a_video(command, tmp_path):
    for folder, numbers in {"a": (7, 8), "b": (1,)}.items():
        (tmp_path / folder).mkdir()
        for number in numbers:
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), picture((40, 40)))
    status, found = command("a", "b", "--rate", "2")
    assert status == 0
    assert sorted(found) == ["a.json", "b.json"]
    assert [(p["frame"], p["time"], p["track_id"]) for p in found["a.json"]] == [(7, 3.5, 1), (8, 4.0, 1)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["a.mp4", "b.mp4"]


def test_images_are_no_videos(command, tmp_path, caplog):
    (tmp_path / "a").mkdir()
    for name in ("1.png", "a/1.png"):
        cv2.imwrite(str(tmp_path / name), picture((40, 40)))
    status, found = command("a", "1.png", "no.png")
    assert (status, list(found)) == (1, ["a.json"])
    assert "1.png: is no video; jaxpose predict looks at images" in caplog.text
    assert "no.png: there is no such file" in caplog.text
    assert "2 of 3 inputs could not be used" in caplog.text
    assert not (tmp_path / "out" / "1.png").exists()


def test_boxes_do_not_depend_on_the_stated_length(command, tmp_path, monkeypatch, caplog):
    """Frames beyond the number that a header states have their boxes; boxes of no frame are counted."""
    film = cv2.VideoWriter("a.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(6):
        film.write(picture((40, 40)))
    film.release()
    monkeypatch.setattr(video.VideoFile, "length", property(lambda _: 2))
    box = around((40, 40))[0].tolist()
    boxes = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.9} for i in (0, 1, 3, 5, 9, 9, 11)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    status, found = command("a.avi", "--boxes", "boxes.json")
    assert status == 0
    assert [(p["frame"], p["person_box"]) for p in found["a.json"]] == [(i, box) for i in (0, 1, 3, 5)]
    assert "3 boxes are of frames that a.avi does not have: 9, 11" in caplog.text


class TestResume:
    @pytest.fixture
    def stopped(self, command, tmp_path, monkeypatch):
        """The names of the videos that are gone through, after a command on a and b was stopped in b."""
        for folder in "ab":
            (tmp_path / folder).mkdir()
            cv2.imwrite(str(tmp_path / folder / "1.png"), picture((40, 40)))
        follow, followed = track._follow, []

        def stop(each, *arguments):
            if each.name == "b":
                raise KeyboardInterrupt
            follow(each, *arguments)

        monkeypatch.setattr(track, "_follow", stop)
        with pytest.raises(KeyboardInterrupt):
            command("a", "b")
        assert (tmp_path / "out" / "poses.partial.jsonl").exists()
        monkeypatch.setattr(track, "_follow", lambda each, *rest: followed.append(each.name) or follow(each, *rest))
        return followed

    def test_what_is_done_is_skipped(self, command, stopped, tmp_path, caplog):
        status, found = command("a", "b", "--resume")
        assert (status, sorted(found), stopped) == (0, ["a.json", "b.json"], ["b"])
        assert "a: is done already, see out/a.json" in caplog.text
        assert not (tmp_path / "out" / "poses.partial.jsonl").exists()
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert command("a", "b") == (0, found)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    def test_files_of_an_earlier_command_are_not_taken_for_done(self, command, stopped):
        assert command("a", "b")[0] == 0
        assert stopped == ["a", "b"]
        assert command("a", "b", "--resume")[0] == 0
        assert stopped == ["a", "b", "a", "b"]

    @pytest.mark.parametrize("change", ["--smooth", "--rate=7", "--birth=0.1", "source", "film"])
    def test_what_changed_is_done_anew(self, command, stopped, tmp_path, change):
        if change == "source":
            cv2.imwrite(str(tmp_path / "a" / "2.png"), picture((50, 40)))
        if change == "film":
            (tmp_path / "out" / "a.mp4").unlink()
        flags = [change] if change.startswith("--") else []
        assert command("a", "b", "--resume", *flags)[0] == 0
        assert stopped == ["a", "b"]

    def test_other_parameters_are_refused(self, command, stopped, monkeypatch, error):
        other = Predictor(BrightSpot(), {"params": {"spread": np.float32(1)}}, batch_size=8)
        monkeypatch.setattr(inputs, "load", lambda *_, **__: other)
        assert command("a", "b", "--resume")[0] == 1
        assert "cannot go on, as it was made with other values of checkpoint" in error()


@pytest.mark.parametrize("kind", [DataError, StorageError])
def test_a_video_that_cannot_be_written_costs_no_other(command, tmp_path, monkeypatch, kind, caplog):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), picture((40, 40)))
    record = video.record

    def fail(found, path, *rest):
        if path.name == "a":
            raise kind("a.mp4: there is no room")
        return record(found, path, *rest)

    monkeypatch.setattr(video, "record", fail)
    status, found = command("a", "b")
    assert (status, list(found)) == (1, ["b.json"])
    assert "a: a.mp4: there is no room" in caplog.text
    assert "1 of 2 inputs could not be used" in caplog.text
