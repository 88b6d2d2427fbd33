"""Parsers of labels and results in COCO's format and of other JSON lists, for `faults.fuzz`.

What was read is used as training and evaluation use it, so that nothing waits there.
"""

import dataclasses
import functools
import pathlib
import tempfile
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from faults.fuzz import Content, Parser

from jaxpose import skeleton
from jaxpose.data import proposals
from jaxpose.data.annotations import Annotations
from jaxpose.data.examples import person_boxes
from jaxpose.data.formats import regions
from jaxpose.data.sources import coco, freihand, h3d, require_inside, surreal
from jaxpose.errors import DataError
from jaxpose.evaluation import pose_files
from jaxpose.evaluation.metrics import boxes as box_metric
from jaxpose.evaluation.metrics import coco as coco_metric
from jaxpose.evaluation.metrics import crowdpose
from jaxpose.evaluation.suppression import read_rules
from jaxpose.files.json_files import parse_json, read_json
from jaxpose.ops.pose_nms import PoseNMS
from jaxpose.skeleton import COCO

MOST_PIXELS = 1 << 20
"""Images with more are not drawn here."""


def labels() -> dict:
    """Three small images with five people, one of them a crowd, and a category without joints."""
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
            {"id": i, "file_name": f"{i}.png", "width": 96, "height": 128, "crowdIndex": 0.2} for i in range(1, 4)
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": [[16, 14], [14, 12]]},
            {"id": 2, "name": "car"},
        ],
        "annotations": people,
    }


def animals() -> dict:
    """Two categories with the same four joints, and one with others."""
    joints = ["nose", "L_paw", "R_paw", "tail"]
    legs = [value for k in range(4) for value in (20.0 + 9 * k, 30.0 + 2 * k, 1)]
    crowd = {"size": [60, 50], "counts": "Z62]O7"}
    return {
        "images": [{"id": 7, "file_name": "a/b.jpg", "width": 50, "height": 60}],
        "categories": [
            {"id": 1, "name": "cat", "keypoints": joints, "skeleton": [[1, 2]], "flip_pairs": [[2, 3]]},
            {"id": 2, "name": "dog", "keypoints": joints, "flip_pairs": [["L_paw", "R_paw"]]},
            {"id": 3, "name": "hand", "keypoints": ["a", "b"]},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [5, 6, 40, 50], "keypoints": legs},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [5, 6, 40, 50], "area": 900, "keypoints": legs},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [5, 6, 40, 50], "keypoints": [1, 2, 2, 3, 4, 2]},
            {"id": 4, "image_id": 7, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1, "segmentation": crowd},
        ],
    }


def use_labels(data: bytes, wanted: skeleton.Skeleton | None = None) -> None:
    """Labels, and all that a training and an evaluation make of them."""
    a = coco.parse_keypoints(parse_json(data, "labels.json"), "labels.json", wanted)
    assert a.box.dtype == a.keypoints.dtype == a.area.dtype == np.float32
    assert all(np.isfinite(values).all() for values in (a.box, a.keypoints, a.area))
    assert len(set(a.person_id.tolist())) == a.num_people == len(a.visibility)
    assert np.isin(a.visibility, (0, 1, 2)).all()
    require_inside(a.file_name.tolist(), "labels.json", types.SimpleNamespace(get=lambda *_: False))
    _draw(a)
    if a.num_people:
        coco_metric.load_truth(a.to_coco(), a.skeleton)
        person_boxes.annotated(a, "labels.json")


def _draw(a: Annotations) -> None:
    for row in range(a.num_images):
        if int(a.width[row]) * int(a.height[row]) <= MOST_PIXELS:
            mask = a.unlabelled_mask(row)
            assert mask is None or mask.shape == (a.height[row], a.width[row])


def detections() -> list:
    return [
        {"image_id": 1 + i % 3, "category_id": 1, "bbox": [10.0 + i, 12.0, 30.5, 50.0], "score": 0.9 - i / 10}
        for i in range(6)
    ]


def poses() -> list:
    points = [value for k in range(17) for value in (20.0 + k, 30.0 + 2 * k, 0.5)]
    return [{"image_id": i, "keypoints": points, "score": 0.5, "box": [1, 2, 30, 40]} for i in range(3)]


def masks() -> list:
    """Regions of an image of 37 x 29 pixels."""
    import hotcoco

    mask = np.random.default_rng(0).random((29, 37)) < 0.02
    counts = hotcoco.mask.encode(np.asfortranarray(mask))["counts"].decode()
    return [
        {"size": [29, 37], "counts": counts},
        {"size": [29, 37], "counts": [1, 2, 29 * 37 - 3]},
        [[1, 1, 20, 1.5, 20, 25], [3, 4, 5, 6, 7, 8, 9, 10]],
    ]


def use_masks(data: bytes) -> None:
    found = parse_json(data, "regions.json")
    drawable = [region for region in found if regions.is_drawable(region, 37, 29)] if isinstance(found, list) else []
    if not drawable:
        raise DataError("regions.json: no region can be drawn")
    packed = regions.Regions.pack([0] * len(drawable), drawable)
    mask = packed.mask(0, 37, 29)
    assert mask is not None
    assert mask.shape == (29, 37)


def _proposals() -> dict:
    center = [[0.1 * k, 0.2 * k] for k in range(17)]
    numbers = {"mean": [[0.1, 0, 0, 0]] * 2, "std": [[0.1] * 4] * 2, "centers": [center]}
    return {"rule": "alphapose", "joints": list(COCO.joints), **numbers}


def _pose_nms() -> dict:
    return {"AP": 0.5, "pose_nms": dataclasses.asdict(PoseNMS.preset("rmpe2017"))}


def use_proposals(path: pathlib.Path) -> None:
    found = proposals.PoseGuidedProposals.read(path).for_skeleton(COCO)
    keypoints = np.random.default_rng(0).uniform(0, 50, (17, 2))
    drawn = found.draw(np.array([5.0, 5, 30, 40]), keypoints, np.ones(17), (64, 64), np.random.default_rng(0))
    assert np.isfinite(drawn.box).all()


def use_truth(path: pathlib.Path, load: Callable[[Any], dict]) -> None:
    truth = load(path)
    ids = coco_metric.evaluated_images(truth, None, [])
    people = truth["annotations"]
    assert len({person["id"] for person in people}) == len(people)
    if "keypoints" in truth["categories"][0]:
        results = [{f: a[f] for f in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for a in people]
        coco_metric.match(truth, results, COCO.sigmas, ids)
    else:
        results = [{f: a[f] for f in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in people]
        coco_metric.open_evaluation(truth, results, "bbox", ids, None).evaluate()


def at_path(use: Callable[[pathlib.Path], object], name: str = "file.json") -> Callable[[bytes], None]:
    """A parser of bytes from one of a path, which always is the same."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz"))

    def parse(data: bytes) -> None:
        (folder / name).write_bytes(data)
        use(folder / name)

    return parse


def _freihand_hands() -> list:
    return np.random.default_rng(0).uniform(0.1, 1, (2, 21, 3)).tolist()


def use_freihand(path: pathlib.Path) -> None:
    path.with_name("file_K.json").write_text(
        "[[[400, 0, 112], [0, 400, 112], [0, 0, 1]], [[1, 0, 1], [0, 1, 1], [0, 0, 1]]]"
    )
    freihand.read_keypoints(path)


def _records(joints: int) -> list:
    points = np.random.default_rng(0).uniform(5, 40, (3, joints, 2)).tolist()
    return [{"name": f"{i}.jpg", "keypoint2d": p, "without_object": 1} for i, p in enumerate(points)]


def use_surreal(path: pathlib.Path) -> None:
    for run in surreal.RUNS:
        (path.parent / f"{run}.json").write_bytes(path.read_bytes())
    surreal.read_runs(path.parent)


def parsers() -> dict[str, Parser]:
    """{name: valid input, parser}; see `faults.fuzz`."""
    sizes = np.array([[96, 128]] * 3)
    truth: dict[str, Callable[[Any], dict]] = {
        "coco truth": functools.partial(coco_metric.load_truth, skeleton=COCO),
        "box truth": box_metric.load_truth,
        "crowdpose truth": lambda t: coco_metric.load_truth(crowdpose.with_box_areas(coco_metric.read_truth(t)), COCO),
    }
    found: dict[str, tuple[Callable[[], Content], Callable[[bytes], object]]] = {
        "coco labels": (labels, use_labels),
        "coco labels of animals": (animals, functools.partial(use_labels, wanted=COCO)),
        "coco regions": (masks, use_masks),
        "coco detections": (detections, at_path(lambda path: coco.read_detections(path, np.arange(1, 4), sizes))),
        "poses": (poses, at_path(lambda p: pose_files.read_poses(p, COCO, {"score": None, "box": 4}, "mend it"))),
        "pose nms": (_pose_nms, at_path(read_rules)),
        "proposals": (_proposals, at_path(use_proposals)),
        "freihand": (_freihand_hands, at_path(use_freihand, "file_xyz.json")),
        "surreal": (functools.partial(_records, 24), at_path(use_surreal)),
        "h3d": (functools.partial(_records, 21), at_path(h3d.read_records)),
        "json": (labels, at_path(read_json)),
    }
    return found | {name: (labels, at_path(functools.partial(use_truth, load=load))) for name, load in truth.items()}
