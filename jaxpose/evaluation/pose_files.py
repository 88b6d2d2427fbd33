"""JSON files of poses, as evaluations write them: lists of records, checked before they are used."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxpose.errors import DataError
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
        if not isinstance(record, dict) or not isinstance(record.get("image_id"), int):
            raise DataError(f"{where}: expected an object with a whole number 'image_id'; {hint}")
        record = {(aliases or {}).get(name, name): value for name, value in record.items()}
        for name, length in expected.items():
            if not _are_numbers(value := record.get(name), length):
                what = f"{length} finite numbers" if length else "a finite number"
                raise DataError(f"{where}: field {name!r} is {str(value)[:60]}, expected {what}; {hint}")
        records.append(record)
    return records


def _are_numbers(value: Any, length: int | None) -> bool:
    """Whether `value` is a list of so many finite numbers, or one finite number if `length` is None."""
    numbers = value if length else [value]
    if not isinstance(numbers, list) or len(numbers) != (length or 1):
        return False
    return all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
