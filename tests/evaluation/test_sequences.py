"""Evaluation of 3D poses: every frame once, errors in millimetres, what is written, the lowest error is best."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxpose import sharding, skeleton
from jaxpose.errors import ConfigError
from jaxpose.evaluation import evaluator
from jaxpose.evaluation.metrics import MetricContext, is_lower_better, mpjpe
from jaxpose.methods.base import Method
from jaxpose.methods.lifting import SequenceInput
from jaxpose.methods.top_down import CropInput
from jaxpose.runs.checkpoint import Checkpoints
from jaxpose.runs.journal import Journal
from jaxpose.runs.state import TrainState
from jaxpose.training.loop import train
from jaxpose.types import Poses


@dataclasses.dataclass(frozen=True)
class Still(SequenceInput):
    """Says that all joints are so many millimetres to the right of the root."""

    skeleton: str = "h36m"
    offset: float = 0.0

    receptive_field = 3

    def predict(self, variables, batch):
        frames = batch["source"]["frames"] & batch["source"]["valid"][:, None]
        keypoints = jnp.zeros((*frames.shape, 17, 3)).at[..., 0].set(self.offset)
        ones = jnp.ones((*frames.shape, 17))
        return Poses(keypoints=keypoints, scores=ones, person_score=ones[..., 0], valid=frames)

    spec = module = targets = init = phases = forward = decode = None


@dataclasses.dataclass(frozen=True)
class StillPerson(CropInput):
    """The same of a person in a picture."""

    skeleton: str = "h36m"
    predict = Still.predict
    spec = module = targets = init = phases = forward = decode = None


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.config(tmp_path_factory.mktemp("sequences"), "anatomy3d")


def make_evaluator(config, method: Method) -> evaluator.Evaluator:
    return evaluator.Evaluator(config, method, sharding.make_mesh(config.sharding))


def by_hand(evaluator, offset: float) -> float:
    """Mean over actions of the mean distance of all true joints from where `Still` says they are."""
    actions: dict[str, list[np.ndarray]] = {}
    for video in evaluator.examples.source.videos:
        away = np.linalg.norm(1000.0 * video.joints - [offset, 0, 0], axis=-1)
        actions.setdefault(video.action, []).append(away)
    return float(np.mean([np.concatenate(parts).mean() for parts in actions.values()]))


class TestErrors:
    @pytest.mark.parametrize("offset", [0.0, 250.0])
    def test_every_frame_counts_in_millimetres(self, config, offset):
        evaluator = make_evaluator(config, Still(offset=offset))
        rows = evaluator.predict(evaluator.method, {})
        assert rows["index"].tolist() == [0] * 12 + [1] * 12
        assert rows["frame"].tolist() == 2 * list(range(12))
        scores = evaluator.score(rows)
        assert scores["MPJPE"] == pytest.approx(by_hand(evaluator, offset), rel=1e-5)
        assert {name.partition("/")[0] for name in scores} == set(mpjpe.NUMBERS)

    def test_files_and_table(self, config, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(evaluator, "load_for_inference", lambda workdir, changes, like: (config, Still(), {}))
        with caplog.at_level("INFO", "jaxpose"):
            scores = evaluator.evaluate(config, tmp_path)
        assert f"{scores['MPJPE']:.1f}" in caplog.text
        folder = tmp_path / "evaluation"
        assert sorted(path.name for path in folder.iterdir()) == ["poses_3d.npz", "scores.json"]
        assert json.loads((folder / "scores.json").read_text()) == scores
        with np.load(folder / "poses_3d.npz") as columns:
            again = mpjpe.SequenceErrors(MetricContext(skeleton.H36M))
            again.update(columns)
            assert again.compute() == scores

    def test_pictures(self, config, tmp_path):
        journal = Journal(tmp_path, config, step=0, total=4)
        evaluator = make_evaluator(config, Still())
        assert evaluator({}, journal, 2)["MPJPE"] > 100
        journal.close()
        assert (tmp_path / "pictures" / "validation_0000002.jpg").is_file()

    @pytest.mark.parametrize(("name", "metric"), [("anatomy3d", "coco"), ("anatomy3d", "pck"), ("heatmap", "mpjpe")])
    def test_metrics_of_something_else(self, config, name, metric):
        other = tiny.config(config.data.dir, name)
        other.evaluate.metrics = (metric,)
        method = Still() if name == "anatomy3d" else StillPerson()
        with pytest.raises(ConfigError, match=f"config.evaluate.metrics asks for '{metric}'"):
            make_evaluator(other, method)


class TestBest:
    def test_the_lowest_error_is_kept(self, tmp_path):
        state = TrainState(jnp.int32(0), {"a": jnp.ones(3)}, {}, {})
        checkpoints = Checkpoints(tmp_path, keep=1, best="MPJPE", lowest=True)
        for step, error in [(1, 90.0), (2, 40.0), (3, 80.0), (4, 70.0)]:
            checkpoints.save(state.replace(step=np.int32(step)))
            checkpoints.score(step, {"MPJPE": error})
            checkpoints.wait()
        assert checkpoints.steps() == [2, 4]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("MPJPE", True), ("P-MPJPE/Walking", True), ("AP", False), ("mAP", False), ("", False), ("PCK@0.2", False)],
    )
    def test_which_numbers_are_errors(self, name, expected):
        assert is_lower_better(["coco", "mpjpe", "posetrack", "pckh"], name) == expected


@pytest.mark.parametrize("changes", [{}, {"causal": True}, {"causal": True, "middle_label": True}, {"direct": True}])
def test_trains_and_evaluates_alike_during_and_after_a_run(config, tmp_path, changes):
    """Videos of 12 frames, of a network that sees 27."""
    config = config.copy_and_resolve_references()
    config.method.widths = (3, 3, 3)
    with config.unlocked():
        config.method.update(changes)
    config.train.steps = config.evaluate.every = 2
    if changes.get("middle_label"):
        config.data.marionettes.frames = 30
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    during = next(line for line in lines if line["split"] == "validation")
    scores = evaluator.evaluate(config, tmp_path)
    assert scores == {name: during[name] for name in scores}
    assert 0 < scores["P-MPJPE"] < scores["MPJPE"]
