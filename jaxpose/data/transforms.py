"""Host work on one example: a single affine warp onto a fixed uint8 canvas. Everything else happens on device."""

import dataclasses
from typing import Literal, Protocol

import numpy as np

from jaxpose.ops import geometry
from jaxpose.skeleton import Skeleton


class Rng(Protocol):
    """The draws that augmentation asks for; `np.random.Generator` has them."""

    def random(self) -> float: ...
    def standard_normal(self) -> float: ...
    def integers(self, low: int, high: int) -> int: ...


@dataclasses.dataclass(frozen=True)
class View:
    """How a person or a whole image is looked at: the region of the image, turned and perhaps mirrored.

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
      octaves: instead, multiply it by 2 to the power N(0, 1) * scale, clipped to twice `scale` (DSNT).
      rotation: degrees; the angle is N(0, 1) * rotation, clipped to twice that.
      rotation_probability: of turning at all.
      mirror: probability.
      half_body: probability of looking at the upper or lower half alone, where more than 8 joints are visible.
    """

    scale: float = 0.0
    octaves: bool = False
    rotation: float = 0.0
    rotation_probability: float = 0.6
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
        size = size * self.factor(rng.standard_normal())
        rotation = 0.0
        if rng.random() <= self.rotation_probability:
            rotation = float(np.clip(rng.standard_normal() * self.rotation, -2 * self.rotation, 2 * self.rotation))
        return View(center, size, rotation, mirror=rng.random() <= self.mirror)

    def factor(self, normal: float) -> float:
        """By how much the region grows for a draw from N(0, 1)."""
        if self.octaves:
            return 2 ** np.clip(normal * self.scale, -2 * self.scale, 2 * self.scale)
        return np.clip(normal * self.scale + 1, 1 - self.scale, 1 + self.scale)


NO_AUGMENTATION = Augmentation()


@dataclasses.dataclass(frozen=True)
class CanvasAugmentation:
    """Random views of whole images for training, square, in the order of draws of HigherHRNet and DEKR.

    Attributes:
      scale: bounds of the factor by which the region's side exceeds the image's.
      rotation: degrees; the angle is uniform within -+ rotation.
      shift: of the region's centre, at most so many pixels where the region's side is 200: a fifth of it, for 40. Whole
        pixels of the image, each way independently, uniform from -k to k - 1, as both original programs have it.
      mirror: probability.
      side: of the image, that the region's side is compared with.
    """

    scale: tuple[float, float] = (0.75, 1.5)
    rotation: float = 30.0
    shift: float = 40.0
    mirror: float = 0.5
    side: Literal["short", "long"] = "short"

    def __call__(self, width: int, height: int, rng: Rng) -> View:
        """A random view of an image of this size in pixels."""
        plain = self.plain(width, height)
        low, high = self.scale
        size = plain.size * (low + (high - low) * rng.random())
        rotation = self.rotation * (2 * rng.random() - 1)
        center, reach = plain.center, int(self.shift * size[0] / 200)
        if reach > 0:
            center = center + np.array([rng.integers(-reach, reach), rng.integers(-reach, reach)])
        return View(center, size, rotation, mirror=rng.random() < self.mirror)

    def plain(self, width: int, height: int) -> View:
        """The upright view of the image's middle."""
        side = min(width, height) if self.side == "short" else max(width, height)
        return View(np.array([width / 2, height / 2]), np.full(2, side, np.float64))


MAX_FINER = 8
"""So many samples a side of a crop's pixel are averaged at most."""


@dataclasses.dataclass(frozen=True)
class PersonCrop:
    """Cuts one person out of an image.

    Attributes:
      size: (width, height) of the crop.
      padding: factor by which the region exceeds the person's box.
      half_pixel: see `geometry.crop_affine`; the convention of DSNT.
      antialias: average over all pixels of the image that a pixel of the crop covers, where the region is larger than
        the crop; by default four of them are interpolated, as in the original code of the top-down family.
    """

    size: tuple[int, int]
    padding: float = 1.25
    half_pixel: bool = False
    antialias: bool = False

    def view(self, box: np.ndarray) -> View:
        """The plain view of a box [4] (x, y, w, h); of many boxes [..., 4], views side by side."""
        center, size = geometry.box_to_center_size(
            np.asarray(box, np.float64), self.size[0] / self.size[1], self.padding
        )
        return View(center, size)

    def affine(self, view: View) -> np.ndarray:
        """The map [2, 3] from image to crop pixels."""
        return geometry.crop_affine(
            view.center, view.size, self.size, view.rotation, view.mirror, half_pixel=self.half_pixel
        )

    def cut(self, image: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """The crop [H, W, 3] uint8 (black outside the image) and the map [2, 3] from image to crop pixels."""
        to_crop = self.affine(view)
        shrinks = float(np.max(view.size / np.array(self.size)))
        finer = min(int(np.ceil(shrinks)), MAX_FINER) if self.antialias else 1
        return warp(image, to_crop, self.size, max(1, finer)), to_crop

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
        keypoints, seen = self.joints(view, keypoints, visible, joints)
        return {
            "image": canvas,
            "keypoints": keypoints,
            "visible": seen,
            "to_image": geometry.invert_affine(to_crop).astype(np.float32),
        }

    def joints(
        self, view: View, keypoints: np.ndarray, visible: np.ndarray, joints: Skeleton
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joints [K, 2] in pixels of the crop and [K] in {0, 1} which of them count; arguments as for `example`."""
        seen = np.asarray(visible > 0)
        if view.mirror:
            keypoints, seen = keypoints[joints.flip_index], seen[joints.flip_index]
            keypoints = np.where(seen[:, None], keypoints, 0)
        moved = geometry.apply_affine(self.affine(view), keypoints.astype(np.float64))
        return np.where(seen[:, None], moved, keypoints).astype(np.float32), seen.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SquareCanvas:
    """Lays whole images on a square; maps of the network cover the same square with fewer pixels.

    A view is never mirrored here: that is left to the device, after the warp.

    Attributes:
      size: side S of the canvas in pixels.
    """

    size: int

    def affine(self, view: View, stride: int = 1) -> np.ndarray:
        """The map [2, 3] from image pixels to those of a map of this stride, as the original programs compute it.

        On a map as on the canvas, pixel indices are what is scaled: the pixel i of the map lies at stride * i.
        """
        side = self.size // stride
        return geometry.crop_affine(view.center, view.size, (side, side), view.rotation)

    def cut(self, image: np.ndarray, view: View) -> np.ndarray:
        """[S, S, 3] of an image [H, W, 3]; black outside the image."""
        return warp(image, self.affine(view), (self.size, self.size))

    def cut_mask(self, mask: np.ndarray, view: View, stride: int) -> np.ndarray:
        """[S / stride, S / stride] uint8 in {0, 1} of a mask [H, W] bool: more than half of what a pixel sees is True.

        What lies outside the image is False.
        """
        side = self.size // stride
        levels = warp(mask.astype(np.uint8) * 255, self.affine(view, stride), (side, side))
        return (levels > 127).astype(np.uint8)


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], finer: int = 1) -> np.ndarray:
    """An image [H, W] or [H, W, 3] on a canvas, interpolated linearly; zeros outside the image.

    Args:
      image: what to lay on the canvas; its dtype is kept.
      matrix: [2, 3], from image to canvas pixels.
      size: (width, height) of the canvas.
      finer: each pixel is the mean of `finer` x `finer` samples.
    """
    import cv2

    matrix = matrix * finer
    matrix[:, 2] += (finer - 1) / 2
    canvas = cv2.warpAffine(image, matrix, (size[0] * finer, size[1] * finer), flags=cv2.INTER_LINEAR)
    return canvas if finer == 1 else cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
