"""Videos: frames with their neighbours, people who come and go, bounded memory, and the command."""

import dataclasses
import json
import re
import struct
import weakref
from fractions import Fraction

import cv2
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bright_boxes import BrightBoxes
from bright_spot import VARIABLES, BrightSpot, around, picture
from hypothesis import strategies as st

from jaxpose.cli import inputs, predict
from jaxpose.data.examples.clips import Videos
from jaxpose.errors import DataError, ImageError
from jaxpose.evaluation.tracking import OneEuro, TrackerOptions
from jaxpose.inference import video
from jaxpose.inference.predictor import Predictor
from jaxpose.inference.video import Frame, follow, with_neighbours
from jaxpose.methods.top_down import ClipInput
from jaxpose.runs import startup
from jaxpose.viz import draw_boxes


@dataclasses.dataclass(frozen=True)
class ClipSpot(BrightSpot, ClipInput):
    """Puts joints 0, 1, 2 on the brightest pixel of the current, previous and next frame, and joint 3 at the margin."""

    def spec(self, batch_size):
        stream = super().spec(batch_size)["source"]
        image = jax.ShapeDtypeStruct((batch_size, 3, *stream["image"].shape[1:]), jnp.uint8)
        return {"source": stream | {"image": image, "margin": jax.ShapeDtypeStruct((batch_size, 2), jnp.float32)}}

    def predict(self, variables, batch):
        crops = batch["source"]
        frames = [super(ClipSpot, self).predict(variables, {"source": crops | {"image": i}}) for i in
                  jnp.moveaxis(crops["image"], 1, 0)]  # fmt: skip
        points = [poses.keypoints[:, :, :1] for poses in frames] + [crops["margin"][:, None, None]]
        rest = jnp.repeat(points[0], self.joints.num_joints - 4, 2)
        return dataclasses.replace(frames[0], keypoints=jnp.concatenate([*points, rest], 2))


@pytest.fixture(scope="module")
def detector():
    return Predictor(BrightBoxes(), {}, batch_size=8)


@pytest.fixture(scope="module")
def predictor(detector):
    return Predictor(BrightSpot(), VARIABLES, batch_size=8).with_detector(detector)


@pytest.fixture(scope="module")
def clip_predictor(detector):
    return Predictor(ClipSpot(), VARIABLES, batch_size=8, distance=(3, 3)).with_detector(detector)


def film(*frames, numbers=None):
    """Frames that show spots at the given places."""
    numbers = range(len(frames)) if numbers is None else numbers
    return [Frame(f"frame {n}", picture(*spots), number=n) for n, spots in zip(numbers, frames, strict=True)]


# --- neighbours ---


@hypothesis.given(
    numbers=st.sets(st.integers(0, 40), max_size=12),
    distance=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_neighbours_are_those_of_an_evaluation(numbers, distance):
    """Frame by frame, what a data set of the same frames gives, whatever is missing."""
    numbers = sorted(numbers)
    frames = [Frame("", np.full((1, 1, 3), n, np.uint8), number=n) for n in numbers]
    found = list(with_neighbours(iter(frames), distance))
    assert [frame.number for frame in found] == numbers
    if not numbers:
        return
    videos = Videos(np.ones(len(numbers), int), np.array(numbers))
    for row, frame in enumerate(found):
        previous, following, margin = videos.around(row, distance, None)
        assert [image[0, 0, 0] for image in frame.around] == [numbers[previous], numbers[following]]
        assert frame.margin == tuple(margin)


def test_a_window_slides_over_a_video_without_end():
    pulled = 0

    def frames():
        nonlocal pulled
        while True:
            yield Frame("", np.zeros((1, 1, 3), np.uint8), number=pulled)
            pulled += 1

    stream = with_neighbours(frames(), (4, 3))
    for number in range(50):
        assert next(stream).number == number
        assert pulled <= number + 3


def test_methods_for_clips_see_the_frames_around(clip_predictor):
    """At the ends of the video a frame is its own neighbour; the crop is that of the current frame's box."""
    places = [(60 + 2 * i, 50 + i) for i in range(7)]
    found = list(follow(clip_predictor, film(*([p] for p in places))))
    assert len(found) == 7
    for i, each in enumerate(found):
        joints = each.people.keypoints[0]
        expected = [places[i], places[max(i - 2, 0)], places[min(i + 2, 6)]]
        np.testing.assert_allclose(joints[:3], expected, atol=1.5)
        np.testing.assert_allclose(joints[3], [min(2, i) or 1, min(2, 6 - i) or 1])


def test_missing_frames_are_reached_over(clip_predictor):
    places = [(60, 50), (62, 50), (66, 50), (72, 50)]
    found = list(follow(clip_predictor, film(*([p] for p in places), numbers=[0, 1, 3, 6])))
    np.testing.assert_allclose(found[2].people.keypoints[0, :3, 0], [66, 62, 66], atol=1.5)
    np.testing.assert_allclose(found[2].people.keypoints[0, 3], [2, 1])


def test_a_single_picture_is_a_clip_of_one_frame(clip_predictor):
    (people,) = clip_predictor([picture((70, 40))])
    np.testing.assert_allclose(people.keypoints[0, :3], [[70, 40]] * 3, atol=1.5)
    np.testing.assert_allclose(people.keypoints[0, 3], [1, 1])
    (found,) = follow(clip_predictor, film([(70, 40)]))
    np.testing.assert_array_equal(found.people.keypoints, people.keypoints)


# --- who is who ---


def test_people_enter_and_leave(predictor):
    """One stays, one comes and goes; frames with nobody have no people, and those who come back are known again."""
    left, right = (30, 40), (130, 60)
    frames = [[left], [left, right], [left, right], [right], [], [], [left], [left, right]]
    found = list(follow(predictor, film(*frames)))
    assert [each.frame.number for each in found] == list(range(8))
    assert [len(each.people) for each in found] == [len(spots) for spots in frames]
    ids = {}
    for each, spots in zip(found, frames, strict=True):
        for track, pose in zip(each.track_id.tolist(), each.people.keypoints, strict=True):
            spot = min(spots, key=lambda s: abs(s[0] - pose[0, 0]))
            ids.setdefault(spot, set()).add(track)
    assert ids == {left: {1}, right: {2}}
    assert [each.time for each in found] == pytest.approx([i / 30 for i in range(8)])


def test_smoothing_steadies_joints_and_nothing_else(predictor):
    rng = np.random.default_rng(0)
    frames = [[(80 + rng.integers(-1, 2), 60 + rng.integers(-1, 2))] for _ in range(30)]
    plain = list(follow(predictor, film(*frames)))
    smooth = list(follow(predictor, film(*frames), TrackerOptions(smoothing=OneEuro())))
    moves = [np.stack([each.people.keypoints[0] for each in found]).std(0).mean() for found in (plain, smooth)]
    assert moves[1] < 0.7 * moves[0]
    for a, b in zip(plain, smooth, strict=True):
        np.testing.assert_array_equal(a.people.boxes, b.people.boxes)
        np.testing.assert_array_equal(a.track_id, b.track_id)


def test_smoothing_goes_by_the_times_of_frames(predictor):
    """The longer a frame is after the one before, the closer a joint follows."""
    still, moved = [(80, 60)], [(90, 60)]
    found = []
    for step in (1 / 30, 1.0):
        frames = [dataclasses.replace(f, time=f.number * step) for f in film(still, moved)]
        options = TrackerOptions(smoothing=OneEuro(speed=0.0))
        (_, after) = follow(predictor, frames, options)
        assert after.time == step
        found.append(after.people.keypoints[0, 0, 0])
    assert 80 < found[0] < 83
    assert 87 < found[1] < 89


def test_doubtful_people_begin_no_track(predictor):
    found = list(follow(predictor, film([(30, 40)], [(30, 40)]), TrackerOptions(birth=1.5)))
    assert [each.track_id.tolist() for each in found] == [[-1], [-1]]


def test_boxes_of_a_detector_are_followed(detector):
    found = list(follow(detector, film(*([(40 + 2 * i, 40), (120, 60 + i)] for i in range(5)))))
    assert all(sorted(each.track_id.tolist()) == [1, 2] for each in found)
    assert found[0].people.keypoints.shape == (2, 0, 2)


# --- memory ---


class Watched:
    """Footage that counts how many of its frames are alive."""

    rate = 30.0

    def __init__(self, length: int, people: int):
        self.length, self.people = length, people
        self.alive, self.most = 0, 0

    def _die(self):
        self.alive -= 1

    def __iter__(self):
        for number in range(self.length):
            image = picture(*((20 + 45 * i, 40) for i in range(self.people if number % 7 == 0 else 0)))
            weakref.finalize(image, self._die)
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield Frame("frame", image, number=number)


@pytest.mark.parametrize("people", [0, 1, 3])
def test_frames_in_memory_do_not_grow_with_the_video(clip_predictor, people):
    """Few people, so that batches are seldom full: the longest wait that there can be."""
    footage = Watched(600, people)
    assert sum(1 for _ in follow(clip_predictor, footage)) == 600
    assert footage.most <= 8 * clip_predictor.batch_size


# --- reading ---


def write_video(path, count=5, size=(64, 48), rate=12.5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    for i in range(count):
        writer.write(np.full((size[1], size[0], 3), (0, 0, 40 * i), np.uint8))  # blue, green, red
    writer.release()
    return path


def write_uneven(path, times, rate=30):
    """A video whose frames are shown at times in seconds."""
    av = pytest.importorskip("av", reason="PyAV writes videos of uneven times")
    ticks = Fraction(1, 1000 if path.suffix == ".mkv" else 30_000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = ticks
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
            frame.pts, frame.time_base = round(time / ticks), ticks
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class TestClock:
    """Stamps in seconds at 10 frames a second."""

    @pytest.mark.parametrize(
        ("stamps", "expected", "remark"),
        [
            ([0, 0.1, 0.2, 0.3], [0, 0.1, 0.2, 0.3], None),
            ([5, 5.1, 5.2], [0, 0.1, 0.2], None),
            ([0, 0.1004, 0.1996], [0, 0.1, 0.2], None),
            ([0, 0.1, 0.5, 0.6], [0, 0.1, 0.5, 0.6], "frames are 100 to 400 ms apart"),
            ([0, 0, 0, 0], [0, 0.1, 0.2, 0.3], "times of frames do not rise after frame 0"),
            ([0, 0.1, 0.5, 0.3, 0.9], [0, 0.1, 0.5, 0.6, 0.7], "times of frames do not rise after frame 2"),
            ([np.nan, 0.1, np.nan, 0.5], [0, 0.1, 0.2, 0.3], "times of frames do not rise after frame 1"),
            ([-1, np.inf], [0, 0.1], "times of frames do not rise after frame 0"),
        ],
    )
    def test_times(self, stamps, expected, remark):
        clock = video._Clock(10.0)
        assert [clock.next(stamp) for stamp in stamps] == pytest.approx(expected)
        remarks = list(clock.remarks())
        assert remark is None or remarks[0].startswith(remark)
        assert bool(remarks) == bool(remark)

    def test_stamps_of_nothing_give_the_rate_to_the_bit(self):
        clock = video._Clock(29.97)
        assert [clock.next(0.0) for _ in range(500)] == [i / 29.97 for i in range(500)]


class TestVideoFile:
    def test_frames_in_order(self, tmp_path):
        footage = video.open_footage(write_video(tmp_path / "a.mp4"))
        assert (footage.rate, footage.length) == (12.5, 5)
        for _ in range(2):  # as often as one likes
            frames = list(footage)
            assert [(f.number, f.id) for f in frames] == [(i, i) for i in range(5)]
            np.testing.assert_allclose([f.image[..., 0].mean() for f in frames], np.arange(5) * 40, atol=4)
            assert frames[0].image.shape == (48, 64, 3)
            assert max(f.image[..., 2].mean() for f in frames) < 5

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_times_are_those_of_the_stamps(self, tmp_path, name, caplog):
        times = [*np.arange(15) / 30, *(0.5 + np.arange(4) / 3)]
        footage = video.open_footage(write_uneven(tmp_path / name, times))
        for _ in range(2):
            with caplog.at_level("INFO", "jaxpose"):
                assert [f.time for f in footage] == pytest.approx(times, abs=0.001)
        (record,) = caplog.records
        assert re.fullmatch(r".*/a.m..: frames are 33 to 33[34] ms apart", record.message)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_times_of_a_constant_rate_are_exact(self, tmp_path, name, caplog):
        footage = video.open_footage(write_uneven(tmp_path / name, np.arange(20) / 30))
        assert [f.time for f in footage] == [i / footage.rate for i in range(20)]
        assert not caplog.records

    @pytest.mark.parametrize(
        ("matrix", "size", "corner"),
        [
            ((1, 0, 0, 1), (48, 64), (0, 0)),
            ((0, 1, -1, 0), (64, 48), (0, -1)),
            ((-1, 0, 0, -1), (48, 64), (-1, -1)),
            ((0, -1, 1, 0), (64, 48), (-1, 0)),
        ],
    )
    def test_films_of_phones_are_upright(self, tmp_path, matrix, size, corner):
        """Stored frames are white in their top left quarter; the header says how they were turned."""
        image = np.zeros((48, 64, 3), np.uint8)
        image[:24, :32] = 255
        writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        writer.write(image)
        writer.release()
        content = bytearray((tmp_path / "a.mp4").read_bytes())
        at = content.index(b"tkhd") + 44
        a, b, c, d = (number << 16 for number in matrix)
        assert struct.unpack(">9i", content[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        (tmp_path / "a.mp4").write_bytes(content)
        (frame,) = video.open_footage(tmp_path / "a.mp4")
        assert frame.image.shape == (*size, 3)
        corners = {(y, x): frame.image[y, x, 0] > 128 for y in (0, -1) for x in (0, -1)}
        assert [where for where, white in corners.items() if white] == [corner]

    def test_more_or_fewer_frames_than_stated_are_no_fault(self, tmp_path, caplog):
        footage = video.VideoFile(write_video(tmp_path / "a.mp4"))
        for stated in (3, 500):
            footage._length = stated
            assert len(list(footage)) == 5
        assert not caplog.records

    @pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
    def test_what_is_no_video(self, tmp_path, content):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(ImageError, match=r"a.mp4.*is no video that can be decoded"):
            video.open_footage(tmp_path / "a.mp4")
        with pytest.raises(ImageError, match="there is no such file"):
            video.open_footage(tmp_path / "b.mp4")


class TestFrameFolder:
    @staticmethod
    def write(folder, *names, size=(48, 64)):
        folder.mkdir(exist_ok=True)
        for i, name in enumerate(names):
            cv2.imwrite(str(folder / name), np.full((*size, 3), 20 * i, np.uint8))
        return folder

    def test_numbers_are_those_of_the_names(self, tmp_path):
        folder = self.write(tmp_path / "v", "f_10.png", "f_2.png", "f_3.png")
        (folder / "notes.txt").write_text("")
        footage = video.open_footage(folder, rate=10)
        assert (footage.rate, footage.length) == (10, 3)
        assert [(f.number, f.image[0, 0, 0]) for f in footage] == [(2, 20), (3, 40), (10, 0)]

    @pytest.mark.parametrize("names", [("a.png", "b.png"), ("a1.png", "b1.png"), ("a1.png", "b.png")])
    def test_without_numbers_names_give_the_order(self, tmp_path, names):
        folder = self.write(tmp_path / "v", *names)
        assert [(f.number, f.image[0, 0, 0]) for f in video.open_footage(folder)] == [(0, 0), (1, 20)]

    @pytest.mark.parametrize(
        "stray",
        [
            "cover.png",
            "poster_" + "9" * 19 + ".png",
            "1 copy.png",
            "f_2 (copy).png",
            "copy_f_2.png",
            "thumb_5.png",
            "f_2.jpg",
            "f_02.png",
            ".f_2.png",
            "._f_2.png",
        ],
    )
    def test_a_stray_picture_is_no_frame(self, tmp_path, stray, caplog):
        folder = self.write(tmp_path / "v", "f_3.png", "f_2.png", "f_7.png", stray)
        assert [(f.number, f.image[0, 0, 0]) for f in video.open_footage(folder)] == [(2, 20), (3, 0), (7, 40)]
        assert f"1 pictures whose names are unlike the others' are no frames: {stray}" in caplog.text

    def test_frames_of_no_common_name_keep_their_numbers(self, tmp_path, caplog):
        folder = self.write(tmp_path / "v", "a4.png", "b2.jpg")
        assert [f.number for f in video.open_footage(folder)] == [2, 4]
        assert not caplog.records

    def test_numbers_that_come_twice_are_told(self, tmp_path, caplog):
        folder = self.write(tmp_path / "v", "a4.png", "b4.png")
        assert [f.number for f in video.open_footage(folder)] == [0, 1]
        assert "numbers in names are of no use; frames are numbered from 0 in order of names" in caplog.text

    def test_bad_frames_are_left_out_and_named(self, tmp_path, caplog):
        folder = self.write(tmp_path / "v", "1.png", "2.png", "3.png")
        (folder / "2.png").write_bytes(b"nothing")
        assert [f.number for f in video.open_footage(folder)] == [1, 3]
        assert "2.png: the frame is left out: " in caplog.text
        for name in "13":
            (folder / f"{name}.png").write_bytes(b"nothing")
        with pytest.raises(ImageError, match="none of its 3 frames can be decoded"):
            list(video.open_footage(folder))

    def test_frames_of_two_sizes_are_no_video(self, tmp_path):
        folder = self.write(tmp_path / "v", "1.png")
        self.write(folder, "2.png", size=(50, 60))
        with pytest.raises(ImageError, match="2.png.*is 60 x 50 pixels, but the frames before it are 64 x 48"):
            list(video.open_footage(folder))

    def test_empty(self, tmp_path):
        with pytest.raises(ImageError, match="holds no frame"):
            video.open_footage(self.write(tmp_path / "v"))


# --- writing ---


def test_files_are_there_when_they_are_complete(predictor, tmp_path):
    """Whatever breaks halfway, neither file is left behind."""

    def breaks(found):
        if found.frame.number == 3:
            raise DataError("no more")
        return found.frame.image

    frames = film(*[[(40, 40)]] * 5)
    with pytest.raises(DataError, match="no more"):
        video.record(follow(predictor, frames), tmp_path / "v", 30.0, breaks)
    assert list(tmp_path.iterdir()) == []
    draw = lambda found: draw_boxes(found.frame.image, found.people.boxes)
    assert video.record(follow(predictor, frames), tmp_path / "v.1", 30.0, draw) == (5, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.1.json", "v.1.mp4"]


def test_sides_of_a_film_are_even(tmp_path):
    odd = [video.TrackedFrame(f, 0.0, None, np.zeros(0, int)) for f in film([], [])]
    odd = [dataclasses.replace(each, people=Predictor(BrightBoxes(), {}, batch_size=8)([picture()])[0]) for each in odd]
    assert video.record(odd, tmp_path / "v", 25.0, lambda found: found.frame.image[:101, :97]) == (2, 0)
    (first, _) = video.open_footage(tmp_path / "v.mp4")
    assert first.image.shape == (100, 96, 3)
    assert json.loads((tmp_path / "v.json").read_text()) == []


# --- the command ---


@pytest.fixture
def command(predictor, detector, monkeypatch, tmp_path):
    """Runs the command on the spot finder; returns (exit status, {name: content} of the files of poses)."""
    plain = Predictor(BrightSpot(), VARIABLES, batch_size=8)
    monkeypatch.setattr(inputs, "load", lambda *_, detector=None, **__: predictor if detector else plain)
    monkeypatch.setattr(startup, "start", lambda: None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = predict.main(["run", *map(str, arguments), "--output", "out"])
        return status, {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}

    return run


def write_film(path, frames):
    """A lossless video."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10.0, (160, 120))
    for spots in frames:
        writer.write(picture(*spots))
    writer.release()


def test_a_video_becomes_a_film_and_poses_with_tracks(command, tmp_path):
    left, right = (30, 40), (130, 60)
    write_film(tmp_path / "dance.avi", [[left], [], [left, right]])
    status, found = command("dance.avi", "--detector", "detector", "--smooth")
    assert (status, list(found)) == (0, ["dance.json"])
    people = found["dance.json"]
    assert [(p["frame"], p["time"], p["image_id"]) for p in people] == [(0, 0, 0), (2, 0.2, 2), (2, 0.2, 2)]
    assert sorted(p["track_id"] for p in people) == [1, 1, 2]
    assert {"category_id", "keypoints", "score", "person_box"} <= people[0].keys()
    assert {p["skeleton"] for p in people} == {"crowdpose"}
    frames = list(video.open_footage(tmp_path / "out" / "dance.mp4"))
    assert [f.image.shape for f in frames] == [(480, 640, 3)] * 3
    assert video.open_footage(tmp_path / "out" / "dance.mp4").rate == 10
    x, y = left[0] * 4, left[1] * 4
    assert frames[0].image[y - 60 : y + 60, x - 60 : x + 60].max() > 150
    assert frames[1].image.max() < 30


def test_folders_are_images_or_videos(command, tmp_path):
    for number in (7, 8):
        (tmp_path / "v").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "v" / f"{number}.png"), picture((40, 40)))
    cv2.imwrite(str(tmp_path / "1.png"), picture((40, 40)))
    assert {name: len(people) for name, people in command("v", "1.png")[1].items()} == {"poses.json": 3}
    status, found = command("v", "1.png", "--video", "--rate", "2")
    assert status == 0
    assert {name: len(people) for name, people in found.items()} == {"poses.json": 1, "v.json": 2}
    assert [(p["frame"], p["time"], p["image_id"], p["track_id"]) for p in found["v.json"]] == [
        (7, 3.5, 7, 1),
        (8, 4.0, 8, 1),
    ]


def test_boxes_of_frames(command, tmp_path, caplog):
    (tmp_path / "v").mkdir()
    for number in (7, 8):
        cv2.imwrite(str(tmp_path / "v" / f"{number}.png"), picture((40, 40), (100, 60)))
    box = around((100, 60))[0].tolist()
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 8, "category_id": 1, "bbox": box, "score": 0.9}]))
    _, found = command("v", "--video", "--boxes", "boxes.json")
    assert [(p["frame"], p["person_box"]) for p in found["v.json"]] == [(8, box)]
    cv2.imwrite(str(tmp_path / "v" / "x.png"), picture())
    assert command("v", "--video", "--boxes", "boxes.json") == (0, found)
    assert "v: 1 pictures whose names are unlike the others' are no frames: x.png" in caplog.text
    for name in ("y.png", "z.png"):
        cv2.imwrite(str(tmp_path / "v" / name), picture())
    assert command("v", "--video", "--boxes", "boxes.json")[0] == 1


def test_unusable_videos_are_named_and_counted(command, tmp_path, caplog):
    write_film(tmp_path / "good.avi", [[(40, 40)]])
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    status, found = command("good.avi", "bad.mp4", "missing.mov")
    assert (status, list(found)) == (1, ["good.json"])
    assert "bad.mp4: is no video that can be decoded" in caplog.text
    assert "missing.mov: there is no such file" in caplog.text
    assert "2 of 3 inputs could not be used" in caplog.text


def test_videos_are_never_replaced(command, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    write_film(tmp_path / "film.avi", [[(40, 40)]])
    (tmp_path / "film.avi").rename(tmp_path / "out" / "film.mp4")
    before = (tmp_path / "out" / "film.mp4").read_bytes()
    assert command("out/film.mp4")[0] == 1
    assert "would replace the input" in capsys.readouterr().err
    assert (tmp_path / "out" / "film.mp4").read_bytes() == before


def test_videos_of_one_name_get_numbers(command, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_film(tmp_path / folder / "x.avi", [[(40, 40)]])
    assert sorted(command("a/x.avi", "b/x.avi")[1]) == ["x-2.json", "x.json"]


@pytest.mark.parametrize("stated", [1, 2, 50, None])
def test_every_frame_has_its_boxes_whatever_length_is_stated(command, tmp_path, monkeypatch, stated):
    write_film(tmp_path / "a.avi", 4 * [[(40, 40), (100, 60)]])
    box = around((100, 60))[0].tolist()
    boxes = [{"image_id": frame, "category_id": 1, "bbox": box, "score": 0.9} for frame in (0, 1, 3)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    monkeypatch.setattr(video.VideoFile, "length", stated)
    status, found = command("a.avi", "--boxes", "boxes.json")
    assert status == 0
    assert [(p["frame"], p["person_box"]) for p in found["a.json"]] == [(0, box), (1, box), (3, box)]
