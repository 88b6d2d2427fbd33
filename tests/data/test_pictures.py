"""Pictures as people have them: turned by EXIF, with something behind them, cut off, animated, huge."""

import dataclasses
import struct
import time
import zlib

import cv2
import numpy as np
import odd_pictures
import pytest

from jaxpose.data import images
from jaxpose.data.annotations import Annotations
from jaxpose.data.examples import person_boxes
from jaxpose.data.examples.clips import ClipExamples, Videos
from jaxpose.data.examples.detection import DetectionImages
from jaxpose.data.examples.images import EvaluationImages, TrainingImages
from jaxpose.data.examples.people import PersonExamples
from jaxpose.data.formats import pictures
from jaxpose.data.sources import Source
from jaxpose.data.sources import folder as folders
from jaxpose.data.views import CornerCanvas, PersonCrop
from jaxpose.errors import ImageError
from jaxpose.skeleton import COCO
from jaxpose.types import Layout

K = COCO.num_joints
COLOURS = np.array([(60 + 11 * k, 255 - 12 * k, (40 * k) % 256) for k in range(K)], np.uint8)
ORIENTATIONS = range(1, 9)
NOISE = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (48, 64, 3)).astype(np.uint8), (5, 5), 2)


def spots(width: int, height: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark picture with a coloured spot on each of K joints [K, 2], far enough from each other."""
    picture = rng.integers(0, 40, (height, width, 3)).astype(np.uint8)
    columns = np.arange(K) % 4, np.arange(K) // 4
    points = np.stack([(width - 24) / 4 * columns[0] + 16, (height - 24) / 5 * columns[1] + 16], -1)
    points = (points + rng.integers(-3, 4, (K, 2))).round()
    for colour, (x, y) in zip(COLOURS, points, strict=True):
        cv2.circle(picture, (int(x), int(y)), 4, colour.tolist(), -1)
    return picture, points


def labelled_source(kind: str, orientation: int, suffix: str = ".jpg", size: tuple[int, int] = (96, 128)) -> Source:
    """Three frames with an EXIF orientation, labelled as they are upright or as they are stored."""
    rng = np.random.default_rng(0)
    seen = [spots(*size, rng) for _ in range(3)]
    kept = [odd_pictures.as_stored(picture, orientation) if kind == "upright" else picture for picture, _ in seen]
    data = [odd_pictures.with_exif(odd_pictures.encode(picture, suffix), orientation) for picture in kept]
    return Source("spots", people([points for _, points in seen], size), data.__getitem__)


def people(points: list[np.ndarray], size: tuple[int, int]) -> Annotations:
    count = len(points)
    return Annotations(
        skeleton=COCO,
        image_id=np.arange(1, count + 1),
        file_name=np.array([f"clip/{i:06d}.jpg" for i in range(count)]),
        width=np.full(count, size[0], np.int32),
        height=np.full(count, size[1], np.int32),
        person_image=np.arange(count, dtype=np.int32),
        person_id=np.arange(1, count + 1),
        box=np.tile(np.array([2, 2, size[0] - 4, size[1] - 4], np.float32), (count, 1)),
        keypoints=np.array(points, np.float32),
        visibility=np.full((count, K), 2, np.uint8),
        area=np.full(count, 2600, np.float32),
        crowd=np.zeros(count, np.bool_),
        track_id=np.zeros(count, np.int64),
    )


def fit(width: int, height: int) -> Layout:
    return Layout(((2 * width, 2 * height),), (np.array([[2.0, 0, 0], [0, 2.0, 0]]),))


def examples_of(kind: str, source: Source):
    boxes, crop = person_boxes.annotated(source.annotations, source.name), PersonCrop((192, 256), padding=1.0)
    if kind == "top-down":
        return PersonExamples(source, boxes, crop)
    if kind == "clip":
        return ClipExamples(source, boxes, crop, videos=Videos.of(source.annotations))
    if kind == "bottom-up":
        return TrainingImages(source, max_people=1, size=256)
    if kind == "bottom-up evaluation":
        return EvaluationImages(source, max_people=1, layout=fit)
    return DetectionImages(source, max_people=1, canvas=CornerCanvas((320, 320), 256, 320), joints=True)


KINDS = ("top-down", "clip", "bottom-up", "bottom-up evaluation", "detection")


def share_on_spots(picture: np.ndarray, points: np.ndarray, visible: np.ndarray) -> float:
    """Share of the joints inside of a picture that lie on spots of their own colour."""
    places, seen = np.round(points).astype(int), visible > 0
    seen &= np.all((places >= 0) & (places < picture.shape[1::-1]), axis=-1)
    assert seen.sum() >= 8
    shown = picture[places[seen, 1], places[seen, 0]].astype(int)
    return float((np.abs(shown - COLOURS[seen]).max(-1) < 60).mean())


def shares(kind: str, source: Source) -> list[float]:
    examples = examples_of(kind, source)
    loaded = [examples.load(i, None) for i in range(len(examples))]
    return [
        share_on_spots(
            example["image"][0] if kind == "clip" else example["image"],
            example["keypoints"].reshape(-1, 2),
            example["visible"].reshape(-1),
        )
        for example in loaded
    ]


class TestOrientations:
    """Joints lie on their own spots, whatever turns the picture and whatever looks at it."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_labelled_upright(self, kind, orientation):
        assert shares(kind, labelled_source("upright", orientation)) == [1, 1, 1]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
    def test_labelled_as_stored(self, kind, orientation, caplog):
        """The labels have the size of the stored pixels, and only that."""
        assert shares(kind, labelled_source("stored", orientation)) == [1, 1, 1]
        assert ("pictures so far have an EXIF orientation that their labels don't follow" in caplog.text) == (
            orientation > 1
        )

    def test_neighbours_of_a_clip_are_turned_like_the_frame(self):
        source = labelled_source("upright", 6)
        example = examples_of("clip", source).load(1, None)
        (current, *_), a = example["image"], source.annotations
        for frame, row in zip(example["image"], (1, 0, 2), strict=True):
            places = (a.keypoints[row] - 2) * 192 / 92
            assert share_on_spots(frame, places, np.ones(K)) > 0.9
        assert current.any()

    @pytest.mark.parametrize("suffix", [".png", ".webp"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("kind", ["upright", "stored"])
    def test_other_formats(self, suffix, orientation, kind):
        if kind == "upright" or orientation in (1, 5, 6, 7, 8):
            assert shares("top-down", labelled_source(kind, orientation, suffix)) == [1, 1, 1]

    @pytest.mark.parametrize(("orientation", "size"), [(2, (96, 128)), (3, (96, 128)), (4, (96, 128)), (6, (96, 96))])
    def test_sizes_that_do_not_tell(self, orientation, size, caplog):
        """The same size turned or not: seen upright, and said once."""
        examples = examples_of("top-down", labelled_source("upright", orientation, size=size))
        for _ in range(2):
            examples.load(0, None)
        assert caplog.text.count("1 pictures so far have an EXIF orientation, and their size is the same") == 1
        assert "clip/000000.jpg" in caplog.text

    @pytest.mark.parametrize("kind", KINDS)
    def test_labels_of_another_size(self, kind):
        source = labelled_source("upright", 6)
        other = dataclasses.replace(source, annotations=dataclasses.replace(source.annotations, width=np.full(3, 100)))
        expected = (
            r"0.jpg: has 96 x 128 pixels \(upright by its EXIF orientation 6; 128 x 96 as it is stored\), but 100"
        )
        with pytest.raises(ImageError, match=expected):
            examples_of(kind, other).load(0, None)

    @pytest.mark.parametrize("kind", KINDS)
    def test_exchanged_sides_without_an_orientation(self, kind):
        source = labelled_source("upright", 1)
        a = source.annotations
        other = dataclasses.replace(source, annotations=dataclasses.replace(a, width=a.height, height=a.width))
        with pytest.raises(ImageError, match=r"has 96 x 128 pixels, but 128 x 96 in the annotations; .* EXIF .* lost"):
            examples_of(kind, other).load(0, None)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_prediction_sees_pictures_upright(self, suffix, order, orientation):
        stored = odd_pictures.encode(odd_pictures.as_stored(NOISE, orientation), suffix)
        expected = odd_pictures.as_stored(images.decode(stored, "x"), {6: 8, 8: 6}.get(orientation, orientation))
        data = odd_pictures.with_exif(stored, orientation, order)
        np.testing.assert_array_equal(images.decode(data, "x"), expected)
        head = pictures.header(data)
        assert (head.orientation, head.upright_size) == (orientation, (64, 48))

    def test_orientation_behind_the_pixels(self):
        data = odd_pictures.with_exif(odd_pictures.encode(NOISE, ".png"), 8, late=True)
        assert images.decode(data, "x").shape == (64, 48, 3)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    def test_sizes_of_pictures_whose_labels_have_none(self, suffix, tmp_path, caplog):
        data = odd_pictures.encode(NOISE, suffix)
        (tmp_path / f"a{suffix}").write_bytes(odd_pictures.with_exif(data, 6))
        (tmp_path / f"b{suffix}").write_bytes(odd_pictures.with_exif(data, 8, late=True))
        (tmp_path / f"c{suffix}").write_bytes(data)
        found = folders.picture_sizes(tmp_path, [f"{name}{suffix}" for name in "abc"], "")
        np.testing.assert_array_equal(found, [(48, 64), (48, 64), (64, 48)])
        assert "2 of 3 pictures have an EXIF orientation (a" in caplog.text

    @pytest.mark.parametrize("value", [0, 9, 65535])
    def test_numbers_that_are_no_orientation(self, value):
        assert pictures.exif_orientation(odd_pictures.exif_block(value)) == 1

    def test_every_cut_of_a_block(self):
        block = odd_pictures.exif_block(6)
        assert {pictures.exif_orientation(block[:end]) for end in range(len(block))} == {1, 6}


# --- what is behind a picture, and what is missing ---


def jpegs() -> dict[str, bytes]:
    image = NOISE[..., ::-1]
    grey = NOISE[..., 0]
    options = {
        "plain": (image, []),
        "grey": (grey, []),
        "progressive": (image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        "restarts": (image, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
        "optimised": (image, [cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY, 100]),
    }
    return {name: cv2.imencode(".jpg", *arguments)[1].tobytes() for name, arguments in options.items()}


def with_thumbnail(jpeg: bytes) -> bytes:
    """A JPEG with a smaller one in its EXIF data, end marker and all."""
    thumbnail = cv2.imencode(".jpg", NOISE[::4, ::4])[1].tobytes()
    return jpeg[:2] + odd_pictures.jpeg_segment(0xE1, b"Exif\0\0" + odd_pictures.exif_block(1) + thumbnail) + jpeg[2:]


def clip(seed: int) -> bytes:
    body = np.random.default_rng(seed).integers(0, 256, 300_000).astype(np.uint8).tobytes()
    return b"\0\0\0\x18ftypmp42" + body + b"\xff\xda\0\x08"


class TestMotionPhotos:
    @pytest.mark.parametrize("name", jpegs())
    @pytest.mark.parametrize("behind", ["clip", "picture", "cut off", "zeros", "scan"])
    def test_what_lies_behind_does_not_count(self, name, behind):
        whole = jpegs()[name]
        second = jpegs()["plain"]
        rest = {
            "clip": clip(1),
            "picture": second,
            "cut off": second[: len(second) // 2],
            "zeros": bytes(1000),
            "scan": b"\xff\xda",
        }[behind]
        expected = images.decode(whole, "x")
        for data in (whole, with_thumbnail(whole)):
            np.testing.assert_array_equal(images.decode(data + rest, "x"), expected)

    @pytest.mark.parametrize("name", jpegs())
    def test_cut_off_anywhere(self, name):
        whole = with_thumbnail(jpegs()[name])
        for end in [*range(2, len(whole) - 1, 37), len(whole) - 1]:
            with pytest.raises(ImageError, match=r"the JPEG is cut off after \d+ bytes"):
                images.decode(whole[:end], "x")

    def test_cut_off_before_zeros(self):
        """As a download that was given its place on the disk beforehand."""
        whole = jpegs()["plain"]
        with pytest.raises(ImageError, match="the JPEG is cut off"):
            images.decode(whole[: len(whole) // 2] + bytes(len(whole)), "x")

    def test_bytes_between_segments(self):
        whole = jpegs()["plain"]
        data = whole[:2] + odd_pictures.jpeg_segment(0xFE, b"\xff\xd9") + b"\xff\xff\xff" + whole[3:]
        np.testing.assert_array_equal(images.decode(data, "x"), images.decode(whole, "x"))

    def test_endless_markers(self):
        """Bytes that are nothing but markers are given up soon."""
        data = b"\xff\xd8" + b"\xff\x01" * 5_000_000
        start = time.perf_counter()
        with pytest.raises(ImageError, match="the JPEG is cut off"):
            images.decode(data, "x")
        assert time.perf_counter() - start < 1

    def test_megabytes_take_milliseconds(self):
        noise = np.random.default_rng(0).integers(0, 256, (1000, 1500, 3)).astype(np.uint8)
        data = odd_pictures.encode(noise) + clip(0)
        head = pictures.header(data)
        assert len(data) > 2_000_000
        start = time.perf_counter()
        assert not pictures.is_cut_off(data, head)
        assert time.perf_counter() - start < 0.05


class TestOtherFormats:
    @pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".gif"])
    def test_cut_off(self, suffix):
        whole = odd_pictures.gif(1) if suffix == ".gif" else odd_pictures.encode(NOISE, suffix)
        for end in range(40, len(whole) - 2, max(1, len(whole) // 40)):
            with pytest.raises(ImageError, match=f"the (?i:{suffix[1:]}) is cut off after {end} bytes"):
                images.decode(whole[:end], "x")

    @pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp"])
    def test_bytes_behind(self, suffix):
        whole = odd_pictures.encode(NOISE, suffix)
        np.testing.assert_array_equal(images.decode(whole + clip(0), "x"), images.decode(whole, "x"))

    def test_pixels_missing_inside_a_whole_png(self):
        chunks = odd_pictures.png_chunks(odd_pictures.encode(NOISE, ".png"))
        half = [(kind, content[: len(content) // 2] if kind == b"IDAT" else content) for kind, content in chunks]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(odd_pictures.png_chunk(*chunk) for chunk in half)
        with pytest.raises(ImageError, match="fetch it again"):
            images.decode(data, "x")

    def test_depths_and_colours(self):
        """16 bits, grey and transparency become 8 bits of RGB; transparency is left out."""
        deep = NOISE[..., ::-1].astype(np.uint16) * 257
        clear = np.dstack([NOISE[..., ::-1], np.zeros(NOISE.shape[:2], np.uint8)])
        for image in (deep, clear):
            np.testing.assert_array_equal(images.decode(cv2.imencode(".png", image)[1].tobytes(), "x"), NOISE)
        grey = cv2.imencode(".png", NOISE[..., 0])[1].tobytes()
        np.testing.assert_array_equal(images.decode(grey, "x"), np.repeat(NOISE[..., :1], 3, -1))

    def test_palette(self):
        header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
        colours = bytes([10, 20, 30, 40, 50, 60])
        chunks = [(b"IHDR", header), (b"PLTE", colours), (b"IDAT", zlib.compress(b"\0\1\0")), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(odd_pictures.png_chunk(*chunk) for chunk in chunks)
        np.testing.assert_array_equal(images.decode(data, "x"), [[[40, 50, 60], [10, 20, 30]]])


class TestFrames:
    @pytest.mark.parametrize("kind", ["gif", "png"])
    def test_later_frames_are_told(self, kind, caplog):
        red, blue = np.full((4, 4, 3), (255, 0, 0), np.uint8), np.full((4, 4, 3), (0, 0, 255), np.uint8)
        data = odd_pictures.gif(3) if kind == "gif" else odd_pictures.animated_png(red, blue)
        np.testing.assert_array_equal(images.decode(data, "a.gif"), red)
        assert "a.gif: has several frames" in caplog.text
        image, notes = images.decode_labelled(data, "a.gif", (4, 4))
        np.testing.assert_array_equal(image, red)
        assert notes == (images.SEVERAL_FRAMES,)

    def test_single_frames_are_not(self, caplog):
        for data in (odd_pictures.gif(1), odd_pictures.encode(NOISE, ".png"), odd_pictures.encode(NOISE, ".tiff")):
            images.decode(data, "x")
        assert not caplog.text

    def test_animated_webp_and_tiff(self):
        frame = odd_pictures.riff_chunk(b"ANMF", bytes(16) + odd_pictures.encode(NOISE, ".webp")[12:])
        canvas = odd_pictures.riff_chunk(b"VP8X", bytes([2, 0, 0, 0, 63, 0, 0, 47, 0, 0]))
        assert pictures.header(odd_pictures.riff(canvas + frame * 3)).frames == 3
        pages = cv2.imencodemulti(".tiff", [NOISE, NOISE])[1].tobytes()
        assert pictures.header(pages) == pictures.Header("TIFF", (64, 48), frames=2)

    def test_data_sets_count_them(self, caplog):
        source = labelled_source("upright", 1, ".png")
        moving = odd_pictures.animated_png(np.zeros((128, 96, 3), np.uint8), np.ones((128, 96, 3), np.uint8))
        examples = examples_of("top-down", dataclasses.replace(source, read=lambda i: moving))
        for i in range(3):
            examples.load(i, None)
        assert examples.noted == {images.SEVERAL_FRAMES: {f"clip/{i:06d}.jpg" for i in range(3)}}
        assert caplog.text.count("1 pictures so far have several frames, of which the first is seen") == 1

    def test_pictures_of_other_formats_in_a_folder_are_counted(self, tmp_path, caplog):
        for name in ("a.jpg", "B.JPG", "c.gif", "d.TIFF", "._a.jpg", ".DS_Store", "desktop.ini", "Thumbs.db"):
            (tmp_path / name).write_bytes(b"")
        assert [path.name for path in images.find(tmp_path)] == ["B.JPG", "a.jpg"]
        assert "2 pictures are left out (c.gif first)" in caplog.text


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header states a size; there are no such pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(odd_pictures.png_chunk(*chunk) for chunk in chunks)


class TestBounds:
    @pytest.mark.parametrize("size", [(30000, 30000), (70000, 10), (10, 1 << 31)])
    def test_huge_pictures_are_not_decoded(self, size, monkeypatch):
        monkeypatch.setattr(cv2, "imdecode", None)
        with pytest.raises(ImageError, match=r"the limit is 65,535 a side and 268,435,456 in all"):
            images.decode(bomb(*size), "x")

    @pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tiff", ".gif"])
    def test_sizes_of_headers(self, suffix):
        assert pictures.header(odd_pictures.encode(NOISE, suffix)).size == (64, 48)

    @pytest.mark.parametrize("size", [(0, 5), (5, 0)])
    def test_nothing_to_see(self, size):
        with pytest.raises(ImageError, match=f"has {size[0]} x {size[1]} pixels by its header"):
            images.decode(bomb(*size), "x")

    def test_names_that_no_file_has(self):
        with pytest.raises(ImageError, match="cannot be read"):
            images.read("a\0b.jpg")
