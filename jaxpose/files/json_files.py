"""JSON files: read within bounds, written whole."""

import json
import pathlib
from typing import Any

from jaxpose.errors import DataError
from jaxpose.files.whole import write_text


def read_json(path: str | pathlib.Path) -> Any:
    """The content of a JSON file.

    Raises:
      DataError: the file is missing, is not complete JSON (the message says where it breaks), or is nested too deeply.
    """
    path = pathlib.Path(path)
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check config.data.dir and file names") from error


def parse_json(data: bytes, name: Any) -> Any:
    """The content of JSON in UTF-8, with or without a byte order mark, UTF-16 or UTF-32.

    Args:
      data: bytes of the file.
      name: name of the file, for messages.

    Raises:
      DataError: as `read_json`.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{name}: not valid JSON ({error}; the file has {len(data)} bytes); fetch it again") from error
    except RecursionError as error:
        raise DataError(f"{name}: lists and objects are nested too deeply; is it the right file?") from error
    except MemoryError as error:
        raise DataError(f"{name}: its {len(data)} bytes of JSON don't fit into memory") from error


def write_json(path: str | pathlib.Path, content: Any) -> None:
    """Writes a readable JSON file, whole or not at all; what JSON has no form for is written as text.

    Raises:
      StorageError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")
