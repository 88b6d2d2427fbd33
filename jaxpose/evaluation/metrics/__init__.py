"""What published tables report, with the conventions of the original evaluations."""

from jaxpose.evaluation.metrics.boxes import CocoBoxes
from jaxpose.evaluation.metrics.coco import CocoKeypoints, write_results
from jaxpose.evaluation.metrics.crowdpose import CrowdPoseKeypoints
from jaxpose.evaluation.metrics.keypoint_pck import KeypointPck
from jaxpose.evaluation.metrics.pck import Counts, coordinate_pck, heatmap_pck, mpii_numbers, mpii_pckh, pckh_meters

__all__ = [
    "CocoBoxes",
    "CocoKeypoints",
    "Counts",
    "CrowdPoseKeypoints",
    "KeypointPck",
    "coordinate_pck",
    "heatmap_pck",
    "mpii_numbers",
    "mpii_pckh",
    "pckh_meters",
    "write_results",
]
