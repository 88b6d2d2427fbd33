"""Hand-3D-Studio (https://www.yangangwang.com/papers/ZHAO-H3S-2020-02.html) cut out: one hand a picture.

The authors of RegDA (Jiang et al., CVPR 2021) publish the pictures, 1.5 times as large as the hands (H3D_crop.tar; the
link is in their Transfer-Learning-Library). Expected under `data.dir`, as it is unpacked:

  H3D_crop/annotation.json          H3D_crop/part1/ ... part5/

with data.<split>.annotations = "H3D_crop/annotation.json" and data.<split>.images = "H3D_crop". The list holds records
of {"name", "keypoint2d": 21 joints in pixels of the picture, "without_object": 1 or 0}. `data.<split>.hands` chooses
among them: "without_object" (the default, as in the paper), "with_object" or "all". `data.<split>.part` is "train",
"test" or "all" of what remains, shuffled. The pictures of one hand are in both parts.
"""

import pathlib
from typing import Any

import numpy as np

from jaxpose.data.single_people import SinglePeople, choice, locate, part_of, part_rows, read_list, stack, texts
from jaxpose.data.sources import Source, require_inside
from jaxpose.errors import DataError
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.skeleton import HAND

HANDS = {"without_object": (1,), "with_object": (0,), "all": (0, 1)}
"""Values of the field "without_object" that a choice takes."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The hands that `config.data.<split>` describes; see the top of this file.

    Raises:
      ConfigError: a field is missing or has no meaning.
      DataError: the list is not what it should be, or pictures are missing.
    """
    del progress
    what = "the folder that holds H3D_crop/ of RegDA's authors"
    path, folder = locate(data, split, what, "H3D_crop/annotation.json", "H3D_crop")
    names, keypoints, without_object = read_records(path)
    wanted = HANDS[choice(data, split, "hands", tuple(HANDS), "without_object")]
    rows = np.flatnonzero(np.isin(without_object, wanted))
    rows = rows[part_rows(len(rows), part_of(data, split))]
    names, keypoints = [names[row] for row in rows], keypoints[rows]
    require_inside(names, path, data)
    people = SinglePeople(folder, names, keypoints)
    return people.source(path, HAND, people.image_sizes("Unpack H3D_crop.tar again."))


def read_records(path: str | pathlib.Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """File names of the pictures, joints [N, 21, 2] in pixels, and [N] 1 for hands that hold nothing, else 0.

    Raises:
      DataError: the list is missing or not what it should be.
    """
    records = read_list(path, ("name", "keypoint2d", "without_object"))
    keypoints = stack([r["keypoint2d"] for r in records], (HAND.num_joints, 2), f"{path}: field 'keypoint2d'")
    without_object = []
    for i, record in enumerate(records):
        try:
            without_object.append(fields.flag(record, "without_object"))
        except FieldError as error:
            raise DataError(f"{path}: record {i}: {error}; fetch the file again") from error
    return texts(records, "name", path), keypoints, np.array(without_object, np.int64)
