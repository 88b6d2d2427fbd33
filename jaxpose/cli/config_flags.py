"""--config=NAME:VARIANT and --config.FIELD=VALUE: config files and their fields on the command line.

`prtr:coco` and `configs/prtr.py:coco` both name the variant "coco" of the installed config "prtr". A file that exists
at the given path comes first, so that a config of one's own is named by its path.
"""

import argparse
import ast
import collections
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from jaxpose.config import load_config
from jaxpose.errors import ConfigError

Fields = Sequence[tuple[str, str]]
"""(field, text of its value) pairs, such as ("train.steps", "10")."""

EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a tuple such as (1, 2)",
    ConfigDict: "a dictionary such as {'name': 1}",
}
"""{type of a field: how its value is written}."""

_FIELD = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


# --- the command line ---


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds --config and a help text for --config.FIELD; `load` takes what they give."""
    text = "config file, such as prtr, configs/prtr.py or prtr:coco for a variant"
    parser.add_argument("--config", required=required, metavar="NAME[:VARIANT]", help=text)
    _describe_fields(parser, "field of the config to set, as in --config.train.steps=1000")


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Adds a help text for --config.FIELD, and the older --set FIELD=VALUE; `changes` takes what they give."""
    _describe_fields(parser, "field of the run's config to change, as in --config.method.flip_test=false")
    add = parser.add_argument
    add("--set", action="append", default=[], type=_assignment, help=argparse.SUPPRESS)


def _describe_fields(parser: argparse.ArgumentParser, text: str) -> None:
    """A line of the help page; `split` takes such arguments before the parser sees them."""
    parser.add_argument("--config.FIELD", metavar="VALUE", dest="fields", default=argparse.SUPPRESS, help=text)


def split(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Other arguments, and the fields that --config.FIELD=VALUE or --config.FIELD VALUE set.

    Without a value --config.FIELD stands for true, and --noconfig.FIELD for false.
    """
    rest: list[str] = []
    fields: list[tuple[str, str]] = []
    left = collections.deque(arguments)
    while left and left[0] != "--":
        argument = left.popleft()
        found = _FIELD.fullmatch(argument)
        if not found:
            rest.append(argument)
            continue
        no, field, text = found.groups()
        if text is None and not no and left and not left[0].startswith("--"):
            text = left.popleft()
        fields.append((field, text if text is not None else "false" if no else "true"))
    return [*rest, *left], fields


# --- files ---


def load(name: str, fields: Fields = ()) -> Any:
    """The config that --config names, a locked ConfigDict, with other values of fields.

    Args:
      name: installed config ("prtr") or path of a file, and after a colon its variant.
      fields: fields to set.

    Raises:
      ConfigError: no such file, variant or field, or a value of another type than the field's.
    """
    config = load_config(name)
    set_fields(config, fields)
    return config


# --- fields ---


def set_fields(config: ConfigDict, fields: Fields) -> None:
    """Sets fields as ml_collections does, by the type that each has; then locks the config.

    Raises:
      ConfigError: an unknown field, or a value of another type.
    """
    texts: dict[str, list[str]] = {}
    for field, text in fields:
        texts.setdefault(field, []).append(text)
    config.lock()
    for field, values in texts.items():
        _set(config, field, [f"--config.{field}={text}" for text in values])


def _set(config: ConfigDict, field: str, arguments: list[str]) -> None:
    """Sets one field by all arguments that name it: the last one, or for a tuple each an element."""
    try:
        kind = config_path.get_type(field, config)
    except (KeyError, AttributeError, IndexError, TypeError, ValueError):
        raise ConfigError(f"--config.{field}: the config has no such field. {_hint(config, field)}") from None
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(["jaxpose", *arguments])
    except (flags.Error, TypeError, ValueError) as error:
        text = arguments[-1].partition("=")[2]
        expected = EXPECTED.get(kind, "nothing, as it cannot be set here")
        raise ConfigError(f"--config.{field}: found {text!r}, expected {expected}") from error


def _hint(config: ConfigDict, field: str) -> str:
    known = list(_names(config))
    last = field.rpartition(".")[2]
    close = [name for name in known if name.rpartition(".")[2] == last]
    close = close or difflib.get_close_matches(field, known, n=1)
    return f"Did you mean --config.{close[0]}?" if close else f"It has {', '.join(config)}."


def _names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields and sections."""
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{name}.")


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """{field: value} of the fields of a run's config that a command line changes; see `add_changes`."""
    return dict(getattr(options, "set", ())) | {field: literal(text) for field, text in options.fields}


def literal(text: str) -> Any:
    """A value in JSON or Python's way of writing ("true", "1.5", "(0.5, 1.0)"), or else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError):
            pass
    return text


def _assignment(text: str) -> tuple[str, Any]:
    """FIELD=VALUE."""
    field, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return field, literal(value)
