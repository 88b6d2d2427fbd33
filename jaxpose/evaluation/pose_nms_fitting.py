"""Fitting of the parameters of parametric pose NMS to the poses of a detector's boxes (RMPE, section 3.4).

`jaxpose fit-pose-nms` is the command. Two of the four parameters are searched on a grid while the other two are fixed,
in turns, until the AP no longer rises.
"""

import dataclasses
import itertools
import logging
import math
import pathlib
from collections.abc import Callable

import numpy as np

from jaxpose.evaluation import pose_files
from jaxpose.evaluation.metrics import GroundTruth, MetricContext, coco
from jaxpose.evaluation.rows import Rows
from jaxpose.evaluation.suppression import Suppression
from jaxpose.ops.pose_nms import PoseNMS
from jaxpose.skeleton import Skeleton

logger = logging.getLogger(__name__)

PAIRS = (("delta2", "gamma"), ("delta1", "mu"))
"""Parameters that are searched together. Reach and threshold of similarity make up for each other, so they are a pair;
the paper does not say which it takes."""


def fit(evaluate: Callable[[PoseNMS], float], rules: PoseNMS, spread: float = 2.0, finest: float = 1.1) -> PoseNMS:
    """The best parameters that an alternating grid search finds; deterministic.

    Around the best so far, each parameter of a pair is divided and multiplied by `spread` and its square root. When
    neither pair gains, the spread shrinks to its square root, down to `finest`. Of equal results the first stays.

    Args:
      evaluate: function from parameters to the value that is to be maximised.
      rules: parameters to start from.
      spread: first factor, above 1.
      finest: smallest factor that is tried.
    """
    best, best_value = rules, evaluate(rules)
    known = {rules: best_value}
    while spread >= finest:
        before = best_value
        for pair in PAIRS:
            center = best
            for exponents in itertools.product((0, -0.5, 0.5, -1, 1), repeat=2):
                changes = {name: getattr(center, name) * spread**e for name, e in zip(pair, exponents)}
                candidate = dataclasses.replace(center, **changes)
                if candidate not in known:
                    known[candidate] = evaluate(candidate)
                if known[candidate] > best_value:
                    best, best_value = candidate, known[candidate]
                    shown = ", ".join(f"{name} {getattr(best, name):.4g}" for name in (*PAIRS[0], *PAIRS[1]))
                    logger.info("%.4f  %s", best_value, shown)
        if best_value <= before:
            spread = math.sqrt(spread)
    return best


def average_precision(rows: Rows, labels: GroundTruth, skeleton: Skeleton) -> Callable[[PoseNMS], float]:
    """AP of poses as a function of the parameters by which duplicates are merged.

    Args:
      rows: poses as `metrics.coco.CocoKeypoints.update` takes them, with box and box_score.
      labels: COCO keypoint dictionary, or the path of its file.
      skeleton: joints of both.
    """
    context = MetricContext(skeleton, coco.load_truth(labels, skeleton))
    metric = coco.CocoKeypoints(context)
    metric.update(rows)

    def evaluate(rules: PoseNMS) -> float:
        metric.context = dataclasses.replace(context, suppression=Suppression("parametric", rules=rules))
        return metric.compute()["AP"]

    return evaluate


def read_poses(path: str | pathlib.Path, skeleton: Skeleton) -> Rows:
    """Poses and their boxes as `metrics.coco.CocoKeypoints.update` takes them.

    Raises:
      DataError: no list of such records; the message names the first bad one.
    """
    hint = "an evaluation with config.evaluate.suppression=parametric writes raw_poses.json"
    fields = {"person_box": 4, "box_score": None}
    records = pose_files.read_poses(path, skeleton, fields, hint, aliases={"box": "person_box"})
    triples = np.array([r["keypoints"] for r in records], np.float64).reshape(len(records), -1, 3)
    box = np.array([r["person_box"] for r in records], np.float64)
    return {
        "image_id": np.array([r["image_id"] for r in records], np.int64),
        "index": np.arange(len(records)),
        "keypoints": triples[..., :2],
        "scores": triples[..., 2],
        "person_score": triples[..., 2].mean(-1),
        "area": box[:, 2:].prod(-1),
        "box": box,
        "box_score": np.array([r["box_score"] for r in records], np.float64),
    }
