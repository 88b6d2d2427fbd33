"""Types of the fields of a method: whether a value from a config is what a field is declared to hold."""

import types
import typing
from typing import Any

WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
"""What the types of single values are called in messages."""
PLURALS = {int: "whole numbers", float: "numbers", bool: "booleans", str: "strings"}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type; types that configs cannot hold fit everything.

    A whole number is also a number, but True is neither.

    >>> fits((256, 192), tuple[int, int]), fits((256,), tuple[int, int]), fits("4", int), fits(4, float)
    (True, False, False, True)
    """
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and _tuple_fits(value, typing.get_args(kind))
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return any(fits(value, each) for each in typing.get_args(kind))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, types.NoneType) else True


def _tuple_fits(values: tuple, kinds: tuple) -> bool:
    if kinds[-1:] == (...,):
        return all(fits(value, kinds[0]) for value in values)
    return len(values) == len(kinds) and all(map(fits, values, kinds))


def described(kind: Any) -> str:
    """A declared type in words.

    >>> described(tuple[int, int]), described(tuple[float, ...])
    ('2 whole numbers', 'a list of numbers')
    """
    if typing.get_origin(kind) is not tuple:
        return WORDS.get(kind, str(kind))
    first, *rest = typing.get_args(kind)
    plural = PLURALS.get(first, f"values of {first}")
    return f"a list of {plural}" if rest == [...] else f"{1 + len(rest)} {plural}"
