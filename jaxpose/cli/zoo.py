"""Lists released weights that open by name, and tells how to get and use each.

    jaxpose zoo
    jaxpose zoo vitpose
    jaxpose zoo vitpose-b-coco

Without NAME all weights are listed; part of a name, paper or method lists those that have it; a whole name tells all
about one. Scores are their publishers', by the protocol that is named; those of weights that are called marionettes-...
were measured here, on drawn people. Those come with the package; jaxpose hosts no others.
"""

import argparse
from collections.abc import Sequence

from jaxpose import load_config, methods
from jaxpose.cli import command
from jaxpose.errors import ConfigError, did_you_mean
from jaxpose.methods.lifting import SequenceInput
from jaxpose.zoo import fetching, table
from jaxpose.zoo.table import Weights


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("zoo", __doc__)
    parser.add_argument("name", nargs="?", default="", help="name of weights, or part of a name, paper or method")
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    if table.is_name(options.name):
        print(described(table.find(options.name)))
        return
    wanted = options.name.lower()
    found = [row for row in table.rows() if wanted in f"{row.name} {row.paper} {row.config}".lower()]
    if not found:
        hint = did_you_mean(options.name, [row.name for row in table.rows()])
        raise ConfigError(f"no weights in the zoo have {options.name!r} in their name, paper or config.{hint}")
    print(listed(found))


def listed(rows: Sequence[Weights]) -> str:
    """A line for each of some weights."""
    cells = [("NAME", "PAPER", "SCORE", "HERE")]
    for row in rows:
        cells.append(
            (
                row.name,
                row.paper,
                row.published or row.measured or "-",
                "yes" if fetching.place(row).is_file() else "no",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
    return "\n".join([*lines, "", "jaxpose zoo NAME tells how to get and use one."])


def described(row: Weights) -> str:
    """All about some weights."""
    parts = {
        "paper": row.paper,
        "config": row.config,
        "published": f"{row.published} ({row.protocol})" if row.published else "",
        "measured": f"{row.measured} ({row.protocol})" if row.measured else "",
        "made by": row.command,
        "licence": row.licence,
        "page": row.page,
        "file": str(fetching.place(row)) + ("" if fetching.place(row).is_file() else " (not here)"),
        "get it": _way(row),
        "use it": _use(row),
    }
    return "\n".join([row.name, *(f"  {name:<10} {text}" for name, text in parts.items() if text)])


def _use(row: Weights) -> str:
    if issubclass(methods.find(load_config(row.config).method.name), SequenceInput):
        return f"jaxpose lift {row.name} poses.json --output found"
    return f"jaxpose predict {row.name} {'drawing.png' if row.is_packaged else 'photo.jpg'} --output found"


def _way(row: Weights) -> str:
    """How a file comes here."""
    get = fetching.how_to_get(row)
    if row.hub:
        return f"downloaded at first use (pip install 'jaxpose[hub]'); or {get}"
    return f"downloaded at first use; or {get}" if fetching.is_downloaded(row) else get
