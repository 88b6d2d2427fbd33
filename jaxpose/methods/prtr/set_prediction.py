"""Methods that predict sets with a backbone and DETR's transformer: what they share."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxpose.methods.base import Method
from jaxpose.methods.prtr.transformer import Decoder, Encoder
from jaxpose.nn import backbones


@dataclasses.dataclass(frozen=True)
class SetPrediction(Method):
    """A backbone's map is encoded, and learned queries are decoded, each to a proposal or to nothing.

    Attributes:
      backbone: "resnet18", 34, 50, 101, 152, or "hrnet_wC" with C channels in the finest branch (32, 48).
      backbone_width: channels of a ResNet's stem; 0 for the published 64.
      backbone_stages: blocks per stage (ResNet) or modules of stages 2 to 4 (HRNet); empty for the published ones.
      frozen_norm: whether there is constant batch normalization in a ResNet, for training from an ImageNet checkpoint.
      frozen_stages: number of a ResNet's first stages without gradient, and its stem; 0 to train from scratch.
      dilation: whether a ResNet's last stage keeps stride 16.
      hidden_dim, heads, encoder_layers, decoder_layers, feedforward, dropout, pre_norm: fields of the
        transformer.
      num_queries: number of queries Q.
      eos_coef: weight of the class "nothing" in the classification loss.
      cost_class: weight of the class probability when queries are assigned to what is there.
    """

    backbone: str = "resnet50"
    backbone_width: int = 0
    backbone_stages: tuple[int, ...] = ()
    frozen_norm: bool = True
    frozen_stages: int = 1
    dilation: bool = False
    hidden_dim: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.0
    pre_norm: bool = False
    num_queries: int = 100
    eos_coef: float = 0.1
    cost_class: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.require(self.hidden_dim % 4 == 0, "hidden_dim", "a multiple of 4")
        self.require(self.hidden_dim % self.heads == 0, "heads", f"a divisor of hidden_dim {self.hidden_dim}")
        self.require(backbones.is_known(self.backbone), "backbone", backbones.KNOWN)

    def make_backbone(self, output: str = "classification") -> nn.Module:
        """The backbone; `output` is that of an HRNet."""
        of_resnet: dict[str, Any] = {}
        if not backbones.is_hrnet(self.backbone):
            norm = "frozen" if self.frozen_norm else "batch"
            of_resnet = {"norm": norm, "dilate": int(self.dilation), "frozen_stages": self.frozen_stages}
        return backbones.backbone(
            self.backbone,
            width=self.backbone_width,
            stages=self.backbone_stages,
            output=output,
            dtype=jnp.dtype(self.dtype),
            **of_resnet,
        )

    def stack_fields(self) -> dict[str, Any]:
        """Fields of `methods.prtr.transformer.LayerStack` besides the number of layers."""
        return {
            "heads": self.heads,
            "feedforward": self.feedforward,
            "dropout": self.dropout,
            "pre_norm": self.pre_norm,
            "dtype": jnp.dtype(self.dtype),
        }

    def make_transformer(self) -> dict[str, Any]:
        """{"encoder": ..., "decoder": ...}."""
        fields = self.stack_fields()
        return {
            "encoder": Encoder(layers=self.encoder_layers, **fields),
            "decoder": Decoder(layers=self.decoder_layers, **fields),
        }
