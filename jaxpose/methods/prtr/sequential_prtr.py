"""PRTR: Pose Recognition with Cascade Transformers (Li et al., CVPR 2021), the end-to-end form.

DETR finds people in the whole image. Around each of its boxes features of several resolutions are cut out by bilinear
sampling, which is differentiable by the box, and a second transformer finds the person's joints in them. Both learn
together: what the joints' loss says about a box reaches the detector.

The original code for this form is an illustrative notebook without training; the composition of the losses is ours, of
those of the detector and of the two-stage form.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.prtr.assignment import assign, take_assigned
from jaxpose.methods.prtr.detr import DETR, Detector
from jaxpose.methods.prtr.method import keypoint_cost, keypoint_losses
from jaxpose.methods.prtr.positional import CropEncoding
from jaxpose.methods.prtr.transformer import MLP, Decoder, Encoder, head, pointwise
from jaxpose.nn import initializers
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.ops import geometry
from jaxpose.ops.sampling import fractions, sample, to_pixels
from jaxpose.types import Array, Batch, Detections, LayerViews, Poses, Spec, Stream, Variables

# --- the crop between the transformers ---


def crop_grid(boxes: Array, ratio: Array, size: tuple[int, int], growth: float) -> jax.Array:
    """Points at which features are sampled around boxes; the outermost points lie on the edges of the grown boxes.

    Args:
      boxes: [B, P, 4] (cx, cy, w, h), fractions of the images without padding.
      ratio: [B, 2] (width, height) of the images as fractions of their canvases.
      size: (width, height) of the grid.
      growth: factor by which boxes are enlarged.

    Returns:
      [B, P, height, width, 2] (x, y) normalised to [-1, 1] over the canvas.
    """
    steps = [growth * (2 * fractions(count, "corners") - 1) for count in size]
    lattice = jnp.stack(jnp.meshgrid(*steps), -1)
    centers, sizes = (part * ratio[:, None] for part in jnp.split(jnp.asarray(boxes, jnp.float32), 2, -1))
    return 2 * centers[:, :, None, None] - 1 + sizes[:, :, None, None] * lattice


def crop_features(maps: list[jax.Array], grid: jax.Array) -> jax.Array:
    """Features of several maps at the points of a grid.

    Points beyond a map's outermost cells take their values, without gradient by the point. Padding is not left out.

    Args:
      maps: [B, h, w, C] each, of the same canvas.
      grid: [B, P, height, width, 2] normalised to [-1, 1].

    Returns:
      [B, P, height, width, sum of all C].
    """
    crops = [sample(x, to_pixels(grid, (x.shape[2], x.shape[1]), "centers"), "border") for x in maps]
    return jnp.concatenate(crops, -1)


# --- network ---


class CropTransformer(nn.Module):
    """From people's features to their joints.

    Attributes:
      encoder: encoder of the cells of a crop.
      decoder: decoder of the keypoint queries.
      num_joints: number of joints K.
      num_queries: number of queries Q.
      hidden_dim: width D of the transformer.
      growth: size of the crop over that of the person's box.
      dtype: compute precision; the heads work in float32.
    """

    encoder: Encoder
    decoder: Decoder
    num_joints: int
    num_queries: int
    hidden_dim: int
    growth: float
    dtype: Dtype

    @nn.compact
    def __call__(
        self, crops: jax.Array, position: jax.Array, boxes: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Classes and positions proposed by every query of the last decoder layer.

        Args:
          crops: [M, h, w, C] features of M people.
          position: [h, w, D] of the cells.
          boxes: [M, 4] (cx, cy, w, h) of the people, fractions of the image.
          train: whether dropout is active.

        Returns:
          "logits" [M, Q, K + 1], the last class meaning "no keypoint", and "keypoints" [M, Q, 2] in [0, 1], fractions
          of the image without padding. Both float32.
        """
        project = pointwise(self.hidden_dim, crops.shape[-1], self.dtype, "input_projection")
        tokens = rearrange(project(crops), "m h w d -> m (h w) d")
        position = rearrange(position, "h w d -> (h w) d")
        queries = self.param("queries", initializers.normal(1.0), (self.num_queries, self.hidden_dim))
        memory = self.encoder(tokens, position, train=train)
        decoded = self.decoder(queries, memory, position, train=train)[-1].astype(jnp.float32)
        logits = head(self.num_joints + 1, self.hidden_dim, name="class_head")(decoded)
        inside = nn.sigmoid(MLP((self.hidden_dim, self.hidden_dim, 2), name="keypoint_head")(decoded))
        center, size = jnp.split(boxes[:, None], 2, -1)
        return {"logits": logits, "keypoints": jnp.clip(center + self.growth * (inside - 0.5) * size, 0, 1)}


class CascadeNetwork(nn.Module):
    """Backbone, detector, and the transformer of joints.

    Attributes:
      backbone: returns a list of maps; the detector sees the last.
      detector: finds boxes.
      position: encodes the cells of a crop.
      pose: finds joints in crops.
      levels: maps of the backbone that crops are cut out of.
      crop_size: (width, height) of crops.
    """

    backbone: nn.Module
    detector: Detector
    position: CropEncoding
    pose: CropTransformer
    levels: tuple[int, ...]
    crop_size: tuple[int, int]

    def __call__(self, image: jax.Array, inside: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Joints of the person that each query of the detector's last layer proposes.

        Args:
          image: [B, H, W, 3] normalised, zero where `inside` is False.
          inside: [B, H, W] bool, False for padding at the right and bottom.
          train: whether dropout and batch statistics are active.

        Returns:
          "logits" and "boxes" of `Detector`; "joint_logits" [B, P, Q, K + 1] and "keypoints" [B, P, Q, 2] of
          `CropTransformer` for its P queries.
        """
        outputs, maps = self.detect(image, inside, train)
        found = self.locate(maps, outputs["boxes"][-1], inside, train)
        return outputs | {"joint_logits": found["logits"], "keypoints": found["keypoints"]}

    def detect(
        self, image: jax.Array, inside: jax.Array, train: bool = False
    ) -> tuple[dict[str, jax.Array], list[jax.Array]]:
        """The detector's proposals, and the maps of `levels`."""
        maps = self.backbone(image, train)
        return self.detector(maps[-1], inside, train), [maps[level] for level in self.levels]

    def locate(
        self, maps: list[jax.Array], boxes: jax.Array, inside: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Joints of people in boxes.

        Args:
          maps: maps of `detect`.
          boxes: [B, P, 4] (cx, cy, w, h), fractions of the image without padding.
          inside: [B, H, W] bool.
          train: whether dropout is active.

        Returns:
          "logits" [B, P, Q, K + 1] and "keypoints" [B, P, Q, 2]; see `CropTransformer`.
        """
        ratio = jnp.stack([inside.any(1).mean(-1), inside.any(2).mean(-1)], -1)
        crops = crop_features(maps, crop_grid(boxes, ratio, self.crop_size, self.pose.growth))
        position = self.position(self.crop_size[1], self.crop_size[0])
        found = self.pose(
            rearrange(crops, "b p h w c -> (b p) h w c"), position, rearrange(boxes, "b p c -> (b p) c"), train
        )
        return {name: rearrange(value, "(b p) q c -> b p q c", b=len(boxes)) for name, value in found.items()}


# --- method ---


@dataclasses.dataclass(frozen=True)
class SequentialPRTR(DETR):
    """End-to-end PRTR. The detector's fields are those of `DETR`, from whose checkpoint it can start.

    Attributes:
      levels: maps of the backbone, 0 to 3 for strides 4 to 32, that crops are cut out of.
      crop_size: (width, height) of a crop in cells.
      box_growth: size of the crop over that of a person's box.
      keypoint_dim, keypoint_heads, keypoint_encoder_layers, keypoint_decoder_layers, keypoint_feedforward: fields
        of the transformer of joints.
      keypoint_queries: number of its queries Q, at least the number of joints.
      top_people: number of boxes, of the likeliest people, in which joints are looked for in inference.
      keypoint_loss: weight of the joints' coordinate loss; their classification loss has weight 1.
      cost_coord: weight of the L1 distance when queries are assigned to joints.
    """

    levels: tuple[int, ...] = (1, 2, 3)
    crop_size: tuple[int, int] = (10, 10)
    box_growth: float = 1.25
    keypoint_dim: int = 512
    keypoint_heads: int = 8
    keypoint_encoder_layers: int = 6
    keypoint_decoder_layers: int = 6
    keypoint_feedforward: int = 2048
    keypoint_queries: int = 100
    top_people: int = 20
    keypoint_loss: float = 5.0
    cost_coord: float = 5.0
    aux_loss: bool = False

    outputs: ClassVar[tuple[str, ...]] = ("poses", "boxes")

    def __post_init__(self):
        super().__post_init__()
        joints, width = self.joints.num_joints, self.keypoint_dim
        self.require(len(self.levels) > 0 and set(self.levels) <= {0, 1, 2, 3}, "levels", "some of 0, 1, 2 and 3")
        self.require(min(self.crop_size) > 0, "crop_size", "at least one cell")
        self.require(width % 8 == 0, "keypoint_dim", "a multiple of 8")
        self.require(width % self.keypoint_heads == 0, "keypoint_heads", f"a divisor of keypoint_dim {width}")
        self.require(self.keypoint_queries >= joints, "keypoint_queries", f"at least one a joint, {joints}")
        self.require(0 < self.top_people <= self.num_queries, "top_people", f"1 to num_queries {self.num_queries}")

    # --- network ---

    def module(self) -> CascadeNetwork:
        fields = self.stack_fields()
        fields |= {"heads": self.keypoint_heads, "feedforward": self.keypoint_feedforward}
        pose = CropTransformer(
            encoder=Encoder(layers=self.keypoint_encoder_layers, **fields),
            decoder=Decoder(layers=self.keypoint_decoder_layers, **fields),
            num_joints=self.joints.num_joints,
            num_queries=self.keypoint_queries,
            hidden_dim=self.keypoint_dim,
            growth=self.box_growth,
            dtype=jnp.dtype(self.dtype),
        )
        return CascadeNetwork(
            backbone=self.make_backbone("branches"),
            detector=self.make_detector(),
            position=CropEncoding(self.keypoint_dim),
            pose=pose,
            levels=self.levels,
            crop_size=self.crop_size,
        )

    # --- targets ---

    def spec(self, batch_size: int) -> Spec:
        """The fields of `DETR.spec`, keypoints [B, N, K, 2] in pixels of the canvas and visible [B, N, K] in {0, 1}."""
        people, joints = self.max_people, self.joints.num_joints
        fields = {
            "keypoints": jax.ShapeDtypeStruct((batch_size, people, joints, 2), jnp.float32),
            "visible": jax.ShapeDtypeStruct((batch_size, people, joints), jnp.float32),
        }
        return {"source": super().spec(batch_size)["source"] | fields}

    def labels(self, stream: Stream) -> Stream:
        """Besides those of `DETR`, "joints" [B, N, K, 2], fractions of the image and zero for invisible ones."""
        places = stream["keypoints"] / stream["size"][:, None, None]
        return super().labels(stream) | {"joints": jnp.where(stream["visible"][..., None] > 0, places, 0)}

    # --- losses ---

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """The detector's loss, and that of the joints of everybody whom it is to find."""
        stream = batch["source"]
        (outputs, maps), mutated = self.apply(
            variables,
            stream["image"],
            stream["inside"],
            train=True,
            method="detect",
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        logits, boxes = self.trained_layers(outputs)
        columns = self.match(logits, boxes, stream["labels"], stream["targets"])
        losses = self.criterion(logits, boxes, stream["labels"], stream["targets"], columns)
        joints = self.joint_losses(variables, maps, boxes[-1], columns[-1], stream, key)
        total = self.total(losses) + joints["loss_ce"] + self.keypoint_loss * joints["loss_kpts"]
        metrics = {name: values[-1] for name, values in losses.items()}
        metrics |= {"loss_kpt_ce": joints["loss_ce"], "loss_kpts": joints["loss_kpts"]}
        metrics |= {"kpt_class_error": joints["class_error"]}
        return total, LossAux(metrics=metrics, batch_stats=mutated.get("batch_stats", {}))

    def joint_losses(
        self,
        variables: Variables,
        maps: list[jax.Array],
        boxes: jax.Array,
        columns: jax.Array,
        stream: Stream,
        key: jax.Array,
    ) -> dict[str, jax.Array]:
        """Losses of the joints of everybody to whom a query of the detector was assigned; see `prtr.keypoint_losses`.

        The crops follow the boxes of those queries, and so does the gradient.

        Args:
          variables: variables of the network.
          maps: maps of `CascadeNetwork.detect`.
          boxes: [B, P, 4] boxes that the detector proposes.
          columns: [B, N] query of each person, -1 for none.
          stream: stream with "inside", "joints" and "visible".
          key: key of dropout.
        """
        found = self.apply(
            variables,
            maps,
            take_assigned(boxes, jnp.maximum(columns, 0)),
            stream["inside"],
            train=True,
            method="locate",
            rngs={"dropout": key},
        )
        fields = (found["logits"], found["keypoints"], stream["joints"], stream["visible"], columns >= 0)
        logits, keypoints, targets, visible, people = (rearrange(x, "b n ... -> (b n) ...") for x in fields)
        cost = keypoint_cost(logits, keypoints, targets, self.cost_class, self.cost_coord)
        return keypoint_losses(logits, keypoints, targets, visible, assign(cost), self.eos_coef, people)

    # --- phases ---

    def layer_views(self, variables: Variables, batch: Batch) -> LayerViews:
        from jaxpose.methods.prtr import layers

        return layers.watch_images(self, variables, batch)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.prtr import sequential_prtr_names

        return OriginalNames(sequential_prtr_names.rules(self))

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.prtr import sequential_prtr_names

        return sequential_prtr_names.recognize(shapes)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """The likeliest people and their joints' proposals.

        Returns:
          "person" [B, P] their probability, "boxes" [B, P, 4]; "logits" [B, P, Q, K + 1] and "keypoints" [B, P, Q, 2]
          of their joints.
        """
        stream = batch["source"]
        outputs, maps = self.apply(variables, stream["image"], stream["inside"], method="detect")
        probability = nn.softmax(outputs["logits"][-1])[..., self.person_class]
        person, queries = jax.lax.top_k(probability, self.top_people)
        boxes = take_assigned(outputs["boxes"][-1], queries)
        joints = self.apply(variables, maps, boxes, stream["inside"], method="locate")
        return {"person": person, "boxes": boxes} | joints

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """The best query for every joint of every person, and the boxes in which they were found."""
        stream = batch["source"]
        places, scores = self.select(outputs["logits"], outputs["keypoints"])
        pixels = places * stream["size"][:, None, None]
        person, valid = outputs["person"], jnp.broadcast_to(stream["valid"][:, None], outputs["person"].shape)
        return Poses(
            keypoints=geometry.apply_affine(stream["to_image"][:, None], pixels),
            scores=scores,
            person_score=person * scores.mean(-1),
            valid=valid,
            detections=Detections(
                boxes=self.to_original(outputs["boxes"], stream),
                scores=person,
                labels=jnp.full(person.shape, self.person_class, jnp.int32),
                valid=valid,
            ),
        )

    def select(self, logits: jax.Array, keypoints: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One query for every joint, no query for two, such that the sum of the joints' logits is largest.

        Args:
          logits: [..., Q, K + 1], "no keypoint" last.
          keypoints: [..., Q, 2].

        Returns:
          Positions [..., K, 2], and probabilities [..., K] among the K joints.
        """
        cost = -jnp.swapaxes(logits[..., :-1], -1, -2)
        people = cost.reshape(-1, *cost.shape[-2:])  # one axis, by which devices share the work
        columns = assign(people).reshape(cost.shape[:-1])
        probability = jnp.swapaxes(nn.softmax(logits[..., :-1]), -1, -2)
        scores = jnp.take_along_axis(probability, columns[..., None], -1)[..., 0]
        return take_assigned(keypoints, columns), scores
