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

import math
import pathlib
from typing import Any

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data import images
from jaxpose.data.annotations import Annotations, Skipped
from jaxpose.data.formats.regions import Regions, is_drawable
from jaxpose.data.sources import Source, require_folder
from jaxpose.errors import ConfigError, DataError
from jaxpose.files.json_files import read_json
from jaxpose.skeleton import Skeleton

CROWDPOSE_AREA_OF_BOX = 0.53
"""Files without an "area" get this share of the box, the rule of CrowdPose's evaluation."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split whose file and folder `config.data.<split>` names, relative to `config.data.dir`."""
    del progress
    what = "the folder that holds the images and annotations (see jaxpose/data/sources/coco.py for the layout)"
    root = require_folder(data.dir, "data.dir", what)
    if split not in data:
        raise ConfigError(f"config.data.{split} is missing: a COCO source needs its 'annotations' and 'images'")
    folder = require_folder(str(root / data[split].images), f"data.{split}.images", "the folder of the split's images")
    annotations = read_keypoints(root / data[split].annotations)

    def read(i: int) -> bytes:
        return images.read(folder / str(annotations.file_name[i]))

    return Source(name=str(root / data[split].annotations), annotations=annotations, read=read)


def read_keypoints(path: str | pathlib.Path) -> Annotations:
    """The labels of a COCO-format keypoint file; see `parse_keypoints`.

    Raises:
      DataError: no readable JSON, or as `parse_keypoints`.
    """
    return parse_keypoints(read_json(path), str(path))


def parse_keypoints(content: Any, path: str) -> Annotations:
    """The labels of the content of a COCO-format keypoint file, whatever its number of joints.

    Kept are all images, and all people of the keypoint category. A record that cannot be used (a box or keypoint that
    is not finite, a box without area, an image that the file does not list) is counted, named in the log and skipped;
    its region, like that of crowds and of people without labelled joints, is among the `unlabelled` ones.

    Args:
      content: content of the file.
      path: name of the file in messages.

    Raises:
      DataError: not a keypoint file, or keypoint lists whose length does not fit the category's joints.
    """
    for field in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(field), list):
            raise DataError(f"{path}: field {field!r}: expected a list; is this a COCO keypoint annotation file?")
    category, skeleton = _keypoint_category(path, content["categories"])
    rows = {image["id"]: row for row, image in enumerate(content["images"])}
    skipped = Skipped(str(path))
    listed = [a for a in content["annotations"] if a.get("category_id") == category]
    usable = [_usable(path, a, rows, skeleton, skipped) for a in listed]
    people = [a for a, use in zip(listed, usable, strict=True) if use]
    without_labels = [a for a, use in zip(listed, usable, strict=True) if not use or not _is_labelled(a)]
    regions = _regions(without_labels, content["images"], rows, skipped)
    skipped.log()
    return _columns(content["images"], people, rows, skeleton, regions)


def _is_labelled(person: dict) -> bool:
    return not person.get("iscrowd") and _num_keypoints(person) > 0


def _num_keypoints(person: dict) -> int:
    """Number of labelled joints, as the file counts them if it does."""
    return person.get("num_keypoints", sum(v > 0 for v in person["keypoints"][2::3]))


def _regions(people: list[dict], images_: list[dict], rows: dict, skipped: Skipped) -> Regions:
    """The segmentations of people, where the file has them (CrowdPose has none)."""
    found = [a for a in people if a.get("segmentation") and a.get("image_id") in rows]
    packed_rows, packed = [], []
    for person in found:
        row, region = rows[person["image_id"]], person["segmentation"]
        if is_drawable(region, images_[row]["width"], images_[row]["height"]):
            packed_rows.append(row)
            packed.append(region)
        else:
            reason = "field 'segmentation' is neither polygons nor the run lengths of a mask of the image's size"
            skipped.add(reason, f"annotation {person.get('id')}")
    return Regions.pack(packed_rows, packed)


def _keypoint_category(path: Any, categories: list[dict]) -> tuple[int, Skeleton]:
    found = [c for c in categories if c.get("keypoints")]
    if not found:
        names = [c.get("name") for c in categories]
        raise DataError(f"{path}: field 'categories': none of {names} lists 'keypoints'; use a person_keypoints_*.json")
    return found[0]["id"], skeletons.from_coco_category(found[0])


def _usable(path: Any, person: dict, rows: dict, skeleton: Skeleton, skipped: Skipped) -> bool:
    name = f"annotation {person.get('id')}"
    expected = 3 * skeleton.num_joints
    keypoints = person.get("keypoints", ())
    if len(keypoints) != expected:
        raise DataError(
            f"{path}: {name}: field 'keypoints' has {len(keypoints)} numbers, expected {expected} "
            f"(x, y, v for each of the {skeleton.num_joints} joints that its category lists); fix the file"
        )
    box = person.get("bbox", ())
    if person.get("image_id") not in rows:
        skipped.add("field 'image_id' names an image that the file does not list", name)
    elif not all(math.isfinite(v) for v in keypoints):
        skipped.add("field 'keypoints' has a number that is not finite", name)
    elif len(box) != 4 or not all(math.isfinite(v) for v in box):
        skipped.add("field 'bbox' is not four finite numbers", name)
    elif not person.get("iscrowd") and min(box[2:]) <= 0:
        skipped.add("field 'bbox' has no area", name)
    else:
        return True
    return False


def _columns(
    images_: list[dict], people: list[dict], rows: dict, skeleton: Skeleton, unlabelled: Regions
) -> Annotations:
    def column(records: list[dict], get: Any, dtype: Any, *shape: int) -> np.ndarray:
        return np.array([get(r) for r in records], dtype).reshape(len(records), *shape)

    keypoints = column(people, lambda a: a["keypoints"], np.float32, skeleton.num_joints, 3)
    box_area = lambda a: CROWDPOSE_AREA_OF_BOX * a["bbox"][2] * a["bbox"][3]  # noqa: E731
    return Annotations(
        skeleton=skeleton,
        image_id=column(images_, lambda i: i["id"], np.int64),
        file_name=column(images_, lambda i: i["file_name"], np.str_),
        width=column(images_, lambda i: i["width"], np.int32),
        height=column(images_, lambda i: i["height"], np.int32),
        person_image=column(people, lambda a: rows[a["image_id"]], np.int32),
        person_id=column(people, lambda a: a["id"], np.int64),
        box=column(people, lambda a: a["bbox"], np.float32, 4),
        keypoints=keypoints[..., :2],
        visibility=keypoints[..., 2].astype(np.uint8),
        area=column(people, lambda a: a["area"] if "area" in a else box_area(a), np.float32),
        crowd=column(people, lambda a: a.get("iscrowd", 0), np.bool_),
        track_id=column(people, lambda a: a.get("track_id", -1), np.int64),
        num_keypoints=column(people, _num_keypoints, np.int32),
        crowd_index=column(images_, lambda i: i.get("crowdIndex", np.nan), np.float64),
        unlabelled=unlabelled,
    )


def read_detections(path: str | pathlib.Path, image_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Person boxes of a detector, from a COCO detection result file.

    Args:
      path: path of a JSON list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}; category 1 is kept.
      image_ids: [I] ids of the images of the data set; boxes of other images are counted, logged and skipped.

    Returns:
      {"image": [D] rows of `image_ids`, "box": [D, 4] float32, "score": [D] float32}, in file order.

    Raises:
      DataError: not a detection file.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(d, dict) and "bbox" in d and "score" in d for d in content):
        raise DataError(f"{path}: expected a list of records with 'image_id', 'category_id', 'bbox' and 'score'")
    rows = {int(image_id): row for row, image_id in enumerate(image_ids)}
    skipped = Skipped(str(path))
    kept = [d for k, d in enumerate(content) if d.get("category_id", 1) == 1 and _usable_box(d, k, rows, skipped)]
    skipped.log()
    return {
        "image": np.array([rows[d["image_id"]] for d in kept], np.int32),
        "box": np.array([d["bbox"] for d in kept], np.float32).reshape(-1, 4),
        "score": np.array([d["score"] for d in kept], np.float32),
    }


def _usable_box(detection: dict, position: int, rows: dict, skipped: Skipped) -> bool:
    name = f"record {position}"
    numbers = [*detection["bbox"], detection["score"]]
    if detection.get("image_id") not in rows:
        skipped.add("field 'image_id' names an image outside the data set", name)
    elif len(numbers) != 5 or not all(math.isfinite(v) for v in numbers):
        skipped.add("fields 'bbox' and 'score' are not five finite numbers", name)
    elif min(detection["bbox"][2:]) <= 0:
        skipped.add("field 'bbox' has no area", name)
    else:
        return True
    return False
