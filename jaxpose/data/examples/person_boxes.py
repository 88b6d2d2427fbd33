"""A data set seen as people: one row a person's box, true or detected."""

import dataclasses
import logging

import numpy as np

from jaxpose.data.annotations import Annotations, Skipped
from jaxpose.errors import DataError
from jaxpose.ops import geometry

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PersonBoxes:
    """Boxes of people to look at, true or detected.

    Attributes:
      image: [N] rows of the images in the data set.
      box: [N, 4] float32 (x, y, w, h) pixels.
      score: [N] float32 scores of the boxes, 1 for true ones.
      keypoints: [N, K, 2] float32 pixels; zeros for a detected box.
      visibility: [N, K] uint8; zeros for a detected box.
      head_size: [N] float32 pixels; 0 where unknown and for a detected box.
      true_boxes: whether boxes are annotated people rather than detections.
      mirror: [N] bool mask of boxes that are looked at mirrored.
    """

    image: np.ndarray
    box: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray
    head_size: np.ndarray
    true_boxes: bool
    mirror: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


def annotated(annotations: Annotations, name: str) -> PersonBoxes:
    """The people with a true box and at least one labelled joint, as the top-down family chooses them.

    Boxes are clipped to the image by the rule of `geometry.clip_boxes`, where the data set wants it. Crowd regions,
    people without area, boxes outside the image (or of a pixel in it) and people without a labelled joint are no
    examples. The log says how many of each.

    Raises:
      DataError: nobody is left.
    """
    a = annotations
    size = (a.width[a.person_image].astype(np.float32), a.height[a.person_image].astype(np.float32))
    clipped, inside = _clip(a.box, size)
    box = clipped if a.clip_boxes else a.box
    reasons = {
        "crowd regions": a.crowd,
        "no area": ~a.crowd & (a.area <= 0),
        "box outside the image": ~a.crowd & (a.area > 0) & ~inside,
        "no labelled joint": ~a.crowd & (a.area > 0) & inside & ~(a.visibility > 0).any(-1),
    }
    skipped = Skipped(name)
    for reason, mask in reasons.items():
        for person in a.person_id[mask]:
            skipped.add(reason, f"annotation {person}")
    skipped.log(logging.INFO)
    keep = np.flatnonzero(~np.any(list(reasons.values()), axis=0))
    if not len(keep):
        raise DataError(f"{name}: none of the {a.num_people} annotated people has a box and a labelled joint")
    return PersonBoxes(
        image=a.person_image[keep],
        box=box[keep].astype(np.float32),
        score=np.ones(len(keep), np.float32),
        keypoints=a.keypoints[keep],
        visibility=a.visibility[keep],
        head_size=a.head_size[keep],
        true_boxes=True,
        mirror=a.mirror[keep],
    )


def _clip(boxes: np.ndarray, size: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut at the image border, and a mask [N] of those that have an area then."""
    clipped, inside = geometry.clip_boxes(boxes, size)
    return clipped, inside & np.all(clipped[:, 2:] > 0, axis=-1)


def whole_images(annotations: Annotations, name: str) -> PersonBoxes:
    """One row an image, whose box is all of it, with the labels of its person; without any where nobody is annotated.

    Raises:
      DataError: there is no image, or one with several people.
    """
    a = annotations
    if not a.num_images:
        raise DataError(f"{name}: has no images")
    counts = np.bincount(a.person_image, minlength=a.num_images)
    if crowded := np.flatnonzero(counts > 1).tolist():
        raise DataError(
            f"{name}: {len(crowded)} of {a.num_images} images have several people, {a.file_name[crowded[0]]} first; "
            "a whole image can be the box of one person only. Leave config.data's boxes empty for boxes of people."
        )
    joints = a.skeleton.num_joints
    keypoints, visibility = np.zeros((a.num_images, joints, 2), np.float32), np.zeros((a.num_images, joints), np.uint8)
    head_size, mirror = np.zeros(a.num_images, np.float32), np.zeros(a.num_images, bool)
    columns = ((keypoints, a.keypoints), (visibility, a.visibility), (head_size, a.head_size), (mirror, a.mirror))
    for column, of_people in columns:
        column[a.person_image] = of_people
    box = np.stack([np.zeros_like(a.width), np.zeros_like(a.width), a.width, a.height], -1).astype(np.float32)
    ones, rows = np.ones(a.num_images, np.float32), np.arange(a.num_images, dtype=np.int32)
    return PersonBoxes(rows, box, ones, keypoints, visibility, head_size, true_boxes=True, mirror=mirror)


def detected(annotations: Annotations, boxes: dict[str, np.ndarray], name: str) -> PersonBoxes:
    """The boxes of a detector, but for those outside the image (or of a pixel in it), which the log counts.

    Args:
      annotations: labels of the images.
      boxes: columns that `sources.coco.read_detections` or `detections.simulate_detections` gives.
      name: name of the detections, for messages.

    Raises:
      DataError: there is no box.
    """
    a, image = annotations, boxes["image"]
    _, inside = _clip(boxes["box"], (a.width[image].astype(np.float32), a.height[image].astype(np.float32)))
    skipped = Skipped(name)
    for box in boxes["box"][~inside].tolist():
        skipped.add("box outside the image", str(box))
    skipped.log()
    boxes = {field: values[inside] for field, values in boxes.items()}
    count, joints = len(boxes["image"]), annotations.skeleton.num_joints
    if not count:
        raise DataError(f"{name}: has no person box in any of the data set's {annotations.num_images} images")
    return PersonBoxes(
        image=boxes["image"],
        box=boxes["box"],
        score=boxes["score"],
        keypoints=np.zeros((count, joints, 2), np.float32),
        visibility=np.zeros((count, joints), np.uint8),
        head_size=np.zeros(count, np.float32),
        true_boxes=False,
        mirror=np.zeros(count, bool),
    )
