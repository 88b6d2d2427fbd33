"""What people see of an evaluation: a table, pictures, and files."""

import abc
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxpose.data.examples.images import move_boxes
from jaxpose.data.examples.sequences import MILLIMETRES, WholeSequences
from jaxpose.evaluation.metrics import Metric, MetricContext, Numbers
from jaxpose.evaluation.metrics.boxes import CocoBoxes
from jaxpose.evaluation.metrics.coco import CocoKeypoints, write_results
from jaxpose.evaluation.rows import Rows
from jaxpose.evaluation.suppression import Suppression
from jaxpose.files.whole import whole, write_text
from jaxpose.methods.base import Method
from jaxpose.methods.top_down import ClipInput
from jaxpose.ops import cameras, geometry
from jaxpose.types import Detections, Poses, Stream
from jaxpose.viz import overlay, poses_3d

SHOWN = 0.3
"""Detected boxes that score less are not drawn, and neither are poses that were found in them."""


def table(found: Iterable[tuple[Metric, Numbers]], ablations: Mapping[str, float], best: str) -> str:
    """The numbers of metrics as aligned lines, then one line an ablation.

    An ablation's line has its score in the number `best`, and by how much the method's own is above it.

    Args:
      found: metrics with their numbers.
      ablations: {"ABLATION/NUMBER": value}.
      best: name of the number that matters most.
    """
    lines, own, unit = [], 0.0, 100.0
    for metric, numbers in found:
        lines.append(metric.table(numbers))
        if best in numbers:
            own, unit = numbers[best], metric.unit
    for name, value in ablations.items():
        ablation, _, number = name.partition("/")
        if number == best:
            lines.append(f"{number} of {ablation}: {unit * value:.1f}; margin {unit * (own - value):+.1f}")
    return "\n".join(lines)


class Report(abc.ABC):
    """Pictures and files of an evaluation, for a kind of input."""

    @abc.abstractmethod
    def picture(self, stream: Stream, found: Poses | Detections, i: int) -> list[np.ndarray]:
        """Pictures [H, W, 3] uint8 of example i of a batch: what is true, and what was found."""

    @abc.abstractmethod
    def write(self, rows: Rows, folder: pathlib.Path) -> None:
        """Writes what was found in all examples, and what is true, into files of `folder`."""

    def pictures(self, stream: Stream, found: Poses | Detections) -> list[np.ndarray]:
        """Pictures of all examples of a batch."""
        return [picture for i in np.flatnonzero(stream["valid"]) for picture in self.picture(stream, found, int(i))]


@dataclasses.dataclass(frozen=True)
class ImageReport(Report):
    """Reports of people in images.

    Attributes:
      method: method that found them.
      context: labels and suppression.
    """

    method: Method
    context: MetricContext

    def write(self, rows: Rows, folder: pathlib.Path) -> None:
        """Writes results.json, boxes.json, raw_poses.json and truth.json; see `evaluator.evaluate`."""
        for name, results in self.results(rows).items():
            write_results(results, folder / name)
        write_text(folder / "truth.json", json.dumps(self.context.truth) + "\n")

    def results(self, rows: Rows) -> dict[str, list[dict]]:
        """{file name: poses or boxes in the format of the COCO server}."""
        files: dict[str, list[dict]] = {}
        if self.method.finds_poses:
            poses = CocoKeypoints(self.context)
            poses.update(rows)
            files["results.json"] = poses.results()
            if self.context.suppression.suppressor.is_fitted:
                files["raw_poses.json"] = poses.results(boxes=True, suppression=Suppression("none"))
        if self.method.finds_boxes:
            boxes = CocoBoxes(self.context)
            boxes.update(rows)
            files["boxes.json" if files else "results.json"] = boxes.results()
        return files

    def picture(self, stream: Stream, found: Poses | Detections, i: int) -> list[np.ndarray]:
        """The image with the true poses, or boxes, and the same image with those that were found."""
        return self._boxes(stream, found, i) if isinstance(found, Detections) else self._poses(stream, found, i)

    def _poses(self, stream: Stream, poses: Poses, i: int) -> list[np.ndarray]:
        joints, shown, boxes = self.method.joints, np.asarray(poses.valid[i]), None
        to_crop = geometry.invert_affine(stream["to_image"][i])
        if poses.detections is not None:
            shown = shown & (np.asarray(poses.detections.scores[i]) >= SHOWN)
            boxes = move_boxes(to_crop, np.asarray(poses.detections.boxes[i])[shown])
        true = stream["keypoints"][i].reshape(-1, joints.num_joints, 2)
        found = geometry.apply_affine(to_crop, np.asarray(poses.keypoints[i])[shown])
        image = stream["image"][i] if not isinstance(self.method, ClipInput) else stream["image"][i, 0]
        draw = functools.partial(overlay.draw_poses, image, skeleton=joints, threshold=0.0)
        seen = stream["visible"][i].reshape(-1, joints.num_joints)
        return [draw(true, seen), draw(found, np.asarray(poses.scores[i])[shown], boxes=boxes)]

    def _boxes(self, stream: Stream, boxes: Detections, i: int) -> list[np.ndarray]:
        image, scores = stream["image"][i], np.asarray(boxes.scores[i])
        shown = np.asarray(boxes.valid[i]) & (scores >= SHOWN)
        found = move_boxes(geometry.invert_affine(stream["to_image"][i]), np.asarray(boxes.boxes[i])[shown])
        true = stream["boxes"][i][stream["people"][i]]
        return [overlay.draw_boxes(image, true), overlay.draw_boxes(image, found, scores[shown])]


@dataclasses.dataclass(frozen=True)
class SequenceReport(Report):
    """Reports of 3D poses of people in videos.

    Attributes:
      method: method that found them.
      examples: videos.
    """

    method: Method
    examples: WholeSequences

    def write(self, rows: Rows, folder: pathlib.Path) -> None:
        """Writes poses_3d.npz: every frame's pose with the true one, the columns of `WholeSequences.rows`."""
        columns: dict[str, Any] = dict(rows)
        with whole(folder / "poses_3d.npz") as unfinished:
            np.savez_compressed(unfinished, **columns)

    def picture(self, stream: Stream, found: Poses | Detections, i: int) -> list[np.ndarray]:
        """The 2D joints of the middle frame and, from another side, its 3D pose on the true one."""
        assert isinstance(found, Poses)
        video = self.examples.source[int(stream["index"][i])]
        valid, keypoints = np.asarray(found.valid[i]), np.asarray(found.keypoints[i])
        frame = int(np.flatnonzero(valid)[valid.sum() // 2])
        pose = poses_3d.levelled(keypoints[frame], video.camera.orientation)
        true = poses_3d.levelled(MILLIMETRES * video.joints[frame], video.camera.orientation)
        pixels = np.asarray(cameras.screen_to_pixels(video.keypoints[frame, :, :2], video.camera.size))
        seen = video.keypoints[frame, :, 2], poses_3d.square_around(pixels), self.method.joints
        view = poses_3d.Viewpoint.around(true, azimuth=60.0)
        return [poses_3d.draw_keypoints(pixels, *seen), poses_3d.draw_pose_3d(pose, self.method.joints, view, true)]
