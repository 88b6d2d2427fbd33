"""The training step, a pure function of (state, batch), and the same compiled for the devices of a run."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxpose import methods, rng, sharding
from jaxpose.errors import ConfigError
from jaxpose.methods import checks
from jaxpose.methods.base import LossAux, Method, Phase
from jaxpose.rng import Purpose
from jaxpose.runs.state import TrainState
from jaxpose.training import optim
from jaxpose.training.optim import Optimizer
from jaxpose.training.pretrained import load_pretrained, merge_pretrained
from jaxpose.types import Batch, Variables


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
        loaded = load_pretrained(self.config.init_from, self.method) if self.config.init_from else {}
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
    checks.training_batch(method, batch)
    batch = method.targets(batch, rng.key(seed, state.step, Purpose.TARGETS), train=True)
    checks.targets(method, batch)
    phases = [dataclasses.replace(p, loss=checks.checked_loss(method, p)) for p in method.phases()]
    metrics, total = optimizer.rates(state.step), jnp.zeros(())
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
    return (value, LossAux(metrics=metrics, batch_stats=stats)), grads
