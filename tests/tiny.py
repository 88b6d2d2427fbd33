"""Tiny data sets and configs for tests that train."""

import json
import pathlib

import cv2
import numpy as np
from ml_collections import ConfigDict

from configs import anatomy3d, dcpose, dekr, dsnt, heatmap, higherhrnet, prtr, regda, rmpe
from jaxpose import skeleton
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


CONFIGS = {
    "prtr": lambda: prtr.get_config("coco_laptop"),
    "dcpose": dcpose.get_config,
    "anatomy3d": anatomy3d.get_config,
    "heatmap": heatmap.get_config,
    "dsnt": dsnt.get_config,
    "rmpe": rmpe.get_config,
    "regda": regda.get_config,
    "higherhrnet": higherhrnet.get_config,
    "dekr": dekr.get_config,
    "detr": lambda: prtr.get_config("detector"),
    "sequential_prtr": lambda: stages.pick(prtr.get_config("sequential")),
}
"""Default config of each method."""

CROP = {"input_size": (32, 32), "backbone_width": 4}
HRNET = {
    "input_size": 64,
    "max_people": 2,
    "backbone": "hrnet_w4",
    "backbone_stages": (1, 1, 1),
    "backbone_blocks": 1,
    "stem_width": 4,
    "stem_blocks": 1,
}
TRANSFORMER = {"hidden_dim": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 16}
RESNET = {
    "backbone": "resnet18",
    "backbone_width": 4,
    "backbone_stages": (1, 1, 1, 1),
    "frozen_norm": False,
    "frozen_stages": 0,
}
DETECTOR = {
    **RESNET,
    **TRANSFORMER,
    "input_size": (64, 64),
    "short_side": 64,
    "long_side": 64,
    "max_people": 3,
    "num_queries": 5,
    "dilation": True,
}
POSE_IN_BOXES = {
    "levels": (2, 3),
    "crop_size": (3, 4),
    "top_people": 3,
    "keypoint_dim": 16,
    "keypoint_heads": 2,
    "keypoint_encoder_layers": 1,
    "keypoint_decoder_layers": 1,
    "keypoint_feedforward": 16,
    "keypoint_queries": 18,
}

SMALLEST = {
    "prtr": CROP | TRANSFORMER | {"backbone_stages": (1, 1)},
    "heatmap": CROP | {"backbone_stages": (1, 1), "deconv_layers": 1, "deconv_features": 4},
    "dcpose": CROP
    | {"backbone": "resnet18", "backbone_stages": (1, 1), "deconv_layers": 1, "deconv_features": 4}
    | {"combination_features": 4, "dilations": (1, 2)},
    "dsnt": CROP | {"backbone_stages": (1, 1), "dilate": 1},
    "rmpe": CROP | {"deconv_features": 4, "localization_width": 4, "localization_stages": (1, 1)},
    "regda": CROP | {"backbone_stages": (1, 1), "deconv_features": (4,), "deconv_kernels": (4,)},
    "higherhrnet": HRNET | {"deconv_features": 4, "deconv_blocks": 1},
    "dekr": HRNET | {"offset_features": 2, "offset_blocks": 1},
    "detr": DETECTOR,
    "anatomy3d": {"widths": (3, 3), "channels": 8, "num_drawn": 4, "skeleton": "h36m"},
    "sequential_prtr": DETECTOR | POSE_IN_BOXES,
}
METRICS = {
    "anatomy3d": (("mpjpe",), "MPJPE"),
    "detr": (("boxes",), "box_AP"),
    "sequential_prtr": (("coco", "boxes"), "AP"),
}
"""Metrics, and the one for the best checkpoint, where they are not COCO's of keypoints."""


def config(folder: pathlib.Path, name: str = "prtr") -> ConfigDict:
    """A method at its smallest on the data of `write_coco`, or for sequences on some that are put beside them; a step
    takes a few milliseconds.
    """
    c = CONFIGS[name]()
    c.method.update({"skeleton": "coco"} | SMALLEST[name])
    c.data.update({"skeleton": c.method.skeleton, "dir": str(folder)})
    if name == "anatomy3d":
        c.data.marionettes.update({"train": 3, "validation": 2, "frames": 12})
    else:
        c.data.source = "coco"
    for split in ("train", "validation"):
        c.data[split].update({"annotations": "labels.json", "images": "images"})
    c.stages, c.evaluate.gap, c.init_from = (), (), ""
    if name == "regda":
        c.data.streams = {}
    c.data.threads = 2
    c.data.detection.crop = 0.5
    c.optim.learning_rate = 1e-3
    c.optim.schedule.warmup = 2
    c.train.update({"steps": 8, "batch_size": 8, "checkpoint_every": 2, "log_every": 2})
    metrics, best = METRICS.get(name, (("coco",), "AP"))
    c.evaluate.update({"every": 0, "batch_size": 8, "metrics": metrics, "best": best})
    return c
