"""What the training loop, evaluation and prediction ask of a method."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpose import skeleton as skeletons
from jaxpose.errors import ConfigError
from jaxpose.types import Batch, Poses, Spec, Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossAux:
    """What a loss says besides its value.

    Attributes:
      metrics: {name: scalar} to log.
      batch_stats: the statistics after this forward pass, or what went in where none moved.
    """

    metrics: dict[str, jax.Array]
    batch_stats: Any


Loss = Callable[[Variables, Batch, jax.Array, jax.Array], tuple[jax.Array, LossAux]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update of a training step.

    Attributes:
      name: prefix of its logged metrics where a method has several phases.
      loss: (variables, batch, step, key) -> (scalar, LossAux); differentiated by variables["params"].
      updates: names of the parameter groups that this phase moves; empty for all of them.
    """

    name: str
    loss: Loss
    updates: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Control:
    """Another way to read a run's variables, evaluated beside the method to show what it gains.

    Attributes:
      method: reads them.
      suppression: of duplicates, see `evaluation.suppression`; that of the config if empty.
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

    sees: ClassVar[str] = "person"
    """What an example shows: "person" (a crop), "clip" (one crop of three frames), "image" (everybody in it) or
    "sequence" (2D joints of a video); see `jaxpose.data.build`."""
    finds: ClassVar[tuple[str, ...]] = ("poses",)
    """What `predict` gives: "poses" for `Poses`, "boxes" for `Detections`, and both for poses with `detections`."""

    @property
    def joints(self) -> skeletons.Skeleton:
        return skeletons.get(self.skeleton)

    @property
    def takes_boxes(self) -> bool:
        """Whether it looks at one person at a time, and is told where people are."""
        return self.sees in ("person", "clip")

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
    def decode(self, outputs: dict[str, jax.Array], batch: Batch) -> Poses:
        """Outputs -> poses in pixels of the original image: a fixed number of people and a validity mask."""

    def adopt(self, loaded: Variables, fresh: Variables) -> Variables:
        """Variables to start from, of those that `config.init_from` names; the others stay `fresh`.

        Raises:
          ConfigError: something is missing without which training makes no sense.
        """
        return loaded

    def controls(self) -> dict[str, Control]:
        """{name: control} to evaluate besides; none for most papers."""
        return {}

    def predict(self, variables: Variables, batch: Batch) -> Poses:
        """Poses for a batch as the host delivers it."""
        batch = self.targets(batch, jax.random.key(0), train=False)
        return self.decode(self.forward(variables, batch), batch)


def person_spec(batch_size: int, size: tuple[int, int], num_joints: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a stream of single-person crops (`jaxpose.data.views.PersonCrop` makes them).

    image [B, H, W, 3] uint8 RGB; keypoints [B, K, 2] pixels of the crop; visible [B, K] in {0, 1};
    to_image [B, 2, 3] affine map from crop pixels to pixels of the original image; person_score [B] of the box
    (1 for true boxes); index [B] position in the data set; valid [B] False for padding.

    Args:
      batch_size: B.
      size: (width, height) of the crop.
      num_joints: K.
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
