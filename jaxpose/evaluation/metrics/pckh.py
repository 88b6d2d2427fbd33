"""PCKh of MPII: joints within a fraction of the head's size."""

import dataclasses

from jaxpose.evaluation.keypoint_pck import KeypointPck, Reference


@dataclasses.dataclass
class Pckh(KeypointPck):
    """PCKh@0.5, PCKh@0.1 and the area under the curve up to 0.5."""

    reference: Reference = "head"
    thresholds: tuple[float, ...] = (0.5, 0.1)
