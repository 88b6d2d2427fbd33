"""Leeds Sports Pose (2,000 images) and its extension (10,000): one person an image, 14 joints.

Expected under `data.dir`, as it is unpacked:

  joints.mat                      images/im0001.jpg ...    (LSP:      "joints" has shape (3, 14, 2000))
  joints.mat                      images/im00001.jpg ...   (Extended: "joints" has shape (14, 3, 10000))

with data.<split>.annotations = "joints.mat" and data.<split>.images = "images". `data.<split>.range` = (first, end)
takes the images first, first + 1, ..., end - 1, counted from 0; without it, or if it is empty, all of them.

Coordinates are taken as they are, as methods that train on these sets do. The third value of
a joint means 1 = hidden in LSP, where all joints are labelled; in the extension 0 = not labelled, with a void place.
`data.<split>.hidden` = "unlabelled" leaves hidden joints out; "labelled" is the default.

With `data.skeleton` = "mpii" the people have MPII's joints, of which pelvis and thorax are not labelled. Domain
adaptation (Jiang et al., CVPR 2021) trains and tests on all of LSP with `data.<split>.boxes` = "image" and
`data.padding` = 1. Its code rounds the narrower side of the resized picture down to whole pixels, so that its joints
lie up to half a pixel of the crop further.
"""

import pathlib
from typing import Any

import numpy as np

from jaxpose.data import images
from jaxpose.data.annotations import Annotations, Skipped, tight_boxes
from jaxpose.data.formats.coco import AREA_OF_BOX
from jaxpose.data.single_people import choice
from jaxpose.data.sources import Source, require_folder
from jaxpose.data.sources.folder import picture_sizes
from jaxpose.data.sources.mpii import HEAD_SIZE_OF_LENGTH
from jaxpose.errors import ConfigError, DataError
from jaxpose.files.fields import LARGEST
from jaxpose.files.matlab import read_variable
from jaxpose.skeleton import LSP, MPII

BOX_OF_JOINTS = 1.2
"""Sides of a person's box / those of the tight box of the joints: hands and feet reach beyond wrists and ankles."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split that `config.data.<split>` describes, relative to `config.data.dir`; see the top of this file.

    Raises:
      ConfigError: a field is missing, or the range is not one of the file.
      DataError: the file is not what it should be, or images are missing.
    """
    del progress
    root = require_folder(data.dir, "data.dir", "the folder that holds joints.mat and images/ of LSP or LSP Extended")
    if split not in data or not data[split].annotations:
        raise ConfigError(f"config.data.{split}.annotations is missing: for LSP it is 'joints.mat'")
    fields = data[split]
    path = root / fields.annotations
    folder = require_folder(str(root / fields.images), f"data.{split}.images", "LSP's folder 'images'")
    joints, digits = read_joints(path)
    rows = _rows(fields.get("range", ()), len(joints), split)
    names = [f"im{row + 1:0{digits}d}.jpg" for row in rows]
    sizes = picture_sizes(folder, names, f"Fetch them, or narrow config.data.{split}.range to images that are there.")
    annotations = _columns(rows, names, sizes, joints[rows], str(path))
    if choice(data, split, "hidden", ("labelled", "unlabelled"), "labelled") == "unlabelled":
        annotations = annotations.without_hidden()
    if data.skeleton == MPII.name:
        annotations = annotations.with_skeleton(MPII, partial=True)

    def read(i: int) -> bytes:
        return images.read(folder / names[i])

    return Source(name=f"{path} ({rows[0]} to {rows[-1]})", annotations=annotations, read=read)


def _rows(limits: Any, count: int, split: str) -> np.ndarray:
    """The images that `config.data.<split>.range` names."""
    if not len(limits):
        return np.arange(count)
    whole = len(limits) == 2 and all(isinstance(v, int) for v in limits)
    if not whole or not 0 <= limits[0] < limits[1] <= count:
        raise ConfigError(
            f"config.data.{split}.range is {tuple(limits)}; expected (first, end), whole numbers with "
            f"0 <= first < end <= {count}, the number of people in the annotations"
        )
    return np.arange(*limits)


def read_joints(path: str | pathlib.Path) -> tuple[np.ndarray, int]:
    """The labels of a joints.mat: [N, 14, 3] x, y, visibility as in `Annotations`, and the digits of its file names.

    Raises:
      DataError: the file is neither LSP's nor the extension's.
    """
    joints = np.asarray(read_variable(path, "joints"))
    shape = joints.shape
    numbers = joints.dtype.kind in "iuf"
    if len(shape) != 3 or shape[:2] not in ((3, LSP.num_joints), (LSP.num_joints, 3)) or not numbers:
        raise DataError(
            f"{path}: variable 'joints' has shape {shape}, expected (3, 14, people) of LSP or (14, 3, people) of LSP "
            "Extended, all of them numbers; is this their joints.mat?"
        )
    if shape[0] == 3:
        joints = joints.transpose(2, 1, 0).astype(float)
        return np.concatenate([joints[..., :2], np.where(joints[..., 2:] > 0, 1, 2)], -1), 4
    joints = joints.transpose(2, 0, 1).astype(float)
    return np.concatenate([joints[..., :2], np.where(joints[..., 2:] > 0, 2, 0)], -1), 5


def _columns(rows: np.ndarray, names: list[str], sizes: np.ndarray, joints: np.ndarray, where: str) -> Annotations:
    """One person an image; one with fewer than two labelled joints gets a box without area, which is no example."""
    skipped = Skipped(where)
    usable = np.abs(joints) <= LARGEST
    for name in np.array(names)[~usable.all((1, 2))]:
        skipped.add("a joint is not finite: taken as not labelled", name)
    skipped.log()
    joints = np.where(usable.all(-1, keepdims=True), joints, 0)
    visibility = joints[..., 2]
    keypoints = np.where(visibility[..., None] > 0, joints[..., :2], 0)
    tight = tight_boxes(keypoints, visibility)
    grown = tight[:, 2:] * BOX_OF_JOINTS
    box = np.concatenate([tight[:, :2] - (grown - tight[:, 2:]) / 2, grown], -1)
    return Annotations(
        skeleton=LSP,
        image_id=rows.astype(np.int64) + 1,
        file_name=np.array(names, np.str_),
        width=sizes[:, 0],
        height=sizes[:, 1],
        person_image=np.arange(len(rows), dtype=np.int32),
        person_id=rows.astype(np.int64) + 1,
        box=box.astype(np.float32),
        keypoints=keypoints.astype(np.float32),
        visibility=visibility.astype(np.uint8),
        area=(AREA_OF_BOX * grown.prod(-1)).astype(np.float32),
        crowd=np.zeros(len(rows), bool),
        track_id=np.full(len(rows), -1, np.int64),
        head_size=_head_size(keypoints, visibility),
    )


def _head_size(keypoints: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """[N] float32, MPII's share of the way from neck to head top; 0 where one of them is not labelled.

    Relative to the legs in the picture, that way has a median of .30 in the extension and .39 in MPII, so that the
    measure is the stricter one here.
    """
    ends = [LSP.index("neck"), LSP.index("head_top")]
    length = np.linalg.norm(keypoints[:, ends[1]] - keypoints[:, ends[0]], axis=-1)
    return (HEAD_SIZE_OF_LENGTH * length * (visibility[:, ends] > 0).all(-1)).astype(np.float32)
