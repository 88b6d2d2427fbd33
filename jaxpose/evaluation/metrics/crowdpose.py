"""CrowdPose AP: COCO's matching with CrowdPose's areas, and three scores by how crowded the images are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.data.formats.coco import AREA_OF_BOX
from jaxpose.errors import DataError
from jaxpose.evaluation.metrics import coco
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.skeleton import Skeleton

CROWDED = {"AP_easy": (-np.inf, 0.2), "AP_medium": (0.2, 0.8), "AP_hard": (0.8, np.inf)}
"""Bounds of the crowd index, lower one included: those of the released evaluation, behind all published numbers."""


@dataclasses.dataclass
class CrowdPoseKeypoints(coco.CocoKeypoints):
    """AP and AR of CrowdPose; collects poses like `CocoKeypoints`.

    A person's area is .53 of the box, whatever the labels say, in OKS and in the ranges of sizes.
    """

    def compute(self) -> dict[str, float]:
        """Average precision and recall in [0, 1].

        The AP of easy, medium and hard images are plain means rounded to 4 decimals, as the released evaluation has it;
        -1 where there is no such image with people.

        Returns:
          {"AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"}; with `context.sizes`, also
          "AP_S" and the like.

        Raises:
          DataError: as `CocoKeypoints.compute`; or an image has no "crowdIndex".
        """
        return super().compute()

    def _labels(self) -> dict:
        return with_box_areas(coco.read_truth(self.context.truth))

    def _numbers(self, truth: dict, results: list[dict], ids: list[int]) -> dict[str, float]:
        numbers = super()._numbers(truth, results, ids)
        crowd = _crowd_index(truth, ids)
        by_crowd = {}
        for name, (low, high) in CROWDED.items():
            chosen = [i for i, index in crowd.items() if low <= index < high]
            by_crowd[name] = _mean_precision(truth, results, self.context.skeleton, chosen) if chosen else -1.0
        names = ["AP", "AP50", "AP75", "AR", "AR50", "AR75"]
        if self.context.sizes is not None:
            names += [f"{name}_{size}" for name in ("AP", "AR") for size in "SML"]
        return {name: numbers[name] for name in names} | by_crowd


def _mean_precision(truth: dict, results: list[dict], skeleton: Skeleton, ids: list[int]) -> float:
    precision = coco.match(truth, results, skeleton.sigmas, ids).eval["precision"]
    return round(float(np.mean(precision[:, :, 0, 0, 0])), 4)


def with_box_areas(truth: Mapping[str, Any]) -> dict[str, Any]:
    """Labels with the areas of CrowdPose's evaluation, .53 of the box, for everybody who has a box."""
    return dict(truth) | {"annotations": [_with_area(annotation) for annotation in truth["annotations"]]}


def _with_area(annotation: Any) -> Any:
    try:
        box = fields.numbers(annotation, "bbox", 4)
    except (AttributeError, FieldError):  # which whoever reads the people tells
        return annotation
    return dict(annotation) | {"area": AREA_OF_BOX * float(box[2]) * float(box[3])}


def _crowd_index(truth: dict, ids: list[int]) -> dict[int, float]:
    images = {image["id"]: image for image in truth["images"]}
    if missing := [i for i in ids if "crowdIndex" not in images[i]]:
        raise DataError(
            f"ground truth: {len(missing)} images lack the field 'crowdIndex' (image {missing[0]} first); "
            "take the annotation file that CrowdPose publishes, or evaluate with the metric 'coco'"
        )
    return {i: images[i]["crowdIndex"] for i in ids}
