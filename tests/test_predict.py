"""Prediction: pictures in, people out, in order; the command's files and failures."""

import dataclasses
import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import predict, runtime
from jaxpose.errors import CheckpointError, DataError, NonFiniteError
from jaxpose.methods.base import Method, person_spec
from jaxpose.metrics.suppression import Suppression
from jaxpose.ops import geometry
from jaxpose.types import Poses

SIZE = (48, 64)


@dataclasses.dataclass(frozen=True)
class BrightSpot(Method):
    """Puts all joints on the brightest pixel of the crop; a black crop holds nobody."""

    skeleton: str = "crowdpose"

    def spec(self, batch_size):
        return {"source": person_spec(batch_size, SIZE, self.joints.num_joints)}

    def predict(self, variables, batch):
        crops = batch["source"]
        light = crops["image"].sum(-1, dtype=jnp.int32).reshape(len(crops["image"]), -1)
        best = light.argmax(-1)
        point = jnp.stack([best % SIZE[0], best // SIZE[0]], -1).astype(jnp.float32)
        point = geometry.apply_affine(crops["to_image"], point[:, None])
        joints = self.joints.num_joints
        spread = jnp.arange(joints, dtype=jnp.float32)[:, None] * variables["params"]["spread"]
        return Poses(
            keypoints=(point + spread)[:, None],
            scores=jnp.full((len(best), 1, joints), 0.9),
            person_score=crops["person_score"][:, None],
            valid=(crops["valid"] & (light.max(-1) > 100))[:, None],
        )

    module = targets = init = phases = forward = decode = None


VARIABLES = {"params": {"spread": np.float32(0)}}


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """The command does not set up JAX again, nor a cache in the home folder."""
    monkeypatch.setattr(runtime, "start", lambda: None)


@pytest.fixture(scope="module")
def predictor():
    return predict.Predictor(BrightSpot(), VARIABLES, batch_size=4)


def picture(*spots, size=(120, 160)):
    image = np.zeros((*size, 3), np.uint8)
    for x, y in spots:
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    return image


def around(*spots):
    return np.array([[x - 12, y - 15, 24, 30] for x, y in spots], np.float32).reshape(-1, 4)


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
    everyone = predict.Predictor(BrightSpot(), VARIABLES, batch_size=4, suppression=Suppression("none"))
    (people,) = everyone([picture((30, 40), (100, 60))], [boxes], [np.array([0.5, 0.8, 0.6])])
    np.testing.assert_allclose(people.person_score, [0.8, 0.6, 0.5])


def test_results_do_not_depend_on_batch_size(predictor):
    rng = np.random.default_rng(0)
    spots = [[tuple(rng.integers(20, 100, 2)) for _ in range(rng.integers(0, 5))] for _ in range(7)]
    pictures, boxes = [picture(*s) for s in spots], [around(*s) for s in spots]
    other = predict.Predictor(BrightSpot(), VARIABLES, batch_size=3)
    for a, b in zip(predictor(pictures, boxes), other(pictures, boxes), strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


def test_stream_needs_no_end(predictor):
    """An endless video gives people as it goes."""

    def frames():
        while True:
            yield predict.Picture("frame", picture((60, 60)))

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


def test_lists_that_do_not_fit(predictor):
    with pytest.raises(DataError, match="boxes are for 1 images, but there are 2"):
        predictor([picture(), picture()], [around()])
    with pytest.raises(DataError, match="do not fit"):
        predictor([picture()], [around((30, 40))], [np.ones(2)])


def test_non_finite_outputs_are_refused():
    broken = predict.Predictor(BrightSpot(), {"params": {"spread": np.float32(np.nan)}}, batch_size=4)
    with pytest.raises(NonFiniteError, match="image number 1: .*NaN"):
        broken([picture(), picture((30, 40))])


def test_method_of_another_kind_is_refused():
    class Clips(BrightSpot):
        def spec(self, batch_size):
            return {"source": {"clip": None}}

    with pytest.raises(DataError, match="Clips takes"):
        predict.Predictor(Clips(), VARIABLES)


# --- the command ---


@pytest.fixture
def command(predictor, monkeypatch, tmp_path):
    """Runs the command on the spot finder; returns (exit status, content of poses.json or None)."""
    monkeypatch.setattr(predict, "load", lambda workdir, step, batch_size: predictor)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = predict.main(["run", *map(str, arguments), "--output", "out"])
        poses = tmp_path / "out" / "poses.json"
        return status, json.loads(poses.read_text()) if poses.exists() else None

    return run


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def test_folder_of_images(command, tmp_path):
    save(tmp_path / "in" / "b_12.png", picture((30, 40)))
    save(tmp_path / "in" / "deep" / "a_7.JPG", picture((90, 60)))
    save(tmp_path / "in" / "c.bmp", picture((50, 50)))
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    status, poses = command("in")
    assert status == 0
    assert [(p["file_name"], p["image_id"]) for p in poses] == [
        ("in/b_12.png", 12),
        ("in/c.bmp", None),
        ("in/deep/a_7.JPG", 7),
    ]
    np.testing.assert_allclose(np.reshape(poses[0]["keypoints"], (14, 3))[0], [30, 40, 0.9], atol=3)
    assert poses[0]["category_id"] == 1
    assert poses[0]["person_box"] == [0, 0, 160, 120]
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert written == ["b_12.png", "c.bmp.png", "deep/a_7.JPG", "poses.json"]
    overlay = cv2.imread(str(tmp_path / "out" / "b_12.png"))
    assert overlay.shape == (480, 640, 3)


def test_command_is_deterministic_and_skips_its_own_output(command, tmp_path):
    """A second run over the folder that holds the output gives the same, byte by byte."""
    for i in range(3):
        save(tmp_path / f"{i}.png", picture((30 + i, 40)))
    assert command(".")[0] == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert command(".")[0] == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == first
    assert len(first) == 4


def test_broken_and_missing_files_are_named_and_counted(command, tmp_path, caplog):
    save(tmp_path / "in" / "good.png", picture((30, 40)))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    status, poses = command("in", "missing.jpg", "nothing")
    assert status == 1
    assert [p["file_name"] for p in poses] == ["in/good.png"]
    for text in (
        "in/broken.jpg: ",
        "in/empty.png: the file is empty",
        "missing.jpg: there is no such",
        "4 of 5 inputs",
    ):
        assert text in caplog.text
    assert "nothing: the folder holds no image" in caplog.text


def test_nothing_usable(command, tmp_path):
    assert command("missing.jpg") == (1, None)
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_replaced(command, tmp_path, caplog):
    save(tmp_path / "out" / "1.png", picture((30, 40)))
    before = (tmp_path / "out" / "1.png").read_bytes()
    assert command(tmp_path / "out" / "1.png") == (1, None)
    assert "would replace the input" in caplog.text
    assert (tmp_path / "out" / "1.png").read_bytes() == before
    save(tmp_path / "2.png", picture((30, 40)))
    (tmp_path / "out" / "poses.json").write_text("[]")
    assert command("2.png", "--boxes", "out/poses.json") == (1, [])


def test_same_names_get_numbers(command, tmp_path):
    for folder in "abc":
        save(tmp_path / folder / "x.png", picture((30, 40)))
    status, poses = command("a/x.png", "b/x.png", "c/x.png", "a/x.png", "a")
    assert status == 0
    assert [p["file_name"] for p in poses] == ["a/x.png", "b/x.png", "c/x.png"]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["x-2.png", "x-3.png", "x.png"]


def detections(*records):
    return json.dumps([{"image_id": i, "category_id": 1, "bbox": b.tolist(), "score": s} for i, b, s in records])


def test_boxes_by_the_digits_of_the_name(command, tmp_path):
    save(tmp_path / "in" / "COCO_val2014_000000000042.png", picture((30, 40), (100, 60)))
    save(tmp_path / "in" / "000000000043.png", picture((30, 40)))
    save(tmp_path / "in" / "nameless.png", picture((30, 40)))
    first, second = around((30, 40), (100, 60))
    (tmp_path / "boxes.json").write_text(detections((42, first, 0.6), (42, second, 0.8), (43, first, 0.2)))
    status, poses = command("in", "--boxes", "boxes.json")
    assert status == 1  # one file has no id
    assert [(p["image_id"], p["score"]) for p in poses] == [(42, 0.8), (42, 0.6)]
    np.testing.assert_allclose(poses[0]["person_box"], second)
    _, poses = command("in", "--boxes", "boxes.json", "--box_threshold", "0.1")
    assert [p["image_id"] for p in poses] == [43, 42, 42]


def test_boxes_by_annotations(command, tmp_path):
    """File names with folders: the folders have to agree."""
    for folder in "ab":
        save(tmp_path / "in" / folder / "1.png", picture((30, 40)))
    names = {"a/1.png": 500, "b/1.png": 600}
    images = [{"file_name": name, "id": image_id} for name, image_id in names.items()]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images}))
    (tmp_path / "boxes.json").write_text(detections((500, around((30, 40))[0], 0.6), (600, around((30, 40))[0], 0.7)))
    status, poses = command("in", "--boxes", "boxes.json", "--annotations", "truth.json")
    assert status == 0
    assert [(p["file_name"], p["image_id"], p["score"]) for p in poses] == [
        ("in/a/1.png", 500, 0.6),
        ("in/b/1.png", 600, 0.7),
    ]


def test_shared_ids_are_no_ids(tmp_path):
    a, b, c = (tmp_path / name for name in ("a/1.png", "b/01.png", f"{'9' * 30}.png"))
    assert predict.image_ids([a, b, c], None) == {a: None, b: None, c: None}


def test_unusable_files_of_boxes(command, tmp_path, caplog):
    save(tmp_path / "1.png", picture((30, 40)))
    (tmp_path / "boxes.json").write_text("[{")
    assert command("1.png", "--boxes", "boxes.json") == (1, None)
    assert "boxes.json: not valid JSON" in caplog.text
    (tmp_path / "truth.json").write_text("{}")
    assert command("1.png", "--annotations", "truth.json") == (1, None)
    assert "truth.json: field 'images'" in caplog.text


def test_no_run(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "1.png", picture((30, 40)))
    assert predict.main(["nowhere", "1.png", "--output", "out"]) == 1
    assert "nowhere: has no config.json" in caplog.text
    with pytest.raises(CheckpointError):
        predict.load(tmp_path)


def test_poses_file_is_read_by_coco_tools(command, tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    save(tmp_path / "12.png", picture((30, 40)))
    _, poses = command("12.png")
    truth = {"images": [{"id": 12, "width": 160, "height": 120}], "categories": [{"id": 1, "name": "person"}]}
    loaded = hotcoco.COCO(truth | {"annotations": []}).loadRes(poses)
    assert len(loaded.anns) == 1
