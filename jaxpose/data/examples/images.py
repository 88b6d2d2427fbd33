"""A data set seen as whole images, for methods that find everybody in one at once.

For training, an image is laid on a square canvas in a random view, with masks of where the loss counts. For evaluation
it is laid as the method asks for, whole and perhaps at several sizes.
"""

import dataclasses
import logging
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from jaxpose.data.annotations import Skipped
from jaxpose.data.examples.base import Example, ImageBackedExamples
from jaxpose.data.views import CanvasAugmentation, SquareCanvas, warp
from jaxpose.errors import DataError, ImageError
from jaxpose.ops import boxes as box_ops
from jaxpose.ops import geometry
from jaxpose.types import Layout, PaddedLayout, image_field

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class ImageExamples(ImageBackedExamples):
    """Images of a source as examples, with the labels of up to `max_people` people.

    Labelled are the people that are no crowd, in the order of the data set, even if none of their joints is. Where
    there are too many, those with labelled joints go first, and the largest of them.

    Attributes:
      max_people: number of rows N for people.
    """

    max_people: int = 30

    def shown(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The image of each example."""
        return {"image_id": self.source.annotations.image_id[self.image_rows(index)], "index": index}

    def choose_people(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the people of an image (by its row) that are labelled, and of those for whom there is no room."""
        a = self.source.annotations
        people = a.people_of(image)
        people = people[~a.crowd[people] | (a.num_keypoints[people] > 0)]
        labelled = (a.visibility[people] > 0).any(-1)
        rank = np.lexsort((-a.area[people], ~labelled))
        keep, leave = np.sort(rank[: self.max_people]), np.sort(rank[self.max_people :])
        return people[keep], people[leave]

    def label_people(self, people: np.ndarray, to_canvas: np.ndarray) -> Example:
        """The labels of people (by their rows), padded to N; see `methods.bottom_up.BottomUp.spec`.

        Args:
          people: [n] with n <= N.
          to_canvas: [2, 3] affine map from image to canvas pixels.
        """
        a, count = self.source.annotations, len(people)
        seen = a.visibility[people] > 0
        points = np.where(seen[..., None], a.keypoints[people], 0).astype(np.float64)
        fields = {
            "keypoints": np.zeros((self.max_people, *points.shape[1:]), np.float32),
            "visible": np.zeros((self.max_people, points.shape[1]), np.float32),
            "people": np.zeros(self.max_people, np.bool_),
            "area": np.zeros(self.max_people, np.float32),
        }
        labels = {"keypoints": geometry.apply_affine(to_canvas, points), "visible": seen, "area": a.area[people]}
        for name, values in (labels | {"people": True}).items():
            fields[name][:count] = values
        return fields


@dataclasses.dataclass
class TrainingImages(ImageExamples):
    """Images with annotations, each on a square canvas; fields as in `methods.bottom_up.BottomUp.spec`.

    Attributes:
      size: side S of the canvas in pixels.
      mask_strides: strides of the masks.
      augmentation: random views; without a generator, `load` shows the plain one.

    Raises:
      DataError: no image has annotations.
    """

    size: int = 512
    mask_strides: tuple[int, ...] = (2, 4)
    augmentation: CanvasAugmentation = CanvasAugmentation()

    def __post_init__(self):
        super().__post_init__()
        a = self.source.annotations
        self.images = np.unique(a.person_image)
        if not len(self.images):
            raise DataError(f"{self.source.name}: none of the {a.num_images} images has annotated people")
        skipped = Skipped(self.source.name)
        for name in a.file_name[np.setdiff1d(np.arange(a.num_images), self.images)]:
            skipped.add("images without annotations", str(name))
        for row in np.flatnonzero(np.bincount(a.person_image) > self.max_people):
            for person in a.person_id[self.choose_people(int(row))[1]]:
                skipped.add(f"people beyond the largest {self.max_people} of an image", f"annotation {person}")
        skipped.log(logging.INFO)

    def __len__(self) -> int:
        return len(self.images)

    def image_rows(self, index: Any) -> Any:
        return self.images[index]

    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> Example:
        row = int(self.images[i])
        height, width = image.shape[:2]
        view = self.augmentation.plain(width, height) if rng is None else self.augmentation(width, height, rng)
        canvas = SquareCanvas(self.size)
        to_canvas = canvas.affine(view)
        people, left_out = self.choose_people(row)
        counts = self._loss_mask(row, left_out)
        masks = {f"mask_{stride}": canvas.cut_mask(counts, view, stride) for stride in self.mask_strides}
        return {
            "image": canvas.cut(image, view),
            **self.label_people(people, to_canvas),
            "to_image": geometry.invert_affine(to_canvas).astype(np.float32),
            "mirror": np.bool_(view.mirror),
            **masks,
            "index": np.int32(i),
            "valid": np.bool_(True),
        }

    def _loss_mask(self, row: int, left_out: np.ndarray) -> np.ndarray:
        """[H, W] bool, False where people are whose joints the loss does not know."""
        a = self.source.annotations
        unlabelled = a.unlabelled_mask(row)
        counts = np.ones((a.height[row], a.width[row]), bool) if unlabelled is None else ~unlabelled
        for x, y, w, h in a.box[left_out]:
            left, top = (max(0, int(np.floor(v))) for v in (x, y))
            right, bottom = (max(0, int(np.ceil(v))) for v in (x + w, y + h))
            counts[top:bottom, left:right] = False
        return counts


@dataclasses.dataclass
class EvaluationImages(ImageExamples):
    """All images of a source, as a method looks at them.

    An example has the fields of `lay_out`, and the labels in pixels of the canvas that poses are decoded in; "boxes"
    [N, 4] (x, y, w, h) among them.

    Attributes:
      layout: function from (width, height) of an image to its layout on canvases, one for each of `scales`.
      scales: test scales of the image.
    """

    layout: Callable[[int, int], Layout] = dataclasses.field(kw_only=True)
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        super().__post_init__()
        a = self.source.annotations
        names = dict(zip(zip(a.width.tolist(), a.height.tolist()), a.file_name.tolist()))
        buckets = {named_layout(self.layout, size, name).sizes for size, name in names.items()}
        logger.info("%s: %d images on canvases of %d sizes", self.source.name, len(self), len(buckets))

    def __len__(self) -> int:
        return self.source.annotations.num_images

    def image_rows(self, index: Any) -> Any:
        return index

    def bucket(self, i: int) -> Hashable:
        a = self.source.annotations
        return self.layout(int(a.width[i]), int(a.height[i])).sizes

    def example(self, i: int, image: np.ndarray, rng: np.random.Generator | None, step: int) -> Example:
        layout = self.layout(image.shape[1], image.shape[0])
        people, _ = self.choose_people(i)
        to_canvas = layout.to_canvas[layout.base]
        boxes = np.zeros((self.max_people, 4), np.float32)
        boxes[: len(people)] = move_boxes(to_canvas, self.source.annotations.box[people])
        return {
            **lay_out(image, layout, self.scales),
            **self.label_people(people, to_canvas),
            "boxes": boxes,
            "index": np.int32(i),
            "valid": np.bool_(True),
        }


def named_layout(layout: Callable[[int, int], Layout], size: tuple[int, int], name: str) -> Layout:
    """The layout of an image of a size (width, height) in pixels.

    Raises:
      ImageError: its canvas would be too large (`types.MOST_CANVAS_SIDE`).
    """
    try:
        return layout(*size)
    except DataError as error:
        raise ImageError(name, f"has {size[0]} x {size[1]} pixels: {error}") from error


def move_boxes(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] (x, y, w, h) under an affine map [2, 3] that neither turns nor mirrors."""
    points = geometry.apply_affine(matrix, box_ops.box_to_corner(boxes).reshape(-1, 2))
    return box_ops.corner_to_box(points.reshape(-1, 4))


def lay_out(image: np.ndarray, layout: Layout, scales: tuple[float, ...]) -> dict[str, np.ndarray]:
    """An image on the canvases of a layout, as fields of an example for inference.

    Args:
      image: [H, W, 3] uint8 RGB.
      layout: layout for the image's size.
      scales: test scales of the canvases.

    Returns:
      The image of each scale (`types.image_field`), and "to_image" [2, 3] float32, from pixels of the canvas that poses
      are decoded in to those of the image. Of a padded layout, also "size" [2] float32, its extent.
    """
    views = zip(scales, layout.to_canvas, layout.sizes, strict=True)
    images = {image_field(scale): warp(image, matrix, size) for scale, matrix, size in views}
    size = {"size": np.array(layout.extent, np.float32)} if isinstance(layout, PaddedLayout) else {}
    return images | size | {"to_image": geometry.invert_affine(layout.to_canvas[layout.base]).astype(np.float32)}
