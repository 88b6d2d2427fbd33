"""2D joints of other programs: frames and people of their files, the skeleton of the joints, and joints in between."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose import methods
from jaxpose import skeleton as skeletons
from jaxpose.errors import ConfigError, DataError
from jaxpose.inference import lifter
from jaxpose.methods.anatomy3d import tiny
from jaxpose.skeleton import COCO, CROWDPOSE, H36M, HALPE26, LSP, MARIONETTE, MPII, POSETRACK


def person(x: float, joints: int = 17) -> list[float]:
    """Joints in a row from x on, as a file has them."""
    return np.c_[x + np.arange(joints), 50 + 3 * np.arange(joints), np.full(joints, 0.9)].reshape(-1).tolist()


def write(path, *records):
    path.write_text(json.dumps(records))
    return path


def two_people(**fields) -> list[dict]:
    """Two people in three frames; functions of (frame, person) give the fields."""
    return [
        {"keypoints": person(x + frame), "score": 2.5} | {name: value(frame, who) for name, value in fields.items()}
        for frame in range(3)
        for who, x in ((1, 100.0), (2, 500.0))
    ]


IMAGES = {
    "number": lambda frame, _: frame,
    "name": lambda frame, _: f"{frame}.jpg",
    "padded": lambda frame, _: f"frame_{frame:06}.png",
    "text": lambda frame, _: str(frame),
    "folder": lambda frame, _: f"dance/take2_{frame}.jpg",
}
PEOPLE = {
    "number": lambda _, who: who,
    "list": lambda _, who: [who],
    "nested": lambda _, who: [[float(who)]],
    "fraction": lambda _, who: float(who),
}


class TestFramesAndPeople:
    @pytest.mark.parametrize("people", PEOPLE.values(), ids=PEOPLE)
    @pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
    def test_image_ids_are_frames_and_idx_is_who(self, tmp_path, image, people):
        path = write(tmp_path / "a.json", *two_people(image_id=image, idx=people))
        first, second = lifter.tracks(path, COCO)
        assert [(t.name, t.first, t.seen.tolist()) for t in (first, second)] == [
            ("1", 0, 3 * [True]),
            ("2", 0, 3 * [True]),
        ]
        assert first.keypoints[:, 0, 0].tolist() == [100, 101, 102]
        assert second.keypoints[:, 0, 0].tolist() == [500, 501, 502]

    @pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
    def test_two_people_of_an_image_are_never_one(self, tmp_path, image):
        path = write(tmp_path / "a.json", *two_people(image_id=image))
        with pytest.raises(DataError, match=r"object 1: two people in one image .*idx or track_id"):
            lifter.tracks(path, COCO)
        alone = write(tmp_path / "b.json", *two_people(image_id=image)[::2])
        (track,) = lifter.tracks(alone, COCO)
        assert track.keypoints[:, 0, 0].tolist() == [100, 101, 102]

    def test_one_number_for_everybody_is_no_track(self, tmp_path):
        path = write(tmp_path / "a.json", *two_people(image_id=IMAGES["name"], idx=lambda *_: [0.0]))
        with pytest.raises(DataError, match="person 0 is in frame 0 for the second time; give people tracks"):
            lifter.tracks(path, COCO)

    def test_gaps_between_images_are_gaps(self, tmp_path):
        records = [{"image_id": f"{t}.jpg", "keypoints": person(t)} for t in (12, 10)]
        (track,) = lifter.tracks(write(tmp_path / "a.json", *records), COCO)
        assert (track.first, track.seen.tolist()) == (10, [True, False, True])
        assert track.keypoints[:, 0, 0].tolist() == [10, 11, 12]

    def test_without_any_frame_they_are_numbered_as_they_come(self, tmp_path):
        (track,) = lifter.tracks(write(tmp_path / "a.json", *({"keypoints": person(x)} for x in (5, 7, 6))), COCO)
        assert track.keypoints[:, 0, 0].tolist() == [5, 7, 6]

    def test_objects_that_belong_to_nobody_are_counted(self, tmp_path, caplog):
        records = two_people(frame=IMAGES["number"], track_id=lambda _, who: 1 if who == 1 else None)
        del records[1]["track_id"]
        with caplog.at_level("INFO", "jaxpose"):
            (track,) = lifter.tracks(write(tmp_path / "a.json", *records), COCO)
        assert track.keypoints[:, 0, 0].tolist() == [100, 101, 102]
        assert "3 of 6 objects belong to nobody" in caplog.text

    def test_the_best_of_a_frame_counts_and_the_others_are_counted(self, tmp_path, caplog):
        records = two_people(frame=IMAGES["number"], score=lambda _, who: who / 2)
        (track,) = lifter.tracks(write(tmp_path / "a.json", *records), COCO)
        assert track.keypoints[:, 0, 0].tolist() == [500, 501, 502]
        assert "3 objects that score less" in caplog.text

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_id": "cover.jpg"}, "object 0: field 'image_id' is 'cover.jpg', expected the number of a frame"),
            ({"image_id": 1.5}, "'image_id' is 1.5, expected a whole number from 0"),
            ({"image_id": -1}, "'image_id' is -1"),
            ({"image_id": True}, "'image_id' is True"),
            ({"image_id": [1]}, r"'image_id' is \[1\]"),
            ({"image_id": None}, "'image_id' is missing"),
            ({"image_id": "9" * 30}, "'image_id' is '99999"),
            ({"image_id": "b/1.jpg"}, "images 'b/1.jpg' and 1 are both frame 1"),
            ({"idx": [1, 2]}, r"'idx' is \[1, 2\]"),
            ({"idx": True}, "'idx' is True"),
            ({"idx": 0.5}, "'idx' is 0.5"),
            ({"keypoints": None}, "'keypoints' is missing"),
            ({"keypoints": [1e300, *person(0)[1:]]}, r"'keypoints' holds 1e\+300, expected finite numbers"),
            ({"keypoints": [float("nan"), *person(0)[1:]]}, "'keypoints' holds nan"),
            ({"keypoints": person(0, 16)}, "'keypoints' has 48 numbers, expected 51"),
            ({"score": "good"}, "'score' is 'good'"),
            ({"time": -1}, "'time' is -1"),
        ],
    )
    def test_odd_fields(self, tmp_path, changes, message):
        good = {"image_id": 1, "idx": 1, "keypoints": person(0), "score": 1.0}
        path = write(tmp_path / "a.json", good | changes, good)
        with pytest.raises(DataError, match=message):
            lifter.tracks(path, COCO)

    @pytest.mark.parametrize("far", [2001, 10**6, 10**12, 2**62])
    @pytest.mark.parametrize("field", ["frame", "image_id"])
    def test_frames_far_apart(self, tmp_path, far, field):
        path = write(tmp_path / "a.json", *({field: t, "keypoints": person(0)} for t in (0, far)))
        with pytest.raises(DataError, match=rf"in 2 frames from 0 to {far}; .* 1,000 for each"):
            lifter.tracks(path, COCO)
        near = write(tmp_path / "b.json", *({field: far + t, "keypoints": person(0)} for t in (0, 1999)))
        (track,) = lifter.tracks(near, COCO)
        assert (track.first, len(track)) == (far, 2000)

    def test_several_people_without_frames(self, tmp_path):
        with pytest.raises(DataError, match="several people, but no 'frame' or 'image_id'"):
            lifter.tracks(write(tmp_path / "a.json", *two_people(idx=PEOPLE["number"])), COCO)

    def test_times_of_the_file(self, tmp_path):
        times = {0: 0.0, 1: 0.1, 3: 0.9}
        records = [{"frame": t, "time": time, "track_id": 1, "keypoints": person(t)} for t, time in times.items()]
        (track,) = lifter.tracks(write(tmp_path / "a.json", *records), COCO)
        assert track.times is not None
        assert_allclose(track.times, [0, 0.1, 0.5, 0.9])
        lifted = lifter.Lifted(np.zeros((4, 17, 3), np.float32), np.ones(4, bool))
        assert [entry["time"] for entry in lifter.to_json(track, lifted, 30.0)] == [0, 0.1, 0.9]
        del records[1]["time"]
        (track,) = lifter.tracks(write(tmp_path / "a.json", *records), COCO)
        assert [entry["time"] for entry in lifter.to_json(track, lifted, 10.0)] == [0, 0.1, 0.3]
        records[1]["time"] = 2.0
        with pytest.raises(DataError, match="'time' does not rise towards frame 3"):
            lifter.tracks(write(tmp_path / "a.json", *records), COCO)


class TestArrays:
    @pytest.mark.parametrize(
        ("keypoints", "message"),
        [
            (np.zeros((3, 17, 2)), r"shape \(3, 17, 2\)"),
            (np.zeros((0, 17, 3)), r"shape \(0, 17, 3\)"),
            (np.full((3, 17, 3), "x"), "<U1"),
            (np.full((3, 17, 3), np.nan), "finite numbers"),
            (np.full((3, 17, 3), 1e30), "finite numbers"),
            (np.zeros(()), r"shape \(\)"),
        ],
    )
    def test_odd_arrays(self, tmp_path, keypoints, message):
        np.savez(tmp_path / "a.npz", keypoints=keypoints)
        with pytest.raises(DataError, match=message):
            lifter.tracks(tmp_path / "a.npz", COCO)


class TestSkeletonOfAFile:
    def skeleton(self, path, own=H36M, name=None, **record):
        record = {"image_id": 1, "keypoints": person(0, record.pop("joints", 17))} | record
        return lifter.PoseFile(write(path / "a.json", record)).skeleton(own, name)

    @pytest.mark.parametrize("own", [H36M, COCO, POSETRACK])
    def test_joints_of_several_skeletons_are_never_guessed(self, tmp_path, own):
        with pytest.raises(DataError, match="17 joints could be coco, posetrack, h36m or ap10k; say which by --joints"):
            self.skeleton(tmp_path, own)
        assert self.skeleton(tmp_path, own, "coco") == COCO

    @pytest.mark.parametrize(("joints", "found"), [(16, MPII), (25, MARIONETTE), (26, HALPE26), (136, HALPE26)])
    def test_a_number_of_joints_that_one_skeleton_has(self, tmp_path, joints, found, caplog):
        with caplog.at_level("INFO", "jaxpose"):
            assert self.skeleton(tmp_path, joints=joints) == found
        assert f"joints are taken for those of {found.name!r}" in caplog.text
        (track,) = lifter.tracks(tmp_path / "a.json", found)
        assert track.keypoints.shape == (1, found.num_joints, 3)

    def test_what_the_file_says(self, tmp_path):
        assert self.skeleton(tmp_path, skeleton="coco") == COCO
        assert self.skeleton(tmp_path, name="coco", skeleton="coco") == COCO
        with pytest.raises(DataError, match="its joints are those of 'coco', but --joints says 'h36m'"):
            self.skeleton(tmp_path, name="h36m", skeleton="coco")
        with pytest.raises(ConfigError, match="unknown skeleton 'octopus'"):
            self.skeleton(tmp_path, skeleton="octopus")
        with pytest.raises(DataError, match="field 'skeleton' is 3"):
            self.skeleton(tmp_path, skeleton=3)

    @pytest.mark.parametrize("joints", [1, 5, 500])
    def test_a_number_of_joints_that_none_has(self, tmp_path, joints):
        with pytest.raises(DataError, match=f"{joints} joints could be those of no known skeleton"):
            self.skeleton(tmp_path, joints=joints)

    def test_several_in_one_file(self, tmp_path):
        records = [{"keypoints": person(0, 16), "skeleton": "mpii"}, {"keypoints": person(0, 17), "skeleton": "coco"}]
        with pytest.raises(DataError, match=r"several skeletons, 'mpii' \(object 0\) and 'coco' \(object 1\)"):
            lifter.PoseFile(write(tmp_path / "a.json", *records)).skeleton(H36M)
        records = [{"keypoints": each["keypoints"]} for each in records]
        with pytest.raises(DataError, match=r"several lengths, 48 \(object 0\) and 51 \(object 1\)"):
            lifter.PoseFile(write(tmp_path / "a.json", *records)).skeleton(H36M)


STANDING = {
    "pelvis": (100, 140), "spine": (100, 105), "thorax": (100, 70), "neck": (100, 63), "head": (100, 43),
    "head_top": (100, 27), "nose": (100, 40), "left_eye": (104, 37), "right_eye": (96, 37), "left_ear": (108, 43),
    "right_ear": (92, 43), "left_shoulder": (120, 70), "right_shoulder": (80, 70), "left_elbow": (130, 100),
    "right_elbow": (70, 100), "left_wrist": (135, 130), "right_wrist": (65, 130), "left_hip": (112, 140),
    "right_hip": (88, 140), "left_knee": (112, 190), "right_knee": (88, 190), "left_ankle": (112, 240),
    "right_ankle": (88, 240), "head_bottom": (100, 63),
}  # fmt: skip
EARS, FACE = {"left_ear", "right_ear"}, {"left_ear", "right_ear", "left_eye", "right_eye"}


def standing(skeleton, unseen) -> np.ndarray:
    """[2, K, 3] joints of somebody who stands for two frames."""
    one = [[*STANDING.get(j, (0, 0)), float(j in STANDING and j not in unseen)] for j in skeleton.joints]
    keypoints = np.array([one, one])
    return np.where(keypoints[..., 2:] > 0, keypoints, 0)


class TestJointsBetween:
    @pytest.mark.parametrize("unseen", [set(), EARS, FACE], ids=["all", "no ears", "no ears or eyes"])
    @pytest.mark.parametrize(
        "source", [COCO, MPII, LSP, CROWDPOSE, POSETRACK, MARIONETTE, H36M, HALPE26, skeletons.WHOLEBODY],
        ids=lambda skeleton: skeleton.name,
    )  # fmt: skip
    def test_somebody_who_stands(self, source, unseen):
        made = lifter.convert(lifter.fill(standing(source, unseen)), source, H36M)
        truth = np.array([STANDING[joint] for joint in H36M.joints])
        assert_allclose(made[..., :2], np.broadcast_to(truth, (2, 17, 2)), atol=6)
        assert (made[..., 2] == 1).all()

    def test_the_neck_is_the_bottom_of_the_head_either_way(self):
        assert lifter.joint_map(POSETRACK, H36M)[H36M.index("neck"), POSETRACK.index("head_bottom")] == 1
        assert lifter.joint_map(H36M, skeletons.Skeleton("one", ("head_bottom",), (), (0.1,), ()))[
            0, H36M.index("neck")
        ] == 1  # fmt: skip

    def test_what_nothing_seen_tells_is_in_the_middle_with_score_0(self):
        unseen = {"left_hip", "right_hip"}
        made = lifter.convert(lifter.fill(standing(COCO, unseen)), COCO, H36M)
        others = [i for i, joint in enumerate(H36M.joints) if made[0, i, 2] > 0]
        assert {H36M.joints[i] for i in range(17)} - {H36M.joints[i] for i in others} == unseen | {"pelvis", "spine"}
        assert_allclose(made[0, H36M.index("pelvis"), :2], made[0, others, :2].mean(0))


@pytest.fixture(scope="module")
def lift():
    method = methods.create({"name": "anatomy3d"} | tiny.FIELDS["anatomy3d"])
    return lifter.Lifter(None, method, method.init(jax.random.key(0)))  # pyright: ignore[reportArgumentType]


class TestTimes:
    """Joints are brought to the rate of training by the frames' times, and back."""

    @pytest.fixture
    def keypoints(self):
        """[21, 17, 3] at 50 frames a second; every other frame lies on a line between its neighbours."""
        rng = np.random.default_rng(0)
        steps = rng.uniform(0, 9, (11, 17, 3)).cumsum(0) + 200
        steps[..., 2] = rng.uniform(0.5, 1, (11, 17))
        made = np.repeat(steps, 2, 0)[:-1]
        made[1::2] = (steps[1:] + steps[:-1]) / 2
        return made

    def test_frames_of_the_rate_are_as_without_times(self, lift, keypoints):
        plain = lift(keypoints, (640, 480))
        timed = lift(keypoints, (640, 480), times=7 + np.arange(21) / 50)
        assert_array_equal(timed.joints, plain.joints)

    @pytest.mark.parametrize("kept", [np.arange(0, 21, 2), np.r_[0:10:2, 10:21:1], np.r_[0, 2, 3, 4, 6, 8:21]])
    def test_fewer_frames_are_lifted_as_all_of_them(self, lift, keypoints, kept):
        whole = lift(keypoints, (640, 480))
        some = lift(keypoints[kept], (640, 480), times=3 + kept / 50)
        assert_allclose(some.joints, whole.joints[kept], atol=0.01)
        assert some.valid.all()

    def test_more_frames_than_the_rate(self, lift, keypoints):
        doubled = lifter.between(keypoints, np.arange(21.0), np.arange(0, 20.5, 0.5))
        whole, fine = lift(keypoints, (640, 480)), lift(doubled, (640, 480), times=np.arange(41) / 100)
        assert_allclose(fine.joints[::2], whole.joints, atol=0.01)

    def test_one_frame(self, lift, keypoints):
        assert_array_equal(
            lift(keypoints[:1], (640, 480), times=np.array([5.0])).joints, lift(keypoints[:1], (640, 480)).joints
        )

    @pytest.mark.parametrize(
        ("times", "message"),
        [([0, 1, 1], "rise"), ([0, np.nan, 1], "finite"), ([0, 1, 1e9], "at 50 a second; at most 1,000,000")],
    )
    def test_odd_times(self, lift, keypoints, times, message):
        with pytest.raises(DataError, match=message):
            lift(keypoints[:3], (640, 480), times=np.array(times, float))
