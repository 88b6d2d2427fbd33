"""Every example of a split exactly once -> metrics, on any number of devices and processes."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpose import config as configs
from jaxpose import sharding
from jaxpose.data import build
from jaxpose.data.annotations import Annotations
from jaxpose.data.examples.base import Examples, ImageBackedExamples
from jaxpose.data.examples.clips import Videos
from jaxpose.data.examples.sequences import WholeSequences
from jaxpose.errors import ConfigError
from jaxpose.evaluation import metrics
from jaxpose.evaluation.metrics import POSES, SEQUENCES, TRUE_BOXES, Metric, MetricContext, Numbers
from jaxpose.evaluation.people import rows_of
from jaxpose.evaluation.report import ImageReport, Report, SequenceReport, table
from jaxpose.evaluation.rows import Rows
from jaxpose.evaluation.suppression import Suppression
from jaxpose.files.json_files import write_json
from jaxpose.methods.base import Method
from jaxpose.methods.lifting import SequenceInput
from jaxpose.methods.top_down import CropInput
from jaxpose.runs import run_config
from jaxpose.runs.journal import Journal
from jaxpose.runs.reader import load_for_inference
from jaxpose.types import Variables
from jaxpose.viz import overlay

logger = logging.getLogger(__name__)


def evaluate(
    config: Any,
    workdir: str | pathlib.Path,
    chosen: Collection[str] | None = None,
    weights: str | pathlib.Path = "",
    like: str = "",
) -> Numbers:
    """Evaluates the newest good checkpoint of a run, or a file of weights, on the data of `config`.

    Writes to WORKDIR/evaluation: results.json (for the COCO server), truth.json (the split's labels in COCO format) and
    scores.json. The results of a detector are boxes, which `data.validation.boxes` of a top-down method's config can
    name; a method that finds poses in boxes of its own also writes those, to boxes.json. With parametric suppression
    also raw_poses.json, the poses of all detections with their boxes, which `jaxpose fit-pose-nms` reads with
    truth.json. Of 3D poses, scores.json has errors in millimetres, and poses_3d.npz holds every frame's pose with the
    true one (the columns of `data.examples.sequences.WholeSequences.rows`) instead of the other files. Metrics may
    write files of their own: "posetrack" writes posetrack/VIDEO.json for PoseTrack's server.

    Args:
      config: config, whose `method`, `data` and `evaluate` count. Fields of `method` may differ from those of the run,
        such as test scales; the network may not.
      workdir: folder of the run.
      chosen: fields of the config that are meant to differ from the run's, such as "method.flip_test"; any other
        difference that changes what the network sees is an error then. None to allow all that fit the network.
      weights: file of weights or their name in the zoo, to evaluate in place of what the run in `workdir` learned;
        results go there all the same.
      like: config of released weights; see `jaxpose.load`.

    Raises:
      JaxposeError: config, data or checkpoint cannot be used.

    Examples:
      >>> import tempfile
      >>> from jaxpose import load_config, train
      >>> from jaxpose.methods.heatmap import tiny
      >>> folder = tempfile.mkdtemp()
      >>> config = load_config("heatmap", {"data.dir": folder, "data.marionettes.train": 8, "evaluate.every": 0})
      >>> config.data.marionettes.validation = config.train.batch_size = config.evaluate.batch_size = 8
      >>> config.train.steps = 1
      >>> config.method.update(tiny.FIELDS["heatmap"])
      >>> state = train(config, f"{folder}/run")
      >>> sorted(evaluate(config, f"{folder}/run"))[:2]
      ['PCKh@0.1', 'PCKh@0.5']
    """
    if chosen is not None:
        run_config.check_same_network(workdir, config, chosen)
    fields = {f"method.{name}": value for name, value in config.method.to_dict().items()}
    _, method, variables = load_for_inference(weights or workdir, changes=fields, like=like)
    evaluator = Evaluator(config, method, sharding.make_mesh(config.sharding))
    rows = evaluator.predict(method, variables)
    found = [(metric, metric.compute()) for metric in evaluator.collect(rows)]
    scores, ablations = _merged(found), evaluator.ablations(variables)
    if jax.process_index() == 0:
        folder = pathlib.Path(workdir) / "evaluation"
        folder.mkdir(parents=bool(weights), exist_ok=True)
        evaluator.report.write(rows, folder)
        for metric, _ in found:
            metric.write(folder)
        write_json(folder / "scores.json", scores | ablations)
        logger.info("%s\n%s", folder, table(found, ablations, config.evaluate.best))
    return scores | ablations


class Evaluator:
    """Evaluates variables on the validation split; compiles and reads the annotations once.

    Args:
      config: the whole config.
      method: method whose variables are evaluated.
      mesh: devices.

    Raises:
      ConfigError: an unknown metric or suppression, or a metric that needs what the method does not find or the data do
        not tell.
    """

    def __init__(self, config: Any, method: Method, mesh: Mesh):
        self.config, self.method, self.mesh = config, method, mesh
        self.suppression = Suppression.create(config.evaluate, method.joints.num_joints)
        sharding.check_batch_size(config.evaluate.batch_size, mesh, "evaluate.batch_size")
        self.metrics = {name: metrics.find(name) for name in config.evaluate.metrics}
        for name, kind in self.metrics.items():
            self._check(name, kind)
        self._compiled: dict[Method, Any] = {}

    def open(self) -> None:
        """Opens the validation data with the first example, so that faults are found before training.

        Raises:
          DataError: they cannot be used, or there are none.
        """
        self.examples.load(0, None)

    @functools.cached_property
    def examples(self) -> Examples:
        """Everything that is evaluated."""
        return build.evaluation_examples(self.config, self.method)

    @functools.cached_property
    def context(self) -> MetricContext:
        """Everything that metrics may use; labels are read when a metric asks for them."""
        sizes = tuple(self.config.evaluate.sizes)
        context = MetricContext(
            skeleton=self.method.joints,
            labels=lambda: self.truth,
            suppression=self.suppression,
            sizes=sizes if len(sizes) == 2 else None,
            frames=lambda: self.frames,
            options=self.config.evaluate,
        )
        if not isinstance(self.method, CropInput):
            return context
        *_, height, width, _ = self.method.spec(1)["source"]["image"].shape
        return dataclasses.replace(context, crop_size=(width, height), map_size=self.method.map_size)

    @functools.cached_property
    def truth(self) -> dict:
        """The labels of the validation split as a COCO keypoint dictionary."""
        return self._annotations.to_coco()

    @functools.cached_property
    def frames(self) -> dict[int, tuple[Any, int]]:
        """{image id: (video, number of the frame)} of the validation split.

        Raises:
          DataError: the data set names two images as one frame of a video.
        """
        annotations = self._annotations
        videos = Videos.of(annotations)
        frames = zip(videos.video.tolist(), videos.frame.tolist(), strict=True)
        return dict(zip(annotations.image_id.tolist(), frames, strict=True))

    @property
    def _annotations(self) -> Annotations:
        """The labels of images; sequences carry theirs themselves."""
        assert isinstance(self.examples, ImageBackedExamples)
        return self.examples.source.annotations

    @functools.cached_property
    def report(self) -> Report:
        """Pictures and files for the method's kind of input."""
        if isinstance(self.examples, WholeSequences):
            return SequenceReport(self.method, self.examples)
        return ImageReport(self.method, self.context)

    def __call__(self, variables: Variables, journal: Journal, step: int) -> Numbers:
        """The numbers of all metrics; also puts them and pictures into the journal.

        Raises:
          ConfigError: `config.evaluate.best` is none of the numbers.
        """
        shown: list[np.ndarray] = []
        rows = self.predict(self.method, variables, shown)
        found = [(metric, metric.compute()) for metric in self.collect(rows)]
        scores, best = _merged(found), self.config.evaluate.best
        if best and best not in scores:
            raise ConfigError(f"config.evaluate.best is {best!r}, but config.evaluate.metrics gives {list(scores)}")
        ablations = self.ablations(variables)
        journal.scalars(step, "validation", scores | ablations)
        if journal.active:
            journal.picture(step, "validation", overlay.panel(shown[:8], columns=4))
            logger.info("step %d\n%s", step, table(found, ablations, best))
        return scores | ablations

    def ablations(self, variables: Variables) -> Numbers:
        """Numbers of the method's ablations, as "ABLATION/NUMBER"."""
        scores = {}
        for name, ablation in self.method.ablations().items():
            suppression = dataclasses.replace(self.suppression, kind=ablation.suppression or self.suppression.kind)
            found = self.score(self.predict(ablation.method, variables), suppression)
            scores |= {f"{name}/{number}": value for number, value in found.items()}
        return scores

    def predict(self, method: Method, variables: Variables, shown: list[np.ndarray] | None = None) -> Rows:
        """One entry for everybody who is found in any example; see `jaxpose.evaluation.metrics`.

        Args:
          method: method that reads the variables.
          variables: variables of its network.
          shown: list to which pictures of the first batch are added.
        """
        blocks = []
        for i, local in enumerate(build.evaluation_stream(self.config, self.examples)):
            batch = sharding.put_batch(local, self.mesh)
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                found, index = jax.device_get(self._predict(method)(variables, batch))
            blocks.append(self._rows(found, index))
            if shown is not None and i == 0 and jax.process_index() == 0:
                shown += self.report.pictures(local["source"], found)
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _rows(self, found: Any, index: np.ndarray) -> Rows:
        if isinstance(self.examples, WholeSequences):
            return self.examples.rows(found, index)
        return rows_of(found, self.examples.shown(index))

    def _predict(self, method: Method) -> Any:
        """(variables, batch) -> what is found and the examples' indices, compiled; every process gets all of it."""
        if method not in self._compiled:
            self._compiled[method] = jax.jit(
                lambda variables, batch: (method.predict(variables, batch), batch["source"]["index"]),
                in_shardings=(sharding.replicated(self.mesh), sharding.batch_sharding(self.mesh)),
                out_shardings=sharding.replicated(self.mesh),
            )
        return self._compiled[method]

    def collect(self, rows: Rows, suppression: Suppression | None = None) -> list[Metric]:
        """All metrics in `config.evaluate.metrics`, which have collected some rows.

        Args:
          rows: rows as `predict` gives them.
          suppression: suppression of duplicates; that of the config if None.
        """
        context = dataclasses.replace(self.context, suppression=suppression or self.suppression)
        made = [kind(context) for kind in self.metrics.values()]
        for metric in made:
            metric.update(rows)
        return made

    def score(self, rows: Rows, suppression: Suppression | None = None) -> Numbers:
        """The numbers of all metrics in `config.evaluate.metrics`; arguments as for `collect`.

        Raises:
          DataError: labels that a metric needs are missing.
        """
        return _merged([(metric, metric.compute()) for metric in self.collect(rows, suppression)])

    def _check(self, name: str, kind: type[Metric]) -> None:
        """Raises `ConfigError` unless method and data give what a metric needs."""
        found = self._found()
        if missing := [need for need in kind.needs if need not in found]:
            usable = [each for each in configs.names(metrics.__name__) if set(metrics.find(each).needs) <= set(found)]
            why = self._lack_of_true_boxes() if missing[0] == TRUE_BOXES else self._lack_of(missing[0])
            advice = " or ".join(map(repr, usable))
            raise ConfigError(f"config.evaluate.metrics asks for {name!r}, which {why}. Use {advice}.")
        kind(self.context)

    def _lack_of(self, need: str) -> str:
        found = " and ".join(each for each in self._found() if each != TRUE_BOXES)
        return f"looks at {need}, but {type(self.method).__name__} finds {found}"

    def _lack_of_true_boxes(self) -> str:
        why = f"{type(self.method).__name__} finds people by itself"
        if self.method.takes_boxes:
            boxes = self.config.data.validation.boxes
            why = f'data.validation.boxes is {boxes!r}; "" takes true boxes'
        return f"compares each box's pose with its true joints, but {why}"

    def _found(self) -> list[str]:
        """What metrics can look at."""
        if isinstance(self.method, SequenceInput):
            return [SEQUENCES]
        found = list(self.method.outputs)
        boxes = self.config.data.validation.get("boxes", "")
        if self.method.takes_boxes and POSES in found and boxes in ("", "image"):  # of a whole image, its person's
            found.append(TRUE_BOXES)
        return found


def _merged(found: list[tuple[Metric, Numbers]]) -> Numbers:
    return {name: value for _, numbers in found for name, value in numbers.items()}
