"""Uploads what a run learned to the Hugging Face hub, as one file and a page about it.

    jaxpose push-to-hub runs/prtr lab/prtr --licence=apache-2.0
    jaxpose push-to-hub runs/prtr lab/prtr --dtype=float16 --private

Everybody who may see the repository opens it by its address, hf://lab/prtr, in every command, in `jaxpose.load` and in
--config.init_from. The repository is made where there is none; else it gets one more commit, whose README.md replaces
that of the last. Needs huggingface_hub (pip install 'jaxpose[hub]') and a login (hf auth login, or HF_TOKEN).
"""

import argparse
import logging
from collections.abc import Sequence

import jax

from jaxpose.cli import command, config_flags, export_weights
from jaxpose.runs.sharing import push_to_hub

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("push-to-hub", __doc__, fields=True)
    add = parser.add_argument
    add("run", help=command.SOURCE)
    add("repository", help="name of the repository, ORG/NAME")
    add("--private", action="store_true", help="let only the repository's owners see it")
    add("--licence", default="", help="identifier of the licence on the hub, such as apache-2.0 (default: none)")
    export_weights.add_options(parser)
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    jax.config.update("jax_platforms", "cpu")
    page = push_to_hub(
        options.run,
        options.repository,
        private=options.private,
        licence=options.licence,
        dtype=options.dtype,
        step=options.step,
        changes=config_flags.changes(options),
        like=options.like,
    )
    logger.info("%s -> %s; it opens as hf://%s", options.run, page, options.repository)
