"""Body, motion and camera: proportions hold, joints bend the right way, feet stay on the floor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose import skeleton
from jaxpose.marionettes.body import ANGLE, ANGLES, HIGHEST, JOINTS, LOWEST, contacts, pose_body, random_shape
from jaxpose.marionettes.camera import look_at, orbit
from jaxpose.marionettes.exact import Random
from jaxpose.marionettes.motion import ACTIONS, GAITS, collision, random_motion, stand_on_floor

LEFT_RIGHT = skeleton.MARIONETTE.flip_index


def joint(body, name):
    return body.joints[:, JOINTS.index(name)]


def rest(**angles):
    pose = np.zeros((1, len(ANGLES)))
    for name, value in angles.items():
        pose[0, ANGLE[name]] = value
    return pose_body(random_shape(Random(3)), pose)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_bones_keep_their_length_in_any_pose(seed):
    rng = np.random.default_rng(seed)
    shape = random_shape(Random(seed))
    body = pose_body(shape, rng.uniform(np.maximum(LOWEST, -180), np.minimum(HIGHEST, 180), (4, len(ANGLES))))
    for a, b, length in (
        ("left_shoulder", "left_elbow", shape.upper_arm),
        ("right_elbow", "right_wrist", shape.forearm),
        ("left_hip", "left_knee", shape.thigh),
        ("right_knee", "right_ankle", shape.shin),
        ("pelvis", "spine", shape.belly),
        ("spine", "thorax", shape.chest),
        ("left_hip", "right_hip", 2 * shape.hip_half),
    ):
        np.testing.assert_allclose(np.linalg.norm(joint(body, a) - joint(body, b), axis=-1), length, rtol=1e-9)
    np.testing.assert_allclose(
        body.rotation @ np.swapaxes(body.rotation, -1, -2), np.eye(3) + np.zeros((4, 18, 3, 3)), atol=1e-9
    )


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_a_mirrored_pose_gives_mirrored_joints(seed):
    rng = np.random.default_rng(seed)
    pose = rng.uniform(np.maximum(LOWEST, -180), np.minimum(HIGHEST, 180), (1, len(ANGLES)))
    mirrored = pose.copy()
    for name, i in ANGLE.items():
        side, _, part = name.partition("_")
        if side in ("left", "right"):
            mirrored[:, i] = pose[:, ANGLE[f"{'right' if side == 'left' else 'left'}_{part}"]]
        elif name in ("yaw", "roll") or name.endswith(("side", "twist")):
            mirrored[:, i] = -pose[:, i]
    shape = random_shape(Random(seed))
    expected = pose_body(shape, pose).joints[:, LEFT_RIGHT] * np.array([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(pose_body(shape, mirrored).joints, expected, atol=1e-6)


def test_the_body_frame_is_left_up_forward():
    body = rest()
    assert joint(body, "left_shoulder")[0, 0] > 0 > joint(body, "right_shoulder")[0, 0]
    assert joint(body, "head_top")[0, 1] > joint(body, "pelvis")[0, 1] > joint(body, "left_ankle")[0, 1]
    assert joint(body, "nose")[0, 2] > joint(body, "left_ear")[0, 2]
    assert joint(body, "left_toe")[0, 2] > joint(body, "left_ankle")[0, 2]


def test_joints_bend_the_way_people_do():
    plain = rest()
    assert joint(rest(left_elbow=90.0), "left_wrist")[0, 2] > joint(plain, "left_wrist")[0, 2] + 100  # forward
    assert joint(rest(right_knee=90.0), "right_ankle")[0, 2] < joint(plain, "right_ankle")[0, 2] - 100  # backward
    assert joint(rest(left_hip_flex=90.0), "left_knee")[0, 2] > 200
    assert joint(rest(right_shoulder_abduct=90.0), "right_wrist")[0, 0] < joint(plain, "right_wrist")[0, 0] - 200
    assert joint(rest(left_shoulder_abduct=90.0), "left_wrist")[0, 0] > joint(plain, "left_wrist")[0, 0] + 200
    assert joint(rest(spine_flex=60.0), "nose")[0, 2] > joint(plain, "nose")[0, 2] + 100
    assert joint(rest(yaw=90.0), "nose")[0, 0] > 50  # turns to the own left


def test_joint_order_is_the_one_of_the_skeleton():
    assert skeleton.MARIONETTE.joints == JOINTS
    assert JOINTS[:17] == skeleton.COCO.joints


@pytest.mark.parametrize("action", [*ACTIONS, *GAITS])
def test_motion_is_smooth_inside_the_limits_and_on_the_floor(action):
    rng = Random(11, len(action))
    shape = random_shape(rng)
    times = np.arange(60) / 50.0
    pose = random_motion(rng, shape, action, keys=4).angles(times)
    assert (pose >= LOWEST).all()
    assert (pose <= HIGHEST).all()
    assert np.abs(np.diff(pose, axis=0)).max() < 25.0  # degrees in 20 ms
    body = pose_body(shape, pose)
    root = stand_on_floor(shape, body)
    world = body.joints + root[:, None]
    assert world[..., 1].min() > -15.0
    assert (
        world[:, [JOINTS.index("left_ankle"), JOINTS.index("right_ankle")], 1].min(axis=1) < 0.5 * shape.height
    ).all()
    assert np.abs(np.diff(world, axis=0)).max() < 320.0  # mm in 20 ms


@pytest.mark.parametrize(("gait", "slowest", "fastest"), [("walk", 0.4, 1.8), ("run", 0.9, 4.5)])
def test_a_gait_advances_and_its_soles_do_not_slide(gait, slowest, fastest):
    for seed in range(4):
        rng = Random(seed)
        shape = random_shape(rng)
        body = pose_body(shape, random_motion(rng, shape, gait).angles(np.arange(100) / 50.0))
        root = stand_on_floor(shape, body)
        speed = (root[-1, 2] - root[0, 2]) / 1000 / (99 / 50)
        assert slowest < speed < fastest  # metres a second, forward
        points = contacts(shape, body) + root[:, None]
        lowest = points[..., 1].argmin(axis=1)
        np.testing.assert_allclose(points[..., 1].min(axis=1), 0.0, atol=1e-9)
        kept = lowest[1:] == lowest[:-1]
        slide = np.linalg.norm(np.diff(points, axis=0)[np.arange(99), lowest[1:]][:, [0, 2]], axis=-1)[kept]
        assert np.median(slide) * 50 / 1000 < 0.15 * speed


def test_arms_keep_out_of_the_trunk():
    deep = 0
    for seed in range(30):
        rng = Random(seed)
        shape = random_shape(rng)
        motion = random_motion(rng, shape, "dance" if seed % 2 else "stand")
        deep += float(collision(shape, pose_body(shape, motion.angles(np.zeros(1))))[0]) > 0.5
    assert deep <= 2


def test_people_differ_and_are_people():
    shapes = [random_shape(Random(i)) for i in range(300)]
    heights = np.array([s.height for s in shapes])
    assert heights.min() > 1000
    assert heights.max() < 2000
    assert heights.std() > 80
    for s in shapes:
        body = pose_body(s, np.zeros((1, len(ANGLES))))
        tall = joint(body, "head_top")[0, 1] - joint(body, "left_ankle")[0, 1] + s.ankle_height
        assert 0.9 < tall / s.height < 1.12
        assert 0.95 * s.height < np.ptp(body.joints[0, :, 1]) + s.height * 0.1


@given(st.floats(-180, 180), st.floats(-20, 60), st.floats(1500, 9000), st.floats(-20, 20))
def test_a_camera_shows_its_target_in_the_middle_and_up_is_up(azimuth, elevation, distance, roll):
    target = np.array([120.0, 900.0, -300.0])
    camera = look_at(orbit(target, azimuth, elevation, distance), target, 200.0, (79.5, 59.5), roll)
    seen = camera.to_camera(target)
    np.testing.assert_allclose(seen, [0.0, 0.0, distance], atol=1e-5)
    np.testing.assert_allclose(camera.to_pixels(seen), [79.5, 59.5], atol=1e-6)
    assert np.linalg.det(camera.rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(camera.position, orbit(target, azimuth, elevation, distance), atol=1e-5)
    above = camera.to_pixels(camera.to_camera(target + np.array([0.0, 10.0, 0.0])))
    assert above[1] < 59.5
    homogeneous = camera.intrinsics @ camera.to_camera(target + 50.0)
    np.testing.assert_allclose(homogeneous[:2] / homogeneous[2], camera.to_pixels(camera.to_camera(target + 50.0)))


def test_the_left_hand_of_someone_who_faces_the_camera_is_on_the_right_of_the_picture():
    camera = look_at(orbit(np.zeros(3), 0.0, 0.0, 4000.0), np.zeros(3), 100.0, (50.0, 50.0))
    x = camera.to_pixels(camera.to_camera(rest().joints[0]))[:, 0]
    assert x[JOINTS.index("left_wrist")] > x[JOINTS.index("right_wrist")]
