"""Human3.6M's .npz form, written here at a small size, and pickles that must not be trusted."""

import os
import pickle
import struct

import numpy as np
import pytest
from ml_collections import ConfigDict
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from jaxpose.data.examples import sequences
from jaxpose.data.formats import pickles
from jaxpose.data.sources import h36m
from jaxpose.errors import ConfigError, DataError
from jaxpose.ops import cameras

FRAMES = {"S1": {"Walking": 7, "Walking 1": 4, "Sitting": 3}, "S9": {"Walking": 5}}
DETECTOR = "cpn_ft_h36m_dbb"
SYMMETRY = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]


def save(path, **objects):
    np.savez_compressed(path, **{key: np.array(value, object) for key, value in objects.items()})


def contents() -> tuple[dict, dict, dict]:
    """Motions, detections that last one frame longer, and scores that for Sitting end one frame before."""
    rng = np.random.default_rng(0)
    motion, flat, score = {}, {}, {}
    for subject, actions in FRAMES.items():
        motion[subject], flat[subject] = {}, {}
        for action, frames in actions.items():
            motion[subject][action] = rng.normal(0, 0.5, (frames, 32, 3)).astype(np.float32)
            flat[subject][action] = [rng.uniform(0, 1000, (frames + 1, 17, 2)).astype(np.float32) for _ in range(4)]
            shown = frames - (action == "Sitting")
            for i in range(4):
                score[f"{subject}_{action}.{i}"] = rng.random((shown, 17, 1) if i else (shown, 17))
    return motion, flat, score


def write(folder, motion, flat, score, symmetry=SYMMETRY):
    save(folder / "data_3d_h36m.npz", positions_3d=motion)
    metadata = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": symmetry}
    save(folder / f"data_2d_h36m_{DETECTOR}.npz", positions_2d=flat, metadata=metadata)
    (folder / "score.pkl").write_bytes(pickle.dumps(score))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, *contents())
    return tmp_path


def open_split(folder, split="train", subjects=("S1",), actions=(), skeleton="h36m", **options):
    fields = {"source": "h36m", "dir": str(folder), "skeleton": skeleton, "h36m": options}
    fields |= {"train": {"subjects": subjects, "actions": actions}, "validation": {}}
    return sequences.open_sequences(ConfigDict(fields), split)


class TestReading:
    def test_videos(self, folder):
        motion, flat, score = contents()
        source = open_split(folder)
        names = [(v.subject, v.action, v.camera.name, len(v)) for v in source.videos]
        assert names == [("S1", a, c, n) for a, n in FRAMES["S1"].items() for c in h36m.CAMERAS]
        assert source.rate == 50
        shown = source[5]
        assert_allclose(shown.world(), motion["S1"]["Walking 1"][:, h36m.KEPT], atol=1e-5)
        assert not shown.joints[:, 0].any()
        pixels = cameras.screen_to_pixels(shown.keypoints[..., :2], shown.camera.size)
        assert_allclose(pixels, flat["S1"]["Walking 1"][1][:4], atol=1e-3)
        assert_allclose(shown.keypoints[..., 2:], score["S1_Walking 1.1"], rtol=1e-6)

    def test_missing_scores_at_the_end_are_the_last(self, folder):
        scores = open_split(folder, actions=("Sitting",))[0].keypoints[..., 2]
        expected = contents()[2]["S1_Sitting.0"]
        assert_allclose(scores, expected[[0, 1, 1]], rtol=1e-6)

    def test_choice_of_subjects_and_actions(self, folder):
        assert {v.action for v in open_split(folder, actions=("Walking",)).videos} == {"Walking", "Walking 1"}
        assert {v.subject for v in open_split(folder, subjects=("S9", "S1")).videos} == {"S1", "S9"}
        with pytest.raises(ConfigError, match=r"\['S11'\]; .* have \['S1', 'S9'\]"):
            open_split(folder, "validation")
        with pytest.raises(ConfigError, match=r"actions is \('Flying',\); .*'Sitting', 'Walking'"):
            open_split(folder, actions=("Flying",))

    def test_exact_keypoints_need_no_file(self, tmp_path):
        save(tmp_path / "data_3d_h36m.npz", positions_3d=contents()[0])
        for shown in open_split(tmp_path, detector="gt", scores="").videos:
            exact = cameras.project(shown.joints + shown.root[:, None], shown.camera.intrinsics)
            assert_allclose(shown.keypoints[..., :2], exact, atol=1e-4)
            assert (shown.keypoints[..., 2] == 1).all()

    def test_exact_keypoints_have_the_detector_s_confidence(self, folder):
        """As in the original program, whatever the keypoints."""
        shown = open_split(folder, detector="gt")[5]
        assert_allclose(shown.keypoints[..., 2:], contents()[2]["S1_Walking 1.1"], rtol=1e-6)
        (folder / "score.pkl").unlink()
        with pytest.raises(DataError, match=r"score.pkl: cannot be read"):
            open_split(folder, detector="gt")

    def test_without_scores(self, folder):
        (folder / "score.pkl").unlink()
        assert (open_split(folder, scores="")[0].keypoints[..., 2] == 1).all()
        with pytest.raises(DataError, match=r"score.pkl: cannot be read"):
            open_split(folder)

    def test_other_skeletons_and_options(self, folder):
        with pytest.raises(ConfigError, match="skeleton is 'coco'"):
            open_split(folder, skeleton="coco")
        with pytest.raises(ConfigError, match=r"config.data.h36m has the fields \['detektor'\]"):
            open_split(folder, detektor="gt")
        with pytest.raises(ConfigError, match=r"config.data.dir: '.*nowhere' does not exist"):
            open_split(folder / "nowhere")


class TestBadFiles:
    """Every message names the file, the field, and what was expected."""

    def rewrite(self, folder, change):
        motion, flat, score = contents()
        change(motion, flat, score)
        write(folder, motion, flat, score)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda m, f, s: m["S1"].update(Sitting=np.zeros((3, 17, 3))),
                r"Sitting' has shape \(3, 17, 3\), expected",
            ),
            (lambda m, f, s: f["S1"].pop("Walking"), r"positions_2d' of S1, 'Walking' is missing, expected 4 cameras"),
            (lambda m, f, s: f["S1"]["Walking"].pop(), r"'Walking' has 3 cameras, expected 4"),
            (lambda m, f, s: f.pop("S1"), r"positions_2d' of S1 is a NoneType, expected a dictionary"),
            (
                lambda m, f, s: f["S1"].update(Walking=[np.zeros((6, 17, 2))] * 4),
                r"camera 54138969 has 6 frames, expected at least the 7 of 3D",
            ),
            (lambda m, f, s: f["S1"].update(Walking=[np.zeros((8, 16, 2))] * 4), r"has shape \(8, 16, 2\), expected"),
            (lambda m, f, s: s.pop("S1_Walking.2"), r"score.pkl: has no 'S1_Walking.2', only 15 others such as"),
            (lambda m, f, s: s["S1_Walking.0"].fill(2), r"'S1_Walking.0' is from 2 to 2, expected 0 to 1"),
            (lambda m, f, s: s["S1_Walking.0"].fill(np.nan), r"'S1_Walking.0' is from nan to nan, expected 0 to 1"),
            (lambda m, f, s: m["S1"].update({7: np.zeros((3, 32, 3))}), "has the key 7, expected names of actions"),
            (lambda m, f, s: m["S1"].update(Walking="x"), "'Walking' is an array of <U1, expected numbers"),
            (lambda m, f, s: m["S1"].update(Walking=[[1], [1, 2]]), "'Walking' is no array of numbers"),
            (lambda m, f, s: m["S1"].update(Walking=np.full((3, 32, 3), 1e300)), r"has numbers beyond 1e\+09"),
            (lambda m, f, s: f["S1"].update(Walking=3), "'Walking' is no list, expected 4 cameras"),
            (lambda m, f, s: m["S1"]["Walking"].fill(np.nan), r"S1 Walking camera .*not finite in frame 0"),
        ],
    )
    def test_contents(self, folder, change, message):
        self.rewrite(folder, change)
        with pytest.raises(DataError, match=message):
            open_split(folder)

    def test_joints_of_coco(self, folder):
        write(folder, *contents(), symmetry=[[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]])
        with pytest.raises(DataError, match="take a file of keypoints in its order"):
            open_split(folder)

    def test_wrong_file(self, folder):
        (folder / f"data_2d_h36m_{DETECTOR}.npz").rename(folder / "data_3d_h36m.npz")
        with pytest.raises(DataError, match=r"has no 'positions_3d'; it has metadata, positions_2d"):
            open_split(folder)

    @pytest.mark.parametrize("keep", [0, 100, 0.5, 0.9])
    def test_cut_off(self, folder, keep):
        for name in ("data_3d_h36m.npz", "score.pkl"):
            write(folder, *contents())
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
            with pytest.raises(DataError, match=f"{name}.*fetch the file again|{name}.*fetch it again"):
                open_split(folder)


class Spy:
    """Pickles as a call of os.mkdir."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestPickles:
    @pytest.mark.parametrize("protocol", range(6))
    def test_arrays_in_dictionaries(self, tmp_path, protocol):
        value = {
            "a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": [np.float64(2.5), 3, "text", (None, True), b"bytes"],
            "c": np.array([{"d": np.zeros(0)}, "e"], object),
            "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        }
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        found = pickles.read_pickle(tmp_path / "x.pkl")
        assert_array_equal(found["a"], value["a"])
        assert found["b"] == value["b"]
        assert found["c"][0]["d"].shape == (0,)
        assert_array_equal(found["f"], value["f"])

    def test_names_of_older_numpy(self, tmp_path):
        data = pickle.dumps({"a": np.arange(3)}, protocol=2)
        assert b"numpy._core." in data
        (tmp_path / "x.pkl").write_bytes(data.replace(b"numpy._core.", b"numpy.core."))
        assert_array_equal(pickles.read_pickle(tmp_path / "x.pkl")["a"], np.arange(3))

    def test_plain_arrays_in_npz(self, tmp_path):
        np.savez(tmp_path / "x.npz", a=np.arange(6).reshape(2, 3), b=np.asfortranarray(np.eye(3)[:2]), c=2.5)
        assert_array_equal(pickles.read_npz_object(tmp_path / "x.npz", "a"), np.arange(6).reshape(2, 3))
        assert_array_equal(pickles.read_npz_object(tmp_path / "x.npz", "b"), np.eye(3)[:2])
        assert pickles.read_npz_object(tmp_path / "x.npz", "c") == 2.5

    def test_runs_nothing(self, tmp_path):
        trap = tmp_path / "trap"
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": Spy(trap)}))
        with pytest.raises(DataError, match=r"x.pkl is refused: it holds '.*mkdir'"):
            pickles.read_pickle(tmp_path / "x.pkl")
        save(tmp_path / "x.npz", a={"b": Spy(trap)})
        with pytest.raises(DataError, match=r"x.npz: 'a' is refused: it holds '.*mkdir'"):
            pickles.read_npz_object(tmp_path / "x.npz", "a")
        save(tmp_path / "y.npz", a={"b": np.array([Spy(trap)], object)})
        with pytest.raises(DataError, match="refused"):
            pickles.read_npz_object(tmp_path / "y.npz", "a")
        assert not trap.exists()

    @pytest.mark.parametrize(
        "data",
        [
            b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",  # bytes without end
            b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",
            b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\xff.",
            b"]" * 1_000_000 + b"a" * 999_999 + b".",
            b"(" * 1_000_000 + b"t" * 1_000_000 + b".",
            b"}" + b"(" * 1_000_000 + b"t" * 1_000_000 + b"Ns.",
            b"]q\x00h\x00a.",  # a list that holds itself
            b"]" + b"".join(b"q" + bytes([i]) + b"]" + (b"h" + bytes([i]) + b"a") * 20 for i in range(20)) + b".",
            b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb.",  # numbers that are called objects
            b"cnumpy\ndtype\n(S'V1000000000'\nI0\nI1\ntR.",
        ],
        ids=range(10),
    )
    def test_bombs(self, tmp_path, data):
        """Each is refused in no time and without memory."""
        (tmp_path / "x.pkl").write_bytes(data)
        with pytest.raises(DataError, match="x.pkl is (refused|damaged)"):
            pickles.read_pickle(tmp_path / "x.pkl")

    def test_places_and_sizes_that_are_not_used(self, tmp_path):
        """They are not made either: a place far away, and an array that never gets its values."""
        (tmp_path / "x.pkl").write_bytes(b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b".")
        assert pickles.read_pickle(tmp_path / "x.pkl") is None
        make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR."
        (tmp_path / "x.pkl").write_bytes(make)
        assert pickles.read_pickle(tmp_path / "x.pkl").size == 0

    def test_bytes_that_are_not_there(self, tmp_path):
        data = pickle.dumps(np.arange(5.0), 2)
        assert data.count(b"K\x05\x85") == 1
        (tmp_path / "x.pkl").write_bytes(data.replace(b"K\x05\x85", b"J\xff\xff\xff\x7f\x85"))
        with pytest.raises(
            DataError, match=r"x.pkl is refused: .*states shape \(2147483647,\), but not as many values"
        ):
            pickles.read_pickle(tmp_path / "x.pkl")


class TestCameras:
    def test_calibration_is_that_of_the_data_set(self, real_data):
        path = real_data / "samples" / "h36m" / "cameras.pkl"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        published = pickles.read_pickle(path)
        for subject in (*h36m.SUBJECTS["train"], *h36m.SUBJECTS["validation"]):
            for name in h36m.CAMERAS:
                ours, theirs = h36m.camera(subject, name), published[subject, name]
                assert ours.size == (theirs["w"], theirs["h"])
                half = theirs["w"] / 2
                focal, centre = theirs["f"].ravel() / half, theirs["c"].ravel() / half - [1, theirs["h"] / theirs["w"]]
                distortion = *theirs["k"].ravel(), *theirs["p"].ravel()[::-1]
                assert_allclose(ours.intrinsics, [*focal, *centre, *distortion], atol=1e-6)
                x, y, z, w = Rotation.from_matrix(theirs["R"]).as_quat()
                assert_allclose(abs(ours.orientation @ [w, x, y, z]), 1, atol=1e-6)
                assert_allclose(ours.position, theirs["T"].ravel(), atol=1e-6)

    def test_look_at_the_middle_of_the_room_from_above_the_floor(self):
        for subject in (*h36m.SUBJECTS["train"], *h36m.SUBJECTS["validation"]):
            for name in h36m.CAMERAS:
                camera = h36m.camera(subject, name)
                assert_allclose(np.linalg.norm(camera.orientation), 1, atol=1e-6)
                assert 1 < camera.position[2] < 2
                middle = cameras.world_to_camera(np.array([[0, 0, 1]], np.float32), camera.orientation, camera.position)
                assert (np.abs(cameras.project(middle, camera.intrinsics)) < 0.6).all()
                assert middle[0, 2] > 3
