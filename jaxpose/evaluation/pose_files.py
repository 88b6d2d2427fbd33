"""JSON files of poses, as evaluations write them: lists of records, checked before they are used."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxpose.errors import DataError
from jaxpose.files.fields import FieldError, number, numbers, shown, whole
from jaxpose.files.json_files import read_json
from jaxpose.skeleton import Skeleton


def read_poses(
    path: str | pathlib.Path,
    skeleton: Skeleton,
    fields: Mapping[str, int | None],
    hint: str,
    aliases: Mapping[str, str] | None = None,
) -> list[dict]:
    """The records of a file: each with "image_id", "keypoints" (x, y, score of each joint) and further fields.

    Args:
      path: JSON file.
      skeleton: joints of the poses.
      fields: {name of a further field: length of its list, or None for a single number}.
      hint: advice at the end of messages.
      aliases: {another name of a field: its name}, for files of other programs.

    Raises:
      DataError: no list of such records; the message names the first bad one.
    """
    content = read_json(path)
    expected = {"keypoints": 3 * skeleton.num_joints, **fields}
    if not isinstance(content, list) or not content:
        names = ", ".join(map(repr, ("image_id", *expected)))
        raise DataError(f"{path}: expected a list of poses with the fields {names}; {hint}")
    records = []
    for position, record in enumerate(content):
        where = f"{path}: record {position}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {shown(record)}, expected an object; {hint}")
        record: dict[str, Any] = {(aliases or {}).get(name, name): value for name, value in record.items()}
        try:
            found = {name: _read(record, name, length) for name, length in expected.items()}
            records.append(record | found | {"image_id": whole(record, "image_id")})
        except FieldError as error:
            raise DataError(f"{where}: {error}; {hint}") from error
    return records


def _read(record: Mapping[str, Any], name: str, length: int | None) -> float | list[float]:
    """A field of so many numbers, or of one if `length` is None."""
    return number(record, name) if length is None else numbers(record, name, length).tolist()
