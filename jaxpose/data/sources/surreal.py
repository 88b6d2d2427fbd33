"""SURREAL (https://www.di.ens.fr/willow/research/surreal/data), cut out: one rendered person a picture.

The authors of RegDA (Jiang et al., CVPR 2021) publish the pictures, 1.5 times as large as their people (train0.tgz,
train1.tgz, train2.tgz, test.tgz, val.tgz; links are in their Transfer-Learning-Library). Unpacked under `data.dir`:

  train/run0.json, train/run0/*.jpg, train/run1.json, ... run2          test/run0.json, ... as well; val/ too

with data.<split>.annotations and data.<split>.images both "train", or both "test". A list holds records of {"name",
"keypoint2d": 24 joints of SMPL in pixels of the picture}. `data.<split>.part` is "train", "test" or "all" of the
folder's shuffled list: training leaves out the first 3,200 people of train/, and tests are on the first 3,200 of test/.

Its joints become those of MPII by the original's table, quirks included: SMPL's left limbs are the right ones here, and
the shoulders are SMPL's collar bones, which lie nearer to the neck.
"""

import pathlib
from typing import Any

import numpy as np

from jaxpose.data.single_people import SinglePeople, locate, part_of, part_rows, read_list, stack, texts
from jaxpose.data.sources import Source, require_inside
from jaxpose.skeleton import MPII

RUNS = ("run0", "run1", "run2")
SMPL_JOINTS = 24
OF_SMPL = (7, 4, 1, 2, 5, 8, 0, 9, 12, 15, 20, 18, 13, 14, 19, 21)
"""SMPL's joint for each of MPII's."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The people that `config.data.<split>` describes; see the top of this file.

    Raises:
      ConfigError: a field is missing or has no meaning.
      DataError: a list is not what it should be, or pictures are missing.
    """
    del progress
    what = "the folder with train/ and test/ of SURREAL as RegDA's authors publish it"
    lists, folder = locate(data, split, what, "train", "train")
    names, keypoints = read_runs(lists)
    require_inside(names, lists, data)
    rows = part_rows(len(names), part_of(data, split))
    people = SinglePeople(folder, [names[row] for row in rows], keypoints[rows])
    return people.source(lists, MPII, people.image_sizes("Unpack the archives of RegDA's authors again."))


def read_runs(folder: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """File names, with their run's folder, and joints [N, 16, 2] of MPII in pixels, in the order of the lists.

    Raises:
      DataError: a list is missing or not what it should be.
    """
    names, keypoints = [], []
    for run in RUNS:
        path = folder / f"{run}.json"
        records = read_list(path, ("name", "keypoint2d"))
        names += [f"{run}/{name}" for name in texts(records, "name", path)]
        keypoints.append(stack([r["keypoint2d"] for r in records], (SMPL_JOINTS, 2), f"{path}: field 'keypoint2d'"))
    return names, np.concatenate(keypoints)[:, list(OF_SMPL)]
