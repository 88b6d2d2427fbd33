"""Heatmaps by a plain vision transformer: ViTPose (Xu et al., NeurIPS 2022) and ViTPose+ (TPAMI 2024).

A crop is cut into patches, which are tokens of a transformer without any layer made for images (section 3.1). A light
head enlarges the map of tokens to one map a joint. Crops, targets and decoding are unbiased (UDP): corner pixels lie on
corner pixels, Gaussians on the joints themselves, and a joint is read between cells by DARK.

In ViTPose+ a part of every MLP belongs to the data set that an example comes from: an expert.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.top_down import TopDown
from jaxpose.methods.vitpose.head import SimpleHead
from jaxpose.methods.vitpose.transformer import VisionTransformer
from jaxpose.nn import initializers
from jaxpose.nn.heads import DeconvHead
from jaxpose.nn.names import OriginalNames, PretrainedNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.ops import dark, heatmaps
from jaxpose.types import Batch, Stream, Variables

SIZES = {"small": (384, 12, 12), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
"""(width, layers, heads) of the published networks."""
PATCH = 16
"""Side of a patch in pixels."""
BLUR_CELLS = 11
"""Number of cells that DARK's Gaussian is cut to."""


class ViTPoseNetwork(nn.Module):
    """A vision transformer and a head.

    Attributes:
      backbone: vision transformer.
      head: network that turns its map into joints' maps.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, image: jax.Array, train: bool = False, expert: jax.Array | int = 0) -> dict[str, jax.Array]:
        """Normalised [B, H, W, 3] -> {"maps": [B, H / 4, W / 4, K] float32}; `expert` is a number or [B]."""
        return {"maps": self.head(self.backbone(image, train, expert), train)}


@dataclasses.dataclass(frozen=True)
class ViTPose(TopDown):
    """The defaults are those of ViTPose-B with the classic head, on COCO at 256 x 192.

    Attributes:
      size: one of `SIZES`, or "" for `width`, `layers` and `heads`.
      width: number of features of a token.
      layers: number of layers.
      heads: number of heads of an attention.
      head: "classic" for two transposed convolutions, "simple" for bilinear interpolation.
      head_features: channels of the classic head.
      experts: number of data sets that have an expert (ViTPose+); 0 for none.
      expert_features: features that an expert gives; 0 for a quarter of the width.
      expert: number of the expert in use, from 0: COCO, AiC, MPII, AP-10K, APT-36K, COCO-WholeBody in released files.
      drop_path: probability of skipping a part of the last layer in training.
      epsilon: number added to the variance in norms; 1e-12 in files of transformers.
      blur: standard deviation in cells of DARK's Gaussian; 0 for OpenCV's choice for 11 cells, which is 2.
      sigma: standard deviation of the targets in cells of the map.
      attention: implementation of attention, "xla", or "cudnn" (flash) for GPUs in bfloat16.
      rematerialize: whether layers are computed again for the gradient, to save memory.
    """

    size: str = "base"
    width: int = 0
    layers: int = 0
    heads: int = 0
    head: str = "classic"
    head_features: int = 256
    experts: int = 0
    expert_features: int = 0
    expert: int = 0
    drop_path: float = 0.3
    epsilon: float = 1e-6
    blur: float = 0.8
    sigma: float = 2.0
    attention: str = "xla"
    rematerialize: bool = False
    flip_shift: bool = False

    def __post_init__(self):
        super().__post_init__()
        own = self.width > 0 and self.layers > 0 and self.heads > 0 and self.width % self.heads == 0
        known = ", ".join(map(repr, SIZES))
        self.require(
            self.size in SIZES or (not self.size and own), "size", f"{known}, or '' with width, layers and heads"
        )
        self.require(self.head in ("classic", "simple"), "head", '"classic" or "simple"')
        fits = all(side > 0 and side % PATCH == 0 for side in self.input_size)
        self.require(fits, "input_size", f"multiples of {PATCH}")
        self.require(0 <= self.expert < max(self.experts, 1), "expert", f"0 to {max(self.experts, 1) - 1}")
        self.require(0 <= self.own_features < self.shape[0], "expert_features", "fewer features than the width")
        self.require(0 <= self.drop_path < 1, "drop_path", "a probability below 1")
        self.require(self.sigma > 0, "sigma", "a positive deviation in cells of the map")
        self.require(self.blur >= 0, "blur", "a deviation in cells of the map, or 0")
        self.require(self.attention in ("xla", "cudnn"), "attention", '"xla" or "cudnn"')

    # --- network ---

    @property
    def shape(self) -> tuple[int, int, int]:
        """(width, layers, heads) of the transformer."""
        return SIZES.get(self.size, (self.width, self.layers, self.heads))

    @property
    def own_features(self) -> int:
        """Number of features of a token that an expert gives."""
        return (self.expert_features or self.shape[0] // 4) if self.experts else 0

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of the maps."""
        return self.input_size[0] // 4, self.input_size[1] // 4

    @property
    def stride(self) -> jax.Array:
        """[2] pixels of the crop for each cell of the map along x and y: corners lie on corners."""
        crop, cells = jnp.array(self.input_size, jnp.float32), jnp.array(self.map_size, jnp.float32)
        return (crop - 1) / (cells - 1)

    def module(self) -> ViTPoseNetwork:
        width, layers, heads = self.shape
        dtype = jnp.dtype(self.dtype)
        backbone = VisionTransformer(
            width,
            layers,
            heads,
            PATCH,
            drop_path=self.drop_path,
            experts=self.experts,
            own=self.own_features,
            epsilon=self.epsilon,
            implementation=self.attention,
            rematerialize=self.rematerialize,
            dtype=dtype,
        )
        joints = self.joints.num_joints
        if self.head == "simple":
            return ViTPoseNetwork(backbone, SimpleHead(joints, dtype=dtype))
        return ViTPoseNetwork(backbone, DeconvHead(joints, layers=2, features=self.head_features, dtype=dtype))

    def init(self, key: jax.Array) -> Variables:
        width, height = self.input_size
        return initializers.initialize(self.module(), key, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))

    # --- targets and loss ---

    def labels(self, stream: Stream) -> Stream:
        """ "target" [B, h, w, K] and "weight" [B, K]."""
        visible = stream["visible"] * stream["valid"][:, None]
        target, weight = heatmaps.gaussian_targets(
            stream["keypoints"], visible, self.stride, self.map_size, self.sigma, between=True
        )
        return {"target": target, "weight": weight}

    def heatmap_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """The mean squared difference between maps and targets of visible joints."""
        stream = batch["source"]
        outputs, mutated = self.apply(
            variables, stream["image"], True, self.expert, mutable=["batch_stats"], rngs={"dropout": key}
        )
        maps, target = outputs["maps"], stream["target"]
        metrics = {"accuracy": heatmaps.accuracy(maps, target)}
        stats = mutated.get("batch_stats", {})
        return 2 * heatmaps.mse(maps, target, stream["weight"]), LossAux(metrics, stats)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.heatmap_loss),)

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.vitpose import names

        return names.recognize(shapes)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.vitpose import names

        return names.NAMES

    def pretrained_names(self) -> PretrainedNames:
        from jaxpose.methods.vitpose import names

        width, height = self.input_size
        return names.pretrained_names((height // PATCH, width // PATCH))

    # --- inference ---

    def maps(self, variables: Variables, image: jax.Array) -> jax.Array:
        return self.apply(variables, image, False, self.expert)["maps"]

    def read(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maxima, moved to the top of the Gaussian that a map stands for; scores are the maxima's values."""
        cells, scores = heatmaps.maxima(maps)
        blurred = dark.blur(maps, BLUR_CELLS, self.blur, padding="symmetric")
        return dark.refine_unbiased(blurred, cells) * self.stride, scores
