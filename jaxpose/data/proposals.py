"""Random boxes for training top-down methods: what draws them (`BoxSampler`), and pose-guided proposals, which do.

A network that only ever sees true boxes fails on a detector's. The difference depends on the pose (Fang et al., "RMPE",
ICCV 2017, section 3.5): poses are aligned by their torso and clustered into atomic poses, and each atomic pose has its
own distribution of the four offsets between detected and true sides, in units of the box. Training then draws boxes
from it. `jaxpose fit-proposals` fits the distributions to a detector's boxes.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np

from jaxpose.data.annotations import Annotations
from jaxpose.data.views import Rng
from jaxpose.errors import DataError
from jaxpose.files.fields import LARGEST, FieldError
from jaxpose.files.json_files import read_json
from jaxpose.files.whole import write_text
from jaxpose.ops.boxes import box_iou, box_to_corner
from jaxpose.skeleton import Skeleton

Rule = Literal["alphapose", "rmpe2017"]
RULES: tuple[Rule, ...] = get_args(Rule)
"""Generations of the original code, which draw boxes by different rules; see `PoseGuidedProposals`."""
MATCH_IOU = 0.5
"""Least overlap of a detection with the true box that it belongs to."""

_COMMAND = "jaxpose fit-proposals"
_NO_CENTERS = np.zeros((0, 0, 2))
_SIDES = ("left", "right")
_PATCH_THRESHOLD = {"alphapose": 0.85, "rmpe2017": 0.7}
_GROWTH = {"alphapose": 0.0, "rmpe2017": 0.15}
"""The 2017 code grows detected boxes alike; AlphaPose's crops are 1.25 times as large as the box instead."""
_SMALLEST = 5.0
"""Shortest side that the 2017 code draws, in pixels."""
_PUBLISHED_MEAN = (-0.0142, 0.0043, 0.0154, -0.0013)
_PUBLISHED_STD = (0.1158, 0.068, 0.1337, 0.0711)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A box to train on.

    Attributes:
      box: [4] box (x, y, w, h) that the network sees, in pixels of the image.
      centered: [4] box in whose frame a centred copy of the person lies, for methods that learn to undo the draw: the
        true box as the sampler grows it; `box` itself (the same object) where the draw is not to be undone.
      centered_region: [4] true box as the sampler grows it; labels of the centred copy are the joints within.
    """

    box: np.ndarray
    centered: np.ndarray
    centered_region: np.ndarray


class BoxSampler(Protocol):
    """What draws boxes for training (`PersonExamples.proposals`): deterministic in its generator, and picklable."""

    @property
    def growth(self) -> float:
        """Share of its width and height by which the sampler grows a box on every side; crops are padded less by it."""
        ...

    def draw(
        self,
        box: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
        image_size: tuple[float, float],
        rng: Rng,
    ) -> Proposal:
        """A random box for a person.

        Args:
          box: [4] true box (x, y, w, h) in pixels of the image.
          keypoints: [K, 2] joints in pixels of the image.
          visible: [K] labels, positive where a joint is labelled.
          image_size: size (width, height) of the image in pixels.
          rng: generator of the draws.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class PoseGuidedProposals:
    """A `BoxSampler` whose boxes depend on the person's pose.

    One of two things happens: with some probability a patch of the box at a uniform position; otherwise each side moves
    by a normal draw, in units of the box's width or height.

      alphapose: u > .85: patch of u x the box. Otherwise the sides move, x_min kept in [1, W - 3], x_max in
        [x_min + 2, W - 3] where W - 3 wins; y likewise.
      rmpe2017: u > .7: patch of u x the box, placed in the box grown by 15 % a side and clipped to the image. Otherwise
        the sides of that grown box move, in units of the box as it was, within the image and at least 5 pixels apart.

    Attributes:
      rule: generation of the rule, "alphapose" or "rmpe2017".
      mean: [A + 1, 4] mean offsets of x_min, y_min, x_max, y_max in units of the box, one row an atomic pose; the last
        row serves poses whose torso is not labelled, and is the only one if there are no atomic poses.
      std: [A + 1, 4] standard deviations of the same.
      centers: [A, K, 2] atomic poses: joints relative to the middle of the hips, in torso lengths.
      joints: [K] names of the joints of `centers`; empty if there are none.
    """

    rule: Rule
    mean: np.ndarray
    std: np.ndarray
    centers: np.ndarray
    joints: tuple[str, ...] = ()

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"proposals: rule is {self.rule!r}, expected one of {RULES}")
        rows = (len(self.centers) + 1, 4)
        if self.mean.shape != rows or self.std.shape != rows or self.centers.shape[1:] != (len(self.joints), 2):
            raise ValueError(
                f"proposals: mean {self.mean.shape}, std {self.std.shape} and centers {self.centers.shape} do not fit "
                f"each other and {len(self.joints)} joints; expected [A + 1, 4] twice and [A, joints, 2]"
            )

    @property
    def patch_threshold(self) -> float:
        """Uniform number above which a patch is drawn."""
        return _PATCH_THRESHOLD[self.rule]

    @property
    def growth(self) -> float:
        """Share of its width and height by which a box grows on every side."""
        return _GROWTH[self.rule]

    @classmethod
    def single(
        cls,
        rule: Rule = "alphapose",
        mean: Sequence[float] = _PUBLISHED_MEAN,
        std: Sequence[float] = _PUBLISHED_STD,
    ) -> "PoseGuidedProposals":
        """One distribution for all poses; by default the numbers that AlphaPose trains with."""
        first, second = (np.asarray(values, np.float64)[None] for values in (mean, std))
        return cls(rule, first, second, centers=_NO_CENTERS)

    def draw(
        self,
        box: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
        image_size: tuple[float, float],
        rng: Rng,
    ) -> Proposal:
        """A random box for a person; see `BoxSampler`.

        The generator is asked for one uniform number, then for two more (a patch's x and y) or for four normal ones
        (x_min, y_min, x_max, y_max).
        """
        box = np.asarray(box, np.float64)
        size, limit = box[2:], np.asarray(image_size, np.float64)
        base = self.base(box, image_size)
        patch_scale = rng.random()
        if patch_scale > self.patch_threshold:
            position = np.array([rng.random(), rng.random()])
            patch = patch_scale * size
            drawn = np.concatenate([base[:2] + position * (size - patch), patch + 1])
            return Proposal(drawn, drawn, base)
        atom = self.atom(keypoints, visible)
        normal = np.array([rng.standard_normal() for _ in range(4)])
        offset = (self.mean[atom] + self.std[atom] * normal) * np.tile(size, 2)
        low, high = base[:2] + offset[:2], base[:2] + base[2:] + offset[2:]
        if self.rule == "alphapose":
            low = np.maximum(1, np.minimum(low, limit - 3))
            high = np.minimum(np.maximum(low + 2, high), limit - 3)
        else:
            low = np.clip(low, 0, np.maximum(limit - _SMALLEST, 0))
            high = np.minimum(np.maximum(low + _SMALLEST, high), limit)
        return Proposal(np.concatenate([low, high - low]), base, base)

    def base(self, box: np.ndarray, image_size: tuple[float, float]) -> np.ndarray:
        """The true box [4], whose sides are moved; by the rule of 2017 grown by 15 % and clipped to the image."""
        box = np.asarray(box, np.float64)
        if not self.growth:
            return box
        low = np.maximum(box[:2] - self.growth * box[2:], 0)
        high = np.minimum(box[:2] + (1 + self.growth) * box[2:], image_size)
        return np.concatenate([low, high - low])

    def atom(self, keypoints: np.ndarray, visible: np.ndarray) -> int:
        """Index of the atomic pose nearest to a pose [K, 2], over its labelled joints; -1 without a labelled torso."""
        if not len(self.centers):
            return -1
        pose, labelled = align(keypoints[None], visible[None], self.joints)
        return int(nearest(pose, labelled, self.centers)[0])

    def for_skeleton(self, skeleton: Skeleton) -> "PoseGuidedProposals":
        """The same proposals, with the atomic poses' joints in the order of `skeleton`.

        Raises:
          DataError: a joint of `skeleton` is missing.
        """
        if not len(self.centers) or self.joints == skeleton.joints:
            return self
        if missing := [j for j in skeleton.joints if j not in self.joints]:
            raise DataError(f"proposals: the atomic poses lack joints {missing} of {skeleton.name!r}; fit them anew")
        order = [self.joints.index(j) for j in skeleton.joints]
        return dataclasses.replace(self, centers=self.centers[:, order], joints=skeleton.joints)

    def write(self, path: str | pathlib.Path) -> None:
        """Writes a JSON file that `read` takes.

        Raises:
          StorageError: it cannot be written.
        """
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "std", "centers")}
        write_text(path, json.dumps({"rule": self.rule, "joints": self.joints, **arrays}, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "PoseGuidedProposals":
        """Reads what `write` wrote.

        Raises:
          DataError: not such a file.
        """
        content = read_json(path)
        expected = {"rule", "joints", "mean", "std", "centers"}
        if not isinstance(content, dict) or not expected <= content.keys():
            raise DataError(f"{path}: expected the fields {sorted(expected)}; write it by `{_COMMAND}`")
        joints = content["joints"]
        if not isinstance(joints, list) or not all(isinstance(joint, str) for joint in joints):
            raise DataError(f"{path}: field 'joints': expected a list of names; write it anew by `{_COMMAND}`")
        try:
            mean, std = (_numbers(content, name, (-1, 4)) for name in ("mean", "std"))
            centers = _numbers(content, "centers", (-1, len(joints), 2)) if joints else _NO_CENTERS
            return cls(content["rule"], mean, std, centers, tuple(joints))
        except ValueError as error:
            raise DataError(f"{path}: {error}; write it anew by `{_COMMAND}`") from error


def _numbers(content: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field as a float64 array of a shape.

    Raises:
      FieldError: it is no such array of finite numbers, or has negative standard deviations.
    """
    try:
        found = np.array(content[name], np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise FieldError(name, "is no array of numbers", f"one of shape {shape}") from error
    if not (np.abs(found) <= LARGEST).all() or (name == "std" and (found < 0).any()):
        raise FieldError(name, "has numbers that cannot be", "finite ones, and standard deviations from 0")
    return found


def inside(box: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """[K] bool, True for keypoints [K, 2] that lie in a box [4] (x, y, w, h) or on its border."""
    return np.all((keypoints >= box[:2]) & (keypoints <= box[:2] + box[2:]), axis=-1)


# --- atomic poses ---


def align(keypoints: np.ndarray, visible: np.ndarray, joints: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Poses relative to the middle of the hips, in units of the torso (middle of the shoulders to that of the hips).

    Where one shoulder or hip is labelled it stands for both.

    Args:
      keypoints: [P, K, 2] joints in pixels.
      visible: [P, K] labels, positive where a joint is labelled.
      joints: [K] names of the joints.

    Returns:
      Aligned poses [P, K, 2], 0 where not labelled; and [P, K] bool, True for labelled joints. All are False of a pose
      without a labelled shoulder or hip, or with a torso of length 0.

    Raises:
      DataError: the skeleton has no shoulders and hips.
    """
    if missing := [j for part in ("shoulder", "hip") for s in _SIDES if (j := f"{s}_{part}") not in joints]:
        raise DataError(f"poses are aligned by the torso, but their skeleton has no {', '.join(missing)}")
    labelled = np.asarray(visible) > 0
    points = np.where(labelled[..., None], np.asarray(keypoints, np.float64), 0)

    def middle(part: str) -> tuple[np.ndarray, np.ndarray]:
        pair = [joints.index(f"{side}_{part}") for side in _SIDES]
        count = labelled[:, pair].sum(1)
        return points[:, pair].sum(1) / np.maximum(count, 1)[:, None], count > 0

    (shoulders, has_shoulder), (hips, has_hip) = middle("shoulder"), middle("hip")
    length = np.linalg.norm(shoulders - hips, axis=-1)
    usable = has_shoulder & has_hip & (length > 0)
    labelled = labelled & usable[:, None]
    aligned = (points - hips[:, None]) / np.where(usable, length, 1)[:, None, None]
    return np.where(labelled[..., None], aligned, 0), labelled


def nearest(poses: np.ndarray, labelled: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """[P] indices of the centers [A, K, 2] nearest to aligned poses [P, K, 2] over their labelled joints [P, K].

    -1 for poses without a labelled joint.
    """
    index = np.full(len(poses), -1)
    for first in range(0, len(poses), 1024):
        block = slice(first, first + 1024)
        squared = np.square(poses[block, None] - centers).sum(-1)
        distance = np.where(labelled[block, None], squared, 0).sum(-1)
        index[block] = np.where(labelled[block].any(-1), distance.argmin(-1), -1)
    return index


def cluster(poses: np.ndarray, labelled: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Atomic poses [A, K, 2] by k-means (k-means++ start); A is `count`, or less where clusters end up empty.

    Joints that are not labelled take the mean of that joint over all poses.

    Args:
      poses: [P, K, 2] aligned poses; those without a labelled joint are left out.
      labelled: [P, K] bool, as `align` gives it.
      count: number of clusters.
      seed: seed of the start.

    Raises:
      DataError: fewer poses than clusters.
    """
    from scipy.cluster.vq import kmeans2

    usable = labelled.any(-1)
    poses, labelled = poses[usable], labelled[usable]
    if len(poses) < count:
        raise DataError(f"{len(poses)} poses with a labelled torso are too few for {count} atomic poses; ask for fewer")
    mean = poses.sum(0) / np.maximum(labelled.sum(0), 1)[:, None]
    filled = np.where(labelled[..., None], poses, mean).reshape(len(poses), -1)
    generator = np.random.default_rng(seed)
    centers, assigned = kmeans2(filled, count, iter=100, minit="++", missing="warn", rng=generator)
    return centers[np.unique(assigned)].reshape(-1, *poses.shape[1:])


# --- fitting ---


def fit(
    annotations: Annotations,
    detections: dict[str, np.ndarray],
    clusters: int = 20,
    rule: Rule = "alphapose",
    seed: int = 0,
    fewest: int = 20,
) -> PoseGuidedProposals:
    """Proposals that vary boxes as a detector does.

    Each detection belongs to the true box of its image that it overlaps most, if IoU >= .5. Crowd regions and people
    without a labelled joint do not take part. Every atomic pose has its mean and standard deviation; the last row has
    those of all poses together.

    Args:
      annotations: labels with the true boxes.
      detections: boxes {"image": [D] rows, "box": [D, 4], ...}, as `sources.coco.read_detections` gives them.
      clusters: number of atomic poses; 0 for a single distribution.
      rule: rule of the proposals; see `PoseGuidedProposals`.
      seed: seed of the clustering.
      fewest: least number of matched detections by which an atomic pose has numbers of its own; with fewer it takes
        those of all poses.

    Raises:
      DataError: too few poses or matches.
    """
    a = annotations
    people = np.flatnonzero(~a.crowd & (a.visibility > 0).any(-1) & (a.box[:, 2:] > 0).all(-1))
    matched, offsets = _offsets(a.person_image[people], a.box[people], detections["image"], detections["box"])
    if len(offsets) < max(fewest, 2):
        raise DataError(
            f"only {len(offsets)} of {len(detections['image'])} detections overlap one of {len(people)} people with "
            f"IoU >= {MATCH_IOU}; do boxes and annotations belong to the same images?"
        )
    mean, std = [offsets.mean(0)], [offsets.std(0)]
    if not clusters:
        return PoseGuidedProposals.single(rule, tuple(mean[0]), tuple(std[0]))
    poses, labelled = align(a.keypoints[people], a.visibility[people], a.skeleton.joints)
    centers = cluster(poses, labelled, clusters, seed)
    atoms = nearest(poses, labelled, centers)[matched]
    for atom in reversed(range(len(centers))):
        own = offsets[atoms == atom]
        enough = len(own) >= max(fewest, 2)
        mean.insert(0, own.mean(0) if enough else mean[-1])
        std.insert(0, own.std(0) if enough else std[-1])
    return PoseGuidedProposals(rule, np.array(mean), np.array(std), centers, a.skeleton.joints)


def _offsets(
    true_image: np.ndarray, true_box: np.ndarray, image: np.ndarray, box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [M] of the matched true boxes, and offsets [M, 4] of x_min, y_min, x_max, y_max in units of those."""
    matched, offsets = [np.zeros(0, np.int64)], [np.zeros((0, 4))]
    for row in np.unique(image):
        truth, found = np.flatnonzero(true_image == row), box[image == row].astype(np.float64)
        if not len(truth):
            continue
        overlap = box_iou(found[:, None], true_box[truth])
        best = truth[overlap.argmax(1)]
        good = overlap.max(1) >= MATCH_IOU
        moved = box_to_corner(found[good]) - box_to_corner(true_box[best[good]])
        matched.append(best[good])
        offsets.append(moved / np.tile(true_box[best[good], 2:], 2))
    return np.concatenate(matched), np.concatenate(offsets)
