"""PCK by the size of people: joints within a fraction of the box around a person's joints."""

import dataclasses

from jaxpose.evaluation.keypoint_pck import KeypointPck, Reference


@dataclasses.dataclass
class PckBox(KeypointPck):
    """PCKb@0.2."""

    reference: Reference = "box"
    thresholds: tuple[float, ...] = (0.2,)
