"""The table of released weights, `released.toml`."""

import dataclasses
import fnmatch
import functools
import importlib.resources
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from jaxpose.errors import ConfigError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Weights:
    """Released weights, a row of the table, which explains the fields."""

    name: str
    file: str
    page: str
    licence: str
    paper: str
    config: str
    sha256: str = ""
    hub: str = ""
    url: str = ""
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: str = ""
    measured: str = ""
    protocol: str = ""
    command: str = ""

    @property
    def is_packaged(self) -> bool:
        """Whether the file comes with the package: those that our own command made."""
        return bool(self.command)

    @property
    def is_one_file(self) -> bool:
        """Whether the publisher's name is that of a single file."""
        return "*" not in self.file

    def may_be(self, path: pathlib.Path) -> bool:
        """Whether a file has the publisher's name, and lies in the hub's folder where that is a name of many."""
        folder = f"models--{self.hub.replace('/', '--')}"
        own = not self.hub or folder in path.parts or self.name in path.parts
        return own and fnmatch.fnmatchcase(path.name, self.file)


@functools.cache
def rows() -> tuple[Weights, ...]:
    """All released weights, in the order of the table."""
    text = importlib.resources.files("jaxpose.zoo").joinpath("released.toml").read_text("utf-8")
    return tuple(Weights(**row) for row in tomllib.loads(text)["weights"])


def is_name(text: str) -> bool:
    """Whether weights are called so."""
    return any(row.name == text for row in rows())


def find(name: str) -> Weights:
    """The weights called `name`.

    Raises:
      ConfigError: there are none.

    Examples:
      >>> find("vitpose-b-coco").hub
      'usyd-community/vitpose-base'
    """
    for row in rows():
        if row.name == name:
            return row
    hint = did_you_mean(name, [row.name for row in rows()]) or " jaxpose zoo lists all."
    raise ConfigError(f"there are no weights called {name!r} in the zoo.{hint}")


def of_file(path: str | pathlib.Path) -> Weights | None:
    """The weights that a file holds, told by its name; None if no row of the table has such a file.

    Examples:
      >>> of_file("downloads/td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192-73ede547_20220914.pth").method["decoding"]
      'udp'
    """
    return next((row for row in rows() if row.may_be(pathlib.Path(path))), None)


def folder() -> pathlib.Path:
    """The folder where weights are looked for and downloaded to: $JAXPOSE_WEIGHTS, else ~/.cache/jaxpose/weights."""
    if own := os.environ.get("JAXPOSE_WEIGHTS"):
        return pathlib.Path(own)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxpose" / "weights"
