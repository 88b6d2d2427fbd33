"""Top-down methods, which see one person's crop: what shared code asks of them, and what papers share."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxpose.methods.base import Method
from jaxpose.ops import geometry, heatmaps, oks, photometric
from jaxpose.rng import example_keys
from jaxpose.types import Batch, Poses, Spec, Stream, Variables

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# --- what shared code asks ---


def person_spec(batch_size: int, size: tuple[int, int], num_joints: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a stream of single-person crops, which `data.views.PersonCrop` makes.

    image [B, H, W, 3] uint8 RGB; keypoints [B, K, 2] pixels of the crop; visible [B, K] in {0, 1};
    to_image [B, 2, 3] affine map from crop pixels to pixels of the original image; person_score [B] of the box
    (1 for true boxes); index [B] position in the data set; valid [B] False for padding.

    Args:
      batch_size: number of crops B.
      size: (width, height) of the crop in pixels.
      num_joints: number of joints K.
    """
    width, height = size

    def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return {
        "image": leaf(height, width, 3, dtype=jnp.uint8),
        "keypoints": leaf(num_joints, 2),
        "visible": leaf(num_joints),
        "to_image": leaf(2, 3),
        "person_score": leaf(),
        "index": leaf(dtype=jnp.int32),
        "valid": leaf(dtype=jnp.bool_),
    }


@dataclasses.dataclass(frozen=True)
class CropInput(Method):
    """A method that looks at the crop of one person; batches have the fields of `person_spec`.

    Attributes:
      input_size: (width, height) of the crop in pixels.
      flip_test: whether results are averaged with those of the mirrored crop.
    """

    input_size: tuple[int, int] = (192, 256)
    flip_test: bool = False

    input_kind: ClassVar[str] = "crop of a person"
    takes_boxes: ClassVar[bool] = True

    @property
    def map_size(self) -> tuple[int, int] | None:
        """(width, height) of the maps that joints are read from; None for methods without maps."""
        return None


@dataclasses.dataclass(frozen=True)
class ClipInput(CropInput):
    """A method that looks at the crops of one person in a frame of a video, the frame before and the frame after it.

    Batches have "image" [B, 3, H, W, 3] (current, previous, next frame) and "margin" [B, 2], the distances of the other
    two frames, besides the fields of `person_spec`.
    """

    input_kind: ClassVar[str] = "clip of a person"


# --- what the papers share ---


@dataclasses.dataclass(frozen=True)
class CropMethod(CropInput):
    """A method that looks at one person's crop at a time.

    Attributes:
      channels: order in which the network sees colours, "rgb" or "bgr" (mean and deviation are not reordered).
      mean, std: mean and standard deviation of each channel in [0, 1], by which crops are normalised.
      color_jitter: range c of the factors U(1 - c, 1 + c) by which channels are multiplied in training; 0 for none.
      brightness, contrast, saturation, blur: strengths of the random changes of `ops.photometric` in training; 0 for
        none.
    """

    channels: str = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    color_jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    flip_test: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.require(self.channels in ("rgb", "bgr"), "channels", '"rgb" or "bgr"')
        for field in ("brightness", "contrast", "saturation"):
            self.require(0 <= getattr(self, field) <= 1, field, "a number from 0 to 1")
        self.require(0 <= self.blur <= photometric.MOST_BLUR, "blur", f"a radius from 0 to {photometric.MOST_BLUR}")

    def spec(self, batch_size: int) -> Spec:
        return {"source": person_spec(batch_size, self.input_size, self.joints.num_joints)}

    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """Normalises (in training also recolours and blurs) "image" and adds `labels`."""
        stream = batch["source"]
        image = stream["image"].astype(jnp.float32) / 255
        if train and self.color_jitter:
            image = jitter(image, key, self.color_jitter)
        strength = photometric.Strength(self.brightness, self.contrast, self.saturation, self.blur)
        if train and strength.positive:
            image = photometric.distort(image, example_keys(key, stream["index"]), strength)
        return {"source": stream | {"image": self.normalize(image)} | self.labels(stream)}

    def normalize(self, image: jax.Array) -> jax.Array:
        """RGB [..., 3] in [0, 1], normalised for the network."""
        image = image[..., ::-1] if self.channels == "bgr" else image
        return (image - jnp.array(self.mean)) / jnp.array(self.std)

    def labels(self, stream: Stream) -> Stream:
        """Fields for the loss besides those of `person_spec`, such as target maps."""
        return {}


@dataclasses.dataclass(frozen=True)
class TopDown(CropMethod):
    """A crop goes in, maps come out, and one pose is read from them.

    A subclass gives the maps of its network (`maps`), the pose that they hold (`read`), and the targets of its loss
    (`labels`).

    Attributes:
      flip_shift: whether the mirrored maps are moved one column to the right before averaging, as the heatmap family
        does to make up for its rounded targets; see `ops.heatmaps.flip_back`.
    """

    flip_shift: bool = True

    # --- what a subclass gives ---

    @abc.abstractmethod
    def maps(self, variables: Variables, image: jax.Array) -> jax.Array:
        """Maps [B, h, w, K] float32 for normalised crops [B, H, W, 3], in evaluation mode."""

    @abc.abstractmethod
    def read(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [B, K, 2] in pixels of the crop, and scores [B, K], from maps [B, h, w, K]."""

    def person_score(self, scores: jax.Array, box_score: jax.Array) -> jax.Array:
        """Scores [B] of people, from those of their joints [B, K] and of their boxes [B]."""
        return oks.person_score(scores, box_score)

    # --- what follows from it ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """{"maps": [B, h, w, K]}, averaged with those of the mirrored crop in a flip test."""
        image = batch["source"]["image"]
        if not self.flip_test:
            return {"maps": self.maps(variables, image)}
        both = rearrange([image, image[:, :, ::-1]], "flip b h w c -> (b flip) h w c")
        maps = self.maps(variables, both)
        mirrored = heatmaps.flip_back(maps[1::2], self.joints.flip_index, self.flip_shift)
        return {"maps": (maps[::2] + mirrored) / 2}

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """One person a crop."""
        stream = batch["source"]
        positions, scores = self.read(outputs["maps"])
        return Poses(
            keypoints=geometry.apply_affine(stream["to_image"], positions)[:, None],
            scores=scores[:, None],
            person_score=self.person_score(scores, stream["person_score"])[:, None],
            valid=stream["valid"][:, None],
        )


def jitter(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Images [B, H, W, 3] in [0, 1] with every channel multiplied by U(1 - amount, 1 + amount), clamped."""
    shape = (image.shape[0], 1, 1, image.shape[-1])
    return recolor(image, jax.random.uniform(key, shape, minval=1 - amount, maxval=1 + amount))


def recolor(image: jax.Array, gain: jax.Array) -> jax.Array:
    """Images [..., 3] in [0, 1], each channel multiplied by `gain` [..., 3] and clamped."""
    return jnp.clip(image * gain, 0, 1)
