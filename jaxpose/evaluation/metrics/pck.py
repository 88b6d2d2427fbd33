"""PCK of LSP and its kin: joints within a fraction of the torso's size."""

import dataclasses

from jaxpose.evaluation.keypoint_pck import KeypointPck, Reference


@dataclasses.dataclass
class Pck(KeypointPck):
    """PCK@0.2."""

    reference: Reference = "torso"
    thresholds: tuple[float, ...] = (0.2,)
