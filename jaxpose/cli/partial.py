"""What is done already of pictures and videos, kept until all are, so that a restart goes on where it stopped."""

import argparse
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxpose.cli import config_flags
from jaxpose.errors import DataError, StorageError
from jaxpose.files.whole import write_bytes
from jaxpose.inference.predictor import Predictor
from jaxpose.runs import digest

logger = logging.getLogger(__name__)

FILES = ("poses.partial.jsonl", "boxes.partial.jsonl")
"""Names of the file: for poses, and for the boxes of a detector."""


class Partial:
    """A file with one line a picture or video, appended to as they are done.

    The first line holds what the results depend on. A last line that was cut off is dropped.

    Args:
      path: path of the file.
      depends: what the results depend on, as JSON holds it.
      resume: whether to go on with what the file holds; else it begins anew.

    Attributes:
      done: {name of a picture or video: its line}.

    Raises:
      DataError: it is to go on, but the file is of another run, checkpoint or other options.
      StorageError: it cannot be written.
    """

    def __init__(self, path: pathlib.Path, depends: Mapping[str, Any], resume: bool):
        self.path, self.done = path, {}
        depends = json.loads(json.dumps(depends, default=str))
        lines = _whole_lines(path)
        if lines and not resume:
            logger.info("%s: the results of an earlier command begin anew; --resume would have gone on with them", path)
        kept = [depends]
        if lines and resume:
            _compare(path, lines[0], depends)
            kept = lines
            self.done = {line["name"]: line for line in lines[1:]}
            logger.info("%s: %d inputs are done already", path, len(self.done))
        write_bytes(path, b"".join(map(_line, kept)))

    def add(self, line: Mapping[str, Any]) -> None:
        """Appends the line of a picture or video, with its `name`.

        Raises:
          StorageError: it cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write(_line(line))
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        self.done[line["name"]] = dict(line)

    def remove(self) -> None:
        """Removes the file, as everything is done."""
        self.path.unlink(missing_ok=True)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode() + b"\n"


def _whole_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file up to the first that is cut off or damaged; none if there is no file."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror or error})") from error
    for text in data.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or (found and not isinstance(line.get("name"), str)):
            break
        found.append(line)
    return found


def _compare(path: pathlib.Path, found: Mapping[str, Any], depends: Mapping[str, Any]) -> None:
    other = [name for name in depends if found.get(name) != depends[name]]
    if other:
        raise DataError(
            f"{path}: cannot go on, as it was made with other values of {', '.join(other)}; "
            "repeat the command as it was, or begin anew without --resume"
        )


def open_partial(predictor: Predictor, options: argparse.Namespace) -> Partial:
    """The file of a command with the options of `inputs.add_inputs` and `track.add_tracking`.

    Raises:
      DataError, StorageError: as `Partial`.
    """
    files = {f"--{name}": getattr(options, name) for name in ("boxes", "annotations")}
    depends = depends_on(
        predictor,
        WORKDIR=_place(options.workdir),
        changes=[[field, repr(value)] for field, value in sorted(config_flags.changes(options).items())],
        **{"--as": options.like, "--box-threshold": options.box_threshold, "--threshold": options.threshold},
        **{name: path and [str(path.resolve()), *stamp(path)] for name, path in files.items()},
    )
    return Partial(options.output / FILES[predictor.is_detector], depends, options.resume)


def _place(source: str) -> str:
    """The same text for one source of weights from wherever it is named."""
    path = pathlib.Path(source)
    return str(path.resolve()) if path.exists() else source


def depends_on(predictor: Predictor, **options: Any) -> dict[str, Any]:
    """What results depend on: options, and the parameters of the run and of its detector."""
    detector = predictor.detector
    return options | {
        "checkpoint": _digest(predictor),
        "checkpoint of --detector": detector and _digest(detector),
    }


def _digest(predictor: Predictor) -> str:
    return digest.combine(digest.digests(jax.device_get(predictor.variables)))


def stamp(path: pathlib.Path) -> list[int]:
    """What tells a version of a file from another: its size, and when it was last written."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
