"""Computes metrics on validation data: of a run, from its newest good checkpoint, or of released weights.

    jaxpose evaluate runs/prtr
    jaxpose evaluate hrnet-w32-coco --config.data.dir=/data/coco
    jaxpose evaluate weights.safetensors --config.data.dir=/data/coco --workdir=runs/weights
    jaxpose evaluate --config=prtr:coco --workdir=runs/prtr_coco --config.data.validation.boxes=detections.json

WEIGHTS is the folder of a run, a file, a name that `jaxpose zoo` lists, or a repository of the Hugging Face hub
(hf://ORG/NAME); its own config says which data and metrics.
With --config that file says so, and the network is that of the run in --workdir. Numbers are printed, and results are
written to the folder `evaluation` of --workdir: for a run its own folder, for weights runs/NAME, unless it is given.
"""

from collections.abc import Sequence

from jaxpose import main as entry
from jaxpose.cli import command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("evaluate", __doc__, fields=True)
    parser.add_argument("weights", nargs="?", default="", help=command.SOURCE)
    alike = "config that says what the entries of released weights can't, such as heatmap:coco_w32_384 (default: known)"
    parser.add_argument("--as", dest="like", default="", metavar="CONFIG", help=alike)
    parser.set_defaults(mode="evaluate")
    return entry.start(parser, arguments)
