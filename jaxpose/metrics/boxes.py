"""COCO AP and AR of people's boxes: collect what a detector finds, match it with the truth (hotcoco), twelve numbers.

    metric = CocoBoxes()
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute("person_keypoints_val2017.json")

Rows are put in order of image id and index, so that the numbers do not depend on batches or processes.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxpose.errors import DataError
from jaxpose.metrics import coco
from jaxpose.metrics.suppression import Rows

_NUMBERS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR", "AR_S", "AR_M", "AR_L")
NUMBERS = tuple(f"box_{name}" for name in _NUMBERS)
"""So called that they can stand beside those of keypoints."""

logger = logging.getLogger(__name__)

_FIELDS = {"image_id": np.int64, "index": np.int64, "box": np.float64, "box_score": np.float64}
_OF_TRUTH = ("id", "image_id", "category_id", "bbox", "area")


@dataclasses.dataclass
class CocoBoxes:
    """AP and AR of people's boxes by the rules of COCO's bounding boxes, with at most 100 boxes an image.

    A crowd region is never found or missed, and a box in it is no mistake. People without labelled joints count.

    Attributes:
      sizes: (a, b) areas in pixels^2: people up to a are small, those from b on large; COCO's 32^2 and 96^2 if None.
        A person's size is the "area" of the annotation (that of the mask, where there is one).
    """

    sizes: tuple[float, float] | None = None
    _blocks: list[Rows] = dataclasses.field(default_factory=list, repr=False)

    def update(self, rows: Mapping[str, Any]) -> None:
        """Adds n boxes.

        Args:
          rows: arrays with leading axis n, padding already removed; others than these are ignored:
            image_id [n] int;
            index [n] int, position of the example in the data set; several boxes of one example share it;
            box [n, 4] (x, y, w, h) in pixels of the image;
            box_score [n].

        Raises:
          DataError: a field is missing, has another shape, or holds a number that is not finite.
        """
        self._blocks.append(_checked(rows))

    def merge(self, other: "CocoBoxes") -> None:
        """Adds all boxes of another metric, such as another process's."""
        self._blocks.extend(other._blocks)

    def rows(self) -> Rows:
        """All boxes so far, ordered by image id, then index, then order within the example; what `update` takes.

        Raises:
          DataError: an example came in twice.
        """
        empty = _checked({"image_id": [], "index": [], "box": np.zeros((0, 4)), "box_score": []})
        blocks = [empty, *self._blocks]
        rows = {name: np.concatenate([block[name] for block in blocks]) for name in _FIELDS}
        coco.forbid_repeats(rows, [len(block["index"]) for block in blocks])
        order = np.lexsort((rows["index"], rows["image_id"]))
        return {name: values[order] for name, values in rows.items()}

    def results(self, category_id: int = 1) -> list[dict]:
        """The boxes in the format of COCO detection results, which `data.validation.boxes` of a config can name.

        One dict a box: image_id, category_id, bbox (x, y, w, h), score. Images by id; within one, the best box first.
        """
        rows = self.rows()
        order = np.lexsort((-rows["box_score"], rows["image_id"]))
        columns = (rows[name][order].tolist() for name in ("image_id", "box", "box_score"))
        return [
            {"image_id": image, "category_id": category_id, "bbox": box, "score": score}
            for image, box, score in zip(*columns, strict=True)
        ]

    def compute(self, ground_truth: coco.GroundTruth, image_ids: Iterable[int] | None = None) -> dict[str, float]:
        """Average precision and recall, in [0, 1]; -1 where the images hold no person of that size.

        Args:
          ground_truth: a COCO dictionary with people's boxes, or the path of its JSON file.
          image_ids: the images that were evaluated; all of the file if None. Their people count as missed where no box
            was added for them.

        Returns:
          The `NUMBERS`: AP over IoU thresholds .5 to .95, at .5 and .75, and by size; AR with at most 1, 10 and 100
          boxes an image, and by size.

        Raises:
          DataError: boxes of an image that is not evaluated, or unusable ground truth.
        """
        truth = load_truth(ground_truth)
        ids = coco.evaluated_images(truth, image_ids, [block["image_id"] for block in self._blocks], "boxes")
        results = self.results(truth["categories"][0]["id"])
        logger.info("%d boxes; %d annotated people", len(results), len(truth["annotations"]))
        evaluation = coco.open_evaluation(truth, results, "bbox", ids, self.sizes)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, 0, :, -1]  # [threshold, recall, size], -1 where there is nobody
        recall = evaluation.eval["recall"][:, 0]  # [threshold, size, boxes an image]
        values = [precision[..., 0], precision[0, :, 0], precision[5, :, 0]]
        values += [precision[..., size] for size in (1, 2, 3)]
        values += [recall[:, 0, boxes] for boxes in range(3)]
        values += [recall[:, size, -1] for size in (1, 2, 3)]
        return {name: coco.mean_of_known(found) for name, found in zip(NUMBERS, values, strict=True)}


def load_truth(ground_truth: coco.GroundTruth) -> dict:
    """The part of a COCO file that an evaluation of boxes needs: images, and people's boxes.

    Raises:
      DataError: a file, list or field is missing, or there is no one category of people; the message says which.
    """
    content = coco.read_truth(ground_truth)
    named = [c for c in content["categories"] if c.get("name") == "person"]
    chosen = named or content["categories"]
    if len(chosen) != 1:
        raise DataError(
            f"ground truth: field 'categories': expected a category 'person', or a single one; found "
            f"{[c.get('name') for c in content['categories']]}"
        )
    people = [a for a in content["annotations"] if a.get("category_id") == chosen[0]["id"]]
    for person in people:
        if missing := [field for field in _OF_TRUTH if field not in person]:
            raise DataError(
                f"ground truth: annotation {person.get('id')}: lacks the fields {missing}, which COCO's evaluation of "
                "boxes needs"
            )
    return {
        "images": content["images"],
        "categories": chosen,
        "annotations": [{f: p[f] for f in _OF_TRUTH} | {"iscrowd": p.get("iscrowd", 0)} for p in people],
    }


def _checked(rows: Mapping[str, Any]) -> Rows:
    if missing := [name for name in _FIELDS if name not in rows]:
        raise DataError(f"boxes lack the fields {missing}; expected {list(_FIELDS)}")
    arrays = {name: np.array(rows[name], dtype) for name, dtype in _FIELDS.items()}
    count = np.size(arrays["index"])
    for name, values in arrays.items():
        expected = (count, 4) if name == "box" else (count,)
        if values.shape != expected:
            raise DataError(f"field {name!r} has shape {values.shape}, expected {expected} for {count} boxes")
        bad = ~np.isfinite(values).reshape(count, -1).all(-1) if count else np.zeros(0, bool)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"image {arrays['image_id'][first]} (example {arrays['index'][first]}): field {name!r} is not finite "
                f"in {int(bad.sum())} boxes; the network's outputs or weights hold NaN or infinite numbers"
            )
    return arrays
