"""Fits the parameters of parametric pose NMS to the poses of a detector's boxes.

    python -m jaxpose.main --mode=evaluate --config=configs/rmpe.py --workdir=RUN
    jaxpose fit-pose-nms --annotations=RUN/evaluation/truth.json --poses=RUN/evaluation/raw_poses.json \\
        --output=pose_nms.json

An evaluation with config.evaluate.suppression="parametric" writes both inputs. The poses are those of all detections,
before any suppression: a JSON list of records {"image_id", "keypoints": [x, y, score of each joint], "person_box" (or
"box"): [x, y, w, h], "box_score"}. The annotations are any COCO keypoint file of these images. The result is for
--config.evaluate.pose_nms.file=pose_nms.json, in evaluations and in runs that are to be predicted from.

The scheme is the paper's (section 3.4): two of the four parameters are searched on a grid while the other two are
fixed, in turns, until the AP no longer rises. Hold out other images to judge the result.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from jaxpose.cli import command
from jaxpose.data.sources.coco import read_keypoints
from jaxpose.evaluation import pose_nms_fitting
from jaxpose.files.whole import write_text
from jaxpose.ops.pose_nms import PoseNMS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("fit-pose-nms", __doc__)
    add = parser.add_argument
    add("--annotations", type=pathlib.Path, required=True, help="COCO keypoint file with the true poses")
    add("--poses", type=pathlib.Path, required=True, help="JSON file of poses before suppression, with boxes")
    add("--output", type=pathlib.Path, required=True, help="JSON file to write")
    add("--rules", choices=("alphapose", "rmpe2017"), default="alphapose", help="rule set (default %(default)s)")
    add("--spread", type=float, default=2.0, help="factor by which the search starts (default %(default)s)")
    return command.run(parser, _run, arguments, informs="jaxpose")


def _run(options: argparse.Namespace) -> None:
    skeleton = read_keypoints(options.annotations).skeleton
    poses = pose_nms_fitting.read_poses(options.poses, skeleton)
    evaluate = pose_nms_fitting.average_precision(poses, options.annotations, skeleton)
    start = PoseNMS.preset(options.rules)
    found = pose_nms_fitting.fit(evaluate, start, options.spread)
    values = {"AP": evaluate(found), "AP_before": evaluate(start), "pose_nms": dataclasses.asdict(found)}
    text = json.dumps(values, indent=1)
    write_text(options.output, text + "\n")
    print(text)
