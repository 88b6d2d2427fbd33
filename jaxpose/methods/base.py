"""The contract of a paper: everything that training, evaluation, prediction and conversion ask of a method.

`Method` holds what every paper offers. What shared code asks besides depends on the kind of input, and is declared by
one class a kind: `CropInput` and `ClipInput` in `top_down`, `ImageInput` with `CanvasInput` and `DetectionInput` in
`bottom_up`, `SequenceInput` in `lifting`. Nothing else is asked of a method anywhere.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxpose import skeleton as skeletons
from jaxpose.errors import ConfigError, did_you_mean
from jaxpose.methods import checks, fields
from jaxpose.nn.names import OriginalNames, PretrainedNames
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.types import Batch, Detections, LayerViews, Poses, Spec, Variables

DTYPES = ("float32", "bfloat16")
"""Compute precisions."""


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

    Examples:
      >>> def loss(variables, batch, step, key):
      ...     return (variables["params"]["w"] ** 2).sum(), LossAux(metrics={}, batch_stats={})
      >>> Phase("fit", loss, updates=("backbone", "head")).updates
      ('backbone', 'head')
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
      dtype: compute precision, "float32" or "bfloat16"; parameters, statistics and losses stay float32. "float64" is
        for comparisons in double precision, where JAX allows it.

    Examples:
      >>> from jaxpose import methods
      >>> method = methods.create({"name": "heatmap", "skeleton": "mpii"})
      >>> method.joints.num_joints, method.takes_boxes, method.outputs
      (16, True, ('poses',))
    """

    skeleton: str = "coco"
    dtype: str = "float32"

    input_kind: ClassVar[str] = ""
    """Kind of input in words, for messages; set by the class of the kind."""
    takes_boxes: ClassVar[bool] = False
    """Whether the method is top-down: it sees one person at a time, in a box that somebody else gives."""
    outputs: ClassVar[tuple[str, ...]] = ("poses",)
    """Results of `predict`: "poses" for `Poses`, "boxes" for `Detections`, both for poses with their `detections`."""

    def __post_init__(self):
        """Checks what holds for every method; subclasses check their own fields after `super().__post_init__()`.

        Raises:
          ConfigError: a value that cannot work.
        """
        for field in dataclasses.fields(self):
            self.require(fields.fits(getattr(self, field.name), field.type), field.name, fields.described(field.type))
        known = skeletons.SKELETONS
        one = f"one of {', '.join(sorted(known))}.{did_you_mean(self.skeleton, known)}".rstrip(".")
        self.require(self.skeleton in known, "skeleton", one)
        self.require(self.dtype in (*DTYPES, "float64"), "dtype", " or ".join(DTYPES))

    @property
    def joints(self) -> skeletons.Skeleton:
        """The skeleton called `skeleton`."""
        return skeletons.get(self.skeleton)

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

    @classmethod
    def recognize(cls, shapes: Shapes) -> Recognized | None:
        """The network that a checkpoint is of, by the names and shapes of its entries; None for any other network."""
        return None

    def pretrained_names(self) -> PretrainedNames | None:
        """Names in files that only the backbone starts from; None if it is a ResNet or HRNet of `nn`, or has none."""
        return None

    def layer_views(self, variables: Variables, batch: Batch) -> LayerViews:
        """Views of each decoder layer on the way to the joints, for a batch as the host delivers it.

        Raises:
          ConfigError: the network has no decoder layers that look for joints.
        """
        raise ConfigError(f"{type(self).__name__} has no decoder layers that look for joints")

    # --- what follows from it ---

    def apply(self, variables: Variables, *inputs: Any, **options: Any) -> Any:
        """Results of the network for `inputs`; options are those of `nn.Module.apply`."""
        return self.module().apply(variables, *inputs, **options)

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
