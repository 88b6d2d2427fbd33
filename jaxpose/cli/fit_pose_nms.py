"""Fits the parameters of parametric pose NMS to data, as a command.

    python -m jaxpose.main --mode=evaluate --config=configs/rmpe.py --workdir=RUN
    jaxpose fit-pose-nms --annotations=RUN/evaluation/truth.json --poses=RUN/evaluation/raw_poses.json \\
        --output=pose_nms.json

An evaluation with config.evaluate.suppression="parametric" writes both inputs. The poses are those of all detections,
before any suppression: a JSON list of records {"image_id", "keypoints": [x, y, score of each joint], "person_box" (or
"box"): [x, y, w, h], "box_score"}; the annotations are any COCO keypoint file of these images. The result is for
--config.evaluate.pose_nms.file=pose_nms.json, in evaluations and in runs that are to be predicted from.

The scheme is the paper's (section 3.4): two of the four parameters are searched on a grid while the other two are
fixed, in turns, until the AP no longer rises. Hold out other images to judge the result.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxpose.errors import DataError, JaxposeError
from jaxpose.evaluation.metrics import coco
from jaxpose.evaluation.metrics.rows import Rows
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
      evaluate: parameters -> what to maximise.
      rules: where to start.
      spread: first factor, above 1.
      finest: no smaller factor is tried.
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


def average_precision(rows: Rows, ground_truth: coco.GroundTruth, skeleton: Skeleton) -> Callable[[PoseNMS], float]:
    """AP of poses as a function of the parameters by which duplicates are merged.

    Args:
      rows: as `metrics.CocoKeypoints.update` takes them, with box and box_score.
      ground_truth: COCO keypoint dictionary or file.
      skeleton: of both.
    """
    truth = coco.load_truth(ground_truth, skeleton)
    metric = coco.CocoKeypoints()
    metric.update(rows)

    def evaluate(rules: PoseNMS) -> float:
        metric.suppression = Suppression("parametric", rules=rules)
        return metric.compute(truth, skeleton)["AP"]

    return evaluate


def read_poses(path: str | pathlib.Path, skeleton: Skeleton) -> Rows:
    """Poses and their boxes as `metrics.CocoKeypoints.update` takes them.

    Raises:
      DataError: no list of such records; the message names the first bad one.
    """
    from jaxpose.data.sources.coco import read_json

    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: expected a list of poses with 'image_id', 'keypoints', 'person_box' and 'box_score'")
    records = [_record(path, position, record, skeleton) for position, record in enumerate(content)]
    triples = np.array([r["keypoints"] for r in records], np.float64).reshape(len(records), -1, 3)
    box = np.array([r["box"] for r in records], np.float64)
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


def _record(path: Any, position: int, record: Any, skeleton: Skeleton) -> dict:
    where = f"{path}: record {position}"
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, found {type(record).__name__}")
    record = {"box": record.get("person_box"), **record}
    expected = {"image_id": None, "keypoints": 3 * skeleton.num_joints, "box": 4, "box_score": None}
    for name, length in expected.items():
        value = record.get(name)
        numbers = value if isinstance(value, list) else [value]
        good = all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
        if not good or isinstance(value, list) != (length is not None) or len(numbers) != (length or 1):
            what = f"{length} finite numbers" if length else "a finite number"
            raise DataError(
                f"{where}: field {name!r} is {str(value)[:60]}, expected {what}; export raw poses with boxes"
            )
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxpose fit-pose-nms", description="Fits parametric pose NMS to poses of detections."
    )
    add: Any = parser.add_argument
    add("--annotations", type=pathlib.Path, required=True, help="COCO keypoint file: the truth")
    add("--poses", type=pathlib.Path, required=True, help="JSON file of raw poses with boxes and box scores")
    add("--output", type=pathlib.Path, required=True, help="JSON file to write")
    add("--rules", choices=("alphapose", "rmpe2017"), default="alphapose", help="rule set (default %(default)s)")
    add("--spread", type=float, default=2.0, help="factor by which the search starts (default %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        _run(options)
    except JaxposeError as error:
        logger.error("%s", error)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    from jaxpose.data.sources.coco import read_keypoints

    skeleton = read_keypoints(options.annotations).skeleton
    evaluate = average_precision(read_poses(options.poses, skeleton), options.annotations, skeleton)
    start = PoseNMS.preset(options.rules)
    found = fit(evaluate, start, options.spread)
    values = {"AP": evaluate(found), "AP_before": evaluate(start), "pose_nms": dataclasses.asdict(found)}
    text = json.dumps(values, indent=1)
    options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
