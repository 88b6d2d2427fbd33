"""What happens to the poses of a data set after the network: new scores, and duplicates removed, on device."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation.metrics.rows import Rows
from jaxpose.evaluation.rescoring import Rescoring, load
from jaxpose.ops import nms
from jaxpose.ops.pose_nms import PoseNMS, pose_nms

_MAX_PAIRS = 2**18
"""Pairs of poses that one call compares."""


@dataclasses.dataclass(frozen=True)
class Suppression:
    """What happens to duplicates.

    Attributes:
      kind: "hard" drops a pose whose OKS with a better one of its image exceeds `oks`; "soft" re-ranks and keeps at
        most 20 poses an image; "parametric" groups and merges poses by `rules`; "none" keeps everything, for methods
        that find each person once.
      oks: threshold of "hard" and "soft"; .9 in the top-down family.
      rules: parameters of parametric pose NMS (RMPE).
      rescoring: scores people anew before (DEKR); None to leave their scores.
    """

    kind: str = "hard"
    oks: float = 0.9
    rules: PoseNMS = PoseNMS.preset()
    rescoring: Rescoring | None = None

    def __post_init__(self):
        """Raises `ConfigError` for an unknown kind."""
        if self.kind not in ("hard", "soft", "parametric", "none"):
            raise ConfigError(
                f"config.evaluate.suppression is {self.kind!r}; it can be 'hard', 'soft', 'parametric' or 'none'"
            )

    @classmethod
    def create(cls, config: Any, joints: int) -> "Suppression":
        """What `config.evaluate` describes for poses of so many joints.

        Fields: `suppression`, `oks`, `pose_nms` with the fields of `PoseNMS`, or as `file` the path of what
        jaxpose fit-pose-nms wrote, and `rescoring`, the path of what jaxpose fit-rescoring wrote.
        """
        fields = dict(config.pose_nms)
        path = fields.pop("file", "")
        rules = read_rules(path) if path else PoseNMS.preset(**fields)
        rescoring = load(config.rescoring, joints) if config.rescoring else None
        return cls(config.suppression, config.oks, rules, rescoring)


def read_rules(path: str | pathlib.Path) -> PoseNMS:
    """The parameters that jaxpose fit-pose-nms wrote.

    Raises:
      DataError: not such a file.
      ConfigError: a parameter that cannot work.
    """
    from jaxpose.data.sources.coco import read_json

    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("pose_nms"), dict):
        raise DataError(f"{path}: field 'pose_nms': expected parameters; write it by jaxpose fit-pose-nms")
    return PoseNMS.preset(**content["pose_nms"])


def suppress(rows: Rows, sigmas: Iterable[float], suppression: Suppression) -> Rows:
    """The poses that remain, image by image, each image's best first ("none": all, as they come).

    Args:
      rows: poses as in `metrics.CocoKeypoints.update`, grouped by image id (rising).
      sigmas: [K] of the skeleton.
      suppression: how. "parametric" also gives new keypoints, scores and person_score, for it merges poses.

    Raises:
      DataError: boxes are missing that "parametric" needs.
    """
    if suppression.rescoring:
        rows = rows | {"person_score": _rescored(rows, suppression.rescoring)}
    if suppression.kind == "none":
        return rows
    if suppression.kind == "parametric":
        return _merge(rows, suppression.rules)
    kept = [np.zeros(0, np.int64)]
    pick = _picker(suppression.kind)
    sigmas = np.asarray(tuple(sigmas), np.float32)
    for slots, valid in _padded_images(rows["image_id"]):
        arrays = (rows[name][slots].astype(np.float32) for name in ("keypoints", "person_score", "area"))
        order, keep = jax.device_get(pick(*arrays, valid, sigmas, suppression.oks))
        ranked = np.take_along_axis(slots, order, -1)
        kept.append(ranked[np.take_along_axis(keep, order, -1)])
    indices = np.concatenate(kept)
    indices = indices[np.argsort(rows["image_id"][indices], kind="stable")]
    return {name: values[indices] for name, values in rows.items()}


def _rescored(rows: Rows, rescoring: Rescoring) -> np.ndarray:
    """[n] new scores; few shapes are compiled, however many poses there are."""
    count = len(rows["person_score"])
    padded = max(64, 1 << max(count - 1, 0).bit_length())
    fields = (rows[name].astype(np.float32) for name in ("keypoints", "scores", "person_score"))
    filled = (np.pad(field, [(0, padded - count)] + [(0, 0)] * (field.ndim - 1)) for field in fields)
    return np.asarray(_rescore(rescoring, *filled))[:count]


@jax.jit
def _rescore(rescoring: Rescoring, keypoints: Any, scores: Any, person_score: Any) -> jax.Array:
    return rescoring(keypoints, scores, person_score)


@functools.cache
def _picker(kind: str) -> Any:
    return jax.jit({"hard": nms.oks_nms, "soft": nms.soft_oks_nms}[kind])


def _merge(rows: Rows, rules: PoseNMS) -> Rows:
    """Parametric pose NMS of all images; the order within an image is that of picking."""
    if missing := {"box", "box_score"} - rows.keys():
        raise DataError(f"parametric suppression looks at detections, but the poses lack the fields {sorted(missing)}")
    blocks, picked = [], [np.zeros(0, np.int64)]
    changed = ("keypoints", "scores", "person_score")
    for slots, valid in _padded_images(rows["image_id"]):
        fields = (rows[name][slots].astype(np.float32) for name in ("keypoints", "scores", "box", "box_score"))
        found = jax.device_get(_pose_nms(*fields, valid, rules))
        kept = np.take_along_axis(found.keep, found.order, -1)
        picked.append(np.take_along_axis(slots, found.order, -1)[kept])
        images, position = np.nonzero(kept)
        blocks.append({name: getattr(found, name)[images, found.order[images, position]] for name in changed})
    indices = np.concatenate(picked)
    by_image = np.argsort(rows["image_id"][indices], kind="stable")
    remaining = {name: values[indices[by_image]] for name, values in rows.items()}
    merged = {name: np.concatenate([block[name] for block in blocks]) for name in changed} if blocks else {}
    return remaining | {name: values[by_image].astype(rows[name].dtype) for name, values in merged.items()}


_pose_nms = jax.jit(pose_nms)


def _padded_images(image_id: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups rows by image: (rows [I, N], valid [I, N]). Only a handful of shapes, whatever the data."""
    _, start, count = np.unique(image_id, return_index=True, return_counts=True)
    smaller, capacity = 0, 8
    while smaller < count.max(initial=0):
        images = np.flatnonzero((count > smaller) & (count <= capacity))
        size = max(1, min(_MAX_PAIRS // capacity**2, 1 << (len(images) - 1).bit_length()))
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            position = np.arange(capacity)
            valid = np.zeros((size, capacity), bool)
            valid[: len(chunk)] = position < count[chunk, None]
            slots = np.zeros((size, capacity), np.int64)
            slots[: len(chunk)] = start[chunk, None] + position
            yield np.where(valid, slots, 0), valid
        smaller, capacity = capacity, 4 * capacity
