"""Anatomy3D: 3D human pose from sequences of 2D joints (Chen et al., TCSVT 2021, arXiv 2002.10322).

A pose is bone lengths and bone directions. The lengths don't change in a video, so they are read from many of its
frames, each by itself, and averaged by attention. The directions change, so they are read from the frames around by
convolutions over time: a first sub-network goes up to one feature for the whole window, a second one carries that
feature back over all levels. A small network makes joints of both. Joints that the 2D detector is not sure of count
less from the first layer on.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype

from jaxpose.errors import ConfigError
from jaxpose.methods.anatomy3d import temporal
from jaxpose.methods.anatomy3d.temporal import Contexts, FrameNetwork, GatedTrunk, Propagation, attend, head
from jaxpose.methods.base import LossAux, Phase
from jaxpose.methods.lifting import SequenceInput
from jaxpose.nn import initializers
from jaxpose.nn.names import OriginalNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.ops import bones, cameras
from jaxpose.ops.bones import Tree
from jaxpose.types import Batch, Poses, Spec, Stream, Variables

# --- network ---


class Fusion(nn.Module):
    """Linear maps of directions and of lengths, multiplied, and mapped to points.

    Attributes:
      channels: C.
      points: P, of which each has three coordinates.
    """

    channels: int
    points: int

    @nn.compact
    def __call__(self, directions: jax.Array, lengths: jax.Array) -> jax.Array:
        """Unit vectors [..., N, 3] and lengths [..., N] in metres -> points [..., P, 3]."""
        num_bones = lengths.shape[-1]
        flat = rearrange(directions, "... n c -> ... (n c)")
        hidden = head(self.channels, 3 * num_bones, "direction")(flat)
        hidden = hidden * head(self.channels, num_bones, "length")(lengths)
        return rearrange(head(3 * self.points, self.channels, "out")(hidden), "... (p c) -> ... p c", c=3)


class AnatomyNetwork(nn.Module):
    """The networks of bone lengths, of bone directions, and their fusion.

    The call is the form for training: one window, one pose. `features`, `directions` and `fuse` are the parts for
    whole sequences. Everything that comes out is float32.

    Attributes:
      tree: the bones, of K joints.
      widths: numbers of frames that the convolutions over time see.
      channels: C of all layers.
      dropout: rate after every ReLU.
      causal: whether windows end at their frame.
      temperature: factor of the attention's logits over frames; the higher, the sharper.
      dtype: compute precision of the hidden layers.
    """

    tree: Tree
    widths: Sequence[int]
    channels: int
    dropout: float
    causal: bool
    temperature: float
    dtype: Dtype

    def setup(self):
        joints, num_bones, pairs = self.tree.num_joints, self.tree.num_bones, len(self.tree.shift_pairs)
        every = {"channels": self.channels, "dropout": self.dropout, "dtype": self.dtype}
        self.frame = FrameNetwork(blocks=len(self.widths) - 1, outputs=3 * joints, **every)
        self.attention = head(num_bones, 6 * joints)
        self.trunk = GatedTrunk(widths=self.widths, causal=self.causal, **every)
        self.contexts = Contexts(widths=self.widths, **every)
        self.propagation = Propagation(widths=self.widths, causal=self.causal, **every)
        self.direction1 = head(3 * num_bones, self.channels)
        self.direction2 = head(3 * num_bones, self.channels)
        self.fusion = Fusion(self.channels, joints)
        self.shift1 = Fusion(self.channels, pairs)
        self.shift2 = Fusion(self.channels, pairs)

    def __call__(
        self,
        window: jax.Array,
        drawn: jax.Array,
        augmented: jax.Array,
        train: bool = False,
        decay: jax.Array | float = 0.9,
    ) -> dict[str, jax.Array]:
        """Inputs of the losses. Gradients are stopped between the parts, so that each learns from its own loss.

        Args:
          window: [B, F, K, 3] (u, v, score), as long as the receptive field.
          drawn: [B, R, K, 2] (u, v) of frames drawn from the same video.
          augmented: [B, R, K, 2] those of a person with other bones.
          train: whether dropout and batch statistics are active.
          decay: weight of the old running averages in the trunk.

        Returns:
          "joints" [B, K, 3], "lengths" [B, N] and "drawn" [B, R, K, 3], the same of the augmented frames as
          "augmented_lengths" and "augmented", and of both sub-networks "directions1", "directions2" [B, N, 3] and
          "shifts1", "shifts2" [B, P, 3].
        """
        (drawn, *seen), (augmented, *seen_augmented) = self.inspect(drawn, train), self.inspect(augmented, train)
        lengths = attend(*seen)
        features = self.trunk(window, train, decay=decay)
        first = self.as_directions(self.direction1(features[-1][:, 0].astype(jnp.float32)))
        *lower, top = jax.lax.stop_gradient(features)
        second = self.directions(top[:, 0], self.contexts(lower), train)
        fixed = jax.lax.stop_gradient(lengths)
        return {
            "joints": self.fusion(jax.lax.stop_gradient(second), fixed),
            "lengths": lengths,
            "drawn": drawn,
            "augmented_lengths": attend(*seen_augmented),
            "augmented": augmented,
            "directions1": first,
            "directions2": second,
            "shifts1": self.shift1(first, fixed),
            "shifts2": self.shift2(second, fixed),
        }

    def inspect(self, keypoints: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Bone lengths as single frames tell them.

        Args:
          keypoints: [..., K, 2] (u, v).
          train: whether dropout and batch statistics are active.

        Returns:
          Joints [..., K, 3], and without a gradient to these, the logits of the attention to each frame [..., N] and
          the bone lengths in it [..., N].
        """
        flat = self.frame(rearrange(keypoints, "... k c -> ... (k c)"), train)
        joints = rearrange(flat, "... (k c) -> ... k c", c=3)
        fixed = jax.lax.stop_gradient(flat)
        logits = self.temperature * self.attention(jnp.concatenate([fixed, jnp.abs(fixed)], -1))
        return joints, logits, bones.lengths(self.tree, jax.lax.stop_gradient(joints))

    def features(self, window: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Top features [B, T, C] and contexts [B, T_i, C] of all T windows of a sequence [B, T + F - 1, K, 3]."""
        *lower, top = self.trunk(window, strided=False)
        return top, self.contexts(lower, strided=False)

    def window_features(self, window: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """The same of single windows [B, F, K, 3]: top feature [B, C] and contexts [B, n_i, C]."""
        *lower, top = self.trunk(window)
        return top[:, 0], self.contexts(lower)

    def directions(self, top: jax.Array, contexts: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """The second sub-network: unit vectors [..., N, 3] of windows; see `Propagation`."""
        return self.as_directions(self.direction2(self.propagation(top, contexts, train).astype(jnp.float32)))

    def as_directions(self, flat: jax.Array) -> jax.Array:
        """Unit vectors [..., N, 3] of the numbers [..., 3 N] of a head."""
        return bones.normalize(rearrange(flat, "... (n c) -> ... n c", c=3))

    def fuse(self, directions: jax.Array, lengths: jax.Array) -> jax.Array:
        """Joints [..., K, 3] of bones with these directions [..., N, 3] and lengths [..., N]."""
        return self.fusion(directions, lengths)


class DirectNetwork(nn.Module):
    """The baseline without bones: the first sub-network's trunk and a linear layer.

    Attributes:
      num_joints: K.
      trunk: convolutions over time.
    """

    num_joints: int
    trunk: GatedTrunk

    @nn.compact
    def __call__(
        self, window: jax.Array, train: bool = False, strided: bool = True, decay: jax.Array | float = 0.9
    ) -> jax.Array:
        """Joints [B, T, K, 3] of windows [B, F, K, 3] (strided; T is 1) or sequences [B, T + F - 1, K, 3]."""
        feature = self.trunk(window, train, strided, decay)[-1].astype(jnp.float32)
        flat = head(3 * self.num_joints, self.trunk.channels, "joints")(feature)
        return rearrange(flat, "... (k c) -> ... k c", c=3)


# --- method ---


@dataclasses.dataclass(frozen=True)
class Anatomy3D(SequenceInput):
    """The defaults are those of the Human3.6M model that sees 243 frames.

    A batch of inference holds whole sequences: "window" [B, T + F - 1, K, 3] (u, v, score) in normalised screen
    coordinates, with copies of the first and the last frame around it (see `padding`; F is the receptive field), and
    "frames" [B, T], true where there is a frame; those come first. "valid" [B] is False for rows of padding. "lengths"
    [B, N], if there, are the person's bone lengths in metres, which then are not estimated.

    Attributes:
      parents: parent of each joint, -1 for the root; empty for the tree that is known for the skeleton (see
        `ops.bones.TREES`).
      widths: odd numbers of frames that the convolutions see. The receptive field is their product.
      channels: number of channels of all hidden layers.
      dropout: rate after every ReLU.
      causal: whether a frame's window ends at it instead of being centred on it, and its bone lengths are those of the
        frames up to it.
      middle_label: whether a causal window is labelled with the pose of its middle frame, like in the original code,
        which so looks (F - 1) / 2 frames ahead. The last (F - 1) / 2 frames of a sequence then have no pose.
      num_drawn: R, frames that are drawn from the video in training for the bone lengths.
      length_frames: greatest number of frames, drawn at random, that tell the bone lengths in inference; 0 for all. The
        original code takes 50 where it is causal.
      temperature: factor of the attention's logits over frames.
      augmentation: range of the random change of bone lengths, as a fraction of the mean length over the batch.
      alias_rand_target: whether the drawn frames as they are have the augmented poses for targets, like in the original
        code, whose augmentation overwrites them.
      linear_projection: whether the camera of the augmentation has no distortion.
      trajectory: (x, y, z) in metres at which augmented people stand in the camera's frame.
      trajectory_deviation: standard deviation from there along each axis, in metres.
      length_weight, direction_weight, shift_weight: weights of the losses; those of joints have weight 1.
      first_weight: factor of the weights of directions and shifts of the first sub-network.
      bn_momentum: weight of a batch in the running averages of the first sub-network's trunk; elsewhere it is 0.1.
      bn_momentum_end: least weight of a batch, to which it falls exponentially.
      bn_momentum_steps: number of steps in which it falls; 0 for a constant weight.
      bn_momentum_every: number of steps that share a value, in the original code an epoch.
      direct: whether joints are regressed from the first sub-network's trunk, without bones, to compare with.
      gated: whether the trunk looks at confidences. Direct regression without them is VideoPose3D (Pavllo et al., CVPR
        2019), as mmpose releases it.
      flip_test: whether the pose is averaged with that of the mirrored sequence.
      chunk: frames that the second sub-network works on at a time in inference; bounds its memory.
    """

    skeleton: str = "h36m"
    parents: tuple[int, ...] = ()
    widths: tuple[int, ...] = (3, 3, 3, 3, 3)
    channels: int = 1024
    dropout: float = 0.25
    middle_label: bool = False
    num_drawn: int = 50
    length_frames: int = 0
    temperature: float = 10.0
    augmentation: float = 0.6
    alias_rand_target: bool = False
    linear_projection: bool = False
    trajectory: tuple[float, float, float] = (0.0, -0.3, 5.0)
    trajectory_deviation: float = 0.5
    length_weight: float = 100.0
    direction_weight: float = 0.3
    shift_weight: float = 2.0
    first_weight: float = 0.5
    bn_momentum: float = 0.1
    bn_momentum_end: float = 0.001
    bn_momentum_steps: int = 0
    bn_momentum_every: int = 1
    direct: bool = False
    gated: bool = True
    flip_test: bool = True
    chunk: int = 64

    def __post_init__(self):
        super().__post_init__()
        odd = len(self.widths) > 0 and all(w % 2 == 1 and w > 1 for w in self.widths)
        self.require(odd, "widths", "one or more odd numbers from 3")
        self.require(self.gated or self.direct, "gated", "True unless direct")
        self.require(not self.middle_label or self.causal, "middle_label", "False unless causal")
        self.require(0 <= self.dropout < 1, "dropout", "a rate in [0, 1)")
        for field in ("channels", "num_drawn", "bn_momentum_every", "chunk"):
            self.require(getattr(self, field) > 0, field, "at least 1")
        for field in ("length_frames", "bn_momentum_steps", "augmentation"):
            self.require(getattr(self, field) >= 0, field, "0 or more")
        momenta = 0 < self.bn_momentum_end <= self.bn_momentum <= 1
        self.require(momenta, "bn_momentum", f"a weight from bn_momentum_end ({self.bn_momentum_end}) to 1")
        known = bool(self.parents) or self.skeleton in bones.TREES
        self.require(known, "parents", f"those of skeleton {self.skeleton!r}, of which no tree is known")
        joints = self.joints.num_joints
        self.require(self.tree.num_joints == joints, "parents", f"one for each of the skeleton's {joints} joints")

    @property
    def tree(self) -> Tree:
        """The bones.

        Raises:
          ConfigError: `parents` are no tree.
        """
        try:
            return Tree.from_parents(self.parents) if self.parents else bones.TREES[self.skeleton]
        except ValueError as error:
            raise ConfigError(f"config.method.parents: {error}") from error

    # --- windows ---

    @property
    def receptive_field(self) -> int:
        """F, frames of a window."""
        return temporal.spans(self.widths)[-1]

    @property
    def padding(self) -> tuple[int, int]:
        """Copies of the first and of the last frame that a sequence needs around it."""
        around = self.receptive_field - 1
        return (around, 0) if self.causal else (around // 2, around // 2)

    @property
    def label_frame(self) -> int:
        """Frame of a window whose pose it tells."""
        last = self.receptive_field - 1
        return last if self.causal and not self.middle_label else last // 2

    def pad(self, sequence: jax.Array) -> jax.Array:
        """A sequence [B, T, K, 3] as "window" [B, T + F - 1, K, 3] of a batch of inference."""
        return jnp.pad(sequence, ((0, 0), self.padding, (0, 0), (0, 0)), mode="edge")

    # --- network ---

    def module(self) -> nn.Module:
        fields = {"channels": self.channels, "dropout": self.dropout, "dtype": jnp.dtype(self.dtype)}
        fields |= {"widths": tuple(self.widths), "causal": self.causal}
        if self.direct:
            return DirectNetwork(self.joints.num_joints, GatedTrunk(gated=self.gated, **fields))
        return AnatomyNetwork(tree=self.tree, temperature=self.temperature, **fields)

    def spec(self, batch_size: int) -> Spec:
        """A training batch as the host delivers it.

        window [B, F, K, 3] (u, v, score), u and v in normalised screen coordinates, score in [0, 1]; joints_3d
        [B, F, K, 3] metres along the camera's axes from the root, which is at 0; drawn [B, R, K, 2] (u, v) of frames
        drawn from the same video, and drawn_3d [B, R, K, 3] their joints; camera [B, 9] normalised intrinsics (see
        `ops.cameras`); index [B] position in the data set; valid [B]. Mirrored copies are examples of their own.
        """
        joints, frames, drawn = self.joints.num_joints, self.receptive_field, self.num_drawn

        def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

        return {
            "source": {
                "window": leaf(frames, joints, 3),
                "joints_3d": leaf(frames, joints, 3),
                "drawn": leaf(drawn, joints, 2),
                "drawn_3d": leaf(drawn, joints, 3),
                "camera": leaf(9),
                "index": leaf(dtype=jnp.int32),
                "valid": leaf(dtype=jnp.bool_),
            }
        }

    def init(self, key: jax.Array) -> Variables:
        joints = self.joints.num_joints
        window = jax.ShapeDtypeStruct((1, self.receptive_field, joints, 3), jnp.float32)
        frames = jax.ShapeDtypeStruct((1, 1, joints, 2), jnp.float32)
        inputs = (window,) if self.direct else (window, frames, frames)
        return initializers.initialize(self.module(), key, *inputs)

    # --- targets ---

    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """In training adds `labels` and `augment`; inference needs nothing."""
        stream = batch["source"]
        if not train:
            return {"source": stream}
        return {"source": stream | self.labels(stream) | ({} if self.direct else self.augment(stream, key))}

    def labels(self, stream: Stream) -> Stream:
        """ "joints" [B, K, 3], "directions" [B, N, 3] and "shifts" [B, P, 3] of the labelled frame, and "lengths"
        [B, N], the mean over the window.
        """
        joints = stream["joints_3d"][:, self.label_frame]
        return {
            "joints": joints,
            "lengths": bones.lengths(self.tree, stream["joints_3d"]).mean(1),
            "directions": bones.directions(self.tree, joints),
            "shifts": bones.shifts(self.tree, joints),
        }

    def augment(self, stream: Stream, key: jax.Array) -> Stream:
        """The drawn frames of people with other bones, who stand somewhere else in every frame.

        Returns:
          "augmented_3d" [B, R, K, 3], what the camera sees of them "augmented" [B, R, K, 2], "augmented_lengths"
          [B, N], and "drawn_3d".
        """
        size, frames = stream["drawn_3d"].shape[:2]
        change_key, place_key = jax.random.split(key)
        uniform = jax.random.uniform(change_key, (size, self.tree.num_bones))
        joints, lengths = bones.augment_lengths(self.tree, stream["drawn_3d"], uniform, self.augmentation)
        offset = self.trajectory_deviation * jax.random.normal(place_key, (size, frames, 1, 3))
        return {
            "augmented_3d": joints,
            "augmented": self.project(joints + offset + jnp.array(self.trajectory), stream["camera"]),
            "augmented_lengths": lengths,
            "drawn_3d": joints if self.alias_rand_target else stream["drawn_3d"],
        }

    def project(self, joints: jax.Array, camera: jax.Array) -> jax.Array:
        """Normalised screen coordinates [B, R, K, 2] of joints [B, R, K, 3] in the frame of cameras [B, 9]."""
        return cameras.project(joints, camera, distort=not self.linear_projection)

    # --- losses ---

    def loss(self, variables: Variables, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[jax.Array, LossAux]:
        """Sum of the `criterion` with one random frame of the drawn ones. Logs each term, and the error in mm."""
        stream = batch["source"]
        dropout_key, frame_key = jax.random.split(key)
        inputs = (stream["window"],) if self.direct else (stream["window"], stream["drawn"], stream["augmented"])
        outputs, mutated = self.apply(
            variables,
            *inputs,
            train=True,
            decay=1 - self.norm_momentum(step),
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        if self.direct:
            losses = {"joints": mpjpe(outputs[:, 0], stream["joints"])}
        else:
            frame = jax.random.randint(frame_key, (), 0, stream["drawn"].shape[1])
            losses = self.criterion(outputs, stream, frame)
        metrics = {f"loss_{name}": value for name, value in losses.items()}
        metrics["mpjpe_mm"] = 1000 * losses["joints"]
        return sum(losses.values(), jnp.zeros(())), LossAux(metrics=metrics, batch_stats=mutated.get("batch_stats", {}))

    def norm_momentum(self, step: jax.Array) -> jax.Array:
        """Weight of a batch in the running averages of the first sub-network's trunk, after `step` steps."""
        if not self.bn_momentum_steps:
            return jnp.asarray(self.bn_momentum)
        progress = step // self.bn_momentum_every * self.bn_momentum_every / self.bn_momentum_steps
        return self.bn_momentum * (self.bn_momentum_end / self.bn_momentum) ** progress

    def criterion(self, outputs: dict[str, jax.Array], stream: Stream, frame: jax.Array) -> dict[str, jax.Array]:
        """The losses, each times its weight.

        Args:
          outputs: results of the network.
          stream: stream that `targets` gave.
          frame: index among the drawn frames of the one in which joints count.

        Returns:
          Scalars "joints", "drawn", "augmented", "lengths", "augmented_lengths", "directions" and "shifts".
        """
        losses = {"joints": mpjpe(outputs["joints"], stream["joints"])}
        for name in ("drawn", "augmented"):
            losses[name] = mpjpe(outputs[name][:, frame], stream[f"{name}_3d"][:, frame])
        for name in ("lengths", "augmented_lengths"):
            losses[name] = self.length_weight * jnp.square(outputs[name] - stream[name]).mean()
        weights = {"1": self.first_weight, "2": 1.0}
        directions = [
            w * jnp.square(outputs[f"directions{i}"] - stream["directions"]).sum(-1).mean() for i, w in weights.items()
        ]
        shifts = [w * mpjpe(outputs[f"shifts{i}"], stream["shifts"]) for i, w in weights.items()]
        losses["directions"] = self.direction_weight * sum(directions, jnp.zeros(()))
        losses["shifts"] = self.shift_weight * sum(shifts, jnp.zeros(()))
        return losses

    # --- phases ---

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        from jaxpose.methods.anatomy3d import names

        return names.recognize(shapes)

    def original_names(self) -> OriginalNames:
        from jaxpose.methods.anatomy3d import names

        return OriginalNames(names.rules(self))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("pose", self.loss),)

    # --- inference ---

    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """{"joints": [B, T, K, 3] metres from the root}, with a flip test averaged; else also what `lift` tells."""
        stream = batch["source"]
        window, frames, lengths = stream["window"], stream["frames"], stream.get("lengths")
        if not self.flip_test:
            return self.lift(variables, window, frames, lengths)
        pair = "pair b ... -> (b pair) ..."
        if lengths is not None:
            lengths = rearrange([lengths, lengths[:, self.tree.flip(self.joints.flip_index)]], pair)
        window = rearrange([window, self.mirror(window)], pair)
        joints = self.lift(variables, window, rearrange([frames, frames], pair), lengths)["joints"]
        return {"joints": (joints[::2] + self.mirror(joints[1::2])) / 2}

    def mirror(self, points: jax.Array) -> jax.Array:
        """The mirrored person's 2D joints with scores, or 3D joints [..., K, 3]: x negated, left and right swapped."""
        return points[..., self.joints.flip_index, :] * jnp.array([-1.0, 1.0, 1.0])

    def lift(
        self, variables: Variables, window: jax.Array, frames: jax.Array, lengths: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """3D joints of whole sequences.

        Args:
          variables: variables of the network.
          window: [B, T + F - 1, K, 3] (u, v, score).
          frames: [B, T] bool.
          lengths: [B, N] metres, if they are known.

        Returns:
          "joints" [B, T, K, 3] metres, the root not exactly at 0. Unless `direct`, also "lengths" [B, T or 1, N]
          metres and "directions" [B, T, N, 3].

        Raises:
          ValueError: the numbers of frames don't fit.
        """
        if window.shape[1] != frames.shape[1] + self.receptive_field - 1:
            raise ValueError(
                f"window has {window.shape[1]} frames and frames {frames.shape[1]}, but a receptive field of "
                f"{self.receptive_field} needs {self.receptive_field - 1} more in window; see Anatomy3D.pad"
            )
        if self.direct:
            return {"joints": self.apply(variables, window, strided=False)}
        directions = self.directions(variables, window)
        lengths = self.measure(variables, window, frames) if lengths is None else lengths[:, None]
        joints = self.apply(variables, directions, lengths, method="fuse")
        return {"joints": joints, "lengths": lengths, "directions": directions}

    def directions(self, variables: Variables, window: jax.Array) -> jax.Array:
        """Bone directions [B, T, N, 3] of whole sequences [B, T + F - 1, K, 3].

        The second sub-network looks at every frame's window anew, at distances that grow with the level. What its
        convolutions make of the first sub-network's features is the same for all windows, and is made once.
        """
        top, contexts = self.apply(variables, window, method="features")
        field, spans = self.receptive_field, temporal.spans(self.widths)[1:]

        def at(frame: jax.Array) -> jax.Array:
            near = [x[:, frame + jnp.arange(0, field, span)] for x, span in zip(contexts, spans, strict=True)]
            return self.apply(variables, top[:, frame], near, method="directions")

        return jnp.swapaxes(jax.lax.map(at, jnp.arange(top.shape[1]), batch_size=self.chunk), 0, 1)

    @property
    def measures_bones(self) -> bool:
        return not self.direct

    def measure(self, variables: Variables, window: jax.Array, frames: jax.Array) -> jax.Array:
        """Bone lengths of whole sequences, read from their frames without those that were padded.

        Args:
          variables: variables of the network.
          window: [B, T + F - 1, K, 3].
          frames: [B, T].

        Returns:
          [B, 1, N] metres, or if causal [B, T, N].
        """
        start, count = self.padding[0], frames.shape[1]
        keypoints = window[:, start : start + count, :, :2]
        _, logits, lengths = self.apply(variables, keypoints, method="inspect")
        key = jax.random.key(0)
        if not self.causal:
            some = self.length_frames
            mean = (
                temporal.attend_to_some(logits, lengths, frames, some, key) if some else attend(logits, lengths, frames)
            )
            return mean[:, None]
        if not self.length_frames:
            return temporal.attend_so_far(logits, lengths, frames)

        def at(frame: jax.Array) -> jax.Array:
            past = frames & (jnp.arange(count) <= frame)
            return temporal.attend_to_some(logits, lengths, past, self.length_frames, jax.random.fold_in(key, frame))

        return jnp.swapaxes(jax.lax.map(at, jnp.arange(count), batch_size=self.chunk), 0, 1)

    def slide(self, variables: Variables, window: jax.Array, lengths: jax.Array) -> jax.Array:
        """The pose of one frame at a time, for video that is still coming in: that of `lift` with known lengths.

        Args:
          variables: variables of the network.
          window: [B, F, K, 3] (u, v, score) around each frame, or up to it if causal.
          lengths: [B, N] metres, such as `measure` gave for the first hundred frames; without effect if `direct`.

        Returns:
          [B, K, 3] metres.
        """
        if self.direct:
            return self.apply(variables, window)[:, 0]
        top, contexts = self.apply(variables, window, method="window_features")
        directions = self.apply(variables, top, contexts, method="directions")
        return self.apply(variables, directions, lengths, method="fuse")

    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """The sequence's poses, where `Poses` otherwise has the people of an image: N is the number of frames T.

        Keypoints [B, T, K, 3] are in millimetres along the camera's axes, from the root, which is predicted like any
        other joint and so not exactly at 0. Scores [B, T, K] are those of the 2D joints, `person_score` is 1, `valid`
        says which frames there are and have a pose.
        """
        window, frames, rows = (batch["source"][field] for field in ("window", "frames", "valid"))
        count, late = frames.shape[1], self.receptive_field - 1 - self.label_frame if self.causal else 0
        scores = window[:, self.padding[0] : self.padding[0] + count, :, 2]
        joints = jnp.pad(outputs["joints"], ((0, 0), (0, late), (0, 0), (0, 0)))[:, late:]
        valid = rows[:, None] & frames & jnp.pad(frames, ((0, 0), (0, late)))[:, late:]
        return Poses(keypoints=1000 * joints, scores=scores, person_score=jnp.ones(frames.shape), valid=valid)


def mpjpe(joints: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean distance between points [..., K, 3]."""
    return bones.norm(joints - truth).mean()
