"""Several runs in a row: configs of the stages, their order, restarts, and the table of what they reached."""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from jaxpose import load_config, main, methods
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.evaluation import evaluator
from jaxpose.inference.predictor import load
from jaxpose.runs import digest, run_config
from jaxpose.runs.checkpoint import Checkpoints
from jaxpose.runs.reader import load_for_inference
from jaxpose.training import pretrained, stages, train_step

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tiny.write_coco(tmp_path_factory.mktemp("coco"))


def staged(folder: pathlib.Path) -> ConfigDict:
    """Training on labels of one stream, and adaptation that starts from it."""
    c = tiny.config(folder, "regda")
    c.train.steps, c.evaluate.every = 4, 4
    c.evaluate.update({"metrics": ("groups",), "best": "PCK@0.05", "gap": ("pretrain", "regda")})
    alone = {"method.adaptation": "none", "optim.groups": ({"name": "all", "match": ".*"},), "train.steps": 6}
    c.stages = (
        {"name": "pretrain", "init_from": "", "fields": alone | {"evaluate.every": 6}},
        {"name": "regda", "init_from": "pretrain", "fields": {}},
    )
    return c


def alone(folder: pathlib.Path, **fields) -> ConfigDict:
    """A single stage "a" with these fields."""
    c = staged(folder)
    c.evaluate.gap = ()
    c.stages = ({"name": "a", "fields": {name.replace("__", "."): value for name, value in fields.items()}},)
    return c


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("finished")
    main.run(staged(folder), str(workdir), "train")
    return workdir


def recorded(workdir: pathlib.Path, step: int) -> dict[str, str]:
    return json.loads((workdir / "checkpoints" / str(step) / "digests" / "metadata").read_text())


def lines(workdir: pathlib.Path) -> list[dict]:
    """Everything that a run logged but for its speed."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


class TestConfigs:
    def test_fields_change_their_stage_alone(self, folder):
        config = staged(folder)
        before = config.to_json()
        runs = stages.resolve(config, pathlib.Path("work"))
        assert list(runs) == ["pretrain", "regda"]
        assert [run.train.steps for run in runs.values()] == [6, 4]
        assert [run.method.adaptation for run in runs.values()] == ["none", "regda"]
        assert [run.init_from for run in runs.values()] == ["", "work/pretrain"]
        assert [run.stages for run in runs.values()] == [(), ()]
        assert config.to_json() == before

    def test_a_field_that_holds_fields_is_replaced(self, folder):
        config = alone(folder, data__streams={"source": {"padding": 2.0}})
        config.data.streams = {"target": {"padding": 1.0}}
        assert stages.resolve(config)["a"].data.streams.to_dict() == {"source": {"padding": 2.0}}

    def test_precision_reaches_the_method(self, folder):
        config = alone(folder, dtype="bfloat16")
        assert stages.resolve(config)["a"].method.dtype == "bfloat16"
        assert config.method.dtype == "float32"

    def test_the_first_stage_starts_as_the_config_says(self, folder):
        config = staged(folder)
        config.init_from = "imagenet.npz"
        assert stages.resolve(config, pathlib.Path("w"))["pretrain"].init_from == "imagenet.npz"

    def test_a_field_of_the_method_that_the_config_leaves_out(self, folder):
        assert stages.resolve(alone(folder, method__epsilon=0.5))["a"].method.epsilon == 0.5

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"stages": ({"name": "a"}, {"name": "a"})}, "two stages have the name 'a'"),
            ({"stages": ({"name": "a", "init_from": "b"}, {"name": "b"})}, r"'a' starts from 'b'.*\(there is none\)"),
            ({"stages": ({"name": "a"}, {"name": "b", "init_from": "c"})}, r"'b' starts from 'c'.*\(a\)"),
            ({"stages": ({"name": "a", "init_from": "a"},)}, "'a' starts from 'a'"),
            ({"stages": ({"name": "a", "fields": {"train.step": 1}},)}, "'a' changes the field 'train.step'"),
            ({"stages": ({"name": "a", "fields": {"trian.steps": 1}},)}, "'trian.steps', which the config has not"),
            ({"stages": ({"name": "a", "fields": {"train.steps.x": 1}},)}, "'train.steps.x'"),
            ({"stages": ({"name": "a", "fields": {"stages": ()}},)}, "'stages'"),
            ({"stages": ({"name": "a", "fields": {"train.steps": "many"}},)}, "config.train.steps cannot be 'many'"),
            ({"stages": ({"name": "a", "feilds": {}},)}, "a stage has name, init_from, fields"),
            ({"stages": ({"fields": {}},)}, "a stage has name, init_from, fields"),
            ({"stages": ({"name": "a/b"},)}, "'a/b' cannot name a folder"),
            ({"stages": ({"name": "a"},)}, r"config.evaluate.gap names \['pretrain', 'regda'\]"),
            ({"evaluate.gap": ("regda",)}, "expected two stages"),
        ],
    )
    def test_what_cannot_work_is_refused(self, folder, changes, message):
        config = staged(folder)
        if "stages" in changes and "gap" not in message:
            config.evaluate.gap = ()
        config.update_from_flattened_dict(changes)
        with pytest.raises(ConfigError, match=message):
            stages.resolve(config)

    def test_one_stage_is_picked_by_name_the_last_by_default(self, folder):
        config = staged(folder)
        assert stages.pick(config).method.adaptation == "regda"
        assert stages.pick(config, "pretrain").method.adaptation == "none"
        with pytest.raises(ConfigError, match="--stage is 'oracle'; config.stages has pretrain, regda"):
            stages.pick(config, "oracle")
        plain = tiny.config(folder, "regda")
        assert stages.pick(plain) is plain
        with pytest.raises(ConfigError, match="the config has no stages"):
            stages.pick(plain, "regda")

    def test_what_a_stage_builds_on(self, folder):
        config = staged(folder)
        config.stages = (*config.stages, {"name": "other"}, {"name": "third", "init_from": "regda"})
        assert stages.ancestry(config, "third") == ["pretrain", "regda", "third"]
        assert stages.ancestry(config, "other") == ["other"]


class TestRuns:
    def test_each_stage_is_an_ordinary_run(self, folder, finished):
        for name, run in stages.resolve(staged(folder), finished).items():
            assert json.loads(run_config.read(finished / name).to_json()) == json.loads(run.to_json())
            assert Checkpoints(finished / name).steps()[-1] == run.train.steps
        config, method, _ = load_for_inference(finished / "regda")
        assert (config.init_from, method.adapts) == (str(finished / "pretrain"), True)

    def test_a_stage_starts_where_an_earlier_one_ended(self, folder, finished):
        run = stages.resolve(staged(folder), finished)["regda"]
        state = train_step.Trainer.create(run, jax.devices()[:1]).init()
        _, _, learned = load_for_inference(finished / "pretrain")
        for part in ("backbone", "upsampling"):
            jax.tree.map(np.testing.assert_array_equal, state.params[part], learned["params"][part])
        assert digest.digests(state.params["head"]) != digest.digests(learned["params"]["head"])

    def test_finished_stages_stay_as_they_are(self, folder, finished, caplog):
        seals = {path: path.stat().st_mtime_ns for path in finished.rglob("seals/*.json")}
        assert len(seals) == 2 + 2  # the latest two of each
        with caplog.at_level(logging.INFO, "jaxpose"):
            main.run(staged(folder), str(finished), "train")
        assert "stage 2 of 2: regda" in caplog.text
        assert "going on with steps 4 to 4" in caplog.text
        assert {path: path.stat().st_mtime_ns for path in seals} == seals

    @pytest.mark.parametrize(("stage", "step"), [("pretrain", "step 4/6"), ("regda", "step 2/4")])
    def test_killed_and_restarted_stages_end_bit_equal(self, folder, finished, tmp_path, stage, step):
        code = (
            "import sys; sys.path[:0] = ['tests/training', 'tests', '.'];"
            "from jaxpose import main; from jaxpose.runs import startup; startup.start();"
            "import test_stages; main.log_to_stderr();"
            f"main.run(test_stages.staged({str(folder)!r}), {str(tmp_path)!r}, 'train')"
        )
        command, log = [sys.executable, "-c", code], tmp_path / "log"
        with log.open("w") as sink:
            process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=sink)
        while step not in log.read_text() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=120) == -signal.SIGKILL
        assert (tmp_path / "regda").exists() == (stage == "regda")
        again = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, text=True)
        assert ("going on with steps 6 to 6" in again.stderr) == (stage == "regda")
        for name, steps in (("pretrain", 6), ("regda", 4)):
            assert recorded(tmp_path / name, steps) == recorded(finished / name, steps)
            assert lines(tmp_path / name) == lines(finished / name)

    def test_only_one_and_what_it_builds_on(self, folder, tmp_path):
        config = staged(folder)
        config.train.steps, config.evaluate.every = 1, 0
        short = {"train.steps": 1, "evaluate.every": 0}
        first, second = config.stages
        config.stages = (first | {"fields": first["fields"] | short}, {"name": "other", "fields": short}, second)
        main.run(config, str(tmp_path), "train", "regda")
        assert sorted(path.parent.name for path in tmp_path.glob("*/config.json")) == ["pretrain", "regda"]

    def test_a_run_that_was_moved_goes_on(self, folder, finished, tmp_path):
        finished.rename(tmp_path / "moved")
        try:
            main.run(staged(folder), str(tmp_path / "moved"), "train")
        finally:
            (tmp_path / "moved").rename(finished)

    def test_a_folder_of_stages_is_no_run(self, finished):
        expected = rf"Name one of them: {finished}/pretrain, {finished}/regda"
        method = methods.create(load_config("heatmap").method)
        for use in (load, load_for_inference, lambda run: pretrained.load_pretrained(run, method)):
            with pytest.raises(CheckpointError, match=expected):
                use(str(finished))

    def test_a_run_is_no_folder_of_stages(self, folder, finished):
        with pytest.raises(ConfigError, match="holds a run without stages"):
            main.run(staged(folder), str(finished / "pretrain"), "train")


class TestScores:
    def test_of_every_stage_while_training_and_after_it(self, folder, finished, caplog):
        trained = json.loads((finished / "scores.json").read_text())
        with caplog.at_level(logging.INFO, "jaxpose"):
            main.run(staged(folder), str(finished), "evaluate")
        assert "gap closed" in caplog.text
        assert json.loads((finished / "scores.json").read_text()) == trained
        for name in ("pretrain", "regda"):
            own = json.loads((finished / name / "evaluation" / "scores.json").read_text())
            assert own == trained[name]
            assert set(own) >= {"PCK@0.05", "batch_PCK@0.05", "PCK@0.05/knee"}

    def test_one_stage(self, folder, finished, monkeypatch):
        called = []
        monkeypatch.setattr(
            evaluator, "evaluate", lambda config, workdir, chosen: called.append(workdir) or {"PCK@0.05": 1.0}
        )
        before = (finished / "scores.json").read_text()
        main.run(staged(folder), str(finished), "evaluate", "regda")
        found = json.loads((finished / "scores.json").read_text())
        (finished / "scores.json").write_text(before)
        assert called == [finished / "regda"]
        assert found == json.loads(before) | {"regda": {"PCK@0.05": 1.0}}

    def test_stages_that_were_not_begun(self, folder, tmp_path, caplog, monkeypatch):
        with pytest.raises(CheckpointError, match="holds none of the stages pretrain, regda"):
            main.run(staged(folder), str(tmp_path), "evaluate")
        (tmp_path / "pretrain").mkdir()
        (tmp_path / "pretrain" / "config.json").write_text("{}")
        monkeypatch.setattr(evaluator, "evaluate", lambda config, workdir, chosen: {"PCK@0.05": 0.5})
        main.run(staged(folder), str(tmp_path), "evaluate")
        assert "not begun yet: regda" in caplog.text

    def test_table(self):
        scores = {
            "source_only": {"PCK@0.05": 0.4, "PCK@0.05/elbow": 0.3, "batch_PCK@0.05": 0.2},
            "regda": {"PCK@0.05": 0.55, "PCK@0.05/elbow": -1},
            "worse": {"PCK@0.05": 0.35},
            "oracle": {"PCK@0.05": 0.7, "PCK@0.05/elbow": 0.61},
        }
        expected = [
            ["elbow", "PCK@0.05", "gap", "closed"],
            ["source_only", "30.0", "40.0", "0", "%"],
            ["regda", "-", "55.0", "50", "%"],
            ["worse", "-", "35.0", "-17", "%"],
            ["oracle", "61.0", "70.0", "100", "%"],
        ]
        found = stages.table(scores, "PCK@0.05", ("source_only", "oracle")).splitlines()
        assert [line.split() for line in found] == expected
        assert len({len(line) for line in found}) == 1
        assert "gap" not in stages.table(scores, "PCK@0.05")
        assert "gap" not in stages.table({"regda": scores["regda"]}, "PCK@0.05", ("source_only", "oracle"))
        assert "batch_PCK@0.05" in stages.table(scores, "")
