"""The one training loop. It names no method: phases, optimizers and data come from the config."""

import collections
import contextlib
import dataclasses
import functools
import logging
import pathlib
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxpose import methods, rng, sharding
from jaxpose.convert import files
from jaxpose.data import build
from jaxpose.errors import ConfigError, NonFiniteError
from jaxpose.evaluation.evaluator import Evaluator
from jaxpose.evaluation.metrics import mpjpe
from jaxpose.methods.base import Method, Phase
from jaxpose.rng import Purpose
from jaxpose.runs import preemption
from jaxpose.runs.checkpoint import Checkpoints, load_for_inference
from jaxpose.runs.digest import combine
from jaxpose.runs.journal import Journal, check_same_run
from jaxpose.runs.lock import sole_writer
from jaxpose.runs.state import TrainState
from jaxpose.training import optim
from jaxpose.training.optim import Optimizer
from jaxpose.types import Batch, Variables

logger = logging.getLogger(__name__)


def train(config: Any, workdir: str | pathlib.Path) -> TrainState:
    """Trains `config` in `workdir`, going on where a run there stopped, and returns the last state.

    Raises:
      JaxposeError: about config, data or checkpoints; NonFiniteError about the numbers.
      SystemExit: status 0, after SIGTERM and a checkpoint.
    """
    workdir = pathlib.Path(workdir)
    check_same_run(workdir, config)
    trainer = Trainer.create(config)
    steps, batch_size = config.train.steps, config.train.batch_size
    examples = build.train_examples(config, trainer.method)
    evaluator = Evaluator(config, trainer.method, trainer.mesh)
    watch = Watch()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_writer(workdir))
        best = config.evaluate.best
        checkpoints = Checkpoints(workdir, config.train.keep, best, lowest=mpjpe.is_error(best))
        stack.enter_context(closing(checkpoints))
        state = checkpoints.restore(trainer.template()) or trainer.init()
        done = int(state.step)
        journal = stack.enter_context(closing(Journal(workdir, config, step=done, total=steps)))
        batches = stack.enter_context(closing(build.TrainBatches(config, examples, done, trainer.method.spec(1))))
        preempted = stack.enter_context(preemption.Watcher())
        logger.info("%s steps %d to %d in %s", "training" if done == 0 else "going on with", done, steps, workdir)
        for local in batches if done < steps else ():
            state, metrics = trainer.step(state, sharding.put_batch(local, trainer.mesh))
            done += 1
            watch.add(done, metrics, functools.partial(batches.describe, local))
            scores = None
            if due(done, config.train.log_every, steps):
                values = watch.flush()
                values |= journal.progress(done, values["loss"], batch_size)
                journal.scalars(done, "train", values)
            if due(done, config.evaluate.every, steps):
                scores = evaluator(state.inference_variables, journal, done)
            stop = preempted(done)
            if stop or scores or done == steps or due(done, config.train.checkpoint_every, steps):
                watch.look()
                parts = checkpoints.save(state, scores)
                logger.info("step %d: checkpoint, digest %s", done, combine(parts))
                journal.rest()
            if stop or done >= steps:
                break
    if done < steps:
        logger.warning("stopped by SIGTERM after step %d; the same command goes on from there", done)
        raise SystemExit(0)
    return state


def due(done: int, every: int, steps: int) -> bool:
    """Whether something that happens `every` so many steps, and at the end, happens after `done` steps; 0 is never."""
    return every > 0 and (done % every == 0 or done == steps)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The pure functions of a run on its mesh: initial state, and the compiled step.

    Attributes:
      config: the whole config.
      method: the paper.
      optimizer: the parameter groups.
      mesh: the devices.
    """

    config: Any
    method: Method
    optimizer: Optimizer
    mesh: Mesh

    @classmethod
    def create(cls, config: Any, devices: Any = None) -> "Trainer":
        mesh = sharding.make_mesh(config.sharding, devices)
        sharding.check_batch_size(config.train.batch_size, mesh)
        if config.train.batch_size % (config.train.accumulate * mesh.size):
            raise ConfigError(
                f"config.train.accumulate is {config.train.accumulate}: a batch of {config.train.batch_size} on "
                f"{mesh.size} devices cannot be cut into that many equal parts"
            )
        return cls(config, methods.create(config.method), optim.create(config.optim, config.train.steps), mesh)

    def template(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        state = jax.eval_shape(self._fresh, jax.random.key(0))
        shardings = sharding.state_shardings(state, self.mesh, self.config.sharding.min_size)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)

    def init(self) -> TrainState:
        """The state before the first step; with `config.init_from`, values of that file or run where it has them."""
        shardings = jax.tree.map(lambda x: x.sharding, self.template())
        key = rng.key(self.config.seed, 0, Purpose.INIT)
        variables = self.method.init(key)
        loaded = load_pretrained(self.config.init_from) if self.config.init_from else {}
        if loaded := self.method.adopt(loaded, variables):
            variables = merge_pretrained(variables, loaded, self.config.init_from)
        return jax.jit(self._start, out_shardings=shardings)(variables)

    def _fresh(self, key: jax.Array) -> TrainState:
        return self._start(self.method.init(key))

    def _start(self, variables: Variables) -> TrainState:
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=self.optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params) if self.config.train.ema_decay else None,
        )

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """`train_step`, compiled; the state that goes in is given up."""
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return self.jitted(state, batch)

    @functools.cached_property
    def jitted(self) -> Any:
        """The compiled function of `step`; to be traced where the mesh is set."""
        shardings = jax.tree.map(lambda x: x.sharding, self.template())
        function = functools.partial(
            train_step,
            method=self.method,
            optimizer=self.optimizer,
            seed=self.config.seed,
            accumulate=self.config.train.accumulate,
            ema_decay=self.config.train.ema_decay,
            unroll=self.mesh.devices.flat[0].platform == "cpu",
        )
        return jax.jit(
            function,
            donate_argnums=0,
            in_shardings=(shardings, sharding.batch_sharding(self.mesh)),
            out_shardings=(shardings, sharding.replicated(self.mesh)),
        )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    method: Method,
    optimizer: Optimizer,
    seed: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    unroll: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """All phases of one step. A pure function of (state, batch).

    Returns:
      The next state, and scalars to log: "loss", the sum over the phases, "learning_rate", what the losses tell and
      "grad_norm" (as "PHASE/..." if there are several), and for every phase "finite/PHASE", 1 if its loss, gradient and
      update are finite.
    """
    batch = method.targets(batch, rng.key(seed, state.step, Purpose.TARGETS), train=True)
    phases = method.phases()
    metrics, total = {"learning_rate": optimizer.learning_rate(state.step)}, jnp.zeros(())
    gradient = functools.partial(accumulated_grad, parts=accumulate, unroll=unroll)
    for i, phase in enumerate(phases):
        key = rng.key(seed, state.step, Purpose.LOSS + i)
        state, values = apply_phase(state, batch, key, phase, optimizer, gradient)
        prefix = f"{phase.name}/" if len(phases) > 1 else ""
        metrics |= {k if k.startswith("finite/") else prefix + k: v for k, v in values.items()}
        total += values["loss"]
    ema = state.ema
    if ema_decay:
        ema = jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, state.params)
    return state.replace(step=state.step + 1, ema=ema), metrics | {"loss": total}


def apply_phase(
    state: TrainState, batch: Batch, key: jax.Array, phase: Phase, optimizer: Optimizer, gradient: Any
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One gradient and one descent step of the groups that a phase moves."""
    moving, resting = optimizer.split(state.params, phase.updates)

    def loss(moving: optim.Flat, batch_stats: Any, part: Batch, key: jax.Array) -> Any:
        variables = {"params": optim.unflatten(moving | resting), "batch_stats": batch_stats}
        return phase.loss(variables, part, state.step, key)

    (value, aux), grads = gradient(loss, moving, state.batch_stats, batch, key)
    moved, opt_state, norm = optimizer.update(grads, state.opt_state, moving, state.step)
    finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(moved))
    metrics = {"loss": value, "grad_norm": norm, f"finite/{phase.name}": finite} | aux.metrics
    params = optim.unflatten(moved | resting)
    return state.replace(params=params, batch_stats=aux.batch_stats, opt_state=opt_state), metrics


def accumulated_grad(
    loss: Any,
    moving: optim.Flat,
    batch_stats: Any,
    batch: Batch,
    key: jax.Array,
    *,
    parts: int = 1,
    unroll: bool = False,
) -> tuple[tuple[jax.Array, Any], optim.Flat]:
    """`value_and_grad` of the mean loss over `parts` equal parts of the batch, one after the other.

    Part i takes rows i, i + parts, ..., so that each device keeps its own rows; statistics pass from part to part.
    `unroll` writes the parts out one by one: XLA:CPU runs convolutions inside loops very slowly.
    """
    grad = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return grad(moving, batch_stats, batch, key)

    def cut(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    def body(stats: Any, part: Any) -> Any:
        (value, aux), grads = grad(moving, stats, part[0], jax.random.fold_in(key, part[1]))
        return aux.batch_stats, (value, aux.metrics, grads)

    cuts = (jax.tree.map(cut, batch), jnp.arange(parts))
    stats, stacked = jax.lax.scan(body, batch_stats, cuts, unroll=parts if unroll else 1)
    value, metrics, grads = jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)
    return (value, methods.base.LossAux(metrics=metrics, batch_stats=stats)), grads


def load_pretrained(path: str) -> Variables:
    """Variables, on the host, of a file that `jaxpose.convert` wrote, or of another run's newest good checkpoint.

    Raises:
      CheckpointError: neither is there.
    """
    if pathlib.Path(path).is_dir():
        return jax.device_get(load_for_inference(path)[2])
    return files.load_variables(path)


def merge_pretrained(variables: Variables, loaded: Variables, path: str) -> Variables:
    """`variables` with every leaf that `loaded` has.

    Raises:
      ConfigError: `loaded` has leaves that the network lacks, or of another shape.
    """
    flat, new = optim.flatten(variables), optim.flatten(loaded)
    unknown = sorted(set(new) - set(flat))
    misshapen = [f"{p} {new[p].shape}, not {flat[p].shape}" for p in new if p in flat and new[p].shape != flat[p].shape]
    if unknown or misshapen:
        raise ConfigError(
            f"config.init_from: {path} does not fit config.method: {len(unknown)} unknown leaves {unknown[:3]}, "
            f"{len(misshapen)} of another shape {misshapen[:3]}"
        )
    fresh = sorted({"/".join(p.split("/")[:2]) for p in flat if p not in new})
    logger.info("%s: took %d leaves; %d start fresh, in %s", path, len(new), len(flat) - len(new), fresh)
    return optim.unflatten(flat | new)


class Watch:
    """Collects the metrics of steps without making the host wait for the device, and stops a run that went wrong."""

    def __init__(self, lag: int = 2):
        self._lag = lag
        self._pending: collections.deque = collections.deque()
        self._values: list[dict[str, float]] = []

    def add(self, step: int, metrics: dict[str, jax.Array], describe: Any) -> None:
        """Takes a step's metrics, and looks at those of `lag` steps before."""
        self._pending.append((step, metrics, describe))
        while len(self._pending) > self._lag:
            self._look_at_oldest()

    def look(self) -> None:
        """Looks at all steps so far.

        Raises:
          NonFiniteError: a phase of some step was not finite.
        """
        while self._pending:
            self._look_at_oldest()

    def flush(self) -> dict[str, float]:
        """Looks at all steps so far, and returns the means since the last flush."""
        self.look()
        values, self._values = self._values, []
        return {k: sum(v[k] for v in values) / len(values) for k in values[0]} if values else {}

    def _look_at_oldest(self) -> None:
        step, metrics, describe = self._pending.popleft()
        metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
        finite = {k.removeprefix("finite/"): metrics.pop(k) for k in list(metrics) if k.startswith("finite/")}
        for phase, ok in finite.items():
            if not ok:
                raise NonFiniteError(
                    f"step {step}, phase {phase!r}: loss, gradient or update is not finite ({metrics}). Examples: "
                    f"{describe()}. Nothing was saved after it. Look at these images and their labels, lower "
                    "config.optim.learning_rate, or set config.optim.clip_norm."
                )
        self._values.append(metrics)
