"""What the records of PoseTrack's labels and predictions may hold: each is checked here before it is used.

An image that cannot be used makes no sense of the file (`DataError`). A person is left out, a region of an image too:
`Skipped` counts them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpose.data.annotations import Skipped
from jaxpose.data.formats import coco
from jaxpose.files import fields
from jaxpose.files.fields import FieldError

MOST_FRAMES = 10**15
"""Greatest number of a frame: PoseTrack's own have up to 11 digits."""
MOST_DIGITS = 15
"""Most digits of a number in the name of an image."""
MOST_CORNERS = 10_000
"""Most corners of a region in which nothing is evaluated, each of which is compared with every joint."""
REGION = "a region of 'ignore_regions_x' and _y is no polygon"

_FRAME = {"least": 0, "most": MOST_FRAMES}
_DIGITS = re.compile(r"\d+")


def image(record: Any, name: str, skipped: Skipped) -> dict[str, Any]:
    """The record of an image in the form of 2018, with fields of the types that they should have.

    Args:
      record: record as the file has it.
      name: name of the record, for messages.
      skipped: takes the regions that are no polygons.

    Raises:
      FieldError: a field cannot be used.
    """
    if not isinstance(record, Mapping):
        raise FieldError("images", f"holds {fields.shown(record)}", "objects")
    found = {field: value for field, value in record.items() if value is not None}
    found["id"] = fields.whole(record, "id")
    found["file_name"] = fields.text(record, "file_name")
    for field in {"width", "height"} & found.keys():
        found[field] = fields.whole(record, field, least=0, most=coco.MOST_SIDE)
    for field in {"frame_id", "nframes"} & found.keys():
        found[field] = fields.whole(record, field, **_FRAME)
    for field in {"vid_id", "video_id"} & found.keys():
        is_text = isinstance(found[field], str)
        found[field] = fields.text(record, field) if is_text else fields.whole(record, field)
    if "is_labeled" in found:
        found["is_labeled"] = fields.flag(record, "is_labeled")
    if max(_DIGITS.findall(found["file_name"]), key=len, default="")[MOST_DIGITS:]:
        raise FieldError("file_name", f"has a number of more than {MOST_DIGITS} digits", "that of a frame")
    return found | _regions(found, name, skipped)


def _regions(record: Mapping[str, Any], name: str, skipped: Skipped) -> dict[str, Any]:
    """The fields ignore_regions_x and _y, with as many corners here as there; nothing where there are none."""
    axes = [record.get(f"ignore_regions_{axis}", []) for axis in "xy"]
    if not any(axes) and not any(f"ignore_regions_{axis}" in record for axis in "xy"):
        return {}
    if not all(isinstance(axis, list) for axis in axes) or len(axes[0]) != len(axes[1]):
        skipped.add("'ignore_regions_x' and _y are no lists of equal length", name)
        return {"ignore_regions_x": [], "ignore_regions_y": []}
    polygons = []
    for xs, ys in zip(*axes, strict=True):
        try:
            polygons.append([numbers({"x": xs}, "x"), numbers({"y": ys}, "y", len(xs))])
        except (FieldError, TypeError):
            polygons.append([[], []])
    good = [polygon for polygon in polygons if 0 < len(polygon[0]) <= MOST_CORNERS]
    for _ in range(len(polygons) - len(good)):
        skipped.add(REGION, name)
    return {f"ignore_regions_{axis}": [polygon[k] for polygon in good] for k, axis in enumerate("xy")}


def person(record: Any) -> dict[str, Any]:
    """The record of a person in the form of 2018, with fields of the types that they should have.

    Empty lists stand for nothing, as in files of people whose heads are unknown.

    Raises:
      FieldError: a field cannot be used.
    """
    if not isinstance(record, Mapping):
        raise FieldError("annotations", f"holds {fields.shown(record)}", "objects")
    found = {field: value for field, value in record.items() if value is not None and value != []}
    found["image_id"] = fields.whole(record, "image_id")
    found["track_id"] = fields.whole(record, "track_id", missing=-1)
    if "category_id" in found:
        found["category_id"] = fields.whole(record, "category_id")
    if "iscrowd" in found:
        found["iscrowd"] = int(fields.flag(record, "iscrowd"))
    for field in {"bbox", "bbox_head"} & found.keys():
        found[field] = numbers(found, field, 4)
    if "score" in found:
        found["score"] = fields.number(found, "score")
    if "head_size" in found:
        found["head_size"] = fields.number(found, "head_size", least=0)
    if "scores" in found:
        found["scores"] = numbers(found, "scores")
    if "keypoints" in found:
        found["keypoints"] = _keypoints(found)
    return found


def _keypoints(record: Mapping[str, Any]) -> list[float]:
    listed = record["keypoints"]
    try:
        return numbers(record, "keypoints")
    except FieldError:
        if not isinstance(listed, list) or len(listed) % 3:
            raise
        return numbers({"keypoints": coco.with_zeros(listed)}, "keypoints")


def numbers(record: Mapping[str, Any], name: str, count: int | None = None) -> list[float]:
    """A field as a list of finite numbers: those of the file if they are numbers; see `fields.numbers`."""
    checked = fields.numbers(record, name, count)
    return list(record[name]) if {int, float}.issuperset(map(type, record[name])) else checked.tolist()


def joints(category: Any) -> tuple[str, ...] | None:
    """The names of the joints of a category; None for one without joints.

    Raises:
      FieldError: they are no names, or two are the same.
    """
    if not isinstance(category, Mapping):
        raise FieldError("categories", f"holds {fields.shown(category)}", "objects")
    listed = category.get("keypoints")
    if not listed:
        return None
    if not isinstance(listed, list | tuple):
        raise FieldError("keypoints", f"is {fields.shown(listed)}", "a list of names")
    found = tuple(fields.text({"name of a joint": joint}, "name of a joint") for joint in listed)
    if len(set(found)) < len(found):
        raise FieldError("keypoints", "names a joint twice", "different joints")
    return found


# --- the form of 2017 ---


def unwrapped(record: Any, what: str) -> dict[str, Any]:
    """A record of 2017 in which lists of one are what they hold; without fields that are empty.

    Args:
      record: record as the file has it.
      what: field that holds such records, for messages.

    Raises:
      FieldError: it is no object.
    """
    if not isinstance(record, Mapping):
        raise FieldError(what, f"holds {fields.shown(record)}", "objects")
    singles = {name: value[0] if _is_single(value) else value for name, value in record.items()}
    return {name: value for name, value in singles.items() if value is not None and value != [] and value != ""}


def _is_single(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


def listed(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    """A field as a list, empty if it is missing or null.

    Raises:
      FieldError: it is something else.
    """
    value = record.get(name) or []
    if not isinstance(value, list):
        raise FieldError(name, f"is {fields.shown(value)}", "a list")
    return value
