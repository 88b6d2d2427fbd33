"""DSNT: numerical coordinate regression with convolutional networks (Nibali et al., arXiv 1801.07372).

A fully convolutional network makes one map a joint. A softmax turns it into a distribution whose expected position is
the joint's, so the network learns from distances between positions, while a regularizer keeps each distribution close
to a small Gaussian. The two strategies that the paper compares with are options: heatmap matching and a fully connected
layer on the maps.
"""

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.dsnt import coordinates
from jaxpose.methods.top_down import TopDown
from jaxpose.nn import initializers
from jaxpose.nn.heads import DeconvHead
from jaxpose.nn.hourglass import STEM_BEARPAW, Hourglass
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.nn.resnet import resnet
from jaxpose.ops import geometry, oks
from jaxpose.ops.arrays import EXACT
from jaxpose.types import Array, Batch, Poses, Stream, Variables

STRATEGIES = ("dsnt", "fc", "gauss")
REGULARIZERS = ("none", "variance", "kl", "js", "mse")
SCORES = ("mass", "one")
SCORE_RADIUS = 1.5
"""Half a side of the window around a joint whose mass is the joint's score, in deviations of the target."""


class MapNetwork(nn.Module):
    """A backbone, what makes maps of its features, and a linear layer for the "fc" strategy.

    Attributes:
      backbone: network that returns a list: features, of which the last are used, or else the maps of all stacks.
      num_joints: number of joints K.
      projects: whether the backbone makes features, from which a 1x1 convolution makes maps.
      deconv: transposed convolutions with a convolution behind them, which make maps in its place; None for none.
      cells: number h * w of inputs of the fully connected layer, which all joints share; 0 for no layer.
      rectifier: rectifier of the maps before that layer, see `coordinates.RECTIFIERS`.
    """

    backbone: nn.Module
    num_joints: int
    projects: bool
    deconv: DeconvHead | None = None
    cells: int = 0
    rectifier: str = "softmax"

    def setup(self):
        if self.projects and self.deconv is None:
            start = initializers.torch_kernel
            self.head = nn.Conv(self.num_joints, (1, 1), use_bias=False, kernel_init=start, precision=EXACT)
        if self.cells:
            self.regressor = nn.Dense(
                2,
                kernel_init=initializers.torch_kernel,
                bias_init=initializers.torch_bias(self.cells),
                precision=EXACT,
            )

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits of every stack.

        Args:
          image: [B, H, W, 3] normalised.
          train: whether batch statistics are active.

        Returns:
          "maps" [S, B, h, w, K], where S is 1 but for hourglasses, and with a fully connected layer "points"
          [S, B, K, 2] normalized. Both float32.
        """
        maps = self.backbone(image, train)
        if self.deconv is not None:
            maps = [self.deconv(maps[-1], train)]
        elif self.projects:
            maps = [self.head(maps[-1].astype(jnp.float32))]
        maps = jnp.stack(maps)
        return {"maps": maps, "points": self.regress(maps)} if self.cells else {"maps": maps}

    def regress(self, maps: jax.Array) -> jax.Array:
        """Normalized positions [..., K, 2] from logits [..., h, w, K] by the fully connected layer."""
        heatmaps = coordinates.RECTIFIERS[self.rectifier](maps)
        return self.regressor(rearrange(heatmaps, "... h w k -> ... k (h w)"))


@dataclasses.dataclass(frozen=True)
class DSNT(TopDown):
    """The defaults are those of the MPII model with ResNet-50 and 28 x 28 maps, regularized by JS divergence.

    Crops have half-pixel-centred coordinates: crop pixel p of n lies at (2 p + 1) / n - 1 of the box. Joints that are
    not labelled, or lie outside the crop, do not count in training.

    Attributes:
      mean, std: mean and deviation of colours; the published ResNets see colours in [0, 1] as they are; hourglasses
        subtract (0.440442830, 0.444026709, 0.432682842).
      flip_shift: False; there is nothing to make up for here.
      backbone: "resnet18", 34, 50, 101, 152, or "hourglass".
      backbone_width: channels of a ResNet's stem (0 for the published 64) or of an hourglass (0 for 256).
      backbone_stages: blocks per stage of a ResNet; empty for the published ones.
      dilate: number of stages at the end of a ResNet that keep their input's resolution: maps of 7, 14, 28 or 56 a side
        from 224 for 0 to 3.
      truncate: number of stages at the end of a ResNet that are left out.
      deconv_layers: number of transposed convolutions behind a ResNet, each of which doubles the resolution; 0 for the
        paper's 1x1 convolution alone.
      deconv_features: channels of each of them.
      stacks: number of hourglasses in a row, each with a loss; the last one predicts.
      modules: number of residual modules at each place of an hourglass.
      strategy: way from maps to positions, "dsnt" (expected position), "fc" (a linear layer, one for all joints, on the
        flattened map) or "gauss" (maps are matched with Gaussians, positions are their maxima).
      rectifier: function that makes maps with sum 1 of logits, "softmax", "thresholded_softmax", "abs", "relu" or
        "sigmoid".
      coordinate_loss: distance between positions, "euclidean", "l1" or "mse", in normalized coordinates.
      regularizer: regularizer of the maps, "none", "variance", "kl", "js" or "mse".
      reg_weight: weight of the regularizer; the coordinate loss has weight 1.
      sigma: standard deviation of the wanted Gaussian in pixels of the map.
      variance_units: unit of the variance, "pixels", or "normalized" as in the paper's experiments, which took 100 for
        `reg_weight`.
      corners: whether cell i stands for the place i of n rather than for its middle, i + 1/2, as in mmpose's integral
        regression.
      flip_points: whether a flip test averages positions, as mmpose does, rather than maps.
      score: score of a joint, "mass" (see `read`) or "one", as mmpose has it, so that boxes alone rank people.
      mask_heatmaps: whether joints without labels are left out of the loss of "gauss". The original code wants empty
        maps for them.
    """

    skeleton: str = "mpii"
    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color_jitter: float = 0.4
    flip_shift: bool = False
    backbone: str = "resnet50"
    backbone_width: int = 0
    backbone_stages: tuple[int, ...] = ()
    dilate: int = 2
    truncate: int = 0
    deconv_layers: int = 0
    deconv_features: int = 256
    stacks: int = 1
    modules: int = 1
    strategy: str = "dsnt"
    rectifier: str = "softmax"
    coordinate_loss: str = "euclidean"
    regularizer: str = "js"
    reg_weight: float = 1.0
    sigma: float = 1.0
    variance_units: str = "pixels"
    corners: bool = False
    flip_points: bool = False
    score: str = "mass"
    mask_heatmaps: bool = False

    def __post_init__(self):
        super().__post_init__()
        self._require_one_of("strategy", STRATEGIES)
        self._require_one_of("rectifier", tuple(coordinates.RECTIFIERS))
        self._require_one_of("coordinate_loss", tuple(coordinates.COORDINATE_LOSSES))
        self._require_one_of("regularizer", REGULARIZERS)
        self._require_one_of("variance_units", ("pixels", "normalized"))
        self._require_one_of("score", SCORES)
        self.require(not self.flip_points or self.strategy == "dsnt", "flip_points", 'False unless strategy is "dsnt"')
        self.require(self.sigma > 0, "sigma", "a positive deviation in pixels of the map")
        self.require(not self.flip_shift, "flip_shift", "False: its maps are centred on cells")
        if self.strategy == "gauss":
            self.require(self.regularizer == "none", "regularizer", '"none" with strategy "gauss"')
            self.require(self.rectifier == "softmax", "rectifier", '"softmax" with strategy "gauss", which uses none')
        self._require_backbone()

    def _require_one_of(self, field: str, values: tuple[str, ...]) -> None:
        self.require(getattr(self, field) in values, field, f"one of {', '.join(values)}")

    def _require_backbone(self) -> None:
        self.require(self._depth() > 0 or self._is_hourglass(), "backbone", '"resnet50" or alike, or "hourglass"')
        if self._is_hourglass():
            self.require(self.strategy != "fc", "strategy", '"dsnt" or "gauss" with hourglasses')
            self.require(self.dilate == 0, "dilate", "0 with hourglasses")
            self.require(self.truncate == 0, "truncate", "0 with hourglasses")
            self.require(self.deconv_layers == 0, "deconv_layers", "0 with hourglasses")
            self.require(self.stacks >= 1, "stacks", "at least 1")
        else:
            stages = len(self.backbone_stages) or 4
            self.require(self.stacks == 1, "stacks", "1 with a ResNet")
            self.require(0 <= self.dilate < stages, "dilate", f"0 to {stages - 1}")
            self.require(0 <= self.truncate < stages, "truncate", f"0 to {stages - 1}")
            self.require(not (self.dilate and self.truncate), "truncate", "0 where dilate is not 0")
            most = 1 + stages - self.dilate - self.truncate
            self.require(0 <= self.deconv_layers <= most, "deconv_layers", f"0 to {most}")
        multiple = 64 if self._is_hourglass() else self.stride << self.deconv_layers
        fits = all(side > 0 and side % multiple == 0 for side in self.input_size)
        self.require(fits, "input_size", f"multiples of {multiple} with this backbone")

    # --- network ---

    def _depth(self) -> int:
        """Depth of a ResNet; 0 for other backbones."""
        match = re.fullmatch(r"resnet(18|34|50|101|152)", self.backbone)
        return int(match[1]) if match else 0

    def _is_hourglass(self) -> bool:
        return self.backbone == "hourglass"

    @property
    def stride(self) -> int:
        """Crop pixels a cell of the maps."""
        if self._is_hourglass():
            return 4
        return 2 ** (1 + (len(self.backbone_stages) or 4) - self.dilate - self.truncate - self.deconv_layers)

    @property
    def map_shape(self) -> tuple[int, int]:
        """(height, width) of the maps."""
        return self.input_size[1] // self.stride, self.input_size[0] // self.stride

    def module(self) -> MapNetwork:
        joints, dtype = self.joints.num_joints, jnp.dtype(self.dtype)
        if self._is_hourglass():
            width = self.backbone_width or 256
            backbone = Hourglass(joints, self.stacks, width, self.modules, stem=STEM_BEARPAW, dtype=dtype)
            return MapNetwork(backbone, joints, projects=False)
        fields: dict[str, Any] = {"stage_sizes": self.backbone_stages} if self.backbone_stages else {}
        backbone = resnet(self._depth(), width=self.backbone_width or 64, dilate=self.dilate, dtype=dtype, **fields)
        stages = backbone.stage_sizes[: len(backbone.stage_sizes) - self.truncate]
        height, width = self.map_shape
        return MapNetwork(
            backbone=backbone.clone(stage_sizes=stages),
            num_joints=joints,
            projects=True,
            deconv=self._deconv(),
            cells=height * width if self.strategy == "fc" else 0,
            rectifier=self.rectifier,
        )

    def _deconv(self) -> DeconvHead | None:
        if not self.deconv_layers:
            return None
        features, dtype = self.deconv_features, jnp.dtype(self.dtype)
        return DeconvHead(self.joints.num_joints, self.deconv_layers, features, dtype=dtype)

    def init(self, key: jax.Array) -> Variables:
        width, height = self.input_size
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image)

    # --- frames ---

    @property
    def _to_middle(self) -> float:
        """Pixels from the place that a cell stands for to its middle, along each axis."""
        return (self.stride - 1) / 2 if self.corners else 0.0

    def to_normalized(self, pixels: Array) -> jax.Array:
        """Normalized positions [..., 2] of pixels [..., 2] of the crop."""
        return coordinates.pixel_to_normalized(jnp.asarray(pixels, jnp.float32) + self._to_middle, self.input_size)

    def to_pixels(self, points: Array) -> jax.Array:
        """Pixels [..., 2] of the crop at normalized positions [..., 2]."""
        return coordinates.normalized_to_pixel(points, self.input_size) - self._to_middle

    # --- targets ---

    def labels(self, stream: Stream) -> Stream:
        """Normalized "points" [B, K, 2], "labelled" [B, K], and "mask" [B, K] of those that lie inside the crop."""
        points = self.to_normalized(stream["keypoints"])
        labelled = (stream["visible"] > 0) & stream["valid"][:, None]
        inside = jnp.all(jnp.abs(points) < 1, axis=-1)
        return {
            "points": jnp.where(labelled[..., None], points, 0),
            "labelled": labelled,
            "mask": labelled & inside,
        }

    # --- losses ---

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """Coordinate loss and regularizer, or distance of the maps from Gaussians, summed over stacks."""
        stream = batch["source"]
        outputs, mutated = self.apply(variables, stream["image"], train=True, mutable=["batch_stats"])
        if self.strategy == "gauss":
            losses = self.matching_losses(outputs["maps"], stream["points"], stream["labelled"])
            found = coordinates.decode_heatmaps(outputs["maps"][-1])[0]
        else:
            losses = self.criterion(outputs, stream["points"], stream["mask"])
            found = outputs["points"][-1] if "points" in outputs else self._expected(outputs["maps"][-1])[0]
        total = losses["coord_loss"] + self.reg_weight * losses["reg_loss"]
        metrics = {name: values[-1] for name, values in losses.items()} | {
            "error_px": self.pixel_error(found, stream["points"], stream["mask"])
        }
        return total.sum(), LossAux(metrics=metrics, batch_stats=mutated.get("batch_stats", {}))

    def criterion(self, outputs: dict[str, jax.Array], points: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        """Losses of every stack, averaged over the joints that count in the whole batch.

        Args:
          outputs: "maps" [S, B, h, w, K] and, of a fully connected layer, "points" [S, B, K, 2].
          points: [B, K, 2] normalized.
          mask: [B, K].

        Returns:
          [S] each: "coord_loss" and "reg_loss" (unweighted).
        """
        expected, heatmaps = self._expected(outputs["maps"])
        coordinate = coordinates.COORDINATE_LOSSES[self.coordinate_loss](outputs.get("points", expected), points)
        average = jax.vmap(coordinates.average_loss, (0, None))
        return {
            "coord_loss": average(coordinate, mask),
            "reg_loss": average(self.regularization(heatmaps, points), mask),
        }

    def _expected(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        return coordinates.logits_to_points(maps, rectifier=self.rectifier)

    def regularization(self, heatmaps: jax.Array, points: jax.Array) -> jax.Array:
        """Losses [S, B, K] of heatmaps [S, B, h, w, K] that do not look like Gaussians around points [B, K, 2]."""
        if self.regularizer == "none":
            return jnp.zeros((*heatmaps.shape[:-3], heatmaps.shape[-1]))
        if self.regularizer == "variance":
            return coordinates.variance_reg_losses(heatmaps, self.sigma, units=self.variance_units)
        losses = {"kl": coordinates.kl_reg_losses, "js": coordinates.js_reg_losses, "mse": coordinates.mse_reg_losses}
        return losses[self.regularizer](heatmaps, points, self.sigma)

    def matching_losses(self, maps: jax.Array, points: jax.Array, labelled: jax.Array) -> dict[str, jax.Array]:
        """Mean squared difference over all pixels and joints, [S], of logits [S, B, h, w, K] from Gaussians."""
        weight = labelled[:, None, None, :].astype(jnp.float32)
        targets = coordinates.encode_heatmaps(points, self.map_shape, self.sigma) * weight
        squared = jnp.square(maps - targets)
        if self.mask_heatmaps:
            per_joint = squared.mean((-3, -2))
            losses = jax.vmap(coordinates.average_loss, (0, None))(per_joint, labelled)
        else:
            losses = squared.mean((-4, -3, -2, -1))
        return {"coord_loss": losses, "reg_loss": jnp.zeros_like(losses)}

    def pixel_error(self, found: jax.Array, points: jax.Array, mask: jax.Array) -> jax.Array:
        """Mean distance in crop pixels between normalized positions [B, K, 2] of the joints that count."""
        found, points = self.to_pixels(found), self.to_pixels(points)
        return coordinates.average_loss(coordinates.euclidean_losses(found, points), mask)

    # --- phases ---

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.dsnt import names

        return names.recognize(shapes)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.dsnt import names

        return OriginalNames(names.rules(self), names.prepare)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def maps(self, variables: Variables, image: jax.Array) -> jax.Array:
        """Logits of the last stack; a flip test averages these."""
        return self.apply(variables, image)["maps"][-1]

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """{"maps": logits}, and with a fully connected layer or `flip_points` also "points" [B, K, 2], normalized."""
        if self.flip_test and self.flip_points:
            return self._with_mirrored_points(variables, batch["source"]["image"])
        outputs = super().forward(variables, batch)
        if self.strategy != "fc":
            return outputs
        return outputs | {"points": self.apply(variables, outputs["maps"], method="regress")}

    def _with_mirrored_points(self, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        """Maps of the crop, and the mean of its positions and those of the mirrored crop, mirrored back."""
        maps = self.maps(variables, rearrange([image, image[:, :, ::-1]], "flip b h w c -> (b flip) h w c"))
        pixels = self.to_pixels(self._expected(maps)[0])
        last_column = jnp.array([self.input_size[0] - 1.0, 0.0])
        back = last_column + pixels[1::2, self.joints.flip_index] * jnp.array([-1.0, 1.0])
        return {"maps": maps[::2], "points": self.to_normalized((pixels[::2] + back) / 2)}

    def read(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions in pixels of the crop, and scores in [0, 1].

        The score of an expected position is the mass of the map within 1.5 deviations of it (at least 1.5 cells): high
        for one peak, low where the mass is spread or divided. That of a matched heatmap is its maximum. For the fully
        connected layer, whose maps need not have their mass at the joint, it is the maximum of the distribution.
        """
        if self.strategy == "gauss":
            points, peak = coordinates.decode_heatmaps(maps)
            scores = jnp.clip(peak, 0, 1)
        else:
            points, heatmaps = self._expected(maps)
            radius = SCORE_RADIUS * max(self.sigma, 1.0)
            fc = self.strategy == "fc"
            scores = coordinates.peak_confidence(heatmaps) if fc else coordinates.mass_confidence(heatmaps, radius)
        scores = jnp.ones_like(scores) if self.score == "one" else scores
        return self.to_pixels(points), scores

    def person_score(self, scores: jax.Array, box_score: jax.Array) -> jax.Array:
        """All joints count: the mass of a wide map is small, however right its position."""
        return oks.person_score(scores, box_score, threshold=0.0)

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """One person a crop, at "points" where the outputs have these."""
        poses = super().decode(outputs, batch)
        if "points" not in outputs:
            return poses
        pixels = self.to_pixels(outputs["points"])
        keypoints = geometry.apply_affine(batch["source"]["to_image"], pixels)
        return dataclasses.replace(poses, keypoints=keypoints[:, None])
