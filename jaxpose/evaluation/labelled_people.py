"""What metrics share that compare each person's joints with their true places."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpose.evaluation.metrics import POSES, TRUE_BOXES, Metric
from jaxpose.evaluation.rows import INDEX, Collected, Column, Rows

PEOPLE = {
    "index": INDEX,
    "keypoints": Column(np.float64, ("K", 2)),
    "truth": Column(np.float64, ("K", 2), label=True),
    "visibility": Column(np.float64, ("K",), label=True),
}
"""Columns of people with their labels."""


@dataclasses.dataclass
class PeopleMetric(Collected, Metric):
    """Base of metrics that compare each person's joints with their true places, as far as these are labelled."""

    needs = (POSES, TRUE_BOXES)
    columns = PEOPLE
    things = "people"
    order = ("index",)
    several = False

    def _num_joints(self, rows: Mapping[str, Any]) -> int:
        return self.context.skeleton.num_joints

    def _check_finite(self, arrays: Rows, name: str) -> None:
        if name == "truth":
            arrays["truth"] = np.where(arrays["visibility"][..., None] > 0, arrays["truth"], 0)
        super()._check_finite(arrays, name)
