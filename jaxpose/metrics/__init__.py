"""What published tables report, with the conventions of the original evaluations."""

from jaxpose.metrics.coco import CocoKeypoints, write_results
from jaxpose.metrics.crowdpose import CrowdPoseKeypoints
from jaxpose.metrics.pck import Counts, coordinate_pck, heatmap_pck, mpii_numbers, mpii_pckh

__all__ = [
    "CocoKeypoints",
    "Counts",
    "CrowdPoseKeypoints",
    "coordinate_pck",
    "heatmap_pck",
    "mpii_numbers",
    "mpii_pckh",
    "write_results",
]
