"""Every example of a split exactly once -> metrics, on any number of devices and processes."""

import functools
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpose import sharding
from jaxpose.checkpoint import load_for_inference
from jaxpose.data import streams
from jaxpose.journal import Journal, write_json
from jaxpose.methods.base import Method
from jaxpose.metrics.coco import CocoKeypoints, write_results
from jaxpose.ops import geometry
from jaxpose.types import Poses, Stream, Variables
from jaxpose.viz import overlay

logger = logging.getLogger(__name__)


def evaluate(config: Any, workdir: str | pathlib.Path) -> dict[str, float]:
    """Evaluates the newest good checkpoint of a run on the data of `config`.

    Writes WORKDIR/evaluation/results.json (for the COCO server) and scores.json.

    Args:
      config: of which `data` and `evaluate` count; the network is that of the run.
      workdir: of the run.

    Raises:
      JaxposeError: about config, data or checkpoint.
    """
    _, method, variables = load_for_inference(workdir)
    evaluator = Evaluator(config, method, sharding.make_mesh(config.sharding))
    metric = evaluator.predict(variables)
    scores = evaluator.score(metric)
    if jax.process_index() == 0:
        folder = pathlib.Path(workdir) / "evaluation"
        folder.mkdir(exist_ok=True)
        write_results(metric.results(method.joints), folder / "results.json")
        write_json(folder / "scores.json", scores)
        logger.info("%s\n%s", folder, table(scores))
    return scores


class Evaluator:
    """Evaluates variables on the validation split; compiles and reads the annotations once."""

    def __init__(self, config: Any, method: Method, mesh: Mesh):
        self.config, self.method, self.mesh = config, method, mesh
        sharding.check_batch_size(config.evaluate.batch_size, mesh, "evaluate.batch_size")

    @functools.cached_property
    def examples(self) -> Any:
        return streams.person_examples(self.config, self.method, "validation")

    @functools.cached_property
    def _predict(self) -> Any:
        """(variables, batch) -> poses and the examples' indices, compiled; every process gets all of them."""
        return jax.jit(
            lambda variables, batch: (self.method.predict(variables, batch), batch["source"]["index"]),
            in_shardings=(sharding.replicated(self.mesh), sharding.batch_sharding(self.mesh)),
            out_shardings=sharding.replicated(self.mesh),
        )

    def __call__(self, variables: Variables, journal: Journal, step: int) -> dict[str, float]:
        """Scores in [0, 1]; also puts them and pictures into the journal."""
        shown: list[np.ndarray] = []
        scores = self.score(self.predict(variables, shown))
        journal.scalars(step, "validation", scores)
        if journal.active:
            journal.picture(step, "validation", overlay.panel(shown[:8], columns=4))
            logger.info("step %d: %s", step, "  ".join(f"{k} {v:.3f}" for k, v in scores.items()))
        return scores

    def predict(self, variables: Variables, shown: list[np.ndarray] | None = None) -> CocoKeypoints:
        """A metric that holds the poses of every example; pictures of the first batch are added to `shown`."""
        metric = CocoKeypoints(suppression=self.config.evaluate.suppression, threshold=self.config.evaluate.oks)
        for i, local in enumerate(streams.evaluation_stream(self.config, self.examples)):
            batch = sharding.put_batch(local, self.mesh)
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                poses, index = jax.device_get(self._predict(variables, batch))
            metric.update(self.rows(poses, index))
            if shown is not None and i == 0 and jax.process_index() == 0:
                shown += self.pictures(local["source"], poses)
        return metric

    def rows(self, poses: Poses, index: np.ndarray) -> dict[str, np.ndarray]:
        """What the metric wants to know of the valid poses [B, N] of the examples `index` [B]."""
        example = np.broadcast_to(index[:, None], poses.valid.shape)[poses.valid]
        people, annotations = self.examples.people, self.examples.source.annotations
        return {
            "image_id": annotations.image_id[people.image[example]],
            "index": example,
            "keypoints": poses.keypoints[poses.valid],
            "scores": poses.scores[poses.valid],
            "person_score": poses.person_score[poses.valid],
            "area": self.examples.crop.view(people.box[example]).size.prod(-1),
        }

    def score(self, metric: CocoKeypoints) -> dict[str, float]:
        """COCO AP and AR over all images of the split."""
        return metric.compute(self.examples.source.annotations.to_coco(), self.method.joints)

    def pictures(self, crops: Stream, poses: Poses) -> list[np.ndarray]:
        """Crops with the true pose and, after each, the same with the predicted one."""
        pictures = []
        for i in np.flatnonzero(crops["valid"]):
            found = geometry.apply_affine(geometry.invert_affine(crops["to_image"][i]), poses.keypoints[i])
            draw = functools.partial(overlay.draw_poses, crops["image"][i], skeleton=self.method.joints, threshold=0.0)
            pictures.append(draw(crops["keypoints"][i][None], crops["visible"][i][None]))
            pictures.append(draw(found, poses.scores[i]))
        return pictures


def table(scores: dict[str, float]) -> str:
    """Scores as two aligned lines, in percent; "-" where there was nothing to find."""
    width = max(len(name) for name in scores) + 2
    head = "".join(name.rjust(width) for name in scores)
    return head + "\n" + "".join(("-" if value < 0 else f"{100 * value:.1f}").rjust(width) for value in scores.values())
