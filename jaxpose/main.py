"""Trains or evaluates: python -m jaxpose.main --config=configs/prtr.py --workdir=DIR [--mode=train|evaluate].

Fields of the config can be changed: --config.train.steps=10 --config.data.dir=/data/coco. A run that stopped goes on
with the same command. A config with stages is several runs in a row, in folders of their own within DIR.
`jaxpose train` and `jaxpose evaluate` are the same with a mode of their own.
"""

import argparse
import logging
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from jaxpose.cli import command, config_flags
from jaxpose.errors import ConfigError
from jaxpose.evaluation import evaluator
from jaxpose.runs import startup
from jaxpose.runs.reader import open_network, short_name
from jaxpose.training import loop, stages

PLATFORMS = ("cpu", "gpu", "tpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `python -m jaxpose.main`; returns its exit status."""
    parser = command.Parser("main", __doc__, fields=True, prog="python -m jaxpose.main")
    parser.add_argument("--mode", choices=("train", "evaluate"), default="train", help="what to do (default: train)")
    return start(parser, arguments)


def start(parser: command.Parser, arguments: Sequence[str] | None) -> int:
    """Trains or evaluates as a command line says; returns the exit status.

    Args:
      parser: parser that sets `mode`, to which all other flags are added.
      arguments: those of the process if None.
    """
    config_flags.add_config(parser, required=parser.get_default("mode") != "evaluate")
    add = parser.add_argument
    add("--workdir", help="folder of the run (default: runs/NAME, with the config's name)")
    add(
        "--stage", default="", help="stage to end with, for a config with stages; only stages that it needs are trained"
    )
    add("--platform", choices=PLATFORMS, help="kind of device to compute on (default: the best that there is)")
    add(
        "--cpu-devices", type=command.count, default=0, help="number of devices to show the CPU as, to try out sharding"
    )
    add("--coordinator", default="", metavar="HOST:PORT", help="address of process 0, to train with several processes")
    add("--num-processes", type=command.count, default=0, help="number of processes that train together")
    add("--process-id", type=int, default=-1, help="number of this process, from 0")
    return command.run(parser, _start, arguments)


def _start(options: argparse.Namespace) -> None:
    weights = getattr(options, "weights", "")
    if bool(weights) == bool(options.config):
        raise ConfigError("give either WEIGHTS (a run's folder, a file, a name or hf://ORG/NAME), or --config=NAME")
    config = None if weights else config_flags.load(options.config, options.fields)
    startup.check_processes(options.coordinator, options.num_processes, options.process_id)
    log_to_stderr()
    if options.platform:
        jax.config.update("jax_platforms", options.platform)
    if options.cpu_devices:
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    startup.start(options.coordinator, options.num_processes, options.process_id)
    if options.platform:
        _require_devices(options.platform)
    if config is None:
        evaluate_weights(weights, options.workdir, config_flags.changes(options), options.like)
        return
    chosen = [field for field, _ in options.fields]
    run(config, options.workdir or f"runs/{config.name}", options.mode, options.stage, chosen)


def evaluate_weights(weights: str, workdir: str | None, changes: Mapping[str, Any], like: str = "") -> None:
    """Evaluates a run or a file of weights by its own config.

    Args:
      weights: folder of a run, file of weights, their name in the zoo, or their address on the hub.
      workdir: folder for the results; if None a run's own, and of other weights runs/NAME.
      changes: {field: value} of fields of the config that are to differ.
      like: config of released weights; see `jaxpose.load`.

    Raises:
      JaxposeError: whatever opening or evaluating them raises.
    """
    config = open_network(weights, changes=changes, like=like).config
    if workdir is None:
        workdir = weights if pathlib.Path(weights).is_dir() else f"runs/{short_name(weights)}"
    evaluator.evaluate(config, workdir, weights=weights, like=like)


def _require_devices(platform: str) -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        raise ConfigError(f"--platform={platform}: JAX finds no such device ({str(error).splitlines()[0]})") from error


def run(config: ConfigDict, workdir: str, mode: str, stage: str = "", chosen: Collection[str] | None = None) -> None:
    """Trains a config, or evaluates what was trained; all stages where it has some.

    Args:
      config: config with all fields.
      workdir: folder of the run.
      mode: "train" or "evaluate".
      stage: name of a stage to end with (train) or of the only one to evaluate; all of them if empty.
      chosen: fields that the user set, which may differ from the run's in an evaluation; see `evaluator.evaluate`.

    Raises:
      JaxposeError: whatever training or evaluation raises.
    """
    if config.stages and mode == "evaluate":
        stages.evaluate(config, workdir, stage, chosen)
    elif config.stages:
        stages.train(config, workdir, stage)
    else:
        stages.pick(config, stage)
        if mode == "evaluate":
            evaluator.evaluate(config, workdir, chosen)
        else:
            loop.train(config, workdir)


def log_to_stderr() -> None:
    """Shows the library's messages with the time of day, and other libraries' warnings only."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("jaxpose")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
