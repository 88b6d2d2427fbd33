"""COCO-format keypoints: a folder of images and a JSON file (COCO, CrowdPose, or any other set in that format).

Expected under `data.dir` for COCO 2017 (images from train2017.zip and val2017.zip, labels from
annotations_trainval2017.zip, all at https://cocodataset.org):

  annotations/person_keypoints_train2017.json   annotations/person_keypoints_val2017.json
  train2017/000000000009.jpg ...                val2017/000000000139.jpg ...

and for CrowdPose (https://github.com/Jeff-sjtu/CrowdPose; annotation files from before March 2021 have width and height
of some images exchanged, so fetch new ones):

  json/crowdpose_train.json   json/crowdpose_val.json   json/crowdpose_trainval.json   json/crowdpose_test.json
  images/100000.jpg ...
"""

import collections
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data import images, suspicions
from jaxpose.data.annotations import Annotations, Skipped
from jaxpose.data.formats import coco as records
from jaxpose.data.formats.regions import Regions
from jaxpose.data.sources import Source, require_folder, require_inside
from jaxpose.errors import ConfigError, DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json
from jaxpose.skeleton import Skeleton

logger = logging.getLogger(__name__)

PERSON = 1
"""Category of people in COCO."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split whose file and folder `config.data.<split>` names, relative to `config.data.dir`."""
    del progress
    what = "the folder that holds the images and annotations (see jaxpose/data/sources/coco.py for the layout)"
    root = require_folder(data.dir, "data.dir", what)
    if split not in data:
        raise ConfigError(f"config.data.{split} is missing: a COCO source needs its 'annotations' and 'images'")
    folder = require_folder(str(root / data[split].images), f"data.{split}.images", "the folder of the split's images")
    path = root / data[split].annotations
    annotations = read_keypoints(path, skeletons.get(data.skeleton))
    require_inside(annotations.file_name.tolist(), path, data)

    def read(i: int) -> bytes:
        return images.read(folder / str(annotations.file_name[i]))

    return Source(name=str(path), annotations=annotations, read=read)


def read_keypoints(path: str | pathlib.Path, skeleton: Skeleton | None = None) -> Annotations:
    """The labels of a COCO-format keypoint file; see `parse_keypoints`.

    Raises:
      DataError: no readable JSON, or as `parse_keypoints`.
    """
    return parse_keypoints(read_json(path), str(path), skeleton)


def parse_keypoints(content: Any, path: str, skeleton: Skeleton | None = None) -> Annotations:
    """The labels of the content of a COCO-format keypoint file, whatever its number of joints.

    Kept are all images, and all people of the categories with the joints of one (`formats.coco.categories`). A record
    that cannot be used (a field that is missing or no number, a box without area or far outside the image, an image
    that the file does not list) is counted, named in the log and skipped; its region, like that of crowds and of people
    without labelled joints, is among the `unlabelled` ones.

    Args:
      content: content of the file.
      path: name of the file in messages.
      skeleton: skeleton that is asked for, where a file has several categories with joints.

    Raises:
      DataError: not a keypoint file; an image or category that cannot be used; keypoint lists whose length does not fit
        the category's joints; or boxes and joints that are no (x, y, w, h) and (x, y) in pixels (`data.suspicions`).
    """
    return parse_people(content, path, skeleton)[0]


def parse_people(content: Any, path: str, skeleton: Skeleton | None = None) -> tuple[Annotations, np.ndarray]:
    """The labels as `parse_keypoints` gives them, and [P] the position of each person in the list of the content."""
    records.require_lists(content, path)
    categories = records.categories(content["categories"], path, skeleton)
    listed = records.images(content["images"], path)
    people = records.People(content["annotations"], listed, categories, path)
    annotations = _columns(listed, people, categories.skeleton, path)
    records.doubts(categories.skeleton, path)
    _check_forms(annotations, path)
    return annotations, np.array([person.row for person in people.found], np.int64)


def _columns(listed: list[records.Image], people: records.People, skeleton: Skeleton, path: str) -> Annotations:
    found = people.found
    joints = np.array([person.joints for person in found]).reshape(len(found), skeleton.num_joints, 3)
    return Annotations(
        skeleton=skeleton,
        image_id=np.array([image.id for image in listed], np.int64),
        file_name=np.array([image.file_name for image in listed], np.str_),
        width=np.array([image.width for image in listed], np.int32),
        height=np.array([image.height for image in listed], np.int32),
        person_image=np.array([person.image for person in found], np.int32),
        person_id=records.numbered([person.id for person in found], path),
        box=np.array([person.box for person in found], np.float32).reshape(-1, 4),
        keypoints=joints[..., :2].astype(np.float32),
        visibility=records.visibility(joints[..., 2], path),
        area=np.array([person.area for person in found], np.float32),
        crowd=np.array([person.crowd for person in found], np.bool_),
        track_id=np.array([person.track_id for person in found], np.int64),
        num_keypoints=np.array([person.num_keypoints for person in found], np.int32),
        crowd_index=np.array([image.crowd_index for image in listed], np.float64),
        unlabelled=Regions.pack(*zip(*people.regions)) if people.regions else Regions.pack([], []),
    )


def _check_forms(a: Annotations, path: str) -> None:
    one = ~a.crowd
    sizes = a.sizes[a.person_image[one]]
    labelled = a.visibility[one] > 0
    suspicions.check(path, a.box[one], sizes, keypoints=a.keypoints[one], labelled=labelled, names=a.skeleton.joints)


def read_detections(
    path: str | pathlib.Path, image_ids: np.ndarray, sizes: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Person boxes of a detector, from a COCO detection result file.

    Args:
      path: path of a JSON list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}; those of category 1 are
        kept, or of the only category that there is.
      image_ids: [I] ids of the images of the data set; boxes of other images are counted, logged and skipped.
      sizes: [I, 2] sizes (width, height) of the images in pixels, by which boxes of another form are found out.

    Returns:
      {"image": [D] rows of `image_ids`, "box": [D, 4] float32, "score": [D] float32}, in file order.

    Raises:
      DataError: not a detection file, one whose boxes of these images cannot be used, or boxes that are no (x, y, w, h)
        in pixels.
    """
    content = read_json(path)
    if not isinstance(content, list) or (content and not any(map(_is_detection, content))):
        raise DataError(f"{path}: expected a list of records with 'image_id', 'category_id', 'bbox' and 'score'")
    rows = {int(image_id): row for row, image_id in enumerate(image_ids)}
    skipped = Skipped(str(path))
    found = [_detection(record, f"record {k}", rows, skipped) for k, record in enumerate(content)]
    kept = _of_people([each for each in found if each is not None], path)
    skipped.log()
    if len(content) > len(skipped.reasons.get(_STRANGER.reason, ())) and not kept:
        raise DataError(f"{path}: none of its {len(content)} boxes can be used; the log says why")
    image = np.array([each.image for each in kept], np.int32)
    box = np.array([each.box for each in kept]).reshape(-1, 4)
    if sizes is not None:
        suspicions.check(path, box, np.asarray(sizes)[image])
    return {"image": image, "box": box.astype(np.float32), "score": np.array([each.score for each in kept], np.float32)}


_STRANGER = FieldError("image_id", "names an image outside the data set")


def _is_detection(record: Any) -> bool:
    return isinstance(record, Mapping) and {"bbox", "score"} <= record.keys()


class _Detection(NamedTuple):
    image: int
    category: int
    box: np.ndarray
    score: float


def _detection(record: Any, name: str, rows: Mapping[int, int], skipped: Skipped) -> _Detection | None:
    if not isinstance(record, Mapping):
        skipped.add("records that are no objects", f"{name} is {fields.shown(record)}")
        return None
    try:
        row = rows.get(fields.whole(record, "image_id"))
        box, score = fields.numbers(record, "bbox", 4), fields.number(record, "score")
        category = fields.whole(record, "category_id", missing=1)
        if row is None:
            raise _STRANGER
        if min(box[2:]) <= 0:
            raise FieldError("bbox", "has no area")
    except FieldError as error:
        skipped.add_field(error, name)
        return None
    return _Detection(row, category, box, score)


def _of_people(found: list[_Detection], path: Any) -> list[_Detection]:
    """Those of the category of people."""
    counts = collections.Counter(each.category for each in found)
    shown = ", ".join(f"{category}: {count}" for category, count in sorted(counts.items())[:10])
    if found and PERSON not in counts and len(counts) > 1:
        raise DataError(f"{path}: has boxes of the categories {shown}, but none of category {PERSON}, which is people")
    person = PERSON if PERSON in counts or not counts else next(iter(counts))
    if person != PERSON:
        logger.warning("%s: all boxes are of category %d, which is taken for people", path, person)
    elif len(counts) > 1:
        zero = "; is it counted from 0, so that 0 is people?" if 0 in counts else ""
        level = logging.WARNING if zero else logging.INFO
        logger.log(level, "%s: boxes of category %d are taken, of all (%s)%s", path, PERSON, shown, zero)
    return [each for each in found if each.category == person]
