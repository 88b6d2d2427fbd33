"""Parameter groups, each with its own optax optimizer, and schedules as functions of the training step.

A parameter is known by its path ("backbone/layer2/block0/conv1/kernel") and belongs to the first group whose regular
expression is found in it. Each group has a transformation of its own over its own tree, so that a phase updates some
groups and lets the others rest. `optax.partition` would be wrong here: it updates every group at every call, and a
resting group would still count steps, decay its moments and move.

Optimizers give directions. The step size is `schedule(step) * multiplier`, taken from `TrainState.step`, so that a
schedule never counts twice and a resume never restarts it; `optax.apply_updates` takes the step.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from jaxpose.errors import ConfigError

Schedule = Callable[[Any], Any]
"""Function from the number of finished steps to a learning rate."""
Flat = dict[str, jax.Array]
"""{path: leaf} of a nested dict."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that are updated alike.

    Attributes:
      name: label by which phases refer to the group.
      match: regular expression, searched in the parameter's path.
      multiplier: factor to the learning rate.
      weight_decay: weight decay of the group; None for the config's value.
      frozen: whether the parameters never move; they are not differentiated and have no optimizer state.
      optimizer: fields of `config.optim` that differ for the group, such as {"optimizer": "sgd", "momentum": 0.9}; a
        name alone ("sgd") changes the optimizer.
      schedule: fields of `config.optim.schedule` that differ for the group, besides "learning_rate", its peak.
    """

    name: str
    match: str
    multiplier: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False
    optimizer: Mapping[str, Any] | str = dataclasses.field(default_factory=dict)
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def flatten(tree: Any) -> Flat:
    """{"a/b/c": leaf} of a nested dict."""
    return cast(Flat, traverse_util.flatten_dict(tree, sep="/"))


def unflatten(flat: Mapping[str, Any]) -> dict:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """One optax transformation a group, over flat parameter dicts.

    Attributes:
      groups: groups in order of precedence.
      directions: {group: transformation from gradients to descent directions}; none for frozen groups.
      learning_rate: learning rate of all groups without a schedule of their own, a function of the step.
      schedules: {group: learning rate} of the groups that have a schedule of their own.
      clip_norm: global norm that a phase's gradient is scaled down to; 0 for no clipping.
    """

    groups: tuple[Group, ...]
    directions: dict[str, optax.GradientTransformation]
    learning_rate: Schedule
    schedules: dict[str, Schedule] = dataclasses.field(default_factory=dict)
    clip_norm: float = 0.0

    def rates(self, step: jax.Array) -> dict[str, jax.Array]:
        """Learning rates to log: "learning_rate", and "learning_rate/GROUP" of groups with their own schedule."""
        own = {f"learning_rate/{name}": schedule(step) for name, schedule in self.schedules.items()}
        return {"learning_rate": jnp.asarray(self.learning_rate(step))} | own

    def assign(self, paths: list[str]) -> dict[str, str]:
        """{path: group name}.

        Raises:
          ConfigError: a parameter belongs to no group, or a group has no parameter.
        """
        owner = {p: self._owner(p) for p in paths}
        if orphans := sorted(p for p, name in owner.items() if name is None):
            raise ConfigError(
                f"config.optim.groups: no group matches {len(orphans)} parameters, such as {orphans[0]!r}; "
                "add a last group with match '.*'"
            )
        if empty := [g.name for g in self.groups if g.name not in owner.values()]:
            raise ConfigError(
                f"config.optim.groups: {empty} match no parameter that an earlier group leaves; "
                f"paths look like {paths[0]!r}"
            )
        return {p: name for p, name in owner.items() if name is not None}

    def init(self, params: Mapping) -> dict[str, Any]:
        """{group: optimizer state}."""
        flat = flatten(params)
        owner = self.assign(list(flat))
        return {name: tx.init(unflatten(_of(flat, owner, name))) for name, tx in self.directions.items()}

    def split(self, params: Mapping, updates: tuple[str, ...] = ()) -> tuple[Flat, Flat]:
        """Parameters that a phase moves, and the rest.

        Args:
          params: nested dict of all parameters.
          updates: names of groups; empty for all groups that are not frozen.

        Raises:
          ConfigError: `updates` names a group that does not exist or is frozen.
        """
        if unknown := set(updates) - set(self.directions):
            found = list(self.directions)
            raise ConfigError(f"a phase moves the groups {sorted(unknown)}, but config.optim.groups has {found}")
        flat = flatten(params)
        owner = self.assign(list(flat))
        moving = {p for p, name in owner.items() if name in (updates or self.directions)}
        return {p: v for p, v in flat.items() if p in moving}, {p: v for p, v in flat.items() if p not in moving}

    def update(self, grads: Flat, opt_state: Mapping, params: Flat, step: jax.Array) -> tuple[Flat, dict, jax.Array]:
        """One descent step of the parameters in `grads`.

        Args:
          grads: {path: gradient} of whole groups.
          opt_state: state of all groups; those without gradients stay as they are.
          params: {path: value} for the same paths.
          step: number of finished steps.

        Returns:
          New parameters, new state of all groups, and the gradient's global norm before clipping.
        """
        norm = optax.tree.norm(grads)
        if self.clip_norm:
            factor = jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))
            grads = jax.tree.map(lambda g: g * factor, grads)
        owner = {p: str(self._owner(p)) for p in grads}
        new_params, new_state = dict(params), dict(opt_state)
        for group in self.groups:
            mine = _of(grads, owner, group.name)
            if not mine:
                continue
            old = unflatten({p: params[p] for p in mine})
            tx = self.directions[group.name]
            direction, new_state[group.name] = tx.update(unflatten(mine), opt_state[group.name], old)
            rate = self.schedules.get(group.name, self.learning_rate)(step) * group.multiplier
            updates = jax.tree.map(lambda d, r=rate: -r * d, direction)
            new_params.update(flatten(optax.apply_updates(old, updates)))
        return new_params, new_state, norm

    def _owner(self, path: str) -> str | None:
        return next((g.name for g in self.groups if re.search(g.match, path)), None)


def _of(flat: Mapping[str, Any], owner: Mapping[str, str], name: str) -> Flat:
    return {p: v for p, v in flat.items() if owner[p] == name}


OPTIMIZERS = ("adamw", "adam", "amsgrad", "sgd", "rmsprop")


def create(config: Any, total_steps: int) -> Optimizer:
    """The optimizer that `config.optim` describes.

    Fields: `optimizer` (one of `OPTIMIZERS`), `learning_rate`, `weight_decay`, `b1`, `b2`, `decay` (of rmsprop's second
    moment), `eps`, `momentum` and `nesterov` (of sgd), `schedule` (see `schedule`), `clip_norm`, `groups` (a sequence
    of `Group` fields).

    Raises:
      ConfigError: an unknown optimizer, schedule or group field, or two groups of one name.
    """
    try:
        groups = tuple(Group(**dict(g)) for g in config.groups)
    except TypeError as error:
        known = [f.name for f in dataclasses.fields(Group)]
        raise ConfigError(f"config.optim.groups: {error}; a group has the fields {known}") from error
    names = [g.name for g in groups]
    if len(set(names)) != len(names):
        raise ConfigError(f"config.optim.groups: names must differ, found {names}")
    moving = [g for g in groups if not g.frozen]
    return Optimizer(
        groups=groups,
        directions={g.name: _direction(_own_fields(config, g), g.weight_decay) for g in moving},
        learning_rate=schedule(config.learning_rate, config.schedule, total_steps),
        schedules={g.name: _own_schedule(config, g, total_steps) for g in moving if g.schedule},
        clip_norm=config.clip_norm,
    )


def _own_fields(config: Any, group: Group) -> ConfigDict:
    """`config.optim` as a group sees it."""
    changes = {"optimizer": group.optimizer} if isinstance(group.optimizer, str) else dict(group.optimizer)
    return _changed(config, changes, f"config.optim.groups: {group.name!r}: optimizer")


def _own_schedule(config: Any, group: Group, total_steps: int) -> Schedule:
    changes = dict(group.schedule)
    peak = changes.pop("learning_rate", config.learning_rate)
    fields = _changed(config.schedule, changes, f"config.optim.groups: {group.name!r}: schedule")
    return schedule(peak, fields, total_steps)


def _changed(config: Any, changes: Mapping[str, Any], where: str) -> ConfigDict:
    if unknown := sorted(set(changes) - set(config)):
        raise ConfigError(f"{where} has the fields {unknown}; it can have {', '.join(sorted(config))}")
    return ConfigDict(dict(config) | dict(changes))


def _direction(config: Any, weight_decay: float | None) -> optax.GradientTransformation:
    """The transformation from gradients to directions of the optimizer that `config` names."""
    decay = optax.add_decayed_weights(config.weight_decay if weight_decay is None else weight_decay)
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.optimizer == "adamw":
        return optax.chain(adam, decay)
    if config.optimizer == "adam":
        return optax.chain(decay, adam)
    if config.optimizer == "amsgrad":
        return optax.chain(decay, scale_by_amsgrad(config.b1, config.b2, config.eps))
    if config.optimizer == "sgd":
        return optax.chain(decay, optax.trace(config.momentum, nesterov=config.nesterov))
    if config.optimizer == "rmsprop":
        return optax.chain(decay, optax.scale_by_rms(decay=config.decay, eps=config.eps, eps_in_sqrt=False))
    raise ConfigError(f"config.optim.optimizer is {config.optimizer!r}; it can be one of {', '.join(OPTIMIZERS)}")


class AmsgradState(NamedTuple):
    """Steps so far, first and second moments, and the largest second moments."""

    count: jax.Array
    first: Any
    second: Any
    largest: Any


def scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam with the largest second moment so far (Reddi et al., ICLR 2018), as PyTorch has it.

    PyTorch corrects the bias of the largest moment; optax takes the largest of the corrected ones.
    """

    def init(params: Any) -> AmsgradState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AmsgradState(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, AmsgradState]:
        del params
        count = state.count + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, updates)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.second, updates)
        largest = jax.tree.map(jnp.maximum, state.largest, second)
        unbiased = 1 - b1**count, jnp.sqrt(1 - b2**count)
        direction = jax.tree.map(lambda m, v: (m / unbiased[0]) / (jnp.sqrt(v) / unbiased[1] + eps), first, largest)
        return direction, AmsgradState(count, first, second, largest)

    return optax.GradientTransformation(init, update)


def schedule(peak: float, config: Any, total_steps: int) -> Schedule:
    """Learning rate as a function of the number of finished steps.

    Args:
      peak: learning rate after the warm-up.
      config: fields of the schedule: `name` ("constant", "cosine" down to 0 at the end, "step" or "inverse"), `warmup`
        steps (linear from 0), for "step" the `boundaries` (steps) at which the rate is multiplied by `factors`, one for
        all or one for each, and for "inverse", which multiplies it by (1 + gamma * step) ** -power, `gamma` and
        `power`.
      total_steps: step at which "cosine" ends.

    Raises:
      ConfigError: unknown name.
    """
    warmup = int(config.warmup)
    if config.name == "constant":
        after = optax.constant_schedule(peak)
    elif config.name == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup))
    elif config.name == "step":
        after = optax.piecewise_constant_schedule(peak, _drops(config, warmup))
    elif config.name == "inverse":
        gamma, power = config.gamma, config.power
        after = lambda step: peak * (1 + gamma * step) ** -power  # noqa: E731
    else:
        known = "'constant', 'cosine', 'step' or 'inverse'"
        raise ConfigError(f"config.optim.schedule.name is {config.name!r}; it can be {known}")
    if not warmup:
        return after
    rise = lambda step: peak * (step + 1) / warmup  # noqa: E731
    return optax.join_schedules([rise, after], [warmup])


def _drops(config: Any, warmup: int) -> dict[int, float]:
    """{step after the warm-up: factor} of a step schedule."""
    boundaries = [int(b) - warmup for b in config.boundaries]
    factors = tuple(config.factors) * (len(boundaries) if len(config.factors) == 1 else 1)
    if len(factors) != len(boundaries):
        raise ConfigError(
            f"config.optim.schedule has {len(boundaries)} boundaries but {len(factors)} factors; "
            "give one factor for all, or one for each"
        )
    return dict(zip(boundaries, factors, strict=True))
