"""The command `jaxpose`: each subcommand is a module of this package, which is imported when it is called."""

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "Look": {
        "demo": "draw a film of synthetic people, find, follow and lift them",
    },
    "Train and evaluate": {
        "train": "train the method of a config; continues a run that was stopped",
        "evaluate": "compute the metrics of a run on its validation data",
    },
    "Use": {
        "predict": "find poses in images and videos",
        "track": "find poses in videos and follow each person",
        "lift": "turn the 2D joints of a video into 3D joints",
        "layers": "draw where each decoder layer of a transformer looks",
    },
    "Weights": {
        "zoo": "list released weights that open by name, and how to get them",
        "export-weights": "write what a run learned as one file",
        "push-to-hub": "upload what a run learned to the Hugging Face hub",
        "convert": "convert a checkpoint of an original PyTorch implementation",
    },
    "Data": {
        "write-records": "write a data set as records, for fast access on network storage",
        "marionettes": "draw a sheet of the built-in synthetic people",
        "fit-proposals": "fit random training boxes to the errors of a detector",
    },
    "Tools": {
        "compile": "compile a train step for a TPU slice without a TPU: memory, traffic, time",
        "fit-pose-nms": "fit the parameters of parametric pose suppression",
        "fit-rescoring": "train the network that rescores poses by their shape",
    },
}
"""{group: {subcommand: what it does}}. The function `main` of the module `fit_pose_nms` is "fit-pose-nms"."""

NAMES = [name for group in COMMANDS.values() for name in group]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      arguments: subcommand and its arguments; those of the process if None.

    Returns:
      The exit status: 0 for success, 1 for a failure at run time, 2 for a command line or config that cannot work.
    """
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        from jaxpose import __version__

        print(f"jaxpose {__version__}")
        return 0
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "jaxpose --help lists them."
        print(f"jaxpose: error: there is no subcommand {name!r}. {hint}", file=sys.stderr)
        return 2
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").main(rest)


def overview() -> str:
    """The help page: every subcommand in a line."""
    lines = [
        "usage: jaxpose SUBCOMMAND ...",
        "",
        "Human pose estimation: train, evaluate and use the methods of papers.",
    ]
    width = max(map(len, NAMES))
    for title, group in COMMANDS.items():
        lines += ["", title] + [f"  {name.ljust(width)}  {text}" for name, text in group.items()]
    lines += ["", "jaxpose SUBCOMMAND --help explains each.  jaxpose --version prints the version."]
    return "\n".join(lines)
