"""The config of a run, WORKDIR/config.json: reading it, completing old ones, and telling whether two are of one run."""

import hashlib
import json
import logging
import pathlib
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from jaxpose.config import base, complete, set_field
from jaxpose.errors import CheckpointError, ConfigError, DataError
from jaxpose.files.json_files import read_json, write_json

logger = logging.getLogger(__name__)

CONFIG = "config.json"
_DIGEST = "digest"
"""Field of the file beside those of the config: a checksum of them."""


def write(workdir: pathlib.Path, config: Any) -> None:
    """Writes the config of a run, with a checksum by which `read` finds out if it was changed.

    Raises:
      StorageError: it cannot be written.
    """
    fields = json.loads(json.dumps(config.to_dict(), default=str))
    write_json(workdir / CONFIG, fields | {_DIGEST: _checksum(fields)})


def _checksum(fields: Any) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read(workdir: str | pathlib.Path) -> Any:
    """The config of the run in `workdir`; fields that came into being since then have their usual values.

    Raises:
      CheckpointError: no run is there, or its config is damaged.
    """
    workdir = pathlib.Path(workdir)
    config = _read(workdir)
    complete(config, base(str(config.name)))
    return config


def _read(workdir: pathlib.Path) -> Any:
    """The config as it was written."""
    path = workdir / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{workdir}: {_why_no_run(workdir)}")
    try:
        fields = read_json(path)
    except DataError as error:
        raise CheckpointError(f"{error}. A run cannot be used without its config.") from error
    recorded = fields.pop(_DIGEST, None) if isinstance(fields, dict) else None
    whole = isinstance(fields, dict) and isinstance(fields.get("name"), str)
    if not whole or (recorded is not None and recorded != _checksum(fields)):
        raise CheckpointError(
            f"{path}: was changed or damaged since the run wrote it. Restore it, or, if the change is meant, take "
            f"the field {_DIGEST!r} out of it."
        )
    return ConfigDict(fields)


def _why_no_run(workdir: pathlib.Path) -> str:
    if stages := sorted(path.parent for path in workdir.glob(f"*/{CONFIG}")):
        return f"holds several runs, the stages of one experiment. Name one of them: {', '.join(map(str, stages))}"
    return f"has no {CONFIG}, so it is no run's --workdir"


def change(config: Any, field: str, value: Any) -> None:
    """Sets a field of a run's config and names the change in the log.

    Args:
      config: config of the run, changed in place.
      field: name of the field as "section.name"; methods may have new fields that old runs lack.
      value: new value.

    Raises:
      ConfigError: no such field, or a value of another type.
    """
    section: Any = config
    for part in field.split("."):
        section = section.get(part) if isinstance(section, ConfigDict) else None
    value = list(value) if isinstance(value, tuple) else value
    if section is not None and section == value:
        return
    set_field(config, field, value)
    logger.info("config.%s is %r now; the run was trained with %r", field, value, section)


def check_same_run(workdir: pathlib.Path, config: Any) -> None:
    """Before going on with a run: its config must be the one it began with, but for how long and how it is reported.

    What it started from may have moved: of `init_from` the last part of the path counts. Fields that came into being
    after the run began have their usual values.

    Raises:
      ConfigError: names every field that differs.
    """
    if not (pathlib.Path(workdir) / CONFIG).exists():
        return
    begun = _read(pathlib.Path(workdir))
    complete(begun, base(config.name))
    old, new = (_flat(json.loads(json.dumps(c.to_dict()))) for c in (begun, config))
    free = ("train.steps", "train.log_every", "train.checkpoint_every", "train.keep", "evaluate.", "data.workers",
            "data.threads", "data.dir", "sharding.")  # fmt: skip
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    moved = len({pathlib.PurePath(str(fields.get("init_from"))).name for fields in (old, new)}) == 1
    changed = [k for k in keys if not k.startswith(free) and not (moved and k == "init_from")]
    if changed:
        listed = "; ".join(f"{k}: {old.get(k)!r} then, {new.get(k)!r} now" for k in changed[:8])
        raise ConfigError(f"{workdir} holds a run with another config ({listed}). Choose another --workdir.")
    for key in keys:
        logger.warning("config.%s was %r when this run began and is %r now", key, old.get(key), new.get(key))


VIEW = ("data.skeleton", "data.padding", "data.half_pixel", "data.unbiased", "data.antialias")
"""Fields that decide, besides those of the method, how the network sees pictures."""


def check_same_network(workdir: str | pathlib.Path, config: Any, chosen: Collection[str]) -> None:
    """Before an evaluation from the command line: the config must describe the network that was trained.

    Args:
      workdir: folder of the run.
      config: config of the evaluation.
      chosen: fields that the user set for this evaluation, which may differ.

    Raises:
      ConfigError: names every other field of the method, or of how pictures are seen, that differs.
    """
    old, new = (_flat(json.loads(json.dumps(c.to_dict()))) for c in (read(workdir), config))
    counted = [k for k in old.keys() & new.keys() if k.startswith("method.") or k in VIEW]
    differ = sorted(k for k in counted if old[k] != new[k] and k not in chosen and k != "method.dtype")
    if differ:
        listed = "; ".join(f"{k}: {old[k]!r} there, {new[k]!r} here" for k in differ[:8])
        raise ConfigError(
            f"{workdir} was trained with another config ({listed}). Evaluate it with its own, or give a field that is "
            f"meant to differ on the command line: --config.{differ[0]}=VALUE"
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, child in tree.items() for k, v in _flat(child, f"{prefix}{name}.").items()}
