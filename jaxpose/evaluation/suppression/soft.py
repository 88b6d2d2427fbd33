"""Soft suppression: poses that resemble a better one lose rank, and the best of each image stay."""

from jaxpose.evaluation.suppression import DeviceSuppressor, Remaining, Suppression
from jaxpose.ops.nms import soft_oks_nms
from jaxpose.types import Array


class Soft(DeviceSuppressor):
    """Ranks an image's poses anew and keeps at most 20."""

    @staticmethod
    def remaining(poses: dict[str, Array], valid: Array, sigmas: Array, options: Suppression) -> Remaining:
        """The poses that remain; see `ops.nms.soft_oks_nms`."""
        fields = poses["keypoints"], poses["person_score"], poses["area"]
        return Remaining(*soft_oks_nms(*fields, valid, sigmas, options.oks), {})
