"""MPII Human Pose (http://human-pose.mpi-inf.mpg.de): a folder of images, and labels as published or as JSON.

`data.<split>.annotations`, relative to `data.dir`, is one of

  mpii_human_pose_v1_u12_1.mat   the published file: the people of its training images that have labelled joints.
                                 `data.<split>.names`, a text file with an image name a line (the valid_images.txt of
                                 Newell's split, say), keeps the people of those images. `data.<split>.people`:
                                 "separated" keeps those that the file lists under single_person; "all" is the default.
  annot/train.json, valid.json   the common form: a list of {"image", "center", "scale", "joints", "joints_vis"}, all of
                                 which are taken (HRNet publishes Newell's split in this form).
                                 `data.<split>.head_boxes` may name the gt_valid.mat that lies beside valid.json.

`data.<split>.images` is the folder of the images. Both forms count pixels from 1; here they count from 0. The box is
the square that the original crops take: `data.padding` = 1 gives those of HRNet and DSNT.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from jaxpose.data import images
from jaxpose.data.annotations import HEAD_SIZE_OF_BOX, Annotations, Skipped, tight_boxes
from jaxpose.data.formats.coco import AREA_OF_BOX
from jaxpose.data.sources import Source, require_folder, require_inside
from jaxpose.data.sources.folder import picture_sizes
from jaxpose.errors import ConfigError, DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json
from jaxpose.files.matlab import read_variable
from jaxpose.skeleton import MPII

HEAD_SIZE_OF_LENGTH = 0.75
"""Head size / distance from neck to head top, which MPII took from the head's box, .8 of its diagonal apart."""

_SIDE = 250.0  # of the box, for a scale of 1; the scale is a person's height / 200 pixels
_DOWN = 15.0  # the box's centre below the annotated one, for a scale of 1


@dataclasses.dataclass(frozen=True)
class Person:
    """One annotated person; pixels count from 1.

    Attributes:
      name: name of the record, for messages.
      image: file name of the image.
      center: position (x, y) in pixels.
      scale: height of the person / 200 pixels.
      joints: [16, 3] joints: x and y in pixels, visibility as in `Annotations`.
      head_box: box (x1, y1, x2, y2) of the head in pixels, or None.
    """

    name: str
    image: str
    center: tuple[float, float]
    scale: float
    joints: np.ndarray
    head_box: tuple[float, float, float, float] | None = None


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split that `config.data.<split>` describes, relative to `config.data.dir`; see the top of this file.

    Raises:
      ConfigError: a field is missing or has no meaning.
      DataError: a file is not what it should be, images are missing, or nobody is left.
    """
    del progress
    what = "the folder that holds MPII's images and annotations (see jaxpose/data/sources/mpii.py)"
    root = require_folder(data.dir, "data.dir", what)
    if split not in data or not data[split].annotations:
        raise ConfigError(f"config.data.{split}.annotations is missing: it must name MPII's .mat file or a .json file")
    chosen = data[split]
    folder = require_folder(str(root / chosen.images), f"data.{split}.images", "the folder of the split's images")
    path = root / chosen.annotations
    skipped = Skipped(str(path))
    if path.suffix == ".mat":
        people = read_matlab(path, skipped, separated=_separated(chosen, split))
    else:
        boxes = chosen.get("head_boxes", "")
        people = read_list(path, skipped, read_head_boxes(root / boxes) if boxes else None)
    if chosen.get("names", ""):
        people = _of_images(people, root / chosen.names)
    people = [p for p in people if _usable(p, skipped)]
    skipped.log()
    if not people:
        raise DataError(f"{path}: none of the {skipped.total} people that it lists can be used; the log says why")
    require_inside(dict.fromkeys(person.image for person in people), path, data)
    annotations = _columns(people, folder)

    def read(i: int) -> bytes:
        return images.read(folder / str(annotations.file_name[i]))

    return Source(name=str(path), annotations=annotations, read=read)


def _separated(chosen: Any, split: str) -> bool:
    people = chosen.get("people", "") or "all"
    if people not in ("all", "separated"):
        raise ConfigError(f"config.data.{split}.people is {people!r}; it can be 'all' or 'separated'")
    return people == "separated"


def read_list(path: str | pathlib.Path, skipped: Skipped, head_boxes: np.ndarray | None = None) -> list[Person]:
    """The people of a JSON list, in its order.

    A joint whose "joints_vis" is not positive is unlabelled, others are visible: the list knows no hidden joints.

    Args:
      path: path of the list.
      skipped: notes, to which records that cannot be used are added.
      head_boxes: [N, 4] boxes (x1, y1, x2, y2) of the same people's heads.

    Raises:
      DataError: no such list, or another number of head boxes.
    """
    content = read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        raise DataError(f"{path}: is in COCO's format, not MPII's; read it with config.data.source='coco'")
    known = ("image", "center", "scale", "joints", "joints_vis")
    if not isinstance(content, list) or not all(isinstance(r, dict) for r in content):
        raise DataError(f"{path}: expected a list of records with {list(known)}; is this MPII's annot/*.json?")
    if head_boxes is not None and len(head_boxes) != len(content):
        raise DataError(
            f"{path}: lists {len(content)} people, but there are {len(head_boxes)} head boxes; they must fit"
        )
    people = []
    for k, record in enumerate(content):
        name = f"record {k}"
        if missing := [field for field in known if field not in record]:
            skipped.add(f"fields {missing} are missing", name)
            continue
        box = None if head_boxes is None else tuple(head_boxes[k].tolist())
        try:
            people.append(_listed(record, name, box))
        except FieldError as error:
            skipped.add_field(error, name)
    return people


def _listed(record: dict, name: str, box: tuple | None) -> Person:
    points, labelled = (
        fields.numbers({field: _flat(record[field])}, field, count * MPII.num_joints).reshape(MPII.num_joints, count)
        for field, count in (("joints", 2), ("joints_vis", 1))
    )
    x, y = fields.numbers(record, "center", 2).tolist()
    joints = np.where(labelled > 0, np.concatenate([points, 2.0 * (labelled > 0)], -1), 0)
    return Person(name, fields.text(record, "image"), (x, y), fields.number(record, "scale"), joints, box)


def _flat(values: Any) -> Any:
    """A list of lists as one list; anything else as it is."""
    if not isinstance(values, list) or not all(isinstance(value, list) for value in values):
        return values
    return [item for value in values for item in value]


def read_head_boxes(path: str | pathlib.Path) -> np.ndarray:
    """[N, 4] (x1, y1, x2, y2) from a gt_valid.mat.

    Raises:
      DataError: no such file, or no head boxes in it.
    """
    boxes = read_variable(path, "headboxes_src")
    if boxes is None or boxes.ndim != 3 or boxes.shape[:2] != (2, 2) or boxes.dtype.kind not in "iuf":
        found = "missing" if boxes is None else f"of shape {boxes.shape} and {boxes.dtype}"
        raise DataError(f"{path}: variable 'headboxes_src' is {found}, expected (2, 2, people); is this gt_valid.mat?")
    return boxes.transpose(2, 0, 1).reshape(-1, 4).astype(float)


def read_matlab(path: str | pathlib.Path, skipped: Skipped, separated: bool = False) -> list[Person]:
    """The people of the training images of the published .mat file, in its order.

    Args:
      path: path of mpii_human_pose_v1_u12_1.mat.
      skipped: notes, to which people without joints, position or scale are added.
      separated: True for those alone that the file's single_person lists: with some distance to all others.

    Raises:
      DataError: not that file.
    """
    release: Any = read_variable(path, "RELEASE", squeeze=True)
    if missing := [f for f in ("annolist", "img_train") if not hasattr(release, f)]:
        raise DataError(f"{path}: structure 'RELEASE' lacks {missing}; expected mpii_human_pose_v1_u12_1.mat")
    pictures, training = _list_of(release.annolist), np.ravel(release.img_train)
    alone = _list_of(getattr(release, "single_person", []))
    if len(training) != len(pictures) or (separated and len(alone) != len(pictures)):
        raise DataError(
            f"{path}: lists {len(pictures)} images, but {len(training)} entries in 'img_train' and {len(alone)} in "
            "'single_person'; fetch the file again"
        )
    people = []
    for i in np.flatnonzero(training == 1):
        chosen = _list_of(alone[i]) if separated else None
        for k, record in enumerate(_list_of(getattr(pictures[i], "annorect", [])), start=1):
            if chosen is None or k in chosen:
                people += _person(record, getattr(getattr(pictures[i], "image", None), "name", None), k, skipped)
    return people


def _person(record: Any, image: Any, number: int, skipped: Skipped) -> list[Person]:
    """The person of one "annorect", or nothing."""
    name = f"{fields.shown(image)}, person {number}"
    try:
        image = fields.text({"name": image}, "name")
    except FieldError as error:
        skipped.add_field(error, name)
        return []
    name = f"{image}, person {number}"
    position, scale = getattr(record, "objpos", None), _number(record, "scale")
    center_x, center_y = _number(position, "x"), _number(position, "y")
    points = _list_of(getattr(getattr(record, "annopoints", None), "point", []))
    if not points:
        skipped.add("no joint is labelled", name)
        return []
    if scale is None or center_x is None or center_y is None:
        skipped.add("fields 'objpos' and 'scale' don't tell position and size", name)
        return []
    joints = np.zeros((MPII.num_joints, 3))
    for point in points:
        joint, x, y = (_number(point, field) for field in ("id", "x", "y"))
        if joint is None or joint not in range(MPII.num_joints) or x is None or y is None:
            skipped.add("field 'annopoints' has a point that is no joint", name)
            return []
        joints[int(joint)] = x, y, 1 if _number(point, "is_visible") == 0 else 2
    return [Person(name, image, (center_x, center_y), scale, joints, _head_box(record))]


def _head_box(record: Any) -> tuple[float, float, float, float] | None:
    x1, y1, x2, y2 = (_number(record, corner) for corner in ("x1", "y1", "x2", "y2"))
    return None if x1 is None or y1 is None or x2 is None or y2 is None else (x1, y1, x2, y2)


def _list_of(value: Any) -> list:
    """MATLAB arrays of one element come as that element, and empty ones as empty arrays."""
    return list(np.asarray(value, object).reshape(-1))


def _number(structure: Any, field: str) -> float | None:
    """A field as a number; None if it is missing, empty or none. The file has some numbers as text."""
    value = np.asarray(getattr(structure, field, None))
    try:
        return fields.number({field: value.item()}, field) if value.size == 1 else None
    except FieldError:
        return None


def _of_images(people: list[Person], path: pathlib.Path) -> list[Person]:
    try:
        names = set(path.read_text().split())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it must list one image name a line") from error
    if strangers := sorted(names - {p.image for p in people}):
        raise DataError(
            f"{path}: {len(strangers)} of its {len(names)} images have nobody with labelled joints in the annotations, "
            f"{strangers[0]} first; do list and annotations belong together?"
        )
    return [p for p in people if p.image in names]


def _usable(person: Person, skipped: Skipped) -> bool:
    placed = all(math.isfinite(v) for v in (*person.center, person.scale)) and person.center != (-1, -1)
    if not placed or person.scale <= 0:
        skipped.add("fields 'center' (or 'objpos') and 'scale' don't tell position and size", person.name)
    elif not np.isfinite(person.joints).all():
        skipped.add("a joint is not finite", person.name)
    elif not (person.joints[:, 2] > 0).any():
        skipped.add("no joint is labelled", person.name)
    else:
        return True
    return False


def _columns(people: list[Person], folder: pathlib.Path) -> Annotations:
    names = list(dict.fromkeys(p.image for p in people))
    rows = {name: row for row, name in enumerate(names)}
    remedy = "Fetch mpii_human_pose_v1.tar.gz again, or take their people out of the annotations."
    width, height = picture_sizes(folder, names, remedy).T
    joints = np.array([p.joints for p in people])
    labelled = joints[..., 2:] > 0
    keypoints = np.where(labelled, joints[..., :2] - 1, 0)
    extent = tight_boxes(keypoints, joints[..., 2])[:, 2:]
    return Annotations(
        skeleton=MPII,
        image_id=_image_ids(names),
        file_name=np.array(names, np.str_),
        width=width,
        height=height,
        person_image=np.array([rows[p.image] for p in people], np.int32),
        person_id=np.arange(1, len(people) + 1, dtype=np.int64),
        box=np.array([square((p.center[0] - 1, p.center[1] - 1), p.scale) for p in people], np.float32),
        keypoints=keypoints.astype(np.float32),
        visibility=joints[..., 2].astype(np.uint8),
        area=(AREA_OF_BOX * np.maximum(extent, 1).prod(-1)).astype(np.float32),
        crowd=np.zeros(len(people), bool),
        track_id=np.full(len(people), -1, np.int64),
        head_size=np.array([_head_size(p) for p in people], np.float32),
        clip_boxes=False,
    )


def square(center: tuple[float, float], scale: float) -> tuple[float, float, float, float]:
    """The box (x, y, w, h) that the original crops take, from an annotation's centre (x, y) and scale."""
    side, (x, y) = _SIDE * scale, center
    return x - side / 2, y + _DOWN * scale - side / 2, side, side


def _head_size(person: Person) -> float:
    """From the head's box, else from neck and head top (the same but for the box's whole pixels), else 0."""
    if person.head_box is not None:
        x1, y1, x2, y2 = person.head_box
        return HEAD_SIZE_OF_BOX * math.hypot(x2 - x1, y2 - y1)
    neck, top = person.joints[MPII.index("neck")], person.joints[MPII.index("head_top")]
    return HEAD_SIZE_OF_LENGTH * math.dist(neck[:2], top[:2]) if min(neck[2], top[2]) > 0 else 0.0


def _image_ids(names: list[str]) -> np.ndarray:
    """The numbers that the files are named with, where they are; else counted from 1."""
    stems = [pathlib.Path(name).stem for name in names]
    ids = {int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) <= 18}
    return np.array(stems if len(ids) == len(names) else np.arange(1, len(names) + 1), np.str_).astype(np.int64)
