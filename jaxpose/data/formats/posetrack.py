"""The two forms in which PoseTrack's labels and predictions are written, and the way from each to the other.

2018: COCO's keypoint format with more fields; any COCO-format video set is read as this form.
  images       id, file_name, vid_id (or video_id), frame_id, nframes, ignore_regions_x, ignore_regions_y
  annotations  id, image_id, track_id, bbox, bbox_head (x, y, w, h each), keypoints (x, y, v of 17 joints), scores
  categories   one, which names the joints
2017: one video a file, {"annolist": [...]}, an entry a frame, every number in a list of its own.
  image        [{"name"}]; ignore_regions [{"point": [{"x": [.], "y": [.]}, ...]}]
  annorect     a person each: track_id, head box x1, y1, x2, y2, annopoints [{"point": [{"id", "x", "y", ...}]}]
"""

import collections
import itertools
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxpose.data.annotations import HEAD_SIZE_OF_BOX, Skipped
from jaxpose.data.formats import coco
from jaxpose.data.formats import posetrack_fields as checks
from jaxpose.errors import DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json

EVALUATED = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "head_bottom", "nose", "head_top",
)  # fmt: skip
"""The 15 joints that are evaluated, in the order of their numbers in the form of 2017."""
KEYPOINTS = (
    "nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
"""The 17 joints of the form of 2018; ears are never annotated."""

_LONGEST_NAME = 60
BOX_MARGIN = 0.15
"""A person without a box gets that of the annotated joints, so much longer at each end."""

Content = dict[str, Any]
VideoKey = tuple[str, str]
"""Number of a video as its images give it, "" if they don't, and folder of its frames."""


def read(path: str | pathlib.Path) -> Content:
    """The labels of a file of either form, or of all .json files of a folder in order of their names, as of 2018.

    Ids of images and people of the form of 2017, which has none, count from 1.

    Raises:
      DataError: no readable file of PoseTrack's or COCO's format, or two files that give an id twice.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return unified(read_json(path), str(path))
    files = sorted(path.glob("*.json"))
    if not files:
        raise DataError(f"{path}: the folder has no .json file; expected one for each video")
    whole: Content = {"images": [], "annotations": []}
    for file in files:
        content = unified(read_json(file), str(file), len(whole["images"]) + 1, len(whole["annotations"]) + 1)
        lists = {field: whole[field] + content[field] for field in ("images", "annotations")}
        whole = content | whole | lists  # categories and all else are those of the first file
        if joints_of(content, str(file)) != joints_of(whole, str(path)):
            raise DataError(f"{file}: field 'categories' names other joints than {files[0].name}; keep such sets apart")
    for field in ("images", "annotations"):
        _forbid_repeats(path, field, whole[field])
    return whole


def unified(content: Any, name: str, first_image: int = 1, first_person: int = 1) -> Content:
    """Content of either form as that of 2018, every field of which is what it should be (`posetrack_fields`).

    People of whom a field cannot be used, or whose category has other joints or none, are left out and counted in the
    log; so are regions of an image that are no polygons.

    Args:
      content: content of a file.
      name: name of the file, for messages.
      first_image, first_person: first ids, which the form of 2017 has not.

    Raises:
      DataError: it is neither, or an image or category cannot be used; the message names it.
    """
    if isinstance(content, Mapping) and isinstance(content.get("annolist"), list):
        return from_annolist(content, name, first_image, first_person)
    for field in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not isinstance(content.get(field), list):
            raise DataError(f"{name}: field {field!r}: expected a list, or 'annolist'; is this a PoseTrack file?")
    skipped, category_ids = Skipped(name), _categories(content, name)
    images = [_image(record, k, name, skipped) for k, record in enumerate(content["images"])]
    people = [_person(record, k, category_ids, skipped) for k, record in enumerate(content["annotations"])]
    skipped.log()
    _forbid_repeats(name, "images", images)
    return {**content, "images": images, "annotations": [person for person in people if person is not None]}


def _image(record: Any, position: int, name: str, skipped: Skipped) -> dict[str, Any]:
    try:
        return checks.image(record, coco.named(record, position, "image"), skipped)
    except FieldError as error:
        where = f"{name}: image {position} of 'images' (counted from 0)"
        raise DataError(f"{where}: {error}; mend the file") from error


def _person(record: Any, position: int, categories: Mapping[int, str], skipped: Skipped) -> dict[str, Any] | None:
    name = coco.named(record, position)
    try:
        found = checks.person(record)
    except FieldError as error:
        skipped.add_field(error, name)
        return None
    if (other := categories.get(found.get("category_id", -1))) is not None:
        skipped.add(f"category {other}, which has other joints or none", name)
        return None
    return found


def _categories(content: Mapping[str, Any], name: str) -> dict[int, str]:
    """{id: name} of the categories whose people are not read."""
    wanted = joints_of(content, name)
    try:
        found = [(fields.whole(entry, "id", missing=-1), entry) for entry in content["categories"]]
        others = [(number, entry) for number, entry in found if checks.joints(entry) != wanted]
    except FieldError as error:
        raise DataError(f"{name}: field 'categories': {error}; mend the file") from error
    known = {number for number, entry in found if checks.joints(entry) == wanted}
    return {number: fields.shown(entry.get("name")) for number, entry in others if number not in known}


def from_annolist(content: Mapping[str, Any], name: str, first_image: int = 1, first_person: int = 1) -> Content:
    """A file of 2017 in the form of 2018.

    The field "form" then is 2017. A visible joint gets v = 2, a hidden one 1. Boxes are those of `with_box`. People of
    whom something cannot be used are left out and counted in the log.

    Args:
      content: content of the file, {"annolist": ...}.
      name: name of the file, for messages.
      first_image, first_person: first ids of images and people.

    Raises:
      DataError: the image of an entry cannot be used; the message names both.
    """
    images, people, skipped = [], [], Skipped(name)
    entries = checks.listed(content, "annolist")
    for number, entry in enumerate(entries):
        where = f"entry {number} of 'annolist' (counted from 0)"
        try:
            images.append(_image_2018(entry, first_image + number, len(entries), where, skipped))
            annotated = checks.listed(entry, "annorect")
        except FieldError as error:
            raise DataError(f"{name}: {where}: {error}; fetch the file again") from error
        for position, person in enumerate(annotated):
            try:
                people.append(_person_2018(person, first_image + number))
            except FieldError as error:
                skipped.add_field(error, f"person {position} of entry {number}")
    skipped.log()
    people = [person | {"id": first_person + i} for i, person in enumerate(people)]
    return {"images": images, "annotations": people, "categories": [category()], "form": 2017}


def category() -> dict[str, Any]:
    """The entry of "categories" for PoseTrack's 17 joints."""
    return {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(KEYPOINTS)}


def _image_2018(entry: Any, image_id: int, frames: int, where: str, skipped: Skipped) -> dict[str, Any]:
    """The image of an entry; no field but its name comes from the file, and all is checked as in the form of 2018."""
    values = checks.unwrapped(entry, "annolist")
    name = checks.unwrapped(values.get("image"), "image").get("name")
    found = {"id": image_id, "file_name": name, "nframes": frames}
    found["is_labeled"] = values.get("is_labeled", bool(entry.get("annorect")))
    if regions := checks.listed(entry, "ignore_regions"):
        corners = [[checks.unwrapped(point, "point") for point in _points(region)] for region in regions]
        for axis in "xy":
            found[f"ignore_regions_{axis}"] = [[point.get(axis) for point in polygon] for polygon in corners]
    return checks.image(found, where, skipped)


def _person_2018(person: Any, image_id: int) -> dict[str, Any]:
    values = checks.unwrapped(person, "annorect")
    points = {}
    for listed in _points(values.get("annopoints") or {}):
        point = checks.unwrapped(listed, "point")
        joint = EVALUATED[fields.whole(point, "id", least=0, most=len(EVALUATED) - 1)]
        if points.setdefault(joint, point) is not point:
            raise FieldError("annopoints", f"has two joints {joint!r}")
    visible = {joint: 2 if fields.flag(point, "is_visible", missing=True) else 1 for joint, point in points.items()}
    scores = {joint: fields.number(point, "score") for joint, point in points.items() if "score" in point}
    found = {name: values[name] for name in ("track_id", "score") if name in values} | {
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": [v for joint in KEYPOINTS for v in _triple(points.get(joint), visible.get(joint, 0))],
        "num_keypoints": len(points),
    }
    if "x1" in values:
        x1, y1, x2, y2 = (fields.number(values, corner) for corner in ("x1", "y1", "x2", "y2"))
        found["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]
    if scores:
        found["scores"] = [scores.get(joint, 0) for joint in KEYPOINTS]
    return with_box(checks.person(found))


def _points(record: Any) -> Sequence[Any]:
    """The points of a region or a person; files made by MATLAB have an empty list where there are none."""
    if not isinstance(record, Mapping):
        raise FieldError("point", f"is missing in {fields.shown(record)}")
    return checks.listed(record, "point")


def _triple(point: Mapping[str, Any] | None, visible: int) -> tuple[Any, Any, int]:
    """(x, y, v) as the file has them; zeros for a joint that is not annotated."""
    if point is None:
        return 0, 0, 0
    for axis in "xy":
        fields.number(point, axis)
    x, y = checks.numbers({"point": [point["x"], point["y"]]}, "point", 2)
    return x, y, visible


def with_box(person: dict[str, Any]) -> dict[str, Any]:
    """A person without a box with one around its annotated joints, with `BOX_MARGIN`, if there are any.

    Joints that span no area, such as a single one, are joined by the head's box.
    """
    values = person.get("keypoints", ())
    points = [tuple(values[k : k + 2]) for k in range(0, len(values) - 2, 3) if any(values[k : k + 3])]
    if person.get("bbox") or not points:
        return person
    if head := person.get("bbox_head"):
        x, y, width, height = head
        spans_area = all(len({point[axis] for point in points}) > 1 for axis in (0, 1))
        points += [] if spans_area else [(x, y), (x + width, y + height)]
    low, high = ([float(end(point[axis] for point in points)) for axis in (0, 1)] for end in (min, max))
    extent = [b - a for a, b in zip(low, high, strict=True)]
    corner = [a - BOX_MARGIN * e for a, e in zip(low, extent, strict=True)]
    return person | {"bbox": corner + [(1 + 2 * BOX_MARGIN) * e for e in extent]}


def to_annolists(
    content: Mapping[str, Any], name: str = "content", predictions: bool = False
) -> dict[VideoKey, Content]:
    """Content of 2018 as that of 2017, a file a video: what poseval evaluates.

    Joints without a place in `EVALUATED` (the ears) are left out, and so is an unannotated one, of which position and
    visibility are all 0; a joint that is not visible but has a position is annotated. People stay even without joints.

    Args:
      content: content in the form of 2018.
      name: name of the content, for messages.
      predictions: True if a frame without people gets `empty_person`, for evaluations that ask for somebody.

    Returns:
      {video: {"annolist": ...}}, videos and frames in the order of "images".

    Raises:
      DataError: `EVALUATED` joints are missing, or keypoints do not fit the category.
    """
    joints = joints_of(content, name)
    if missing := [joint for joint in EVALUATED if joint not in joints]:
        raise DataError(f"{name}: field 'categories': lacks the joints {missing}, which PoseTrack evaluates")
    people = people_of_images(content)
    videos: dict[VideoKey, Content] = {}
    for image in content["images"]:
        found = [_person_2017(person, joints, name) for person in people.get(image["id"], ())]
        entry: dict[str, Any] = {"image": [{"name": image["file_name"]}], "imgnum": [(frame_number(image) or 0) + 1]}
        if image.get("ignore_regions_x"):
            entry["ignore_regions"] = [_region_2017(*polygon) for polygon in polygons(image)]
        entry["annorect"] = found or ([empty_person()] if predictions else [])
        entry["is_labeled"] = [int(bool(found))]
        videos.setdefault(video_of(image), {"annolist": []})["annolist"].append(entry)
    return videos


def file_names(videos: Iterable[VideoKey]) -> list[str]:
    """Names of files for videos, without folders and endings, each of them once.

    That is the name of the folder of a video's frames, else its number; the whole path of the folder where several
    videos have the same, and the number, too, where that is the same. Letters, digits, dots, dashes and spaces stay.
    """
    keys = list(videos)
    names = [_plain(pathlib.PurePosixPath(folder).name or number) for number, folder in keys]
    for longer in ("{folder}", "{folder}_{number}"):
        counts = collections.Counter(map(str.lower, names))
        for k, (number, folder) in enumerate(keys):
            if counts[names[k].lower()] > 1:
                names[k] = _plain(longer.format(folder=folder, number=number))
    taken: set[str] = set()
    for k, name in enumerate(names):
        tries = (f"{name}_{i}" for i in itertools.count(2))
        names[k] = name if name.lower() not in taken else next(each for each in tries if each.lower() not in taken)
        taken.add(names[k].lower())
    return names


def _plain(text: str) -> str:
    """Text as the name of a file: nothing in it leads to another folder or hides the file."""
    return re.sub(r"[^\w.\- ]", "_", text)[-_LONGEST_NAME:].strip(". ") or "video"


def empty_person() -> dict[str, Any]:
    """An entry for a frame without people: joint 0 in the corner, below every other score."""
    point = {"id": [0], "x": [0], "y": [0], "score": [-100.0]}
    return {"annopoints": [{"point": [point]}], "score": [0], "track_id": [0]}


def _person_2017(person: Mapping[str, Any], joints: tuple[str, ...], name: str) -> dict[str, Any]:
    values, scores = person.get("keypoints", ()), person.get("scores")
    if len(values) != 3 * len(joints) or (scores and len(scores) != len(joints)):
        raise DataError(
            f"{name}: annotation {person.get('id')}: {len(values)} numbers in 'keypoints' and {len(scores or ())} in "
            f"'scores', expected {3 * len(joints)} and {len(joints)} (or no scores) for the joints of its category"
        )
    points = []
    for k, joint in enumerate(joints):
        x, y, visible = values[3 * k : 3 * k + 3]
        if joint in EVALUATED and any((x, y, visible)):
            point = {"id": [EVALUATED.index(joint)], "x": [x], "y": [y], "is_visible": [visible]}
            points.append(point | ({"score": [scores[k]]} if scores else {}))
    found: dict[str, Any] = {"track_id": [person.get("track_id", -1)], "annopoints": [{"point": points}]}
    if head := person.get("bbox_head"):
        x, y, width, height = head
        found |= {"x1": [x], "x2": [x + width], "y1": [y], "y2": [y + height]}
    return found | ({"score": [person["score"]]} if person.get("score") else {})


def _region_2017(xs: list, ys: list) -> dict[str, Any]:
    return {"point": [{"x": [x], "y": [y]} for x, y in zip(xs, ys, strict=True)]}


# --- content of 2018 ---


def people_of_images(content: Mapping[str, Any]) -> dict[int, list[Mapping[str, Any]]]:
    """{image id: its annotations, in their order}."""
    people: dict[int, list[Mapping[str, Any]]] = {}
    for person in content["annotations"]:
        people.setdefault(person.get("image_id"), []).append(person)
    return people


def polygons(image: Mapping[str, Any]) -> Iterator[tuple[list, list]]:
    """The corners of the regions of an image in which nothing is labelled: their x and their y."""
    yield from zip(image.get("ignore_regions_x") or (), image.get("ignore_regions_y") or (), strict=True)


def video_of(image: Mapping[str, Any]) -> VideoKey:
    """The video of an image: its number and its folder, since PoseTrack's numbers are not unique."""
    number = next((image[field] for field in ("vid_id", "video_id") if image.get(field) is not None), "")
    return str(number), pathlib.PurePosixPath(image["file_name"]).parent.as_posix()


def frame_number(image: Mapping[str, Any]) -> int | None:
    """The number of a frame in its video: of the file's name, else of the field frame_id, else None."""
    stem = pathlib.PurePosixPath(image["file_name"]).stem
    digits = re.findall(r"\d+", stem)
    if digits and (stem.isdecimal() or image.get("frame_id") is None):
        return int(digits[-1])
    return None if image.get("frame_id") is None else int(image["frame_id"])


def positions(images: Sequence[Mapping[str, Any]], name: Any) -> list[int]:
    """The numbers of the images of one video as frames; their places in the list if none has a number.

    Raises:
      DataError: some have a number and some have none, or two have the same.
    """
    numbers = [frame_number(image) for image in images]
    known = [number for number in numbers if number is not None]
    if not known:
        return list(range(len(images)))
    video = " of ".join(part for part in video_of(images[0]) if part)
    if len(known) < len(numbers):
        strays = [image["file_name"] for image, number in zip(images, numbers, strict=True) if number is None]
        raise DataError(
            f"{name}: {len(strays)} of {len(images)} images of video {video} have no number as a frame, neither in "
            f"their names nor as 'frame_id', {strays[0]} first; number them, or take them out"
        )
    if repeated := [number for number, count in collections.Counter(known).items() if count > 1]:
        same = [image["file_name"] for image, number in zip(images, known, strict=True) if number == repeated[0]]
        raise DataError(
            f"{name}: {same[0]} and {same[1]} are both frame {repeated[0]} of video {video}; keep one of them"
        )
    return known


def in_time(images: Sequence[dict], name: Any) -> list[dict]:
    """The images of one video by their numbers as frames; raises as `positions`."""
    return [image for _, image in sorted(zip(positions(images, name), images, strict=True), key=lambda pair: pair[0])]


def head_size(person: Mapping[str, Any]) -> float:
    """The length in pixels that distances are divided by, from the field head_size or the head's box; 0 if unknown."""
    if person.get("head_size"):
        return float(person["head_size"])
    box = person.get("bbox_head") or (0, 0, 0, 0)
    return HEAD_SIZE_OF_BOX * math.hypot(box[2], box[3])


def joints_of(content: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The joints that the category of people lists, the first with joints.

    Raises:
      DataError: no category does, or the joints are no names.
    """
    try:
        found = next((joints for entry in content["categories"] if (joints := checks.joints(entry))), None)
    except FieldError as error:
        raise DataError(f"{name}: field 'categories': {error}; mend the file") from error
    if found is not None:
        return found
    raise DataError(f"{name}: field 'categories': none lists 'keypoints'; use a file of people's keypoints")


def _forbid_repeats(name: Any, field: str, records: Sequence[Mapping[str, Any]]) -> None:
    ids = collections.Counter(record["id"] for record in records if record.get("id") is not None)
    if repeated := [i for i, count in ids.items() if count > 1]:
        raise DataError(
            f"{name}: {len(repeated)} ids of {field!r} occur more than once, {repeated[0]} first; the files of a "
            "folder are one data set, so number them through or keep them apart"
        )
