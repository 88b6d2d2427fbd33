"""The papers, a folder each. `create` makes a method from its config; there is no registry."""

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping

from jaxpose.methods.base import Method


def create(config: Mapping) -> Method:
    """The method that `config.method` describes.

    `name` is a folder of this package ("dekr") or a module in one ("sequential_prtr"), whose class carries the same
    name in any case and without underscores, or the dotted path of a user's own class ("mylab.poses.Sketch"). All
    other entries are fields of that class.

    Raises:
      ValueError: unknown name, or an entry that the class has no field for.
    """
    fields = dict(config)
    cls = _find(fields.pop("name"))
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := set(fields) - known:
        raise ValueError(
            f"config.method has no meaning for {sorted(unknown)}: {cls.__name__} knows {', '.join(sorted(known))}"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def _find(name: str) -> type[Method]:
    if "." in name:
        module_name, _, class_name = name.rpartition(".")
        return getattr(importlib.import_module(module_name), class_name)
    module = importlib.import_module(_module_name(name))
    classes = (v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Method))
    return next(c for c in classes if c.__name__.lower() == name.replace("_", ""))


def _module_name(name: str) -> str:
    folders = [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg]
    if name in folders:
        return f"{__name__}.{name}"
    for folder in folders:
        if importlib.util.find_spec(f"{__name__}.{folder}.{name}"):
            return f"{__name__}.{folder}.{name}"
    raise ValueError(f"config.method.name is {name!r}, but jaxpose/methods has no folder or module of that name")
