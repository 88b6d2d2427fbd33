"""Trains the network that rescores found people by the shape of their poses (DEKR, section 3.4).

    python -m jaxpose.main --mode=evaluate --config=configs/dekr.py --workdir=RUN  (on images not used for testing)
    jaxpose fit-rescoring --annotations=TRUTH.json --poses=RUN/evaluation/results.json --output=rescoring.npz

The poses are those of an evaluation without rescoring, in the format of the COCO server; the annotations are a COCO
keypoint file of the same images. The paper takes the training images. The result is for
--config.evaluate.rescoring=rescoring.npz, in evaluations and in runs that are to be predicted from.

Beside OUTPUT a report of the same name in JSON tells how many poses there were, the loss of each epoch, how well old
and new scores order the poses (rank correlation with their best OKS), and the AP before and after. Judge the result on
other images.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from jaxpose.cli import command
from jaxpose.evaluation import rescoring_training
from jaxpose.evaluation.rescoring_training import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("fit-rescoring", __doc__)
    add = parser.add_argument
    add("--annotations", type=pathlib.Path, required=True, help="COCO keypoint file with the true poses")
    add("--poses", type=pathlib.Path, required=True, help="JSON file of results without rescoring")
    add("--output", type=pathlib.Path, required=True, help=".npz file to write; a report goes beside it")
    add("--area", choices=("annotation", "box"), default="", help="area in OKS (default: box for CrowdPose)")
    add("--keep-perfect", action="store_true", help="do not count an OKS of exactly 1 as 0")
    for name in ("epochs", "batch_size", "learning_rate", "hidden", "seed"):
        default = getattr(Recipe, name)
        add(f"--{name.replace('_', '-')}", type=type(default), default=default, help="(default %(default)s)")
    return command.run(parser, _run, arguments, informs="jaxpose")


def _run(options: argparse.Namespace) -> None:
    names = [f.name for f in dataclasses.fields(Recipe) if f.name != "perfect_as_zero"]
    recipe = Recipe(**{n: getattr(options, n) for n in names}, perfect_as_zero=not options.keep_perfect)
    report = rescoring_training.run(options.annotations, options.poses, options.output, recipe, options.area)
    print(json.dumps(report, indent=1))
