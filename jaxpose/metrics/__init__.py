"""What published tables report, with the conventions of the original evaluations."""

from jaxpose.metrics.boxes import CocoBoxes
from jaxpose.metrics.coco import CocoKeypoints, write_results
from jaxpose.metrics.crowdpose import CrowdPoseKeypoints
from jaxpose.metrics.keypoint_pck import KeypointPck
from jaxpose.metrics.pck import Counts, coordinate_pck, heatmap_pck, mpii_numbers, mpii_pckh, pckh_meters

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
