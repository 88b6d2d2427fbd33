"""What a field of a record may hold, decided once for every reader of labels and results.

- A field that is null is missing.
- Converted: a number in quotes is that number ("2" is 2), a whole number may be written as a fraction (64.0 is 64), and
  a flag may be a truth value or the number 0 or 1.
- Unusable: anything else of another type; numbers that are not finite or beyond `LARGEST`; fractions where a whole
  number is expected. Nothing is rounded, cut off or narrowed before it has been checked.

What becomes of an unusable field is the reader's: where a whole file makes no sense without it (the id or size of an
image) the file is refused by `DataError`; a person or detection is left out, counted and named (`Skipped`).

    try:
        image_id = fields.whole(record, "image_id")
        box = fields.numbers(record, "bbox", 4)
    except FieldError as error:
        skipped.add_field(error, name)
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST = 1e9
"""Numbers beyond it, of either sign, are unusable: they are no pixels, millimetres or scores, and overflow float32."""
LARGEST_ID = 2**63 - 1
"""Largest whole number: ids are kept in 64 bits."""
LONGEST = 4096
"""Most characters of a text: as many as the path of a file may have."""
REQUIRED: Any = object()


class FieldError(ValueError):
    """A field cannot be used; the message names it, what was found, and what was expected.

    Attributes:
      reason: the message without what was found, by which records can be counted together.
      found: what was found, as the message says it.
    """

    def __init__(self, name: str, found: str, expected: str = ""):
        expected = f"expected {expected}" if expected else ""
        super().__init__(f"field {name!r} {found}" + (f", {expected}" if expected else ""))
        self.reason = f"field {name!r}: {expected}" if expected else str(self)
        self.found = found if expected else ""


def number(record: Mapping[str, Any], name: str, missing: Any = REQUIRED, least: float = -LARGEST) -> float:
    """A field as a finite number.

    Args:
      record: object of a file.
      name: name of the field.
      missing: value in place of a field that is missing or null; without one that is an error.
      least: least number that makes sense.

    Raises:
      FieldError: it is none.

    Examples:
      >>> number({"score": "0.5"}, "score"), number({"area": None}, "area", missing=-1.0)
      (0.5, -1.0)
      >>> number({"score": float("nan")}, "score")
      Traceback (most recent call last):
      jaxpose.files.fields.FieldError: field 'score' is nan, expected a finite number
    """
    value = _value(record, name, missing)
    if value is missing:
        return missing
    found = _number(value)
    if found is None or not least <= found <= LARGEST:
        raise _unusable(name, value, "a finite number" + (f" from {least:g}" if least > -LARGEST else ""))
    return float(found)


def whole(
    record: Mapping[str, Any], name: str, missing: Any = REQUIRED, least: int = -LARGEST_ID - 1, most: int = LARGEST_ID
) -> int:
    """A field as a whole number of 64 bits.

    Args:
      record: object of a file.
      name: name of the field.
      missing: value in place of a field that is missing or null; without one that is an error.
      least: least number that makes sense.
      most: greatest one.

    Raises:
      FieldError: it is none.

    Examples:
      >>> whole({"id": 64.0}, "id"), whole({"id": "7"}, "id"), whole({}, "track_id", missing=-1)
      (64, 7, -1)
      >>> whole({"width": 64.9}, "width", least=1)
      Traceback (most recent call last):
      jaxpose.files.fields.FieldError: field 'width' is 64.9, expected a whole number from 1
    """
    value = _value(record, name, missing)
    if value is missing:
        return missing
    found = _number(value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not isinstance(found, int) or not least <= found <= most:
        limits = (f" from {least}" if least > -LARGEST_ID else "") + (f" to {most:,}" if most < LARGEST_ID else "")
        raise _unusable(name, value, "a whole number" + limits)
    return found


def flag(record: Mapping[str, Any], name: str, missing: Any = REQUIRED) -> bool:
    """A field as a truth value.

    Raises:
      FieldError: it is neither a truth value nor 0 or 1.

    Examples:
      >>> flag({"iscrowd": "0"}, "iscrowd"), flag({"iscrowd": True}, "iscrowd"), flag({}, "iscrowd", missing=False)
      (False, True, False)
    """
    value = _value(record, name, missing)
    if value is missing or isinstance(value, bool):
        return value
    found = _number(value)
    if found not in (0, 1):
        raise _unusable(name, value, "0 or 1")
    return bool(found)


def text(record: Mapping[str, Any], name: str, missing: Any = REQUIRED) -> str:
    """A field as text that is not empty, of no more than `LONGEST` characters, all of which a file's name may have.

    Raises:
      FieldError: it is none.
    """
    value = _value(record, name, missing)
    if value is missing:
        return missing
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or "\0" in value or not _is_encodable(value):
        raise _unusable(name, value, "text")
    return value


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def numbers(record: Mapping[str, Any], name: str, count: int | None = None, missing: Any = REQUIRED) -> Any:
    """A field as a list of finite numbers.

    Args:
      record: object of a file.
      name: name of the field.
      count: length of the list; any if None.
      missing: value in place of a field that is missing or null; without one that is an error.

    Returns:
      [count] float64 array.

    Raises:
      FieldError: it is no list, has another length, or something in it is no finite number.

    Examples:
      >>> numbers({"bbox": [1, 2.5, "3", 4]}, "bbox", 4)
      array([1. , 2.5, 3. , 4. ])
      >>> numbers({"bbox": [1, 2, 3]}, "bbox", 4)
      Traceback (most recent call last):
      jaxpose.files.fields.FieldError: field 'bbox' has 3 numbers, expected 4
    """
    values = _value(record, name, missing)
    if values is missing:
        return missing
    if not isinstance(values, list | tuple):
        raise _unusable(name, values, f"a list of {count or ''} numbers".replace("  ", " "))
    if count is not None and len(values) != count:
        raise FieldError(name, f"has {len(values)} numbers", str(count))
    if (plain := _plain_numbers(values)) is not None:
        return plain
    found = []
    for value in values:
        each = _number(value)
        if each is None or not abs(each) <= LARGEST:
            raise _unusable(name, value, "finite numbers", "holds")
        found.append(each)
    return np.array(found, np.float64)


def _plain_numbers(values: Any) -> np.ndarray | None:
    """A list of nothing but usable numbers, which most are, as an array; else None."""
    if not {int, float}.issuperset(map(type, values)):
        return None
    try:
        found = np.array(values, np.float64)
    except OverflowError:
        return None
    return found if (np.abs(found) <= LARGEST).all() else None


def shown(value: Any) -> str:
    """A value as a message shows it: in one short line."""
    try:
        text = ascii(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= 40 else text[:37] + "..."


def _value(record: Mapping[str, Any], name: str, missing: Any) -> Any:
    value = record.get(name)
    if isinstance(value, np.ndarray | np.bool_):
        value = value.tolist()
    if value is None and missing is REQUIRED:
        raise FieldError(name, "is missing")
    return missing if value is None else value


def _number(value: Any) -> int | float | None:
    """The number that a value is or spells; None for anything else."""
    if isinstance(value, np.number):
        value = value.item()
    if type(value) in (int, float):
        return value
    if not isinstance(value, str) or not value.isascii() or "_" in value or len(value) > 40:
        return None
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return None


def _unusable(name: str, value: Any, expected: str, verb: str = "is") -> FieldError:
    return FieldError(name, f"{verb} {shown(value)}", expected)
