"""The demo: a film of drawn people, who are found, followed and lifted by weights of the package."""

import json
import logging

import cv2

from jaxpose.cli import demo


def test_the_demo_leaves_films_and_joints(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "jaxpose.cli"):
        assert demo.main(["--output", str(tmp_path / "demo"), "--frames", "8"]) == 0
    found = json.loads((tmp_path / "demo" / "found" / "marionettes.json").read_text())
    assert {entry["frame"] for entry in found} == set(range(8))
    assert all(entry["skeleton"] == "posetrack" for entry in found)
    lifted = json.loads((tmp_path / "demo" / "lifted" / "marionettes_3d.json").read_text())
    people = {entry["track_id"] for entry in lifted}
    assert people == {str(entry["track_id"]) for entry in found if entry["track_id"]}
    films = [tmp_path / "demo" / "marionettes.mp4", tmp_path / "demo" / "found" / "marionettes.mp4"]
    films += [tmp_path / "demo" / "lifted" / f"marionettes_{person}.mp4" for person in people]
    assert all(cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT) > 0 for film in films)
    assert "jaxpose predict marionettes-dcpose" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert all("learned from marionettes" in text for text in warnings)
