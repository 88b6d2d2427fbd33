"""Computes the metrics of a run on its validation data, from the newest good checkpoint.

    jaxpose evaluate --config=prtr --workdir=runs/prtr
    jaxpose evaluate --config=prtr:coco --workdir=runs/prtr_coco --config.data.validation.boxes=detections.json

The config says which data and metrics; the network is that of the run. Numbers are printed, and results are written to
the folder `evaluation` of the run.
"""

from collections.abc import Sequence

from jaxpose import main as entry
from jaxpose.cli import command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("evaluate", __doc__, fields=True)
    parser.set_defaults(mode="evaluate")
    return entry.start(parser, arguments)
