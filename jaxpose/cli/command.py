"""What all subcommands share: how flags are spelled, how messages are shown, and how a command ends."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxpose.cli import config_flags
from jaxpose.errors import ConfigError, JaxposeError

SOURCE = "folder of a run, file of weights, their name (jaxpose zoo lists them), or hf://ORG/NAME"
"""What a command takes a network from, for help pages."""


class Parser(argparse.ArgumentParser):
    """The flags of a subcommand, spelled with dashes (--batch-size; --batch_size is understood too).

    Args:
      name: name of the subcommand.
      description: text of its help page.
      fields: whether --config.FIELD=VALUE means something to it.
      prog: what is typed to call it; "jaxpose NAME" if empty.
    """

    def __init__(self, name: str, description: str | None, *, fields: bool = False, prog: str = ""):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog=prog or f"jaxpose {name}", description=description, allow_abbrev=False, formatter_class=formatter
        )
        self._fields = fields

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options of a command line, and as `fields` the pairs (field, text) of --config.FIELD=VALUE.

        Args:
          arguments: those of the process if None.
        """
        rest, fields = config_flags.split(sys.argv[1:] if arguments is None else arguments)
        if fields and not self._fields:
            self.error(f"unrecognized arguments: --config.{fields[0][0]}")
        options = self.parse_args(with_dashes(rest))
        options.fields = fields
        return options

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2 and one line."""
        self.exit(2, f"jaxpose: error: {message} ({self.prog} --help explains the options)\n")


def with_dashes(arguments: Sequence[str]) -> list[str]:
    """Arguments with dashes for underscores in the names of flags: --batch_size=4 -> --batch-size=4."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    spelled = [re.sub(r"^--[^=]+", lambda name: name[0].replace("_", "-"), each) for each in arguments[:end]]
    return spelled + list(arguments[end:])


def run(
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None = None,
    informs: str = "jaxpose.cli",
) -> int:
    """Reads a command line and does the work.

    Args:
      parser: flags of the subcommand.
      work: function of the options that does the work and gives the exit status, or None for 0.
      arguments: those of the process if None.
      informs: name of the logger from which messages of level INFO are shown; all others show warnings.

    Returns:
      The exit status; see `jaxpose.cli.main`. A command line that cannot be read ends the process instead.
    """
    options = parser.read(arguments)
    _show_messages(informs)
    try:
        status = work(options) or 0
        sys.stdout.flush()
        return status
    except JaxposeError as error:
        return failed(error, 2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        return failed(f"{error.filename}: {error.strerror}", 1)


def _show_messages(informs: str) -> None:
    logging.basicConfig()  # adds a handler unless an imported library has done so
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger(informs).setLevel(logging.INFO)


def failed(why: Any, status: int) -> int:
    """Shows an error in one line; returns the exit status."""
    print(f"jaxpose: error: {why}", file=sys.stderr)
    return status


def positive(text: str) -> int:
    """A flag's value as a whole number from 1."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A flag's value as a whole number from 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)
