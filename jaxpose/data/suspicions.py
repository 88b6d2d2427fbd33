"""Whether the boxes and joints of a file are what its format says, or something else that has as many numbers.

Nothing in a file tells (x1, y1, x2, y2) from (x, y, w, h), a share of the image from pixels, or (y, x) from (x, y). All
its boxes together do: read as what they are they lie in their images, around their joints.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxpose.errors import DataError
from jaxpose.ops.boxes import box_iou, center_to_box, corner_to_box

logger = logging.getLogger(__name__)

MANY = 20
"""Number of boxes from which on a file is refused if nearly all fit as something else and not half as they are."""
FEW = 5
"""The same where all fit as something else, and none as they are; or where all are shares of the image."""

_SLACK = 0.05  # of the image's side, by which boxes reach beyond it in good files
_LEAST_FIT = 0.95  # of boxes, as what they are taken for
_MOST_FIT = 0.7  # of boxes as they are, in a file that is suspected
_BETTER = 0.15  # overlap with the extent of joints, on average
_ENDS = (("nose", "head", "eye", "ear", "neck"), ("ankle", "knee", "foot"))  # in names of joints

_Boxes = Callable[[np.ndarray], np.ndarray]
_FORMS: dict[str, _Boxes] = {
    "(x1, y1, x2, y2)": corner_to_box,
    "(centre x, centre y, w, h)": center_to_box,
    "(y, x, h, w)": lambda b: b[:, [1, 0, 3, 2]],
    "(y1, x1, y2, x2)": lambda b: corner_to_box(b[:, [1, 0, 3, 2]]),
}
"""What four numbers can be instead of (x, y, w, h), and how they become that."""


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """What a file seems to hold.

    Attributes:
      text: sentence without its end: what was seen.
      certain: True if it cannot be anything else.
      remedy: what to do.
    """

    text: str
    certain: bool
    remedy: str


def check(where: Any, boxes: np.ndarray, sizes: np.ndarray, **joints: Any) -> None:
    """Says in the log what a file seems to hold instead of boxes (x, y, w, h) and joints (x, y) in pixels.

    Args:
      where: name of the file, for messages.
      boxes: [N, 4] boxes as the file has them.
      sizes: [N, 2] sizes (width, height) of their images in pixels.
      joints: what else `suspicions` takes.

    Raises:
      DataError: it cannot be anything else.
    """
    _tell(where, suspicions(boxes, sizes, **joints))


class Watch:
    """What boxes of a file seem to be, where the sizes of their images are known one after the other only.

    Args:
      where: name of the file, for messages.
    """

    def __init__(self, where: Any):
        self._where = where
        self._boxes, self._sizes = np.zeros((0, 4)), np.zeros((0, 2))
        self._told = False

    def add(self, boxes: np.ndarray, size: tuple[int, int]) -> None:
        """Looks at boxes [N, 4] of an image of a size (width, height) with all before them; the log tells once.

        Raises:
          DataError: they cannot be (x, y, w, h) in pixels.
        """
        if len(self._boxes) > 10 * MANY or not len(boxes):
            return
        self._boxes = np.concatenate([self._boxes, boxes])
        self._sizes = np.concatenate([self._sizes, np.tile(np.array(size, np.float64), (len(boxes), 1))])
        found = suspicions(self._boxes, self._sizes)
        _tell(self._where, [each for each in found if each.certain or not self._told])
        self._told |= bool(found)


def _tell(where: Any, found: Sequence[Suspicion]) -> None:
    for suspicion in found:
        if suspicion.certain:
            raise DataError(f"{where}: {suspicion.text}. {suspicion.remedy}")
        logger.warning("%s: %s. %s", where, suspicion.text, suspicion.remedy)


def suspicions(
    boxes: np.ndarray,
    sizes: np.ndarray,
    keypoints: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    names: tuple[str, ...] = (),
) -> list[Suspicion]:
    """What boxes and joints seem to be, if it is not (x, y, w, h) and (x, y) in pixels of their images.

    Args:
      boxes: [N, 4] boxes.
      sizes: [N, 2] sizes (width, height) of their images in pixels.
      keypoints: [N, K, 2] joints of the same people, if they are known.
      labelled: [N, K] bool, True for joints that are labelled.
      names: [K] names of the joints.

    Examples:
      >>> corners = np.array([[50, 60, 90, 95], [40, 10, 99, 80], [70, 50, 80, 90]])
      >>> suspicions(corners, np.full((3, 2), 100))[0].text
      'the boxes look like (x1, y1, x2, y2): 100 % reach beyond their image as (x, y, w, h), 0 % as that'
    """
    boxes, sizes = np.asarray(boxes, np.float64), np.asarray(sizes, np.float64)
    found = list(_shares(boxes, sizes, keypoints, labelled))
    if not found:
        found += _other_forms(boxes, sizes)
    if not found and keypoints is not None and labelled is not None:
        found += _around_others(boxes, keypoints, labelled)
        found += _heads_beside_feet(keypoints, labelled, names)
    return found


def _shares(
    boxes: np.ndarray, sizes: np.ndarray, keypoints: np.ndarray | None, labelled: np.ndarray | None
) -> Iterator[Suspicion]:
    """Numbers of [0, 1] in images of more than two pixels."""
    large = np.min(sizes, axis=-1) > 2
    points = {"boxes": boxes[large]}
    if keypoints is not None and labelled is not None:
        points["joints"] = np.asarray(keypoints, np.float64)[large][labelled[large]]
    for what, values in points.items():
        within = np.all((values >= 0) & (values <= 1), axis=-1)
        if count := int(within.sum()):
            text = f"{count} of {len(within)} {what} lie within [0, 1], like shares of the image's width and height"
            remedy = "Multiply them by the size of their image, so that they are in pixels."
            if count == len(within) or (what == "boxes" and count >= max(3, len(within) / 10)):
                yield Suspicion(text, count == len(within) and count >= FEW, remedy)


def _other_forms(boxes: np.ndarray, sizes: np.ndarray) -> Iterator[Suspicion]:
    """Boxes that lie in their images as something else."""
    if len(boxes) < 3:
        return
    given = float(_fit(boxes, sizes).mean())
    fits = {form: float(_fit(change(boxes), sizes).mean()) for form, change in _FORMS.items()}
    form = max(fits, key=lambda each: fits[each])
    if given > _MOST_FIT or fits[form] < _LEAST_FIT:
        return
    certain = len(boxes) >= MANY and given < 0.5 and fits[form] > 0.99
    certain |= len(boxes) >= FEW and given == 0 and fits[form] == 1
    shares = (
        f"{100 * (1 - given):.0f} % reach beyond their image as (x, y, w, h), {100 * (1 - fits[form]):.0f} % as that"
    )
    remedy = "Write them as (x, y, w, h) in pixels, x and y those of the upper left corner."
    if form == "(y, x, h, w)":
        remedy += " Or are widths and heights of the images exchanged, as those of pictures that EXIF turns?"
    yield Suspicion(f"the boxes look like {form}: {shares}", certain, remedy)


def _fit(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[N] bool, True for boxes that have an area and lie in their image, but for some slack."""
    slack = 1 + _SLACK * sizes
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return np.all((low >= -slack) & (high <= sizes + slack) & (boxes[:, 2:] > 0), axis=-1)


def _around_others(boxes: np.ndarray, keypoints: np.ndarray, labelled: np.ndarray) -> Iterator[Suspicion]:
    """Boxes that lie around their joints better as something else."""
    many = labelled.sum(-1) >= 4
    if many.sum() < FEW:
        return
    boxes, points = boxes[many], np.asarray(keypoints, np.float64)[many]
    extent = _extent(points, labelled[many])
    given = _overlap(boxes, extent)
    others = {form: _overlap(change(boxes), extent) for form, change in _FORMS.items()}
    form, best = max(others.items(), key=lambda other: other[1].mean())
    if best.mean() >= 0.4 and best.mean() - given.mean() >= _BETTER and (best > given).mean() >= 0.8:
        text = f"they overlap the extent of the joints by {100 * best.mean():.0f} % on average, as they are by"
        remedy = "Boxes are (x, y, w, h), joints (x, y, v), all in pixels; write them so if they are not."
        joints = ", or the joints like (y, x)" if form == "(y, x, h, w)" else ""
        yield Suspicion(f"the boxes look like {form}{joints}: {text} {100 * given.mean():.0f} %", False, remedy)


def _extent(points: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """[N, 4] boxes of the labelled ones of [N, K, 2] points."""
    low = np.min(points, axis=1, where=labelled[..., None], initial=np.inf)
    high = np.max(points, axis=1, where=labelled[..., None], initial=-np.inf)
    return np.concatenate([low, high - low], -1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N] IoU, 0 for boxes without area."""
    usable = np.all(boxes[:, 2:] > 0, axis=-1)
    return np.where(usable, box_iou(np.where(usable[:, None], boxes, 1), others), 0)


def _heads_beside_feet(keypoints: np.ndarray, labelled: np.ndarray, names: tuple[str, ...]) -> Iterator[Suspicion]:
    """People who lie on their side, all on the same: x and y of their joints are exchanged."""
    heads, feet = (np.array([any(part in name.lower() for part in parts) for name in names], bool) for parts in _ENDS)
    if not heads.any() or not feet.any():
        return
    both = np.any(labelled[:, heads], axis=-1) & np.any(labelled[:, feet], axis=-1)
    if both.sum() < MANY:
        return
    ends = [_middle(keypoints[both][:, part], labelled[both][:, part]) for part in (heads, feet)]
    down = ends[1] - ends[0]
    down = down / np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-9)
    x, y = down.mean(0).tolist()
    if x > 0.7 and abs(y) < 0.4:
        text = f"{100 * (down[:, 0] > np.abs(down[:, 1])).mean():.0f} % of the people lie with their heads to the left"
        remedy = "Joints are (x, y, v) in pixels; exchange x and y if they are not, or turn the images."
        yield Suspicion(f"{text}, as if x and y of the joints were exchanged", False, remedy)


def _middle(points: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """[N, 2] means of the labelled ones of [N, J, 2] points."""
    return np.where(labelled[..., None], points, 0).sum(1) / labelled.sum(1)[:, None]
