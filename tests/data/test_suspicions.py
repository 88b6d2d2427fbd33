"""What a file of boxes and joints seems to hold, told by all of them together."""

import numpy as np
import pytest

from jaxpose.data import suspicions
from jaxpose.errors import DataError
from jaxpose.skeleton import COCO

SIZE = (200, 120)


def people(count: int = 40, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Boxes (x, y, w, h) anywhere in images of SIZE, sizes, and upright people of 17 joints that fill them."""
    rng = np.random.default_rng(seed)
    extent = np.stack([rng.uniform(20, 60, count), rng.uniform(40, 100, count)], -1)
    boxes = np.concatenate([rng.uniform(0, np.array(SIZE) - extent), extent], -1)
    height = np.array([0.1 if "e" in j[:1] or "ear" in j or "eye" in j else 0.5 for j in COCO.joints])
    height[[COCO.index("left_ankle"), COCO.index("right_ankle")]] = 0.95
    height[COCO.index("nose")] = 0.05
    joints = np.stack([rng.uniform(0.05, 0.95, (count, 17)), np.tile(height, (count, 1))], -1)
    keypoints = boxes[:, None, :2] + joints * boxes[:, None, 2:]
    return boxes, np.tile(np.array(SIZE, float), (count, 1)), keypoints, np.ones((count, 17), bool)


CHANGES = {
    "(x1, y1, x2, y2)": lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], -1),
    "(centre x, centre y, w, h)": lambda b: np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], -1),
    "(y, x, h, w)": lambda b: b[:, [1, 0, 3, 2]],
    "(y1, x1, y2, x2)": lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], -1)[:, [1, 0, 3, 2]],
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20, 400])
def test_good_files_are_not_suspected(count, seed):
    boxes, sizes, keypoints, labelled = people(count, seed)
    assert suspicions.suspicions(boxes, sizes) == []
    assert suspicions.suspicions(boxes, sizes, keypoints, labelled, COCO.joints) == []


@pytest.mark.parametrize("form", CHANGES)
@pytest.mark.parametrize("with_joints", [False, True])
def test_boxes_of_another_form_are_told(form, with_joints):
    boxes, sizes, keypoints, labelled = people()
    joints = (keypoints, labelled, COCO.joints) if with_joints else ()
    found = suspicions.suspicions(CHANGES[form](boxes), sizes, *joints)
    assert form in found[0].text
    assert "%" in found[0].text


def test_x_and_y_exchanged_in_square_images():
    boxes, sizes, keypoints, labelled = people()
    found = suspicions.suspicions(boxes[:, [1, 0, 3, 2]], 0 * sizes + 200, keypoints[..., ::-1], labelled, COCO.joints)
    assert [s.text for s in found] == [
        "100 % of the people lie with their heads to the left, as if x and y of the joints were exchanged"
    ]
    assert not found[0].certain


def test_x_and_y_of_joints_alone_exchanged():
    boxes, sizes, keypoints, labelled = people()
    found = suspicions.suspicions(boxes, sizes, keypoints[..., ::-1], labelled, COCO.joints)
    assert "the boxes look like (y, x, h, w), or the joints like (y, x): they overlap" in found[0].text


def test_shares_of_the_image_are_told():
    boxes, sizes, keypoints, labelled = people()
    shares = boxes / np.tile(sizes, 2)
    (found,) = suspicions.suspicions(shares, sizes)
    assert found.certain
    assert found.text == "40 of 40 boxes lie within [0, 1], like shares of the image's width and height"
    both = suspicions.suspicions(shares, sizes, keypoints / sizes[:, None], labelled, COCO.joints)
    assert [s.certain for s in both] == [True, True]
    mixed = np.where(np.arange(40)[:, None] < 10, shares, boxes)
    assert not suspicions.suspicions(mixed, sizes)[0].certain
    assert not suspicions.suspicions(shares[:4], sizes[:4])[0].certain
    assert suspicions.suspicions(np.array([[40.0, 40, 1, 1]]), sizes[:1]) == []
    assert suspicions.suspicions(shares[:1], np.full((1, 2), 2)) == []


def test_the_log_tells_and_a_certain_one_is_refused(caplog):
    boxes, sizes, *_ = people()
    with pytest.raises(
        DataError, match=r"boxes.json: the boxes look like \(x1, y1, x2, y2\): \d+ % reach .* Write them"
    ):
        suspicions.check("boxes.json", CHANGES["(x1, y1, x2, y2)"](boxes), sizes)
    suspicions.check("boxes.json", CHANGES["(y, x, h, w)"](boxes)[:4], sizes[:4])
    suspicions.check("boxes.json", boxes[:0], sizes[:0])
    assert caplog.text.count("boxes.json: the boxes look like (y, x, h, w)") == 1


def test_nothing_is_certain_of_a_few_boxes():
    boxes, sizes, *_ = people(4, seed=1)
    for change in CHANGES.values():
        assert not any(s.certain for s in suspicions.suspicions(change(boxes), sizes))


def watched(boxes: np.ndarray) -> None:
    watch = suspicions.Watch("boxes.json")
    for box in boxes:
        watch.add(box[None], SIZE)


def test_boxes_whose_images_come_one_after_the_other(caplog):
    boxes, *_ = people()
    watched(boxes)
    assert caplog.text == ""
    with pytest.raises(DataError, match=r"boxes.json: the boxes look like"):
        watched(CHANGES["(y1, x1, y2, x2)"](boxes))
    caplog.clear()
    watched(CHANGES["(x1, y1, x2, y2)"](boxes)[:4])
    assert caplog.text.count("boxes.json: the boxes look like (x1, y1, x2, y2)") == 1
