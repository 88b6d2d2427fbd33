"""From what a method finds to people: the one way that evaluation and prediction share.

    rows = rows_of(found, shown)                            # one entry a person of a batch
    people = people_of(rows, images, sigmas, suppression)   # of whole images: rescored, without duplicates, best first

The people of a batch are a ragged selection, which the host makes; scoring anew and suppression run on device, batched
over images (`jaxpose.evaluation.suppression`).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.data.annotations import tight_boxes
from jaxpose.evaluation.rows import Rows
from jaxpose.evaluation.suppression import Suppression, suppress
from jaxpose.types import Detections, Poses


@dataclasses.dataclass(frozen=True)
class People:
    """The people of one image, by falling score.

    Attributes:
      keypoints: [N, K, 2] joints in pixels of the image; K is 0 for a detector, which finds no joints.
      scores: [N, K] scores of the joints, in [0, 1].
      person_score: [N] scores of the people.
      boxes: [N, 4] boxes (x, y, w, h) in pixels of the image: those that were looked at or that the method found, else
        boxes around the joints.

    Examples:
      >>> keypoints = np.array([[[20.0, 30.5], [24.0, 52.25]]])
      >>> people = People(keypoints, np.array([[0.9, 0.5]]), np.array([0.7]), np.array([[15.0, 20.0, 30.0, 60.0]]))
      >>> len(people)
      1
      >>> people.to_coco()[0]["keypoints"]
      [20.0, 30.5, 0.9, 24.0, 52.25, 0.5]
    """

    keypoints: np.ndarray
    scores: np.ndarray
    person_score: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.person_score)

    def to_coco(self) -> list[dict[str, Any]]:
        """One object a person in COCO's format of results, rounded.

        Fields: "category_id" 1, "keypoints" (x, y, score of each joint), "score" and "person_box" (x, y, w, h). Without
        joints there is "bbox" in place of keypoints and box.
        """
        points = np.concatenate([self.keypoints.round(2), self.scores[..., None].round(4)], axis=-1, dtype=np.float64)
        records = []
        for i in range(len(self)):
            box = [round(v, 2) for v in self.boxes[i].tolist()]
            joints = [round(v, 4) for v in points[i].reshape(-1).tolist()]
            found = {"keypoints": joints} if joints else {"bbox": box}
            found |= {"score": round(float(self.person_score[i]), 6)}
            records.append({"category_id": 1} | found | ({"person_box": box} if joints else {}))
        return records


def rows_of(found: Poses | Detections, shown: Mapping[str, np.ndarray]) -> Rows:
    """One entry for each valid person, or box, of a batch.

    Args:
      found: people or boxes that a method found in the batch, on the host.
      shown: {name: [B, ...]} columns about what each example of the batch shows. Of crops, among them "area", pixels^2
        of the region that was looked at, and "box".

    Returns:
      The columns of `shown` and those of `found`: keypoints, scores, person_score of poses; box, box_score of boxes
      that the method found. Without `shown["area"]`, a pose's area is that of the box around all its joints, which is
      also its box unless it was found in another.
    """
    valid = np.asarray(found.valid)
    example = np.nonzero(valid)[0]
    rows = {name: np.asarray(values)[example] for name, values in shown.items()}
    boxes = found if isinstance(found, Detections) else found.detections
    if isinstance(found, Poses):
        rows |= {name: np.asarray(getattr(found, name))[valid] for name in ("keypoints", "scores", "person_score")}
        if "area" not in rows:
            tight = tight_boxes(rows["keypoints"], np.ones_like(rows["scores"]))
            rows |= {"area": tight[:, 2:].prod(-1), "box": tight}
    if boxes is not None:
        rows |= {"box": np.asarray(boxes.boxes)[valid], "box_score": np.asarray(boxes.scores)[valid]}
    return rows


def not_finite(found: Poses | Detections) -> np.ndarray:
    """[B] bool, the examples of a batch with a valid person or box whose numbers are NaN or infinite."""
    boxes = found if isinstance(found, Detections) else found.detections
    arrays = [] if boxes is None else [boxes.boxes, boxes.scores]
    if isinstance(found, Poses):
        arrays += [found.keypoints, found.scores, found.person_score]
    valid = np.asarray(found.valid)
    finite = [np.isfinite(values).reshape(*valid.shape, -1).all(-1) for values in arrays]
    return (valid & ~np.all(finite, axis=0)).any(-1)


def with_good_boxes(rows: Rows, threshold: float) -> Rows:
    """The rows whose boxes have an area and a score of at least `threshold`."""
    good = (rows["box_score"] >= threshold) & (rows["box"][:, 2:] > 0).all(-1)
    return {name: values[good] for name, values in rows.items()}


def people_of(
    images: Sequence[Sequence[Rows]], joints: int, sigmas: Iterable[float], suppression: Suppression
) -> list[People]:
    """The people of whole images, rescored and without duplicates.

    Args:
      images: rows of each image, in any number of parts; see `rows_of`.
      joints: number of joints K; 0 for a detector.
      sigmas: [K] OKS constants of the skeleton's joints.
      suppression: rescoring, and suppression of duplicates; boxes without joints are left as they are.
    """
    parts = [part for image in images for part in image]
    sizes = [sum(len(part["box"]) for part in image) for image in images]
    if not sum(sizes):
        nobody = (np.zeros((0, *tail), np.float32) for tail in ((joints, 2), (joints,), (), (4,)))
        return [People(*nobody)] * len(images)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows["image_id"] = np.repeat(np.arange(len(images)), sizes)
    if "keypoints" in rows:
        rows = suppress(rows, sigmas, suppression)
    else:
        count = len(rows["box"])
        no_joints = {"keypoints": np.zeros((count, 0, 2), np.float32), "scores": np.zeros((count, 0), np.float32)}
        rows |= no_joints | {"person_score": rows["box_score"]}
    order = np.lexsort((-rows["person_score"], rows["image_id"]))
    ends = np.searchsorted(rows["image_id"][order], np.arange(1, len(images)))
    fields = (np.split(rows[name][order], ends) for name in ("keypoints", "scores", "person_score", "box"))
    return [People(*own) for own in zip(*fields, strict=True)]
