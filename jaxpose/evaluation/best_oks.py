"""How good each found pose is: its best OKS with anybody in the image, as DEKR's rescoring network learns it.

This is COCO's similarity without COCO's matching: a person who was found twice serves both poses. It is computed on the
host in float64, once per data set, because a few equal poses must come out as exactly 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpose.ops.oks import keypoint_similarity

AREA_RANGES = ((0.0, 1e10), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""All, medium and large people, both ends included (pixels^2)."""
MAX_DETECTIONS = 20


def best_oks(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    sigmas: Iterable[float],
    area_ranges: Sequence[tuple[float, float]] = AREA_RANGES,
    max_detections: int = MAX_DETECTIONS,
) -> tuple[np.ndarray, np.ndarray]:
    """The best OKS of the highest scored poses of every image, once for each range of areas.

    In a range, people outside it count like crowds and people without labels: only where the image has no other person.
    A pose in an image without people gets 0.

    Args:
      truth: labels with "annotations" as `metrics.coco.load_truth` gives them, whose "area" OKS takes.
      results: poses in the format of the COCO server: image_id, keypoints, score.
      sigmas: [K] OKS constants of the skeleton's joints.
      area_ranges: R pairs of pixels^2.
      max_detections: number of poses of an image that count, the best scored; earlier ones first among equals.

    Returns:
      index [D] into `results`, by image id and falling score, and oks [R, D] float64.
    """
    sigmas = np.asarray(tuple(sigmas), np.float64)
    people = _by_image(truth["annotations"])
    order, values = [], []
    for image_id, found in sorted(_by_image(results).items()):
        found = sorted(found, key=lambda i: -results[i]["score"])[:max_detections]
        persons = [truth["annotations"][i] for i in people.get(image_id, ())]
        poses = np.array([results[i]["keypoints"] for i in found], np.float64).reshape(len(found), -1, 3)[..., :2]
        order += found
        values.append(_best(keypoint_oks(poses, persons, sigmas), persons, area_ranges))
    empty = np.zeros((len(area_ranges), 0))
    return np.array(order, np.int64), np.concatenate([empty, *values], axis=1)


def _by_image(records: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record["image_id"], []).append(i)
    return groups


def keypoint_oks(poses: np.ndarray, people: Sequence[Mapping[str, Any]], sigmas: np.ndarray) -> np.ndarray:
    """COCO's OKS between poses and annotated people of an image.

    Of people without labelled joints the distance is that from the box, doubled in size to all sides by its own width
    and height, and all joints count.

    Args:
      poses: [D, K, 2] found poses in pixels.
      people: annotations of G people, with keypoints, bbox, area.
      sigmas: [K] OKS constants of the skeleton's joints.

    Returns:
      [D, G] float64.
    """
    if not people:
        return np.zeros((len(poses), 0))
    joints = np.array([person["keypoints"] for person in people], np.float64).reshape(len(people), -1, 3)
    boxes = np.array([person["bbox"] for person in people], np.float64)
    area = np.array([person["area"] for person in people], np.float64)
    labelled = joints[..., 2] > 0
    anonymous = ~np.any(labelled, axis=-1)
    low = (boxes[:, :2] - boxes[:, 2:])[:, None]
    high = (boxes[:, :2] + 2 * boxes[:, 2:])[:, None]
    beyond = np.maximum(low - poses[:, None], 0) + np.maximum(poses[:, None] - high, 0)
    distance = np.where(anonymous[:, None, None], beyond, poses[:, None] - joints[..., :2])
    counted = labelled | anonymous[:, None]
    return keypoint_similarity(np.square(distance).sum(-1), area, sigmas, counted)


def _best(
    oks: np.ndarray, people: Sequence[Mapping[str, Any]], area_ranges: Sequence[tuple[float, float]]
) -> np.ndarray:
    """[R, D] from [D, G]."""
    area = np.array([person["area"] for person in people], np.float64)
    uncounted = np.array([bool(p["iscrowd"]) or p["num_keypoints"] == 0 for p in people], bool)
    rows = []
    for low, high in area_ranges:
        regular = ~uncounted & (area >= low) & (area <= high)
        chosen = regular if regular.any() else np.ones(len(people), bool)
        rows.append(oks[:, chosen].max(axis=1, initial=0))
    return np.stack(rows)
