"""Rendered Handpose (https://lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html).

Expected under `data.dir`, as RHD_v1-1.zip is unpacked:

  RHD_published_v2/training/anno_training.pickle       RHD_published_v2/training/color/00000.png ...
  RHD_published_v2/evaluation/anno_evaluation.pickle   RHD_published_v2/evaluation/color/00000.png ...

with data.<split>.annotations and .images the paths of a row. A picture shows a whole person and so two hands, each of
which is an example where it is large enough, mostly visible and away from the other one: see `choose_hands`. Its box is
a square 1.5 times as large as all its joints; hidden joints are not labelled. Right hands are looked at mirrored, so
that all are left ones.

The pickle is read without running it (see `jaxpose.data.formats.pickles`).
"""

import pathlib
from typing import Any

import numpy as np

from jaxpose.data import square_boxes
from jaxpose.data.formats import pickles
from jaxpose.data.single_people import SinglePeople, locate, log_not_finite, stack
from jaxpose.data.sources import Source
from jaxpose.errors import DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.skeleton import HAND

ORDER = np.array([0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17])
"""The data set's joint for each of `HAND`: it counts fingers from the tip."""
LEAST_SIDE = 64
LEAST_VISIBLE = 16
MOST_OVERLAP = 0.3


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The hands of the pictures that `config.data.<split>` names; see the top of this file.

    Raises:
      ConfigError: a field is missing.
      DataError: the annotations are not what they should be, pictures are missing, or no hand can be used.
    """
    del progress
    what = "the folder that holds RHD_published_v2/ of RHD_v1-1.zip"
    annotations = "RHD_published_v2/training/anno_training.pickle"
    path, folder = locate(data, split, what, annotations, "RHD_published_v2/training/color")
    names, joints = read_joints(path)
    finite = np.all(np.isfinite(joints), axis=(1, 2, 3))
    log_not_finite(str(path), [name for name, use in zip(names, finite) if not use])
    names, joints = [name for name, use in zip(names, finite) if use], joints[finite]
    sizes = SinglePeople(folder, names, joints[:, 0]).image_sizes("Unpack RHD_v1-1.zip again.")
    boxes, used = choose_hands(joints, sizes)
    picture, hand = np.nonzero(used)
    joints = joints[picture, hand]
    people = SinglePeople(
        folder,
        names=[names[i] for i in picture],
        keypoints=joints[..., :2],
        visibility=np.where(joints[..., 2] > 0, 2, 0),
        mirror=hand == 1,
    )
    regions = square_boxes.cut_region(boxes[picture, hand], hand == 1)
    return people.source(path, HAND, sizes[picture], regions)


def read_joints(path: str | pathlib.Path) -> tuple[list[str], np.ndarray]:
    """File names of the pictures, and the joints [N, 2, 21, 3] of their left and right hands: x, y, visible.

    Raises:
      DataError: the file is missing, damaged, or not what it should be.
    """
    content = pickles.read_pickle(path)
    entries = list(content.values()) if isinstance(content, dict) else []
    if not entries or not all(isinstance(entry, dict) and "uv_vis" in entry for entry in entries):
        raise DataError(f"{path}: expected {{number: {{'uv_vis', ...}}}}; is it RHD's anno_training.pickle?")
    joints = stack([entry["uv_vis"] for entry in entries], (2 * len(ORDER), 3), f"{path}: field 'uv_vis'")
    return [_file_name(number, path) for number in content], joints[:, np.stack([ORDER, ORDER + len(ORDER)])]


def _file_name(number: Any, path: Any) -> str:
    try:
        return f"{fields.whole({'number': number}, 'number', least=0):05d}.png"
    except FieldError as error:
        raise DataError(f"{path}: the {error}, by which pictures are called; fetch RHD_v1-1.zip again") from error


def choose_hands(joints: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square boxes of hands, and the choice of hands that are examples (Jiang et al., CVPR 2021).

    A hand is used whose box is more than 65 pixels wide, of which more than 16 joints are visible, and less than .3 of
    whose box lies in the tight box of the other hand.

    Args:
      joints: [N, 2, 21, 3] joints (x, y, visible) of the two hands of each picture, in pixels.
      sizes: [N, 2] sizes (width, height) of the pictures in pixels.

    Returns:
      boxes [N, 2, 4] (left, upper, right, lower) int64, the last column and row included, and [N, 2] bool, True for
      hands that are used.
    """
    tight = square_boxes.tight_box(joints[..., :2])
    boxes = square_boxes.square_box(tight, sizes[:, None])
    large = (boxes[..., 2:] - boxes[..., :2]).max(-1) > LEAST_SIDE
    visible = joints[..., 2].sum(-1) > LEAST_VISIBLE
    shared = square_boxes.area(square_boxes.intersection(boxes, tight[:, ::-1]))
    return boxes, large & visible & (shared / np.maximum(square_boxes.area(boxes), 1) < MOST_OVERLAP)
