"""Hard suppression: of poses that resemble one another, the best stays."""

from jaxpose.evaluation.suppression import DeviceSuppressor, Remaining, Suppression
from jaxpose.ops.nms import oks_nms
from jaxpose.types import Array


class Hard(DeviceSuppressor):
    """Drops a pose whose OKS with a better one of its image exceeds a threshold."""

    @staticmethod
    def remaining(poses: dict[str, Array], valid: Array, sigmas: Array, options: Suppression) -> Remaining:
        """The poses that remain; see `ops.nms.oks_nms`."""
        fields = poses["keypoints"], poses["person_score"], poses["area"]
        return Remaining(*oks_nms(*fields, valid, sigmas, options.oks), {})
