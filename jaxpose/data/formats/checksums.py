"""A list of the files of a data set, by which damaged ones are found.

It is compared whenever a data set is opened. Descriptions and labels are small and are compared by their SHA-256. Files
of records can be many times as large as memory: of these the sizes are compared, and each record has a hash of its own,
which the reader of records compares when it is read.
"""

import hashlib
import pathlib

from jaxpose.errors import DataError
from jaxpose.files.fields import FieldError, text, whole
from jaxpose.files.json_files import read_json, write_json

NAME = "checksums.json"
_RECORDS = ".array_record"


def write(folder: pathlib.Path) -> None:
    """Lists the files of a folder in it.

    Raises:
      StorageError: the list cannot be written.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    write_json(folder / NAME, {"files": {path.name: _entry(path) for path in paths}})


def check(folder: pathlib.Path) -> None:
    """Compares a folder with its list; one without a list, as older ones are, passes.

    Raises:
      DataError: the list is damaged, or a file is missing, damaged or cut off.
    """
    if not (folder / NAME).exists():
        return
    content = read_json(folder / NAME)
    listed = content.get("files") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise DataError(f"{folder / NAME}: expected a list of files; it is damaged")
    for name, entry in listed.items():
        path = folder / pathlib.PurePath(name).name
        try:
            expected: dict = {"size": whole(entry, "size", least=0)}
            if _RECORDS not in name:
                expected["sha256"] = text(entry, "sha256")
            found = _entry(path)
        except (FieldError, AttributeError) as error:
            raise DataError(f"{folder / NAME}: the entry of {name!r} is damaged ({error})") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {NAME} lists it") from error
        if found != expected:
            raise DataError(f"{path}: is damaged: it does not fit its size and digest in {NAME}")


def _entry(path: pathlib.Path) -> dict:
    entry: dict = {"size": path.stat().st_size}
    return entry if _RECORDS in path.name else entry | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
