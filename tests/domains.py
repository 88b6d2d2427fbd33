"""Small data sets of domain adaptation on disk, in the layouts of the real ones."""

import pathlib
import pickle

import numpy as np
import scipy.io
from pictures import write, write_json

RNG = np.random.default_rng(0)


def hand(center: tuple[float, float], extent: float, visible: int = 21) -> np.ndarray:
    """[21, 3] joints of which the outermost are `extent` apart."""
    points = RNG.uniform(-extent / 2, extent / 2, (21, 2))
    points[0], points[1] = (-extent / 2, 0), (extent / 2, 0)
    return np.concatenate([points + center, (np.arange(21) < visible)[:, None]], -1)


def write_rhd(root: pathlib.Path, pairs: list[tuple], numbers: list[int] | None = None, part: str = "training") -> None:
    """Rendered Handpose: pictures with the pairs (left hand, right hand), from `hand`."""
    folder = root / "RHD_published_v2" / part
    content = {n: {"uv_vis": np.concatenate(pair)} for n, pair in zip(numbers or range(len(pairs)), pairs)}
    for number in content:
        write(folder / "color" / f"{number:05d}.png", (320, 320))
    (folder / f"anno_{part}.pickle").write_bytes(pickle.dumps(content))


def write_h3d(root: pathlib.Path, count: int = 40) -> list[dict]:
    """Hand-3D-Studio: one hand a picture, every fourth with an object; returns the records."""
    hands = [
        {"name": f"part1/{i}.jpg", "keypoint2d": RNG.uniform(5, 40, (21, 2)), "without_object": int(i % 4 != 3)}
        for i in range(count)
    ]
    write_json(root / "H3D_crop" / "annotation.json", hands)
    for i in range(count):
        write(root / "H3D_crop" / "part1" / f"{i}.jpg", (48 + i, 48 + i))
    return hands


def write_freihand(root: pathlib.Path, count: int = 6) -> np.ndarray:
    """FreiHAND: four pictures of each of `count` hands; returns their joints in pixels."""
    camera = np.array([[200.0, 0, 112], [0, 210, 112], [0, 0, 1]])
    cameras = camera * RNG.uniform(0.9, 1.1, (count, 1, 1)) ** np.array([[1], [1], [0]])
    points = np.concatenate([RNG.uniform(-0.1, 0.1, (count, 21, 2)), RNG.uniform(0.5, 0.7, (count, 21, 1))], -1)
    write_json(root / "training_K.json", cameras)
    write_json(root / "training_xyz.json", points)
    for i in range(4 * count):
        write(root / "training" / "rgb" / f"{i:08d}.jpg", (224, 224))
    screen = np.einsum("nij,nkj->nki", cameras, points)
    return screen[..., :2] / screen[..., 2:]


def write_surreal(root: pathlib.Path, part: str = "train", counts: tuple[int, ...] = (4, 5, 3)) -> list[tuple]:
    """SURREAL: one person a picture; returns the names and joints of all runs."""
    listed = []
    for run, count in enumerate(counts):
        rows = [{"name": f"{i}.jpg", "keypoint2d": RNG.uniform(0, 50, (24, 2))} for i in range(count)]
        write_json(root / part / f"run{run}.json", rows)
        for i in range(count):
            write(root / part / f"run{run}" / f"{i}.jpg", (50 + i, 50 + i))
        listed += [(f"run{run}/{row['name']}", row["keypoint2d"]) for row in rows]
    return listed


CAMERA = {"R": np.eye(3), "t": [0.0, 0, 4000], "f": [1100.0, 1110], "c": [60.0, 50]}


def write_frames(root: pathlib.Path, subject: int = 1, count: int = 11) -> np.ndarray:
    """Frames of Human3.6M, of which every fifth is used; returns the world joints of those."""
    joints = RNG.uniform(-100, 100, (count, 17, 3))
    frames = []
    for i in range(count):
        name = f"s_{subject:02d}/{i:06d}.jpg"
        frames.append({"file_name": name, "action_idx": 2, "subaction_idx": 1, "cam_idx": 1 + i % 2, "frame_idx": i})
        if i % 5 == 0:
            write(root / "images" / name, (120, 100))
    other = CAMERA | {"c": [70.0, 50]}
    contents = {
        "data": {"images": frames},
        "camera": {"1": CAMERA, "2": other},
        "joint_3d": {"2": {"1": {str(i): row for i, row in enumerate(joints)}}},
    }
    for kind, content in contents.items():
        write_json(root / "annotations" / f"Human36M_subject{subject}_{kind}.json", content)
    return joints[::5]


def write_lsp(root: pathlib.Path, count: int = 3, hidden: tuple[int, int] | None = None) -> np.ndarray:
    """LSP: people in images of 40 x 60 pixels; returns joints [N, 14, 3] as the file has them, `hidden` one of them."""
    joints = RNG.uniform(0, 40, (count, 14, 3))
    joints[..., 2] = 0
    if hidden:
        joints[(*hidden, 2)] = 1
    for i in range(count):
        write(root / "images" / f"im{i + 1:04d}.jpg", (40, 60))
    scipy.io.savemat(root / "joints.mat", {"joints": joints.transpose(2, 1, 0)})
    return joints
