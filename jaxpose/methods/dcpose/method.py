"""DCPose: deep dual consecutive network for human pose estimation in videos (Liu et al., CVPR 2021).

One person's box is cut out of three frames: the current one, one before and one after it. A network for single frames
draws rough heatmaps of each. Then follows what the paper adds: the pose temporal merger (PTM) adds the maps of the
three frames up, the pose residual fusion (PRF) looks at their differences, and the pose correction network (PCN) warps
the merged maps by deformable convolutions at several dilations, whose offsets and weights it computes from both. The
nearer of the two other frames weighs more.

Axes of frames are in the order current, previous, next.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import traverse_util
from flax.typing import Dtype

from jaxpose.errors import ConfigError
from jaxpose.methods.base import Ablation, LossAux, Phase
from jaxpose.methods.dcpose.rsn import SMALL_NORMAL, ResidualStepsChain
from jaxpose.methods.heatmap.method import Heatmap, HeatmapNetwork
from jaxpose.methods.top_down import ClipInput
from jaxpose.nn import initializers
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.nn.resnet import conv
from jaxpose.ops import heatmaps
from jaxpose.ops.arrays import EXACT
from jaxpose.ops.deform import dilated_deform_convs
from jaxpose.types import Array, Batch, Spec, Stream, Variables

FRAMES = 3
"""Current, previous and next."""


# --- inputs of the refinement ---


def frame_weights(margin: Array) -> jax.Array:
    """Weights [B, 2] of the previous and the next frame: each is the other's share of the distance between them.

    Args:
      margin: [B, 2] frames from the previous one to the current one, and from there to the next one; positive.
    """
    margin = jnp.asarray(margin)
    return margin[:, ::-1] / jnp.sum(margin, axis=-1, keepdims=True)


def _frames(rough: Array, margin: Array) -> tuple[jax.Array, ...]:
    """The maps of the current, previous and next frame, and weights [B, 1, 1, 1] of the last two."""
    return (*jnp.asarray(rough), *frame_weights(margin).T[..., None, None, None])


def pose_residuals(rough: Array, margin: Array) -> jax.Array:
    """Input of the pose residual fusion: differences of the current maps from the others, plain and weighted.

    Args:
      rough: [3, B, h, w, K] maps of the frames.
      margin: [B, 2] distances of the other frames, see `frame_weights`.

    Returns:
      [B, h, w, 4 K]; the four channels of a joint are together.
    """
    current, previous, following, before, after = _frames(rough, margin)
    since, until = current - previous, current - following
    cues = jnp.stack([since, before * since, until, after * until], axis=-1)
    return rearrange(cues, "b h w k cue -> b h w (k cue)")


def weighted_maps(rough: Array, margin: Array) -> jax.Array:
    """Input of the pose temporal merger: the maps of the three frames, the other two weighted.

    Args:
      rough: [3, B, h, w, K] maps of the frames.
      margin: [B, 2] distances of the other frames, see `frame_weights`.

    Returns:
      [B, h, w, 3 K]; the three channels of a joint are together.
    """
    current, previous, following, before, after = _frames(rough, margin)
    return rearrange([current, before * previous, after * following], "frame b h w k -> b h w (k frame)")


def within_crop(keypoints: Array, size: tuple[int, int]) -> jax.Array:
    """Mask [..., K] of the joints in a crop, its right and lower ends included.

    Args:
      keypoints: [..., K, 2] positions in pixels of the crop.
      size: (width, height) of the crop in pixels.
    """
    keypoints = jnp.asarray(keypoints)
    return jnp.all((keypoints >= 0) & (keypoints <= jnp.array(size, jnp.float32)), axis=-1)


# --- network ---


def identity_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """The kernel [k, k, C, C] that changes nothing: 1 from each channel to itself in the middle."""
    kernel = np.zeros(shape, dtype)
    kernel[shape[0] // 2, shape[1] // 2] = np.eye(shape[2], shape[3])
    return jnp.asarray(kernel)


class Warp(NamedTuple):
    """One deformable convolution: the offsets and weights of its taps, and its kernel.

    Attributes:
      offsets: [B, h, w, K * 9 * 2] moves of the taps in pixels of the map.
      mask: [B, h, w, K * 9] weights of the taps, any real numbers; there is no sigmoid.
      kernel: [3, 3, K, K] kernel of the convolution.
      bias: [K] bias of the convolution.
    """

    offsets: jax.Array
    mask: jax.Array
    kernel: jax.Array
    bias: jax.Array


class DilatedWarp(nn.Module):
    """Makes a `Warp` out of features; every joint's map is moved by offsets of its own.

    Attributes:
      num_joints: number of joints K.
      dilation: dilation of the convolutions that make offsets and mask, and of the taps that these move.
      dtype: compute precision.
    """

    num_joints: int
    dilation: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> Warp:
        """Features [B, h, w, C] -> the convolution to apply."""
        joints = self.num_joints
        fields = {"size": 3, "dilation": self.dilation, "dtype": self.dtype, "precision": EXACT}
        layer = functools.partial(conv, kernel_init=SMALL_NORMAL, **fields)
        return Warp(
            offsets=layer(18 * joints, name="offsets")(features),
            mask=layer(9 * joints, name="masks")(features),
            kernel=self.param("kernel", identity_kernel, (3, 3, joints, joints)),
            bias=self.param("bias", initializers.zeros, (joints,)),
        )


class PoseCorrection(nn.Module):
    """PCN (section 3.4): the mean of the same maps warped at several dilations.

    Attributes:
      dilations: distances of the taps in pixels of the map.
      dtype: compute precision.
    """

    dilations: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, maps: jax.Array) -> jax.Array:
        """Features [B, h, w, C] and maps [B, h, w, K] -> [B, h, w, K]."""
        features, maps = features.astype(self.dtype), maps.astype(self.dtype)
        joints = maps.shape[-1]
        warps = [DilatedWarp(joints, d, self.dtype, name=f"dilation{d}")(features) for d in self.dilations]
        offsets, masks, kernels, biases = zip(*warps, strict=True)
        warped = dilated_deform_convs(maps, offsets, kernels, masks, biases, self.dilations, precision=EXACT)
        self.sow("intermediates", "warped", warped)
        return jnp.mean(warped, axis=-2)


class TemporalRefinement(nn.Module):
    """Turns the rough maps of three frames into maps of the current one.

    Attributes:
      merger: whether there is PTM (section 3.2); without it the current frame's rough maps take the place of the merged
        ones.
      fusion: whether there is PRF (section 3.3); without it the correction sees the merged maps alone.
      correction: whether there is PCN (section 3.4); without it the merged maps are the result, and there is nothing to
        do for PRF.
      merger_blocks, fusion_blocks, combination_blocks: numbers of residual steps blocks of PTM, of PRF, and of both
        together.
      fusion_features: number of channels that PRF makes for each joint.
      combination_features: number of channels to which PTM and PRF are joined.
      dilations: distances of PCN's taps in pixels of the map.
      dtype: compute precision; places and sums are computed in float32.
    """

    merger: bool = True
    fusion: bool = True
    correction: bool = True
    merger_blocks: int = 1
    fusion_blocks: int = 2
    combination_blocks: int = 2
    fusion_features: int = 2
    combination_features: int = 64
    dilations: tuple[int, ...] = (3, 6, 9, 12, 15)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, rough: jax.Array, margin: jax.Array, train: bool = False) -> jax.Array:
        """Rough maps [3, B, h, w, K] and margins [B, 2] -> [B, h, w, K] float32."""
        precise = jnp.promote_types(self.dtype, jnp.float32)
        joints = rough.shape[-1]
        chain = functools.partial(ResidualStepsChain, dtype=self.dtype)
        merged = rough[0]
        if self.merger:
            merged = chain(joints, self.merger_blocks, name="merger")(weighted_maps(rough, margin), train)
        if not self.correction:
            return merged.astype(precise)
        seen = [merged]
        if self.fusion:
            fusion = chain(self.fusion_features * joints, self.fusion_blocks, name="fusion")
            seen.insert(0, fusion(pose_residuals(rough, margin), train))
        combination = chain(self.combination_features, self.combination_blocks, name="combination")
        features = combination(jnp.concatenate(seen, -1), train)
        return PoseCorrection(self.dilations, precise, name="correction")(features, merged)


class DCPoseNetwork(nn.Module):
    """A network for single frames, and a refinement that makes one pose of three.

    Attributes:
      backbone, head: parts of the network for single frames, see `heatmap.HeatmapNetwork`; its runs have the same
        parameters under the same names.
      refinement: network from the maps of three frames to those of one; None for the current frame's own maps.
      freeze: whether no gradient reaches backbone and head.
      freeze_statistics: whether these are normalized by their running statistics in training too, which stay as they
        are.
    """

    backbone: nn.Module
    head: nn.Module
    refinement: nn.Module | None
    freeze: bool = False
    freeze_statistics: bool = False

    def __call__(self, image: jax.Array, margin: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps of the current frame.

        Args:
          image: [B, 3, H, W, 3] normalised.
          margin: [B, 2], see `frame_weights`.
          train: whether batch statistics are active.

        Returns:
          "maps": [B, h, w, K] float32, and "rough": those of the network for single frames. Without refinement
          both are the same.
        """
        if self.refinement is None:
            rough = self.head(self.backbone(image[:, 0], train)[-1], train)
            return {"maps": rough, "rough": rough}
        follow = train and not self.freeze_statistics
        rough = self.head(self.backbone(rearrange(image, "b f h w c -> (b f) h w c"), follow)[-1], follow)
        rough = jax.lax.stop_gradient(rough) if self.freeze else rough
        rough = rearrange(rough, "(b f) h w k -> f b h w k", f=FRAMES)
        return {"maps": self.refinement(rough, margin, train), "rough": rough[0]}


# --- method ---


@dataclasses.dataclass(frozen=True)
class DCPose(Heatmap, ClipInput):
    """The defaults are those of the released networks: HRNet-W48 at 384 x 288, frozen after training on COCO.

    A frozen backbone comes from `config.init_from`: a run of the method "heatmap", or a file of such a network. Then
    the config needs the parameter group "refinement" (match "^refinement/") before that of the rest.

    Attributes:
      backbone_blocks: residual blocks on each branch of an HRNet's module.
      stem_width: channels of an HRNet's stem.
      stem_blocks: bottlenecks of an HRNet before the branches.
      single_frame: whether the backbone's own maps are the result, the ablation without other frames.
      merger, fusion, correction: whether there are PTM, PRF and PCN, each of which can be left out; see
        `TemporalRefinement`.
      dilations: dilations of the deformable convolutions, in pixels of the map.
      freeze_backbone: whether the network for single frames does not learn. Otherwise its loss for the current frame is
        added.
      freeze_statistics: whether its running statistics do not move either. In the original code they follow the
        batches, though the weights are frozen, and batches are normalized by their own statistics.
      effective_joints: number of joints by which the loss's sum over joints is divided; 0 for all of them. PoseTrack
        never labels two of its 17.
    """

    input_size: tuple[int, int] = (288, 384)
    flip_test: bool = False
    backbone: str = "hrnet_w48"
    backbone_blocks: int = 4
    stem_width: int = 64
    stem_blocks: int = 4
    sigma: float = 3.0
    single_frame: bool = False
    merger: bool = True
    fusion: bool = True
    correction: bool = True
    merger_blocks: int = 1
    fusion_blocks: int = 2
    combination_blocks: int = 2
    fusion_features: int = 2
    combination_features: int = 64
    dilations: tuple[int, ...] = (3, 6, 9, 12, 15)
    freeze_backbone: bool = True
    freeze_statistics: bool = False
    effective_joints: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.require(self.merger or self.correction, "merger", "True, or correction=True; else use single_frame=True")
        if self.single_frame:
            self.require(not self.freeze_backbone, "freeze_backbone", "False with single_frame: nothing else learns")
        if not self.freeze_backbone:
            self.require(not self.freeze_statistics, "freeze_statistics", "False where freeze_backbone is")
        distinct = len(set(self.dilations)) == len(self.dilations) > 0 and min(self.dilations) > 0
        self.require(distinct, "dilations", "different positive distances")
        for field in ("merger_blocks", "fusion_blocks", "combination_blocks", "fusion_features"):
            self.require(getattr(self, field) > 0, field, "at least 1")
        self.require(self.combination_features > 2, "combination_features", "at least 3")
        self.require(self.effective_joints >= 0, "effective_joints", "0 or more")
        self.require(self.color_jitter == 0, "color_jitter", "0: the colours of a clip are not changed")

    # --- network ---

    def module(self) -> DCPoseNetwork:
        rough = self.rough_network()
        refinement = None if self.single_frame else self.refinement()
        return DCPoseNetwork(rough.backbone, rough.head, refinement, self.freeze_backbone, self.freeze_statistics)

    def rough_network(self) -> HeatmapNetwork:
        """The network for single frames."""
        network = super().module()
        if not self.is_hrnet:
            return network
        backbone = network.backbone.clone(
            blocks=self.backbone_blocks, stem_width=self.stem_width, stem_blocks=self.stem_blocks
        )
        return network.clone(backbone=backbone)

    def refinement(self) -> TemporalRefinement:
        """The network that makes one pose of the maps of three frames."""
        fields = {f.name for f in dataclasses.fields(TemporalRefinement)} & {f.name for f in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in fields - {"dtype"}}
        return TemporalRefinement(**values, dtype=jnp.dtype(self.dtype))

    def spec(self, batch_size: int) -> Spec:
        """The fields of `person_spec` about the current frame, of which two are different.

        image [B, 3, H, W, 3] uint8 RGB, the same crop of the current, the previous and the next frame; margin [B, 2]
        frames from the previous one to the current one, and from there to the next one.
        """
        stream = super().spec(batch_size)["source"]
        width, height = self.input_size
        image = jax.ShapeDtypeStruct((batch_size, FRAMES, height, width, 3), jnp.uint8)
        margin = jax.ShapeDtypeStruct((batch_size, 2), jnp.float32)
        return {"source": stream | {"image": image, "margin": margin}}

    def init(self, key: jax.Array) -> Variables:
        image = jax.ShapeDtypeStruct((1, FRAMES, 64, 64, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image, jax.ShapeDtypeStruct((1, 2), jnp.float32))

    def adopt(self, loaded: Variables, fresh: Variables) -> Variables:
        """The loaded variables, which have to hold a network for single frames if that is frozen."""
        if not self.freeze_backbone:
            return loaded
        flat = functools.partial(traverse_util.flatten_dict, sep="/")
        wanted = {path for path in flat(fresh) if path.split("/")[1] != "refinement"}
        if missing := sorted(wanted - flat(loaded).keys()):
            raise ConfigError(
                f"config.method.freeze_backbone is True, but config.init_from gives no values for {len(missing)} "
                f"variables of the network for single frames, such as {missing[0]}. Name a run of the method "
                '"heatmap" with the same backbone, or set freeze_backbone to False.'
            )
        return loaded

    def ablations(self) -> dict[str, Ablation]:
        """The gain of three frames over one, where both learn together: the poses in the rough maps."""
        if self.single_frame or self.freeze_backbone:
            return {}
        return {"single frame": Ablation(dataclasses.replace(self, single_frame=True))}

    # --- targets and losses ---

    def labels(self, stream: Stream) -> Stream:
        """ "target" [B, h, w, K] and "weight" [B, K], which is 0 for joints outside the crop."""
        visible = stream["visible"] * within_crop(stream["keypoints"], self.input_size)
        return super().labels(stream | {"visible": visible})

    def criterion(self, maps: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
        """Twice the loss of single frames, which has a factor of one half; see `effective_joints`."""
        joints = maps.shape[-1]
        return 2 * joints / (self.effective_joints or joints) * super().criterion(maps, target, weight)

    def clip_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """The difference between maps and targets, and of the rough maps too where their network learns."""
        stream = batch["source"]
        target, weight = stream["target"], stream["weight"]
        outputs, mutated = self.apply(variables, stream["image"], stream["margin"], train=True, mutable=["batch_stats"])
        loss = self.criterion(outputs["maps"], target, weight)
        metrics = {"accuracy": heatmaps.accuracy(outputs["maps"], target)}
        if not (self.single_frame or self.freeze_backbone):
            rough_loss = self.criterion(outputs["rough"], target, weight)
            metrics |= {"refined_loss": loss, "rough_loss": rough_loss}
            metrics["rough_accuracy"] = heatmaps.accuracy(outputs["rough"], target)
            loss = rough_loss + loss
        return loss, LossAux(metrics, mutated["batch_stats"])

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.dcpose import names

        return OriginalNames(names.rules(self), names.prepare)

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.dcpose import names

        return names.recognize(shapes)

    def phases(self) -> tuple[Phase, ...]:
        """One update, of the parameter group "refinement" alone where the backbone is frozen."""
        return (Phase("pose", self.clip_loss, updates=("refinement",) if self.freeze_backbone else ()),)

    # --- inference ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """{"maps": [B, h, w, K]}, averaged with those of the mirrored clip in a flip test, which the original lacks."""
        stream = batch["source"]
        image, margin = stream["image"], stream["margin"]
        if not self.flip_test:
            return {"maps": self.maps(variables, image, margin)}
        both = rearrange([image, image[..., ::-1, :]], "flip b f h w c -> (b flip) f h w c")
        maps = self.maps(variables, both, repeat(margin, "b side -> (b flip) side", flip=2))
        mirrored = heatmaps.flip_back(maps[1::2], self.joints.flip_index, self.flip_shift)
        return {"maps": (maps[::2] + mirrored) / 2}

    def maps(self, variables: Variables, image: jax.Array, margin: jax.Array) -> jax.Array:
        """Maps [B, h, w, K] float32 for normalised clips [B, 3, H, W, 3], in evaluation mode."""
        return self.apply(variables, image, margin)["maps"]
