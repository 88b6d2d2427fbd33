"""Runs in a row that make one experiment, and what each of them reached, side by side.

    config.stages = (
        {"name": "pretrain", "init_from": "", "fields": {"method.adaptation": "none", "train.steps": 1000}},
        {"name": "regda", "init_from": "pretrain", "fields": {}},
    )

Each is an ordinary run of the config with `fields` changed, in a folder of its own, WORKDIR/pretrain and WORKDIR/regda.
It starts from the last checkpoint of the stage that `init_from` names, or where that is empty as `config.init_from`
says. WORKDIR/scores.json holds what every stage reached.
"""

import functools
import logging
import pathlib
import re
from collections.abc import Collection
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxpose.errors import CheckpointError, ConfigError, DataError
from jaxpose.evaluation.metrics import percent
from jaxpose.files.json_files import read_json, write_json
from jaxpose.runs.journal import read_lines
from jaxpose.runs.run_config import CONFIG

logger = logging.getLogger(__name__)

FIELDS = ("name", "init_from", "fields")
Scores = dict[str, dict[str, float]]
"""{stage: {metric: value}}."""


def train(config: Any, workdir: str | pathlib.Path, only: str = "") -> None:
    """Trains the stages in order, each going on where it stopped, and shows what they reached.

    Args:
      config: config with `stages`.
      workdir: folder that holds those of the stages.
      only: stop after this stage, and leave out those that it does not build on; empty for all of them.

    Raises:
      JaxposeError: about the stages, and whatever training raises.
      SystemExit: status 0, after SIGTERM and a checkpoint of the stage that was under way.
    """
    from jaxpose.training import loop

    workdir = pathlib.Path(workdir)
    runs = resolve(config, workdir)
    chosen = ancestry(config, only) if only else list(runs)
    for number, name in enumerate(chosen, 1):
        logger.info("stage %d of %d: %s", number, len(chosen), name)
        loop.train(runs[name], workdir / name)
    if jax.process_index() == 0:
        report(config, workdir, {name: last_scores(workdir / name, runs[name].train.steps) for name in chosen})


def evaluate(config: Any, workdir: str | pathlib.Path, only: str = "", chosen: Collection[str] | None = None) -> Scores:
    """Evaluates every stage that was begun, or one of them, and shows the scores.

    Args:
      config: config with `stages`.
      workdir: folder that holds those of the stages.
      only: name of a stage to evaluate; empty for all of them.
      chosen: see `evaluator.evaluate`.

    Raises:
      JaxposeError: about the stages, or what evaluation raises.
      CheckpointError: none was begun.
    """
    from jaxpose.evaluation import evaluator

    workdir = pathlib.Path(workdir)
    runs = resolve(config, workdir)
    begun = [name for name in runs if (workdir / name / CONFIG).exists()]
    if not begun:
        raise CheckpointError(f"{workdir}: holds none of the stages {', '.join(runs)}; train them first")
    if missing := [name for name in runs if name not in begun]:
        logger.warning("%s: not begun yet: %s", workdir, ", ".join(missing))
    chosen = [_known(runs, only)] if only else begun
    scores = {name: evaluator.evaluate(runs[name], workdir / name, chosen) for name in chosen}
    if jax.process_index() == 0:
        report(config, workdir, scores)
    return scores


# --- configs ---


def resolve(config: Any, workdir: pathlib.Path | None = None) -> dict[str, Any]:
    """{name: config of an ordinary run} of all stages, in order.

    Args:
      config: config with `stages`.
      workdir: holds their folders; only counts where they are run.

    Raises:
      ConfigError: about `config.stages` or `config.evaluate.gap`; or WORKDIR is a run itself.
    """
    if workdir and (workdir / CONFIG).exists():
        raise ConfigError(f"{workdir} holds a run without stages. Choose another --workdir.")
    runs: dict[str, ConfigDict] = {}
    for stage in config.stages:
        name, init_from = _check(stage, list(runs))
        run = with_fields(config, stage.get("fields", {}), name)
        with run.unlocked():
            run.stages = ()
            if init_from:
                run.init_from = str(workdir / init_from) if workdir else init_from
        runs[name] = run
    if strangers := sorted(set(config.evaluate.gap) - set(runs)):
        raise ConfigError(f"config.evaluate.gap names {strangers}; config.stages has {', '.join(runs)}")
    if len(config.evaluate.gap) not in (0, 2):
        raise ConfigError(f"config.evaluate.gap is {tuple(config.evaluate.gap)}; expected two stages, or none")
    return runs


def pick(config: Any, name: str = "") -> Any:
    """The config of one run: that of a stage, by default the last, or `config` itself where it has no stages.

    Raises:
      ConfigError: about the stages; or there is none of this name.
    """
    if not config.stages:
        if name:
            raise ConfigError(f"--stage is {name!r}, but the config has no stages")
        return config
    runs = resolve(config)
    return runs[_known(runs, name) if name else list(runs)[-1]]


def ancestry(config: Any, name: str) -> list[str]:
    """The stage and those it builds on, in order.

    Raises:
      ConfigError: there is none of this name.
    """
    starts = {stage["name"]: stage.get("init_from", "") for stage in config.stages}
    chain = [_known(starts, name)]
    while starts[chain[0]]:
        chain.insert(0, starts[chain[0]])
    return chain


def _known(stages: Any, name: str) -> str:
    if name not in stages:
        raise ConfigError(f"--stage is {name!r}; config.stages has {', '.join(stages)}")
    return name


def _check(stage: Any, earlier: list[str]) -> tuple[str, str]:
    """Name and `init_from` of a stage that follows `earlier`."""
    if "name" not in stage or not set(stage) <= set(FIELDS):
        raise ConfigError(f"config.stages: one has the fields {sorted(stage)}; a stage has {', '.join(FIELDS)}")
    name, init_from = stage["name"], stage.get("init_from", "")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"config.stages: {name!r} cannot name a folder; use letters, digits, '_', '-' and '.'")
    if name in earlier:
        raise ConfigError(f"config.stages: two stages have the name {name!r}")
    if init_from and init_from not in earlier:
        raise ConfigError(
            f"config.stages: {name!r} starts from {init_from!r}, which is none of the stages before it "
            f"({', '.join(earlier) or 'there is none'})"
        )
    return name, init_from


def with_fields(config: Any, fields: dict[str, Any], stage: str) -> ConfigDict:
    """A copy of `config` with other values of fields such as "train.steps".

    A field that holds fields itself is replaced as a whole. Methods may have fields that the config leaves out.

    Raises:
      ConfigError: a field that there is not, or a value of another type.
    """
    changed = config.copy_and_resolve_references()
    if "dtype" in fields:
        fields = {"method.dtype": fields["dtype"]} | fields
    for field, value in fields.items():
        *sections, name = field.split(".")
        section = functools.reduce(_section, sections, changed)
        if section is None or (name not in section and sections != ["method"]) or field == "stages":
            raise ConfigError(f"config.stages: {stage!r} changes the field {field!r}, which the config has not")
        try:
            with changed.unlocked():
                section[name] = value
        except TypeError as error:
            raise ConfigError(f"config.stages: {stage!r}: config.{field} cannot be {value!r}: {error}") from error
    return changed


def _section(config: Any, name: str) -> ConfigDict | None:
    found = None if config is None else config.get(name)
    return found if isinstance(found, ConfigDict) else None


# --- scores ---


def last_scores(workdir: pathlib.Path, steps: int) -> dict[str, float]:
    """What a run's evaluation after its last step gave; {} if there was none."""
    lines = read_lines(workdir / "metrics.jsonl")
    found = [line for line in lines if line["split"] == "validation" and line["step"] == steps]
    return {k: v for k, v in found[-1].items() if k not in ("step", "split")} if found else {}


def report(config: Any, workdir: pathlib.Path, scores: Scores) -> None:
    """Shows scores as a table, and keeps them with those that other stages had before."""
    path = workdir / "scores.json"
    known = _read_scores(path)
    known |= {name: found for name, found in scores.items() if found}
    known = {stage["name"]: known[stage["name"]] for stage in config.stages if stage["name"] in known}
    write_json(path, known)
    if known:
        logger.info("%s\n%s", path, table(known, config.evaluate.best, tuple(config.evaluate.gap)))
    if silent := [name for name in scores if name not in known]:
        logger.info("not evaluated: %s; --mode=evaluate does that", ", ".join(silent))


def _read_scores(path: pathlib.Path) -> Scores:
    """Scores that were reached before; those of a file that cannot be read are computed again when they are wanted."""
    if not path.exists():
        return {}
    try:
        known = read_json(path)
        return {name: {k: float(v) for k, v in found.items()} for name, found in known.items()}
    except (DataError, AttributeError, TypeError, ValueError) as error:
        logger.warning("%s: cannot be read, and is written anew (%s)", path, error)
        return {}


def table(scores: Scores, best: str, gap: tuple[str, ...] = ()) -> str:
    """One line a stage, in percent: the scores whose names begin like that of the best, or all of them without one.

    With `gap`, a last column: which share of the way from the first of two stages to the second, by the best score,
    each stage has covered.
    """
    names = dict.fromkeys(name for found in scores.values() for name in found if name.startswith(best))
    names = sorted(names, key=lambda name: "/" not in name)
    rows = [["", *(name.rpartition("/")[2] for name in names)]]
    rows += [[stage, *(percent(found.get(name, -1)) for name in names)] for stage, found in scores.items()]
    if len(gap) == 2 and all(best in scores.get(stage, {}) for stage in gap):
        low, high = (scores[stage][best] for stage in gap)
        rows[0].append("gap closed")
        for row, found in zip(rows[1:], scores.values(), strict=True):
            told = best in found and high != low
            row.append(f"{100 * (found[best] - low) / (high - low):.0f} %" if told else "-")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line) for line in lines)
