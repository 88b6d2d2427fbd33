"""The contract of a paper: everything that training, evaluation, prediction and conversion ask of a method.

`Method` holds what every paper offers. What shared code asks besides depends on the kind of input, and is declared by
one class a kind: `CropInput`, `ClipInput`, `ImageInput` (with `CanvasInput` and `DetectionInput`) and `SequenceInput`.
Nothing else is asked of a method anywhere.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpose import skeleton as skeletons
from jaxpose.errors import ConfigError
from jaxpose.methods import checks
from jaxpose.nn.names import OriginalNames
from jaxpose.types import Batch, Detections, LayerViews, Layout, Poses, Spec, Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossAux:
    """Results of a loss besides its value.

    Attributes:
      metrics: {name: scalar} to log.
      batch_stats: batch statistics after this forward pass, or those that went in where none moved.
    """

    metrics: dict[str, jax.Array]
    batch_stats: Any


Loss = Callable[[Variables, Batch, jax.Array, jax.Array], tuple[jax.Array, LossAux]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update of a training step.

    Attributes:
      name: label of the phase, a prefix of its logged metrics where a method has several phases.
      loss: function (variables, batch, step, key) -> (scalar, LossAux), differentiated by variables["params"].
      updates: names of the parameter groups that this phase moves; empty for all of them.
    """

    name: str
    loss: Loss
    updates: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Another reading of a run's variables, evaluated beside the method to show what a part of it gains.

    Attributes:
      method: method that reads the same variables.
      suppression: kind of suppression of duplicates (see `evaluation.suppression`); that of the config if empty.
    """

    method: "Method"
    suppression: str = ""


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A paper: network, targets, losses and decoding as pure functions. Holds hyperparameters, never arrays.

    Attributes:
      skeleton: name of the keypoint set (see `jaxpose.skeleton`).
      dtype: compute precision, "float32" or "bfloat16"; parameters, statistics and losses stay float32.
    """

    skeleton: str = "coco"
    dtype: str = "float32"

    input_kind: ClassVar[str] = ""
    """Kind of input in words, for messages; set by the class of the kind."""
    outputs: ClassVar[tuple[str, ...]] = ("poses",)
    """Results of `predict`: "poses" for `Poses`, "boxes" for `Detections`, both for poses with their `detections`."""

    @property
    def joints(self) -> skeletons.Skeleton:
        """The skeleton called `skeleton`."""
        return skeletons.get(self.skeleton)

    @property
    def takes_boxes(self) -> bool:
        """Whether the method is top-down: it looks at one person at a time, in a box that somebody else gives."""
        return isinstance(self, CropInput)

    @property
    def finds_boxes(self) -> bool:
        """Whether `predict` gives boxes, alone or beside poses."""
        return "boxes" in self.outputs

    @property
    def finds_poses(self) -> bool:
        """Whether `predict` gives poses."""
        return "poses" in self.outputs

    def require(self, condition: bool, field: str, expected: str) -> None:
        """Raises `ConfigError` about a field that does not hold what is expected."""
        if not condition:
            found = getattr(self, field)
            raise ConfigError(f"config.method.{field} is {found!r}, but {type(self).__name__} needs {expected}")

    @abc.abstractmethod
    def module(self) -> nn.Module:
        """The network. Its call returns a dict of named outputs."""

    @abc.abstractmethod
    def spec(self, batch_size: int) -> Spec:
        """Shapes and dtypes of a batch as the host delivers it."""

    @abc.abstractmethod
    def targets(self, batch: Batch, key: jax.Array, train: bool) -> Batch:
        """The batch as the network and losses want it: normalised images, targets. Runs on device under jit."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Variables:
        """Fresh variables: {"params": ...} and, where the network keeps statistics, {"batch_stats": ...}."""

    @abc.abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The updates of one training step, in order."""

    @abc.abstractmethod
    def forward(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Evaluation-mode outputs for a batch that went through `targets`; includes the flip test if configured."""

    @abc.abstractmethod
    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses | Detections:
        """Outputs -> poses in pixels of the original image: a fixed number of people and a validity mask.

        Detectors of boxes alone give `Detections`.
        """

    # --- what a paper may add ---

    def adopt(self, loaded: Variables, fresh: Variables) -> Variables:
        """Variables to start from, out of those that `config.init_from` names; all others stay `fresh`.

        Raises:
          ConfigError: something is missing without which training makes no sense.
        """
        return loaded

    def ablations(self) -> dict[str, Ablation]:
        """{name: ablation} to evaluate besides; none for most papers."""
        return {}

    def original_names(self) -> OriginalNames | None:
        """Names of the entries in checkpoints of the original implementation; None if there are no rules for them."""
        return None

    def layer_views(self, variables: Variables, batch: Batch) -> LayerViews:
        """Views of each decoder layer on the way to the joints, for a batch as the host delivers it.

        Raises:
          ConfigError: the network has no decoder layers that look for joints.
        """
        raise ConfigError(f"{type(self).__name__} has no decoder layers that look for joints; PRTR has, in any form")

    # --- what follows from it ---

    def predict(self, variables: Variables, batch: Batch) -> Poses | Detections:
        """Poses (or boxes, see `outputs`) for a batch as the host delivers it."""
        checks.inference_batch(self, batch)
        batch = self.targets(batch, jax.random.key(0), train=False)
        checks.targets(self, batch)
        outputs = self.forward(variables, batch)
        checks.outputs(self, outputs)
        found = self.decode(outputs, batch)
        checks.poses(self, found)
        return found


# --- kinds of input ---


@dataclasses.dataclass(frozen=True)
class CropInput(Method):
    """A method that looks at the crop of one person; batches have the fields of `person_spec`.

    Attributes:
      input_size: (width, height) of the crop in pixels.
      flip_test: average with what is found in the mirrored crop.
    """

    input_size: tuple[int, int] = (192, 256)
    flip_test: bool = False

    input_kind: ClassVar[str] = "crop of a person"

    @property
    def map_size(self) -> tuple[int, int] | None:
        """(width, height) of the maps that joints are read from; None for methods without maps."""
        return None


@dataclasses.dataclass(frozen=True)
class ClipInput(CropInput):
    """A method that looks at the crops of one person in a frame of a video, the frame before and the frame after it.

    Batches have "image" [B, 3, H, W, 3] (current, previous, next frame) and "margin" [B, 2], the distances of the other
    two frames, besides the fields of `person_spec`.
    """

    input_kind: ClassVar[str] = "clip of a person"


@dataclasses.dataclass(frozen=True)
class ImageInput(Method):
    """A method that looks at a whole image and finds everybody in it.

    Attributes:
      max_people: number of rows N for the people of a training image.
    """

    max_people: int = 30

    input_kind: ClassVar[str] = "whole image"

    @property
    @abc.abstractmethod
    def scales(self) -> tuple[float, ...]:
        """Test scales of the image in inference; 1 is among them."""

    @abc.abstractmethod
    def layout(self, width: int, height: int) -> Layout:
        """Canvases of an image of this size in pixels in inference, one for each of `scales`."""


@dataclasses.dataclass(frozen=True)
class CanvasInput(ImageInput):
    """A method that is trained on square canvases with masks of where the loss counts.

    Attributes:
      input_size: side S of a training canvas in pixels.
      flip_test: average with what is found in the mirrored image.
    """

    input_size: int = 512
    flip_test: bool = False

    mask_strides: ClassVar[tuple[int, ...]] = ()
    """Strides of the maps for which the loss wants a mask "mask_STRIDE" [B, S / stride, S / stride]."""


@dataclasses.dataclass(frozen=True)
class DetectionInput(ImageInput):
    """A method that is trained on images which lie at the top left of a canvas, with the boxes of their people.

    Attributes:
      input_size: (width, height) of a training canvas in pixels.
      short_side: length in pixels of an image's short side in inference, less where the long side would be longer than
        `long_side`.
      long_side: greatest length in pixels of an image's long side in inference.
    """

    input_size: tuple[int, int] = (1344, 1344)
    short_side: int = 800
    long_side: int = 1333


@dataclasses.dataclass(frozen=True)
class SequenceInput(Method):
    """A method that lifts the 2D joints of one person in a video to 3D; N of its `Poses` is the number of frames."""

    input_kind: ClassVar[str] = "sequence of 2D joints"
    causal: bool = False

    @property
    @abc.abstractmethod
    def receptive_field(self) -> int:
        """Number of frames F that the pose of one frame depends on."""

    @property
    def measures_bones(self) -> bool:
        """Whether `measure` tells the lengths of a person's bones."""
        return False

    def measure(self, variables: Variables, window: jax.Array, frames: jax.Array) -> jax.Array:
        """[B, 1 or T, N] lengths in metres of the bones `ops.bones.Tree.bones`.

        Args:
          variables: variables of the network.
          window: [B, T + F - 1, K, 3] (u, v, score) joints of whole sequences with the frames around them.
          frames: [B, T] bool mask of the frames that exist.

        Raises:
          ConfigError: the method does not measure bones.
        """
        raise ConfigError(f"{type(self).__name__} as configured knows no bones, so it cannot measure them")


# --- batches ---


def person_spec(batch_size: int, size: tuple[int, int], num_joints: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a stream of single-person crops, which `data.views.PersonCrop` makes.

    image [B, H, W, 3] uint8 RGB; keypoints [B, K, 2] pixels of the crop; visible [B, K] in {0, 1};
    to_image [B, 2, 3] affine map from crop pixels to pixels of the original image; person_score [B] of the box
    (1 for true boxes); index [B] position in the data set; valid [B] False for padding.

    Args:
      batch_size: number of crops B.
      size: (width, height) of the crop in pixels.
      num_joints: number of joints K.
    """
    width, height = size

    def leaf(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    return {
        "image": leaf(height, width, 3, dtype=jnp.uint8),
        "keypoints": leaf(num_joints, 2),
        "visible": leaf(num_joints),
        "to_image": leaf(2, 3),
        "person_score": leaf(),
        "index": leaf(dtype=jnp.int32),
        "valid": leaf(dtype=jnp.bool_),
    }
