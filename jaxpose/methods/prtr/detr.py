"""DETR as a detector of people (Carion et al., ECCV 2020), the first stage of PRTR and of any top-down method.

An image on a padded canvas goes through a backbone and a transformer that ignores the padding. Each of a set of learned
queries proposes a class and a box, or nothing. In training one query is assigned to every person by the least summed
cost; inference needs no suppression of duplicates.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.bottom_up import DetectionInput
from jaxpose.methods.prtr.assignment import assign, assigned_classes, take_assigned, weighted_cross_entropy
from jaxpose.methods.prtr.positional import shrink_mask, sine_encoding
from jaxpose.methods.prtr.set_prediction import SetPrediction
from jaxpose.methods.prtr.transformer import MLP, Decoder, Encoder, head, pointwise
from jaxpose.methods.top_down import IMAGENET_MEAN, IMAGENET_STD
from jaxpose.nn import backbones, initializers
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.ops import boxes as box_ops
from jaxpose.ops import geometry
from jaxpose.types import Batch, Detections, PaddedLayout, Spec, Stream, Variables

COCO_PERSON = 1
"""Class of people in the released checkpoints, whose classes are COCO's category ids."""


# --- network ---


class Detector(nn.Module):
    """From a feature map to classes and boxes.

    Attributes:
      encoder: encoder of the cells of the map.
      decoder: decoder of the queries.
      num_classes: number of classes C, without "nothing".
      num_queries: number of queries Q.
      hidden_dim: width D of the transformer.
      dtype: compute precision; the heads work in float32.
    """

    encoder: Encoder
    decoder: Decoder
    num_classes: int
    num_queries: int
    hidden_dim: int
    dtype: Dtype

    @nn.compact
    def __call__(self, features: jax.Array, inside: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Classes and boxes proposed by every query of every decoder layer.

        Args:
          features: [B, h, w, F].
          inside: [B, H, W] bool, False for the padding of the image of which these are the features.
          train: whether dropout is active.

        Returns:
          "logits" [L, B, Q, C + 1], the last class meaning "nothing", and "boxes" [L, B, Q, 4] (cx, cy, w, h) in (0, 1)
          as fractions of the image without its padding. Both float32.
        """
        project = pointwise(self.hidden_dim, features.shape[-1], self.dtype, "input_projection")
        tokens = rearrange(project(features), "b h w d -> b (h w) d")
        inside = shrink_mask(inside, *features.shape[1:3])
        position = rearrange(jnp.asarray(sine_encoding(jnp.asarray(inside), self.hidden_dim)), "b h w d -> b (h w) d")
        inside = rearrange(inside, "b h w -> b (h w)")
        queries = self.param("queries", initializers.normal(1.0), (self.num_queries, self.hidden_dim))
        memory = self.encoder(tokens, position, inside, train)
        decoded = self.decoder(queries, memory, position, inside, train).astype(jnp.float32)
        logits = head(self.num_classes + 1, self.hidden_dim, name="class_head")(decoded)
        boxes = MLP((self.hidden_dim, self.hidden_dim, 4), name="box_head")(decoded)
        return {"logits": logits, "boxes": nn.sigmoid(boxes)}


class DetectionNetwork(nn.Module):
    """A backbone and a detector.

    Attributes:
      backbone: returns a list of maps; the last is used.
      detector: reads boxes from it.
    """

    backbone: nn.Module
    detector: Detector

    def __call__(self, image: jax.Array, inside: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """See `Detector`; `image` is [B, H, W, 3], normalised, zero where `inside` is False."""
        return self.detector(self.backbone(image, train)[-1], inside, train)


# --- method ---


@dataclasses.dataclass(frozen=True)
class DETR(SetPrediction, DetectionInput):
    """The defaults are those of DETR with ResNet-50 on COCO, but for people alone.

    Attributes:
      bucket: number of pixels to whose multiples sides of canvases are rounded up in inference; images on canvases of
        equal size share a compiled program.
      max_people: number of rows N for the people of a training image, not more than queries.
      num_classes: number of classes C; 91 for the released checkpoints.
      person_class: index of the class of people; 1 for the released checkpoints.
      mean, std: mean and standard deviation of each colour in [0, 1], by which images are normalised.
      box_loss, giou_loss: weights of L1 distance and generalized IoU of boxes; the classification loss has weight 1.
      cost_box, cost_giou: weights of the same two when queries are assigned to people; see `cost_class`.
      aux_loss: whether the proposals of all decoder layers are trained, not only of the last.
    """

    bucket: int = 64
    max_people: int = 50
    num_classes: int = 1
    person_class: int = 0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dropout: float = 0.1
    box_loss: float = 5.0
    giou_loss: float = 2.0
    cost_box: float = 5.0
    cost_giou: float = 2.0
    aux_loss: bool = True

    outputs: ClassVar[tuple[str, ...]] = ("boxes",)

    def __post_init__(self):
        super().__post_init__()
        self.require(0 < self.max_people <= self.num_queries, "max_people", f"1 to num_queries {self.num_queries}")
        self.require(0 <= self.person_class < self.num_classes, "person_class", f"less than {self.num_classes} classes")
        self.require(0 < self.short_side <= self.long_side, "short_side", f"1 to long_side {self.long_side}")
        self.require(self.bucket > 0 and self.bucket % 32 == 0, "bucket", "a multiple of 32")
        fits = not backbones.is_hrnet(self.backbone) or all(s % 32 == 0 for s in self.input_size)
        self.require(fits, "input_size", "multiples of 32 for HRNet")

    # --- network ---

    def module(self) -> nn.Module:
        return DetectionNetwork(backbone=self.make_backbone("branches"), detector=self.make_detector())

    def make_detector(self) -> Detector:
        return Detector(
            num_classes=self.num_classes,
            num_queries=self.num_queries,
            hidden_dim=self.hidden_dim,
            dtype=jnp.dtype(self.dtype),
            **self.make_transformer(),
        )

    def init(self, key: jax.Array) -> Variables:
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return initializers.initialize(self.module(), key, image, jax.ShapeDtypeStruct((1, 64, 64), jnp.bool_))

    def adopt(self, loaded: Variables, fresh: Variables) -> Variables:
        """The loaded variables; a detector for people alone keeps of COCO's 91 classes what tells people from
        nothing."""
        flat: dict[str, Any] = dict(flatten_dict(loaded, sep="/"))
        for name in ("kernel", "bias"):
            path = f"params/detector/class_head/{name}"
            if self.num_classes == 1 and path in flat and np.shape(flat[path])[-1] > 2:
                flat[path] = np.asarray(flat[path])[..., [COCO_PERSON, -1]]
        return unflatten_dict(flat, sep="/")

    # --- images and targets ---

    def layout(self, width: int, height: int) -> PaddedLayout:
        """The canvas of an image of this size in pixels in inference."""
        extent = box_ops.fitted_size(width, height, self.short_side, self.long_side)
        width_up, height_up = (-(-side // self.bucket) * self.bucket for side in extent)
        scale = np.diag([extent[0] / width, extent[1] / height])
        return PaddedLayout(((width_up, height_up),), (np.pad(scale, ((0, 0), (0, 1))),), extent=extent)

    @property
    def scales(self) -> tuple[float, ...]:
        """Test scales of the image in inference: there is one canvas."""
        return (1.0,)

    def spec(self, batch_size: int) -> Spec:
        """A training batch as the host delivers it: one canvas an image, labels in pixels of the canvas.

        image [B, H, W, 3] uint8 RGB; size [B, 2] (width, height) of the image on the canvas, at whose top left it lies;
        boxes [B, N, 4] (x, y, w, h) clipped to the image; people [B, N] whether the row holds a person; to_image
        [B, 2, 3] affine map from canvas pixels to those of the original image; index [B] position in the data set;
        valid [B] False for padding.
        """
        width, height = self.input_size

        def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

        fields = {
            "image": leaf(height, width, 3, dtype=jnp.uint8),
            "size": leaf(2),
            "boxes": leaf(self.max_people, 4),
            "people": leaf(self.max_people, dtype=jnp.bool_),
            "to_image": leaf(2, 3),
            "index": leaf(dtype=jnp.int32),
            "valid": leaf(dtype=jnp.bool_),
        }
        return {"source": fields}

    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """Normalises images, adds "inside" [B, H, W], and in training `labels`."""
        stream = batch["source"]
        image = (stream["image"].astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)
        height, width = image.shape[1:3]
        rows = jnp.arange(height) < stream["size"][:, 1:]
        inside = rows[:, :, None] & (jnp.arange(width) < stream["size"][:, :1])[:, None]
        stream = stream | {"image": jnp.where(inside[..., None], image, 0), "inside": inside}
        return {"source": stream | (self.labels(stream) if train else {})}

    def labels(self, stream: Stream) -> Stream:
        """ "targets" [B, N, 4] (cx, cy, w, h), fractions of the image without padding; "labels" [B, N], -1 for none."""
        centers = box_ops.box_to_center(stream["boxes"]) / jnp.tile(stream["size"], 2)[:, None]
        people = stream["people"]
        return {
            "targets": jnp.where(people[..., None], centers, 0),
            "labels": jnp.where(people, self.person_class, -1),
        }

    # --- matching ---

    def matching_cost(self, logits: jax.Array, boxes: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
        """Cost [..., N, Q] of giving query q to target n: L1 distance and GIoU of boxes, and class probability.

        Args:
          logits: [..., Q, C + 1].
          boxes: [..., Q, 4] (cx, cy, w, h) fractions.
          labels: [..., N], -1 for none; such rows cost 0 everywhere. Leading axes broadcast.
          targets: [..., N, 4].
        """
        distance = jnp.abs(targets[..., :, None, :] - boxes[..., None, :, :]).sum(-1)
        corners = box_ops.center_to_corner(targets)[..., :, None, :], box_ops.center_to_corner(boxes)[..., None, :, :]
        rows = jnp.broadcast_to(labels, (*logits.shape[:-2], labels.shape[-1]))
        probability = jnp.swapaxes(nn.softmax(logits), -1, -2)
        probability = jnp.take_along_axis(probability, jnp.maximum(rows, 0)[..., None], -2)
        cost = (
            self.cost_box * distance
            - self.cost_class * probability
            - self.cost_giou * box_ops.generalized_iou(*corners)
        )
        return jnp.where(rows[..., None] >= 0, cost, 0)

    def match(self, logits: jax.Array, boxes: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
        """The query [..., N] of each target, -1 for none; arguments as for `matching_cost`."""
        return jnp.where(labels >= 0, assign(self.matching_cost(logits, boxes, labels, targets)), -1)

    # --- losses ---

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """Set-prediction loss, summed over the decoder layers."""
        stream = batch["source"]
        outputs, mutated = self.apply(
            variables,
            stream["image"],
            stream["inside"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        logits, boxes = self.trained_layers(outputs)
        columns = self.match(logits, boxes, stream["labels"], stream["targets"])
        losses = self.criterion(logits, boxes, stream["labels"], stream["targets"], columns)
        metrics = {name: values[-1] for name, values in losses.items()}
        return self.total(losses), LossAux(metrics=metrics, batch_stats=mutated.get("batch_stats", {}))

    def trained_layers(self, outputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Logits and boxes of the decoder layers that are trained."""
        first = 0 if self.aux_loss else -1
        return outputs["logits"][first:], outputs["boxes"][first:]

    def total(self, losses: dict[str, jax.Array]) -> jax.Array:
        """The weighted sum of the losses of `criterion` over all layers."""
        layers = losses["loss_ce"] + self.box_loss * losses["loss_bbox"] + self.giou_loss * losses["loss_giou"]
        return layers.sum()

    def criterion(
        self, logits: jax.Array, boxes: jax.Array, labels: jax.Array, targets: jax.Array, columns: jax.Array
    ) -> dict[str, jax.Array]:
        """Losses and error counts of every decoder layer. Normalisers are those of the whole batch.

        Args:
          logits: [L, B, Q, C + 1].
          boxes: [L, B, Q, 4] (cx, cy, w, h) in (0, 1).
          labels: [B, N], -1 for no target.
          targets: [B, N, 4].
          columns: [L, B, N] from `match`.

        Returns:
          [L] each: "loss_ce"; "loss_bbox" and "loss_giou", per target; "class_error" (percent of assigned queries of
          wrong class), "cardinality_error" (of the number of queries that claim something).
        """
        queries, nothing = logits.shape[-2], logits.shape[-1] - 1
        present = labels >= 0
        count = jnp.maximum(present.sum(), 1)
        row = assigned_classes(columns, queries)
        padded = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=nothing)
        classes = jnp.take_along_axis(jnp.broadcast_to(padded, (len(logits), *padded.shape)), row, -1)
        class_weights = jnp.ones(nothing + 1).at[nothing].set(self.eos_coef)
        columns = jnp.maximum(columns, 0)
        found = take_assigned(boxes, columns)
        overlap = box_ops.generalized_iou(box_ops.center_to_corner(found), box_ops.center_to_corner(targets))
        predicted = logits.argmax(-1)
        hits = present & (jnp.take_along_axis(predicted, columns, -1) == labels)
        claims = (predicted != nothing).sum(-1)
        return {
            "loss_ce": weighted_cross_entropy(logits, classes, class_weights),
            "loss_bbox": (jnp.abs(found - targets).sum(-1) * present).sum((-1, -2)) / count,
            "loss_giou": ((1 - overlap) * present).sum((-1, -2)) / count,
            "class_error": 100 * (1 - hits.sum((-1, -2)) / count),
            "cardinality_error": jnp.abs(claims - present.sum(-1)).mean(-1),
        }

    # --- phases ---

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.prtr import detr_names

        return OriginalNames(detr_names.rules(self))

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.prtr import detr_names

        return detr_names.recognize(shapes)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("detection", self.loss),)

    # --- inference ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """The last decoder layer's proposals "logits" [B, Q, C + 1] and "boxes" [B, Q, 4]."""
        stream = batch["source"]
        outputs = self.apply(variables, stream["image"], stream["inside"])
        return {name: value[-1] for name, value in outputs.items()}

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Detections:
        """The box of every query."""
        stream = batch["source"]
        probability = nn.softmax(outputs["logits"])[..., :-1]
        labels = probability.argmax(-1).astype(jnp.int32)
        return Detections(
            boxes=self.to_original(outputs["boxes"], stream),
            scores=probability.max(-1),
            labels=labels,
            valid=(labels == self.person_class) & stream["valid"][:, None],
        )

    def to_original(self, boxes: jax.Array, stream: Stream) -> jax.Array:
        """Boxes [B, Q, 4] of the network as (x, y, w, h) in pixels of the original images."""
        corners = box_ops.center_to_corner(boxes * jnp.tile(stream["size"], 2)[:, None])
        points = geometry.apply_affine(stream["to_image"], rearrange(corners, "b q (n xy) -> b (q n) xy", n=2))
        return box_ops.corner_to_box(rearrange(points, "b (q n) xy -> b q (n xy)", n=2))
