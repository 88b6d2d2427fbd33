"""Bottom-up methods, which find everybody in a whole image: what shared code asks of them, and what papers share."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxpose.methods.base import Method
from jaxpose.methods.top_down import IMAGENET_MEAN, IMAGENET_STD
from jaxpose.nn import backbones, initializers
from jaxpose.nn.hrnet import HRNet
from jaxpose.types import Batch, Layout, Poses, Spec, Stream, Variables

# --- what shared code asks ---


@dataclasses.dataclass(frozen=True)
class ImageInput(Method):
    """A method that looks at a whole image and finds everybody in it.

    Attributes:
      max_people: number of rows N for the people of a training image.
    """

    max_people: int = 30

    input_kind: ClassVar[str] = "whole image"

    @property
    @abc.abstractmethod
    def scales(self) -> tuple[float, ...]:
        """Test scales of the image in inference; 1 is among them."""

    @abc.abstractmethod
    def layout(self, width: int, height: int) -> Layout:
        """Canvases of an image of this size in pixels in inference, one for each of `scales`."""


@dataclasses.dataclass(frozen=True)
class CanvasInput(ImageInput):
    """A method that is trained on square canvases, with masks of the pixels that count in the loss.

    Attributes:
      input_size: side S of a training canvas in pixels.
      flip_test: whether results are averaged with those of the mirrored image.
    """

    input_size: int = 512
    flip_test: bool = False

    mask_strides: ClassVar[tuple[int, ...]] = ()
    """Strides of the maps for which the loss needs a mask "mask_STRIDE" [B, S / stride, S / stride]."""


@dataclasses.dataclass(frozen=True)
class DetectionInput(ImageInput):
    """A method that is trained on images which lie at the top left of a canvas, with the boxes of their people.

    Attributes:
      input_size: (width, height) of a training canvas in pixels.
      short_side: length in pixels of an image's short side in inference, less where the long side would be longer than
        `long_side`.
      long_side: greatest length in pixels of an image's long side in inference.
    """

    input_size: tuple[int, int] = (1344, 1344)
    short_side: int = 800
    long_side: int = 1333


# --- what the papers share ---


@dataclasses.dataclass(frozen=True)
class BottomUp(CanvasInput):
    """A whole image goes in, the poses of everybody in it come out.

    Training looks at square canvases with random views. Inference fits the whole image: the short side to `input_size`,
    the long side as it comes, padded; images whose canvases have the same size share a compiled program.

    Attributes:
      mean, std: mean and standard deviation of each colour in [0, 1], by which images are normalised.
      scales: test scales of the image in inference; 1 is among them.
      bucket: number of pixels to whose multiples long sides are rounded up; 64 in the papers, more for fewer programs.
      backbone: "hrnet_wC" with C channels in the finest branch (32, 48).
      backbone_stages: fusion modules of stages 2 to 4; empty for the published ones.
      backbone_blocks: number of residual blocks on each branch of a module.
      stem_width: channels of the stem.
      stem_blocks: number of bottlenecks before the branches.
      kernel_deviation: standard deviation of the kernels' initial values, also of the backbone, for which the published
        models then took weights from ImageNet; 0 for He's initial values, better for training from nothing.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    flip_test: bool = True
    scales: tuple[float, ...] = (1.0,)
    bucket: int = 64
    backbone: str = "hrnet_w32"
    backbone_stages: tuple[int, ...] = ()
    backbone_blocks: int = 4
    stem_width: int = 64
    stem_blocks: int = 4
    kernel_deviation: float = 0.001

    mask_strides: ClassVar[tuple[int, ...]] = (2, 4)
    """Strides of the maps for which the loss needs a mask."""
    own_start: ClassVar[str] = ""
    """Prefix of the modules whose kernels keep initial values of their own; none if empty."""

    def __post_init__(self):
        super().__post_init__()
        self.require(self.input_size > 0 and self.input_size % 32 == 0, "input_size", "a multiple of 32")
        self.require(1.0 in self.scales, "scales", "1.0 among the test scales")
        self.require(self.bucket > 0 and self.bucket % 64 == 0, "bucket", "a multiple of 64")
        self.require(self.max_people > 0, "max_people", "at least one person")
        named = backbones.is_known(self.backbone) and backbones.is_hrnet(self.backbone)
        self.require(named, "backbone", '"hrnet_wC" with C channels in the finest branch (32, 48)')
        given = len(self.backbone_stages)
        self.require(given in (0, 3), "backbone_stages", "the modules of stages 2, 3 and 4, or nothing")

    def hrnet(self, output: str) -> HRNet:
        """The backbone; see `nn.hrnet.HRNet` for `output`."""
        network = backbones.backbone(
            self.backbone, stages=self.backbone_stages, output=output, dtype=jnp.dtype(self.dtype)
        )
        assert isinstance(network, HRNet)
        return network.clone(blocks=self.backbone_blocks, stem_width=self.stem_width, stem_blocks=self.stem_blocks)

    def init(self, key: jax.Array) -> Variables:
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        variables = initializers.initialize(self.module(), key, image)
        if not self.kernel_deviation:
            return variables
        draw = initializers.normal(self.kernel_deviation)
        params: dict[tuple[str, ...], Any] = dict(flatten_dict(variables["params"]))
        for number, path in enumerate(sorted(params)):
            own = self.own_start and path[0].startswith(self.own_start)
            if path[-1] == "kernel" and not own:
                params[path] = draw(jax.random.fold_in(key, number), params[path].shape)
        return variables | {"params": unflatten_dict(params)}

    @abc.abstractmethod
    def layout(self, width: int, height: int) -> Layout:
        """Canvases of an image of this size in pixels in inference, in the order of `scales`."""

    @abc.abstractmethod
    def labels(self, stream: Stream) -> Stream:
        """Fields for the loss besides those of `spec`, such as target maps."""

    # --- what follows from it ---

    def spec(self, batch_size: int) -> Spec:
        """A training batch as the host delivers it: one canvas an image, everybody's labels in pixels of the canvas.

        image [B, S, S, 3] uint8 RGB; keypoints [B, N, K, 2] (those without label are the image's corner, moved like
        everything else); visible [B, N, K] in {0, 1}; people [B, N] bool, whether the row holds a person; area [B, N]
        in pixels^2 of the original image; to_image [B, 2, 3] affine map from canvas pixels to those of the original
        image; mirror [B] whether the device is to mirror the example, of which nothing is mirrored yet; mask_s [B, S/s,
        S/s] in {0, 1}, 1 where the loss counts, for each of `mask_strides`; index [B] position in the data set; valid
        [B].
        """
        side, people, joints = self.input_size, self.max_people, self.joints.num_joints

        def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

        masks = {f"mask_{s}": leaf(side // s, side // s, dtype=jnp.uint8) for s in self.mask_strides}
        fields = {
            "image": leaf(side, side, 3, dtype=jnp.uint8),
            "keypoints": leaf(people, joints, 2),
            "visible": leaf(people, joints),
            "people": leaf(people, dtype=jnp.bool_),
            "area": leaf(people),
            "to_image": leaf(2, 3),
            "mirror": leaf(dtype=jnp.bool_),
            "index": leaf(dtype=jnp.int32),
            "valid": leaf(dtype=jnp.bool_),
        }
        return {"source": fields | masks}

    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """Normalises the images of all scales; in training mirrors images and masks, and adds `labels`."""
        stream = dict(batch["source"])
        for name in [name for name in stream if name.startswith("image")]:
            stream[name] = self.normalize(stream[name].astype(jnp.float32) / 255)
        if not train:
            return {"source": stream}
        stream["image"] = mirror_where(stream["mirror"], stream["image"])
        for stride in self.mask_strides:
            name = f"mask_{stride}"
            stream[name] = mirror_where(stream["mirror"], stream[name]).astype(jnp.float32)
        return {"source": stream | self.labels(stream)}

    def normalize(self, image: jax.Array) -> jax.Array:
        """RGB [..., 3] in [0, 1], normalised for the network."""
        return (image - jnp.array(self.mean)) / jnp.array(self.std)


def mirror_where(mirror: jax.Array, rows: jax.Array) -> jax.Array:
    """Images or maps [B, H, W, ...], those for which `mirror` [B] holds with left and right exchanged."""
    return jnp.where(mirror.reshape(-1, *[1] * (rows.ndim - 1)), rows[:, :, ::-1], rows)


def mark_broken(poses: Poses, broken: jax.Array) -> Poses:
    """Poses in which every image [B] that is `broken` has one person made of NaN, so that what follows can tell."""
    first = jnp.arange(poses.valid.shape[1]) == 0
    nan = jnp.where(first, jnp.nan, 0.0)

    def marked(values: Any) -> jax.Array:
        rest = [1] * (values.ndim - 2)
        return jnp.where(broken.reshape(-1, 1, *rest), nan.reshape(1, -1, *rest), values)

    return dataclasses.replace(
        poses,
        keypoints=marked(poses.keypoints),
        scores=marked(poses.scores),
        person_score=marked(poses.person_score),
        valid=jnp.where(broken[:, None], first, poses.valid),
    )


def joints_on_map(
    stream: Stream, size: int, flip_index: np.ndarray, reflection: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Positions of a training batch's joints on square maps, after mirroring.

    Args:
      stream: stream of `BottomUp.targets`.
      size: side R of the maps in pixels.
      flip_index: [K] index of each joint's mirror image, of the skeleton.
      reflection: number r such that a mirrored joint is at R - r - x. The original programs subtract 1 at every
        resolution, which is exact for the image alone.

    Returns:
      keypoints [B, N, K, 2] in pixels of the map, and visible [B, N, K].
    """
    keypoints = jnp.asarray(stream["keypoints"]) * (size / stream["image"].shape[2])
    mirrored = keypoints[:, :, flip_index]
    mirrored = mirrored.at[..., 0].set(size - reflection - mirrored[..., 0])
    mirror = stream["mirror"][:, None, None]
    visible = jnp.where(mirror, stream["visible"][:, :, flip_index], stream["visible"])
    return jnp.where(mirror[..., None], mirrored, keypoints), visible
