"""PRTR: Pose Recognition with Cascade Transformers (Li et al., CVPR 2021), two-stage form.

A person's crop goes through a convolutional backbone and a transformer. A set of learned queries each proposes one
keypoint class and one position. One query is chosen for every joint by an optimal assignment, in training against the
true joints and in inference by class probability alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.prtr.assignment import assign, assigned_classes, take_assigned, weighted_cross_entropy
from jaxpose.methods.prtr.deformable import (
    DeformableDecoder,
    DeformableEncoder,
    Shapes,
    cell_centers,
    logit,
    xavier_conv,
)
from jaxpose.methods.prtr.positional import LearnedEncoding, sine_encoding
from jaxpose.methods.prtr.set_prediction import SetPrediction
from jaxpose.methods.prtr.transformer import MLP, Decoder, Encoder, head, pointwise
from jaxpose.methods.top_down import CropMethod
from jaxpose.nn import backbones, initializers
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized
from jaxpose.nn.recognition import Shapes as EntryShapes
from jaxpose.nn.resnet import conv
from jaxpose.ops import geometry, oks
from jaxpose.ops.arrays import EXACT
from jaxpose.types import Batch, LayerViews, Poses, Stream, Variables

# --- networks ---


class KeypointTransformer(nn.Module):
    """The network of figure 2: backbone, encoder, decoder, and the two heads on every decoder layer.

    Attributes:
      backbone: returns a list of maps; the last is used.
      encoder: encoder of the cells of the map.
      decoder: decoder of the keypoint queries.
      num_joints: number of joints K.
      num_queries: number of queries Q.
      hidden_dim: width D of the transformer.
      positional: kind of positional encoding, "sine" or "learned".
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
        project = pointwise(self.hidden_dim, features.shape[-1], self.dtype, "input_projection")
        tokens = rearrange(project(features), "b h w d -> b (h w) d")
        encode = position_encoder(self.positional, self.hidden_dim)
        position = encode(*features.shape[1:3])
        queries = self.param("queries", initializers.normal(1.0), (self.num_queries, self.hidden_dim))
        memory = self.encoder(tokens, position, train=train)
        decoded = self.decoder(queries, memory, position, train=train).astype(jnp.float32)
        logits = head(self.num_joints + 1, self.hidden_dim, name="class_head")(decoded)
        offsets = MLP((self.hidden_dim, self.hidden_dim, 2), name="keypoint_head")(decoded)
        return {"logits": logits, "keypoints": nn.sigmoid(offsets)}


class DeformableKeypointTransformer(nn.Module):
    """The variant with deformable attention: several maps of the backbone, and queries that look from places of theirs.

    Attributes:
      backbone: returns a list of maps; the last three are used, or with a single level the last.
      encoder: encoder of the cells of all levels.
      decoder: decoder of the keypoint queries.
      num_joints: number of joints K.
      num_queries: number of queries Q.
      hidden_dim: width D of the transformer.
      levels: number of maps that are looked at. Those beyond the backbone's are made from its last by strided
        convolutions.
      positional: kind of positional encoding, "sine" or "learned".
      dtype: compute precision; places and heads work in float32.
    """

    backbone: nn.Module
    encoder: DeformableEncoder
    decoder: DeformableDecoder
    num_joints: int
    num_queries: int
    hidden_dim: int
    levels: int
    positional: str
    dtype: Dtype

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The same as `KeypointTransformer` gives."""
        maps = self._project(self.backbone(image, train))
        shapes = tuple((x.shape[1], x.shape[2]) for x in maps)
        tokens = jnp.concatenate([rearrange(x, "b h w d -> b (h w) d") for x in maps], 1)
        position, reference = self._position(shapes), jnp.asarray(cell_centers(shapes))
        memory = self.encoder(tokens, position, reference, shapes, train=train)
        queries = self.param("queries", initializers.normal(1.0), (self.num_queries, 2 * self.hidden_dim))
        places, contents = jnp.split(queries, 2, -1)
        look = nn.Dense(
            2,
            kernel_init=initializers.xavier_uniform,
            bias_init=initializers.zeros,
            precision=EXACT,
            name="reference_points",
        )
        reference = nn.sigmoid(look(places))
        decoded = self.decoder(contents, places, reference[None, :, None], memory, shapes, train=train)
        decoded = decoded.astype(jnp.float32)
        rare = -math.log(99)  # at first every class has a probability of one in a hundred under a sigmoid
        classify = nn.Dense(
            self.num_joints + 1,
            kernel_init=initializers.torch_kernel,
            bias_init=lambda key, shape, dtype=jnp.float32: rare * initializers.ones(key, shape, dtype),
            precision=EXACT,
            name="class_head",
        )
        offsets = MLP((self.hidden_dim, self.hidden_dim, 2), starts_at_zero=True, name="keypoint_head")(decoded)
        return {"logits": classify(decoded), "keypoints": nn.sigmoid(offsets + logit(reference))}

    def _project(self, maps: list[jax.Array]) -> list[jax.Array]:
        """Maps of all levels with D channels. The first further level sees the last map as it was."""
        own = maps[-3:] if self.levels > 1 else maps[-1:]
        projected = []
        for level in range(self.levels):
            if level < len(own):
                x, size, stride = own[level], 1, 1
            else:
                x, size, stride = maps[-1] if level == len(own) else projected[-1], 3, 2
            x = conv(
                self.hidden_dim,
                size,
                stride,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=xavier_conv,
                name=f"project{level}_conv",
            )(x)
            norm = nn.GroupNorm(
                num_groups=math.gcd(32, self.hidden_dim),
                epsilon=1e-5,
                use_fast_variance=False,
                dtype=self.dtype,
                scale_init=initializers.ones,
                bias_init=initializers.zeros,
                name=f"project{level}_norm",
            )
            projected.append(norm(x))
        return projected

    def _position(self, shapes: Shapes) -> jax.Array:
        """[T, D] of the cells of all levels, told apart by a learned vector for each."""
        vectors = self.param("level_vectors", initializers.normal(1.0), (len(shapes), self.hidden_dim))
        encode = position_encoder(self.positional, self.hidden_dim)
        return jnp.concatenate([encode(*shape) + vectors[level] for level, shape in enumerate(shapes)])


def position_encoder(kind: str, channels: int) -> Callable[[int, int], jax.Array]:
    """A function of a map's (rows, columns) that gives its cells' positions [T, channels]; to be made in a module.

    Args:
      kind: kind of encoding, "sine", or "learned" with tables that all maps share.
      channels: number of channels of the encoding.
    """
    if kind == "learned":
        learned = LearnedEncoding(channels, name="position")
        return lambda rows, columns: rearrange(learned(rows, columns), "h w d -> (h w) d")
    return lambda rows, columns: jnp.asarray(
        sine_encoding(np.ones((rows, columns), bool), channels).reshape(-1, channels)
    )


# --- matching and losses ---


def keypoint_cost(
    logits: jax.Array, keypoints: jax.Array, targets: jax.Array, class_weight: float, coord_weight: float
) -> jax.Array:
    """Cost [..., K, Q] of giving query q to joint k: weighted L1 distance less weighted class probability.

    Args:
      logits: [..., Q, K + 1], "no keypoint" last.
      keypoints: [..., Q, 2].
      targets: [..., K, 2].
      class_weight, coord_weight: weights of probability and distance.
    """
    distance = jnp.abs(targets[..., :, None, :] - keypoints[..., None, :, :]).sum(-1)
    probability = jnp.swapaxes(nn.softmax(logits)[..., :-1], -1, -2)
    return coord_weight * distance - class_weight * probability


def keypoint_losses(
    logits: jax.Array,
    keypoints: jax.Array,
    targets: jax.Array,
    visible: jax.Array,
    columns: jax.Array,
    eos_coef: float,
    people: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Losses and error counts for queries that have been assigned to joints.

    Args:
      logits: [..., N, Q, K + 1] of N people, who share the normalisers.
      keypoints: [..., N, Q, 2].
      targets: [N, K, 2].
      visible: [N, K], positive where a joint's position counts. All joints count for classification.
      columns: [..., N, K] query of each joint.
      eos_coef: weight of the class "no keypoint".
      people: [N] mask of the people who count; None for all.

    Returns:
      [...] each: "loss_ce", "loss_kpts" (unweighted), "class_error" (percent of assigned queries of wrong class),
      "cardinality_error" (of the number of queries that claim a keypoint).
    """
    joints, queries = targets.shape[-2], logits.shape[-2]
    people = jnp.ones(len(targets)) if people is None else people.astype(jnp.float32)
    count = jnp.maximum(people.sum(), 1)
    class_weights = jnp.ones(joints + 1).at[joints].set(eos_coef)
    distance = jnp.abs(take_assigned(keypoints, columns) - targets).sum(-1)
    predicted = logits.argmax(-1)
    hit = (jnp.take_along_axis(predicted, columns, -1) == jnp.arange(joints)).mean(-1)
    claims = (predicted != joints).sum(-1)
    return {
        "loss_ce": weighted_cross_entropy(logits, assigned_classes(columns, queries), class_weights, people),
        "loss_kpts": (distance * (visible > 0) * people[:, None]).sum((-1, -2)) / (2 * count),
        "class_error": 100 * (1 - (hit * people).sum(-1) / count),
        "cardinality_error": (jnp.abs(claims - joints) * people).sum(-1) / count,
    }


# --- method ---


@dataclasses.dataclass(frozen=True)
class PRTR(SetPrediction, CropMethod):
    """Two-stage PRTR. The defaults are those of the COCO model with ResNet-50 at 384 x 288.

    Of `num_queries` there are at least as many as joints.

    Attributes:
      input_size: (width, height) of the crop.
      positional: kind of positional encoding, "sine" or "learned".
      deformable: whether attention goes to a few places of several maps instead of all cells of one; for ResNets.
      feature_levels: number of maps that the deformable variant looks at: 1, or from 3 on, of which three are the
        backbone's.
      encoder_points, decoder_points: numbers of places that each head of it reads on every map.
      keypoint_loss: weight of the coordinate loss; the classification loss has weight 1.
      cost_coord: weight of the L1 distance when queries are assigned to true joints; see `cost_class`.
      channels: order of colours; the published ResNet models were trained on "bgr", the HRNet models on "rgb".
      flip_shift: whether predictions are mirrored as x -> 1 - x like in the original code, which is one crop pixel off
        the mirrored pixel grid and moves the average by half a pixel. Published scores include this. False mirrors
        exactly.
      background_logit: whether probabilities are taken over all K + 1 classes instead of the K joints in inference.
      score_threshold: least score of joints that count in a person's score.
    """

    input_size: tuple[int, int] = (288, 384)
    positional: str = "sine"
    deformable: bool = False
    feature_levels: int = 4
    encoder_points: int = 4
    decoder_points: int = 4
    keypoint_loss: float = 5.0
    cost_coord: float = 5.0
    channels: str = "bgr"
    flip_shift: bool = True
    background_logit: bool = False
    score_threshold: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        self.require(self.positional in ("sine", "learned"), "positional", '"sine" or "learned"')
        joints = self.joints.num_joints
        self.require(self.num_queries >= joints, "num_queries", f"at least one a joint, {joints}")
        hrnet = backbones.is_hrnet(self.backbone)
        fits = not hrnet or all(s % 32 == 0 for s in self.input_size)
        self.require(fits, "input_size", "multiples of 32 for HRNet")
        self.require(not (self.deformable and hrnet), "deformable", "a ResNet, whose maps have several resolutions")
        self.require(not (self.deformable and self.pre_norm), "pre_norm", "False for the deformable variant")
        levels = self.feature_levels
        self.require(levels == 1 or levels >= 3, "feature_levels", "1, or 3 and more")

    # --- network ---

    def module(self) -> KeypointTransformer | DeformableKeypointTransformer:
        fields: dict[str, Any] = {
            "backbone": self.make_backbone(),
            "num_joints": self.joints.num_joints,
            "num_queries": self.num_queries,
            "hidden_dim": self.hidden_dim,
            "positional": self.positional,
            "dtype": jnp.dtype(self.dtype),
        }
        if not self.deformable:
            return KeypointTransformer(**fields, **self.make_transformer())
        stack = self.stack_fields()
        return DeformableKeypointTransformer(
            encoder=DeformableEncoder(layers=self.encoder_layers, points=self.encoder_points, **stack),
            decoder=DeformableDecoder(layers=self.decoder_layers, points=self.decoder_points, **stack),
            levels=self.feature_levels,
            **fields,
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
        return keypoint_cost(logits, keypoints, targets, self.cost_class, self.cost_coord)

    # --- losses ---

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """Set-prediction loss, summed over the decoder layers."""
        stream = batch["source"]
        outputs, mutated = self.apply(
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
        columns = assign(self.matching_cost(logits, keypoints, targets))
        return keypoint_losses(logits, keypoints, targets, visible, columns, self.eos_coef)

    # --- phases ---

    def layer_views(self, variables: Variables, batch: Batch) -> LayerViews:
        from jaxpose.methods.prtr import layers

        return layers.watch_crops(self, variables, batch)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.prtr import names

        return OriginalNames(names.rules(self))

    @classmethod
    def recognize(cls, shapes: EntryShapes) -> Recognized | None:
        from jaxpose.methods.prtr import names

        return names.recognize(shapes)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """The last decoder layer's proposals "logits" and "keypoints", and "flipped_*" for the mirrored crop."""
        image = batch["source"]["image"]
        if self.flip_test:
            image = rearrange([image, image[:, :, ::-1]], "flip b h w c -> (b flip) h w c")
        outputs = {name: value[-1] for name, value in self.apply(variables, image).items()}
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
