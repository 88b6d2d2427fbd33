"""RMPE: regional multi-person pose estimation (Fang et al., ICCV 2017), and AlphaPose, which grew out of it.

A detector's boxes are often a little wrong, and a network for single people suffers from it. A spatial transformer
first moves the crop so that the person is centred; maps found there are moved back by the inverse transformer. In
training a second, frozen pose network looks at the moved crop too, and its error against the centred pose tells the
transformer what is wrong. Networks without transformers are those of today's AlphaPose.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from flax.typing import Dtype

from jaxpose.errors import ConfigError
from jaxpose.methods.base import Ablation, LossAux, Phase
from jaxpose.methods.rmpe.fastpose import FastPoseDUCHead, FastPoseHead
from jaxpose.methods.rmpe.se_resnet import se_resnet
from jaxpose.methods.top_down import TopDown
from jaxpose.nn import initializers
from jaxpose.nn.heads import DeconvHead
from jaxpose.nn.hourglass import Hourglass
from jaxpose.nn.hrnet import HRNet
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.nn.resnet import STAGES, max_pool, resnet
from jaxpose.ops import heatmaps, oks, sampling
from jaxpose.ops.arrays import EXACT
from jaxpose.types import Batch, Spec, Stream, Variables

STRIDE = 4
"""Crop pixels a map pixel, in all of these networks."""


# --- networks ---


def _conv(x: jax.Array, features: int, size: int, stride: int, dtype: Dtype, name: str) -> jax.Array:
    """A square convolution of `x` with bias and torch7's initial values."""
    bias = initializers.torch_bias(size * size * x.shape[-1])
    init = initializers.torch_kernel
    layer = nn.Conv(features, (size, size), stride, size // 2, dtype=dtype, kernel_init=init, bias_init=bias, name=name)
    return layer(x)


class LocalizationBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution without norm where channels change.

    Attributes:
      features: number of output channels.
      stride: stride of the first convolution and the shortcut.
      dtype: compute precision.
    """

    features: int
    stride: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _conv(x, self.features, 3, self.stride, self.dtype, "conv1")
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train))
        y = BatchNorm(dtype=self.dtype, name="bn2")(_conv(y, self.features, 3, 1, self.dtype, "conv2"), train)
        if x.shape[-1] != self.features:
            x = _conv(x, self.features, 1, self.stride, self.dtype, "shortcut")
        return nn.relu(x + y)


class LocalizationNetwork(nn.Module):
    """A residual network of depth 18 that regresses an affine map, the identity before training.

    Its convolutions have biases. The mean over all cells is the original's 8x8 pooling of a 256 x 256 crop.

    Attributes:
      width: number of channels of the stem and of the first stage; doubled from stage to stage.
      stages: number of blocks in each stage.
      dtype: compute precision; the map is float32.
    """

    width: int = 64
    stages: tuple[int, ...] = (2, 2, 2, 2)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, 3] -> theta [B, 2, 3] on normalised (y, x, 1)."""
        x = _conv(image.astype(self.dtype), self.width, 7, 2, self.dtype, "conv1")
        x = max_pool(nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train)))
        for stage, blocks in enumerate(self.stages):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                block = LocalizationBlock(self.width * 2**stage, stride, self.dtype, name=f"layer{stage + 1}_{index}")
                x = block(x, train)
        theta = nn.Dense(6, kernel_init=initializers.zeros, bias_init=_identity, precision=EXACT, name="theta")
        return rearrange(theta(x.astype(jnp.float32).mean((1, 2))), "b (i j) -> b i j", i=2)


def _identity(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    return jnp.array([1, 0, 0, 0, 1, 0], dtype)


class PoseNetwork(nn.Module):
    """A backbone and a head.

    Attributes:
      backbone: returns a list of maps; the last is used.
      head: turns it into joints' maps.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, image: jax.Array, train: bool = False) -> list[jax.Array]:
        """[B, H, W, 3] -> one array of maps [B, H / 4, W / 4, K] float32, as the only stack of an hourglass."""
        return [self.head(self.backbone(image, train)[-1], train)]


class RegionalPoseNetwork(nn.Module):
    """A pose network, between two spatial transformers if there is a localization network.

    Outside the crop the first transformer sees 0, which is the mean colour where a mean was subtracted. Maps that are
    moved back are 0 where they come from outside the moved crop.

    Attributes:
      pose: network that returns the maps of every stack.
      localization: network that decides how to move the crop; None for no transformers.
      parallel: a second pose network, which guides the localization network.
      determinant_floor: least determinant in `sampling.invert_theta`.
    """

    pose: nn.Module
    localization: nn.Module | None = None
    parallel: nn.Module | None = None
    determinant_floor: float = 0.0

    def __call__(self, image: jax.Array, train: bool = False, guided: bool = False) -> dict[str, jax.Array]:
        """Maps in the frame of the crop, and the steps on the way to them.

        Args:
          image: [B, H, W, 3] normalised.
          train: whether batch statistics are active; never in the parallel branch.
          guided: whether the parallel branch sees the moved crop.

        Returns:
          "maps": [S, B, H / 4, W / 4, K] float32 of every stack.
          With transformers "theta" and its inverse "gamma" [B, 2, 3], the moved crop "transformed" [B, H, W, 3], and
          "raw", its maps before they are moved back.
          With `guided` "parallel" [P, B, H / 4, W / 4, K], of the moved crop.
        """
        if self.localization is None:
            return {"maps": jnp.stack(self.pose(image, train))}
        theta = self.localization(image, train)
        gamma = sampling.invert_theta(theta, self.determinant_floor)
        transformed = sampling.spatial_transform(image, theta)
        raw = jnp.stack(self.pose(transformed, train))
        joined = rearrange(raw, "s b h w k -> b h w (s k)")
        maps = rearrange(sampling.spatial_transform(joined, gamma), "b h w (s k) -> s b h w k", s=len(raw))
        outputs = {"maps": maps, "theta": theta, "gamma": gamma, "transformed": transformed, "raw": raw}
        if self.parallel is not None and (guided or self.is_initializing()):
            outputs["parallel"] = jnp.stack(self.parallel(transformed))
        return outputs

    def look_in_parallel(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Maps [P, B, H / 4, W / 4, K] that the parallel branch alone finds in a crop."""
        assert self.parallel is not None, "the network has no parallel branch"
        return jnp.stack(self.parallel(image, train))


# --- method ---


@dataclasses.dataclass(frozen=True)
class RMPE(TopDown):
    """The defaults are those of AlphaPose's FastPose with ResNet-50 at 256 x 192, which has no transformers.

    Parameters lie under "pose", "localization" and "parallel". With a parallel branch the config needs the parameter
    groups "parallel" (match "^parallel/") and, after it, "pose" (match ".*").

    Attributes:
      mean, std: mean and deviation of channels in [0, 1]. AlphaPose's means are in the order of BGR, but its images are
        RGB.
      network: name of the pose network, "fastpose", "fastpose_duc", "simplepose", "hourglass" (RMPE, 2017) or
        "hrnet_wC" with C channels.
      backbone: backbone of the first three: "resnet18", 34, 50, 101, 152; "se_resnet50", 101, 152 with squeeze and
        excitation; "shuffle50", 101, 152 with that and pixels folded into channels in place of strides.
      backbone_width: number of channels of a ResNet's stem (0 for the published 64) or of an hourglass (0 for 256).
      backbone_stages: blocks per stage (ResNet) or modules of stages 2 to 4 (HRNet); empty for the published ones.
      deformable: whether there are deformable 3x3 convolutions in stages 2 to 4 of a "se_" or "shuffle" backbone.
      wide_head: whether FastPose's last convolution has 256 channels instead of 128.
      deconv_features: number of channels of SimplePose's transposed convolutions.
      stacks, parallel_stacks: numbers of hourglasses of the pose network and of the parallel branch.
      hourglass_depth, hourglass_modules: numbers of levels of an hourglass, and of residual modules at each place.
      sstn: whether the symmetric spatial transformer is around the pose network.
      localization_width, localization_stages: fields of `LocalizationNetwork`.
      determinant_floor: least determinant in `sampling.invert_theta`.
      parallel: kind of parallel branch, "none"; "frozen", a network that was trained before and never moves (the
        paper), to be loaded into "parallel"; or "trained", one that learns in a phase of its own before each step from
        crops of the true boxes.
      parallel_weight: weight of the parallel branch's loss.
      read_branch: branch that predicts, "main", or "parallel"; see `control`.
      loss: loss of the maps, "mse" (AlphaPose: half the mean over all elements, invisible joints do not count),
        "mse_2017" (RMPE: the mean; maps of joints that cannot be seen should be empty) or "integral" (L1 distance of
        expected positions). Stacks add up.
      normalization: function that makes distributions of the maps of "integral", "sigmoid", "softmax" or "divide_sum".
      sigma: standard deviation of the target's Gaussians in pixels of the map.
      radius: half the side of the window outside of which they are 0; 0 for three sigma. RMPE's maps have sigma 1.75
        and radius 3.
    """

    mean: tuple[float, float, float] = (0.406, 0.457, 0.480)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    network: str = "fastpose"
    backbone: str = "se_resnet50"
    backbone_width: int = 0
    backbone_stages: tuple[int, ...] = ()
    deformable: bool = False
    wide_head: bool = False
    deconv_features: int = 256
    stacks: int = 8
    parallel_stacks: int = 4
    hourglass_depth: int = 4
    hourglass_modules: int = 1
    sstn: bool = False
    localization_width: int = 64
    localization_stages: tuple[int, ...] = (2, 2, 2, 2)
    determinant_floor: float = 0.0
    parallel: str = "none"
    parallel_weight: float = 1.0
    read_branch: str = "main"
    loss: str = "mse"
    normalization: str = "sigmoid"
    sigma: float = 2.0
    radius: int = 0

    def __post_init__(self):
        super().__post_init__()
        choices = {
            "parallel": ("none", "frozen", "trained"),
            "read_branch": ("main", "parallel"),
            "loss": ("mse", "mse_2017", "integral"),
            "normalization": heatmaps.NORMALIZATIONS,
        }
        for field, values in choices.items():
            self.require(getattr(self, field) in values, field, f"one of {', '.join(values)}")
        self._require_network()
        if not self.sstn:
            self.require(self.parallel == "none", "parallel", '"none" without sstn')
        if self.parallel == "none":
            self.require(self.read_branch == "main", "read_branch", '"main" without a parallel branch')
        self.require(self.determinant_floor >= 0, "determinant_floor", "0 or more")
        self.require(self.sigma > 0, "sigma", "a positive deviation in pixels of the map")
        self.require(self.radius >= 0, "radius", "0 or more pixels of the map")

    def _require_network(self) -> None:
        known = '"fastpose", "fastpose_duc", "simplepose", "hourglass" or "hrnet_w32" or alike'
        named = self.network in ("fastpose", "fastpose_duc", "simplepose", "hourglass") or self._hrnet_width()
        self.require(bool(named), "network", known)
        if self.network == "hourglass":
            self.require(self.stacks > 0, "stacks", "at least 1")
            self.require(self.parallel_stacks > 0, "parallel_stacks", "at least 1")
        elif not self._hrnet_width():
            self._require_backbone()
        if self.deformable:
            fits = self.network.startswith("fastpose") and not self.backbone.startswith("resnet")
            self.require(fits, "deformable", 'False, or a FastPose with a backbone "se_resnet50" or alike')
        multiple = 2 ** (self.hourglass_depth + 2) if self.network == "hourglass" else 32
        fits = all(side > 0 and side % multiple == 0 for side in self.input_size)
        self.require(fits, "input_size", f"multiples of {multiple} with this network")

    def _require_backbone(self) -> None:
        kind = re.fullmatch(r"(se_resnet|shuffle|resnet)(\d+)", self.backbone)
        least = 50 if kind and kind[1] != "resnet" else 18
        fits = kind is not None and int(kind[2]) in STAGES and int(kind[2]) >= least
        self.require(fits, "backbone", '"resnet18", "se_resnet50", "shuffle50" or alike')
        plain = self.network != "simplepose" or self.backbone.startswith("resnet")
        self.require(plain, "backbone", "a plain ResNet for SimplePose")

    def _hrnet_width(self) -> int:
        match = re.fullmatch(r"hrnet_w(\d+)", self.network)
        return int(match[1]) if match else 0

    # --- network ---

    def module(self) -> RegionalPoseNetwork:
        if not self.sstn:
            return RegionalPoseNetwork(self._pose_network(self.stacks))
        localization = LocalizationNetwork(
            self.localization_width, tuple(self.localization_stages), jnp.dtype(self.dtype)
        )
        parallel = None if self.parallel == "none" else self._pose_network(self.parallel_stacks)
        return RegionalPoseNetwork(self._pose_network(self.stacks), localization, parallel, self.determinant_floor)

    def _pose_network(self, stacks: int) -> nn.Module:
        joints, dtype, width = self.joints.num_joints, jnp.dtype(self.dtype), self._hrnet_width()
        if self.network == "hourglass":
            features = self.backbone_width or 256
            return Hourglass(joints, stacks, features, self.hourglass_modules, self.hourglass_depth, dtype=dtype)
        if width:
            fields: dict[str, Any] = {"modules": self.backbone_stages} if self.backbone_stages else {}
            backbone = HRNet(width=width, output="high_resolution", dtype=dtype, **fields)
            return PoseNetwork(backbone, DeconvHead(joints, layers=0, dtype=dtype))
        heads = {
            "fastpose": lambda: FastPoseHead(joints, dtype, wide=self.wide_head),
            "fastpose_duc": lambda: FastPoseDUCHead(joints, dtype),
            "simplepose": lambda: DeconvHead(joints, features=self.deconv_features, dtype=dtype),
        }
        return PoseNetwork(self._resnet(), heads[self.network]())

    def _resnet(self) -> nn.Module:
        kind, depth = re.split(r"(?=\d)", self.backbone, maxsplit=1)
        fields: dict[str, Any] = {"width": self.backbone_width or 64, "dtype": jnp.dtype(self.dtype)}
        if self.backbone_stages:
            fields["stage_sizes"] = tuple(self.backbone_stages)
        if kind == "resnet":
            return resnet(int(depth), **fields)
        deformable = (False, *[self.deformable] * 3)
        return se_resnet(int(depth), deformable=deformable, shuffle=kind == "shuffle", **fields)

    def init(self, key: jax.Array) -> Variables:
        width, height = self.input_size
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image)

    def adopt(self, loaded: Variables, fresh: Variables) -> Variables:
        """The parallel branch starts like the pose network where what is loaded does not say otherwise.

        An hourglass network of fewer stacks takes the first ones.
        """
        if self.parallel == "none" or (self.parallel == "trained" and not loaded):
            return loaded
        adopted, missing = {}, []
        for collection, tree in fresh.items():
            known: dict[str, Any] = dict(flatten_dict(loaded.get(collection, {}), sep="/"))
            for path in flatten_dict(tree, sep="/"):
                branch, _, rest = path.partition("/")
                if branch == "parallel" and path not in known and f"pose/{rest}" in known:
                    known[path] = known[f"pose/{rest}"]
                if branch == "parallel" and path not in known:
                    missing.append(f"{collection}/{path}")
            adopted[collection] = unflatten_dict(known, sep="/")
        if missing and self.parallel == "frozen":
            raise ConfigError(
                f'config.method.parallel is "frozen", but config.init_from gives no values for {len(missing)} of its '
                f"variables, such as {missing[0]}. Name the run of a pose network (trained with sstn=False), or use "
                'parallel="trained".'
            )
        return adopted

    def control(self) -> "RMPE":
        """The same run read through its parallel branch: the same pose network without transformers.

        With parallel="trained" that branch never saw a perturbed box either.
        """
        return dataclasses.replace(self, read_branch="parallel")

    def ablations(self) -> dict[str, Ablation]:
        """With a trained parallel branch: the gain of transformer and random boxes, and that of suppression."""
        if self.parallel != "trained":
            return {}
        return {
            "plain": Ablation(self.control(), "none"),
            "plain with pose NMS": Ablation(self.control()),
            "without pose NMS": Ablation(self, "none"),
        }

    # --- targets ---

    def spec(self, batch_size: int) -> Spec:
        """Single-person crops, of perturbed boxes where the method is to learn from such.

        With a parallel branch the stream "source" also holds "centered_keypoints" [B, K, 2], the joints as the crop of
        the (grown) true box would show them, in pixels, and "centered_visible" [B, K], which of them count. With
        parallel="trained" there is a stream "plain" of crops of true boxes, from which that branch learns.
        """
        spec = super().spec(batch_size)
        if self.parallel == "trained":
            spec["plain"] = dict(spec["source"])
        if self.parallel != "none":
            stream = spec["source"]
            spec["source"] = stream | {f"centered_{name}": stream[name] for name in ("keypoints", "visible")}
        return spec

    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """The targets of top-down methods, for both streams."""
        prepared = super().targets(batch, key, train)
        if train and self.parallel == "trained":
            plain = super().targets({"source": batch["plain"]}, jax.random.fold_in(key, 1), train)
            prepared["plain"] = plain["source"]
        return prepared

    def labels(self, stream: Stream) -> Stream:
        """Fields "target" and "weight", and where the true box is known "centered_target" and "centered_weight".

        A target is maps [B, h, w, K], or positions [B, K, 2] as fractions of the crop for the integral loss.
        """
        labels = {}
        for prefix in ("", "centered_"):
            if f"{prefix}keypoints" in stream:
                visible = stream[f"{prefix}visible"] * stream["valid"][:, None]
                target, weight = self._target(stream[f"{prefix}keypoints"], visible)
                labels |= {f"{prefix}target": target, f"{prefix}weight": weight}
        return labels

    def _target(self, keypoints: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.loss == "integral":
            return keypoints / jnp.array(self.input_size, jnp.float32), visible
        size = (self.input_size[0] // STRIDE, self.input_size[1] // STRIDE)
        return heatmaps.gaussian_targets(keypoints, visible, STRIDE, size, self.sigma, self.radius or None)

    # --- losses ---

    def criterion(self, maps: Sequence[jax.Array] | jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
        """Losses [S] of the maps [S, B, h, w, K] of every stack; see `labels` for `target` and `weight`."""
        if self.loss == "mse":
            losses = [heatmaps.mse(m, target, weight) for m in maps]
        elif self.loss == "mse_2017":
            losses = [jnp.square(m - target).mean() for m in maps]
        else:
            losses = [heatmaps.integral_loss(m, target, weight, self.normalization) for m in maps]
        return jnp.stack(losses)

    def pose_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Loss of the pose network, and of the parallel branch for what the transformer shows it (section 3.1).

        No gradient enters the parallel branch's parameters, and its statistics stay.
        """
        stream = batch["source"]
        guided = self.parallel != "none"
        if guided:
            params = variables["params"]
            variables = variables | {"params": params | {"parallel": jax.lax.stop_gradient(params["parallel"])}}
        outputs, mutated = self.apply(variables, stream["image"], train=True, guided=guided, mutable=["batch_stats"])
        losses = self.criterion(outputs["maps"], stream["target"], stream["weight"])
        total, metrics = losses.sum(), self.metrics(losses, outputs["maps"], stream)
        if guided:
            parallel = self.criterion(outputs["parallel"], stream["centered_target"], stream["centered_weight"])
            total += self.parallel_weight * parallel.sum()
            metrics["parallel_loss"] = parallel[-1]
        return total, LossAux(metrics=metrics, batch_stats=mutated["batch_stats"])

    def parallel_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Loss of the parallel branch for crops of true boxes, as an ordinary pose network."""
        stream = batch["plain"]
        maps, mutated = self.apply(
            variables, stream["image"], train=True, mutable=["batch_stats"], method="look_in_parallel"
        )
        losses = self.criterion(maps, stream["target"], stream["weight"])
        metrics = self.metrics(losses, maps, stream)
        return losses.sum(), LossAux(metrics=metrics, batch_stats=mutated["batch_stats"])

    def metrics(self, losses: jax.Array, maps: jax.Array, stream: Stream) -> dict[str, jax.Array]:
        """Loss and AlphaPose's accuracy of the last stack, with maps blanked that do not count."""
        metrics = {"pose_loss": losses[-1]}
        if self.loss != "integral":
            weight = stream["weight"][:, None, None, :]
            metrics["accuracy"] = heatmaps.accuracy(maps[-1] * weight, stream["target"] * weight, swapped=False)
        return metrics

    # --- phases ---

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.rmpe import names

        return names.recognize(shapes)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.rmpe import names

        return OriginalNames(names.rules(self))

    def phases(self) -> tuple[Phase, ...]:
        """One phase, which with a parallel branch moves the group "pose"; if that branch trains, its phase is first."""
        if self.parallel == "none":
            return (Phase("pose", self.pose_loss),)
        pose = Phase("pose", self.pose_loss, ("pose",))
        return (Phase("parallel", self.parallel_loss, ("parallel",)), pose) if self.parallel == "trained" else (pose,)

    # --- inference ---

    def maps(self, variables: Variables, image: jax.Array) -> jax.Array:
        """Maps of the last stack, in the frame of the crop."""
        if self.read_branch == "parallel":
            return self.apply(variables, image, method="look_in_parallel")[-1]
        return self.apply(variables, image)["maps"][-1]

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """{"maps": [B, h, w, K]}, averaged with those of the mirrored crop in a flip test.

        Expected positions are averaged after decoding: with loss="integral" both maps remain, [B, 2, h, w, K].
        """
        if self.loss != "integral" or not self.flip_test:
            return super().forward(variables, batch)
        image = batch["source"]["image"]
        both = rearrange([image, image[:, :, ::-1]], "flip b h w c -> (b flip) h w c")
        maps = self.maps(variables, both)
        mirrored = heatmaps.flip_back(maps[1::2], self.joints.flip_index, self.flip_shift)
        return {"maps": jnp.stack([maps[::2], mirrored], 1)}

    def read(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maxima moved by a quarter pixel and their values, or expected positions and their confidence."""
        if self.loss != "integral":
            return heatmaps.decode(maps, STRIDE)
        positions, scores = heatmaps.decode_integral(maps, STRIDE, self.normalization)
        return (positions, scores) if maps.ndim == 4 else (positions.mean(1), scores.mean(1))

    def person_score(self, scores: jax.Array, box_score: jax.Array) -> jax.Array:
        """Mean joint score + box score + 1.25 times the best joint score."""
        return oks.proposal_score(scores, box_score)
