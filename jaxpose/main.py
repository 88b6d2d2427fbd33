"""Train or evaluate: python -m jaxpose.main --config=configs/prtr.py --workdir=DIR [--mode=train|evaluate].

Fields of the config can be changed: --config.train.steps=10 --config.data.dir=/data/coco. A run that stopped goes on
with the same command. A config with stages is several runs in a row, in folders of their own within DIR.
"""

import logging
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "Config file, as in configs/prtr.py or configs/prtr.py:coco.")
    flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME of the config.")
    flags.DEFINE_string("stage", "", "Of a config with stages: train no others than this one and those it builds on.")
    flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
    flags.DEFINE_string("coordinator", "", "host:port of process 0, where several processes train together.")
    flags.DEFINE_integer("num_processes", 0, "How many processes train together.")
    flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0.")
    flags.DEFINE_string("platform", "", "Where to compute: cpu, gpu or tpu; by default the best there is.")
    flags.DEFINE_integer("cpu_devices", 0, "Pretend that the CPU is so many devices, to try out sharding.")
    flags.mark_flag_as_required("config")


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {arguments[1:]}; fields are set as --config.field=value")
    import jax

    from jaxpose.errors import JaxposeError
    from jaxpose.runs import startup

    options = flags.FLAGS
    log_to_stderr()
    if options.platform:
        jax.config.update("jax_platforms", options.platform)
    if options.cpu_devices:
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    try:
        startup.start(options.coordinator, options.num_processes, options.process_id)
        run(options.config, options.workdir or f"runs/{options.config.name}", options.mode, options.stage)
    except JaxposeError as error:
        logging.getLogger("jaxpose").error("%s: %s", type(error).__name__, error)
        sys.exit(1)


def run(config: ConfigDict, workdir: str, mode: str, stage: str = "") -> None:
    """Trains, or evaluates what was trained; of a config with stages all of them, or what `stage` names."""
    from jaxpose.evaluation import evaluator
    from jaxpose.training import loop, stages

    if config.stages:
        do = stages.evaluate if mode == "evaluate" else stages.train
        do(config, workdir, stage)
        return
    stages.pick(config, stage)
    do = evaluator.evaluate if mode == "evaluate" else loop.train
    do(config, workdir)


def log_to_stderr() -> None:
    """The library's messages with the time of day; other libraries' warnings only."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("jaxpose")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    define_flags()
    app.run(main)
