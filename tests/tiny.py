"""Tiny data sets and configs for tests that train."""

import importlib
import json
import pathlib
import types
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from jaxpose import methods, skeleton
from jaxpose.methods.lifting import SequenceInput
from jaxpose.training import stages

COCO = skeleton.COCO


def write_coco(folder: pathlib.Path, images: int = 12, seed: int = 0) -> pathlib.Path:
    """A COCO-format data set of coloured joints on noise: folder/images/*.jpg and folder/labels.json."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    colors = rng.integers(0, 256, (COCO.num_joints, 3))
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []}],
    }
    for i in range(images):
        picture = rng.integers(0, 64, (80, 64, 3)).astype(np.uint8)
        points = np.stack([rng.uniform(12, 52, COCO.num_joints), rng.uniform(12, 68, COCO.num_joints)], -1)
        for point, color in zip(points, colors, strict=True):
            cv2.circle(picture, tuple(int(v) for v in point), 2, tuple(int(c) for c in color), -1)
        cv2.imwrite(str(folder / "images" / f"{i:03d}.jpg"), picture)
        content["images"].append({"id": 100 + i, "file_name": f"{i:03d}.jpg", "width": 64, "height": 80})
        content["annotations"].append(
            {
                "id": i + 1,
                "image_id": 100 + i,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [10.0, 10.0, 44.0, 60.0],
                "area": 1600.0,
                "num_keypoints": COCO.num_joints,
                "keypoints": np.concatenate([points, np.full((COCO.num_joints, 1), 2)], -1).reshape(-1).tolist(),
            }
        )
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def edit_labels(folder: pathlib.Path, change) -> None:
    """Applies `change` to the content of folder/labels.json."""
    content = json.loads((folder / "labels.json").read_text())
    change(content)
    (folder / "labels.json").write_text(json.dumps(content))


def fields(name: str) -> dict[str, Any]:
    """Fields of a method at its smallest, as its paper's folder has them."""
    return dict(_paper(name).FIELDS[name])


def _paper(name: str) -> types.ModuleType:
    """The module `tiny` of the folder of a method."""
    folder = type(methods.create({"name": name})).__module__.rpartition(".")[0]
    return importlib.import_module(f"{folder}.tiny")


def _default(name: str) -> ConfigDict:
    """The config that the paper's `tiny` names, of its last stage."""
    stem, _, variant = getattr(_paper(name), "CONFIGS", {}).get(name, name).partition(":")
    found = importlib.import_module(f"configs.{stem}").get_config(variant)
    return stages.pick(found) if found.stages else found


def _metrics(method: methods.Method) -> tuple[tuple[str, ...], str]:
    """Metrics of a method's results, and the one for the best checkpoint."""
    if isinstance(method, SequenceInput):
        return ("mpjpe",), "MPJPE"
    kinds = {"poses": "coco", "boxes": "boxes"}
    return tuple(kinds[result] for result in method.outputs), "AP" if method.finds_poses else "box_AP"


def config(folder: pathlib.Path, name: str = "prtr") -> ConfigDict:
    """A method at its smallest on the data of `write_coco`, or for sequences on some that are put beside them; a step
    takes a few milliseconds.
    """
    c = _default(name)
    c.method.update({"skeleton": "coco"} | fields(name))
    method = methods.create(c.method)
    c.data.update({"skeleton": c.method.skeleton, "dir": str(folder)})
    if isinstance(method, SequenceInput):
        c.data.marionettes.update({"train": 3, "validation": 2, "frames": 12})
    else:
        c.data.source = "coco"
    for split in ("train", "validation"):
        c.data[split].update({"annotations": "labels.json", "images": "images"})
    c.data.streams = {name: stream for name, stream in c.data.streams.items() if "marionettes" not in stream}
    c.stages, c.evaluate.gap, c.init_from = (), (), ""
    c.data.threads = 2
    c.data.detection.crop = 0.5
    c.optim.learning_rate = 1e-3
    c.optim.schedule.warmup = 2
    c.train.update({"steps": 8, "batch_size": 8, "checkpoint_every": 2, "log_every": 2})
    metrics, best = _metrics(method)
    c.evaluate.update({"every": 0, "batch_size": 8, "metrics": metrics, "best": best})
    return c
