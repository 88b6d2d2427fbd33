"""Heatmaps from a person's crop: SimpleBaselines (Xiao et al., ECCV 2018) and HRNet (Sun et al., CVPR 2019).

A network makes one map a joint and is trained to draw a Gaussian at the joint's place. The maximum of the map, moved a
quarter of a pixel towards its larger neighbour, is the joint. Both papers share everything but the network.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.heatmap.hourglass import BasicHourglass
from jaxpose.methods.top_down import TopDown
from jaxpose.nn import backbones, initializers
from jaxpose.nn.heads import DECONV_PADDING, DeconvHead
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.ops import dark, heatmaps, oks
from jaxpose.skeleton import Skeleton
from jaxpose.types import Array, Batch, Stream, Variables

HOURGLASS = "hourglass52"
LOSSES = ("mse", "ohkm")
DECODINGS = ("quarter", "mmpose", "dark", "udp")
JOINT_WEIGHTS = {"elbow": 1.2, "knee": 1.2, "wrist": 1.5, "ankle": 1.5}
"""Weights of joints that are harder to find, by the last part of their names; 1 for others."""


def joint_weights(skeleton: Skeleton) -> np.ndarray:
    """[K] float32 weights of a skeleton's joints, see `JOINT_WEIGHTS`."""
    return np.array([JOINT_WEIGHTS.get(joint.rpartition("_")[2], 1.0) for joint in skeleton.joints], np.float32)


class HeatmapNetwork(nn.Module):
    """A backbone and a head.

    Attributes:
      backbone: returns a list of maps; the last is used.
      head: turns it into joints' maps.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Normalised [B, H, W, 3] -> {"maps": [B, h, w, K] float32}."""
        return {"maps": self.head(self.backbone(image, train)[-1], train)}


@dataclasses.dataclass(frozen=True)
class Heatmap(TopDown):
    """The defaults are those of HRNet-W32 on COCO at 256 x 192.

    Attributes:
      channels: order of colours; the published HRNets see "rgb", the published ResNets "bgr" (with mean and deviation
        not reordered).
      backbone: "resnet18", 34, 50, 101, 152, "hrnet_wC" with C channels in the finest branch (32, 48), or
        "hourglass52".
      backbone_width: channels of a ResNet's stem; 0 for the published 64.
      backbone_stages: blocks per stage (ResNet) or modules of stages 2 to 4 (HRNet); empty for the published ones.
      deconv_layers: number of transposed convolutions after a ResNet; each doubles the resolution. Others have none.
      deconv_features: number of channels of each transposed convolution.
      deconv_kernel: size of each transposed convolution, 4, 3 or 2.
      deconv_bias: whether transposed convolutions have a bias.
      final_kernel: size of the last convolution, 1 or 3.
      sigma: standard deviation of the targets in pixels of the map: 2, or 3 for crops of 384 x 288.
      loss: loss of the maps, "mse", or "ohkm" for the hardest joints of each person alone.
      ohkm_joints: number of these joints.
      weighted_joints: whether joints count by `JOINT_WEIGHTS`; the weight enters the loss squared.
      score_threshold: score above which joints count in a person's score.
      decoding: rule by which joints are read from maps. "quarter" moves maxima by a quarter of a pixel, as the papers
        do; "mmpose" does so for each axis by itself; "dark" (Zhang et al., CVPR 2020) and "udp" (Huang et al., CVPR
        2020) move them to the top of a Gaussian. "udp" also draws targets between pixels, for crops of
        `config.data.unbiased`.
      blur_cells: odd number of cells that the Gaussian of "dark" and "udp" is cut to: 11, or 17 for crops of
        384 x 288.
    """

    backbone: str = "hrnet_w32"
    backbone_width: int = 0
    backbone_stages: tuple[int, ...] = ()
    deconv_layers: int = 3
    deconv_features: int = 256
    deconv_kernel: int = 4
    deconv_bias: bool = False
    final_kernel: int = 1
    sigma: float = 2.0
    loss: str = "mse"
    ohkm_joints: int = 8
    weighted_joints: bool = False
    score_threshold: float = 0.2
    decoding: str = "quarter"
    blur_cells: int = 11

    def __post_init__(self):
        super().__post_init__()
        self.require(self.decoding in DECODINGS, "decoding", " or ".join(map(repr, DECODINGS)))
        self.require(self.blur_cells > 0 and self.blur_cells % 2 == 1, "blur_cells", "an odd number of cells")
        known = backbones.is_known(self.backbone) or self.is_hourglass
        self.require(known, "backbone", f'{backbones.KNOWN}, or "{HOURGLASS}"')
        self.require(self.loss in LOSSES, "loss", '"mse" or "ohkm"')
        joints = self.joints.num_joints
        self.require(self.loss == "mse" or 0 < self.ohkm_joints <= joints, "ohkm_joints", f"1 to {joints}")
        self.require(self.sigma > 0, "sigma", "a positive deviation in pixels of the map")
        self.require(self.final_kernel in (1, 3), "final_kernel", "1 or 3")
        if self.is_hrnet:
            given = len(self.backbone_stages)
            self.require(given in (0, 3), "backbone_stages", "the modules of stages 2, 3 and 4, or nothing, for HRNet")
        elif self.is_hourglass:
            self.require(not self.backbone_stages, "backbone_stages", "nothing for an hourglass")
        else:
            self.require(self.deconv_kernel in DECONV_PADDING, "deconv_kernel", "4, 3 or 2")
            most = self._stages + 1
            self.require(0 <= self.deconv_layers <= most, "deconv_layers", f"0 to {most} after {self._stages} stages")
        multiple = {"hrnet": 32, "hourglass": 128, "resnet": 2 ** (self._stages + 1)}[self.family]
        fits = all(side > 0 and side % multiple == 0 for side in self.input_size)
        self.require(fits, "input_size", f"multiples of {multiple} with this backbone")

    # --- network ---

    @property
    def family(self) -> str:
        """Family of the backbone, "resnet", "hrnet" or "hourglass"."""
        return "hrnet" if self.is_hrnet else "hourglass" if self.is_hourglass else "resnet"

    @property
    def is_hrnet(self) -> bool:
        return backbones.is_hrnet(self.backbone)

    @property
    def is_hourglass(self) -> bool:
        return self.backbone == HOURGLASS

    @property
    def _stages(self) -> int:
        return len(self.backbone_stages) or 4

    @property
    def stride(self) -> int:
        """Crop pixels a map pixel: 4 in the papers."""
        return 2 ** (self._stages + 1 - self.deconv_layers) if self.family == "resnet" else 4

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of the maps."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    @property
    def cell(self) -> Array | int:
        """Crop pixels a map pixel, for both axes or along x and y; in UDP corners lie on corners."""
        if self.decoding != "udp":
            return self.stride
        return (np.array(self.input_size, np.float32) - 1) / (np.array(self.map_size, np.float32) - 1)

    def module(self) -> HeatmapNetwork:
        dtype = jnp.dtype(self.dtype)
        head = DeconvHead(
            self.joints.num_joints,
            layers=self.deconv_layers if self.family == "resnet" else 0,
            features=self.deconv_features,
            kernel=self.deconv_kernel,
            use_bias=self.deconv_bias,
            final_kernel=self.final_kernel,
            dtype=dtype,
        )
        if self.is_hourglass:
            return HeatmapNetwork(BasicHourglass(dtype=dtype), head)
        backbone = backbones.backbone(
            self.backbone, width=self.backbone_width, stages=self.backbone_stages, dtype=dtype
        )
        return HeatmapNetwork(backbone, head)

    def init(self, key: jax.Array) -> Variables:
        side = 128 if self.is_hourglass else 64
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image)

    # --- targets and losses ---

    def labels(self, stream: Stream) -> Stream:
        """ "target" [B, h, w, K] and "weight" [B, K]."""
        visible = stream["visible"] * stream["valid"][:, None]
        target, weight = heatmaps.gaussian_targets(
            stream["keypoints"], visible, self.cell, self.map_size, self.sigma, between=self.decoding == "udp"
        )
        if self.weighted_joints:
            weight = weight * joint_weights(self.joints)
        return {"target": target, "weight": weight}

    def criterion(self, maps: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
        """The loss of maps [B, h, w, K] for targets [B, h, w, K] and weights [B, K]."""
        if self.loss == "ohkm":
            return heatmaps.ohkm(maps, target, weight, self.ohkm_joints)
        return heatmaps.mse(maps, target, weight)

    def heatmap_loss(
        self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """The difference between maps and targets; "accuracy" is the training monitor of both papers."""
        stream = batch["source"]
        outputs, mutated = self.apply(variables, stream["image"], train=True, mutable=["batch_stats"])
        maps, target = outputs["maps"], stream["target"]
        metrics = {"accuracy": heatmaps.accuracy(maps, target)}
        return self.criterion(maps, target, stream["weight"]), LossAux(metrics, mutated["batch_stats"])

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.heatmap import names

        return names.recognize(shapes) if cls is Heatmap else None  # methods that build on it have their own files

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.heatmap import names

        return OriginalNames(names.rules(self))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.heatmap_loss),)

    # --- inference ---

    def maps(self, variables: Variables, image: jax.Array) -> jax.Array:
        return self.apply(variables, image)["maps"]

    def read(self, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maxima, moved as `decoding` tells; scores are their values, about 1 where the network is sure."""
        if self.decoding == "quarter":
            return heatmaps.decode(maps, self.stride)
        cells, scores = heatmaps.maxima(maps, nowhere=0 if self.decoding == "udp" else -1)
        if self.decoding == "mmpose":
            return heatmaps.quarter_offset(maps, cells, by_axis=True) * self.cell, scores
        blurred = dark.as_high(dark.blur(maps, self.blur_cells), maps)
        refine = dark.refine if self.decoding == "dark" else dark.refine_unbiased
        return refine(blurred, cells) * self.cell, scores

    def person_score(self, scores: jax.Array, box_score: jax.Array) -> jax.Array:
        return oks.person_score(scores, box_score, self.score_threshold)
