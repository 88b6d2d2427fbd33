"""The poses of a data set after the network: new scores, then no duplicates; image by image, on device, batched.

`config.evaluate.suppression` names a module of this package ("hard") or anything else ("mylab.Mine"): a class that
inherits `Suppressor`, or `DeviceSuppressor` where poses of an image are compared.
"""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxpose.errors import DataError
from jaxpose.evaluation.by_name import find_class
from jaxpose.evaluation.rescoring import Rescoring, load
from jaxpose.evaluation.rows import Rows
from jaxpose.files import fields
from jaxpose.files.fields import FieldError
from jaxpose.files.json_files import read_json
from jaxpose.ops.pose_nms import PoseNMS
from jaxpose.types import Array

_MAX_PAIRS = 2**18
"""Pairs of poses that one call compares at most, unless one image has more."""
_IMAGES = 16
"""Images that one call looks at, with more at least, so that small data sets and streams share compiled programs."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=("oks", "rules", "rescoring"), meta_fields=("kind",))
@dataclasses.dataclass(frozen=True)
class Suppression:
    """Rescoring and suppression of duplicates, as `config.evaluate` describes them.

    Attributes:
      kind: name of the suppressor. "hard" drops a pose whose OKS with a better one of its image exceeds `oks`; "soft"
        ranks poses anew and keeps at most 20 an image; "parametric" groups and merges poses by `rules`; "none" keeps
        everything, for methods that find each person once.
      oks: threshold of "hard" and "soft"; .9 in the top-down family.
      rules: parameters of parametric pose NMS.
      rescoring: network that scores people anew before; None to leave their scores.
    """

    kind: str = "hard"
    oks: float = 0.9
    rules: PoseNMS = PoseNMS.preset()
    rescoring: Rescoring | None = None

    def __post_init__(self):
        """Raises `ConfigError` for an unknown kind."""
        _find(self.kind)

    @classmethod
    def create(cls, config: Any, joints: int) -> "Suppression":
        """The suppression that `config.evaluate` describes.

        Args:
          config: config with `suppression`, `oks`, `pose_nms` (the fields of `PoseNMS`, or as `file` the path of what
            jaxpose fit-pose-nms wrote) and `rescoring`, the path of what jaxpose fit-rescoring wrote.
          joints: number of joints of the poses.

        Raises:
          ConfigError: a field that cannot work.
          DataError, CheckpointError: a file that cannot be used.
        """
        fields = dict(config.pose_nms)
        path = fields.pop("file", "")
        rules = read_rules(path) if path else PoseNMS.preset(**fields)
        rescoring = load(config.rescoring, joints) if config.rescoring else None
        return cls(config.suppression, config.oks, rules, rescoring)

    @property
    def suppressor(self) -> "Suppressor":
        """The suppressor called `kind`."""
        return _find(self.kind)()


class Suppressor(abc.ABC):
    """A way to remove duplicates."""

    is_fitted: ClassVar[bool] = False
    """Whether its parameters are fitted to poses before suppression, which evaluations write for it."""

    @abc.abstractmethod
    def __call__(self, rows: Rows, sigmas: np.ndarray, options: Suppression) -> Rows:
        """The poses that remain, image by image, each image's best first.

        Args:
          rows: poses as in `metrics.coco.CocoKeypoints.update`, grouped by image id (rising).
          sigmas: [K] OKS constants of the skeleton's joints.
          options: parameters.
        """


class Remaining(NamedTuple):
    """Poses of I images that remain; `order[keep[order]]` lists those of one image, best first.

    Attributes:
      order: [I, N] int32 indices of the poses, best first.
      keep: [I, N] bool, whether a pose remains.
      changed: {name: [I, N, ...]} columns with new values for the poses that remain.
    """

    order: Array
    keep: Array
    changed: Mapping[str, Array]


class DeviceSuppressor(Suppressor):
    """A suppressor that compares all poses of an image on device."""

    columns: ClassVar[tuple[str, ...]] = ("keypoints", "person_score", "area")
    """Columns of rows that it looks at."""

    @staticmethod
    @abc.abstractmethod
    def remaining(poses: dict[str, Array], valid: Array, sigmas: Array, options: Suppression) -> Remaining:
        """The poses that remain of I images, under jit.

        Args:
          poses: {name of a column: [I, N, ...]} float32.
          valid: [I, N] bool, False for padding.
          sigmas: [K] OKS constants of the skeleton's joints.
          options: parameters; `oks` and `rules` are traced.
        """

    def __call__(self, rows: Rows, sigmas: np.ndarray, options: Suppression) -> Rows:
        """The poses that remain; images go to the device in batches of a handful of shapes.

        Raises:
          DataError: a column is missing.
        """
        if missing := [name for name in self.columns if name not in rows]:
            looked_at = ", ".join(self.columns)
            raise DataError(f"{options.kind} suppression looks at {looked_at}, but the poses lack the fields {missing}")
        blocks, picked = [], [np.zeros(0, np.int64)]
        for slots, valid in padded_images(rows["image_id"]):
            poses = {name: rows[name][slots].astype(np.float32) for name in self.columns}
            found = jax.device_get(_remaining(type(self), poses, valid, sigmas, options))
            kept = np.take_along_axis(found.keep, found.order, -1)
            picked.append(np.take_along_axis(slots, found.order, -1)[kept])
            images, position = np.nonzero(kept)
            chosen = images, found.order[images, position]
            blocks.append({name: values[chosen] for name, values in found.changed.items()})
        indices = np.concatenate(picked)
        by_image = np.argsort(rows["image_id"][indices], kind="stable")
        remaining = {name: values[indices[by_image]] for name, values in rows.items()}
        for name in blocks[0] if blocks else ():
            values = np.concatenate([block[name] for block in blocks])
            remaining[name] = values[by_image].astype(rows[name].dtype)
        return remaining


@functools.partial(jax.jit, static_argnums=0)
def _remaining(kind: type[DeviceSuppressor], poses: Any, valid: Any, sigmas: Any, options: Suppression) -> Remaining:
    return kind.remaining(poses, valid, sigmas, options)


def _find(kind: str) -> type[Suppressor]:
    return find_class(kind, __name__, "config.evaluate.suppression", Suppressor)


def read_rules(path: str | pathlib.Path) -> PoseNMS:
    """The parameters that jaxpose fit-pose-nms wrote.

    Raises:
      DataError: not such a file.
      ConfigError: a parameter that cannot work.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("pose_nms"), dict):
        raise DataError(f"{path}: field 'pose_nms': expected parameters; write it by jaxpose fit-pose-nms")
    listed = content["pose_nms"]
    try:
        return PoseNMS.preset(**{name: _parameter(listed, name) for name in listed})
    except FieldError as error:
        raise DataError(f"{path}: {error}; write it anew by jaxpose fit-pose-nms") from error


def _parameter(listed: Mapping[str, Any], name: str) -> Any:
    """A parameter of pose NMS from a file.

    Raises:
      FieldError: it is of another kind.
    """
    if listed[name] is None and name in ("match_count", "match_radius", "merge_radius", "ankles"):
        return None
    if name == "rules":
        return fields.text(listed, name)
    if name == "merge":
        return fields.flag(listed, name)
    if name == "ankles":
        return tuple(fields.whole({name: joint}, name, least=0) for joint in fields.numbers(listed, name, 2).tolist())
    return fields.whole(listed, name, least=1) if name == "match_count" else fields.number(listed, name)


def suppress(rows: Rows, sigmas: Iterable[float], suppression: Suppression) -> Rows:
    """The poses that remain after rescoring and suppression, image by image, each image's best first.

    Args:
      rows: poses as in `metrics.coco.CocoKeypoints.update`, grouped by image id (rising).
      sigmas: [K] OKS constants of the skeleton's joints.
      suppression: parameters. "none" leaves the poses as they come; "parametric" also gives new keypoints, scores and
        person_score, for it merges poses.

    Raises:
      DataError: boxes are missing that "parametric" needs.
    """
    if suppression.rescoring:
        rows = rows | {"person_score": _rescored(rows, suppression.rescoring)}
        suppression = dataclasses.replace(suppression, rescoring=None)
    return suppression.suppressor(rows, np.asarray(tuple(sigmas), np.float32), suppression)


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


def padded_images(image_id: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows grouped by image, in a handful of shapes whatever the data: pairs (rows [I, N], valid [I, N])."""
    _, start, count = np.unique(image_id, return_index=True, return_counts=True)
    smaller, capacity = 0, 16
    while smaller < count.max(initial=0):
        images = np.flatnonzero((count > smaller) & (count <= capacity))
        size = max(1, min(_MAX_PAIRS // capacity**2, max(_IMAGES, 1 << max(len(images) - 1, 0).bit_length())))
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            position = np.arange(capacity)
            valid = np.zeros((size, capacity), bool)
            valid[: len(chunk)] = position < count[chunk, None]
            slots = np.zeros((size, capacity), np.int64)
            slots[: len(chunk)] = start[chunk, None] + position
            yield np.where(valid, slots, 0), valid
        smaller, capacity = capacity, 4 * capacity
