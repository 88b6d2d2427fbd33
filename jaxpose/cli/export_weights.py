"""Writes what a run learned as one file, with which a colleague needs nothing else.

    jaxpose export-weights runs/prtr prtr.safetensors
    jaxpose export-weights runs/prtr prtr.safetensors --dtype=float16
    jaxpose export-weights hrnet-w32-coco hrnet.safetensors

The file holds weights, config, skeleton, scores, the name of the training data and a digest. Every command and
`jaxpose.load` take it in place of the run's folder, and --config.init_from does. RUN can also be a file, a name or an
address of released weights, which become such a file.
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

import jax

from jaxpose.cli import command, config_flags
from jaxpose.cli.files import first_replaced
from jaxpose.errors import ConfigError
from jaxpose.runs.reader import open_network
from jaxpose.zoo import weights_file

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("export-weights", __doc__, fields=True)
    parser.add_argument("run", help=command.SOURCE)
    parser.add_argument("output", type=pathlib.Path, help="file to write, .safetensors")
    add_options(parser)
    return command.run(parser, _run, arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is taken from RUN, and how it is written."""
    add = parser.add_argument
    add("--step", type=command.count, help="step of the checkpoint (default: the newest)")
    dtype = "of the parameters in the file; reading makes them float32 (default %(default)s)"
    add("--dtype", choices=weights_file.DTYPES, default=weights_file.DTYPES[0], help=dtype)
    add("--as", dest="like", default="", metavar="CONFIG", help="config of released weights, such as heatmap:coco_w32")
    config_flags.add_changes(parser)


def _run(options: argparse.Namespace) -> None:
    if first_replaced([options.output], [pathlib.Path(options.run)]):
        raise ConfigError(f"{options.output} is the file to read; name another one to write")
    jax.config.update("jax_platforms", "cpu")
    changed = config_flags.changes(options)
    content = open_network(options.run, options.step, changed, options.like)
    variables, about = jax.device_get(content.variables), content.about
    weights_file.write(options.output, content.config, variables, about, options.dtype)
    best = content.config.evaluate.best
    score = f"{best} {about.scores[best]:.4g}" if best in about.scores else "no score of this step"
    size = options.output.stat().st_size / 1e6
    logger.info("%s: %.2f MB; learned from %s; %s", options.output, size, about.data or "unknown data", score)
