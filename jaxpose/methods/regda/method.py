"""RegDA: regressive domain adaptation for unsupervised keypoint detection (Jiang et al., CVPR 2021, arXiv 2103.06175).

Images of one domain (the source, often rendered) are labelled, those of another (the target) are not. A second
regressor, the adversary, learns to agree with the main one on the source and to be wrong on the target, while the
features learn to leave it no room for that. To be wrong means to find another joint, so both sides minimize a
divergence from maps that are made of the main regressor's own predictions (see `methods.regda.pseudo_labels`).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.regda.pseudo_labels import WINDOWS, pseudo_labels
from jaxpose.methods.top_down import TopDown, person_spec
from jaxpose.nn import backbones, initializers
from jaxpose.nn.heads import DECONV_PADDING, SMALL_NORMAL, Deconv, heatmap_conv
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.nn.resnet import conv
from jaxpose.ops import heatmaps, oks
from jaxpose.types import Array, Batch, Spec, Stream, Variables

ADAPTATIONS = ("regda", "disparity", "none")
LOSSES = {"kl": heatmaps.joint_kl, "mse": heatmaps.joint_mse}
LABELS = ("keypoints", "visible")
"""Fields that nobody knows about images of the target domain."""
SCORE_RADIUS = 1.5
"""Half a side of the window around a joint whose mass is the joint's score, in deviations of the target."""


# --- gradients ---


def warm_start(
    step: Array | int, alpha: float = 1.0, low: float = 0.0, high: float = 0.1, steps: int = 1000
) -> jax.Array:
    """Share of the adversary's gradient that reaches the features after `step` steps, from `low` up to `high`.

    low + (high - low) tanh(alpha step / (2 steps)), which is how the original's quotient of exponentials can be written
    without cancellation.
    """
    return low + (high - low) * jnp.tanh(alpha * jnp.asarray(step, jnp.float32) / (2 * steps))


def scale_gradient(x: jax.Array, coefficient: Array | float) -> jax.Array:
    """`x` itself, whose gradient is multiplied by `coefficient`. The sign stays: nothing is reversed."""
    fixed = jax.lax.stop_gradient(x)
    return fixed + jnp.asarray(coefficient, x.dtype) * (x - fixed)


# --- networks ---


class Upsampling(nn.Module):
    """Transposed convolutions, each with batch normalization and ReLU.

    Attributes:
      features: number of channels of each.
      kernels: size of each, 4, 3 or 2.
      use_bias: whether they have a bias.
      dtype: compute precision.
    """

    features: tuple[int, ...] = (256, 256, 256)
    kernels: tuple[int, ...] = (4, 4, 4)
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, H * 2^n, W * 2^n, features[-1]] for n of them."""
        x = x.astype(self.dtype)
        for i, (features, kernel) in enumerate(zip(self.features, self.kernels, strict=True)):
            x = Deconv(features, kernel, self.use_bias, self.dtype, name=f"deconv{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, train))
        return x


class Regressor(nn.Module):
    """3x3 convolutions, each with batch normalization and ReLU, and a 1x1 convolution to one map a joint.

    Attributes:
      num_joints: number of joints K.
      layers: number of convolutions; 1 for the last alone, as in SimpleBaselines.
      dtype: compute precision; the last convolution works in float32 at least.
    """

    num_joints: int
    layers: int = 2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> logits [B, H, W, K] float32."""
        features = x.shape[-1]
        for i in range(self.layers - 1):
            x = conv(features, 3, use_bias=True, dtype=self.dtype, kernel_init=SMALL_NORMAL, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, train))
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        return heatmap_conv(self.num_joints, name="final_layer")(x)


class AdversarialNetwork(nn.Module):
    """Features, the regressor that predicts, and in adaptation a second one that only learns.

    Attributes:
      backbone: returns a list of maps; the last is used.
      upsampling: raises its resolution.
      head: makes joints' maps.
      adversary: makes others from the same features; None for a network that sees labelled images alone.
    """

    backbone: nn.Module
    upsampling: nn.Module
    head: nn.Module
    adversary: nn.Module | None = None

    def __call__(self, image: jax.Array, train: bool = False, coefficient: Array | float = 1.0) -> dict[str, jax.Array]:
        """Logits of both regressors.

        Args:
          image: [B, H, W, 3] normalised.
          train: whether batch statistics are active.
          coefficient: factor of the adversary's gradient where it enters the features.

        Returns:
          "maps" [B, h, w, K] float32, and with an adversary "adversarial_maps" of the same shape.
        """
        features = self.upsampling(self.backbone(image, train)[-1], train)
        outputs = {"maps": self.head(features, train)}
        if self.adversary is not None:
            outputs["adversarial_maps"] = self.adversary(scale_gradient(features, coefficient), train)
        return outputs


# --- method ---


@dataclasses.dataclass(frozen=True)
class RegDA(TopDown):
    """The defaults are those of the adaptation with ResNet-101 at 256 x 256.

    Adaptation starts from a network that was trained on the source with adaptation="none" and head_layers=1. It needs
    the parameter groups "features" (match "^(backbone|upsampling)/"), "head" ("^head/") and "adversary"
    ("^adversary/"), of which the first has a tenth of the learning rate.

    Attributes:
      flip_test: False as in the original code.
      adaptation: kind of adaptation, "regda"; "disparity" for the disparity discrepancy that it is compared with (DD:
        the adversary leaves the main regressor's prediction for anywhere on the map); or "none" to learn from the
        stream "source" alone: training on the source before adaptation, the baseline "source only" (ERM), and, where
        that stream is labelled images of the target domain, the oracle.
      loss: loss of labels, "kl", the divergence of the softmax of a map, or "mse" as in the original's ERM, which only
        adaptation="none" can use.
      backbone: name of the ResNet, "resnet18", 34, 50, 101 or 152.
      backbone_width: number of channels of its stem; 0 for the published 64.
      backbone_stages: numbers of blocks in each stage; empty for the published ones.
      deconv_features, deconv_kernels: channels and size (4, 3 or 2) of each transposed convolution.
      deconv_bias: whether they have a bias.
      head_layers: number of convolutions of a regressor.
      sigma: standard deviation of the targets and pseudo-labels in pixels of the map.
      window: window of the pseudo-labels, "square" or "disc"; see `methods.regda.pseudo_labels`.
      epsilon: number that is added to pseudo-labels before they become distributions.
      margin: weight of the adversary's agreement on the source.
      trade_off: weight of all three adversarial losses.
      warm_start_alpha, warm_start_low, warm_start_high, warm_start_steps: arguments of `warm_start`.
      distort_target: whether images of the stream "target" are recoloured and blurred in training like those of the
        source.
      target_weights: whether joints of the target count by their visibility, as in the original code. That is a use of
        labels; without it all joints count and the stream "target" has none.
    """

    skeleton: str = "mpii"
    input_size: tuple[int, int] = (256, 256)
    flip_test: bool = False
    flip_shift: bool = False
    adaptation: str = "regda"
    loss: str = "kl"
    backbone: str = "resnet101"
    backbone_width: int = 0
    backbone_stages: tuple[int, ...] = ()
    deconv_features: tuple[int, ...] = (256, 256, 256)
    deconv_kernels: tuple[int, ...] = (4, 4, 4)
    deconv_bias: bool = False
    head_layers: int = 2
    sigma: float = 2.0
    window: str = "square"
    epsilon: float = 1e-7
    margin: float = 4.0
    trade_off: float = 1.0
    warm_start_alpha: float = 1.0
    warm_start_low: float = 0.0
    warm_start_high: float = 0.1
    warm_start_steps: int = 1000
    distort_target: bool = True
    target_weights: bool = False

    def __post_init__(self):
        super().__post_init__()
        choices = {"adaptation": ADAPTATIONS, "loss": tuple(LOSSES), "window": WINDOWS}
        for field, values in choices.items():
            self.require(getattr(self, field) in values, field, f"one of {', '.join(values)}")
        self.require(self.loss == "kl" or not self.adapts, "loss", f'"kl" with adaptation="{self.adaptation}"')
        self._require_network()
        self.require(self.sigma > 0, "sigma", "a positive deviation in pixels of the map")
        self.require(self.epsilon >= 0, "epsilon", "0 or more")
        self.require(self.warm_start_steps > 0, "warm_start_steps", "at least 1")
        fits = all(side > 0 and side % 2 ** (self._stages + 1) == 0 for side in self.input_size)
        self.require(fits, "input_size", f"multiples of {2 ** (self._stages + 1)}")

    def _require_network(self) -> None:
        fits = backbones.is_known(self.backbone) and not backbones.is_hrnet(self.backbone)
        self.require(fits, "backbone", '"resnet18", 34, 50, 101 or 152')
        layers, most = len(self.deconv_features), self._stages + 1
        self.require(1 <= layers <= most, "deconv_features", f"channels of 1 to {most} transposed convolutions")
        fits = len(self.deconv_kernels) == layers and set(self.deconv_kernels) <= set(DECONV_PADDING)
        self.require(fits, "deconv_kernels", f"a size of 4, 3 or 2 for each of the {layers} transposed convolutions")
        self.require(self.head_layers >= 1, "head_layers", "at least 1")

    @property
    def adapts(self) -> bool:
        """Whether there are a target domain and an adversary."""
        return self.adaptation != "none"

    @property
    def _stages(self) -> int:
        return len(self.backbone_stages) or 4

    @property
    def stride(self) -> int:
        """Crop pixels a map pixel: 4 in the paper."""
        return 2 ** (self._stages + 1 - len(self.deconv_features))

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of the maps."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    # --- network ---

    def module(self) -> AdversarialNetwork:
        dtype = jnp.dtype(self.dtype)
        stages = tuple(self.backbone_stages)
        backbone = backbones.backbone(self.backbone, width=self.backbone_width, stages=stages, dtype=dtype)
        upsampling = Upsampling(tuple(self.deconv_features), tuple(self.deconv_kernels), self.deconv_bias, dtype)
        regressors = [Regressor(self.joints.num_joints, self.head_layers, dtype) for _ in range(1 + self.adapts)]
        return AdversarialNetwork(backbone, upsampling, *regressors)

    def init(self, key: jax.Array) -> Variables:
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image)

    def adopt(self, loaded: Variables, fresh: Variables) -> Variables:
        """Adaptation takes the features of a network without an adversary, and starts both regressors afresh."""
        if not self.adapts or "adversary" in loaded.get("params", {}):
            return loaded
        return {
            collection: {name: values for name, values in tree.items() if name != "head"}
            for collection, tree in loaded.items()
        }

    # --- targets ---

    def spec(self, batch_size: int) -> Spec:
        """Single-person crops; those of the stream "target" without joints, but for `target_weights`."""
        spec = super().spec(batch_size)
        if self.adapts:
            target = person_spec(batch_size, self.input_size, self.joints.num_joints)
            spec["target"] = {k: v for k, v in target.items() if self.target_weights or k not in LABELS}
        return spec

    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """Targets of both streams, as of all top-down methods. Of "target" only the fields of `spec` get through."""
        prepared = super().targets(batch, key, train)
        if train and self.adapts:
            known = {name: batch["target"][name] for name in self.spec(1)["target"]}
            key, distort = jax.random.fold_in(key, 1), train and self.distort_target
            target = super().targets({"source": known}, key, distort)["source"]
            prepared["target"] = {name: target[name] for name in ("image", "weight")}
        return prepared

    def labels(self, stream: Stream) -> Stream:
        """ "target" [B, h, w, K] where joints are known, and "weight" [B, K], which is that of all if they are not."""
        valid = stream["valid"].astype(jnp.float32)[:, None]
        if "keypoints" not in stream:
            return {"weight": jnp.broadcast_to(valid, (len(valid), self.joints.num_joints))}
        target, weight = heatmaps.gaussian_targets(
            stream["keypoints"], stream["visible"] * valid, self.stride, self.map_size, self.sigma, center_inside=True
        )
        return {"target": target, "weight": weight}

    # --- losses ---

    def criterion(self, maps: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
        """The loss of labels: maps and targets [B, h, w, K], weights [B, K]; joints of weight 0 count in the mean."""
        return jnp.mean(weight * LOSSES[self.loss](maps, target))

    def disparity(self, maps: jax.Array, adversarial_maps: jax.Array, weight: jax.Array, kind: str) -> jax.Array:
        """Distance of the adversary from the predictions of the main regressor.

        Args:
          maps: [B, h, w, K] of the main regressor; no gradient flows into them.
          adversarial_maps: [B, h, w, K].
          weight: [B, K].
          kind: kind of pseudo-labels, "truth" or "false".
        """
        truth, false = pseudo_labels(maps, self.sigma, self.window)
        wanted = {"truth": truth, "false": false}[kind]
        return jnp.mean(weight * heatmaps.joint_kl(adversarial_maps, wanted, self.epsilon))

    def coefficient(self, step: jax.Array) -> jax.Array:
        """The factor of the adversary's gradient where it enters the features, after `step` steps."""
        return warm_start(step, self.warm_start_alpha, self.warm_start_low, self.warm_start_high, self.warm_start_steps)

    def _apply(self, variables: Variables, image: jax.Array, step: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        """Outputs in training mode, and the statistics after them."""
        coefficient = self.coefficient(step)
        outputs, mutated = self.apply(variables, image, True, coefficient, mutable=["batch_stats"])
        return outputs, mutated["batch_stats"]

    def label_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Without adaptation: the loss of labels."""
        stream = batch["source"]
        outputs, statistics = self._apply(variables, stream["image"], step)
        metrics = {"accuracy": heatmaps.accuracy(outputs["maps"], stream["target"])}
        return self.criterion(outputs["maps"], stream["target"], stream["weight"]), LossAux(metrics, statistics)

    def source_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Step A: the loss of labels, and the adversary should agree with the main regressor on the source."""
        stream = batch["source"]
        outputs, statistics = self._apply(variables, stream["image"], step)
        maps, adversarial = outputs["maps"], outputs["adversarial_maps"]
        labels = self.criterion(maps, stream["target"], stream["weight"])
        disparity = self.disparity(maps, adversarial, stream["weight"], "truth")
        metrics = {
            "label_loss": labels,
            "disparity": disparity,
            "accuracy": heatmaps.accuracy(maps, stream["target"]),
            "adversary_accuracy": heatmaps.accuracy(adversarial, stream["target"]),
            "coefficient": self.coefficient(step),
        }
        return labels + self.margin * self.trade_off * disparity, LossAux(metrics, statistics)

    def adversary_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Step B: on the target, the adversary should find other joints, or, for DD, anything else."""
        stream = batch["target"]
        outputs, statistics = self._apply(variables, stream["image"], step)
        sign, kind = (1, "false") if self.adaptation == "regda" else (-1, "truth")
        disparity = self.disparity(outputs["maps"], outputs["adversarial_maps"], stream["weight"], kind)
        return sign * self.trade_off * disparity, LossAux({}, statistics)

    def feature_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Step C: features of the target should make the adversary agree with the main regressor."""
        stream = batch["target"]
        outputs, statistics = self._apply(variables, stream["image"], step)
        disparity = self.disparity(outputs["maps"], outputs["adversarial_maps"], stream["weight"], "truth")
        return self.trade_off * disparity, LossAux({}, statistics)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.regda import names

        return OriginalNames(names.rules(self))

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.regda import names

        return names.recognize(shapes)

    def phases(self) -> tuple[Phase, ...]:
        """Steps A, B and C. Each is a forward pass of the network as the step before left it, statistics included."""
        if not self.adapts:
            return (Phase("pose", self.label_loss),)
        return (
            Phase("source", self.source_loss, ("features", "head", "adversary")),
            Phase("adversary", self.adversary_loss, ("adversary",)),
            Phase("features", self.feature_loss, ("features",)),
        )

    # --- inference ---

    def maps(self, variables: Variables, image: jax.Array) -> jax.Array:
        """Maps of the main regressor."""
        return self.apply(variables, image)["maps"]

    def read(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First maxima, in whole pixels of the map, (0, 0) where nothing is above 0.

        The score is the mass of the softmax within 1.5 deviations of it (at least 1.5 pixels) along each axis, or with
        loss="mse" the maximum.
        """
        positions, peaks = heatmaps.maxima(maps)
        if self.loss == "mse":
            return positions * self.stride, jnp.clip(peaks, 0, 1)
        radius = SCORE_RADIUS * max(self.sigma, 1.0)
        rows, columns = (
            jnp.abs(jnp.arange(maps.shape[axis])[:, None] - positions[:, None, :, 2 - axis]) <= radius
            for axis in (1, 2)
        )
        mass = jnp.where(rows[:, :, None] & columns[:, None], jax.nn.softmax(maps, axis=(1, 2)), 0)
        return positions * self.stride, jnp.sum(mass, axis=(1, 2))

    def person_score(self, scores: jax.Array, box_score: jax.Array) -> jax.Array:
        """All joints count: the mass of a wide map is small, however right its position."""
        return oks.person_score(scores, box_score, threshold=0.0)
