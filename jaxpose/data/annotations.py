"""The labels of a data set, as columns: one row an image, one row a person."""

import dataclasses
import functools
import logging
from typing import Any

import numpy as np

from jaxpose.data.formats.regions import Regions
from jaxpose.files.fields import FieldError
from jaxpose.skeleton import Skeleton

logger = logging.getLogger(__name__)

HEAD_SIZE_OF_BOX = 0.6
"""PCKh divides by this share of the diagonal of the head's box (MPII's evaluation)."""

UNLESS_GIVEN: Any = None
"""Default of columns that are worked out from others where None is given, so that there always are arrays."""


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The labels of a data set's split.

    Attributes:
      skeleton: keypoint set of `keypoints`.
      image_id: [I] int64 unique numbers of the images.
      file_name: [I] str names of the images.
      width: [I] int32 pixels.
      height: [I] int32 pixels.
      person_image: [P] int32 row of the person's image.
      person_id: [P] int64 unique number of the person, from 1.
      box: [P, 4] float32 boxes (x, y, w, h) in pixels of the image.
      keypoints: [P, K, 2] float32 joints in pixels of the image.
      visibility: [P, K] uint8, one of 0 not labelled, 1 hidden, 2 visible.
      area: [P] float32 square pixels (of the person's mask, where the data set has one).
      crowd: [P] bool, True for a region of many people: never an example, and in evaluation never a mistake.
      track_id: [P] int64 number of the person in all frames of a video; -1 where unknown.
      head_size: [P] float32 pixels, the length that PCKh divides by; 0 where unknown (all of them, unless given).
      clip_boxes: True if boxes end at the image's border; False where a box is the region that is cropped (MPII).
      num_keypoints: [P] int32 number of labelled joints as the data set counts them: evaluation leaves out people
        without any. CrowdPose does not count head and neck. All labelled joints, unless given.
      crowd_index: [I] float64 crowdedness of the image in [0, 1], as CrowdPose measures it; NaN where unknown
        (everywhere, unless given).
      unlabelled: regions of people without labels: crowds, and single people whose joints nobody marked.
      mirror: [P] bool, True for people that are looked at mirrored, such as right hands that a method sees as left ones
        (nobody, unless given). Keypoints and boxes are those of the image as it is.
    """

    skeleton: Skeleton
    image_id: np.ndarray
    file_name: np.ndarray
    width: np.ndarray
    height: np.ndarray
    person_image: np.ndarray
    person_id: np.ndarray
    box: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    track_id: np.ndarray
    head_size: np.ndarray = UNLESS_GIVEN
    clip_boxes: bool = True
    num_keypoints: np.ndarray = UNLESS_GIVEN
    crowd_index: np.ndarray = UNLESS_GIVEN
    unlabelled: Regions = Regions.pack([], [])
    mirror: np.ndarray = UNLESS_GIVEN

    def __post_init__(self):
        defaults = {
            "head_size": lambda: np.zeros(self.num_people, np.float32),
            "num_keypoints": lambda: (self.visibility > 0).sum(-1, dtype=np.int32),
            "crowd_index": lambda: np.full(self.num_images, np.nan),
            "mirror": lambda: np.zeros(self.num_people, bool),
        }
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default())

    @property
    def num_images(self) -> int:
        return len(self.image_id)

    @property
    def num_people(self) -> int:
        return len(self.person_image)

    @property
    def sizes(self) -> np.ndarray:
        """[I, 2] (width, height) of the images in pixels."""
        return np.stack([self.width, self.height], -1)

    def people_of(self, image: int) -> np.ndarray:
        """Rows of the people of an image, in the order of the data set."""
        order, starts = self._by_image
        return order[starts[image] : starts[image + 1]]

    @functools.cached_property
    def _by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of people by image, and where each image's begin."""
        order = np.argsort(self.person_image, kind="stable")
        return order, np.searchsorted(self.person_image[order], np.arange(self.num_images + 1))

    def unlabelled_mask(self, image: int) -> np.ndarray | None:
        """[H, W] bool, True in the pixels of an image's `unlabelled` regions; None if it has none."""
        return self.unlabelled.mask(image, int(self.width[image]), int(self.height[image]))

    def with_skeleton(self, skeleton: Skeleton, partial: bool = False) -> "Annotations":
        """The same people with the joints of another skeleton, chosen by name; `num_keypoints` counts those.

        Args:
          skeleton: other skeleton.
          partial: True if joints that the data set lacks are not labelled; else they are an error.

        Raises:
          ValueError: the data set lacks a joint of `skeleton`.
        """
        if skeleton == self.skeleton:
            return self
        pick = self.skeleton.columns(skeleton) if partial else self.skeleton.select(skeleton)
        known = pick >= 0
        return dataclasses.replace(
            self,
            skeleton=skeleton,
            keypoints=np.where(known[:, None], self.keypoints[:, pick], 0),
            visibility=np.where(known, self.visibility[:, pick], 0).astype(np.uint8),
            num_keypoints=None,
        )

    def without_hidden(self) -> "Annotations":
        """The same people without labels of their hidden joints."""
        seen = self.visibility == 2
        return dataclasses.replace(
            self,
            keypoints=np.where(seen[..., None], self.keypoints, 0),
            visibility=np.where(seen, self.visibility, 0),
            num_keypoints=None,
        )

    def to_coco(self, images: np.ndarray | None = None) -> dict:
        """A COCO keypoint dictionary ("images", "annotations", "categories"), for evaluation.

        Args:
          images: rows of the images to keep; all of them if None.
        """
        keep = np.arange(self.num_images) if images is None else np.asarray(images)
        people = np.flatnonzero(np.isin(self.person_image, keep))
        names = self.skeleton.joints
        category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(names)}
        category["skeleton"] = [[a + 1, b + 1] for a, b in self.skeleton.limb_indices]
        if self.skeleton.pairs is not None:
            category["flip_pairs"] = [list(pair) for pair in self.skeleton.pairs]
        return {
            "images": [self._coco_image(int(i)) for i in keep],
            "annotations": [self._coco_person(int(p)) for p in people],
            "categories": [category],
        }

    def _coco_image(self, i: int) -> dict:
        crowd_index = float(self.crowd_index[i])
        return {
            "id": int(self.image_id[i]),
            "file_name": str(self.file_name[i]),
            "width": int(self.width[i]),
            "height": int(self.height[i]),
        } | ({} if np.isnan(crowd_index) else {"crowdIndex": crowd_index})

    def _coco_person(self, p: int) -> dict:
        labelled = self.visibility[p] > 0
        points = np.where(labelled[:, None], self.keypoints[p], 0)
        triples = np.concatenate([points.astype(np.float64), self.visibility[p][:, None]], axis=-1)
        return {
            "id": int(self.person_id[p]),
            "image_id": int(self.image_id[self.person_image[p]]),
            "category_id": 1,
            "bbox": [float(v) for v in self.box[p]],
            "area": float(self.area[p]),
            "iscrowd": int(self.crowd[p]),
            "keypoints": triples.reshape(-1).tolist(),
            "num_keypoints": int(self.num_keypoints[p]),
        }


def tight_boxes(keypoints: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """[P, 4] (x, y, w, h) around the labelled ones of [P, K, 2] keypoints; zeros for a person without any."""
    labelled = visibility[..., None] > 0
    low = np.min(keypoints, axis=1, where=labelled, initial=np.inf)
    high = np.max(keypoints, axis=1, where=labelled, initial=-np.inf)
    return np.where(labelled.any(1), np.concatenate([low, high - low], -1), 0)


class Skipped:
    """Records that a reader leaves out, by reason: counted in the log, where the first few of each are named."""

    MOST_LINES = 20

    def __init__(self, where: str):
        self.where = where
        self.reasons: dict[str, list[str]] = {}

    def add(self, reason: str, record: str) -> None:
        self.reasons.setdefault(reason, []).append(record)

    def add_field(self, error: FieldError, record: str) -> None:
        """Adds a record because of a field; those with the same fault are counted together, whatever was found."""
        self.add(error.reason, f"{record} {error.found}".rstrip())

    @property
    def total(self) -> int:
        return sum(len(records) for records in self.reasons.values())

    def log(self, level: int = logging.WARNING) -> None:
        listed = sorted(self.reasons.items())
        for reason, records in listed[: self.MOST_LINES]:
            named = ", ".join(records[:5]) + (f", and {len(records) - 5} more" if len(records) > 5 else "")
            logger.log(level, "%s: skipped %d: %s (%s)", self.where, len(records), reason, named)
        if rest := listed[self.MOST_LINES :]:
            count = sum(len(records) for _, records in rest)
            logger.log(level, "%s: skipped %d more, for %d other reasons", self.where, count, len(rest))
