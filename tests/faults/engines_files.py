"""Parsers of foreign files for `faults.fuzz`: weights, arrays, pickles, MATLAB's files, motion capture, records.

Many of these formats have checksums, so that a byte that is changed anywhere is refused at once. What lies behind them
is therefore tried on its own, too: the parts of an archive, the header of a file, and arrays value by value are changed
first, and then put into a file that is whole again.
"""

import functools
import io
import json
import pathlib
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.io
from faults.fuzz import Content, Parser
from ml_collections import ConfigDict

from jaxpose.convert import load_state_dict, load_variables
from jaxpose.data.formats import asf, checksums, pictures
from jaxpose.data.formats.storage import write_columns
from jaxpose.data.sources import cmu_mocap, h36m, h36m_frames, lsp, marionettes, mpii, records, rhd
from jaxpose.errors import DataError
from jaxpose.evaluation import rescoring
from jaxpose.files.arrays import read_npz
from jaxpose.skeleton import COCO, H36M

Make = Callable[[], Content]
Parse = Callable[[bytes], object]


@functools.cache
def folder() -> pathlib.Path:
    """A folder of this process."""
    return pathlib.Path(tempfile.mkdtemp())


def at_path(read: Callable[[pathlib.Path], object], name: str) -> Parse:
    """A parser of bytes from one of files."""

    def parse(data: bytes) -> object:
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return parse


# --- weights ---


@functools.cache
def _torch_parts(zipped: bool = True) -> tuple[bytes, dict[str, bytes]]:
    """A file of PyTorch with what trainers put into it, and the parts of its archive."""
    import argparse

    import torch

    weights = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.ones(3, dtype=torch.float16),
               "bn.count": torch.tensor(3), "view": torch.arange(12.0)[2:8:2],
               "sparse": torch.eye(3).to_sparse(), "parameter": torch.nn.Parameter(torch.ones(2))}  # fmt: skip
    content = {"state_dict": weights, "args": argparse.Namespace(path=pathlib.Path("runs")), "epoch": 3,
               "scores": np.arange(3.0), "best": np.float64(0.5)}  # fmt: skip
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    if not zipped:
        return file.getvalue(), {}
    with zipfile.ZipFile(file) as archive:
        return file.getvalue(), {name: archive.read(name) for name in archive.namelist()}


def _torch_pickle() -> bytes:
    return next(part for name, part in _torch_parts()[1].items() if name.endswith("data.pkl"))


def _with_pickle(path: pathlib.Path) -> object:
    parts = {name: path.read_bytes() if name.endswith("data.pkl") else part for name, part in _torch_parts()[1].items()}
    with zipfile.ZipFile(folder() / "repacked.pth", "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return load_state_dict(folder() / "repacked.pth")


def _safetensors_header() -> dict:
    return {"params/a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "params/b/c": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
            "__metadata__": {"format": "pt"}}  # fmt: skip


def _safetensors() -> bytes:
    header = json.dumps(_safetensors_header()).encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(32))


def _with_header(path: pathlib.Path) -> object:
    data = path.read_bytes()
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(range(32)))
    return load_variables(path)


# --- arrays ---


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(6.0).reshape(2, 3), b=np.asfortranarray(np.eye(3)), c=np.array(["x", "yz"]))
    return file.getvalue()


def _as_npz(path: pathlib.Path, key: str = "a") -> pathlib.Path:
    """An archive whose one array is a file."""
    with zipfile.ZipFile(folder() / "repacked.npz", "w") as archive:
        archive.writestr(f"{key}.npy", path.read_bytes())
    return folder() / "repacked.npz"


def _described(arrays: dict[str, np.ndarray]) -> dict:
    """Arrays as lists, which are changed value by value."""
    return {name: [a.dtype.str, list(a.shape), a.ravel().tolist()] for name, a in arrays.items()}


def _made(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays from what `_described` gave; what NumPy cannot make or write is no input."""
    try:
        content = json.loads(path.read_bytes())
        with np.errstate(all="ignore"):
            return {
                name: np.array(values, np.dtype(dtype)).reshape(shape)
                for name, (dtype, shape, values) in content.items()
                if np.dtype(dtype).kind in "biufU" and len(name) < 100 and name.isascii() and "\0" not in name
            }
    except Exception as error:
        raise DataError(f"no input: {error}") from error


def _rescorer() -> dict:
    features = rescoring.PoseFeatures(((0, 1), (1, 2)), (0,), 3)
    shapes = {"layer0/kernel": (features.size, 2), "layer0/bias": (2,), "layer1/kernel": (2, 2), "layer1/bias": (2,),
              "layer2/kernel": (2, 1), "layer2/bias": (1,)}  # fmt: skip
    arrays = {f"params/{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    joints = {"joints": np.int32(3), "links": np.array(features.links, np.int32), "units": np.array([0], np.int32)}
    return _described({**joints, **arrays})


def _use_rescorer(path: pathlib.Path) -> None:
    np.savez(folder() / "rescorer.npz", **_made(path))  # pyright: ignore[reportArgumentType]
    loaded = rescoring.load(folder() / "rescorer.npz", 3)
    loaded(np.zeros((1, 3, 2)), np.ones((1, 3)), np.ones(1))


@functools.cache
def _columns() -> dict:
    """Labels of two images with three people."""
    people, images = 3, 2
    numbers = {"person_image": np.array([0, 0, 1], np.int32), "person_id": np.arange(1, 4), "track_id": np.arange(3),
               "image_id": np.arange(1, 3), "width": np.full(images, 64), "height": np.full(images, 48)}  # fmt: skip
    reals = {"box": np.full((people, 4), 9, np.float32), "area": np.full(people, 9, np.float32),
             "joints": np.full((people, 17, 3), 2, np.float32), "head_size": np.ones(people, np.float32)}  # fmt: skip
    texts = {"file_name": np.array(["a.jpg", "b.jpg"]), "skeleton": np.array("coco"),
             "skeleton_joints": np.array(COCO.joints), "skeleton_limbs": np.array(COCO.limbs),
             "skeleton_sigmas": np.array(COCO.sigmas), "skeleton_upper_body": np.array(COCO.upper_body)}  # fmt: skip
    return _described(numbers | reals | texts | {"crowd": np.zeros(people, bool)})


def _use_columns(path: pathlib.Path) -> object:
    write_columns(folder() / "labels.npz", _made(path))
    return records.read_columns(folder() / "labels.npz").to_coco()


@functools.cache
def _sequences() -> tuple[ConfigDict, pathlib.Path]:
    """A cache of one short sequence without a list of its files, and the path of its columns."""
    fields = {"scene": "sequence", "train": 1, "validation": 1, "frames": 2}
    data = ConfigDict({"dir": str(folder() / "cache"), "skeleton": "h36m", "marionettes": fields})
    marionettes.open_sequences(data, "train", progress=False)
    (path,) = (folder() / "cache").rglob("annotations-train.npz")
    (path.parent / checksums.NAME).unlink()
    return data, path


def _sequence_columns() -> dict:
    return _described(read_npz(_sequences()[1]))


def _use_sequences(path: pathlib.Path) -> object:
    data, place = _sequences()
    original, arrays = place.read_bytes(), _made(path)
    try:
        write_columns(place, arrays)
        return marionettes.open_sequences(data, "train", progress=False)
    finally:
        place.write_bytes(original)


def _listed() -> dict:
    return {"files": {"a.json": {"size": 2, "sha256": "0" * 64}, "x.array_record-0-of-1": {"size": 3}}}


def _use_list(path: pathlib.Path) -> None:
    checksums.check(path.parent)


# --- pickles ---


@functools.cache
def _motions() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    motion = {"S1": {"Walking": rng.normal(0, 0.5, (3, 32, 3)).astype(np.float32)}}
    flat = {"S1": {"Walking": [rng.uniform(0, 1000, (3, 17, 2)).astype(np.float32) for _ in range(4)]}}
    score = {f"S1_Walking.{i}": rng.random((3, 17)) for i in range(4)}
    symmetry = [[i for i, side in enumerate(H36M.sides) if side == name] for name in ("left", "right")]
    found = {"positions_3d": motion, "positions_2d": flat, "metadata": {"keypoints_symmetry": symmetry}}
    return {name: pickle.dumps(np.array(value, object)) for name, value in found.items()} | {
        "score": pickle.dumps(score)
    }


def _use_motions(path: pathlib.Path, changed: str) -> object:
    """Opens Human3.6M with one of its four pickles changed."""
    parts = _motions() | {changed: path.read_bytes()}
    root = folder() / "h36m"
    root.mkdir(exist_ok=True)
    header = _npy(np.array(None, object))[:128]  # of one object, whose pickle follows
    for name, keys in (("3d_h36m", ["positions_3d"]), ("2d_h36m_det", ["positions_2d", "metadata"])):
        with zipfile.ZipFile(root / f"data_{name}.npz", "w") as archive:
            for key in keys:
                archive.writestr(f"{key}.npy", header + parts[key])
    (root / "score.pkl").write_bytes(parts["score"])
    options = {"detector": "det", "scores": "score.pkl"}
    data = {"dir": str(root), "skeleton": "h36m", "h36m": options, "train": {"subjects": ("S1",)}}
    return h36m.open_sequences(ConfigDict(data), "train")


def _hands() -> bytes:
    return pickle.dumps({i: {"uv_vis": np.ones((42, 3)), "K": np.eye(3)} for i in range(3)}, 2)


# --- MATLAB ---


def _matlab(content: dict, compress: bool = False) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, content, do_compression=compress)
    return file.getvalue()


def _lsp() -> bytes:
    joints = np.random.default_rng(0).uniform(1, 20, (3, 14, 2))
    return _matlab({"joints": joints})


def _struct(**fields: Any) -> np.ndarray:
    found = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        found[0, 0][name] = value
    return found


def _mpii_mat() -> bytes:
    points = np.concatenate([_struct(id=k, x=10.0 + k, y=12.0, is_visible=1) for k in range(3)], 1)
    person = _struct(x1=1, y1=2, x2=9, y2=8, annopoints=_struct(point=points), scale=0.2, objpos=_struct(x=9.0, y=8.0))
    entry = _struct(image=_struct(name="a.png"), annorect=person)
    alone = np.empty((1, 1), object)
    alone[0, 0] = np.array([[1.0]])
    return _matlab({"RELEASE": _struct(annolist=entry, img_train=np.ones((1, 1)), single_person=alone)})


def _mpii_list() -> list:
    joints = [[float(10 + k), 12.0] for k in range(16)]
    return [{"image": "a.png", "center": [9.0, 8.0], "scale": 0.2, "joints": joints, "joints_vis": [1] * 16}] * 2


@functools.cache
def _picture() -> bytes:
    import cv2

    return cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()


def _opened(source: Any, skeleton: str, names: tuple[str, ...]) -> Callable[[pathlib.Path], object]:
    """Opens a data set whose annotations are a file, and reads its first image."""

    def read(path: pathlib.Path) -> object:
        (path.parent / "images").mkdir(exist_ok=True)
        for name in names:
            if not (path.parent / "images" / name).exists():
                (path.parent / "images" / name).write_bytes(_picture())
        split = {"annotations": path.name, "images": "images"}
        opened = source.open_split(ConfigDict({"dir": str(path.parent), "skeleton": skeleton, "train": split}), "train")
        assert np.isfinite(opened.annotations.box).all()
        assert np.isfinite(opened.annotations.keypoints).all()
        return pictures.header(opened.read(0))

    return read


# --- motion capture ---


def _figure() -> bytes:
    from data.test_cmu_mocap import figure_text

    return figure_text().encode()


def _clip() -> bytes:
    from data.test_cmu_mocap import clip_text

    return clip_text(3).encode()


def _use_figure(path: pathlib.Path) -> None:
    figure = asf.read_figure(path)
    (path.parent / "01_01.amc").write_bytes(_clip())
    cmu_mocap.clip_videos(path.parent / "01_01.amc", figure, cmu_mocap.Options(cameras=1))


def _use_clip(path: pathlib.Path) -> None:
    (path.parent / "whole.asf").write_bytes(_figure())
    cmu_mocap.clip_videos(path, asf.read_figure(path.parent / "whole.asf"), cmu_mocap.Options(cameras=1))


def _frames() -> dict:
    images = [{"file_name": f"a{i}.jpg", "cam_idx": 1, "action_idx": 2, "subaction_idx": 1, "frame_idx": 5 * i}
              for i in range(6)]  # fmt: skip
    camera = {"R": np.eye(3).tolist(), "t": [0, 0, 5000], "f": [1000, 1000], "c": [500, 500]}
    joints = {"2": {"1": {str(5 * i): [[k, 2 * k, 10] for k in range(17)] for i in range(6)}}}
    return {"data": {"images": images}, "camera": {"1": camera}, "joint_3d": joints}


def _use_frames(path: pathlib.Path) -> object:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"no input: {error}") from error
    for kind in ("data", "camera", "joint_3d"):
        part = content.get(kind) if isinstance(content, dict) else content
        (path.parent / f"Human36M_subject1_{kind}.json").write_text(json.dumps(part))
    return h36m_frames.read_frames(path.parent, 1)


def parsers() -> dict[str, Parser]:
    """{name: valid input, parser}; see `faults.fuzz`."""
    weights: dict[str, tuple[Make, Parse]] = {
        "torch": (lambda: _torch_parts()[0], at_path(load_state_dict, "torch/whole.pth")),
        "torch, its pickle": (_torch_pickle, at_path(_with_pickle, "torch/data.pkl")),
        "torch before 1.6": (lambda: _torch_parts(False)[0], at_path(load_state_dict, "torch/old.pth")),
        "safetensors": (_safetensors, at_path(load_variables, "x.safetensors")),
        "safetensors, its header": (_safetensors_header, at_path(_with_header, "header.safetensors")),
        "npz": (_npz, at_path(load_state_dict, "x.npz")),
        "npz, an array": (
            lambda: _npy(np.arange(6.0).reshape(2, 3)),
            at_path(lambda p: load_state_dict(_as_npz(p)), "x.npy"),
        ),
        "rescorer": (_rescorer, at_path(_use_rescorer, "rescorer.json")),
    }
    cached: dict[str, tuple[Make, Parse]] = {
        "labels of records": (_columns, at_path(_use_columns, "columns.json")),
        "sequences in the cache": (_sequence_columns, at_path(_use_sequences, "sequences.json")),
        "list of files": (_listed, at_path(_use_list, f"listed/{checksums.NAME}")),
    }
    motion: dict[str, tuple[Make, Parse]] = {
        f"h36m {name}": (
            functools.partial(_motions().__getitem__, name),
            at_path(functools.partial(_use_motions, changed=name), f"h36m-{name}.pkl"),
        )
        for name in ("positions_3d", "positions_2d", "metadata", "score")
    }
    others: dict[str, tuple[Make, Parse]] = {
        "rhd": (_hands, at_path(rhd.read_joints, "rhd.pickle")),
        "lsp": (_lsp, at_path(_opened(lsp, "lsp", ("im0001.jpg", "im0002.jpg")), "lsp/joints.mat")),
        "mpii mat": (_mpii_mat, at_path(_opened(mpii, "mpii", ("a.png",)), "mpii/mpii.mat")),
        "mpii list": (_mpii_list, at_path(_opened(mpii, "mpii", ("a.png",)), "mpii/list.json")),
        "asf": (_figure, at_path(_use_figure, "01/01.asf")),
        "amc": (_clip, at_path(_use_clip, "02/02_01.amc")),
        "h36m frames": (_frames, at_path(_use_frames, "frames/all.json")),
    }
    return weights | cached | motion | others
