"""Windows, drawn frames, mirrored copies and whole sequences; marionettes as videos."""

import dataclasses
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from ml_collections import ConfigDict
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data import loader
from jaxpose.data.examples import sequences
from jaxpose.data.examples.sequences import Camera, SequenceExamples, SequenceSource, Video, WholeSequences
from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.mpjpe import SequenceErrors
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import H36M, MARIONETTE
from jaxpose.types import Poses

LENGTHS = (23, 1, 70)
WIDTH, HEIGHT = 1000, 800


def video(frames: int, number: int = 0, action: str = "Walking") -> Video:
    """A random cloud of joints five metres before a camera with distortion, and exact keypoints."""
    rng = np.random.default_rng(number)
    joints = rng.normal(0, 0.5, (frames, H36M.num_joints, 3)) + [0, 0, 5]
    intrinsics = np.array([2.3, 2.2, 0.03, -0.02, -0.2, 0.2, -0.01, -0.001, 0.002], np.float32)
    pose = np.array([0.5, 0.5, 0.5, 0.5], np.float32), np.array([1, 2, 3], np.float32)
    camera = Camera(f"c{number}", (WIDTH, HEIGHT), intrinsics, *pose)
    keypoints = np.concatenate([cameras.project(joints, intrinsics), rng.random((*joints.shape[:2], 1))], -1)
    return Video.of_joints(f"S{number}", action, camera, keypoints, joints, root=0)


@pytest.fixture(scope="module")
def source() -> SequenceSource:
    actions = ("Walking", "Walking 1", "Sitting")
    videos = tuple(video(frames, i, actions[i]) for i, frames in enumerate(LENGTHS))
    return SequenceSource("made up", H36M, 50.0, videos)


class TestSkeleton:
    def test_agrees_with_its_tree(self):
        parents = bones.TREES[H36M.name].parents
        edges = {(H36M.joints[p], j) for j, p in zip(H36M.joints, parents) if p >= 0}
        assert set(H36M.limbs) == edges
        assert [parents[j] for j in H36M.flip_index] == [H36M.flip_index[p] if p >= 0 else -1 for p in parents]


class TestWindow:
    @settings(deadline=None)
    @given(frames=st.integers(1, 12), first=st.integers(-20, 20), length=st.integers(1, 30))
    def test_repeats_the_edges(self, frames, first, length):
        values = np.arange(2 * frames).reshape(frames, 2)
        expected = [values[min(max(t, 0), frames - 1)] for t in range(first, first + length)]
        assert_array_equal(sequences.window(values, first, length), expected)

    def test_is_a_view_inside(self):
        values = np.zeros((10, 3))
        assert sequences.window(values, 2, 8).base is values


class TestDraw:
    @settings(deadline=None)
    @given(frames=st.integers(1, 60), count=st.integers(0, 60), seed=st.none() | st.integers(0, 5))
    def test_no_frame_more_often_than_another_by_two(self, frames, count, seed):
        rng = None if seed is None else np.random.default_rng(seed)
        drawn = sequences.draw(frames, count, rng)
        times = np.bincount(drawn, minlength=frames)
        assert len(times) == frames
        assert times.sum() == count
        assert np.ptp(times) <= 1

    def test_all_of_the_video_can_come(self):
        rng = np.random.default_rng(0)
        seen = {t for _ in range(200) for t in sequences.draw(30, 5, rng)}
        assert seen == set(range(30))

    def test_even_distances_reach_both_ends(self):
        drawn = sequences.draw(101, 50)
        assert drawn[0] == 0
        assert drawn[-1] >= 98
        assert set(np.diff(drawn)) <= {2, 3}


class TestMirror:
    def test_twice_is_nothing(self, source):
        points = source[0].keypoints
        before = points.copy()
        mirrored = sequences.mirror(points, H36M.flip_index)
        assert_array_equal(points, before)
        assert not np.array_equal(mirrored, points)
        assert_array_equal(sequences.mirror(mirrored, H36M.flip_index), points)

    def test_left_is_right_with_its_score(self, source):
        left, right = H36M.index("left_wrist"), H36M.index("right_wrist")
        mirrored = sequences.mirror(source[0].keypoints, H36M.flip_index)
        assert_array_equal(mirrored[:, left] * [-1, 1, 1], source[0].keypoints[:, right])

    def test_the_mirrored_camera_sees_the_mirrored_pose(self, source):
        examples = SequenceExamples(source, 9)
        plain, mirrored = (examples.sample(2, 40, flip, np.arange(9) + 36) for flip in (False, True))
        root = source[2].root[36:45, None]
        for example, at in ((plain, root), (mirrored, root * [-1, 1, 1])):
            seen = cameras.project(example["joints_3d"] + at, example["camera"])
            assert_allclose(seen, example["window"][..., :2], atol=1e-5)
            assert_allclose(seen, example["drawn"], atol=1e-5)


class TestSequenceExamples:
    def test_every_frame_plain_and_mirrored_once(self, source):
        examples = SequenceExamples(source, 9, drawn=4)
        assert len(examples) == 2 * sum(LENGTHS)
        places = [examples.locate(i) for i in range(len(examples))]
        expected = [(v, t, flip) for flip in (False, True) for v, n in enumerate(LENGTHS) for t in range(n)]
        assert places == expected
        assert len(dataclasses.replace(examples, mirror=False)) == sum(LENGTHS)

    @pytest.mark.parametrize(("causal", "place"), [(False, 4), (True, 8)])
    def test_fields(self, source, causal, place):
        examples = SequenceExamples(source, 9, drawn=6, causal=causal)
        example = examples.load(30, np.random.default_rng(0))
        shapes = {name: (value.shape, value.dtype.name) for name, value in example.items()}
        assert shapes == {
            "window": ((9, 17, 3), "float32"),
            "joints_3d": ((9, 17, 3), "float32"),
            "drawn": ((6, 17, 2), "float32"),
            "drawn_3d": ((6, 17, 3), "float32"),
            "camera": ((9,), "float32"),
            "index": ((), "int32"),
            "valid": ((), "bool"),
        }
        assert examples.locate(30) == (2, 6, False)
        assert_array_equal(example["window"][place], source[2].keypoints[6])
        assert_array_equal(example["joints_3d"][place], source[2].joints[6])
        assert not example["joints_3d"][:, 0].any()
        assert not example["drawn_3d"][:, 0].any()
        assert example["index"] == 30
        assert example["valid"]

    def test_drawn_frames_are_of_the_same_moment_in_2d_and_3d(self, source):
        example = SequenceExamples(source, 9, drawn=20).load(3, np.random.default_rng(0))
        frames = [np.flatnonzero((source[0].joints == pose).all((1, 2))).item() for pose in example["drawn_3d"]]
        assert len(set(frames)) == 20
        assert_array_equal(example["drawn"], source[0].keypoints[frames, :, :2])

    def test_video_of_one_frame(self, source):
        example = SequenceExamples(source, 27, drawn=5).load(23, np.random.default_rng(0))
        assert_array_equal(example["window"], np.repeat(source[1].keypoints, 27, 0))
        assert_array_equal(example["drawn_3d"], np.repeat(source[1].joints, 5, 0))

    def test_is_a_function_of_example_and_draws(self, source):
        examples = SequenceExamples(source, 9)
        copy = pickle.loads(pickle.dumps(examples))
        first, again = (e.load(100, np.random.default_rng(7)) for e in (examples, copy))
        other = examples.load(100, np.random.default_rng(8))
        for name, values in first.items():
            assert_array_equal(values, again[name])
        assert_array_equal(first["window"], other["window"])
        assert not np.array_equal(first["drawn"], other["drawn"])

    def test_a_resumed_stream_goes_on_the_same(self, source):
        examples = SequenceExamples(source, 9, drawn=4)

        def batches(step: int) -> list:
            stream = loader.TrainStream(examples, seed=1, batch_size=8, step=step, threads=1)
            found = [next(stream) for _ in range(4 - step)]
            stream.close()
            return found

        whole, rest = batches(0), batches(2)
        assert len({int(i) for batch in whole for i in batch["index"]}) == 32
        for a, b in zip(whole[2:], rest, strict=True):
            for name in a:
                assert_array_equal(a[name], b[name])

    def test_names(self, source):
        examples = SequenceExamples(source, 9)
        assert examples.names(np.array([24, 94 + 25])) == [
            "S2 Sitting camera c2 frame 0",
            "S2 Sitting camera c2 frame 1 mirrored",
        ]

    @pytest.mark.parametrize("fields", [{"receptive_field": 8}, {"receptive_field": 0}, {"drawn": -1}])
    def test_impossible_windows(self, source, fields):
        with pytest.raises(ConfigError, match="expected"):
            SequenceExamples(source, **({"receptive_field": 9} | fields))

    def test_causal_windows_may_be_even(self, source):
        assert SequenceExamples(source, 8, causal=True).load(0, None)["window"].shape[0] == 8


class TestWholeSequences:
    @given(frames=st.integers(1, 7000))
    @settings(max_examples=200, deadline=None)
    def test_buckets_are_few_and_tight(self, frames):
        length = sequences.padded_length(frames)
        assert frames <= length <= max(64, 1.5 * frames)
        assert sequences.padded_length(length) == length

    def test_number_of_buckets(self):
        assert len({sequences.padded_length(t) for t in range(1, 6145)}) == 14

    @pytest.mark.parametrize("causal", [False, True])
    def test_windows_are_those_of_training(self, source, causal):
        whole = WholeSequences(source, 9, causal)
        examples = SequenceExamples(source, 9, causal=causal)
        for number, frames in enumerate(LENGTHS):
            example = whole.load(number, None)
            length = whole.bucket(number)
            assert example["window"].shape == (length + 8, 17, 3)
            assert_array_equal(example["frames"], np.arange(length) < frames)
            for t in {0, frames // 2, frames - 1}:
                expected = examples.sample(number, t, False, np.arange(0))["window"]
                assert_array_equal(example["window"][t : t + 9], expected)

    def test_batches_hold_every_video_once(self, source):
        whole = WholeSequences(source, 9)
        batches = list(loader.evaluation_batches(whole, batch_size=2))
        found = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
        assert sorted(found.tolist()) == [0, 1, 2]
        for batch in batches:
            frames = [LENGTHS[i] if valid else 0 for i, valid in zip(batch["index"], batch["valid"], strict=True)]
            assert_array_equal(batch["frames"].sum(1), frames)
            assert batch["window"].shape == (2, batch["frames"].shape[1] + 8, 17, 3)

    def test_rows_are_what_the_metric_takes(self, source):
        whole, metric = WholeSequences(source, 9), SequenceErrors(MetricContext(H36M))
        shift = np.array([3, 4, 0])
        for members in ((0, 1), (2,)):
            lengths = [whole.bucket(i) for i in members]
            assert len(set(lengths)) == 1
            keypoints = np.full((3, lengths[0], 17, 3), np.nan, np.float32)
            valid = np.zeros(keypoints.shape[:2], bool)
            for row, i in enumerate(members):
                keypoints[row, : LENGTHS[i]] = source[i].joints * 1000 + shift
                valid[row, : LENGTHS[i]] = whole.load(i)["frames"][: LENGTHS[i]]
            poses = Poses(keypoints, np.ones(keypoints.shape[:3]), np.ones(valid.shape), valid)
            index = np.array([*members, *[0] * (3 - len(members))])
            rows = whole.rows(poses, index)
            assert len(rows["index"]) == sum(LENGTHS[i] for i in members)
            metric.update(rows)
        numbers = metric.compute()
        assert_allclose([numbers["MPJPE"], numbers["MPJPE/Walking"], numbers["MPJPE/Sitting"]], 5, rtol=1e-5)
        assert numbers["P-MPJPE"] < 1e-3
        assert numbers["MPJVE"] < 1e-3

    def test_names(self, source):
        assert WholeSequences(source, 9).names(np.array([1])) == ["S1 Walking 1 camera c1"]


class TestSource:
    def test_world_is_where_the_camera_looks_from(self, source):
        shown = source[0]
        back = cameras.world_to_camera(shown.world(), shown.camera.orientation, shown.camera.position)
        assert_allclose(back - shown.root[:, None], shown.joints, atol=1e-5)

    def test_without_videos(self):
        with pytest.raises(DataError, match="has no video"):
            SequenceSource("empty", H36M, 50.0, ())

    @pytest.mark.parametrize("field", ["keypoints", "joints", "root"])
    def test_shapes_and_numbers(self, field):
        good = video(5, 3)
        short = dataclasses.replace(good, **{field: getattr(good, field)[:4]})
        with pytest.raises(DataError, match=r"S3 Walking camera c3: field .* has shape"):
            SequenceSource("made up", H36M, 50.0, (good, short))
        values = getattr(good, field).copy()
        values[2] = np.nan
        with pytest.raises(DataError, match=f"{field!r} is not finite in frame 2"):
            SequenceSource("made up", H36M, 50.0, (dataclasses.replace(good, **{field: values}),))

    @pytest.mark.parametrize(
        ("action", "name"), [("Walking 1", "Walking"), ("Walking", "Walking"), ("01_02", "01_02"), ("a b 12", "a b")]
    )
    def test_action_of(self, action, name):
        assert sequences.action_of(action) == name

    def test_unknown_source(self):
        with pytest.raises(ConfigError, match="'coco', which has no sequences.* are cmu_mocap, h36m, marionettes$"):
            sequences.open_sequences(ConfigDict({"source": "coco"}), "train")


def marionettes(folder, **changes) -> ConfigDict:
    scene = {"scene": "sequence", "train": 2, "validation": 1, "frames": 10, "width": 320, "height": 240}
    fields = {"source": "marionettes", "dir": str(folder), "skeleton": "h36m", "marionettes": scene}
    return ConfigDict(fields | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("marionettes")


class TestMarionettes:
    def test_videos(self, folder):
        source = sequences.open_sequences(marionettes(folder), "train", progress=False)
        assert (len(source), len(source[0]), source.rate, source.skeleton) == (2, 10, 50.0, H36M)
        for shown in source.videos:
            exact = cameras.project(shown.joints + shown.root[:, None], shown.camera.intrinsics)
            error = np.linalg.norm(exact - shown.keypoints[..., :2], axis=-1)
            assert np.median(error) < 0.03
            assert np.corrcoef(error.ravel(), shown.keypoints[..., 2].ravel())[0, 1] < -0.5
            world = shown.world()
            assert (world[:, H36M.index("head_top"), 2] > world[:, H36M.index("left_ankle"), 2]).all()
            assert np.abs(world[..., 2].min()) < 0.3
            assert 1.0 < shown.root[:, 2].min() < shown.root[:, 2].max() < 20

    def test_all_joints(self, folder):
        shown = sequences.open_sequences(marionettes(folder, skeleton="marionette"), "validation", progress=False)[0]
        assert shown.keypoints.shape == (10, 25, 3)
        assert not shown.joints[:, MARIONETTE.index("pelvis")].any()

    def test_other_scenes_and_skeletons(self, folder):
        with pytest.raises(ConfigError, match=r"scene is 'single'; 3D lifting needs 'sequence'"):
            sequences.open_sequences(marionettes(folder, marionettes={"scene": "single"}), "train")
        with pytest.raises(ConfigError, match="have h36m or marionette"):
            sequences.open_sequences(marionettes(folder, skeleton="coco"), "train")
