"""Methods that lift 2D joints of a video to 3D: what shared code asks of them."""

import abc
import dataclasses
from typing import ClassVar

import jax

from jaxpose.errors import ConfigError
from jaxpose.methods.base import Method
from jaxpose.types import Variables


@dataclasses.dataclass(frozen=True)
class SequenceInput(Method):
    """A method that lifts the 2D joints of one person in a video to 3D; N of its `Poses` is the number of frames.

    Attributes:
      causal: whether the pose of a frame depends on the frames up to it alone.
      rate: frames a second of the videos that it learns from. Joints of other videos are brought to it in time.
    """

    causal: bool = False
    rate: float = 50.0

    input_kind: ClassVar[str] = "sequence of 2D joints"

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
