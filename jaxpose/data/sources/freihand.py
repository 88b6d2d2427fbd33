"""FreiHAND (https://lmb.informatik.uni-freiburg.de/projects/freihand): right hands before four kinds of background.

Expected under `data.dir`, as FreiHAND_pub_v2.zip is unpacked:

  training_K.json, training_xyz.json          training/rgb/00000000.jpg ...

with data.<split>.annotations = "training_xyz.json" and data.<split>.images = "training/rgb"; the cameras are in the
file of the same name with K for xyz. Of each of the N samples there are four pictures, N x version + sample by number.
`data.<split>.version` is "gs" (before a green screen), "hom", "sample", "auto" (recoloured in three ways) or "all", the
default. `data.<split>.part` is "train", "test" or "all" of the shuffled pictures; those of one sample may be in both.

Joints are projected. The box is a square 1.5 times as large as all of them, and all hands are looked at mirrored.
"""

import pathlib
from typing import Any

import numpy as np

from jaxpose.data import square_boxes
from jaxpose.data.single_people import SinglePeople, choice, locate, part_of, part_rows, stack
from jaxpose.data.sources import Source
from jaxpose.errors import DataError
from jaxpose.files.json_files import read_json
from jaxpose.skeleton import HAND

VERSIONS = ("gs", "hom", "sample", "auto")
"""In the order of the pictures' numbers."""
LISTED = ("gs", "auto", "sample", "hom")
"""In the order of the list that is shuffled into parts."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The hands that `config.data.<split>` describes; see the top of this file.

    Raises:
      ConfigError: a field is missing or has no meaning.
      DataError: a file is not what it should be, or pictures are missing.
    """
    del progress
    what = "the folder with training_xyz.json and training/ of FreiHAND_pub_v2.zip"
    path, folder = locate(data, split, what, "training_xyz.json", "training/rgb")
    keypoints = read_keypoints(path)
    version = choice(data, split, "version", (*VERSIONS, "all"), "all")
    sample, kind = _pictures(len(keypoints), LISTED if version == "all" else (version,))
    rows = part_rows(len(sample), part_of(data, split))
    sample, kind = sample[rows], kind[rows]
    names = [f"{number:08d}.jpg" for number in (sample + len(keypoints) * kind).tolist()]
    people = SinglePeople(folder, names, keypoints[sample], mirror=np.ones(len(rows), bool))
    sizes = people.image_sizes("Unpack FreiHAND_pub_v2.zip again.")
    return people.source(path, HAND, sizes, square_boxes.cut_region(people.squares(sizes), mirrored=True))


def _pictures(samples: int, versions: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sample and index of the version of every picture, version after version."""
    kinds = [VERSIONS.index(version) for version in versions]
    return np.tile(np.arange(samples), len(kinds)), np.repeat(kinds, samples)


def read_keypoints(path: str | pathlib.Path) -> np.ndarray:
    """[N, 21, 2] pixels, projected from a ..._xyz.json by the cameras of the ..._K.json beside it.

    Raises:
      DataError: a file is missing, or they are not what they should be.
    """
    path = pathlib.Path(path)
    if not path.name.endswith("_xyz.json"):
        raise DataError(f"{path}: expected a file whose name ends in _xyz.json, such as FreiHAND's training_xyz.json")
    cameras = path.with_name(path.name.removesuffix("_xyz.json") + "_K.json")
    content = {}
    for file, shape in ((path, (HAND.num_joints, 3)), (cameras, (3, 3))):
        rows = read_json(file)
        if not isinstance(rows, list) or not rows:
            raise DataError(f"{file}: expected a list of arrays of shape {shape}; is it FreiHAND's?")
        content[file] = stack(rows, shape, str(file))
    points, intrinsics = content[path], content[cameras]
    if len(points) != len(intrinsics):
        raise DataError(f"{path}: has {len(points)} samples, but {cameras} has {len(intrinsics)}; fetch both again")
    with np.errstate(divide="ignore", invalid="ignore"):  # joints at the camera are no positions, and skipped as such
        return square_boxes.project(points, intrinsics)
