"""A data set of standing and lying people, and the boxes that a detector finds of them."""

import json

import numpy as np

from jaxpose.ops.boxes import box_to_corner
from jaxpose.skeleton import COCO

WIDTH, HEIGHT = 640, 480
MEANS = {"standing": (-0.1, -0.05, 0.1, 0.05), "lying": (0.05, 0.15, -0.05, 0.2)}
STD = 0.02


def pose(kind):
    """Joints in a unit box, upright or lying."""
    heights = {"eye": 0.05, "ear": 0.06, "shoulder": 0.2, "elbow": 0.4, "wrist": 0.5}
    heights |= {"hip": 0.55, "knee": 0.75, "ankle": 1.0, "nose": 0.07}
    x = [{"left": 0.7, "right": 0.3, "center": 0.5}[side] for side in COCO.sides]
    points = np.stack([x, [heights[joint.split("_")[-1]] for joint in COCO.joints]], -1)
    return points if kind == "standing" else points[:, ::-1]


def write_people(folder, count=200, seed=0):
    """Annotation and detection files: half of the people stand, half lie; offsets as MEANS and STD say."""
    rng = np.random.default_rng(seed)
    images, people, boxes = [], [], []
    for i in range(count):
        kind = ("standing", "lying")[i % 2]
        box = np.concatenate([rng.uniform(150, 250, 2), [80, 160] if kind == "standing" else [160, 80]])
        keypoints = box[:2] + pose(kind) * box[2:] + rng.normal(0, 1, (17, 2))
        visible = rng.random(17) < 0.8
        triples = np.where(visible[:, None], np.concatenate([keypoints, np.full((17, 1), 2)], 1), 0)
        images.append({"id": i + 1, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT})
        people.append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": 1,
                "bbox": box.tolist(),
                "area": float(box[2:].prod()),
                "iscrowd": 0,
                "keypoints": triples.reshape(-1).tolist(),
                "num_keypoints": int(visible.sum()),
            }
        )
        moved = box_to_corner(box) + (np.array(MEANS[kind]) + STD * rng.standard_normal(4)) * np.tile(box[2:], 2)
        for found in (moved, box_to_corner(box) + 400):  # the second one is nobody's
            bbox = [*found[:2], *(found[2:] - found[:2])]
            boxes.append({"image_id": i + 1, "category_id": 1, "bbox": bbox, "score": 0.9})
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": []}
    truth = {"images": images, "annotations": people, "categories": [category]}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "boxes.json").write_text(json.dumps(boxes))
