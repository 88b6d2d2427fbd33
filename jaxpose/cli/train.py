"""Trains the method of a config.

    jaxpose train --config=prtr --workdir=runs/prtr
    jaxpose train --config=prtr:coco --config.data.dir=/data/coco --config.train.batch_size=64

A run that stopped goes on with the same command. A config with stages is several runs in a row, in folders of their own
within the run's folder. The folder holds config.json, checkpoints, metrics.jsonl and TensorBoard's files.
"""

from collections.abc import Sequence

from jaxpose import main as entry
from jaxpose.cli import command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("train", __doc__, fields=True)
    parser.set_defaults(mode="train")
    return entry.start(parser, arguments)
