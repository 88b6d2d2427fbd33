"""Fits the random boxes that top-down methods are trained on to a detector's boxes.

    jaxpose fit-proposals --annotations=person_keypoints_train2017.json --boxes=detections.json --output=proposals.json

The annotations are any COCO keypoint file, the boxes a COCO detection file of the same images: a list of records
{"image_id", "category_id", "bbox": [x, y, w, h], "score"}. The result is for training, with
--config.data.proposals.file=proposals.json; see `jaxpose.data.proposals`.
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

from jaxpose.cli import command
from jaxpose.data.proposals import RULES, fit
from jaxpose.data.sources import coco

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("fit-proposals", __doc__)
    add = parser.add_argument
    add("--annotations", type=pathlib.Path, required=True, help="COCO keypoint file with the true boxes")
    add("--boxes", type=pathlib.Path, required=True, help="COCO detection file of the same images")
    add("--output", type=pathlib.Path, required=True, help="JSON file to write")
    add("--clusters", type=int, default=20, help="number of atomic poses; 0: one distribution (default %(default)s)")
    add("--rule", choices=RULES, default=RULES[0], help="rule by which boxes are drawn (default %(default)s)")
    add("--threshold", type=float, default=0.0, help="least score of boxes that are used (default %(default)s)")
    add("--seed", type=int, default=0, help="seed of the clustering (default %(default)s)")
    return command.run(parser, _run, arguments, informs="jaxpose")


def _run(options: argparse.Namespace) -> None:
    annotations = coco.read_keypoints(options.annotations)
    detections = coco.read_detections(options.boxes, annotations.image_id, annotations.sizes)
    good = detections["score"] >= options.threshold
    detections = {name: values[good] for name, values in detections.items()}
    proposals = fit(annotations, detections, options.clusters, options.rule, options.seed)
    proposals.write(options.output)
    logger.info("%s: distributions of %d atomic poses and of all together", options.output, len(proposals.centers))
    for name in ("mean", "std"):
        numbers = ", ".join(f"{v:+.4f}" for v in getattr(proposals, name)[-1])
        logger.info("%s over all poses (x_min, y_min, x_max, y_max): %s", name, numbers)
