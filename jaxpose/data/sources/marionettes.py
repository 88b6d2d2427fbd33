"""The procedural people: written to disk on first use, then read like any other records."""

import os
import pathlib
from typing import Any

import jax

from jaxpose.data.sources import Source
from jaxpose.data.sources.records import open_records


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split of the marionettes that `config.data.marionettes` describes, under `config.data.dir`."""
    from jaxpose import marionettes

    root = pathlib.Path(data.dir).expanduser() if data.dir else default_folder()
    config = marionettes.MarionettesConfig(**data.marionettes)
    if jax.process_index() == 0:
        marionettes.prepare(config, str(root), progress=progress)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("marionettes are on disk")
    return open_records(marionettes.prepare(config, str(root), progress=progress), split)


def default_folder() -> pathlib.Path:
    """Where marionettes go unless `config.data.dir` says otherwise: the user's cache."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxpose" / "data"
