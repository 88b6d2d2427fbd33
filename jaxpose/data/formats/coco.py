"""Records of COCO's keypoint format, each checked before it is used: images, categories and people.

A file without usable images or categories is refused (`DataError`); a person of whom something cannot be used is left
out, counted and named (`Skipped`).
"""

import collections
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data.annotations import Skipped
from jaxpose.data.formats.regions import MOST_PIXELS, Segmentation, is_drawable
from jaxpose.errors import DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.skeleton import Skeleton

logger = logging.getLogger(__name__)

MOST_SIDE = 65_535
"""Most pixels of a side of an image."""
AREA_OF_BOX = 0.53
"""People without an "area" get this share of the box, the rule of CrowdPose's evaluation."""
LISTS = ("images", "annotations", "categories")


def require_lists(content: Any, name: str) -> None:
    """Raises DataError unless content has COCO's three lists."""
    for field in LISTS:
        if not isinstance(content, Mapping) or not isinstance(content.get(field), list):
            raise DataError(f"{name}: field {field!r}: expected a list; is this a COCO keypoint annotation file?")


def named(record: Any, position: int, what: str = "annotation") -> str:
    """Name of a record in messages: by its id, or by its position where it has none."""
    number = record.get("id") if isinstance(record, Mapping) else None
    return f"record {position}" if number is None else f"{what} {fields.shown(number)}"


# --- images ---


@dataclasses.dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
      id: number of the image.
      file_name: name of its file.
      width: pixels.
      height: pixels.
      crowd_index: crowdedness as CrowdPose measures it; NaN where unknown.
    """

    id: int
    file_name: str
    width: int
    height: int
    crowd_index: float


def images(records: Sequence[Any], name: str) -> list[Image]:
    """The images of a file; `name` is that of the file.

    Raises:
      DataError: a field of an image cannot be used, or two have one id.
    """
    found = [_image(record, f"{name}: image {position} of 'images'") for position, record in enumerate(records)]
    first: dict[int, Image] = {}
    for image in found:
        if image.id in first:
            names = f"{first[image.id].file_name!r} and {image.file_name!r}"
            raise DataError(f"{name}: {names} of 'images' have the same id {image.id}; number the images through")
        first[image.id] = image
    files = collections.Counter(image.file_name for image in found)
    if repeated := [file for file, count in files.items() if count > 1]:
        text = "%s: %d files are listed as several images, %s first; the people of each are no people of the others"
        logger.warning(text, name, len(repeated), repeated[0])
    return found


def _image(record: Any, where: str) -> Image:
    if not isinstance(record, Mapping):
        raise DataError(f"{where} (counted from 0) is {fields.shown(record)}, expected an object")
    try:
        return Image(
            id=fields.whole(record, "id", least=0),
            file_name=fields.text(record, "file_name"),
            width=fields.whole(record, "width", least=1, most=MOST_SIDE),
            height=fields.whole(record, "height", least=1, most=MOST_SIDE),
            crowd_index=fields.number(record, "crowdIndex", missing=np.nan),
        )
    except FieldError as error:
        raise DataError(f"{where} (counted from 0): {error}; mend the file") from error


# --- categories ---


@dataclasses.dataclass(frozen=True)
class Categories:
    """The categories of a file.

    Attributes:
      skeleton: joints of the people that are read.
      taken: ids of all categories with those joints.
      others: {id: name} of categories with other joints.
      without_joints: {id: name} of categories without joints, such as cars.
    """

    skeleton: Skeleton
    taken: frozenset[int]
    others: Mapping[int, str]
    without_joints: Mapping[int, str]


def categories(records: Sequence[Any], name: str, wanted: Skeleton | None = None) -> Categories:
    """The categories of a file, of which those with the joints of one are taken.

    Args:
      records: list of categories.
      name: name of the file, for messages.
      wanted: skeleton whose joints are asked for: the first category that has them all decides; or simply the first
        with joints.

    Raises:
      DataError: no category lists joints, or one makes no sense.
    """
    listed: dict[int, Skeleton] = {}
    titles: dict[int, str] = {}
    for position, record in enumerate(records):
        number, known = _category(record, f"{name}: category {position} of 'categories' (counted from 0)")
        if number is not None:
            titles.setdefault(number, _title(record))
        if number is None or known is None:
            continue
        if listed.setdefault(number, known).joints != known.joints:
            raise DataError(f"{name}: two categories with different joints have the same id {number}")
    if not listed:
        names = [_title(record) for record in records]
        raise DataError(f"{name}: field 'categories': none of {names} lists 'keypoints'; use a person_keypoints_*.json")
    chosen = _fitting(list(listed.values()), wanted)
    taken = frozenset(number for number, known in listed.items() if known.joints == chosen.joints)
    others = {number: titles[number] for number in listed if number not in taken}
    return Categories(chosen, taken, others, {n: title for n, title in titles.items() if n not in listed})


def _category(record: Any, where: str) -> tuple[int | None, Skeleton | None]:
    """Id and joints of a category; None for an id that one without joints lacks."""
    if not isinstance(record, Mapping):
        raise DataError(f"{where} is {fields.shown(record)}, expected an object")
    try:
        if not record.get("keypoints"):
            return fields.whole(record, "id", missing=None), None
        return fields.whole(record, "id"), skeletons.from_coco_category(record)
    except (FieldError, DataError) as error:
        raise DataError(f"{where}: {error}") from error


def _title(record: Any) -> str:
    name = record.get("name")
    return name[:40] if isinstance(name, str) else fields.shown(name)


def _fitting(found: Sequence[Skeleton], wanted: Skeleton | None) -> Skeleton:
    if wanted is not None:
        equal = [each for each in found if each.joints == wanted.joints]
        holding = [each for each in found if (each.columns(wanted) >= 0).all()]
        found = equal or holding or found
    return found[0]


def doubts(skeleton: Skeleton, name: str) -> None:
    """Says in the log where joints of a file's skeleton are not exchanged by mirroring although they may have sides."""
    if skeleton in skeletons.SKELETONS.values() or skeleton.pairs is not None or skeleton.num_joints < 2:
        return
    if not skeleton.flip_pairs:
        what = f"exchanges no joints of skeleton {skeleton.name!r}: no two names are the left and right of one joint"
    elif skeleton.unpaired:
        what = f"leaves the joints {', '.join(skeleton.unpaired[:5])} of skeleton {skeleton.name!r} where they are: "
        what += "no names are their other sides"
    else:
        return
    remedy = 'List "flip_pairs" in the category, such as [[2, 3], [4, 5]], or [] if there are none'
    logger.warning("%s: mirroring %s. %s", name, what, remedy)


# --- people ---


@dataclasses.dataclass(frozen=True)
class Person:
    """A person, or a region of many.

    Attributes:
      row: position in the list of the file.
      image: row of the image.
      id: number of the person; None where the file gives none from 1.
      box: [4] box (x, y, w, h) in pixels.
      joints: [K, 3] joints: x and y in pixels, and a third number as the file has it.
      area: square pixels.
      crowd: whether it is a region of many people.
      track_id: number of the person in all frames of a video; -1 where unknown.
      num_keypoints: number of labelled joints, as the file counts them if it does.
    """

    row: int
    image: int
    id: int | None
    box: np.ndarray
    joints: np.ndarray
    area: float
    crowd: bool
    track_id: int
    num_keypoints: int

    @property
    def has_labels(self) -> bool:
        """Whether somebody marked the joints of this person."""
        return not self.crowd and self.num_keypoints > 0


class People:
    """The people of a file, and what is to be said about those that are left out.

    Attributes:
      found: people that can be used, in the order of the file.
      regions: [(row of the image, segmentation)] of people without labels and of records that cannot be used.
      skipped: records that are left out.
    """

    def __init__(self, listed: Sequence[Any], images: Sequence[Image], categories: Categories, name: str):
        self.found: list[Person] = []
        self.regions: list[tuple[int, Segmentation]] = []
        self.skipped = Skipped(name)
        self._images, self._categories, self._name = images, categories, name
        self._rows = {image.id: row for row, image in enumerate(images)}
        self._miscounted: list[str] = []
        without_joints: collections.Counter[str] = collections.Counter()
        for position, record in enumerate(listed):
            title = self._read(record, position)
            if title is not None:
                without_joints[title] += 1
        self._tell(without_joints)

    def _read(self, record: Any, position: int) -> str | None:
        """Reads a record; gives the name of its category if that has no joints."""
        name = named(record, position)
        if not isinstance(record, Mapping):
            self.skipped.add("annotations that are no objects", f"{name} is {fields.shown(record)}")
            return None
        try:
            category = fields.whole(record, "category_id")
            if category in self._categories.without_joints:
                return self._categories.without_joints[category]
            if category in self._categories.others:
                self.skipped.add(f'category "{self._categories.others[category]}", which has other joints', name)
                return None
            if category not in self._categories.taken:
                raise FieldError("category_id", "names a category that the file does not list")
            person = self._person(record, position, name)
            self.found.append(person)
            self._add_region(record, name, person.has_labels)
        except FieldError as error:
            self.skipped.add_field(error, name)
            self._add_region(record, name, has_labels=False)
        return None

    def _person(self, record: Mapping[str, Any], position: int, name: str) -> Person:
        row = self._rows.get(fields.whole(record, "image_id"))
        if row is None:
            raise FieldError("image_id", "names an image that the file does not list")
        joints = self._joints(record, name)
        box, crowd = fields.numbers(record, "bbox", 4), fields.flag(record, "iscrowd", missing=False)
        if not crowd and min(box[2:]) <= 0:
            raise FieldError("bbox", "has no area")
        area = fields.number(record, "area", missing=None, least=0)
        self._require_near(row, box, joints)
        return Person(
            row=position,
            image=row,
            id=number_of(record),
            box=box,
            joints=joints,
            area=max(0.0, AREA_OF_BOX * box[2] * box[3]) if area is None else area,
            crowd=crowd,
            track_id=fields.whole(record, "track_id", missing=-1),
            num_keypoints=self._count(record, int((joints[:, 2] > 0).sum()), name),
        )

    def _joints(self, record: Mapping[str, Any], name: str) -> np.ndarray:
        """[K, 3]; zeros for a person without the field, whose joints nobody marked (as COCO Annotator has it)."""
        skeleton = self._categories.skeleton
        listed, expected = record.get("keypoints"), 3 * skeleton.num_joints
        if listed is None or listed == []:
            return np.zeros((skeleton.num_joints, 3))
        if isinstance(listed, list) and len(listed) != expected:
            raise DataError(
                f"{self._name}: {name}: field 'keypoints' has {len(listed)} numbers, expected {expected} "
                f"(x, y, v for each of the {skeleton.num_joints} joints that its category lists); fix the file"
            )
        try:
            return fields.numbers(record, "keypoints").reshape(-1, 3)
        except FieldError:
            return fields.numbers({"keypoints": with_zeros(listed)}, "keypoints").reshape(-1, 3)

    def _require_near(self, row: int, box: np.ndarray, joints: np.ndarray) -> None:
        """Raises FieldError for boxes and labelled joints farther beyond the image than a side of it is long."""
        size = np.array([self._images[row].width, self._images[row].height])
        corners = np.array([box[:2], box[:2] + box[2:]])
        for field, points in (("bbox", corners), ("keypoints", joints[joints[:, 2] > 0, :2])):
            if ((points < -size) | (points > 2 * size)).any():
                raise FieldError(field, "lies far outside the image")

    def _count(self, record: Mapping[str, Any], labelled: int, name: str) -> int:
        """Number of labelled joints, as the file counts them if that can be."""
        try:
            count = fields.whole(record, "num_keypoints", missing=labelled, least=0)
        except FieldError:
            count = labelled + 1
        if count > labelled:
            self._miscounted.append(name)
        return min(count, labelled)

    def _add_region(self, record: Mapping[str, Any], name: str, has_labels: bool) -> None:
        """Keeps the segmentation of a person without labels, where the file has one (CrowdPose has none)."""
        region = record.get("segmentation")
        if has_labels or not region:
            return
        try:
            row = self._rows.get(fields.whole(record, "image_id"))
        except FieldError:
            return
        if row is None:
            return
        image = self._images[row]
        if is_drawable(region, image.width, image.height):
            self.regions.append((row, region))
        elif image.width * image.height > MOST_PIXELS:
            self.skipped.add(f"field 'segmentation' is in an image of more than {MOST_PIXELS:,} pixels", name)
        else:
            reason = "field 'segmentation' is neither polygons nor the run lengths of a mask of the image's size"
            self.skipped.add(reason, name)

    def _tell(self, without_joints: collections.Counter[str]) -> None:
        self.skipped.log()
        if without_joints:
            shown = ", ".join(f"{title} {count}" for title, count in without_joints.most_common(5))
            text = "%s: %d annotations of %d categories without joints are not read (%s)"
            logger.info(text, self._name, without_joints.total(), len(without_joints), shown)
        if self._miscounted:
            text = "%s: field 'num_keypoints' is no count of labelled joints for %d people (%s first): they are counted"
            logger.warning(text, self._name, len(self._miscounted), self._miscounted[0])


def with_zeros(joints: Any) -> Any:
    """A list of joints in which those are 0 that have no position (null or NaN) and are not said to be labelled."""
    if not isinstance(joints, list):
        return joints
    triples = [joints[k : k + 3] for k in range(0, len(joints), 3)]
    for k, (x, y, v) in enumerate(triples):
        if _is_missing(x) and _is_missing(y) and (_is_missing(v) or v == 0):
            triples[k] = [0, 0, 0]
    return [value for triple in triples for value in triple]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number_of(record: Mapping[str, Any]) -> int | None:
    """Number of a person; None where the file gives none from 1, which evaluations ask for."""
    try:
        return fields.whole(record, "id", missing=None, least=1)
    except FieldError:
        return None


def visibility(third: np.ndarray, name: str) -> np.ndarray:
    """[P, K] uint8 visibility from the third numbers of joints, of which those above 0 count as labelled.

    Files have confidences there, or -1 for joints that nobody marked: numbers are rounded up and limited to 0, 1, 2.
    """
    odd = ~np.isin(third, (0, 1, 2))
    if odd.any():
        text = (
            "%s: %d joints of %d people have third numbers that are not 0, 1 or 2, such as %g: "
            "above 0 counts as labelled"
        )
        logger.warning(text, name, odd.sum(), odd.any(-1).sum(), third[odd][0])
    return np.clip(np.ceil(third), 0, 2).astype(np.uint8)


def numbered(ids: Sequence[int | None], name: str) -> np.ndarray:
    """[P] int64 numbers of people: their ids, or all of them anew from 1 if some have none or the same."""
    known = [number for number in ids if number is not None]
    if len(set(known)) == len(ids):
        return np.array(known, np.int64)
    repeated = sum(count > 1 for count in collections.Counter(known).values())
    counts = {"people have no usable id": len(ids) - len(known), "ids occur repeatedly": repeated}
    faults = " and ".join(f"{count} {fault}" for fault, count in counts.items() if count)
    logger.warning("%s: %s; all %d people are numbered anew, from 1", name, faults, len(ids))
    return np.arange(1, len(ids) + 1, dtype=np.int64)
