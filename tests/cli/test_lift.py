"""Lifting 2D joints of other programs: reading tracks, filling gaps, other skeletons, the call and the command."""

import json
import os
import re

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

import jaxpose
from jaxpose.cli import lift, predict
from jaxpose.errors import DataError
from jaxpose.inference import lifter
from jaxpose.marionettes.config import MarionettesConfig
from jaxpose.marionettes.sequences import sequence
from jaxpose.skeleton import COCO, H36M, MARIONETTE, MPII
from jaxpose.training.loop import train

SIZE = (640, 480)


def walk(frames: int, seed: int = 0) -> np.ndarray:
    """[frames, 17, 3] joints that wander, with scores."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(100, 400, (1, 17, 2)) + np.cumsum(rng.normal(0, 2, (frames, 17, 2)), 0)
    return np.concatenate([points, rng.uniform(0.3, 1, (frames, 17, 1))], -1)


def write_people(path, people: dict, **changes) -> None:
    """{track id: {frame: [K, 3]}} as the JSON file of a video."""
    entries = [
        {"frame": frame, "track_id": name, "score": 0.9, "skeleton": "h36m"}
        | {"keypoints": points.reshape(-1).tolist()}
        | changes
        for name, frames in people.items()
        for frame, points in frames.items()
    ]
    path.write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny.config(tmp_path_factory.mktemp("data"), "anatomy3d")
    config.train.update({"steps": 1, "checkpoint_every": 1})
    workdir = tmp_path_factory.mktemp("run")
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def lifts(run):
    return lifter.load(run)


class TestLifter:
    @pytest.mark.parametrize("frames", [1, 4, 9, 70])
    def test_every_frame_has_a_pose(self, lifts, frames):
        lifted = lifts(walk(frames), SIZE)
        assert lifted.joints.shape == (frames, 17, 3)
        assert lifted.valid.all()

    def test_padding_changes_nothing(self, lifts, monkeypatch):
        keypoints = walk(40)
        expected = lifts(keypoints, SIZE).joints
        monkeypatch.setattr(lifter.sequences, "padded_length", lambda frames: 100)
        assert_allclose(lifts(keypoints, SIZE).joints, expected, atol=0.05)

    def test_size_and_pixels_scale_together(self, lifts):
        keypoints = walk(10)
        larger = keypoints * [2, 2, 1]
        assert_allclose(lifts(larger, (1280, 960)).joints, lifts(keypoints, SIZE).joints, atol=0.05)

    def test_bones_that_were_measured_before(self, run):
        lifts = lifter.load(run, changes={"method.flip_test": False})
        keypoints = walk(30)
        lengths = lifts.measure(keypoints, SIZE)
        assert lengths.shape == (16,)
        expected = lifts(keypoints, SIZE).joints
        assert_allclose(lifts(keypoints, SIZE, lengths).joints, expected, atol=0.05)
        assert np.abs(lifts(keypoints, SIZE, 2 * lengths).joints - expected).max() > 1

    @pytest.mark.parametrize(
        ("keypoints", "message"),
        [
            (np.zeros((5, 16, 3)), r"shape \(5, 16, 3\), expected \(frames, 17, 3\)"),
            (np.zeros((0, 17, 3)), r"shape \(0, 17, 3\)"),
            (np.where(np.arange(5)[:, None, None] == 3, np.nan, np.ones((5, 17, 3))), "frame 3 are not finite"),
        ],
    )
    def test_unusable_keypoints(self, lifts, keypoints, message):
        with pytest.raises(DataError, match=message):
            lifts(keypoints, SIZE)

    def test_a_run_that_lifts_is_no_predictor(self, run):
        with pytest.raises(DataError, match=r"looks at no pictures; jaxpose lift"):
            jaxpose.load(run)


class TestTracks:
    def test_people_by_how_long_they_are_seen(self, tmp_path):
        first, second = walk(3), walk(5, 1)
        write_people(tmp_path / "a.json", {7: dict(enumerate(first)), 4: dict(enumerate(second, start=10))})
        found = lifter.tracks(tmp_path / "a.json", H36M)
        assert [(track.name, track.first, len(track)) for track in found] == [("4", 10, 5), ("7", 0, 3)]
        assert_allclose(found[1].keypoints, first)

    def test_gaps_are_filled_and_told(self, tmp_path):
        points = walk(5)
        write_people(tmp_path / "a.json", {1: {2: points[0], 6: points[4]}})
        (track,) = lifter.tracks(tmp_path / "a.json", H36M)
        assert track.seen.tolist() == [True, False, False, False, True]
        assert_allclose(track.keypoints[2, :, :2], (points[0] + points[4])[:, :2] / 2)
        assert_array_equal(track.keypoints[1:4, :, 2], 0)

    def test_nobody_in_particular_and_people_without_tracks(self, tmp_path):
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))})
        entries = json.loads((tmp_path / "a.json").read_text())
        (tmp_path / "a.json").write_text(json.dumps([*entries, entries[0] | {"track_id": None}]))
        assert [len(track) for track in lifter.tracks(tmp_path / "a.json", H36M)] == [2]
        for entry in entries:
            del entry["track_id"]
        better = entries[1] | {"score": 0.95, "keypoints": (51 * [1.0])}
        (tmp_path / "a.json").write_text(json.dumps([*entries, better]))
        (track,) = lifter.tracks(tmp_path / "a.json", H36M)
        assert len(track) == 2
        assert (track.keypoints[1] == 1).all()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not valid JSON"),
            ("{}", "expected a list of objects"),
            ("[]", "nobody is followed"),
            ('[{"track_id": 1, "frame": 0}]', "object 0: field 'keypoints' is missing"),
            (
                '[{"track_id": 1, "frame": 0, "keypoints": [1, 2, 3]}]',
                "has 3 numbers, expected 51: x, y and score of the joints of 'h36m'",
            ),
            ('[{"track_id": 1, "frame": 0.5, "keypoints": []}]', "'frame' is 0.5, expected a whole number"),
        ],
    )
    def test_other_files(self, tmp_path, content, message):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match=message):
            lifter.tracks(tmp_path / "a.json", H36M)

    def test_arrays(self, tmp_path):
        points = walk(4)
        points[2] = 0
        np.savez(tmp_path / "a.npz", keypoints=points)
        (track,) = lifter.tracks(tmp_path / "a.npz", H36M)
        assert (track.name, track.first, track.seen.tolist()) == ("a", 0, [True, True, False, True])
        np.savez(tmp_path / "a.npz", points=points)
        with pytest.raises(DataError, match=r"lacks the arrays \['keypoints'\]"):
            lifter.tracks(tmp_path / "a.npz", H36M)
        np.savez(tmp_path / "a.npz", keypoints=points[:, :5])
        with pytest.raises(DataError, match=r"has shape \(4, 5, 3\), expected \(frames, 17, 3\)"):
            lifter.tracks(tmp_path / "a.npz", H36M)

    def test_twice_in_a_frame(self, tmp_path):
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))}, frame=5)
        with pytest.raises(DataError, match="person 1 is in frame 5 for the second time"):
            lifter.tracks(tmp_path / "a.json", H36M)


class TestFill:
    @settings(deadline=None)
    @given(seed=st.integers(0, 1000), frames=st.integers(1, 12), missing=st.floats(0, 1))
    def test_known_joints_stay_and_others_lie_among_them(self, seed, frames, missing):
        keypoints, rng = walk(frames, seed), np.random.default_rng(seed)
        keypoints[rng.random(keypoints.shape[:2]) < missing] = 0
        filled, known = lifter.fill(keypoints), keypoints[..., 2] > 0
        assert_array_equal(filled[known], keypoints[known])
        assert_array_equal(filled[..., 2], keypoints[..., 2])
        if known.any():
            inside = keypoints[known][:, :2]
            assert (filled[..., :2] >= inside.min(0) - 1e-6).all()
            assert (filled[..., :2] <= inside.max(0) + 1e-6).all()


class TestSkeletons:
    @pytest.mark.parametrize("source", [COCO, MPII, MARIONETTE], ids=lambda skeleton: skeleton.name)
    def test_what_is_told_moves_with_the_person(self, source):
        rule = lifter.joint_map(source, H36M)
        assert rule.shape == (17, source.num_joints)
        assert_allclose(rule.sum(1), 1, atol=1e-12)
        for joint in set(source.joints) & set(H36M.joints):
            assert rule[H36M.index(joint), source.index(joint)] == 1

    def test_joints_between_others_are_near_the_true_ones(self):
        """Of marionettes, as a share of the trunk's length."""
        motion = sequence(MarionettesConfig(scene="sequence", width=500, height=500, frames=6), "train", 0)
        every = motion.joints_2d.astype(np.float64)
        trunk = np.linalg.norm(every[:, MARIONETTE.index("pelvis")] - every[:, MARIONETTE.index("thorax")], axis=-1)
        truth = every[:, MARIONETTE.select(H36M), :2]
        made = lifter.convert(every[:, MARIONETTE.select(COCO)], COCO, H36M)[..., :2]
        off = np.linalg.norm(made - truth, axis=-1) / trunk[:, None]
        assert off.max() < 0.35

    def test_the_least_sure_joint_counts(self):
        keypoints = np.concatenate([np.zeros((17, 2)), np.full((17, 1), 0.9)], -1)
        keypoints[COCO.index("left_hip"), 2] = 0.2
        scores = dict(zip(H36M.joints, lifter.convert(keypoints, COCO, H36M)[:, 2]))
        assert scores["pelvis"] == scores["spine"] == scores["left_hip"] == 0.2
        assert scores["thorax"] == scores["head_top"] == 0.9

    def test_joints_that_nothing_tells(self):
        with pytest.raises(DataError, match="'left_toe' of 'marionette'"):
            lifter.joint_map(COCO, MARIONETTE)


class TestCommand:
    def call(self, run, tmp_path, *arguments) -> tuple[int, list]:
        status = lift.main([str(run), *map(str, arguments), "--output", str(tmp_path / "out")])
        found = list((tmp_path / "out").glob("*_3d.json"))
        return status, json.loads(found[0].read_text()) if found else []

    def test_people_of_a_video(self, run, lifts, tmp_path):
        points = walk(6)
        people = {1: {0: points[0], 1: points[1], 3: points[3]}, 2: {1: points[2]}}
        write_people(tmp_path / "a.json", people)
        status, found = self.call(run, tmp_path, tmp_path / "a.json", "--size", "640x480", "--format", "gif")
        assert status == 0
        assert [(e["track_id"], e["frame"]) for e in found] == [("1", 0), ("1", 1), ("1", 3), ("2", 1)]
        (track, _) = lifter.tracks(tmp_path / "a.json", H36M)
        assert_allclose(found[2]["joints"], lifts(track.keypoints, SIZE, times=np.arange(4) / 30).joints[3], atol=0.06)
        files = {"a_1.gif", "a_1.png", "a_2.gif", "a_2.png", "a_3d.json"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == files

    def test_names_that_make_one_file_name(self, run, tmp_path):
        write_people(tmp_path / "a.json", {"x/y": {0: walk(1)[0]}, "x y": {0: walk(1)[0]}, 150 * "z": {0: walk(1)[0]}})
        status, found = self.call(run, tmp_path, tmp_path / "a.json", "--size", "640x480", "--format", "none")
        assert (status, len(found)) == (0, 3)
        files = {"a_x_y.png", "a_x_y-2.png", f"a_{100 * 'z'}.png", "a_3d.json"}
        assert {path.name for path in (tmp_path / "out").iterdir()} == files

    def test_beside_the_video(self, run, tmp_path):
        (tmp_path / "frames").mkdir()
        for t in range(4):
            cv2.imwrite(str(tmp_path / "frames" / f"{t}.png"), np.full((480, 640, 3), (0, 0, 200), np.uint8))
        write_people(tmp_path / "a.json", {5: dict(enumerate(walk(3), start=1))})
        status, found = self.call(run, tmp_path, tmp_path / "a.json", "--video", tmp_path / "frames")
        assert status == 0
        assert len(found) == 3
        sheet = cv2.imread(str(tmp_path / "out" / "a_5.png"))
        assert (sheet == (0, 0, 200)).all(-1).mean() > 0.1
        assert cv2.VideoCapture(str(tmp_path / "out" / "a_5.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3

    def test_other_joints(self, run, tmp_path):
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))}, skeleton=None)
        arguments = ("--size", "640x480", "--joints", "coco", "--format", "none")
        status, found = self.call(run, tmp_path, tmp_path / "a.json", *arguments)
        assert (status, len(found)) == (0, 2)
        assert not list((tmp_path / "out").glob("*.mp4"))

    def test_the_file_tells_its_skeleton(self, run, tmp_path, error):
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))}, skeleton="coco")
        arguments = (tmp_path / "a.json", "--size", "640x480", "--format", "none", "--rate", "50")
        status, found = self.call(run, tmp_path, *arguments)
        assert (status, len(found)) == (0, 2)
        keypoints = lifter.convert(lifter.tracks(tmp_path / "a.json", COCO)[0].keypoints, COCO, H36M)
        assert_allclose(found[0]["joints"], lifter.load(run)(keypoints, SIZE).joints[0], atol=0.06)
        assert self.call(run, tmp_path, *arguments, "--joints", "h36m")[0] == 1
        assert "its joints are those of 'coco', but --joints says 'h36m'" in error()
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))}, skeleton=None)
        assert self.call(run, tmp_path, *arguments)[0] == 1
        assert "17 joints could be coco, posetrack, h36m or ap10k; say which by --joints" in error()

    def test_validation_videos_with_their_truth(self, run, tmp_path, caplog):
        with caplog.at_level("INFO", "jaxpose"):
            status, found = self.call(run, tmp_path, "--validation", 1, "--format", "none")
        assert status == 0
        assert len(found) == 12
        assert found[0]["track_id"].startswith("marionette")
        assert "MPJPE" in caplog.text

    def test_runs_that_cannot_do_it(self, run, tmp_path, error):
        """A step that there is not, a run that looks at no pictures, and one as the detector of another."""
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))})
        assert self.call(run, tmp_path, tmp_path / "a.json", "--size", "640x480", "--step", 999)[0] == 1
        assert "no checkpoint of step 999; there are [1]" in error()
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
        into = ("--output", str(tmp_path / "found"))
        assert predict.main([str(run), str(tmp_path / "a.png"), *into]) == 1
        assert "looks at no pictures; jaxpose lift reads it" in error()
        assert predict.main(["nowhere", str(tmp_path / "a.png"), "--detector", str(run), *into]) == 1
        assert "nowhere: has no config.json" in error()

    def test_inputs_are_not_replaced(self, run, tmp_path, error):
        frames = tmp_path / "out" / "a_1.mp4"
        frames.mkdir(parents=True)
        cv2.imwrite(str(frames / "0.png"), np.zeros((480, 640, 3), np.uint8))
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))})
        assert self.call(run, tmp_path, tmp_path / "a.json", "--video", frames) == (1, [])
        assert "would replace the input" in error()

    @pytest.mark.parametrize("written", ["a_1.mp4", "a_1.png", "a_3d.json"])
    @pytest.mark.parametrize("link", [os.link, os.symlink])
    def test_other_names_of_inputs_are_not_replaced(self, run, tmp_path, error, written, link):
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))})
        before = (tmp_path / "a.json").read_bytes()
        (tmp_path / "out").mkdir()
        link(tmp_path / "a.json", tmp_path / "out" / written)
        assert self.call(run, tmp_path, tmp_path / "a.json", "--size", "640x480")[0] == 1
        assert f"would replace the input {tmp_path / 'out' / written}" in error()
        assert (tmp_path / "a.json").read_bytes() == before

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            ((), 2, "either a JSON file of poses or --validation"),
            (("--validation", "9"), 1, r"--validation \[9\]: .* has videos 0 to 1"),
            (("PEOPLE",), 1, "give --video or --size"),
            (("PEOPLE", "--size", "640x480", "--rate", "nan"), 2, "--rate nan: expected a positive number"),
            (("PEOPLE", "--size", "640x480", "--rate", "-5"), 2, "--rate -5.0: expected a positive number"),
            (("PEOPLE", "--size", "640x480", "--rate", "inf"), 2, "--rate inf: expected a positive number"),
        ],
    )
    def test_what_cannot_be_done(self, run, tmp_path, error, arguments, status, message):
        write_people(tmp_path / "a.json", {1: dict(enumerate(walk(2)))})
        given_ = [tmp_path / "a.json" if argument == "PEOPLE" else argument for argument in arguments]
        assert self.call(run, tmp_path, *given_) == (status, [])
        assert re.search(message, error())
