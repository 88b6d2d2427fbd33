"""One file with all that a network needs: its weights, config and skeleton, and where they come from.

    write("pose.safetensors", config, variables, About(data="coco", step=210_000, scores={"AP": 0.744}))
    content = read("pose.safetensors")

It is a .safetensors file whose arrays are named as `convert.save_variables` does, with the rest as JSON in its metadata
and a digest of all of it. `jaxpose.load`, every command and `config.init_from` take it in place of a run's folder.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import jaxpose
from jaxpose import methods
from jaxpose import skeleton as skeletons
from jaxpose.config import base, complete, set_field
from jaxpose.convert import files
from jaxpose.errors import CheckpointError, ConfigError, DataError
from jaxpose.files.json_files import parse_json
from jaxpose.methods.base import Method
from jaxpose.skeleton import Skeleton
from jaxpose.types import Variables

SUFFIX = ".safetensors"
DTYPES = ("float32", "float16", "bfloat16")
DRAWN = "marionettes"
"""Data whose people are drawn."""
_KEY = "jaxpose"
_FORMAT = 1
_OF_THIS_MACHINE = ("init_from", "data.dir")
"""Fields of a config that mean nothing on another machine."""


@dataclasses.dataclass(frozen=True)
class About:
    """Where weights come from.

    Attributes:
      data: name of the data that they learned from, such as "coco"; empty where nobody knows.
      step: number of training steps; None where nobody knows.
      scores: numbers of the last evaluation at that step, by their names.
      source: what they were exported from: the name of a run's folder, or of a file.
      version: version of jaxpose that wrote the file.
    """

    data: str = ""
    step: int | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    source: str = ""
    version: str = ""

    @property
    def is_drawn(self) -> bool:
        """Whether the people that the weights learned from are drawn ones."""
        return self.data == DRAWN


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds: the whole config, its method, the variables of the network, and where they come from."""

    config: Any
    method: Method
    variables: Variables
    about: About


def write(path: str | pathlib.Path, config: Any, variables: Variables, about: About, dtype: str = "float32") -> None:
    """Writes a network, whole or not at all.

    Args:
      path: ends in .safetensors.
      config: config with all fields; paths of this machine are left out of the file.
      variables: {"params": ..., "batch_stats": ...}.
      about: where they come from; its version is this one's.
      dtype: of the parameters in the file: float32, float16 or bfloat16. Statistics stay float32, and so does whatever
        is read back.

    Raises:
      ConfigError: another ending.
      CheckpointError: a parameter that is not finite in that dtype.
      StorageError: the file cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path} must end in {SUFFIX}")
    kept = ConfigDict(json.loads(json.dumps(config.to_dict(), default=str)))
    for field in _OF_THIS_MACHINE:
        set_field(kept, field, "")
    metadata = {
        "format": _FORMAT,
        "config": kept.to_dict(),
        "skeleton": dataclasses.asdict(skeletons.get(config.method.skeleton)),
        "about": dataclasses.asdict(dataclasses.replace(about, version=jaxpose.__version__)),
    }
    narrow = dict(variables) | {"params": _narrowed(variables["params"], dtype)}
    files.save_variables(path, narrow, {_KEY: json.dumps(metadata)})


def _narrowed(params: Variables, dtype: str) -> Variables:
    def narrowed(where: Any, leaf: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            array = np.asarray(leaf).astype(dtype)
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise CheckpointError(f"params{jax.tree_util.keystr(where)} holds a number that {dtype} cannot hold")
        return array

    return jax.tree_util.tree_map_with_path(narrowed, params)


def read(path: str | pathlib.Path) -> Content | None:
    """What a file of `write` holds; None for any other file. Its skeleton is known by its name from now on.

    Raises:
      CheckpointError: it is damaged, of a newer version, or its parts don't fit each other.
    """
    path = pathlib.Path(path)
    if path.suffix != SUFFIX or not path.is_file():
        return None
    arrays, texts = files.load_with_metadata(path)
    if _KEY not in texts:
        return None
    try:
        metadata: Any = parse_json(texts[_KEY].encode(), path)
        config, about = _config(metadata, path), About(**metadata["about"])
        _remember(metadata["skeleton"], path)
        method = methods.create(config.method)
        variables = _fitted(arrays, method, path)
    except (DataError, ConfigError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: cannot be used: {error}") from error
    return Content(config, method, variables, about)


def _config(metadata: Any, path: pathlib.Path) -> Any:
    if metadata["format"] > _FORMAT:
        wrote = metadata["about"].get("version")
        raise CheckpointError(f"{path}: was written by jaxpose {wrote}; this is {jaxpose.__version__}, which is older")
    config = ConfigDict(metadata["config"])
    complete(config, base(str(config.name)))
    return config


def _remember(fields: Mapping[str, Any], path: pathlib.Path) -> None:
    """Makes the file's skeleton known by its name.

    Raises:
      CheckpointError: another skeleton is called so.
    """
    skeleton = Skeleton(**{name: _tuples(value) for name, value in fields.items()})
    known = skeletons.SKELETONS.setdefault(skeleton.name, skeleton)
    if known.joints != skeleton.joints:
        raise CheckpointError(
            f"{path}: its skeleton {skeleton.name!r} has the joints {', '.join(skeleton.joints)}; here another one is "
            f"called so, with {', '.join(known.joints)}"
        )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fitted(arrays: Mapping[str, np.ndarray], method: Method, path: pathlib.Path) -> Variables:
    """The arrays as the variables of a method, in its dtypes.

    Raises:
      CheckpointError: they are not those of its network.
    """
    template: Any = flatten_dict(jax.eval_shape(method.init, jax.random.key(0)), sep="/")
    odd = sorted(set(arrays) ^ set(template)) or [k for k in arrays if arrays[k].shape != template[k].shape]
    if odd:
        raise CheckpointError(f"{path}: its arrays don't fit its config, {len(odd)} of them: {', '.join(odd[:3])}")
    return files.nested({name: array.astype(template[name].dtype) for name, array in arrays.items()}, path)
