"""Parsers of labels and results in COCO's format, for `faults.fuzz`."""

from faults.fuzz import Parser

from jaxpose import skeleton
from jaxpose.data.sources import coco
from jaxpose.files.json_files import parse_json


def labels() -> dict:
    """Three small images with five people, one of them a crowd, and two more categories."""
    joints = list(skeleton.COCO.joints)
    points = [value for k in range(17) for value in (20.0 + k, 30.0 + 2 * k, 2)]
    region = [[20, 20, 60, 20, 60, 100]]
    people = [
        {"id": i, "image_id": 1 + i % 3, "category_id": 1, "iscrowd": 0, "bbox": [20.0, 20.0, 56.0, 88.0],
         "area": 2600.0, "num_keypoints": 17, "keypoints": list(points), "track_id": i, "segmentation": region}
        for i in range(1, 6)
    ]  # fmt: skip
    people[3] |= {"num_keypoints": 0, "keypoints": [0] * 51}
    people[4] |= {"iscrowd": 1, "segmentation": {"size": [128, 96], "counts": [0, 128, 95 * 128]}}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 96, "height": 128, "crowdIndex": 0.2} for i in (1, 2, 3)
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": joints, "skeleton": [[16, 14], [14, 12]]},
            {"id": 2, "name": "car"},
        ],
        "annotations": people,
    }


def parsers() -> dict[str, Parser]:
    """{name: valid input, parser}; see `faults.fuzz`."""
    return {"coco labels": (labels, lambda data: coco.parse_keypoints(parse_json(data, "labels.json"), "labels.json"))}
