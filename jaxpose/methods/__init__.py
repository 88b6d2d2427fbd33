"""The papers, a folder each. `create` makes a method from its config; there is no registry."""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import types
from collections.abc import Iterator, Mapping
from typing import Any

from jaxpose import config as configs
from jaxpose.errors import ConfigError, did_you_mean
from jaxpose.methods.base import Method

FIELD = "config.method.name"


def create(config: Mapping) -> Method:
    """The method that `config.method` describes.

    Args:
      config: fields of the method, and its `name`: a folder of this package ("dekr"), a module in one
        ("sequential_prtr"), or the dotted path of a class or module of anybody's ("mylab.poses.Sketch").

    Raises:
      ConfigError: unknown name, a field that the method does not have, or a value that cannot work.
    """
    fields = dict(config)
    cls = find(fields.pop("name", ""))
    known = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            hint = did_you_mean(name, known) or f" It has {', '.join(sorted(known))}."
            raise ConfigError(f"config.method.{name} is set, but {cls.__name__} has no such field.{hint}")
    return cls(**{name: _immutable(value) for name, value in fields.items()})


def names() -> list[str]:
    """The methods of this library by the names that configs use, sorted."""
    return sorted(name for name, path in _modules() if _namesake(importlib.import_module(path), name))


def _modules() -> Iterator[tuple[str, str]]:
    """Short and full names of the papers' folders and of the modules in them."""
    for folder in _folders():
        yield folder, f"{__name__}.{folder}"
        for module in configs.names(f"{__name__}.{folder}"):
            yield module, f"{__name__}.{folder}.{module}"


def _immutable(value: Any) -> Any:
    """Lists, as JSON has them, as tuples."""
    return tuple(map(_immutable, value)) if isinstance(value, list | tuple) else value


def find(name: str) -> type[Method]:
    """The class that is called so in configs.

    Raises:
      ConfigError: there is none, or it is no method.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{FIELD} is {name!r}; it can be {', '.join(names())}, or a dotted path")
    found = configs.find(name if "." in name else _module_name(name), __name__, FIELD)
    if isinstance(found, types.ModuleType):
        return _only_method(found, name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"{FIELD} is {name!r}, which is no subclass of jaxpose.Method")
    return found


def _module_name(name: str) -> str:
    """Full name of the folder or module; nothing else is imported."""
    for path in (name, *(f"{folder}.{name}" for folder in _folders())):
        if path.split(".")[0] in _folders() and importlib.util.find_spec(f"{__name__}.{path}"):
            return f"{__name__}.{path}"
    raise configs.unknown(name, names(), __name__, FIELD)


def _folders() -> list[str]:
    return [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg]


def _only_method(module: types.ModuleType, name: str) -> type[Method]:
    """The method of a module: its namesake, or else the only one that is defined there."""
    if namesake := _namesake(module, name.rpartition(".")[2]):
        return namesake
    own = [cls for cls in _methods(module) if cls.__module__ == module.__name__]
    if len(own) == 1:
        return own[0]
    if "." not in name:
        raise configs.unknown(name, names(), __name__, FIELD)
    there = ", ".join(f"{name}.{cls.__name__}" for cls in own)
    raise ConfigError(f"{FIELD} is {name!r}, a module with " + (f"several: {there}" if own else "no method"))


def _namesake(module: types.ModuleType, name: str) -> type[Method] | None:
    """The method with the same name, in any case and without underscores."""
    return next((cls for cls in _methods(module) if cls.__name__.lower() == name.replace("_", "").lower()), None)


def _methods(module: types.ModuleType) -> list[type[Method]]:
    values = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Method)]
    return [cls for cls in values if not inspect.isabstract(cls)]
