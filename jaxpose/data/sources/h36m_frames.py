"""Human3.6M (http://vision.imar.ro/human3.6m) as single pictures: every fifth frame, with MPII's joints.

Expected under `data.dir` is one of two forms. Frames and labels as the 3DMPPE repositories share them:

  annotations/Human36M_subject1_{data,camera,joint_3d}.json ...      images/s_01_act_02_subact_01_ca_01/*.jpg ...

or what RegDA's code (Jiang et al., CVPR 2021) makes of them on first use, people cut out and resized to 512 pixels:

  annotations/keypoints2d_1.json ...                                 crop_images/s_01_act_02_subact_01_ca_01/*.jpg ...

with data.<split>.annotations = "annotations" and data.<split>.images = "images" or "crop_images", which tells the form.
Both show the same square, 1.5 times as large as the person, but that the second was interpolated twice. Joints are
projected by the pinhole cameras, without their lenses' distortion.

`data.<split>.subjects` are 1, 5, 6, 7, 8 for training and 9, 11 for validation unless it is given. `data.<split>.part`:
"all" are all frames of them; "test", the default of validation, 3,200 drawn with replacement; "train" is "all".
"""

import pathlib
from typing import Any

import numpy as np

from jaxpose.data import square_boxes
from jaxpose.data.single_people import SinglePeople, drawn_rows, locate, part_of, read_list, stack, texts
from jaxpose.data.sources import Source, require_inside
from jaxpose.errors import DataError
from jaxpose.files.json_files import read_json
from jaxpose.skeleton import MPII

SUBJECTS = {"train": (1, 5, 6, 7, 8), "validation": (9, 11)}
JOINTS = 17
OF_H36M = (3, 2, 1, 4, 5, 6, 0, 11, 8, 10, 16, 15, 14, 11, 12, 13)
"""Human3.6M's joint for each of MPII's, but for the thorax, which is midway between the shoulders."""
EVERY = 5
CUT_OUT = "crop_images"


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The frames that `config.data.<split>` describes; see the top of this file.

    Raises:
      ConfigError: a field is missing or has no meaning.
      DataError: a file is not what it should be, or pictures are missing.
    """
    del progress
    what = "the folder with annotations/ and images/ of Human3.6M's frames"
    where, folder = locate(data, split, what, "annotations", "images")
    cut_out = folder.name == CUT_OUT
    subjects = tuple(data[split].get("subjects", ())) or SUBJECTS[split]
    listed = [(read_cut_out if cut_out else read_frames)(where, subject) for subject in subjects]
    names = [name for part, _ in listed for name in part]
    require_inside(names, where, data)
    keypoints = np.concatenate([points for _, points in listed])
    rows = drawn_rows(len(names)) if part_of(data, split) == "test" else np.arange(len(names))
    people = SinglePeople(folder, [names[row] for row in rows], keypoints[rows])
    sizes = people.image_sizes("Fetch the frames again, or leave their subject out.")
    boxes = None if cut_out else whole_box(people.squares(sizes))
    return people.source(f"{where} ({', '.join(map(str, subjects))})", MPII, sizes, boxes)


def whole_box(box: np.ndarray) -> np.ndarray:
    """(x, y, w, h) [..., 4] of boxes that include their last column and row."""
    return np.concatenate([box[..., :2], box[..., 2:] - box[..., :2] + 1], -1)


def read_cut_out(folder: pathlib.Path, subject: int) -> tuple[list[str], np.ndarray]:
    """File names and joints [N, 16, 2] of the people who were cut out of a subject's frames.

    Raises:
      DataError: the file is missing or not what it should be.
    """
    path = folder / f"keypoints2d_{subject}.json"
    records = read_list(path, ("name", "keypoint2d"))
    keypoints = stack([r["keypoint2d"] for r in records], (MPII.num_joints, 2), f"{path}: field 'keypoint2d'")
    return texts(records, "name", path), keypoints


def read_frames(folder: pathlib.Path, subject: int) -> tuple[list[str], np.ndarray]:
    """File names and joints [N, 16, 2] of every fifth of a subject's frames, in pixels of the frame.

    Raises:
      DataError: a file is missing, or they do not fit each other.
    """
    data, cameras, joints_3d = (_read(folder, subject, kind) for kind in ("data", "camera", "joint_3d"))
    frames = data.get("images")
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{_path(folder, subject, 'data')}: field 'images': expected a list of frames")
    frames = frames[::EVERY]
    if not all(isinstance(frame, dict) for frame in frames):
        raise DataError(f"{_path(folder, subject, 'data')}: field 'images': expected a list of objects")
    names = texts(frames, "file_name", _path(folder, subject, "data"))
    try:
        used = [str(frame["cam_idx"]) for frame in frames]
        joints = [
            joints_3d[str(frame["action_idx"])][str(frame["subaction_idx"])][str(frame["frame_idx"])]
            for frame in frames
        ]
        lenses = {name: _camera(cameras[name], _path(folder, subject, "camera"), name) for name in sorted(set(used))}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: the files Human36M_subject{subject}_*.json don't fit each other: {error} is missing in one, or "
            "it is no object; fetch them again"
        ) from error
    world = stack(joints, (JOINTS, 3), f"{_path(folder, subject, 'joint_3d')}: a frame's joints")
    keypoints = np.zeros((len(names), MPII.num_joints, 2))
    for name, camera in lenses.items():
        rows = np.flatnonzero(np.array(used) == name)
        keypoints[rows] = project(world[rows], *camera)
    return names, keypoints


def project(world: np.ndarray, rotation: np.ndarray, translation: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """MPII's joints [..., 16, 2] in pixels of a frame.

    Args:
      world: [..., 17, 3] joints of Human3.6M in millimetres in the world.
      rotation: [3, 3] rotation from the world to the camera.
      translation: [3] millimetres, from the world to the camera.
      intrinsics: [3, 3] matrix of the pinhole camera in pixels.
    """
    joints = world[..., list(OF_H36M), :]
    shoulders = [MPII.index("right_shoulder"), MPII.index("left_shoulder")]
    joints[..., MPII.index("thorax"), :] = joints[..., shoulders, :].mean(-2)
    return square_boxes.project(joints @ rotation.T + translation, intrinsics)


def _camera(camera: dict, path: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shapes = {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
    parts = {key: stack([camera[key]], shape, f"{path}: {key!r} of {name!r}")[0] for key, shape in shapes.items()}
    intrinsics = np.diag([*parts["f"], 1.0])
    intrinsics[:2, 2] = parts["c"]
    return parts["R"], parts["t"], intrinsics


def _path(folder: pathlib.Path, subject: int, kind: str) -> pathlib.Path:
    return folder / f"Human36M_subject{subject}_{kind}.json"


def _read(folder: pathlib.Path, subject: int, kind: str) -> dict:
    path = _path(folder, subject, kind)
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object; is it the original file?")
    return content
