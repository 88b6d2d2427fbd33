"""Pictures and their annotations agree with one another, with the camera, and with what is drawn."""

import numpy as np
import pytest

from jaxpose.marionettes import MarionettesConfig, picture, scenes, sequence
from jaxpose.marionettes.body import JOINTS
from jaxpose.marionettes.camera import look_at
from jaxpose.marionettes.exact import Random
from jaxpose.marionettes.looks import block, make_stage, stacked
from jaxpose.marionettes.render import joined, rasterise
from jaxpose.marionettes.shots import LEAST_AREA, LEAST_JOINTS, Shot, _joints, take
from jaxpose.marionettes.staging import NOW, FilmSet, cast
from jaxpose.marionettes.visibility import HOME, seen

FACE = [JOINTS.index(name) for name in ("nose", "left_eye", "right_eye")]


def test_pictures_have_the_promised_form(shots, scene):
    config, pictures = shots
    assert len(pictures) == (6 if scene != "clip" else 2 * config.frames)
    for p in pictures:
        n = len(p.box)
        assert p.image.shape == (config.height, config.width, 3)
        assert p.image.dtype == np.uint8
        assert p.image.std() > 5.0
        assert p.joints_2d.shape == p.joints_3d.shape == (n, 25, 3)
        assert p.track_id.shape == p.area.shape == p.crowd.shape == (n,)
        assert len(set(p.track_id.tolist())) == n
        if scene != "clip":
            assert not p.crowd.any()
            assert config.people[0] <= n


def test_projections_are_exact(shots):
    for p in shots[1]:
        homogeneous = p.joints_3d @ p.intrinsics.T
        np.testing.assert_allclose(homogeneous[..., :2] / homogeneous[..., 2:], p.joints_2d[..., :2], atol=2e-2)
        assert (p.joints_3d[..., 2] > 0).all()
        np.testing.assert_allclose(p.rotation @ p.rotation.T, np.eye(3), atol=1e-6)
        world = (p.joints_3d - p.translation) @ p.rotation
        assert world[..., 1].min(initial=0.0) > -20.0  # nobody stands in the floor


def test_boxes_and_visibility_fit(shots):
    config, pictures = shots
    for p in pictures:
        x, y, v = np.moveaxis(p.joints_2d, -1, 0)
        inside = (x >= -0.5) & (y >= -0.5) & (x < config.width - 0.5) & (y < config.height - 0.5)
        np.testing.assert_array_equal(v > 0, inside & ~p.crowd[:, None])
        left, top, width, height = p.box.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (left + width <= config.width).all()
        assert (top + height <= config.height).all()
        assert (p.area <= width * height).all()
        assert (p.area >= LEAST_AREA)[~p.crowd].all()
        assert ((v[:, :17] > 0).sum(axis=1) >= LEAST_JOINTS)[~p.crowd].all()
        near = 2.0  # a joint at a limb's rim may project just outside the silhouette
        within = (
            (x >= left[:, None] - 0.5 - near)
            & (x <= (left + width)[:, None] - 0.5 + near)
            & (y >= top[:, None] - 0.5 - near)
            & (y <= (top + height)[:, None] - 0.5 + near)
        )
        assert within[v == 2].all()


def test_seen_joints_are_owned_by_their_person_in_the_depth_buffer():
    owned = total = 0
    for index in range(8):
        config = MarionettesConfig(scene="crowd", width=200, height=160, people=(3, 5), occlusion=1.0)
        shot = scenes.crowd(config, Random(1, index))
        camera, size = shot.camera(0), (config.width, config.height)
        solids = joined([*shot.scene.people(0), shot.scene.things(0)]).moved(camera.rotation, camera.translation)
        owner = rasterise(solids, camera.rays(*size, 1)).owner
        person, part = np.append(solids.person, -1), np.append(solids.part, -1)
        flat, _ = _joints(shot.scene, 0, solids, camera, size)
        for number, joint in zip(*np.nonzero(flat[..., 2] == 2), strict=True):
            column, row = np.rint(flat[number, joint, :2]).astype(int)
            around = owner[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            total += 1
            owned += bool(((person[around] == number) & HOME[joint, part[around]]).any())
    assert total > 300
    assert owned / total > 0.97


def person(heading, occluder=None):
    """Visibility [25] of someone who stands at the origin, seen from the front at eye height."""
    scene = FilmSet(NOW)
    scene.add(Random(7), cast(Random(21), "stand", heading, NOW, np.zeros(3)))
    joints = scene.actors[0].joints(0)
    camera = look_at(joints[0] * [0, 1, 0] + [0, 0, 4000.0], joints[0] * [0, 1, 0], 150.0, (80.0, 40.0))
    groups = scene.people(0)
    if occluder is not None:
        groups.append(stacked([(*occluder, 0)]))
    solids = joined(groups).moved(camera.rotation, camera.translation)
    return seen(camera.to_camera(joints)[None], solids, [scene.actors[0].shape])[0]


def test_a_face_is_seen_from_the_front_only():
    front, back = person(0.0), person(180.0)
    assert front[FACE].all()
    assert not back[FACE].any()
    for name in ("left_shoulder", "right_shoulder", "left_knee", "right_ankle"):
        assert front[JOINTS.index(name)]
        assert back[JOINTS.index(name)]


def test_the_far_side_of_a_profile_is_hidden():
    profile = person(90.0)  # turned to the own left: the right side is near the camera
    assert profile[JOINTS.index("right_ear")]
    assert profile[JOINTS.index("right_shoulder")]
    assert not profile[JOINTS.index("left_ear")]
    assert not profile[JOINTS.index("left_shoulder")]


def test_a_thing_in_front_hides_joints_and_one_behind_does_not():
    size, upright = np.array([600.0, 400.0, 30.0]), np.eye(3)
    before = person(0.0, block(np.array([0.0, 400.0, 800.0]), size, upright))
    behind = person(0.0, block(np.array([0.0, 400.0, -800.0]), size, upright))
    for name in ("left_knee", "right_knee", "left_ankle"):
        assert not before[JOINTS.index(name)]
        assert behind[JOINTS.index(name)]
    assert before[FACE].all()


def test_a_picture_depends_on_split_index_and_seed_and_on_nothing_else():
    config = MarionettesConfig(width=64, height=64, train=3, validation=3)
    first = picture(config, "train", 1)
    picture(config, "train", 2)
    again = picture(MarionettesConfig(width=64, height=64, train=900, validation=3), "train", 1)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.joints_2d, again.joints_2d)
    for other in (
        picture(config, "train", 0),
        picture(config, "validation", 1),
        picture(MarionettesConfig(width=64, height=64, train=3, seed=1), "train", 1),
    ):
        assert not np.array_equal(first.image, other.image)
        assert not np.array_equal(first.joints_3d[0], other.joints_3d[0])


def test_people_without_annotation_are_not_drawn():
    config = MarionettesConfig(width=96, height=96)
    scene = FilmSet(NOW)
    scene.add(Random(1), cast(Random(2), "stand", 0.0, NOW, np.zeros(3)))
    camera = look_at(np.array([0.0, 900.0, 4000.0]), np.array([0.0, 900.0, 0.0]), 180.0, (47.5, 47.5))
    stage = make_stage("studio", Random(3), 0.0, np.zeros((1, 3)))
    alone = take(Shot(scene, stage, lambda moment: camera), config, Random(4))
    scene.add(Random(5), cast(Random(6), "stand", 0.0, NOW, np.array([60000.0, 0.0, -220000.0])))  # a speck far away
    both = take(Shot(scene, stage, lambda moment: camera), config, Random(4))
    assert both.track_id.tolist() == alone.track_id.tolist() == [0]
    np.testing.assert_array_equal(alone.image, both.image)
    far = look_at(np.array([0.0, 900.0, 400000.0]), np.array([0.0, 900.0, 0.0]), 180.0, (47.5, 47.5))
    assert take(Shot(scene, stage, lambda moment: far), config, Random(4)) is None


def test_clips_move_and_keep_their_people(clips):
    config, frames = clips
    for start in range(0, len(frames), config.frames):
        clip = frames[start : start + config.frames]
        assert set(clip[0].track_id) & set(clip[-1].track_id)
        for before, after in zip(clip[:-1], clip[1:], strict=True):
            assert not np.array_equal(before.image, after.image)
            for number in set(before.track_id) & set(after.track_id):
                a = before.joints_3d[before.track_id == number][0] @ before.rotation
                b = after.joints_3d[after.track_id == number][0] @ after.rotation
                bones = [np.linalg.norm(j[JOINTS.index("left_knee")] - j[JOINTS.index("left_hip")]) for j in (a, b)]
                assert bones[0] == pytest.approx(bones[1], rel=1e-4)


def test_sequences_are_projections_with_detector_noise():
    config = MarionettesConfig(scene="sequence", width=1000, height=1000, frames=40, train=4, validation=2)
    for split, index in (("train", 0), ("train", 3), ("validation", 1)):
        s = sequence(config, split, index)
        homogeneous = s.joints_3d @ s.intrinsics.T
        np.testing.assert_allclose(homogeneous[..., :2] / homogeneous[..., 2:], s.joints_2d[..., :2], atol=5e-2)
        assert s.joints_2d.shape == s.joints_3d.shape == (40, 25, 3)
        assert s.visibility_score.shape == (40, 25)
        assert (s.visibility_score > 0).all()
        assert (s.visibility_score < 1).all()
        error = np.linalg.norm(s.detections - s.joints_2d[..., :2], axis=-1)
        seen_now = s.joints_2d[..., 2] == 2
        assert 0.2 < seen_now.mean() < 1.0
        assert error[seen_now].mean() < 0.5 * error[~seen_now].mean()
        assert s.visibility_score[seen_now].mean() > s.visibility_score[~seen_now].mean() + 0.2
        assert np.linalg.norm(np.diff(s.joints_3d, axis=0), axis=-1).max() < 400.0
        assert (s.subject < 8) == (split == "train")


def test_wrong_questions_get_clear_answers():
    config = MarionettesConfig(train=2)
    with pytest.raises(IndexError, match="index 2, expected 0 to 1"):
        picture(config, "train", 2)
    with pytest.raises(ValueError, match="'test', expected one of train, validation"):
        picture(config, "test", 0)
    with pytest.raises(ValueError, match="no pictures"):
        picture(MarionettesConfig(scene="sequence", frames=9), "train", 0)
    with pytest.raises(ValueError, match="expected 'sequence'"):
        sequence(config, "train", 0)
    for field, value in (
        ("scene", "party"),
        ("look", "noir"),
        ("width", 8),
        ("frames", 4),
        ("people", (0, 2)),
        ("people", (2, 4)),
        ("occlusion", 1.5),
        ("seed", -1),
    ):
        with pytest.raises(ValueError, match=rf"MarionettesConfig.{field}: found .* expected"):
            MarionettesConfig(**{field: value})


def test_fingerprints_tell_configurations_apart():
    changes = ({}, {"seed": 1}, {"look": "street"}, {"train": 9}, {"occlusion": 0.3}, {"width": 161})
    prints = {MarionettesConfig(**change).fingerprint() for change in changes}
    assert len(prints) == len(changes)
    assert (
        MarionettesConfig(scene="crowd", people=[2, 3]).fingerprint()
        == MarionettesConfig(scene="crowd", people=(2, 3)).fingerprint()
    )
