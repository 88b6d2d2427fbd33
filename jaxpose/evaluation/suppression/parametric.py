"""Parametric pose NMS: poses of one person are grouped and merged (RMPE, section 3.4)."""

from jaxpose.evaluation.suppression import DeviceSuppressor, Remaining, Suppression
from jaxpose.ops.pose_nms import pose_nms
from jaxpose.types import Array


class Parametric(DeviceSuppressor):
    """Groups the poses of an image's detections and merges each group; the order is that of picking."""

    is_fitted = True
    columns = ("keypoints", "scores", "box", "box_score")

    @staticmethod
    def remaining(poses: dict[str, Array], valid: Array, sigmas: Array, options: Suppression) -> Remaining:
        """The merged poses; see `ops.pose_nms.pose_nms`."""
        fields = poses["keypoints"], poses["scores"], poses["box"], poses["box_score"]
        found = pose_nms(*fields, valid, options.rules)
        changed = {"keypoints": found.keypoints, "scores": found.scores, "person_score": found.person_score}
        return Remaining(found.order, found.keep, changed)
