"""Writes the data set of a config as records, for fast random access from network storage.

    jaxpose write-records --config=prtr:coco --config.data.dir=/data/coco --output=/data/records

Then train with --config.data.source=records --config.data.dir=FOLDER, where FOLDER is the folder that this prints.
"""

import argparse
import pathlib
from collections.abc import Sequence

from jaxpose.cli import command, config_flags
from jaxpose.data.sources import open_source
from jaxpose.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("write-records", __doc__, fields=True)
    config_flags.add_config(parser)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write under")
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    data = config_flags.load(options.config, options.fields).data
    splits = [split for split in ("train", "validation") if data[split].annotations]
    if not splits:
        raise ConfigError("config.data.train.annotations and config.data.validation.annotations are empty: no data set")
    from jaxpose.data.formats.record_files import write  # imports TensorFlow, which takes seconds

    print(write({split: open_source(data, split) for split in splits}, options.output))
