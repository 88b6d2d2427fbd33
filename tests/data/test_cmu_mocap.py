"""ASF/AMC files, the 17 joints that are made of them, simulated cameras and the simulated detector."""

import dataclasses
import pathlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from ml_collections import ConfigDict
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from jaxpose.data.examples import sequences
from jaxpose.data.formats import asf
from jaxpose.data.sources import cmu_mocap
from jaxpose.data.sources.cmu_mocap import Options
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import H36M

UNIT = 0.0254 / 0.45
HEAD = """:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
"""
BONES = {  # name: parent, direction, length, axis, freedoms
    "lhipjoint": ("root", "0.6 -0.8 0", 2.4, "0 0 0", ""),
    "lfemur": ("lhipjoint", "0 -1 0", 7.2, "0 0 20", "rx ry rz"),
    "ltibia": ("lfemur", "0 -1 0", 7.5, "0 0 20", "rx"),
    "rhipjoint": ("root", "-0.6 -0.8 0", 2.4, "0 0 0", ""),
    "rfemur": ("rhipjoint", "0 -1 0", 7.4, "0 0 -20", "rx ry rz"),
    "rtibia": ("rfemur", "0 -1 0", 7.6, "0 0 -20", "rx"),
    "lowerback": ("root", "0 1 0", 2.0, "0 0 0", "rx ry rz"),
    "upperback": ("lowerback", "0 1 0", 2.0, "0 0 0", "rx ry rz"),
    "thorax": ("upperback", "0 1 0", 2.0, "0 0 0", "rx ry rz"),
    "lowerneck": ("thorax", "0 1 0", 1.7, "0 0 0", "rx ry rz"),
    "head": ("lowerneck", "0 1 0", 3.5, "0 0 0", "rx ry rz"),
    "lclavicle": ("thorax", "0.9 0.4 0", 3.5, "0 0 0", "ry rz"),
    "lhumerus": ("lclavicle", "1 0 0", 5.0, "180 -30 -90", "rx ry rz"),
    "lradius": ("lhumerus", "1 0 0", 3.4, "180 -30 -90", "rx"),
    "lwrist": ("lradius", "1 0 0", 1.7, "0 90 90", "ry"),
    "rclavicle": ("thorax", "-0.9 0.4 0", 3.4, "0 0 0", "ry rz"),
    "rhumerus": ("rclavicle", "-1 0 0", 5.1, "180 30 90", "rx ry rz"),
    "rradius": ("rhumerus", "-1 0 0", 3.5, "180 30 90", "rx"),
    "rwrist": ("rradius", "-1 0 0", 1.7, "0 -90 -90", "ry"),
}


def figure_text(described=BONES) -> str:
    data = "".join(
        f"  begin\n id {i}\n name {name}\n direction {direction}\n length {length}\n axis {axis} XYZ\n"
        + (f" dof {freedoms}\n limits (-1 1)\n" if freedoms else "")
        + "  end\n"
        for i, (name, (_, direction, length, axis, freedoms)) in enumerate(described.items())
    )
    tree = "".join(f"  {parent} {name}\n" for name, (parent, *_) in described.items())
    return f"{HEAD}:bonedata\n{data}:hierarchy\n  begin\n{tree}  end\n"


def clip_text(frames=12, seed=0, described=BONES) -> str:
    """Somebody who turns about, bends and walks on."""
    rng = np.random.default_rng(seed)
    lines = ["#made 1 2 3", ":FULLY-SPECIFIED", ":DEGREES"]
    moving = {name: len(fields[-1].split()) for name, fields in described.items() if fields[-1]}
    way = {name: rng.normal(0, 20, (2, count)) for name, count in moving.items()}
    for t in range(frames):
        lines += [str(t + 1), f"root {0.1 * t:.4f} 17 {0.3 * t:.4f} 5 {3 * t} -4"]
        for name, (start, step) in way.items():
            lines.append(f"{name} " + " ".join(f"{a + 0.1 * b * t:.5f}" for a, b in zip(start, step, strict=True)))
    return "\n".join(lines) + "\n"


def write(folder: pathlib.Path, subjects={"01": 5, "02": 2}, frames=12) -> pathlib.Path:  # noqa: B006
    for subject, clips in subjects.items():
        home = folder / "subjects" / subject
        home.mkdir(parents=True)
        (home / f"{subject}.asf").write_text(figure_text())
        for i in range(1, clips + 1):
            (home / f"{subject}_{i:02d}.amc").write_text(clip_text(frames, seed=i))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("mocap"))


@pytest.fixture(scope="module")
def figure(folder):
    return asf.read_figure(folder / "subjects/01/01.asf")


def open_split(folder, split="train", clips=(), skeleton="h36m", **options):
    fields = {"source": "cmu_mocap", "dir": str(folder), "skeleton": skeleton, "cmu_mocap": options}
    return sequences.open_sequences(ConfigDict(fields | {split: {"clips": clips}}), split, progress=False)


class TestFigure:
    def test_rest(self, figure):
        rest = figure.rest()
        assert_allclose(rest["ltibia"], np.array([0.6 * 2.4, -0.8 * 2.4 - 7.2 - 7.5, 0]) * UNIT, atol=1e-9)
        assert_allclose(rest["head"], [0, 11.2 * UNIT, 0], atol=1e-9)

    @settings(deadline=None)
    @given(angles=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
    def test_turns_one_after_the_other(self, angles):
        expected = Rotation.from_euler("xyz", angles).as_matrix()
        assert_allclose(asf.euler_matrix("XYZ", np.array(angles)), expected, atol=1e-12)
        assert_allclose(asf.euler_matrix("rxryrz", np.array(angles)), expected, atol=1e-12)
        expected = Rotation.from_euler("zxy", angles).as_matrix()
        assert_allclose(asf.euler_matrix("zxy", np.array(angles)), expected, atol=1e-12)

    def test_a_knee_bends_about_its_own_axis(self, figure):
        still = {bone.name: np.zeros((1, len(bone.freedoms))) for bone in figure.bones} | {"root": np.zeros((1, 6))}
        bent = figure.pose(still | {"ltibia": np.array([[90.0]])})
        axis = np.array([np.cos(np.radians(20)), np.sin(np.radians(20)), 0])
        shin = Rotation.from_rotvec(np.pi / 2 * axis).apply([0, -7.5 * UNIT, 0])
        assert_allclose(bent["ltibia"][0] - bent["lfemur"][0], shin, atol=1e-9)
        assert_allclose(bent["rtibia"][0], figure.rest()["rtibia"], atol=1e-9)

    def test_the_root_carries_everything(self, figure):
        still = {bone.name: np.zeros((1, len(bone.freedoms))) for bone in figure.bones}
        moved = figure.pose(still | {"root": np.array([[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]])})
        turn = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
        for name, place in figure.rest().items():
            assert_allclose(moved[name][0], turn.apply(place) + np.array([1, 2, 3]) * UNIT, atol=1e-9)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (":bonedata", ":other", r"has no sections \['bonedata'\]"),
            ("direction 0 -1 0", "direction 0 minus 0", r"direction of bone 'lfemur' is '0 minus 0'; expected numbers"),
            ("direction 0 -1 0", "direction 0 nan 0", r"direction of bone 'lfemur' is '0 nan 0'; expected numbers"),
            ("length 7.2\n", "length 1e300\n", r"length of bone 'lfemur' is '1e300'; expected numbers"),
            ("dof rx ry rz", "dof rx rx rz", r"'dof' of bone 'lfemur' has \['rx', 'rx'\]; .* each once"),
            ("name ltibia", "name lfemur", "has two bones 'lfemur'"),
            ("direction 0 -1 0", "direction 0 -1", r"bone 'lfemur' has direction \['0', '-1'\]"),
            ("length 7.2\n", "\n", r"bone 'lfemur' has no fields \['length'\]"),
            ("name lfemur\n", "name\n", r"bone '\?' has no fields \['name'\]"),
            ("dof rx ry rz", "dof rx ry l", r"'dof' of bone 'lfemur' has \['l'\]; expected rx, ry, rz"),
            ("order TX TY TZ RX RY RZ", "order TX TY TZ", r"'order' of :root is \('tx', 'ty', 'tz'\)"),
            ("orientation 0 0 0", "orientation 0 90 0", r"'orientation' of :root .*expected 0 0 0"),
            ("length 0.45", "length 0", r"'length' of :units is 0; expected units to the inch"),
            ("angle deg", "angle gon", r"'angle' of :units is 'gon'; expected deg or rad"),
            ("  lfemur ltibia\n", "", r":hierarchy leaves out the bones \['ltibia'\]"),
            ("  lfemur ltibia\n", "  nothing ltibia\n", r":hierarchy hangs 'ltibia' below 'nothing'"),
        ],
    )
    def test_bad_files(self, tmp_path, old, new, message):
        assert old in figure_text()
        (tmp_path / "x.asf").write_text(figure_text().replace(old, new, 1))
        with pytest.raises(DataError, match=message):
            asf.read_figure(tmp_path / "x.asf")

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"x.asf: cannot be read \(No such file"):
            asf.read_figure(tmp_path / "x.asf")


class TestClip:
    def test_numbers(self, tmp_path, figure):
        (tmp_path / "x.amc").write_text(clip_text())
        clip = asf.read_clip(tmp_path / "x.amc", figure)
        assert set(clip) == {"root"} | {name for name, fields in BONES.items() if fields[-1]}
        assert_allclose(clip["root"][5], [0.5, 17, 1.5, 5, 15, -4])
        assert clip["lclavicle"].shape == (12, 2)

    def test_order_of_bones_is_free(self, tmp_path, figure):
        turned = dict(reversed(BONES.items()))
        shuffled = clip_text(3).splitlines()
        frame = len([name for name in turned if BONES[name][-1]]) + 2
        lines = shuffled[:3]
        for start in range(3, len(shuffled), frame):
            lines += [shuffled[start], *reversed(shuffled[start + 1 : start + frame])]
        (tmp_path / "x.amc").write_text(clip_text(3))
        (tmp_path / "y.amc").write_text("\n".join(lines))
        one, other = (asf.read_clip(tmp_path / name, figure) for name in ("x.amc", "y.amc"))
        for name, values in one.items():
            assert_array_equal(values, other[name])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text[:-30], "frame 12 is not like the first one"),
            (lambda text: text.replace("\n7\n", "\n8\n"), "frame 7 is not like the first one"),
            (lambda text: text.replace("\n7\n", "\n7 7\n"), "frame 7 is not like the first one"),
            (lambda text: text.replace("lhumerus", "rhand"), r"unknown bones \['rhand'\] and lacks \['lhumerus'\]"),
            (lambda text: text.replace("root 0.5000 17", "root nan 17"), "bone 'root' has numbers that are not finite"),
            (lambda text: text.replace("root 0.5000 17", "root 0.5.0 17"), "bone 'root': could not convert"),
            (lambda text: text.replace(":DEGREES", ":RADIANS"), "says :RADIANS, which is not the unit of angles of"),
            (
                lambda text: text.replace("root 0.5000 17", "root 0.5 1e300"),
                "'root' has numbers that are .*too large",
            ),
            (lambda text: text.replace("root 0.5000 17", f"root {'9' * 100_000} 17"), "has the word '9999"),
            (lambda text: text.replace("\n1\n", "\n\u00b2\n"), "is not like the first one|lacks"),
            (lambda text: text.replace("\n1\n", f"\n{10**30}\n"), "is not like the first one|lacks"),
            (lambda text: "", "lacks"),
            (lambda text: "1\n", "lacks"),
        ],
    )
    def test_bad_files(self, tmp_path, figure, change, message):
        assert change(clip_text()) != clip_text()
        (tmp_path / "x.amc").write_text(change(clip_text()))
        with pytest.raises(DataError, match=message):
            asf.read_clip(tmp_path / "x.amc", figure)


class TestJoints:
    def test_at_rest(self, figure):
        rest = cmu_mocap.joints_of(figure, figure.rest())
        place = dict(zip(H36M.joints, rest, strict=True))
        assert place["head_top"][2] > place["neck"][2] > place["thorax"][2] > place["spine"][2] > place["pelvis"][2]
        assert place["left_wrist"][0] > place["left_elbow"][0] > 0 > place["right_elbow"][0]
        assert_allclose(place["pelvis"], (place["left_hip"] + place["right_hip"]) / 2)
        lengths = dict(zip(bones.H36M.bones, cmu_mocap.rest_lengths(figure), strict=True))
        assert_allclose(lengths[13, 12], 5.1 * UNIT)
        assert_allclose(lengths[3, 2], 7.6 * UNIT)

    def test_bones_keep_their_length_and_directions(self, figure, folder):
        clip = asf.read_clip(folder / "subjects/01/01_01.amc", figure)
        before = cmu_mocap.joints_of(figure, figure.pose(clip))
        lengths = cmu_mocap.rest_lengths(figure)
        after = cmu_mocap.with_lengths(before, lengths)
        found = np.linalg.norm(bones.vectors(bones.H36M, after), axis=-1)
        assert_allclose(found, np.broadcast_to(lengths, found.shape), rtol=1e-6)
        assert_allclose(bones.directions(bones.H36M, after), bones.directions(bones.H36M, before), atol=1e-5)
        assert_array_equal(after[:, 0], before[:, 0])
        assert np.linalg.norm(after - before, axis=-1).max() < 0.2

    def test_missing_bones(self, tmp_path):
        fewer = {name: fields for name, fields in BONES.items() if name != "head"}
        (tmp_path / "x.asf").write_text(figure_text(fewer))
        figure = asf.read_figure(tmp_path / "x.asf")
        with pytest.raises(DataError, match=r"has no bones \['head'\]"):
            cmu_mocap.rest_lengths(figure)

    @settings(deadline=None)
    @given(frames=st.integers(1, 50), rate=st.floats(1, 200), share=st.floats(0.05, 1))
    def test_resampling_a_line(self, frames, rate, share):
        values = np.arange(frames)[:, None] * np.array([1.0, -2.0])
        found = cmu_mocap.resample(values, rate, rate * share)
        assert_allclose(found, np.arange(len(found))[:, None] / share * np.array([1, -2]), atol=1e-9 * frames)
        assert (len(found) - 1) / share <= frames - 1 + 1e-6
        assert len(found) / share > frames - 1 - 1e-6


class TestVideos:
    def test_split_by_clip(self, folder):
        clips = lambda split, **fields: sorted({v.action for v in open_split(folder, split, **fields).videos})
        assert clips("train") == ["01_01", "01_02", "01_03", "01_05", "02_01", "02_02"]
        assert clips("validation") == ["01_04"]
        assert clips("validation", clips=("02_02", "01_01")) == ["01_01", "02_02"]

    def test_geometry(self, folder):
        source = open_split(folder, cameras=3, noise=0.0, hidden=0.0)
        assert (len(source), source.rate, len(source[0])) == (18, 50.0, 5)
        for shown in source.videos:
            exact = cameras.project(shown.joints + shown.root[:, None], shown.camera.intrinsics)
            assert_allclose(shown.keypoints[..., :2], exact, atol=1e-5)
            assert np.abs(exact).max() < 0.95
            assert shown.root[:, 2].min() > 2
            lengths = np.linalg.norm(bones.vectors(source.tree, shown.joints), axis=-1)
            assert np.ptp(lengths, axis=0).max() < 1e-5
            assert not shown.joints[:, 0].any()
        worlds = np.stack([shown.world() for shown in source.videos[:3]])
        assert_allclose(worlds, worlds[:1].repeat(3, 0), atol=1e-5)
        places = np.stack([shown.camera.position for shown in source.videos[:3]])
        assert np.linalg.norm(places - np.roll(places, 1, 0), axis=-1).min() > 2

    def test_a_function_of_the_seed(self, folder):
        one, again, other = (open_split(folder, "validation", seed=seed)[1] for seed in (3, 3, 4))
        assert_array_equal(one.keypoints, again.keypoints)
        assert not np.array_equal(one.root, other.root)

    def test_a_camera_does_not_depend_on_what_else_is_read(self, folder):
        some, more = (open_split(folder, clips=clips) for clips in (("02_01",), ("01_01", "02_01")))
        assert_array_equal(some[2].keypoints, more[6].keypoints)

    def test_clip_of_one_frame(self, tmp_path):
        source = open_split(write(tmp_path, {"01": 1}, frames=1))
        assert [len(shown) for shown in source.videos] == [1] * 4

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("rate", 0),
            ("rate", 121),
            ("cameras", 0),
            ("hidden", 1.0),
            ("hidden_seconds", 0),
            ("noise", -1),
            ("seed", -1),
        ],
    )
    def test_bad_options(self, folder, field, value):
        with pytest.raises(ConfigError, match=f"config.data.cmu_mocap.{field} is .*; expected"):
            open_split(folder, **{field: value})

    def test_bad_choices(self, folder, tmp_path):
        with pytest.raises(ConfigError, match=r"config.data.train.clips names \['03_01'\]; .* has 01_01, 01_02"):
            open_split(folder, clips=("03_01", "01_01"))
        with pytest.raises(ConfigError, match="skeleton is 'coco'"):
            open_split(folder, skeleton="coco")
        with pytest.raises(DataError, match="has no clips; expected subjects/01/01_01.amc"):
            open_split(tmp_path)
        with pytest.raises(ConfigError, match="no subject has 4 clips"):
            open_split(write(tmp_path / "few", {"01": 3}), "validation")


DETECTOR = Options(noise=0.01, hidden_noise=0.08, hidden=0.1)


@pytest.fixture(scope="module")
def detections():
    """Errors [T, 17, 2] as a share of the person's height, and scores [T, 17], of someone who stands still."""
    rng = np.random.default_rng(0)
    joints = np.broadcast_to(rng.normal(0, 0.5, (17, 3)) + [0, 0, 5], (4000, 17, 3))
    intrinsics = np.array([2.3, 2.3, 0, 0, 0, 0, 0, 0, 0], np.float32)
    keypoints = cmu_mocap.detect(joints, intrinsics, DETECTOR, rng)
    height = 2.3 * 1.7 / joints[..., 2].mean()
    return (keypoints[..., :2] - cameras.project(joints, intrinsics)) / height, keypoints[..., 2]


class TestDetector:
    def test_scores_tell(self, detections):
        error, score = detections
        assert np.corrcoef(np.linalg.norm(error, axis=-1).ravel(), score.ravel())[0, 1] < -0.7
        assert score.min() >= 0.01
        assert score.max() <= 0.999
        sure = score > 0.8
        assert_allclose(error[sure].std(), 0.01, rtol=0.1)
        assert 0.06 < error[score < 0.7].std() < 0.1
        assert 0.08 < 1 - sure.mean() < 0.14

    def test_errors_last(self, detections):
        error, score = detections
        sure = np.where(score[..., None] > 0.8, error, 0)
        assert 0.75 < (sure[1:] * sure[:-1]).mean() / (sure**2).mean() < 0.9
        assert abs((sure[40:] * sure[:-40]).mean() / (sure**2).mean()) < 0.1

    @given(share=st.floats(0.02, 0.4), frames=st.floats(2, 30))
    @settings(max_examples=15, deadline=None)
    def test_share_and_length_of_hidden_times(self, share, frames):
        hidden = cmu_mocap.hidden((20_000, 60), share, frames, np.random.default_rng(0))
        times = hidden.size * share / frames
        six_sigma = 6 * np.sqrt(2 / times)
        assert_allclose(hidden.mean(), share, rtol=six_sigma)
        begins = (hidden[1:] & ~hidden[:-1]).sum()
        assert_allclose(hidden.sum() / begins, frames, rtol=six_sigma)

    def test_the_first_frame_is_like_the_others(self):
        hidden = cmu_mocap.hidden((3, 20_000), 0.3, 10, np.random.default_rng(0))
        assert_allclose(hidden.mean(1), 0.3, atol=0.02)

    def test_no_noise(self):
        exact = dataclasses.replace(DETECTOR, noise=0.0, hidden_noise=0.0, hidden=0.0)
        joints = np.zeros((3, 17, 3)) + [0.1, 0.2, 4]
        keypoints = cmu_mocap.detect(joints, np.eye(9, dtype=np.float32)[0] * 2, exact, np.random.default_rng(0))
        assert_allclose(keypoints[..., 0], 0.05)
        assert (keypoints[..., 2] > 0.7).all()


@pytest.fixture(scope="module")
def walks(real_data):
    folder = real_data / "cmu_mocap"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return open_split(folder, clips=("02_01", "02_03", "02_04"))


class TestRealMotion:
    """A walk, a run and a jump."""

    def joint(self, shown, name):
        return shown.joints[:, H36M.index(name)]

    def test_people_stand_on_the_floor(self, walks):
        for shown in walks.videos:
            world = shown.world()
            ankles = world[:, [H36M.index("left_ankle"), H36M.index("right_ankle")], 2]
            assert 0.0 < ankles.min() < 0.15
            assert 1.4 < world[0, H36M.index("head_top"), 2] < 2.0

    def test_bones_are_those_of_an_adult_and_keep_their_length(self, walks):
        for shown in walks.videos:
            lengths = np.linalg.norm(bones.vectors(walks.tree, shown.joints), axis=-1)
            assert np.ptp(lengths, axis=0).max() < 1e-5
            length = dict(zip(walks.tree.bones, lengths[0], strict=True))
            assert 0.35 < length[2, 1] < 0.5
            assert 0.25 < length[15, 14] < 0.35
            for left, right in (((5, 4), (2, 1)), ((6, 5), (3, 2)), ((12, 11), (15, 14)), ((13, 12), (16, 15))):
                assert_allclose(length[left], length[right], rtol=0.06)

    def test_right_is_right(self, walks):
        """Knees bend forward, and forward is to the left x up."""
        for shown in walks.videos:
            up = self.joint(shown, "thorax") - self.joint(shown, "pelvis")
            forward = np.cross(self.joint(shown, "left_hip") - self.joint(shown, "right_hip"), up)
            for side in ("left", "right"):
                hip, knee, ankle = (self.joint(shown, f"{side}_{part}") for part in ("hip", "knee", "ankle"))
                bend = ((knee - (hip + ankle) / 2) * forward).sum(-1)
                assert (bend > 0).mean() > 0.95

    def test_they_walk_forward(self, walks):
        for shown in (v for v in walks.videos if v.action != "02_04"):
            world = shown.world()
            way = world[-1, 0] - world[0, 0]
            across = world[:, H36M.index("left_hip")] - world[:, H36M.index("right_hip")]
            forward = np.cross(across, [0, 0, 1])
            assert np.linalg.norm(way[:2]) > 1
            assert (forward @ way > 0).all()
