"""Every example of a split exactly once -> metrics, on any number of devices and processes."""

import dataclasses
import functools
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpose import sharding
from jaxpose.data import build
from jaxpose.data.examples.base import Examples
from jaxpose.data.examples.clips import Videos
from jaxpose.data.examples.images import move_boxes
from jaxpose.data.examples.sequences import MILLIMETRES
from jaxpose.errors import ConfigError
from jaxpose.evaluation.metrics import keypoint_pck, mpjpe, posetrack
from jaxpose.evaluation.metrics.boxes import CocoBoxes
from jaxpose.evaluation.metrics.coco import CocoKeypoints, write_results
from jaxpose.evaluation.metrics.crowdpose import CrowdPoseKeypoints
from jaxpose.evaluation.metrics.joint_groups import JointGroups
from jaxpose.evaluation.metrics.rows import Rows
from jaxpose.evaluation.suppression import Suppression, suppress
from jaxpose.evaluation.tracking import assign_tracks
from jaxpose.methods.base import Method
from jaxpose.methods.lifting import SequenceInput
from jaxpose.methods.top_down import ClipInput
from jaxpose.ops import cameras, geometry
from jaxpose.runs.checkpoint import load_for_inference
from jaxpose.runs.journal import Journal, write_json
from jaxpose.types import Detections, Poses, Stream, Variables
from jaxpose.viz import overlay, poses_3d

logger = logging.getLogger(__name__)

SHOWN = 0.3
"""Detected boxes that score less are not drawn, and neither are poses that were found in them."""


def evaluate(config: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Evaluates the newest good checkpoint of a run on the data of `config`.

    Writes to WORKDIR/evaluation: results.json (for the COCO server), truth.json (the split's labels in COCO format) and
    scores.json. The results of a detector are boxes, which `data.validation.boxes` of any method that wants to be told
    where people are can name; a method that finds poses in boxes of its own also writes those, to boxes.json. With
    parametric suppression also raw_poses.json, the poses of all detections with their boxes, which
    `jaxpose fit-pose-nms` reads with truth.json. Of 3D poses, scores.json has errors in millimetres, and
    poses_3d.npz holds every frame's pose with the true one (the columns of
    `data.examples.sequences.WholeSequences.rows`) instead of the other files. With the metric "posetrack",
    posetrack/VIDEO.json has the poses and tracks of a video as PoseTrack's server takes them.

    Args:
      config: of which `method`, `data` and `evaluate` count. Fields of `method` may differ from those of the run, such
        as test scales; the network may not.
      workdir: of the run.

    Raises:
      JaxposeError: about config, data or checkpoint.
    """
    fields = {f"method.{name}": value for name, value in config.method.to_dict().items()}
    _, method, variables = load_for_inference(workdir, changes=fields)
    evaluator = Evaluator(config, method, sharding.make_mesh(config.sharding))
    rows = evaluator.predict(method, variables)
    scores = evaluator.score(rows)
    ablations = evaluator.ablations(variables)
    if jax.process_index() == 0:
        folder = pathlib.Path(workdir) / "evaluation"
        folder.mkdir(exist_ok=True)
        evaluator.write(rows, folder)
        write_json(folder / "scores.json", scores | ablations)
        logger.info("%s\n%s", folder, table(scores, ablations, config.evaluate.best))
    return scores | ablations


class Evaluator:
    """Evaluates variables on the validation split; compiles and reads the annotations once.

    Args:
      config: the whole config.
      method: whose variables are evaluated.
      mesh: the devices.

    Raises:
      ConfigError: an unknown metric or suppression, a metric of what the method does not find, or one that compares
        with true joints where boxes are a detector's.
    """

    def __init__(self, config: Any, method: Method, mesh: Mesh):
        self.config, self.method, self.mesh = config, method, mesh
        self.suppression = Suppression.create(config.evaluate, method.joints.num_joints)
        sharding.check_batch_size(config.evaluate.batch_size, mesh, "evaluate.batch_size")
        self._check_metrics()
        self._compiled: dict[Method, Any] = {}

    @functools.cached_property
    def examples(self) -> Examples:
        return build.evaluation_examples(self.config, self.method)

    def __call__(self, variables: Variables, journal: Journal, step: int) -> dict[str, float]:
        """Scores in [0, 1], or errors in millimetres; also puts them and pictures into the journal.

        Raises:
          ConfigError: `config.evaluate.best` is none of the scores.
        """
        shown: list[np.ndarray] = []
        scores = self.score(self.predict(self.method, variables, shown))
        best = self.config.evaluate.best
        if best and best not in scores:
            raise ConfigError(f"config.evaluate.best is {best!r}, but config.evaluate.metrics gives {list(scores)}")
        ablations = self.ablations(variables)
        journal.scalars(step, "validation", scores | ablations)
        if journal.active:
            journal.picture(step, "validation", overlay.panel(shown[:8], columns=4))
            logger.info("step %d\n%s", step, table(scores, ablations, best))
        return scores | ablations

    def ablations(self, variables: Variables) -> dict[str, float]:
        """Scores of the method's ablations, as "name/metric"."""
        scores = {}
        for name, ablation in self.method.ablations().items():
            suppression = dataclasses.replace(self.suppression, kind=ablation.suppression or self.suppression.kind)
            found = self.score(self.predict(ablation.method, variables), suppression)
            scores |= {f"{name}/{metric}": value for metric, value in found.items()}
        return scores

    def predict(self, method: Method, variables: Variables, shown: list[np.ndarray] | None = None) -> Rows:
        """What is found in every example, with the truth; pictures of the first batch are added to `shown`."""
        blocks = []
        for i, local in enumerate(build.evaluation_stream(self.config, self.examples)):
            batch = sharding.put_batch(local, self.mesh)
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                found, index = jax.device_get(self._predict(method)(variables, batch))
            blocks.append(self.examples.rows(found, index))
            if shown is not None and i == 0 and jax.process_index() == 0:
                shown += self.pictures(local["source"], found)
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _predict(self, method: Method) -> Any:
        """(variables, batch) -> what is found and the examples' indices, compiled; every process gets all of it."""
        if method not in self._compiled:
            self._compiled[method] = jax.jit(
                lambda variables, batch: (method.predict(variables, batch), batch["source"]["index"]),
                in_shardings=(sharding.replicated(self.mesh), sharding.batch_sharding(self.mesh)),
                out_shardings=sharding.replicated(self.mesh),
            )
        return self._compiled[method]

    def score(self, rows: Rows, suppression: Suppression | None = None) -> dict[str, float]:
        """The numbers of all metrics in `config.evaluate.metrics`.

        Args:
          rows: from `predict`.
          suppression: of duplicates; that of the config if None.

        Raises:
          DataError: labels that a metric needs are missing.
        """
        scores: dict[str, float] = {}
        sizes = tuple(self.config.evaluate.sizes) or None
        for name in self.config.evaluate.metrics:
            if name == "boxes":
                metric = CocoBoxes(sizes)
                metric.update(rows)
                scores |= metric.compute(self.truth)
            elif name == "mpjpe":
                metric = mpjpe.SequenceErrors()
                metric.update(rows)
                scores |= metric.compute()
            elif name == "posetrack":
                scores |= self.tracked(rows, suppression).compute(self.truth, self.method.joints)
            elif name in ("coco", "crowdpose"):
                kind = CocoKeypoints if name == "coco" else CrowdPoseKeypoints
                metric = kind(suppression or self.suppression, sizes=sizes)
                metric.update(rows)
                scores |= metric.compute(self.truth, self.method.joints)
            else:
                metric = self._single_person_metric(name)
                metric.update(rows)
                scores |= metric.compute()
        return scores

    def _single_person_metric(self, name: str) -> keypoint_pck.KeypointPck | JointGroups:
        """A metric that compares each box's pose with its true joints; raises ConfigError for an unknown name."""
        if name != "groups":
            return keypoint_pck.KeypointPck.create(name, self.method.joints)
        _, height, width, _ = self.method.spec(1)["source"]["image"].shape
        return JointGroups(self.method.joints, (width, height), self.method.map_size)

    def tracked(self, rows: Rows, suppression: Suppression | None = None) -> posetrack.PoseTrackKeypoints:
        """The poses that remain after suppression, and who is who in each video, for PoseTrack's numbers.

        Raises:
          DataError: the data set names two images as one frame of a video.
        """
        annotations, sigmas = self.examples.source.annotations, self.method.joints.sigmas
        order = np.lexsort((rows["index"], rows["image_id"]))
        rows = {name: values[order] for name, values in rows.items()}
        rows = suppress(rows, sigmas, suppression or self.suppression)
        videos = Videos.of(annotations)
        frames = zip(videos.video.tolist(), videos.frame.tolist(), strict=True)
        place = dict(zip(annotations.image_id.tolist(), frames, strict=True))
        metric = posetrack.PoseTrackKeypoints()
        metric.update(rows | {"track_id": assign_tracks(rows, place, sigmas)})
        return metric

    def write(self, rows: Rows, folder: pathlib.Path) -> None:
        """What was found, and the truth, into files of `folder`; see `evaluate`."""
        if isinstance(self.method, SequenceInput):
            np.savez_compressed(folder / "poses_3d.npz", **rows)
            return
        for name, results in self.results(rows).items():
            write_results(results, folder / name)
        (folder / "truth.json").write_text(json.dumps(self.truth) + "\n")
        joints = self.method.joints
        if "posetrack" in self.config.evaluate.metrics and posetrack.is_complete(joints.joints):
            posetrack.write_results(self.tracked(rows).results(self.truth, joints), folder / "posetrack")

    def results(self, rows: Rows) -> dict[str, list[dict]]:
        """{file name: what was found, in the format of the COCO server}; see `evaluate`."""
        files = {}
        if self.method.finds_poses:
            poses = CocoKeypoints(self.suppression)
            poses.update(rows)
            files["results.json"] = poses.results(self.method.joints)
            if self.suppression.kind == "parametric":
                poses.suppression = Suppression("none")
                files["raw_poses.json"] = poses.results(self.method.joints, boxes=True)
        if self.method.finds_boxes:
            boxes = CocoBoxes()
            boxes.update(rows)
            files["boxes.json" if files else "results.json"] = boxes.results()
        return files

    @functools.cached_property
    def truth(self) -> dict:
        """The labels of the validation split as a COCO keypoint dictionary."""
        return self.examples.source.annotations.to_coco()

    def _check_metrics(self) -> None:
        detections = self.config.data.validation.get("boxes", "")
        if detections == "image":
            detections = ""  # true boxes, all of the picture
        finds = self.method.outputs
        for name in self.config.evaluate.metrics:
            wanted = "boxes" if name == "boxes" else "poses"
            if wanted not in finds:
                raise ConfigError(
                    f"config.evaluate.metrics asks for {name!r}, which looks at {wanted}, but "
                    f"{type(self.method).__name__} finds {' and '.join(finds)}. Use "
                    + ('"boxes".' if wanted == "poses" else '"coco".')
                )
            if (name == "mpjpe") != (isinstance(self.method, SequenceInput)):
                raise ConfigError(
                    f"config.evaluate.metrics asks for {name!r}, but {type(self.method).__name__} finds poses in a "
                    f"{self.method.input_kind}: 'mpjpe' is for 3D poses of a sequence, and nothing else is."
                )
            if name in ("boxes", "coco", "crowdpose", "mpjpe", "posetrack"):
                continue
            if not self.method.takes_boxes:
                raise ConfigError(
                    f"config.evaluate.metrics asks for {name!r}, which compares each box's pose with its true joints, "
                    f'but {type(self.method).__name__} finds people by itself. Use "coco".'
                )
            self._single_person_metric(name)
            if detections:
                raise ConfigError(
                    f"config.evaluate.metrics asks for {name!r}, which compares each box's pose with its true joints, "
                    f'but data.validation.boxes is {detections!r}. Use "coco", or set data.validation.boxes to "".'
                )

    def pictures(self, crops: Stream, found: Poses | Detections) -> list[np.ndarray]:
        """Crops with the true poses, or boxes, and, after each, the same with the predicted ones."""
        draw = self._picture_boxes if isinstance(found, Detections) else self._picture_poses
        if isinstance(self.method, SequenceInput):
            draw = self._picture_sequence
        return [picture for i in np.flatnonzero(crops["valid"]) for picture in draw(crops, found, i)]

    def _picture_poses(self, crops: Stream, poses: Poses, i: int) -> list[np.ndarray]:
        joints, shown, boxes = self.method.joints, poses.valid[i], None
        to_crop = geometry.invert_affine(crops["to_image"][i])
        if poses.detections is not None:
            shown = shown & (poses.detections.scores[i] >= SHOWN)
            boxes = move_boxes(to_crop, poses.detections.boxes[i][shown])
        true = crops["keypoints"][i].reshape(-1, joints.num_joints, 2)
        found = geometry.apply_affine(to_crop, poses.keypoints[i][shown])
        image = crops["image"][i] if not isinstance(self.method, ClipInput) else crops["image"][i, 0]
        draw = functools.partial(overlay.draw_poses, image, skeleton=joints, threshold=0.0)
        seen = crops["visible"][i].reshape(-1, joints.num_joints)
        return [draw(true, seen), draw(found, poses.scores[i][shown], boxes=boxes)]

    def _picture_sequence(self, sequences: Stream, poses: Poses, i: int) -> list[np.ndarray]:
        """The 2D joints of the middle frame and, from another side, its 3D pose on the true one."""
        video = self.examples.source[int(sequences["index"][i])]
        frame = int(np.flatnonzero(poses.valid[i])[poses.valid[i].sum() // 2])
        found = poses_3d.levelled(poses.keypoints[i, frame], video.camera.orientation)
        true = poses_3d.levelled(MILLIMETRES * video.joints[frame], video.camera.orientation)
        pixels = cameras.screen_to_pixels(video.keypoints[frame, :, :2], video.camera.size)
        seen = video.keypoints[frame, :, 2], poses_3d.square_around(pixels), self.method.joints
        view = poses_3d.View.around(true, azimuth=60.0)
        return [poses_3d.draw_keypoints(pixels, *seen), poses_3d.draw_pose_3d(found, self.method.joints, view, true)]

    def _picture_boxes(self, crops: Stream, boxes: Detections, i: int) -> list[np.ndarray]:
        image, shown = crops["image"][i], boxes.valid[i] & (boxes.scores[i] >= SHOWN)
        found = move_boxes(geometry.invert_affine(crops["to_image"][i]), boxes.boxes[i][shown])
        true = crops["boxes"][i][crops["people"][i]]
        return [overlay.draw_boxes(image, true), overlay.draw_boxes(image, found, boxes.scores[i][shown])]


def table(scores: dict[str, float], ablations: dict[str, float], best: str) -> str:
    """Scores as two aligned lines, in percent, or errors by action in millimetres; "-" where there was nothing to find.

    Below them, one line a ablation: its score in the metric `best`, and by how much the method's own is above it.
    """
    videos = {name: value for name, value in scores.items() if posetrack.is_number(name)}
    others = {name: value for name, value in scores.items() if name not in videos}
    lines = [posetrack.table(videos)] if videos else []
    if others:
        lines.append((mpjpe if mpjpe.NUMBERS[0] in others else keypoint_pck).table(others))
    unit = 1 if mpjpe.is_error(best) else 100
    for name, value in ablations.items():
        ablation, _, metric = name.partition("/")
        if metric == best:
            lines.append(f"{metric} of {ablation}: {unit * value:.1f}; margin {unit * (scores[best] - value):+.1f}")
    return "\n".join(lines)
