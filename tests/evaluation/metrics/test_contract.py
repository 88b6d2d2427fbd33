"""What metrics of the library and of anybody else promise, and how a run uses one that it has never seen."""

import json
import math

import jax
import numpy as np
import pytest
import tiny

from jaxpose import methods, sharding
from jaxpose.config import names
from jaxpose.errors import ConfigError
from jaxpose.evaluation import metrics
from jaxpose.evaluation.evaluator import Evaluator
from jaxpose.evaluation.metrics import BOXES, POSES, SEQUENCES, TRUE_BOXES, Metric, MetricContext
from jaxpose.runs.checkpoint_reader import CheckpointReader
from jaxpose.skeleton import MPII
from jaxpose.training.loop import train

DISTANCE = '''
import math

import numpy as np

from jaxpose.evaluation.metrics import TRUE_BOXES, Metric


class Distance(Metric):
    """Mean distance to the true joints in pixels."""

    needs = (TRUE_BOXES,)
    lower_is_better = ("distance",)
    unit = 1.0

    def __post_init__(self):
        self.distances = []

    def update(self, rows):
        away = np.linalg.norm(rows["keypoints"] - rows["truth"], axis=-1)
        self.distances += away[rows["visibility"] > 0].tolist()

    def merge(self, other):
        self.distances += other.distances

    def compute(self):
        return {"distance": math.fsum(self.distances) / len(self.distances)}

    def table(self, numbers):
        return f"off by {numbers['distance']:.2f} pixels"

    def write(self, folder):
        (folder / "distances.txt").write_text(str(len(self.distances)))
        return [folder / "distances.txt"]


class Half(Metric):
    def update(self, rows):
        pass


def no_class(context):
    pass
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A module of metrics outside the library."""
    (tmp_path / "mylab_metrics.py").write_text(DISTANCE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", names(metrics.__name__))
def test_metrics_of_the_library(name):
    """Each module is a metric, and says what it needs; numbers are errors of one metric or of none."""
    kind = metrics.find(name)
    assert issubclass(kind, Metric)
    assert kind.needs
    assert set(kind.needs) <= {POSES, BOXES, SEQUENCES, TRUE_BOXES}
    assert (kind.unit == 1) == bool(kind.lower_is_better)
    assert kind.__doc__
    made = kind(MetricContext(MPII, crop_size=(64, 64)))
    assert isinstance(made.table({"AP": 0.5}), str)


def test_a_run_with_a_metric_from_outside(lab, tmp_path, caplog):
    """It is evaluated while training, decides which checkpoint is best, and writes its own file."""
    config = tiny.config(tiny.write_coco(tmp_path, images=4), "heatmap")
    config.evaluate.update({"metrics": ("coco", "mylab_metrics.Distance"), "best": "distance", "every": 1})
    config.train.steps = 3
    config.train.keep = 1
    run = tmp_path / "run"
    with caplog.at_level("INFO", "jaxpose"):
        train(config, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["distance"] for line in lines if line["split"] == "validation"}
    assert len(found) == 3
    assert all(f"off by {distance:.2f} pixels" in caplog.text for distance in found.values())
    best = min(found, key=found.__getitem__)
    steps = CheckpointReader(run).steps()
    assert {best, 3} <= set(steps)
    assert len(steps) == 2  # the best before the last, too: it goes with the next checkpoint
    from jaxpose.evaluation.evaluator import evaluate

    scores = evaluate(config, run)
    assert scores["distance"] == pytest.approx(found[3])
    assert int((run / "evaluation" / "distances.txt").read_text()) > 0


def test_needs_are_checked_before_anything_runs(lab, tmp_path):
    config = tiny.config(tiny.write_coco(tmp_path, images=2), "heatmap")
    method = methods.create(config.method)
    config.evaluate.update({"metrics": ("mylab_metrics.Distance",)})
    config.data.validation.boxes = "simulated"
    with pytest.raises(
        ConfigError, match=r"'mylab_metrics.Distance', which compares .*boxes is 'simulated'; .* Use 'coco'"
    ):
        Evaluator(config, method, sharding.make_mesh(config.sharding))
    config.data.validation.boxes = ""
    evaluator = Evaluator(config, method, sharding.make_mesh(config.sharding))
    assert evaluator.score(evaluator.predict(method, method.init(jax.random.key(0))))["distance"] > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mylab_metrics.Half", r"'mylab_metrics.Half', .* lacks its methods compute, merge"),
        ("mylab_metrics.no_class", "expected one class that inherits jaxpose.evaluation.metrics.Metric, found none"),
        ("mylab_metrics", "it can be boxes, coco"),
        ("mylab_metrics.Mine", "'mylab_metrics' has no 'Mine'"),
        ("nobody.Mine", "Python finds no module 'nobody'"),
        ("cocoo", "Did you mean 'coco'"),
    ],
)
def test_names_that_mean_nothing(lab, name, message):
    with pytest.raises(ConfigError, match=f"config.evaluate.metrics .*{message}"):
        metrics.find(name)


def test_which_numbers_are_errors(lab):
    assert metrics.is_lower_better(["coco", "mylab_metrics.Distance"], "distance")
    assert metrics.is_lower_better(["mylab_metrics.Distance"], "distance/left_wrist")
    assert not metrics.is_lower_better(["coco", "mylab_metrics.Distance"], "AP")


def test_numbers_as_text():
    assert metrics.shown(-1, unit=100) == "-"
    assert metrics.shown(-0.25, unit=100) == "-25.0"
    assert metrics.shown(math.nan) == "nan"
    head, values = metrics.two_lines({"AP": "50.0", "a_long_name": "-"}).splitlines()
    assert len(head) == len(values)
    assert (head.split(), values.split()) == (["AP", "a_long_name"], ["50.0", "-"])


def test_merging_is_collecting(lab):
    kind = metrics.find("mylab_metrics.Distance")
    truth = np.zeros((4, 17, 2))
    rows = {"keypoints": truth + [3, 4], "truth": truth, "visibility": np.ones((4, 17))}
    one, other = kind(MetricContext(MPII)), kind(MetricContext(MPII))
    one.update(rows)
    other.merge(one)
    assert other.compute() == {"distance": 5.0}
