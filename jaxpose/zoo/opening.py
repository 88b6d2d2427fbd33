"""Opening released weights: a file is enough.

    config, method, variables = open_file("td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth")

Entries tell the network. What they can't tell (size of crops, order of colours, how joints are read from maps, which
skeleton of as many joints) comes from the table of released weights by the file's name, from a config that the user
names, or is what such files usually have; the log says what was taken from where.
"""

import hashlib
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxpose import methods
from jaxpose import skeleton as skeletons
from jaxpose.config import load_config
from jaxpose.convert.conversion import convert
from jaxpose.convert.state_dicts import load_state_dict
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.methods.base import Method
from jaxpose.nn.recognition import Recognized
from jaxpose.types import Variables
from jaxpose.zoo import table, weights_file
from jaxpose.zoo.recognition import recognize, shapes_of
from jaxpose.zoo.table import Weights
from jaxpose.zoo.weights_file import About, Content

logger = logging.getLogger(__name__)


def open_file(path: str | pathlib.Path, like: str = "") -> tuple[ConfigDict, Method, Variables]:
    """(config, method, variables) of a released file; arguments and errors as of `open_weights`."""
    content = open_weights(path, like)
    return content.config, content.method, content.variables


def open_weights(path: str | pathlib.Path, like: str = "") -> Content:
    """The network of a released file.

    Args:
      path: file of the authors, of mmpose or of transformers: .pth, .bin, .safetensors or .npz; or one of
        `jaxpose export-weights`, which holds all of this.
      like: config that says what entries can't, such as "heatmap:coco_w32_384"; that of the table if empty.

    Raises:
      CheckpointError: it cannot be read, is damaged, or is of no known network.
      ConfigError: `like` is of another method, or the file knows its config.
    """
    path = pathlib.Path(path)
    if (content := weights_file.read(path)) is not None:
        if like:
            raise ConfigError(f"{path} knows its config; {like!r} is for files of other programs")
        return content
    row = None if like else table.of_file(path)
    if row is not None and row.is_one_file:
        check_digest(path, row)
    entries = load_state_dict(path)
    name, told = recognize(shapes_of(entries), str(path))
    config = load_config(like or (row.config if row else told.config))
    if config.method.name != name:
        raise ConfigError(f"{path}: is of {name}, but {like or config.name} is a config of {config.method.name}")
    config.dtype = "float32"
    if like:
        _warn_of_another_network(config, told, like, path)
    chosen = dict(row.method) if row else {} if like else dict(told.usual)
    _set(config.method, dict(told.fields) | chosen)
    _set(config.data, row.data if row else {})
    _take_skeleton(config, told.joints, path)
    origin = f"the zoo's {row.name}" if row else like or f"{told.config}, by assumption (--as says otherwise)"
    logger.info("%s: %s, %s; all else is that of %s%s", path, name, _shown(told.fields), origin, _but(chosen))
    method = methods.create(config.method)
    return Content(config, method, convert(entries, method), About(data=config.data.source, source=path.name))


def check_digest(path: pathlib.Path, row: Weights) -> None:
    """Raises CheckpointError for a file that is not the one that its publisher has."""
    if not row.sha256:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not found.startswith(row.sha256):
        raise CheckpointError(
            f"{path}: its SHA-256 begins with {found[: len(row.sha256)]}, that of the published file with "
            f"{row.sha256}; fetch it again from {row.page}"
        )


def _warn_of_another_network(config: Any, told: Recognized, like: str, path: pathlib.Path) -> None:
    """Says in the log where a config describes another network than the entries, which count."""
    method = methods.create(config.method)
    if other := [name for name, value in told.fields.items() if getattr(method, name) != value]:
        found = ", ".join(f"{name}={told.fields[name]!r}" for name in other)
        named = ", ".join(f"{name}={getattr(method, name)!r}" for name in other)
        logger.warning("%s: its entries are of %s, which counts; %s has %s", path, found, like, named)


def _set(section: Any, fields: Mapping[str, Any]) -> None:
    with section.unlocked():
        for field, value in fields.items():
            section[field] = tuple(value) if isinstance(value, list) else value


def _take_skeleton(config: Any, joints: int | None, path: pathlib.Path) -> None:
    """Makes the skeleton one of as many joints, that of the config if it fits."""
    if joints is not None and skeletons.get(config.method.skeleton).num_joints != joints:
        fitting = [s.name for s in skeletons.SKELETONS.values() if s.num_joints == joints]
        if len(fitting) != 1:
            known = f"could be {' or '.join(fitting)}; name a config by --as" if fitting else "are no known skeleton"
            raise CheckpointError(f"{path}: its {joints} joints {known}")
        config.method.skeleton = fitting[0]
    config.data.skeleton = config.method.skeleton


def _shown(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v!r}" for k, v in fields.items() if v not in (0, "", (), False))


def _but(fields: Mapping[str, Any]) -> str:
    return f", but for {_shown(fields)}" if fields else ""
