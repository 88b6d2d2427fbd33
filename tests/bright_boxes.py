"""A detector that finds a box around the brightest pixel of each third of an image."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from bright_spot import BrightSpots

from jaxpose.types import Detections


@dataclasses.dataclass(frozen=True)
class BrightBoxes(BrightSpots):
    """Its boxes are those of `bright_spot.around`, and as likely as the pixel is bright."""

    outputs: ClassVar[tuple[str, ...]] = ("boxes",)

    def predict(self, variables, batch):
        poses = super().predict(variables, batch)
        corner = poses.keypoints[:, :, 0] - jnp.array([12.0, 15.0])
        boxes = jnp.concatenate([corner, jnp.broadcast_to(jnp.array([24.0, 30.0]), corner.shape)], -1)
        return Detections(
            boxes=boxes * variables.get("scale", 1.0),
            scores=poses.person_score,
            labels=jnp.zeros(poses.valid.shape, jnp.int32),
            valid=poses.valid,
        )


@dataclasses.dataclass(frozen=True)
class BoxedSpots(BrightBoxes):
    """Poses with the boxes in which they were found."""

    outputs: ClassVar[tuple[str, ...]] = ("poses", "boxes")

    def predict(self, variables, batch):
        boxes = super().predict(variables, batch)
        return dataclasses.replace(BrightSpots.predict(self, variables, batch), detections=boxes)
