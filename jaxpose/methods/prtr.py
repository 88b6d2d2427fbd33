"""PRTR: Pose Recognition with Cascade Transformers (Li et al., CVPR 2021), two-stage form.

A person's crop goes through a convolutional backbone and a transformer. A set of learned queries each proposes one
keypoint class and one position. One query is chosen for every joint by an optimal assignment, in training against the
true joints and in inference by class probability alone.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.top_down import CropMethod
from jaxpose.nn import backbones, initializers
from jaxpose.nn.positional import LearnedEncoding, sine_encoding
from jaxpose.nn.transformer import MLP, Decoder, Encoder, linear
from jaxpose.ops import geometry, oks
from jaxpose.ops.assignment import assign, assigned_classes, take_assigned, weighted_cross_entropy
from jaxpose.types import Batch, Poses, Stream, Variables


class KeypointTransformer(nn.Module):
    """The network of figure 2: backbone, encoder, decoder, and the two heads on every decoder layer.

    Attributes:
      backbone: returns a list of maps; the last is used.
      encoder: over the cells of the map.
      decoder: of the keypoint queries.
      num_joints: K.
      num_queries: Q.
      hidden_dim: width D of the transformer.
      positional: "sine" or "learned".
      dtype: compute precision; the heads work in float32.
    """

    backbone: nn.Module
    encoder: Encoder
    decoder: Decoder
    num_joints: int
    num_queries: int
    hidden_dim: int
    positional: str
    dtype: Dtype

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Classes and positions proposed by every query of every decoder layer.

        Args:
          image: [B, H, W, 3] normalised.
          train: whether dropout and batch statistics are active.

        Returns:
          "logits" [L, B, Q, K + 1], the last class meaning "no keypoint", and "keypoints" [L, B, Q, 2] in (0, 1) as
          fractions of the crop's width and height. Both float32.
        """
        features = self.backbone(image, train)[-1]
        _, height, width, channels = features.shape
        project = nn.Conv(
            self.hidden_dim,
            (1, 1),
            dtype=self.dtype,
            kernel_init=initializers.torch_kernel,
            bias_init=initializers.torch_bias(channels),
            name="input_projection",
        )
        tokens = rearrange(project(features), "b h w d -> b (h w) d")
        position = rearrange(self._position(height, width), "h w d -> (h w) d")
        queries = self.param("queries", initializers.normal(1.0), (self.num_queries, self.hidden_dim))
        memory = self.encoder(tokens, position, train=train)
        decoded = self.decoder(queries, memory, position, train=train).astype(jnp.float32)
        logits = linear(self.num_joints + 1, self.hidden_dim, name="class_head")(decoded)
        offsets = MLP((self.hidden_dim, self.hidden_dim, 2), name="keypoint_head")(decoded)
        return {"logits": logits, "keypoints": nn.sigmoid(offsets)}

    def _position(self, height: int, width: int) -> jax.Array:
        if self.positional == "learned":
            return LearnedEncoding(self.hidden_dim, name="position")(height, width)
        return jnp.asarray(sine_encoding(np.ones((height, width), bool), self.hidden_dim))


@dataclasses.dataclass(frozen=True)
class PRTR(CropMethod):
    """Two-stage PRTR. The defaults are those of the COCO model with ResNet-50 at 384 x 288.

    Attributes:
      input_size: (width, height) of the crop.
      backbone: "resnet18", 34, 50, 101, 152, or "hrnet_wC" with C channels in the finest branch (32, 48).
      backbone_width: channels of a ResNet's stem; 0 for the published 64.
      backbone_stages: blocks per stage (ResNet) or modules of stages 2 to 4 (HRNet); empty for the published ones.
      frozen_norm: constant batch normalization in a ResNet, for training from an ImageNet checkpoint.
      frozen_stages: no gradient into a ResNet's stem and so many of its stages; 0 to train from scratch.
      dilation: keep stride 16 in a ResNet's last stage.
      positional: "sine" or "learned".
      hidden_dim, heads, encoder_layers, decoder_layers, feedforward, dropout, pre_norm: of the transformer.
      num_queries: Q, at least the number of joints.
      eos_coef: weight of the class "no keypoint" in the classification loss.
      keypoint_loss: weight of the coordinate loss; the classification loss has weight 1.
      cost_class, cost_coord: weights of probability and L1 distance when queries are assigned to true joints.
      channels: the published ResNet models were trained on "bgr", the HRNet models on "rgb".
      flip_shift: mirror predictions as x -> 1 - x like the original code, which is one crop pixel off the mirrored
        pixel grid and moves the average by half a pixel. Published scores include this. False mirrors exactly.
      background_logit: at inference, take probabilities over all K + 1 classes instead of the K joints.
      score_threshold: joints below do not count in a person's score.
    """

    input_size: tuple[int, int] = (288, 384)
    backbone: str = "resnet50"
    backbone_width: int = 0
    backbone_stages: tuple[int, ...] = ()
    frozen_norm: bool = True
    frozen_stages: int = 1
    dilation: bool = False
    positional: str = "sine"
    hidden_dim: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.0
    pre_norm: bool = False
    num_queries: int = 100
    eos_coef: float = 0.1
    keypoint_loss: float = 5.0
    cost_class: float = 1.0
    cost_coord: float = 5.0
    channels: str = "bgr"
    flip_shift: bool = True
    background_logit: bool = False
    score_threshold: float = 0.2

    def __post_init__(self):
        """Raises `ConfigError` for values that cannot work together."""
        super().__post_init__()
        self.require(self.positional in ("sine", "learned"), "positional", '"sine" or "learned"')
        self.require(self.hidden_dim % 4 == 0, "hidden_dim", "a multiple of 4")
        self.require(self.hidden_dim % self.heads == 0, "heads", f"a divisor of hidden_dim {self.hidden_dim}")
        joints = self.joints.num_joints
        self.require(self.num_queries >= joints, "num_queries", f"at least one a joint, {joints}")
        self.require(backbones.is_known(self.backbone), "backbone", backbones.KNOWN)
        fits = not backbones.is_hrnet(self.backbone) or all(s % 32 == 0 for s in self.input_size)
        self.require(fits, "input_size", "multiples of 32 for HRNet")

    # --- network ---

    def module(self) -> KeypointTransformer:
        fields = {
            "heads": self.heads,
            "feedforward": self.feedforward,
            "dropout": self.dropout,
            "pre_norm": self.pre_norm,
            "dtype": jnp.dtype(self.dtype),
        }
        return KeypointTransformer(
            backbone=self._backbone(),
            encoder=Encoder(layers=self.encoder_layers, **fields),
            decoder=Decoder(layers=self.decoder_layers, **fields),
            num_joints=self.joints.num_joints,
            num_queries=self.num_queries,
            hidden_dim=self.hidden_dim,
            positional=self.positional,
            dtype=jnp.dtype(self.dtype),
        )

    def _backbone(self) -> nn.Module:
        of_resnet = {}
        if not backbones.is_hrnet(self.backbone):
            norm = "frozen" if self.frozen_norm else "batch"
            of_resnet = {"norm": norm, "dilate": int(self.dilation), "frozen_stages": self.frozen_stages}
        return backbones.backbone(
            self.backbone,
            width=self.backbone_width,
            stages=self.backbone_stages,
            output="classification",
            dtype=jnp.dtype(self.dtype),
            **of_resnet,
        )

    def init(self, key: jax.Array) -> Variables:
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image)

    # --- targets ---

    def labels(self, stream: Stream) -> Stream:
        """ "targets" [B, K, 2], fractions of the crop and zero for invisible joints."""
        visible = stream["visible"] > 0
        fractions = stream["keypoints"] / jnp.array(self.input_size, jnp.float32)
        return {"targets": jnp.where(visible[..., None], fractions, 0)}

    # --- matching ---

    def matching_cost(self, logits: jax.Array, keypoints: jax.Array, targets: jax.Array) -> jax.Array:
        """Cost [..., K, Q] of giving query q to joint k: weighted L1 distance less class probability.

        Invisible joints take part like others, with a target of (0, 0).

        Args:
          logits: [..., Q, K + 1].
          keypoints: [..., Q, 2].
          targets: [..., K, 2].
        """
        distance = jnp.abs(targets[..., :, None, :] - keypoints[..., None, :, :]).sum(-1)
        probability = jnp.swapaxes(nn.softmax(logits)[..., :-1], -1, -2)
        return self.cost_coord * distance - self.cost_class * probability

    # --- losses ---

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """Set-prediction loss, summed over the decoder layers."""
        stream = batch["source"]
        outputs, mutated = self.module().apply(
            variables, stream["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        losses = self.criterion(outputs["logits"], outputs["keypoints"], stream["targets"], stream["visible"])
        total = (losses["loss_ce"] + self.keypoint_loss * losses["loss_kpts"]).sum()
        metrics = {name: values[-1] for name, values in losses.items()}
        return total, LossAux(metrics=metrics, batch_stats=mutated.get("batch_stats", {}))

    def criterion(
        self, logits: jax.Array, keypoints: jax.Array, targets: jax.Array, visible: jax.Array
    ) -> dict[str, jax.Array]:
        """Losses and error counts of every decoder layer. Normalisers are those of the whole batch.

        Args:
          logits: [L, B, Q, K + 1].
          keypoints: [L, B, Q, 2] in (0, 1).
          targets: [B, K, 2].
          visible: [B, K], positive where a joint's position counts. All joints count for classification.

        Returns:
          [L] each: "loss_ce", "loss_kpts" (unweighted), "class_error" (percent of assigned queries of wrong class),
          "cardinality_error" (of the number of queries that claim a keypoint).
        """
        joints, queries = targets.shape[-2], logits.shape[-2]
        columns = assign(self.matching_cost(logits, keypoints, targets))
        class_weights = jnp.ones(joints + 1).at[joints].set(self.eos_coef)
        distance = jnp.abs(take_assigned(keypoints, columns) - targets).sum(-1)
        predicted = logits.argmax(-1)
        hit = jnp.take_along_axis(predicted, columns, -1) == jnp.arange(joints)
        claims = (predicted != joints).sum(-1)
        return {
            "loss_ce": weighted_cross_entropy(logits, assigned_classes(columns, queries), class_weights),
            "loss_kpts": (distance * (visible > 0)).sum((-1, -2)) / (2 * len(targets)),
            "class_error": 100 * (1 - hit.mean((-1, -2))),
            "cardinality_error": jnp.abs(claims - joints).mean(-1),
        }

    # --- phases ---

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """The last decoder layer's proposals "logits" and "keypoints", and "flipped_*" for the mirrored crop."""
        image = batch["source"]["image"]
        if self.flip_test:
            image = rearrange([image, image[:, :, ::-1]], "flip b h w c -> (b flip) h w c")
        outputs = {name: value[-1] for name, value in self.module().apply(variables, image).items()}
        if not self.flip_test:
            return outputs
        flipped = {f"flipped_{name}": value[1::2] for name, value in outputs.items()}
        return {name: value[::2] for name, value in outputs.items()} | flipped

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """One person a crop: the best query for every joint, averaged with the mirrored prediction if there is one."""
        stream = batch["source"]
        keypoints, scores = self.select(outputs["logits"], outputs["keypoints"])
        if "flipped_logits" in outputs:
            mirrored = self.unflip(*self.select(outputs["flipped_logits"], outputs["flipped_keypoints"]))
            keypoints, scores = (keypoints + mirrored[0]) / 2, (scores + mirrored[1]) / 2
        pixels = keypoints * jnp.array(self.input_size, jnp.float32)
        return Poses(
            keypoints=geometry.apply_affine(stream["to_image"], pixels)[:, None],
            scores=scores[:, None],
            person_score=oks.person_score(scores, stream["person_score"], self.score_threshold)[:, None],
            valid=stream["valid"][:, None],
        )

    def select(self, logits: jax.Array, keypoints: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One query for every joint, no query for two, such that the summed probability is largest.

        Args:
          logits: [B, Q, K + 1].
          keypoints: [B, Q, 2].

        Returns:
          Positions [B, K, 2] in (0, 1) and probabilities [B, K].
        """
        probability = nn.softmax(logits)[..., :-1] if self.background_logit else nn.softmax(logits[..., :-1])
        probability = jnp.swapaxes(probability, -1, -2)
        columns = assign(-probability)
        scores = jnp.take_along_axis(probability, columns[..., None], -1)[..., 0]
        return take_assigned(keypoints, columns), scores

    def unflip(self, keypoints: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [B, K, 2] and scores [B, K] found in the mirrored crop, as of the crop itself."""
        last = 1.0 if self.flip_shift else 1 - 1 / self.input_size[0]
        mirrored = jnp.stack([last - keypoints[..., 0], keypoints[..., 1]], -1)
        return mirrored[:, self.joints.flip_index], scores[:, self.joints.flip_index]
