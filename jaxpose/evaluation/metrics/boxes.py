"""COCO AP and AR of people's boxes: collect what a detector finds, match it with the truth (hotcoco), twelve numbers.

    metric = CocoBoxes(MetricContext(skeleton.COCO, "person_keypoints_val2017.json"))
    for batch in batches:
        metric.update(rows)
    numbers = metric.compute()

Rows are put in order of image id and index, so that the numbers do not depend on batches or processes.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import BOXES, GroundTruth, Metric, coco
from jaxpose.evaluation.rows import IMAGE_ID, INDEX, Collected, Column

_NUMBERS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR", "AR_S", "AR_M", "AR_L")
NUMBERS = tuple(f"box_{name}" for name in _NUMBERS)
"""So called that they can stand beside those of keypoints."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class CocoBoxes(Collected, Metric):
    """AP and AR of people's boxes by the rules of COCO's bounding boxes, with at most 100 boxes an image.

    Its rows are boxes: image_id [n]; index [n]; box [n, 4] (x, y, w, h) in pixels of the image; box_score [n].
    A crowd region is never found or missed, and a box in it is no mistake. People without labelled joints count.
    People are small, medium or large by `context.sizes`, or COCO's 32^2 and 96^2 pixels, and by the "area" of the
    annotation (that of the mask, where there is one).
    """

    needs = (BOXES,)
    columns = {
        "image_id": IMAGE_ID,
        "index": INDEX,
        "box": Column(np.float64, (4,)),
        "box_score": Column(np.float64),
    }
    things = "boxes"

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

    def compute(self) -> dict[str, float]:
        """Average precision and recall, in [0, 1]; -1 where the images hold no person of that size.

        People of an evaluated image without boxes count as missed.

        Returns:
          The `NUMBERS`: AP over IoU thresholds .5 to .95, at .5 and .75, and by size; AR with at most 1, 10 and 100
          boxes an image, and by size.

        Raises:
          DataError: boxes of an image that is not evaluated, or unusable labels.
        """
        truth = load_truth(self.context.truth)
        predicted = [block["image_id"] for block in self._blocks]
        ids = coco.evaluated_images(truth, self.context.image_ids, predicted, "boxes")
        results = self.results(truth["categories"][0]["id"])
        logger.info("%d boxes found; %d people are annotated", len(results), len(truth["annotations"]))
        evaluation = coco.open_evaluation(truth, results, "bbox", ids, self.context.sizes)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, 0, :, -1]  # [threshold, recall, size], -1 where there is nobody
        recall = evaluation.eval["recall"][:, 0]  # [threshold, size, boxes an image]
        values = [precision[..., 0], precision[0, :, 0], precision[5, :, 0]]
        values += [precision[..., size] for size in (1, 2, 3)]
        values += [recall[:, 0, boxes] for boxes in range(3)]
        values += [recall[:, size, -1] for size in (1, 2, 3)]
        return {name: coco.mean_of_known(found) for name, found in zip(NUMBERS, values, strict=True)}


def load_truth(ground_truth: GroundTruth) -> dict:
    """The part of a COCO file that an evaluation of boxes needs: images, and people's boxes.

    Raises:
      DataError: a file, list or field is missing, or there is no one category of people; the message says which.
    """
    content, name = coco.read_truth(ground_truth), coco.name_of(ground_truth)
    listed = [dict(category) for category in content["categories"] if isinstance(category, Mapping)]
    chosen = [category for category in listed if category.get("name") == "person"] or listed
    if len(chosen) != 1:
        raise DataError(
            f"{name}: field 'categories': expected a category 'person', or a single one; found "
            f"{[category.get('name') for category in listed]}"
        )
    category: dict[str, Any] = coco.with_id(chosen[0], f"{name}: field 'categories'") | {"name": "person"}
    people = coco.truth_people(content, category["id"], name, ("image_id", "bbox", "area"), coco.box_of_truth)
    return {
        "images": coco.truth_images(content, name),
        "categories": [category],
        "annotations": [person | {"category_id": category["id"]} for person in people],
    }
