"""Frames beside a frame, and crops of all three."""

import dataclasses

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.data.annotations import Annotations
from jaxpose.data.examples import person_boxes
from jaxpose.data.examples.clips import ClipExamples, Videos, candidates, confident, neighbours
from jaxpose.data.loader import TrainStream, evaluation_batches
from jaxpose.data.proposals import PoseGuidedProposals
from jaxpose.data.sources import Source
from jaxpose.data.sources.posetrack import VideoAnnotations
from jaxpose.data.views import Augmentation, PersonCrop
from jaxpose.errors import ConfigError, DataError, ImageError
from jaxpose.methods.dcpose.method import DCPose
from jaxpose.skeleton import COCO

K = COCO.num_joints
SIZE = (32, 64)
FRAMES = (("a", 0), ("b", 10), ("b", 8), ("b", 9), ("b", 12), ("c", 3), ("c", 4))
"""Video and frame of each image, in the order of the data set: a single one, one with a gap, and two frames."""


def video_source(damaged: tuple[int, ...] = ()) -> Source:
    """One person in each image; all pixels of image i have the grey level 20 (i + 1), on the left half one more."""
    count = len(FRAMES)
    points = np.tile(np.linspace(10, 30, K, dtype=np.float32)[None, :, None], (count, 1, 2))
    annotations = Annotations(
        skeleton=COCO,
        image_id=np.arange(100, 100 + count),
        file_name=np.array([f"{video}/{frame:06d}.png" for video, frame in FRAMES]),
        width=np.full(count, 40, np.int32),
        height=np.full(count, 40, np.int32),
        person_image=np.arange(count, dtype=np.int32),
        person_id=np.arange(1, count + 1),
        box=np.tile(np.array([8, 8, 24, 24], np.float32), (count, 1)),
        keypoints=points,
        visibility=np.full((count, K), 2, np.uint8),
        area=np.full(count, 500, np.float32),
        crowd=np.zeros(count, np.bool_),
        track_id=np.zeros(count, np.int64),
    )

    def read(row: int) -> bytes:
        picture = np.full((40, 40, 3), 20 * (row + 1), np.uint8)
        picture[:, :20] += 1
        return b"damaged" if row in damaged else cv2.imencode(".png", picture)[1].tobytes()

    return Source("videos", annotations, read)


def clips(damaged: tuple[int, ...] = (), **fields) -> ClipExamples:
    source = video_source(damaged)
    videos = Videos.of(source.annotations)
    seen = person_boxes.annotated(source.annotations, source.name)
    return ClipExamples(source, seen, PersonCrop(SIZE), videos=videos, **fields)


def shown(example: dict) -> list[int]:
    """Rows of the images that an example's frames show."""
    return [int(frame[SIZE[1] // 2, SIZE[0] // 2, 0]) // 20 - 1 for frame in example["image"]]


# --- which frames ---


@hypothesis.given(
    frame=st.integers(0, 30),
    available=st.sets(st.integers(0, 30)),
    distance=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    seed=st.none() | st.integers(0, 2**32 - 1),
)
def test_neighbours_are_frames_that_exist_and_not_too_far(frame, available, distance, seed):
    numbers = np.array(sorted(available | {frame})[::-1])
    rng = None if seed is None else np.random.default_rng(seed)
    found = neighbours(frame, numbers, distance, rng)
    near = [
        {n for n in available if 0 < frame - n < distance[0]},
        {n for n in available if 0 < n - frame < distance[1]},
    ]
    back, ahead = candidates(frame, numbers, distance)
    assert back.tolist() == sorted(frame - n for n in near[0])
    assert ahead.tolist() == sorted(n - frame for n in near[1])
    farthest = [min(near[0], default=frame), max(near[1], default=frame)]
    for side, chosen in enumerate((found.previous, found.next)):
        assert chosen in (near[side] or {frame})
        assert found.margin[side] == max(abs(frame - chosen), 1)
        assert rng is not None or chosen == farthest[side]


def test_every_candidate_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    drawn = [neighbours(5, np.arange(9), (4, 3), rng) for _ in range(600)]
    _, before = np.unique([d.previous for d in drawn], return_counts=True)
    _, after = np.unique([d.next for d in drawn], return_counts=True)
    assert before.tolist() == pytest.approx([200, 200, 200], rel=0.2)
    assert after.tolist() == pytest.approx([300, 300], rel=0.2)


def test_frames_by_file_name():
    videos = Videos.by_file_name(["x/000001.jpg", "y/000001.jpg", "x/img_12.jpg", "x/cover.jpg", "x/title.jpg"])
    assert videos.frame.tolist() == [1, 1, 12, 0, 0]
    assert videos.video[0] == videos.video[2]
    assert len(set(videos.video.tolist())) == 4


@pytest.mark.parametrize("stray", ["thumb.jpg", "000001 (copy).jpg", f"{'9' * 400}.jpg", "desktop.jpg"])
def test_stray_images_do_not_upset_the_order(stray):
    videos = Videos.by_file_name(["x/000002.jpg", f"x/{stray}", "x/000001.jpg", "x/000003.jpg"])
    assert videos.around(0, (2, 2), None)[:2] == (2, 3)
    assert videos.around(1, (2, 2), None)[:2] == (1, 1)


def test_columns_of_the_data_set_come_first():
    annotations = video_source().annotations
    assert Videos.of(annotations).frame.tolist() == [frame for _, frame in FRAMES]
    columns = {field.name: getattr(annotations, field.name) for field in dataclasses.fields(annotations)}
    numbered = VideoAnnotations(**columns, video_id=np.array([1, 2, 2, 2, 2, 2, 3]), frame_id=np.arange(7))
    assert Videos.of(numbered).frame.tolist() == list(range(7))
    assert Videos.of(numbered).around(4, (2, 2), None)[:2] == (3, 5)


@pytest.mark.parametrize(
    ("row", "expected", "margin"),
    [
        (0, (0, 0), (1, 1)),  # the only frame of its video
        (2, (2, 3), (1, 1)),  # the first
        (3, (2, 1), (1, 1)),
        (1, (3, 1), (1, 1)),  # before a gap
        (4, (4, 4), (1, 1)),  # the last, after a gap
        (5, (5, 6), (1, 1)),
    ],
)
def test_rows_of_neighbours(row, expected, margin):
    videos = Videos.by_file_name(video_source().annotations.file_name)
    *found, margins = videos.around(row, (2, 2), None)
    assert (tuple(found), tuple(margins)) == (expected, margin)


def test_gaps_can_be_reached_over():
    videos = Videos.by_file_name(video_source().annotations.file_name)
    *found, margin = videos.around(1, (3, 3), None)
    assert (found, margin.tolist()) == ([2, 4], [2, 2])


def test_a_frame_cannot_be_there_twice():
    with pytest.raises(DataError, match=r"images 0 and 2 .* are both frame 7 of video 1"):
        Videos(np.array([1, 2, 1]), np.array([7, 7, 7]))


# --- examples ---


def test_fields_are_those_of_the_method():
    examples = clips()
    (batch,) = evaluation_batches(examples, batch_size=8)
    spec = DCPose(input_size=SIZE).spec(8)["source"]
    assert {name: (v.shape, v.dtype) for name, v in batch.items()} == {n: (v.shape, v.dtype) for n, v in spec.items()}
    assert batch["valid"].tolist() == [True] * 7 + [False]


def test_frames_are_current_previous_next():
    examples = clips()
    found = [shown(examples.load(i, None)) for i in range(len(examples))]
    assert found == [[0, 0, 0], [1, 3, 1], [2, 2, 3], [3, 2, 1], [4, 4, 4], [5, 5, 6], [6, 5, 6]]
    assert examples.load(6, None)["margin"].tolist() == [1, 1]


def test_all_frames_are_seen_in_one_view():
    """What is left of the middle is brighter by one grey level; mirrored, what is right of it."""
    augmentation = Augmentation(scale=0.2, mirror=0.5)
    examples = clips(augmentation=augmentation)
    sides = set()
    for seed in range(12):
        example = examples.load(3, np.random.default_rng(seed))
        base = 20 * (np.array(shown(example)) + 1)
        brighter = example["image"][..., 0].astype(int) - base[:, None, None] == 1
        assert_array_equal(brighter[0], brighter[1])
        assert_array_equal(brighter[0], brighter[2])
        left, right = np.split(brighter[0], 2, axis=1)
        sides.add("left" if left.sum() > right.sum() else "right")
        nose = example["keypoints"][0]
        to_image = example["to_image"]
        assert_allclose(to_image[:, :2] @ nose + to_image[:, 2], [10, 10], atol=1e-3)
    assert sides == {"left", "right"}


def test_training_is_a_function_of_seed_and_step():
    examples = clips(augmentation=Augmentation(rotation=30.0), distance=(4, 4))

    def take(step: int, count: int) -> list[dict]:
        stream = TrainStream(examples, seed=1, batch_size=4, step=step)
        batches = [next(stream) for _ in range(count)]
        stream.close()
        return batches

    batches = take(0, 8)
    (again,) = take(5, 1)
    for name, values in again.items():
        assert_array_equal(values, batches[5][name], err_msg=name)
    drawn = {tuple(margin) for b in batches for margin, i in zip(b["margin"], b["index"], strict=True) if i == 1}
    assert len(drawn) > 1


def test_damaged_neighbours():
    """They are errors that name the image; in training, examples that see one can be skipped."""
    with pytest.raises(ImageError, match="b/000009.png"):
        clips(damaged=(3,)).load(1, None)
    skipping = clips(damaged=(3,), skip_bad_images=True)
    assert shown(skipping.load(1, np.random.default_rng(0))) == [4, 4, 4]
    assert set(skipping.bad) == {"b/000009.png"}


def test_what_clips_do_not_have_is_refused():
    with pytest.raises(ConfigError, match="clips show true ones alone"):
        clips(proposals=PoseGuidedProposals.single())
    with pytest.raises(ConfigError, match=r"distance of frames is \(0, 2\)"):
        clips(distance=(0, 2))


def test_confident_boxes():
    boxes = {"image": np.arange(4), "box": np.ones((4, 4)), "score": np.array([0.1, 0.2, 0.19, 0.9], np.float32)}
    kept = confident(boxes, 0.2)
    assert kept["image"].tolist() == [1, 3]
    assert kept["box"].shape == (2, 4)
