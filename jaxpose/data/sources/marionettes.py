"""The procedural people: written to disk on first use, then read like any other records.

`config.data.marionettes` describes them (`jaxpose.marionettes.MarionettesConfig`). They are under `config.data.dir`, or
in the user's cache if that is empty. The scene "sequence" has no images and is opened as sequences: 2D joints as a
detector would give them, and their 3D truth, with `config.data.skeleton` "h36m" (17 joints) or "marionette" (25). All
other scenes are opened as images.
"""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from jaxpose import marionettes
from jaxpose.data.examples.sequences import MILLIMETRES, Z_UP, Camera, SequenceSource, Video, quaternion
from jaxpose.data.sources import Source
from jaxpose.data.sources.records import open_records
from jaxpose.errors import ConfigError, DataError
from jaxpose.files.arrays import read_npz
from jaxpose.marionettes.sequences import FRAME_RATE
from jaxpose.ops import bones, cameras
from jaxpose.skeleton import H36M, MARIONETTE, Skeleton

_FRAMES = -1
_COLUMNS: dict[str, tuple[int, ...]] = {
    "subject": (),
    "action": (),
    "detections": (_FRAMES, MARIONETTE.num_joints, 2),
    "visibility_score": (_FRAMES, MARIONETTE.num_joints),
    "joints_3d": (_FRAMES, MARIONETTE.num_joints, 3),
    "intrinsics": (3, 3),
    "rotation": (3, 3),
    "translation": (3,),
}
"""{array of a file of sequences: its last axes}."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The images of the marionettes that `config.data.marionettes` describes."""
    return open_records(_prepared(data, marionettes.MarionettesConfig(**data.marionettes), progress), split)


def open_sequences(data: Any, split: str, *, progress: bool = True) -> SequenceSource:
    """The sequences of the marionettes that `config.data.marionettes` describes.

    Raises:
      ConfigError: the scene has no sequences, or the skeleton's 3D tree is not known.
      DataError: the file of a split is damaged.
    """
    skeleton = {known.name: known for known in (H36M, MARIONETTE)}.get(data.skeleton)
    if skeleton is None:
        raise ConfigError(
            f"config.data.skeleton is {data.skeleton!r}; sequences of marionettes have h36m or marionette"
        )
    config = marionettes.MarionettesConfig(**data.marionettes)
    if config.scene != "sequence":
        raise ConfigError(f"config.data.marionettes.scene is {config.scene!r}; 3D lifting needs 'sequence'")
    path = _prepared(data, config, progress) / f"annotations-{split}.npz"
    columns = _read(path)
    size = (config.width, config.height)
    videos = (_video({name: values[i] for name, values in columns.items()}, i, size, skeleton)
              for i in range(len(columns["subject"])))  # fmt: skip
    return SequenceSource(f"{path.parent} ({split})", skeleton, FRAME_RATE, tuple(videos))


def default_folder() -> pathlib.Path:
    """The folder of marionettes unless `config.data.dir` names one: in the user's cache."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxpose" / "data"


def _prepared(data: Any, config: marionettes.MarionettesConfig, progress: bool) -> pathlib.Path:
    """The folder of the data set, written by the first process if it is not there."""
    root = pathlib.Path(data.dir).expanduser() if data.dir else default_folder()
    if jax.process_index() == 0:
        marionettes.prepare(config, str(root), progress=progress)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("marionettes are on disk")
    return marionettes.prepare(config, str(root), progress=progress)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        columns = read_npz(path, _COLUMNS)
    except DataError as error:
        raise DataError(f"{error}. Delete the folder {path.parent}: it will be written again") from error
    count, frames = columns["subject"].size, columns["detections"].shape[1:2]
    for name, tail in _COLUMNS.items():
        shape = columns[name].shape
        if shape != (count, *(frames if tail[:1] == (_FRAMES,) else ()), *(size for size in tail if size != _FRAMES)):
            raise DataError(f"{path}: array {name!r} has shape {shape}; delete its folder, it will be written again")
    turns = columns["rotation"].astype(np.float64)
    if not np.allclose(turns @ turns.mT, np.eye(3), atol=1e-3) or not (np.linalg.det(turns) > 0).all():
        raise DataError(f"{path}: array 'rotation' has no rotations; delete its folder, it will be written again")
    return columns


def _video(record: dict[str, np.ndarray], number: int, size: tuple[int, int], skeleton: Skeleton) -> Video:
    pick = MARIONETTE.select(skeleton)
    pixels, score = record["detections"][:, pick], record["visibility_score"][:, pick]
    keypoints = np.concatenate([cameras.normalize_screen(pixels, size), score[..., None]], -1)
    joints = record["joints_3d"][:, pick].astype(np.float64) / MILLIMETRES
    root = bones.TREES[skeleton.name].root
    shown = _camera(record, number, size)
    return Video.of_joints(f"marionette {record['subject']}", str(record["action"]), shown, keypoints, joints, root)


def _camera(record: dict[str, np.ndarray], number: int, size: tuple[int, int]) -> Camera:
    """Every sequence has a camera of its own, without distortion."""
    matrix = record["intrinsics"].astype(np.float64)
    pixels = np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], 0, 0, 0, 0, 0])
    to_world = Z_UP @ record["rotation"].astype(np.float64).T
    position = -to_world @ record["translation"].astype(np.float64) / MILLIMETRES
    intrinsics = cameras.normalize_intrinsics(pixels, size).astype(np.float32)
    return Camera(str(number + 1), size, intrinsics, quaternion(to_world), position.astype(np.float32))
