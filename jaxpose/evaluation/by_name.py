"""Classes that config fields name: those of this library's modules, or anybody else's."""

import inspect
import types
from typing import TypeVar

from jaxpose import config
from jaxpose.errors import ConfigError

T = TypeVar("T")


def find_class(name: str, package: str, field: str, base: type[T]) -> type[T]:
    """The class that a config field names.

    Args:
      name: module of `package`, dotted path of a module, or dotted path of a class.
      package: full name of the package of this library.
      field: full name of the config field, for messages.
      base: class that it has to inherit; of a module, the one such class that it defines is taken.

    Raises:
      ConfigError: there is no such thing, or it is no such class.

    Examples:
      >>> from jaxpose.evaluation.metrics import Metric
      >>> find_class("coco", "jaxpose.evaluation.metrics", "config.evaluate.metrics", Metric).__name__
      'CocoKeypoints'
    """
    found = config.find(name, package, field)
    if isinstance(found, types.ModuleType):
        own = [value for value in vars(found).values() if getattr(value, "__module__", "") == found.__name__]
    else:
        own = [found]
    classes = [value for value in own if isinstance(value, type) and issubclass(value, base)]
    wanted = f"{base.__module__}.{base.__name__}"
    if len(classes) != 1:
        listed = ", ".join(each.__name__ for each in classes) or "none"
        raise ConfigError(f"{field} names {name!r}; expected one class that inherits {wanted}, found {listed}")
    if inspect.isabstract(classes[0]):
        missing = ", ".join(sorted(getattr(classes[0], "__abstractmethods__", ())))
        raise ConfigError(f"{field} names {name!r}, which inherits {wanted} but lacks its methods {missing}")
    return classes[0]
