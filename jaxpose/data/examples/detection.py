"""Whole images as a detector learns from them: at the top left of a canvas, with a box for everybody who is seen."""

import dataclasses
import logging
from typing import Any

import numpy as np

from jaxpose.data.examples.base import Example
from jaxpose.data.examples.images import ImageExamples
from jaxpose.data.views import CornerCanvas, DetectionAugmentation, Window
from jaxpose.errors import DataError
from jaxpose.ops import geometry

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class DetectionImages(ImageExamples):
    """All images of a source for training; fields as in `methods.prtr.detr.DETR.spec`.

    Images without people stay, to learn from that there is nobody, as in DETR. Crowd regions are nobody. A person of
    whom a random view shows nothing is left out, and where it shows too many, those whose boxes are largest in it stay.

    Attributes:
      canvas: on which images are laid.
      augmentation: random views; without a generator, `load` shows the plain one.
      joints: add "keypoints" [N, K, 2] in pixels of the canvas and "visible" [N, K] in {0, 1}; a joint outside of the
        view is not visible, and what is not visible is at 0. See `methods.prtr.sequential_prtr.SequentialPRTR.spec`.

    Raises:
      DataError: no image has annotated people.
    """

    canvas: CornerCanvas = dataclasses.field(kw_only=True)
    augmentation: DetectionAugmentation = DetectionAugmentation()
    joints: bool = False

    def __post_init__(self):
        super().__post_init__()
        a = self.source.annotations
        count = np.bincount(a.person_image[~a.crowd], minlength=a.num_images)
        if not count.any():
            raise DataError(f"{self.source.name}: none of the {a.num_images} images has annotated people")
        if empty := int((count == 0).sum()):
            logger.info("%s: %d of %d images have no people, and are kept", self.source.name, empty, a.num_images)
        full = a.file_name[count > self.max_people]
        if len(full):
            text = "%s: %d images have more than %d people, of whom the largest that are seen stay (%s first)"
            logger.info(text, self.source.name, len(full), self.max_people, full[0])

    def __len__(self) -> int:
        return self.source.annotations.num_images

    def image_rows(self, index: Any) -> Any:
        return index

    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> Example:
        size = image.shape[1], image.shape[0]
        window = self.canvas.plain(*size) if rng is None else self.canvas.draw(*size, self.augmentation, rng)
        people, boxes = self._see(i, window)
        labels = {"boxes": boxes, "people": np.ones(len(people), np.bool_)}
        if self.joints:
            labels |= self._label_joints(people, window)
        missing = self.max_people - len(people)
        return {
            "image": self.canvas.cut(image, window),
            "size": np.array(window.extent, np.float32),
            **{name: np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) for name, rows in labels.items()},
            "to_image": geometry.invert_affine(window.affine()).astype(np.float32),
            "index": np.int32(i),
            "valid": np.bool_(True),
        }

    def _see(self, image: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Rows of up to N people of an image whom a window shows, in the order of the data set, and their boxes."""
        a = self.source.annotations
        people = a.people_of(image)
        people = people[~a.crowd[people]]
        boxes, seen = window.cut_boxes(a.box[people])
        people, boxes = people[seen], boxes[seen]
        largest = np.sort(np.argsort(-boxes[:, 2:].prod(-1), kind="stable")[: self.max_people])
        return people[largest], boxes[largest].astype(np.float32)

    def _label_joints(self, people: np.ndarray, window: Window) -> dict[str, np.ndarray]:
        a = self.source.annotations
        points = geometry.apply_affine(window.affine(), a.keypoints[people].astype(np.float64))
        visible = (a.visibility[people] > 0) & ((points >= 0) & (points <= window.extent)).all(-1)
        if window.mirror:
            points, visible = (values[:, a.skeleton.flip_index] for values in (points, visible))
        return {
            "keypoints": np.where(visible[..., None], points, 0).astype(np.float32),
            "visible": visible.astype(np.float32),
        }
