"""Host work on one example: a single affine warp onto a fixed uint8 canvas. Everything else happens on device."""

import dataclasses
from typing import Literal, Protocol

import numpy as np

from jaxpose.errors import ConfigError, DataError
from jaxpose.files.fields import LARGEST
from jaxpose.ops import boxes as box_ops
from jaxpose.ops import geometry
from jaxpose.skeleton import Skeleton


class Rng(Protocol):
    """The draws that augmentation asks for; `np.random.Generator` has them."""

    def random(self) -> float: ...
    def standard_normal(self) -> float: ...
    def integers(self, low: int, high: int) -> int: ...


@dataclasses.dataclass(frozen=True)
class View:
    """The region of an image that is looked at, of a person or of all of it, turned and perhaps mirrored.

    Attributes:
      center: [2] middle of the region in pixels of the image.
      size: [2] size (width, height) of the region in pixels of the image.
      rotation: angle in degrees.
      mirror: True if left and right are exchanged.
    """

    center: np.ndarray
    size: np.ndarray
    rotation: float = 0.0
    mirror: bool = False

    def part(self, region: tuple[float, ...]) -> "View":
        """The view of a part of what this one shows, turned and mirrored like it.

        Args:
          region: place and size (left, upper, width, height) of the part in this view, in pixels of the image.
        """
        corner, size = np.array(region[:2], np.float64), np.array(region[2:], np.float64)
        turn = geometry.crop_affine(np.zeros(2), np.ones(2), (1, 1), self.rotation, self.mirror)[:, :2]
        center = self.center + turn.T @ (corner + (size - self.size) / 2)
        return View(center, size, self.rotation, self.mirror)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random views for training, in the order of draws of the top-down family (SimpleBaselines, HRNet, PRTR).

    Views with `uniform_rotation` and `area` are those of domain adaptation (Jiang et al., CVPR 2021). The original code
    turns what it has cut out, with black corners, and interpolates twice; here one map leads from the image to the
    crop, so that a turned view shows what the image has beyond the region.

    Attributes:
      scale: spread of the region's size, which is multiplied by 1 + N(0, 1) * scale, clipped to 1 -+ scale.
      octaves: True to multiply it by 2 to the power N(0, 1) * scale instead, clipped to twice `scale` (as in DSNT).
      rotation: spread of the angle in degrees, which is N(0, 1) * rotation, clipped to twice that.
      uniform_rotation: True if the angle is uniform within -+ rotation instead.
      rotation_probability: probability of turning at all.
      mirror: probability of a mirrored view.
      half_body: probability of looking at the upper or lower half alone, where more than 8 joints are visible.
      area: least and greatest share of the turned region's area in the part of it that is looked at instead; see
        `random_part`. Empty for all of the region.

    Raises:
      ConfigError: `area` is no such pair, or `scale` leaves no region or one without end.
    """

    scale: float = 0.0
    octaves: bool = False
    rotation: float = 0.0
    uniform_rotation: bool = False
    rotation_probability: float = 0.6
    mirror: float = 0.0
    half_body: float = 0.0
    area: tuple[float, ...] = ()

    def __post_init__(self):
        if len(self.area) and (len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] or self.area[0] > 1):
            raise ConfigError(
                f"config.data.augmentation.area is {self.area!r}; expected () or (least, greatest), where the least is "
                "above 0 and not above 1"
            )
        most = _MOST_OCTAVES if self.octaves else 1.0
        if not 0 <= self.scale <= most or (self.scale == 1 and not self.octaves):
            bound = f"to {most:g}" if self.octaves else "to less than 1"
            raise ConfigError(f"config.data.augmentation.scale is {self.scale!r}; expected a number from 0 {bound}")

    def __call__(self, view: View, keypoints: np.ndarray, visible: np.ndarray, joints: Skeleton, rng: Rng) -> View:
        """A random variation of a view for a person with these keypoints [K, 2] and their labels [K]."""
        center, size = view.center, view.size
        if self.half_body and np.sum(visible > 0) > 8 and rng.random() < self.half_body:
            aspect = float(size[0] / size[1])
            prefer_upper = rng.standard_normal() < 0.5  # the original draws a normal here: upper with probability .69
            half = geometry.half_body_box(keypoints, visible, joints.upper_body_indices, prefer_upper, aspect)
            center, size = half or (center, size)
        size = size * self.factor(rng.standard_normal())
        rotation = self._angle(rng) if rng.random() <= self.rotation_probability else 0.0
        view = View(center, size, rotation, mirror=view.mirror != (rng.random() <= self.mirror))
        return view.part(random_part(view.size, self.area, rng)) if self.area else view

    def _angle(self, rng: Rng) -> float:
        if self.uniform_rotation:
            return self.rotation * (2 * rng.random() - 1)
        return float(np.clip(rng.standard_normal() * self.rotation, -2 * self.rotation, 2 * self.rotation))

    def factor(self, normal: float) -> float:
        """The factor by which the region grows for a draw from N(0, 1)."""
        if self.octaves:
            return 2 ** np.clip(normal * self.scale, -2 * self.scale, 2 * self.scale)
        return np.clip(normal * self.scale + 1, 1 - self.scale, 1 + self.scale)


_MOST_OCTAVES = 4.0
NO_AUGMENTATION = Augmentation()

_ATTEMPTS = 10


def random_part(size: np.ndarray, area: tuple[float, ...], rng: Rng, aspect: float = 0.0) -> tuple[float, ...]:
    """A random part of a region: one of a random share of its area, at a random place.

    A share whose part is larger than the region is drawn again, ten times at most; then the part is all of it. So a
    region of the part's own aspect never grows, whatever the greatest share: shares of 0.6 to 1.3 are 0.6 to 1 in
    effect.

    Args:
      size: size (width, height) of the region in pixels.
      area: least and greatest share.
      rng: generator, of which every share takes a `random`, and the place two `integers`, from above and from the left.
      aspect: width / height of the part; 0 for that of the region.

    Returns:
      Place and size (left, upper, width, height) of the part in pixels of the region, whole ones but for all of it.
    """
    width, height = (float(side) for side in size)
    aspect = aspect or width / height
    for _ in range(_ATTEMPTS):
        pixels = (area[0] + (area[1] - area[0]) * rng.random()) * width * height
        w, h = round((pixels * aspect) ** 0.5), round((pixels / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            upper = rng.integers(0, int(height - h) + 1)
            return (rng.integers(0, int(width - w) + 1), upper, w, h)
    return (0, 0, width, height)


_MOST_FACTOR = 2**_MOST_OCTAVES


@dataclasses.dataclass(frozen=True)
class CanvasAugmentation:
    """Random views of whole images for training, square, in the order of draws of HigherHRNet and DEKR.

    Attributes:
      scale: bounds of the factor by which the region's side exceeds the image's.
      rotation: greatest angle in degrees; the angle is uniform within -+ rotation.
      shift: greatest shift of the region's centre in pixels where the region's side is 200: a fifth of it, for 40. Each
        way it is a whole number of pixels of the image, uniform from -k to k - 1, as both original programs have it.
      mirror: probability of a mirrored view.
      side: side of the image, "short" or "long", that the region's side is compared with.

    Raises:
      ConfigError: `scale` is no pair of positive numbers.
    """

    scale: tuple[float, float] = (0.75, 1.5)
    rotation: float = 30.0
    shift: float = 40.0
    mirror: float = 0.5
    side: Literal["short", "long"] = "short"

    def __post_init__(self):
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= _MOST_FACTOR:
            raise ConfigError(
                f"config.data.canvas.scale is {self.scale!r}; expected (least, greatest) factor, above 0 and not "
                f"above {_MOST_FACTOR:g}"
            )

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


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of an image, upright, at the top left of a canvas.

    Attributes:
      region: place and size (x, y, w, h) of the part in pixels of the image, after it is mirrored if it is to be.
      extent: size (width, height) of the part in pixels of the canvas.
      width: width of the whole image in pixels.
      mirror: True if left and right of the whole image are exchanged before.
    """

    region: tuple[float, float, float, float]
    extent: tuple[int, int]
    width: int
    mirror: bool = False

    def affine(self) -> np.ndarray:
        """The map [2, 3] from image to canvas pixels, for pixels and joints alike."""
        x, y, w, h = self.region
        scale = np.diag([self.extent[0] / w, self.extent[1] / h])
        mirror = np.array([[-1.0, 0, self.width - 1], [0, 1, 0]]) if self.mirror else np.eye(2, 3)
        return scale @ (mirror - np.array([[0, 0, x], [0, 0, y]]))

    def cut_boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [N, 4] (x, y, w, h) of the image as the canvas shows them.

        The sides of a box are borders of pixels, not their centres: mirrored in an image of width W, x becomes W - x,
        while a joint's becomes W - 1 - x.

        Returns:
          Boxes [N, 4] clipped to what is seen, and [N] bool, True for boxes of which something is seen.
        """
        corners = box_ops.box_to_corner(boxes)
        if self.mirror:
            corners = box_ops.mirror_corners(corners, self.width)
        corners, seen = box_ops.cut_corners(corners, self.region)
        return box_ops.corner_to_box(box_ops.scale_corners(corners, self.region[2:], self.extent)), seen


@dataclasses.dataclass(frozen=True)
class DetectionAugmentation:
    """Random views of whole images for training a detector, those of DETR: mirror, resize, and often crop.

    Lengths are multiples of the short side of an image in inference (`config.method.short_side`), 800 pixels in the
    paper, so that the same numbers suit any size of canvas.

    Attributes:
      short_sides: lengths of the image's short side, one of which is taken at random; 480 to 800 pixels in the paper.
      mirror: probability of a mirrored view.
      crop: probability of looking at a part: the image is resized to one of `crop_short_sides`, a rectangle of random
        sides is cut out of it at random, and resized like a whole image.
      crop_short_sides: lengths of the image's short side before it is cut; 400, 500 and 600 pixels in the paper.
      crop_sides: bounds of both sides of the rectangle, which are whole pixels and not longer than the image; 384 and
        600 pixels in the paper.

    Raises:
      ConfigError: a field of `config.data.detection` is no length or probability.
    """

    short_sides: tuple[float, ...] = (0.6, 0.64, 0.68, 0.72, 0.76, 0.8, 0.84, 0.88, 0.92, 0.96, 1.0)
    mirror: float = 0.5
    crop: float = 0.5
    crop_short_sides: tuple[float, ...] = (0.5, 0.625, 0.75)
    crop_sides: tuple[float, float] = (0.48, 0.75)

    def __post_init__(self):
        for field in ("short_sides", "crop_short_sides", "crop_sides"):
            found = getattr(self, field)
            if not len(found) or min(found) <= 0:
                raise ConfigError(f"config.data.detection.{field} is {found!r}; expected positive lengths")
        if len(self.crop_sides) != 2 or self.crop_sides[0] > self.crop_sides[1]:
            raise ConfigError(f"config.data.detection.crop_sides is {self.crop_sides!r}; expected (least, greatest)")
        for field in ("mirror", "crop"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"config.data.detection.{field} is {getattr(self, field)!r}; expected a probability")


@dataclasses.dataclass(frozen=True)
class CornerCanvas:
    """A canvas at whose top left whole images lie, or parts of them, as DETR sees them.

    Attributes:
      size: size (width, height) of the canvas in pixels.
      short_side: length in pixels that the short side of what is seen gets in the plain view, or less where the long
        side would be too long or the canvas is too small.
      long_side: greatest length in pixels that the long side of what is seen gets.
    """

    size: tuple[int, int]
    short_side: int
    long_side: int

    def plain(self, width: int, height: int) -> Window:
        """All of an image of this size in pixels, as in inference."""
        return Window((0.0, 0.0, width, height), self.fit(width, height, 1.0), width)

    def draw(self, width: int, height: int, augmentation: DetectionAugmentation, rng: Rng) -> Window:
        """A random view of an image of this size in pixels."""

        def choose(lengths: tuple[float, ...]) -> float:
            return lengths[rng.integers(0, len(lengths))]

        mirror, crop = rng.random() < augmentation.mirror, rng.random() < augmentation.crop
        seen, region = (width, height), (0.0, 0.0, width, height)
        if crop:
            short = max(1, round(choose(augmentation.crop_short_sides) * self.short_side))
            resized = np.array(box_ops.fitted_size(width, height, short))
            bounds = [round(side * self.short_side) for side in augmentation.crop_sides]
            least, most = (np.minimum(np.maximum(bound, 1), resized) for bound in bounds)
            seen = [rng.integers(low, high + 1) for low, high in zip(least, most, strict=True)]
            corner = [rng.integers(0, side + 1) for side in resized - seen]
            factor = np.array([width, height]) / resized
            region = (*(corner * factor).tolist(), *(seen * factor).tolist())
        extent = self.fit(int(seen[0]), int(seen[1]), choose(augmentation.short_sides))
        return Window(region, extent, width, mirror)

    def fit(self, width: int, height: int, short_side: float) -> tuple[int, int]:
        """The size on the canvas of an image of this size; `short_side` is a multiple of the plain view's."""
        extent = box_ops.fitted_size(width, height, max(1, round(short_side * self.short_side)), self.long_side)
        shrink = min(1.0, *(room / side for room, side in zip(self.size, extent, strict=True)))
        width, height = (max(1, int(side * shrink + 1e-6)) for side in extent)
        return width, height

    def cut(self, image: np.ndarray, window: Window) -> np.ndarray:
        """The canvas [H, W, 3] with an image [h, w, 3]; black outside of what the window shows."""
        canvas = np.zeros((self.size[1], self.size[0], image.shape[2]), image.dtype)
        width, height = window.extent
        canvas[:height, :width] = warp(image, window.affine(), window.extent)
        return canvas


MAX_FINER = 8
"""Greatest number of samples along a side of a crop's pixel that are averaged."""


@dataclasses.dataclass(frozen=True)
class PersonCrop:
    """The crop of one person.

    Attributes:
      size: size (width, height) of the crop in pixels.
      padding: factor by which the region exceeds the person's box.
      half_pixel: convention of pixels as in `geometry.crop_affine`; DSNT's if True.
      unbiased: True for crops of UDP, whose corner pixels lie on the corners of the region.
      antialias: True to average over all pixels of the image that a pixel of the crop covers, where the region is
        larger than the crop; by default four of them are interpolated, as in the original code of the top-down family.
    """

    size: tuple[int, int]
    padding: float = 1.25
    half_pixel: bool = False
    antialias: bool = False
    unbiased: bool = False

    def view(self, box: np.ndarray) -> View:
        """The plain view of a box [4] (x, y, w, h); of many boxes [..., 4], views side by side.

        Raises:
          DataError: a box is not of finite numbers, of which any crop would be.
        """
        box = np.asarray(box, np.float64)
        if not (np.abs(box) <= LARGEST).all():
            bad = box[~(np.abs(box) <= LARGEST).all(-1)].reshape(-1, 4)[0].tolist()
            raise DataError(f"the box {bad} cannot be cut out; expected (x, y, w, h) in pixels, up to {LARGEST:g}")
        return View(*geometry.box_to_center_size(box, self.size[0] / self.size[1], self.padding))

    def affine(self, view: View) -> np.ndarray:
        """The map [2, 3] from image to crop pixels."""
        return geometry.crop_affine(
            view.center,
            view.size,
            self.size,
            view.rotation,
            view.mirror,
            half_pixel=self.half_pixel,
            unbiased=self.unbiased,
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
        """The person's fields of `methods.top_down.person_spec` that come from the picture.

        Args:
          image: [H, W, 3] uint8 RGB image.
          view: view of the person, perhaps augmented.
          keypoints: [K, 2] joints in pixels of the image.
          visible: [K] labels; a joint counts where positive. Others are not moved by the crop, only by mirroring.
          joints: skeleton of the joints.
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
        """Joints [K, 2] in pixels of the crop, and [K] 1 for those that count, else 0; arguments as for `example`."""
        seen = np.asarray(visible > 0)
        if view.mirror:
            keypoints, seen = keypoints[joints.flip_index], seen[joints.flip_index]
            keypoints = np.where(seen[:, None], keypoints, 0)
        moved = geometry.apply_affine(self.affine(view), keypoints.astype(np.float64))
        return np.where(seen[:, None], moved, keypoints).astype(np.float32), seen.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SquareCanvas:
    """A square canvas on which whole images lie; maps of the network cover the same square with fewer pixels.

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
        """The canvas [S, S, 3] with an image [H, W, 3]; black outside the image."""
        return warp(image, self.affine(view), (self.size, self.size))

    def cut_mask(self, mask: np.ndarray, view: View, stride: int) -> np.ndarray:
        """A mask [H, W] bool as uint8 [S / stride, S / stride]: 1 where more than half of a pixel is True, else 0.

        Pixels outside the image are 0.
        """
        side = self.size // stride
        levels = warp(mask.astype(np.uint8) * 255, self.affine(view, stride), (side, side))
        return (levels > 127).astype(np.uint8)


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], finer: int = 1) -> np.ndarray:
    """An image [H, W] or [H, W, 3] on a canvas, interpolated linearly; zeros outside the image.

    Args:
      image: image to lay on the canvas; its dtype is kept.
      matrix: [2, 3] map from image to canvas pixels.
      size: size (width, height) of the canvas in pixels.
      finer: number of samples along each side of a pixel, whose mean it is.

    Raises:
      DataError: OpenCV does not take sides of that length.
    """
    import cv2

    matrix = matrix * finer
    matrix[:, 2] += (finer - 1) / 2
    try:
        canvas = cv2.warpAffine(image, matrix, (size[0] * finer, size[1] * finer), flags=cv2.INTER_LINEAR)
    except cv2.error as error:  # versions of OpenCV before 5 do not take sides beyond 32,767
        raise DataError(
            f"an image of {image.shape[1]:,} x {image.shape[0]:,} pixels cannot be laid on a canvas of {size[0]:,} x "
            f"{size[1]:,} ({error.err}); make it smaller"
        ) from error
    return canvas if finer == 1 else cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
