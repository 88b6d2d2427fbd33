"""The one training loop: batches in, checkpoints, numbers and pictures out; it can stop and go on at any step."""

import contextlib
import functools
import logging
import pathlib
from contextlib import closing
from typing import Any

from jaxpose import sharding
from jaxpose.data import build
from jaxpose.evaluation.evaluator import Evaluator
from jaxpose.evaluation.metrics import is_lower_better
from jaxpose.runs import preemption
from jaxpose.runs.checkpoint import Checkpoints
from jaxpose.runs.digest import combine
from jaxpose.runs.journal import Journal
from jaxpose.runs.lock import sole_writer
from jaxpose.runs.run_config import check_same_run
from jaxpose.runs.state import TrainState
from jaxpose.training.train_step import Trainer
from jaxpose.training.watch import Watch

logger = logging.getLogger(__name__)


def train(config: Any, workdir: str | pathlib.Path) -> TrainState:
    """Trains `config` in `workdir`, going on where a run there stopped, and returns the last state.

    Raises:
      JaxposeError: about config, data or checkpoints; NonFiniteError about the numbers.
      SystemExit: status 0, after SIGTERM and a checkpoint.

    Examples:
      >>> import tempfile
      >>> from jaxpose import load_config
      >>> from jaxpose.methods.heatmap import tiny
      >>> folder = tempfile.mkdtemp()
      >>> config = load_config("heatmap", {"data.dir": folder, "data.marionettes.train": 8, "evaluate.every": 0})
      >>> config.data.marionettes.validation = config.train.batch_size = config.evaluate.batch_size = 8
      >>> config.train.steps = 1
      >>> config.method.update(tiny.FIELDS["heatmap"])
      >>> state = train(config, f"{folder}/run")
      >>> int(state.step)
      1
    """
    workdir = pathlib.Path(workdir)
    check_same_run(workdir, config)
    trainer = Trainer.create(config)
    steps, batch_size = config.train.steps, config.train.batch_size
    examples = build.train_examples(config, trainer.method)
    evaluator = Evaluator(config, trainer.method, trainer.mesh)
    if config.evaluate.every:
        evaluator.open()
    watch = Watch()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_writer(workdir))
        best = config.evaluate.best
        lowest = is_lower_better(config.evaluate.metrics, best)
        checkpoints = Checkpoints(workdir, config.train.keep, best, lowest=lowest)
        stack.enter_context(closing(checkpoints))
        state = checkpoints.restore(trainer.template()) or trainer.init()
        done = int(state.step)
        journal = stack.enter_context(closing(Journal(workdir, config, step=done, total=steps)))
        batches = stack.enter_context(closing(build.TrainBatches(config, examples, done, trainer.method.spec(1))))
        preempted = stack.enter_context(preemption.Watcher())
        logger.info("%s steps %d to %d in %s", "training" if done == 0 else "going on with", done, steps, workdir)

        def evaluate() -> None:
            checkpoints.score(done, evaluator(state.inference_variables, journal, done))
            journal.rest()

        if done and due(done, config.evaluate.every, steps) and not journal.has(done, "validation"):
            evaluate()  # the run ended between a checkpoint and its evaluation
        for local in batches if done < steps else ():
            state, metrics = trainer.step(state, sharding.put_batch(local, trainer.mesh))
            done += 1
            watch.add(done, metrics, functools.partial(batches.describe, local))
            if due(done, config.train.log_every, steps):
                values = watch.flush()
                values |= journal.progress(done, values["loss"], batch_size)
                journal.scalars(done, "train", values)
            stop, scored = preempted(done) and done < steps, due(done, config.evaluate.every, steps)
            if stop or scored or done == steps or due(done, config.train.checkpoint_every, steps):
                watch.look()
                parts = checkpoints.save(state)
                logger.info("step %d: checkpoint, digest %s", done, combine(parts))
                journal.rest()
            if scored and not stop:
                evaluate()
            if stop or done >= steps:
                break
    if done < steps:
        logger.warning("stopped by SIGTERM after step %d; the same command goes on from there", done)
        raise SystemExit(0)
    return state


def due(done: int, every: int, steps: int) -> bool:
    """Whether something that happens `every` so many steps, and at the end, happens after `done` steps; 0 is never."""
    return every > 0 and (done % every == 0 or done == steps)
