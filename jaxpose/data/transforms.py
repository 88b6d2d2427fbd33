"""Host work on one example: a single affine crop into a fixed uint8 canvas. Everything else happens on device."""

import dataclasses
from typing import Protocol

import numpy as np

from jaxpose.ops import geometry
from jaxpose.skeleton import Skeleton


class Rng(Protocol):
    """The draws that augmentation asks for; `np.random.Generator` has them."""

    def random(self) -> float: ...
    def standard_normal(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class View:
    """How one person is looked at: the region of the image, turned and perhaps mirrored.

    Attributes:
      center: [2] pixels of the image.
      size: [2] (width, height) of the region in pixels of the image.
      rotation: degrees.
      mirror: whether left and right are exchanged.
    """

    center: np.ndarray
    size: np.ndarray
    rotation: float = 0.0
    mirror: bool = False


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random views for training, in the order of draws of the top-down family (SimpleBaselines, HRNet, PRTR).

    Attributes:
      scale: the region's size is multiplied by 1 + N(0, 1) * scale, clipped to 1 -+ scale.
      rotation: degrees; the angle is N(0, 1) * rotation, clipped to twice that, with probability .6 and else 0.
      mirror: probability.
      half_body: probability of looking at the upper or lower half alone, where more than 8 joints are visible.
    """

    scale: float = 0.0
    rotation: float = 0.0
    mirror: float = 0.0
    half_body: float = 0.0

    def __call__(self, view: View, keypoints: np.ndarray, visible: np.ndarray, joints: Skeleton, rng: Rng) -> View:
        """A random variation of `view` for a person with `keypoints` [K, 2], `visible` [K]."""
        center, size = view.center, view.size
        if self.half_body and np.sum(visible > 0) > 8 and rng.random() < self.half_body:
            aspect = float(size[0] / size[1])
            prefer_upper = rng.standard_normal() < 0.5  # the original draws a normal here: upper with probability .69
            half = geometry.half_body_box(keypoints, visible, joints.upper_body_indices, prefer_upper, aspect)
            center, size = half or (center, size)
        size = size * np.clip(rng.standard_normal() * self.scale + 1, 1 - self.scale, 1 + self.scale)
        rotation = 0.0
        if rng.random() <= 0.6:
            rotation = float(np.clip(rng.standard_normal() * self.rotation, -2 * self.rotation, 2 * self.rotation))
        return View(center, size, rotation, mirror=rng.random() <= self.mirror)


NO_AUGMENTATION = Augmentation()


@dataclasses.dataclass(frozen=True)
class PersonCrop:
    """Cuts one person out of an image.

    Attributes:
      size: (width, height) of the crop.
      padding: factor by which the region exceeds the person's box.
    """

    size: tuple[int, int]
    padding: float = 1.25

    def view(self, box: np.ndarray) -> View:
        """The plain view of a box [4] (x, y, w, h); of many boxes [..., 4], views side by side."""
        center, size = geometry.box_to_center_size(
            np.asarray(box, np.float64), self.size[0] / self.size[1], self.padding
        )
        return View(center, size)

    def cut(self, image: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """The crop [H, W, 3] uint8 (bilinear, black outside) and the map [2, 3] from image to crop pixels."""
        import cv2

        to_crop = geometry.crop_affine(view.center, view.size, self.size, view.rotation, view.mirror)
        return cv2.warpAffine(image, to_crop, self.size, flags=cv2.INTER_LINEAR), to_crop

    def crop(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The plain crop of a box, and the map [2, 3] float32 from crop to image pixels."""
        canvas, to_crop = self.cut(image, self.view(box))
        return canvas, geometry.invert_affine(to_crop).astype(np.float32)

    def example(
        self, image: np.ndarray, view: View, keypoints: np.ndarray, visible: np.ndarray, joints: Skeleton
    ) -> dict[str, np.ndarray]:
        """The person's fields of `methods.base.person_spec` that come from the picture.

        Args:
          image: [H, W, 3] uint8 RGB.
          view: from `view`, perhaps augmented.
          keypoints: [K, 2] pixels of the image.
          visible: [K]; a joint counts where positive. Others are not moved by the crop, only by mirroring.
          joints: their skeleton.
        """
        canvas, to_crop = self.cut(image, view)
        seen = np.asarray(visible > 0)
        if view.mirror:
            keypoints, seen = keypoints[joints.flip_index], seen[joints.flip_index]
            keypoints = np.where(seen[:, None], keypoints, 0)
        moved = geometry.apply_affine(to_crop, keypoints.astype(np.float64))
        return {
            "image": canvas,
            "keypoints": np.where(seen[:, None], moved, keypoints).astype(np.float32),
            "visible": seen.astype(np.float32),
            "to_image": geometry.invert_affine(to_crop).astype(np.float32),
        }
