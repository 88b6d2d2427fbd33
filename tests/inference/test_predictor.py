"""Prediction as a call: pictures in, people out, in order."""

import itertools

import numpy as np
import pytest
from bright_boxes import BoxedSpots, BrightBoxes
from bright_spot import VARIABLES, BrightSpot, BrightSpots, around, picture

from jaxpose.config import base
from jaxpose.errors import DataError, NonFiniteError
from jaxpose.evaluation.suppression import Suppression
from jaxpose.inference.predictor import MAX_WAITING, Picture, Predictor, load
from jaxpose.runs import reader
from jaxpose.zoo.weights_file import About, Content


@pytest.fixture(scope="module")
def predictor():
    return Predictor(BrightSpot(), VARIABLES, batch_size=4)


def test_spots_are_found_in_their_own_pictures(predictor):
    """People in batches that run across pictures, one picture without boxes, one whose box holds nobody."""
    spots = [[(30, 40)], [], [(20, 30), (100, 60), (130, 100)], [(50, 90), (90, 30)], [(80, 80)], [(40, 40)]]
    boxes = [around(*s) for s in spots]
    boxes[4] = around((20, 20))
    scores = [np.linspace(0.5, 0.9, len(b)) for b in boxes]
    found = predictor([picture(*s) for s in spots], boxes, scores)
    assert [len(p) for p in found] == [1, 0, 3, 2, 0, 1]
    for people, where, score, box in zip(found, spots, scores, boxes, strict=True):
        if not len(people):
            assert people.keypoints.shape == (0, 14, 2)
            continue
        np.testing.assert_allclose(people.keypoints[:, 0], where[::-1], atol=1.5)  # best first
        np.testing.assert_allclose(people.person_score, score[::-1])
        np.testing.assert_array_equal(people.boxes, box[::-1])


def test_without_boxes_a_picture_is_one_box(predictor):
    (people,) = predictor([picture((70, 30))])
    np.testing.assert_allclose(people.keypoints[0], np.tile([70, 30], (14, 1)), atol=3)
    np.testing.assert_array_equal(people.boxes, [[0, 0, 160, 120]])


def test_duplicates_are_suppressed(predictor):
    boxes = np.concatenate([around((30, 40)), around((31, 41)), around((100, 60))])
    (people,) = predictor([picture((30, 40), (100, 60))], [boxes], [np.array([0.5, 0.8, 0.6])])
    np.testing.assert_allclose(people.person_score, [0.8, 0.6])
    everyone = Predictor(BrightSpot(), VARIABLES, batch_size=4, suppression=Suppression("none"))
    (people,) = everyone([picture((30, 40), (100, 60))], [boxes], [np.array([0.5, 0.8, 0.6])])
    np.testing.assert_allclose(people.person_score, [0.8, 0.6, 0.5])


def test_results_do_not_depend_on_batch_size(predictor):
    rng = np.random.default_rng(0)
    spots = [[tuple(rng.integers(20, 100, 2)) for _ in range(rng.integers(0, 5))] for _ in range(7)]
    pictures, boxes = [picture(*s) for s in spots], [around(*s) for s in spots]
    other = Predictor(BrightSpot(), VARIABLES, batch_size=3)
    for a, b in zip(predictor(pictures, boxes), other(pictures, boxes), strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


def test_stream_needs_no_end(predictor):
    """An endless video gives people as it goes."""

    def frames():
        while True:
            yield Picture("frame", picture((60, 60)))

    found = predictor.stream(frames(), lambda _: (around((60, 60)), np.ones(1)))
    assert [len(next(found)[1]) for _ in range(9)] == [1] * 9


@pytest.mark.parametrize(
    ("image", "box", "message"),
    [
        (np.zeros((5, 5), np.uint8), [[0, 0, 2, 2]], r"image number 0: is uint8\[5, 5\], expected uint8 \[H, W, 3\]"),
        (np.zeros((5, 5, 3)), [[0, 0, 2, 2]], "is float64"),
        (np.zeros((5, 5, 3), np.uint8), [[0, 0, 2, 2], [1, 1, 0, 4]], r"box 1 is \[1.0, 1.0, 0.0, 4.0\]"),
        (np.zeros((5, 5, 3), np.uint8), [[0, np.nan, 2, 2]], "box 0 is"),
    ],
)
def test_bad_pictures_and_boxes_are_named(predictor, image, box, message):
    with pytest.raises(DataError, match=message):
        predictor([image], [box])


def test_pictures_that_cannot_be_used_are_left_out(predictor):
    """The people of all others are found, in order, and the reason is handed over."""
    pictures = [Picture(f"{i}", picture((30 + 10 * i, 40))) for i in range(5)]
    pictures[2] = Picture("2", np.zeros((5, 5), np.uint8))
    failed = {}
    found = list(predictor.stream(pictures, failed=lambda image, error: failed.update({image.name: str(error)})))
    assert [image.name for image, _ in found] == ["0", "1", "3", "4"]
    for image, people in found:
        np.testing.assert_allclose(people.keypoints[0, 0], [30 + 10 * int(image.name), 40], atol=3)
    assert list(failed) == ["2"]
    assert "expected uint8" in failed["2"]


def test_lists_that_do_not_fit(predictor):
    with pytest.raises(DataError, match="boxes are for 1 images, but there are 2"):
        predictor([picture(), picture()], [around()])
    with pytest.raises(DataError, match="do not fit"):
        predictor([picture()], [around((30, 40))], [np.ones(2)])


def test_non_finite_outputs_are_refused():
    broken = Predictor(BrightSpot(), {"params": {"spread": np.float32(np.nan)}}, batch_size=4)
    with pytest.raises(NonFiniteError, match="image number 1: .*NaN"):
        broken([picture(), picture((30, 40))])


def test_method_of_another_kind_is_refused():
    class Clips(BrightSpot):
        def spec(self, batch_size):
            return {"source": {"clip": None}}

    with pytest.raises(DataError, match="Clips takes"):
        Predictor(Clips(), VARIABLES)


# --- methods that find people by themselves ---


@pytest.fixture(scope="module")
def finder():
    return Predictor(BrightSpots(), {}, batch_size=2, suppression=Suppression("none"))


def test_people_are_found_in_whole_images_of_many_sizes(finder):
    """Pictures of one size of canvas share batches; results come in order all the same."""
    sizes = [(120, 160), (60, 60), (120, 150), (50, 64), (200, 100), (64, 40), (120, 130)]
    spots = [[(20, 30), (150, 60)], [(30, 30)], [], [(3, 9), (30, 40), (60, 20)], [(90, 190)], [(20, 10)], [(50, 50)]]
    found = finder([picture(*s, size=size) for s, size in zip(spots, sizes, strict=True)])
    assert [len(people) for people in found] == [2, 1, 0, 3, 1, 1, 1]
    for people, where in zip(found, spots, strict=True):
        points = people.keypoints[:, 0]
        np.testing.assert_allclose(points[np.argsort(points[:, 0])], np.reshape(where, (-1, 2)), atol=1.5)
        assert people.boxes.shape == (len(where), 4)


def test_finder_takes_no_boxes(finder):
    assert not finder.takes_boxes
    with pytest.raises(DataError, match="finds people by itself"):
        finder([picture((30, 40))], [around((30, 40))])


def test_finder_needs_no_end(finder):
    """Pictures whose canvases seldom fill a batch do not pile up."""

    def frames():
        while True:
            for width in range(64, 64 * 20, 64):
                yield Picture("frame", picture((10, 10), size=(64, width)))

    stream = finder.stream(frames())
    assert [len(next(stream)[1]) for _ in range(30)] == [1] * 30


def test_a_rare_size_holds_up_a_bounded_number_of_pictures(finder):
    """The first canvas is the only one of its size; those after it are done but have to wait for it."""
    pulled = itertools.count()

    def frames():
        for number in pulled:
            yield Picture("frame", picture((10, 10), size=(128, 64) if number == 0 else (64, 64)))

    stream = finder.stream(frames())
    assert [len(next(stream)[1]) for _ in range(3)] == [1] * 3
    assert next(pulled) <= 2 * MAX_WAITING * finder.batch_size + 2


def test_boxes_that_a_method_finds_with_poses_are_theirs():
    predictor = Predictor(BoxedSpots(), {}, batch_size=2, suppression=Suppression("none"))
    (people,) = predictor([picture((20, 30), (150, 60))])
    assert not predictor.is_detector
    assert people.keypoints.shape == (2, 14, 2)
    np.testing.assert_allclose(people.boxes[np.argsort(people.boxes[:, 0])], around((19, 29), (149, 59)))


# --- two stages ---


@pytest.fixture(scope="module")
def detector():
    return Predictor(BrightBoxes(), {}, batch_size=8)


@pytest.fixture(scope="module")
def cascade(predictor, detector):
    return predictor.with_detector(detector)


def dim(image, light):
    """The picture with its whites at `light`."""
    return np.minimum(image, light).astype(np.uint8)


def watch_batches(predictor, monkeypatch):
    """[number of rows of each batch that the predictor sends to the device], to be filled."""
    batches, start = [], predictor._start
    monkeypatch.setattr(predictor, "_start", lambda looks: batches.append(len(looks)) or start(looks))
    return batches


def test_a_detector_gives_boxes(detector):
    assert detector.is_detector
    assert not detector.takes_boxes
    both, nobody = detector([picture((100, 60), (20, 30)), picture()])
    assert both.keypoints.shape == (2, 0, 2)
    assert both.scores.shape == (2, 0)
    np.testing.assert_allclose(both.boxes[np.argsort(both.boxes[:, 0])], around((19, 29), (99, 59)))
    np.testing.assert_allclose(both.person_score, [1, 1])
    assert len(nobody) == 0


def test_people_are_found_and_then_their_poses(cascade):
    """In pictures of several sizes, some with nobody; a person's score is that of the box."""
    sizes = [(120, 160), (64, 64), (120, 150), (200, 100), (120, 130)]
    spots = [[(20, 30), (150, 60)], [(30, 30)], [], [(90, 180)], [(50, 50)]]
    pictures = [dim(picture(*s, size=size), 204) for s, size in zip(spots, sizes, strict=True)]
    found = cascade(pictures)
    for people, where in zip(found, spots, strict=True):
        assert len(people) == len(where)
        points = people.keypoints[:, 0]
        np.testing.assert_allclose(points[np.argsort(points[:, 0])], np.reshape(where, (-1, 2)), atol=1.5)
        np.testing.assert_allclose(people.person_score, 0.8)
        np.testing.assert_allclose(people.boxes[:, 2:], np.tile([24, 30], (len(where), 1)))


def test_both_stages_fill_their_batches_across_pictures(cascade, detector, predictor, monkeypatch):
    """Three people a picture; neither stage goes picture by picture."""
    finds, poses = watch_batches(detector, monkeypatch), watch_batches(cascade, monkeypatch)
    spots = [(20, 30), (80, 30), (140, 30)]
    found = cascade([picture(*spots) for _ in range(16)])
    assert [len(people) for people in found] == [3] * 16
    assert finds == [8, 8]
    assert poses == [8] * 6


def test_boxes_that_are_given_go_before_the_detector(cascade, detector, monkeypatch):
    finds = watch_batches(detector, monkeypatch)
    (people,) = cascade([picture((30, 40), (100, 60))], [around((100, 60))])
    np.testing.assert_allclose(people.keypoints[:, 0], [[100, 60]], atol=1.5)
    assert finds == []


def test_unlikely_boxes_are_left_out(predictor):
    image = picture((30, 40))
    image[60, 100] = 102  # a third thing, with probability 0.4
    for threshold, count in ((0.3, 2), (0.5, 1)):
        detector = Predictor(BrightBoxes(), {}, batch_size=8, box_threshold=threshold)
        (boxes,) = detector([image])
        assert len(boxes) == count
        (people,) = predictor.with_detector(detector)([image])
        assert len(people) == count
        boxed = Predictor(BoxedSpots(), {}, batch_size=8, suppression=Suppression("none"), box_threshold=threshold)
        assert len(boxed([image])[0]) == count


def test_boxes_without_area_are_left_out():
    flat = Predictor(BrightBoxes(), {"scale": np.float32(0)}, batch_size=8)
    assert [len(people) for people in flat([picture((30, 40))])] == [0]


def test_boxes_that_are_not_finite_are_refused():
    broken = Predictor(BrightBoxes(), {"scale": np.float32(np.nan)}, batch_size=8)
    with pytest.raises(NonFiniteError, match="image number 0: .*NaN"):
        broken([picture((30, 40))])


def test_two_stages_hold_a_bounded_number_of_pictures(cascade):
    """One person and then nobody for ever: the person's batch is not waited for."""
    pulled = itertools.count()

    def frames():
        for number in pulled:
            yield Picture("frame", picture((60, 60)) if number == 0 else picture())

    stream = cascade.stream(frames())
    assert [len(next(stream)[1]) for _ in range(3)] == [1, 0, 0]
    assert next(pulled) <= 4 * MAX_WAITING * cascade.batch_size


def test_what_cannot_be_a_cascade_is_refused(predictor, detector, finder):
    with pytest.raises(DataError, match="BrightSpots looks at whole images and finds people by itself"):
        finder.with_detector(detector)
    with pytest.raises(DataError, match="BrightBoxes looks at whole images"):
        detector.with_detector(detector)
    with pytest.raises(DataError, match="the detector's method is BrightSpot, which finds poses"):
        predictor.with_detector(predictor)
    with pytest.raises(DataError, match="BrightSpots, which finds poses"):
        predictor.with_detector(finder)


def test_runs_are_loaded_with_their_detector(monkeypatch, detector):
    config = base("any")
    runs = {"pose": (BrightSpot(), VARIABLES), "detector": (BrightBoxes(), {}), "finder": (BrightSpots(), {})}

    def open_network(name, step, changes, like):
        return Content(config, *runs[name], About("coco"))

    monkeypatch.setattr(reader, "open_network", open_network)
    image = picture((30, 40))
    image[60, 100] = 102
    for given, threshold, count in (("detector", 0.3, 2), ("detector", 0.5, 1), (detector, 0.5, 2)):
        cascade = load("pose", batch_size=8, detector=given, box_threshold=threshold)
        assert [len(people) for people in cascade([image])] == [count]
    with pytest.raises(DataError, match="finder looks at whole images and finds people by itself; detector detector"):
        load("finder", detector="detector")
    with pytest.raises(DataError, match="BrightSpots, which finds poses"):
        load("pose", detector="finder")
