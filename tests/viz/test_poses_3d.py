"""3D poses drawn from any side, and moving pictures of them."""

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from jaxpose.data.examples.sequences import quaternion
from jaxpose.errors import DataError
from jaxpose.skeleton import H36M
from jaxpose.viz import animation, poses_3d
from jaxpose.viz.overlay import LIMB_COLORS
from jaxpose.viz.poses_3d import Viewpoint

POSE = np.random.default_rng(0).normal(0, 300, (17, 3))
FLAT = Viewpoint(elevation=0.0, extent=1000.0, side=201)
"""Looked at from where the camera is; the middle of the picture is pixel (100, 100)."""


def near(picture: np.ndarray, color, tolerance: int = 40) -> np.ndarray:
    """[n, 2] (x, y) of the pixels that have almost that colour."""
    rows, columns = np.nonzero((np.abs(picture.astype(int) - color) < tolerance).all(-1))
    return np.stack([columns, rows], -1)


class TestViewpoint:
    @pytest.mark.parametrize(
        ("azimuth", "elevation", "point", "direction"),
        [
            (0, 0, (100, 0, 0), (1, 0)),
            (0, 0, (0, 100, 0), (0, 1)),
            (90, 0, (0, 0, 100), (1, 0)),
            (180, 0, (100, 0, 0), (-1, 0)),
            (0, 90, (0, 0, 100), (0, -1)),
        ],
    )
    def test_sides(self, azimuth, elevation, point, direction):
        view = Viewpoint(azimuth=azimuth, elevation=elevation, extent=1000.0, side=201)
        pixels, _ = view.project(np.array(point, float))
        assert_allclose(pixels - 100, 10 * np.array(direction), atol=0.4)

    def test_near_things_are_larger(self):
        _, size = FLAT.project(np.array([[0, 0, -500], [0, 0, 0], [0, 0, 500]]))
        assert size[0] > size[1] == 1 > size[2]

    @settings(deadline=None, max_examples=30)
    @given(azimuth=st.floats(-180, 180), elevation=st.floats(-30, 40), seed=st.integers(0, 100))
    def test_around_shows_almost_everything_from_any_side(self, azimuth, elevation, seed):
        rng = np.random.default_rng(seed)
        poses = rng.normal(0, 300, (4, 17, 3)) + rng.normal(0, 500, 3)
        view = Viewpoint.around(poses, azimuth=azimuth, elevation=elevation)
        pixels, _ = view.project(poses)
        assert ((pixels > 0) & (pixels < view.side - 1)).all(-1).mean() > 0.95
        assert view.floor == pytest.approx(poses[..., 1].max(), abs=200)

    def test_around_nothing(self):
        assert Viewpoint.around(np.full((2, 17, 3), np.nan), side=64) == Viewpoint(side=64)


class TestLevelled:
    @settings(deadline=None)
    @given(angles=st.tuples(*[st.floats(-170, 170)] * 3))
    def test_up_is_up_and_nothing_is_bent(self, angles):
        to_world = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        up_in_camera = to_world.T @ [0, 0, 1.0]
        turned = poses_3d.levelled(np.stack([up_in_camera, *np.eye(3)]), quaternion(to_world))
        assert_allclose(turned[0], [0, -1, 0], atol=1e-4)
        assert_allclose(turned[1:] @ turned[1:].T, np.eye(3), atol=1e-5)
        assert np.linalg.det(turned[1:]) > 0

    def test_a_camera_that_is_level_changes_nothing(self):
        level = quaternion(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
        assert_allclose(poses_3d.levelled(POSE, level), POSE, atol=1e-3)

    def test_a_camera_upside_down(self):
        upside_down = quaternion(np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]]))
        assert_allclose(poses_3d.levelled(POSE, upside_down), POSE * [-1, -1, 1], atol=1e-3)


class TestDrawing:
    def one_limb(self, side: str, at: float = 0.0) -> np.ndarray:
        pose = np.full((17, 3), np.nan)
        pose[H36M.index(f"{side}_hip")], pose[H36M.index(f"{side}_knee")] = (at, -300, 0), (at, 300, 0)
        return pose

    def test_sides_have_their_colours_where_they_are(self):
        for side, at in (("left", 500.0), ("right", -500.0)):
            picture = poses_3d.draw_pose_3d(self.one_limb(side, at), H36M, FLAT)
            middle = near(picture, LIMB_COLORS[side]).mean(0)
            assert_allclose(middle, [100 + at / 10, 100], atol=1)

    def test_missing_joints_are_left_out(self):
        picture = poses_3d.draw_pose_3d(np.full((17, 3), np.nan), H36M, FLAT)
        assert_array_equal(picture, np.full_like(picture, poses_3d.BACKGROUND))

    def test_truth_lies_behind(self):
        pose, truth = self.one_limb("left"), self.one_limb("left", 400.0)
        alone, both = (poses_3d.draw_pose_3d(pose, H36M, FLAT, true) for true in (None, truth))
        changed = np.nonzero((alone != both).any((0, 2)))[0]
        assert_allclose([changed.min(), changed.max()], 140, atol=3)
        assert both[100, 140].min() > 60
        covered = poses_3d.draw_pose_3d(pose, H36M, FLAT, pose)
        assert_allclose(covered.astype(int), alone.astype(int), atol=3)

    def test_the_floor_is_below(self):
        view = Viewpoint(elevation=20.0, extent=1000.0, floor=800.0, side=201)
        picture = poses_3d.draw_pose_3d(np.full((17, 3), np.nan), H36M, view)
        assert near(picture, poses_3d.LINES, 4)[:, 1].min() > 110

    def test_poses_that_do_not_fit(self):
        with pytest.raises(ValueError, match=r"truth has shape \(16, 3\)"):
            poses_3d.draw_pose_3d(POSE, H36M, FLAT, POSE[1:])

    @pytest.mark.parametrize("shape", [(100, 50, 3), (50, 400, 3), (7, 7, 3)])
    def test_fit_is_square_and_centred(self, shape):
        picture = poses_3d.fit(np.full(shape, 255, np.uint8), 120)
        assert picture.shape == (120, 120, 3)
        white = near(picture, (255, 255, 255), 60)
        assert_allclose(white.mean(0), [59.5, 59.5], atol=1)
        assert np.ptp(white, axis=0).max() >= 117

    def test_keypoints_are_where_the_region_has_them(self):
        keypoints, scores = np.full((17, 2), 30.0), np.eye(17)[3]
        picture = poses_3d.draw_keypoints(keypoints, scores, (10.0, 20.0, 40.0, 40.0), H36M, 200)
        bright = near(picture, (255, 255, 255), 60).mean(0)
        assert_allclose(bright, [102, 52], atol=1.5)

    @given(seed=st.integers(0, 1000))
    def test_square_around(self, seed):
        points = np.random.default_rng(seed).normal(0, 50, (6, 17, 2))
        x, y, width, height = poses_3d.square_around(points)
        assert width == height
        assert (points > [x, y]).all()
        assert (points < [x + width, y + height]).all()

    def test_side_by_side_has_one_size(self):
        left = np.zeros((FLAT.side, FLAT.side, 3), np.uint8)
        shapes = {poses_3d.side_by_side(left, pose, H36M, FLAT).shape for pose in (POSE, None)}
        assert len(shapes) == 1


def frames(count: int, shape: tuple[int, int] = (64, 80)) -> list[np.ndarray]:
    """A white square that moves to the right on grey."""
    pictures = []
    for t in range(count):
        picture = np.full((*shape, 3), 60, np.uint8)
        picture[20:40, 5 * t : 5 * t + 20] = 250
        pictures.append(picture)
    return pictures


@pytest.fixture(params=["PyAV", "OpenCV"])
def films(request, monkeypatch):
    """Films written by either."""
    if request.param == "OpenCV":
        monkeypatch.setattr(animation, "has_h264", lambda: False)
    elif not animation.has_h264():
        pytest.skip("PyAV with H.264 is not installed")
    return request.param


def read_film(path) -> tuple[list[np.ndarray], list[float]]:
    """The frames of a film and their times in seconds."""
    video = cv2.VideoCapture(str(path))
    found, times = [], []
    while (read := video.read())[0]:
        found.append(read[1])
        times.append(video.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return found, times


class TestFilms:
    @pytest.mark.parametrize("shape", [(64, 80), (65, 81)])
    def test_frames_at_a_constant_rate(self, tmp_path, films, shape):
        animation.write_animation(tmp_path / "a.mp4", frames(6, shape), 10.0)
        found, times = read_film(tmp_path / "a.mp4")
        assert_allclose(times, np.arange(6) / 10, atol=1e-3)
        for picture, expected in zip(found, frames(6), strict=True):
            assert np.abs(picture.astype(int) - expected).mean() < 6

    @pytest.mark.parametrize("offset", [0.0, 7.0])
    def test_frames_come_at_their_times(self, tmp_path, films, offset):
        shown_at = offset + np.array([0, 0.1, 0.2, 0.6, 0.7, 1.2])
        animation.write_animation(tmp_path / "a.mp4", frames(6), 10.0, shown_at)
        found, times = read_film(tmp_path / "a.mp4")
        for time, expected in zip(shown_at - offset, frames(6), strict=True):
            shown = found[int(np.searchsorted(times, time + 0.01)) - 1]
            assert np.abs(shown.astype(int) - expected).mean() < 6
        assert times[-1] == pytest.approx(1.2, abs=0.01)
        assert len(found) == (6 if films == "PyAV" else 13)

    def test_browsers_play_it(self, tmp_path, films):
        animation.write_animation(tmp_path / "a.mp4", frames(2), 10.0)
        code = int(cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
        assert code.lower() == (b"h264" if films == "PyAV" else b"fmp4") or code == b"avc1"

    def test_a_gap_of_hours_is_shortened(self, tmp_path, films):
        animation.write_animation(tmp_path / "a.mp4", frames(2), 10.0, [0.0, 1e9])
        assert read_film(tmp_path / "a.mp4")[1][-1] == pytest.approx(animation.LONGEST, abs=0.01)

    @pytest.mark.parametrize("rate", [1e9, np.nan, np.inf, 0.0])
    def test_rates_that_no_video_has(self, tmp_path, films, rate):
        animation.write_animation(tmp_path / "a.mp4", frames(3), rate)
        assert_allclose(read_film(tmp_path / "a.mp4")[1], np.arange(3) / animation.USUAL, atol=1e-3)


class TestAnimation:
    @pytest.mark.parametrize("suffix", animation.SUFFIXES)
    @pytest.mark.parametrize("shape", [(64, 80), (65, 81)])
    def test_written_frames_can_be_read(self, tmp_path, suffix, shape):
        path = tmp_path / f"moving{suffix}"
        assert animation.write_animation(path, iter(frames(6, shape)), 10.0) == 6
        video = cv2.VideoCapture(str(path))
        found = [picture for good, picture in iter(video.read, (False, None)) if good]
        assert len(found) == 6
        for picture, expected in zip(found, frames(6), strict=True):
            assert picture.shape == (64, 80, 3)
            assert np.abs(picture.astype(int) - expected).mean() < 6

    def test_frames_of_a_gif_stay_until_the_next(self):
        assert animation._durations([0.0, 0.1, 0.5], 10.0) == pytest.approx([0.1, 0.4, 0.1])
        assert animation._durations([None, None], 10.0) == [0.1, 0.1]

    @pytest.mark.parametrize("suffix", animation.SUFFIXES)
    def test_no_frame(self, tmp_path, suffix):
        with pytest.raises(DataError, match="there is no frame"):
            animation.write_animation(tmp_path / f"none{suffix}", iter(()), 10.0)

    def test_another_format(self, tmp_path):
        with pytest.raises(DataError, match=r"written as .mp4 or .gif"):
            animation.write_animation(tmp_path / "moving.avi", iter(frames(2)), 10.0)

    def test_frames_of_two_sizes(self, tmp_path):
        with pytest.raises(DataError, match="but the first one"):
            animation.write_animation(tmp_path / "moving.mp4", [*frames(2), *frames(1, (60, 80))], 10.0)
