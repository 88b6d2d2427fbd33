"""HigherHRNet: heatmaps of everybody at two resolutions, joints grouped by tags (Cheng et al., CVPR 2020).

An HRNet sees the whole image. From its finest branch come, at a quarter of the image's resolution, one heatmap a joint
and one map of tags a joint. Features and maps go through a transposed convolution, and heatmaps of half the image's
resolution follow, on which the joints of small people stay apart. Tags are alike within a person (associative
embedding), so that in inference the maxima of the averaged heatmaps can be told whose they are.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.bottom_up import BottomUp, joints_on_map, mark_broken
from jaxpose.methods.higherhrnet import associative, grouping
from jaxpose.nn.heads import DECONV_PADDING, Deconv, heatmap_conv
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.nn.resnet import BasicBlock
from jaxpose.ops import geometry, heatmaps
from jaxpose.ops.arrays import LARGEST
from jaxpose.types import Batch, Layout, Poses, Stream, Variables, image_field

Maps = Mapping[str, jax.Array]
"""Outputs of the network: {"stage0": [B, h, w, J + T], "stage1": [B, 2 h, 2 w, J], ...}, heatmaps before tags."""


# --- network ---


class HigherResolutionHead(nn.Module):
    """Maps at the backbone's resolution, then at twice that, and so on (section 3.2).

    Attributes:
      channels: number of maps of each stage, heatmaps and tags together; every stage but the first doubles the
        resolution.
      features: number of channels of the transposed convolutions and of the blocks after them.
      kernel: size of the transposed convolutions, 4, 3 or 2.
      blocks: number of residual blocks after each of them.
      concat: whether a stage sees the maps of the one before it besides its features.
      final_kernel: size of the convolutions that make maps, odd.
      dtype: compute precision; those last convolutions work in float32 at least.
    """

    channels: tuple[int, ...]
    features: int
    kernel: int = 4
    blocks: int = 4
    concat: bool = True
    final_kernel: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Maps:
        """[B, h, w, C] -> {"stage0": [B, h, w, channels[0]], "stage1": [B, 2 h, 2 w, channels[1]], ...} float32."""
        maps = {}
        for stage, channels in enumerate(self.channels):
            if stage:
                x = self._double(x, maps[f"stage{stage - 1}"], stage, train)
            wide = x.astype(jnp.promote_types(self.dtype, jnp.float32))
            maps[f"stage{stage}"] = heatmap_conv(channels, self.final_kernel, name=f"maps{stage}")(wide)
        return maps

    def _double(self, x: jax.Array, maps: jax.Array, stage: int, train: bool) -> jax.Array:
        if self.concat:
            x = jnp.concatenate([x, maps.astype(x.dtype)], axis=-1)
        x = Deconv(self.features, self.kernel, dtype=self.dtype, name=f"deconv{stage}")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{stage}")(x, train))
        for index in range(self.blocks):
            x = BasicBlock(self.features, dtype=self.dtype, name=f"block{stage}_{index}")(x, train)
        return x


class HigherHRNetNetwork(nn.Module):
    """A backbone and a head.

    Attributes:
      backbone: returns a list of maps; the first is used.
      head: turns it into maps of joints and tags.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, image: jax.Array, train: bool = False) -> Maps:
        """Normalised [B, H, W, 3], sides divisible by 32, -> maps at strides 4, 2, ..."""
        return self.head(self.backbone(image, train)[0], train)


# --- method ---


@dataclasses.dataclass(frozen=True)
class HigherHRNet(BottomUp):
    """The defaults are those of HigherHRNet-W32 on COCO at 512 pixels.

    A stage is one resolution of the maps: stage 0 has a quarter of the image's, and each transposed convolution adds a
    stage of twice the resolution. Weights of losses hold one number for each stage, or a single one for all.

    Attributes:
      deconv_layers: number of transposed convolutions, up to 2. Without any it is the same network at a quarter of the
        resolution alone, the baseline of the paper's ablation.
      deconv_features: number of channels of each transposed convolution; 0 for as many as the backbone's finest branch.
      deconv_kernel: size of each transposed convolution, 4, 3 or 2.
      deconv_blocks: number of residual blocks after each.
      deconv_concat: whether each sees the maps of the stage before it besides the features.
      final_kernel: size of the convolutions that make maps, 1 or 3.
      tag_per_joint: whether every joint has a tag map of its own; else one serves all.
      tag_stages: stages with tags, in order.
      heatmap_stages: stages with a loss, in order; empty for all. Others have untrained maps.
      averaged_stages: stages with a loss whose heatmaps are averaged in inference; empty for all.
      with_center: whether there is a further joint in the middle of each person.
      ignore_center: whether it is left out in inference; otherwise grouping begins with it. It is never part of the
        poses.
      sigma: standard deviation of heatmap targets in pixels of each stage's map; negative for side / 64.
      scale_aware: whether it is multiplied by the person's length on the canvas over 256 pixels, see `deviations`.
      push: kind of loss that drives tags of different people apart, "exp" or "max"; see `associative.embedding_loss`.
      heatmap_weight, push_weight, pull_weight: factors of the losses.
      project_to_image: poses are read from maps as large as the image; else from those of the finest stage.
      detection_threshold: a maximum counts as a joint above.
      tag_threshold: a joint belongs to a person whose mean tag is nearer.
      nms_window: side of the square in which a maximum is the largest.
      capacity: people that the result has room for; more than `max_people`, as joints that fit nobody start others.
      use_detection_val, ignore_too_much, adjust, refine: fields of `methods.higherhrnet.grouping.Grouping`.
    """

    deconv_layers: int = 1
    deconv_features: int = 0
    deconv_kernel: int = 4
    deconv_blocks: int = 4
    deconv_concat: bool = True
    final_kernel: int = 1
    tag_per_joint: bool = True
    tag_stages: tuple[int, ...] = (0,)
    heatmap_stages: tuple[int, ...] = ()
    averaged_stages: tuple[int, ...] = ()
    with_center: bool = False
    ignore_center: bool = True
    sigma: float = 2.0
    scale_aware: bool = False
    push: str = "exp"
    heatmap_weight: tuple[float, ...] = (1.0,)
    push_weight: tuple[float, ...] = (1e-3,)
    pull_weight: tuple[float, ...] = (1e-3,)
    project_to_image: bool = True
    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    nms_window: int = 5
    capacity: int = 60
    use_detection_val: bool = True
    ignore_too_much: bool = False
    adjust: bool = True
    refine: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.require(0 <= self.deconv_layers <= 2, "deconv_layers", "0, 1 or 2")
        self.require(self.deconv_kernel in DECONV_PADDING, "deconv_kernel", "4, 3 or 2")
        self.require(self.final_kernel in (1, 3), "final_kernel", "1 or 3")
        usable = self.sigma > 0 or (self.sigma < 0 and not self.scale_aware)
        self.require(usable, "sigma", "a deviation in pixels, or a negative number for side / 64 unless scale_aware")
        self.require(self.push in associative.PUSHES, "push", '"exp" or "max"')
        self.require(self.nms_window % 2 == 1, "nms_window", "an odd number of pixels")
        self.require(self.capacity >= self.max_people, "capacity", f"room for max_people ({self.max_people}) at least")
        self._check_stages()
        halves = [2 * scale / min(self.scales) for scale in self.scales]
        self.require(all(h == round(h) for h in halves), "scales", "multiples of half of the smallest")

    def _check_stages(self) -> None:
        stages = range(self.deconv_layers + 1)
        rising = f"numbers of stages, rising, of 0 to {self.deconv_layers}"
        for field in ("tag_stages", "heatmap_stages", "averaged_stages"):
            found = getattr(self, field)
            self.require(found == tuple(s for s in stages if s in found), field, rising)
        self.require(len(self.tag_stages) > 0, "tag_stages", "at least one stage")
        trained = self.trained_stages
        self.require(set(self.tag_stages) <= set(trained), "tag_stages", f"stages with a heatmap loss: {trained}")
        self.require(set(self.averaged_stages) <= set(trained), "averaged_stages", f"some of the trained {trained}")
        for field in ("heatmap_weight", "push_weight", "pull_weight"):
            fits = len(getattr(self, field)) in (1, len(stages))
            self.require(fits, field, f"one factor, or one for each of {len(stages)} stages")

    # --- network ---

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image a pixel of the map, by stage."""
        return tuple(4 // 2**stage for stage in range(self.deconv_layers + 1))

    @property
    def mask_strides(self) -> tuple[int, ...]:
        """Strides of the masks that the host delivers."""
        return tuple(self.strides[stage] for stage in reversed(self.trained_stages))

    @property
    def trained_stages(self) -> tuple[int, ...]:
        """Stages with a heatmap loss."""
        return self.heatmap_stages or tuple(range(self.deconv_layers + 1))

    @property
    def num_heatmaps(self) -> int:
        """J: the skeleton's joints and, `with_center`, one more."""
        return self.joints.num_joints + self.with_center

    @property
    def num_found(self) -> int:
        """Joints that are looked for in inference: J unless the centre is left out."""
        return self.num_heatmaps - (self.with_center and self.ignore_center)

    @property
    def flip_index(self) -> np.ndarray:
        """[J]; the centre is its own mirror image."""
        return np.append(self.joints.flip_index, np.arange(self.joints.num_joints, self.num_heatmaps))

    def module(self) -> HigherHRNetNetwork:
        dtype = jnp.dtype(self.dtype)
        backbone = self.hrnet("high_resolution")
        tags = self.num_heatmaps if self.tag_per_joint else 1
        head = HigherResolutionHead(
            channels=tuple(self.num_heatmaps + tags * (stage in self.tag_stages) for stage in range(len(self.strides))),
            features=self.deconv_features or backbone.width,
            kernel=self.deconv_kernel,
            blocks=self.deconv_blocks,
            concat=self.deconv_concat,
            final_kernel=self.final_kernel,
            dtype=dtype,
        )
        return HigherHRNetNetwork(backbone, head)

    # --- targets and losses ---

    def labels(self, stream: Stream) -> Stream:
        """Targets by stride s of each trained stage: "heatmaps_s" [B, R, R, J], and where it has tags "index_s" and
        "used_s".

        "index_s" [B, N, J] says at which pixel a joint's tag is read, and "used_s" [B, N, J] whether it is.
        """
        counted = (stream["people"] & stream["valid"][:, None])[..., None]
        sigma = self.deviations(stream) if self.scale_aware else self.sigma
        fields = {}
        for stage in self.trained_stages:
            stride = self.strides[stage]
            side = self.input_size // stride
            keypoints, visible = joints_on_map(stream, side, self.joints.flip_index)
            visible = jnp.where(counted, visible, 0)
            if self.with_center:
                keypoints = jnp.where(visible[..., None] > 0, keypoints, 0)
                keypoints, visible = associative.append_center(keypoints, visible)
            fields[f"heatmaps_{stride}"] = heatmaps.people_targets(keypoints, visible, (side, side), sigma)
            if stage in self.tag_stages:
                index, used = associative.joint_index(keypoints, visible, (side, side))
                fields |= {f"index_{stride}": index, f"used_{stride}": used}
        return fields

    def deviations(self, stream: Stream) -> jax.Array:
        """Deviations [B, N] of the targets of people of different size, the same at all resolutions.

        The original's generator of this kind, which no published model used, takes the longer side of a person's box.
        Here it is estimated as twice the square root of the person's area, which a stream holds. Half a pixel is the
        least.
        """
        to_image = stream["to_image"]
        pixel = jnp.hypot(to_image[:, 0, 0], to_image[:, 1, 0])[:, None]
        length = 2 * jnp.sqrt(stream["area"]) / pixel
        return jnp.maximum(associative.person_sigma(length, self.sigma), 0.5)

    def criterion(self, maps: Maps, stream: Stream) -> dict[str, jax.Array]:
        """Losses [B] of each image, weighted: "heatmap_s" by the stride s, and where there are tags "push_s", "pull_s".

        Args:
          maps: maps of the network.
          stream: stream with `labels` and masks "mask_s" [B, H/s, W/s].
        """
        losses = {}
        for stage in self.trained_stages:
            stride = self.strides[stage]
            joints, tags = self.split(maps[f"stage{stage}"])
            loss = heatmaps.masked_mse(joints, stream[f"heatmaps_{stride}"], stream[f"mask_{stride}"])
            losses[f"heatmap_{stride}"] = loss * of_stage(self.heatmap_weight, stage)
            if stage in self.tag_stages:
                read = associative.tags_at(tags, stream[f"index_{stride}"])
                push, pull = associative.embedding_loss(read, stream[f"used_{stride}"], self.push)
                losses[f"push_{stride}"] = push * of_stage(self.push_weight, stage)
                losses[f"pull_{stride}"] = pull * of_stage(self.pull_weight, stage)
        return losses

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """The sum of all losses, each averaged over the images of the batch; the metrics are its summands."""
        stream = batch["source"]
        maps, mutated = self.apply(variables, stream["image"], train=True, mutable=["batch_stats"])
        counts = stream["valid"].astype(jnp.float32)
        losses = {name: jnp.mean(loss * counts) for name, loss in self.criterion(maps, stream).items()}
        return sum(losses.values(), jnp.zeros(())), LossAux(losses, mutated["batch_stats"])

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.higherhrnet import names

        return names.recognize(shapes)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.higherhrnet import names

        return OriginalNames(names.rules(self))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def layout(self, width: int, height: int) -> Layout:
        """The short side becomes a multiple of 64 pixels at the smallest scale, the long side is padded to one.

        All scales show the same part of the image, so the smallest decides on the padding of the others too.
        """
        smallest = min(self.scales)
        short = int((smallest * self.input_size + 63) // 64 * 64)
        fitted = short / min(width, height) * max(width, height)
        long = int((fitted + self.bucket - 1) // self.bucket * self.bucket)
        portrait = width < height
        center = np.array([int(width / 2 + 0.5), int(height / 2 + 0.5)], np.float64)
        sizes, matrices = [], []
        for scale in self.scales:
            sides = int(short * scale / smallest), int(long * scale / smallest)
            size = sides if portrait else (sides[1], sides[0])
            shown = np.array([width if portrait else size[0] / size[1] * height] * 2)
            sizes.append(size)
            matrices.append(geometry.crop_affine(center, shown, size))
        return Layout(tuple(sizes), tuple(matrices), base=self.scales.index(1))

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """{"heatmaps": [B, H, W, J], "tags": [B, H, W, J or 1, T]}, see `aggregate`."""
        stream = batch["source"]
        outputs = {scale: self._views(variables, stream[image_field(scale)]) for scale in self.scales}
        height, width = stream["image"].shape[1:3]
        return self.aggregate(outputs, (width, height))

    def _views(self, variables: Variables, image: jax.Array) -> list[Maps]:
        """Maps for images [B, H, W, 3] and, in a flip test, for the mirrored ones."""
        if not self.flip_test:
            return [self.apply(variables, image)]
        both = rearrange([image, image[:, :, ::-1]], "flip b h w c -> (b flip) h w c")
        maps = self.apply(variables, both)
        return [{name: m[view::2] for name, m in maps.items()} for view in (0, 1)]

    def aggregate(self, outputs: Mapping[float, Sequence[Maps]], size: tuple[int, int]) -> dict[str, jax.Array]:
        """One set of heatmaps and tags of all stages, views and scales.

        Heatmaps are averaged. Tags differ from view to view and stand side by side; those of scale 1 alone count.

        Args:
          outputs: {scale: maps} of the network for the image and, in a flip test, for the mirrored one.
          size: (width, height) of the image at scale 1, that of the result if `project_to_image`; else the result is as
            large as the finest maps of the largest scale.

        Returns:
          "heatmaps" [B, H, W, J] and "tags" [B, H, W, J or 1, T]; T counts views and stages with tags.
        """
        total, tags = jnp.zeros(()), []
        for scale in sorted(outputs, reverse=True):
            views = [self.read(maps, mirrored=bool(view)) for view, maps in enumerate(outputs[scale])]
            average = sum((joints for joints, _ in views), jnp.zeros(())) / len(views)
            if not self.project_to_image and scale == max(outputs):
                size = average.shape[2], average.shape[1]
            total = total + heatmaps.resize(average, size)
            if scale == 1:
                tags = [heatmaps.resize(t, size) for _, of_view in views for t in of_view]
        return {"heatmaps": total / len(outputs), "tags": jnp.stack(tags, axis=-1)}

    def read(self, maps: Maps, mirrored: bool = False) -> tuple[jax.Array, list[jax.Array]]:
        """Heatmaps [B, h, w, J] averaged over stages, and the tags [B, h, w, J or 1] of each, as large as the finest.

        Args:
          maps: maps of the network.
          mirrored: whether they are those of the mirrored image and are turned back. Nothing makes up for the pixel of
            the image by which they are then too far to the right: the published scores do not.
        """
        finest = maps[f"stage{self.deconv_layers}"]
        averaged = self.averaged_stages or self.trained_stages
        count = self.num_found
        found = self.flip_index[:count] if mirrored else slice(count)
        joints, tags = [], []
        for stage in self.trained_stages:
            at_stage = heatmaps.resize(maps[f"stage{stage}"], (finest.shape[2], finest.shape[1]))
            joint_maps, tag_maps = self.split(at_stage[:, :, ::-1] if mirrored else at_stage)
            if stage in averaged:
                joints.append(joint_maps[..., found])
            if stage in self.tag_stages:
                tags.append(tag_maps[..., found] if self.tag_per_joint else tag_maps)
        return sum(joints, jnp.zeros(())) / len(joints), tags

    def split(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A stage's maps as heatmaps [..., J] and tags [..., J, 1 or 0]."""
        return maps[..., : self.num_heatmaps], maps[..., self.num_heatmaps :]

    @property
    def grouping_rules(self) -> grouping.Grouping:
        """The rules by which maxima become people."""
        center = range(self.joints.num_joints, self.num_found)
        return grouping.Grouping(
            joint_order=(*center, *grouping.joint_order(self.joints)),
            max_people=self.max_people,
            capacity=self.capacity,
            threshold=self.detection_threshold,
            tag_threshold=self.tag_threshold,
            window=self.nms_window,
            use_detection_val=self.use_detection_val,
            ignore_too_much=self.ignore_too_much,
            adjust=self.adjust,
            refine=self.refine,
        )

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """People in the order in which they were found, best joints first; scores are values of the heatmaps.

        A joint that was not found has the score 0 and is at the canvas's corner. An image with a heatmap value or tag
        beyond all use has one person made of NaN.
        """
        stream = batch["source"]
        broken = ~(_all_usable(outputs["heatmaps"]) & _all_usable(outputs["tags"]))
        people = grouping.group(outputs["heatmaps"], outputs["tags"], self.grouping_rules)
        on_canvas = self.to_canvas(jnp.asarray(people.keypoints), outputs["heatmaps"].shape, stream["image"].shape)
        keypoints = geometry.apply_affine(stream["to_image"][:, None], on_canvas)
        poses = Poses(
            keypoints=keypoints[:, :, : self.joints.num_joints],
            scores=people.values[:, :, : self.joints.num_joints],
            person_score=people.person_score,
            valid=people.valid & stream["valid"][:, None],
        )
        return mark_broken(poses, broken & stream["valid"])

    def to_canvas(self, keypoints: jax.Array, maps: tuple[int, ...], image: tuple[int, ...]) -> jax.Array:
        """Positions [..., 2] on maps of shape [B, h, w, ...] as those on images of shape [B, H, W, ...].

        Their middles coincide, without half-pixel terms: `adjust` and `refine` have them in it already.
        """
        (h, w), (height, width) = maps[1:3], image[1:3]
        return (keypoints - jnp.array([w / 2, h / 2])) * (width / w) + jnp.array([width / 2, height / 2])


def _all_usable(maps: jax.Array) -> jax.Array:
    """[B] bool, images whose maps [B, ...] hold nothing beyond `LARGEST`."""
    return jnp.all(jnp.abs(maps) <= LARGEST, axis=tuple(range(1, maps.ndim)))


def of_stage(factors: tuple[float, ...], stage: int) -> float:
    """The factor of a stage, of one for each or of a single one for all."""
    return factors[min(stage, len(factors) - 1)]
