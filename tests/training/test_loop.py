"""The promises of the training loop: exact resumption, verified checkpoints, equal results on any mesh."""

import errno
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from jaxpose import rng, sharding
from jaxpose.convert.files import save_variables
from jaxpose.data import build
from jaxpose.errors import CheckpointError, ConfigError, DataError, NonFiniteError, StorageError
from jaxpose.evaluation.evaluator import Evaluator, evaluate
from jaxpose.rng import Purpose
from jaxpose.runs import digest
from jaxpose.runs.checkpoint import Checkpoints
from jaxpose.runs.reader import load_for_inference
from jaxpose.training.loop import train
from jaxpose.training.train_step import Trainer
from jaxpose.types import synthetic_batch

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tiny.write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory) -> pathlib.Path:
    """A run of 8 steps that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    train(tiny.config(folder), workdir)
    return workdir


ENVIRONMENT = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}


def recorded(workdir: pathlib.Path, step: int) -> dict[str, str]:
    """The digests that a checkpoint was saved with."""
    return json.loads((workdir / "checkpoints" / str(step) / "digests" / "metadata").read_text())


def logged(workdir: pathlib.Path) -> list[dict]:
    """Losses, rates and all else that a run told of its steps, but for its speed."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def command(folder: pathlib.Path, workdir: pathlib.Path, *extra: str, name: str = "prtr") -> list[str]:
    """Runs tiny.config in a process of its own."""
    code = (
        "import sys; sys.path[:0] = ['tests', '.'];"
        "from jaxpose import main; from jaxpose.runs import startup; startup.start(); import tiny;"
        f"c = tiny.config({str(folder)!r}, {name!r}); {';'.join(extra)};"
        f"main.log_to_stderr(); main.run(c, {str(workdir)!r}, 'train')"
    )
    return [sys.executable, "-c", f"if __name__ == '__main__':\n    exec({code!r})"]


def run_until(arguments: list[str], text: str, number: int, log: pathlib.Path) -> int:
    """Starts a process, sends it a signal when its log contains `text`, and returns its exit status."""
    with log.open("w") as sink:
        process = subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, stderr=sink)
    while text not in log.read_text() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=120)


class TestResumption:
    @pytest.mark.parametrize(("kill_at", "workers"), [(2, 0), (5, 1), (6, 2)])
    def test_killed_and_restarted_run_ends_bit_equal(self, folder, finished, tmp_path, kill_at, workers):
        slow = "c.train.log_every = 1"
        changes = (slow, f"c.data.workers = {workers}")
        status = run_until(command(folder, tmp_path, *changes), f"step {kill_at}/8", signal.SIGKILL, tmp_path / "log")
        assert status == -signal.SIGKILL
        subprocess.run(
            command(folder, tmp_path, *changes), cwd=ROOT, env=ENVIRONMENT, check=True, stderr=subprocess.DEVNULL
        )
        assert recorded(tmp_path, 8) == recorded(finished, 8)

    @pytest.mark.parametrize("name", ["anatomy3d", "dekr", "regda"])
    def test_of_other_kinds_of_input_and_several_phases(self, folder, tmp_path, name):
        slow = "c.train.log_every = 1"
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        run = lambda workdir: command(folder, workdir, slow, name=name)
        subprocess.run(run(whole), cwd=ROOT, env=ENVIRONMENT, check=True, stderr=subprocess.DEVNULL)
        assert run_until(run(cut), "step 5/8", signal.SIGKILL, tmp_path / "log") == -signal.SIGKILL
        subprocess.run(run(cut), cwd=ROOT, env=ENVIRONMENT, check=True, stderr=subprocess.DEVNULL)
        assert recorded(cut, 8) == recorded(whole, 8)
        assert logged(cut) == logged(whole)

    def test_sigterm_saves_and_leaves_with_status_0(self, folder, finished, tmp_path):
        many = ("c.train.steps = 10**6", "c.train.checkpoint_every = 10**6", "c.optim.schedule.name = 'constant'")
        assert run_until(command(folder, tmp_path, *many), "step 4/", signal.SIGTERM, tmp_path / "log") == 0
        steps = Checkpoints(tmp_path).steps()
        assert len(steps) == 1
        assert steps[0] >= 4

    def test_metrics_have_every_step_once_after_a_restart(self, folder, tmp_path):
        config = tiny.config(folder)
        config.train.steps = 4
        train(config, tmp_path)
        with (tmp_path / "metrics.jsonl").open("a") as lines:
            lines.write('{"step": 6, "split": "train", "loss": 1.0}\n{"step": 8, "spl')
        config.train.steps = 8
        train(config, tmp_path)
        steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert steps == [2, 4, 6, 8]

    def test_another_config_in_the_same_folder_is_refused(self, folder, finished):
        config = tiny.config(folder)
        config.optim.learning_rate = 0.5
        with pytest.raises(ConfigError, match=r"optim.learning_rate: 0.001 then, 0.5 now"):
            train(config, finished)


class TestCheckpoints:
    def copy(self, finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
        import shutil

        return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))

    def damage(self, workdir: pathlib.Path, step: int, pattern: str = "*") -> None:
        """Flips one bit in the middle of the largest file of a checkpoint that fits `pattern`."""
        files = [f for f in (workdir / "checkpoints" / str(step) / "state").rglob(pattern) if f.is_file()]
        largest = max(files, key=lambda f: f.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)

    def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(self, folder, finished, tmp_path, caplog):
        workdir = self.copy(finished, tmp_path)
        self.damage(workdir, 8)
        with caplog.at_level(logging.ERROR, "jaxpose"):
            train(tiny.config(folder), workdir)
        assert "checkpoint 8 is damaged" in caplog.text
        assert (workdir / "damaged" / "8").is_dir()
        assert recorded(workdir, 8) == recorded(finished, 8)

    @pytest.mark.parametrize("pattern", ["*", "d/*", "_METADATA", "_sharding", "manifest.ocdbt"])
    def test_a_flipped_bit_in_any_file_is_found(self, finished, tmp_path, caplog, pattern):
        workdir = self.copy(finished, tmp_path)
        self.damage(workdir, 8, pattern)
        with caplog.at_level(logging.ERROR, "jaxpose"):
            load_for_inference(workdir)
        assert "checkpoints/8: is damaged: 1 of its files" in caplog.text
        assert Checkpoints(workdir).steps()[-1] == 8  # readers leave it where it is

    def test_a_wrong_digest_names_the_leaf(self, finished, tmp_path, caplog):
        workdir = self.copy(finished, tmp_path)
        (workdir / "seals" / "8.json").unlink()
        path = workdir / "checkpoints" / "8" / "digests" / "metadata"
        parts = json.loads(path.read_text())
        parts["params/queries"] = "0" * 16
        path.write_text(json.dumps(parts))
        with caplog.at_level(logging.ERROR, "jaxpose"):
            load_for_inference(workdir)
        assert "params/queries" in caplog.text

    def test_no_good_checkpoint_is_an_error_not_a_fresh_start(self, folder, finished, tmp_path):
        workdir = self.copy(finished, tmp_path)
        for step in Checkpoints(workdir).steps():
            self.damage(workdir, step)
        with pytest.raises(CheckpointError, match="damaged"):
            train(tiny.config(folder), workdir)

    def test_an_evaluation_that_fails_loses_no_step(self, folder, finished, tmp_path, monkeypatch):
        """The checkpoint comes first, and the same command evaluates it and goes on."""
        config = tiny.config(folder)
        config.evaluate.every = 4

        def fail(*_):
            raise DataError("no labels any more")

        with monkeypatch.context() as patched:
            patched.setattr(Evaluator, "__call__", fail)
            with pytest.raises(DataError, match="no labels any more"):
                train(config, tmp_path)
        assert Checkpoints(tmp_path).steps() == [2, 4]
        train(config, tmp_path)
        assert recorded(tmp_path, 8) == recorded(finished, 8)
        assert [line["step"] for line in logged(tmp_path) if line["split"] == "validation"] == [4, 8]

    def test_validation_data_are_opened_before_the_first_step(self, folder, tmp_path):
        config = tiny.config(folder)
        config.evaluate.every = 8
        config.data.validation.images = "nowhere"
        with pytest.raises(ConfigError, match=r"config.data.validation.images: .*nowhere' does not exist"):
            train(config, tmp_path)
        assert not (tmp_path / "checkpoints").exists()

    @pytest.mark.parametrize("at", ["save", "wait_until_finished"])
    def test_a_full_disk_keeps_the_last_checkpoint(self, folder, finished, tmp_path, monkeypatch, at):
        """One message, and the same command goes on once there is room."""
        manager, saved = ocp.CheckpointManager, []
        original = getattr(manager, at)

        def until_full(self, *arguments, **options):
            saved.append(arguments)
            if len(saved) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(self, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(manager, at, until_full)
            with pytest.raises(StorageError, match="No space left on device"):
                train(tiny.config(folder), tmp_path)
        kept = Checkpoints(tmp_path).steps()
        assert kept
        assert kept[-1] < 8
        train(tiny.config(folder), tmp_path)
        assert recorded(tmp_path, 8) == recorded(finished, 8)

    def test_a_cut_off_seal_is_no_damage(self, folder, finished, tmp_path, caplog):
        workdir = self.copy(finished, tmp_path)
        seal = workdir / "seals" / "8.json"
        whole = seal.read_text()
        seal.write_text(whole[: len(whole) // 2])
        load_for_inference(workdir)
        assert "8.json: is damaged; the digests of the checkpoint's arrays count" in caplog.text
        train(tiny.config(folder), workdir)
        assert seal.read_text() == whole
        assert not (workdir / "damaged").exists()

    def test_checkpoint_of_another_network(self, folder, finished):
        config = tiny.config(folder)
        config.method.hidden_dim = 32
        trainer = Trainer.create(config)
        with pytest.raises(CheckpointError, match=r"another config.method"):
            Checkpoints(finished).restore(trainer.template())

    def test_workdir_that_is_no_run(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no run's --workdir"):
            load_for_inference(tmp_path)

    def test_best_and_latest_are_kept(self, tmp_path):
        state = small_state()
        checkpoints = Checkpoints(tmp_path, keep=1, best="AP")
        for step, score in [(1, 0.1), (2, 0.9), (3, 0.2), (4, 0.3)]:
            checkpoints.save(state.replace(step=np.int32(step)))
            checkpoints.score(step, {"AP": score})
            checkpoints.wait()
        assert checkpoints.steps() == [2, 4]


def small_state():
    from jaxpose.runs.state import TrainState

    return TrainState(jax.numpy.int32(0), {"a": jax.numpy.ones(3)}, {}, {})


class TestDigest:
    def test_every_bit_counts(self):
        x = np.random.default_rng(0).random(7).astype(np.float32)
        seen = {digest.digests({"x": jax.numpy.asarray(x)})["x"]}
        for bit in range(7 * 32):
            y = x.view(np.uint32).copy()
            y[bit // 32] ^= np.uint32(1) << np.uint32(bit % 32)
            seen.add(digest.digests({"x": jax.numpy.asarray(y.view(np.float32))})["x"])
        assert len(seen) == 1 + 7 * 32

    def test_does_not_depend_on_sharding(self):
        from ml_collections import ConfigDict

        x = np.random.default_rng(0).random((16, 8)).astype(np.float32)
        mesh = sharding.make_mesh(ConfigDict({"fsdp": 4}))
        split = sharding.state_shardings({"x": x}, mesh, min_size=1)["x"]
        assert split.spec == jax.sharding.PartitionSpec("fsdp")
        assert digest.digests({"x": jax.device_put(x, split)}) == digest.digests({"x": jax.numpy.asarray(x)})

    def test_order_counts(self):
        assert digest.digests({"x": jax.numpy.arange(4)}) != digest.digests({"x": jax.numpy.arange(4)[::-1]})


def curve(config, devices) -> list[float]:
    """Losses of some steps on synthetic batches."""
    trainer = Trainer.create(config, devices)
    state, losses = trainer.init(), []
    for step in range(4):
        batch = synthetic_batch(trainer.method.spec(config.train.batch_size), seed=step)
        batch["source"]["keypoints"] *= 32
        state, metrics = trainer.step(state, sharding.put_batch(batch, trainer.mesh))
        losses.append(float(metrics["loss"]))
    return losses


class TestMesh:
    @pytest.fixture(scope="class")
    def reference(self, folder) -> list[float]:
        return curve(tiny.config(folder), jax.devices()[:1])

    @pytest.mark.parametrize("fsdp", [1, 4])
    def test_eight_devices_train_like_one(self, folder, reference, fsdp):
        config = tiny.config(folder)
        config.sharding.update({"fsdp": fsdp, "min_size": 256})
        np.testing.assert_allclose(curve(config, jax.devices()), reference, rtol=1e-4)

    def test_accumulation_without_statistics_equals_the_whole_batch(self, folder):
        config = tiny.config(folder)
        config.method.frozen_norm = True
        whole = curve(config, jax.devices()[:1])
        config.train.accumulate = 2
        np.testing.assert_allclose(curve(config, jax.devices()[:1]), whole, rtol=1e-4)

    def test_batch_size_must_fit_the_devices(self, folder):
        config = tiny.config(folder)
        config.train.batch_size = 12
        with pytest.raises(ConfigError, match=r"train.batch_size is 12, not a multiple of the 8 devices"):
            Trainer.create(config)

    def test_the_step_is_compiled_once(self, folder):
        trainer = Trainer.create(tiny.config(folder), jax.devices()[:1])
        state = trainer.init()
        for seed in range(3):
            batch = synthetic_batch(trainer.method.spec(8), seed=seed)
            state, _ = trainer.step(state, sharding.put_batch(batch, trainer.mesh))
        assert trainer.jitted._cache_size() == 1

    def test_assignment_asks_no_other_device(self, folder):
        """A data-dependent loop over a split batch would agree with all devices after every iteration."""
        trainer = Trainer.create(tiny.config(folder))
        batch = trainer.method.spec(8)
        with jax.sharding.use_abstract_mesh(trainer.mesh.abstract_mesh):
            program = trainer.jitted.lower(trainer.template(), batch).compile().as_text()
        assert " all-reduce(" in program
        assert not re.search(r"= pred\[\]\S* all-reduce", program)


class TestPrecisionAndAverage:
    def test_bfloat16_computes_near_float32_with_float32_parameters(self, folder):
        config = tiny.config(folder)
        reference = curve(config, jax.devices()[:1])
        config.dtype = "bfloat16"
        assert config.method.dtype == "bfloat16"
        ours = curve(config, jax.devices()[:1])
        assert ours != reference
        np.testing.assert_allclose(ours, reference, rtol=0.05)
        state = Trainer.create(config, jax.devices()[:1]).init()
        assert {x.dtype.name for x in jax.tree.leaves((state.params, state.batch_stats))} == {"float32"}

    def test_average_follows_the_parameters_and_is_what_predicts(self, folder, tmp_path):
        config = tiny.config(folder)
        config.train.update({"steps": 4, "ema_decay": 0.5})
        state = train(config, tmp_path)
        _, _, variables = load_for_inference(tmp_path)
        jax.tree.map(np.testing.assert_array_equal, variables["params"], state.ema)
        assert digest.digests(state.ema) != digest.digests(state.params)


class TestStart:
    """What `config.init_from` names: a file, or another run."""

    @pytest.fixture(scope="class")
    def pose_run(self, folder, tmp_path_factory) -> pathlib.Path:
        """A run of RMPE's pose network alone."""
        config = tiny.config(folder, "rmpe")
        config.method.update({"sstn": False, "parallel": "none"})
        config.optim.groups = ({"name": "all", "match": ".*"},)
        config.train.steps = 1
        workdir = tmp_path_factory.mktemp("pose")
        train(config, workdir)
        return workdir

    def test_another_run_starts_both_branches(self, folder, pose_run):
        config = tiny.config(folder, "rmpe")
        config.method.parallel = "frozen"
        config.optim.groups = ({"name": "parallel", "match": "^parallel/", "frozen": True}, config.optim.groups[1])
        config.init_from = str(pose_run)
        trainer = Trainer.create(config, jax.devices()[:1])
        state = trainer.init()
        _, _, learned = load_for_inference(pose_run)
        for ours, theirs in ((state.params, learned["params"]), (state.batch_stats, learned["batch_stats"])):
            for branch in ("pose", "parallel"):
                jax.tree.map(np.testing.assert_array_equal, ours[branch], theirs["pose"])
        fresh = trainer.method.init(rng.key(config.seed, 0, Purpose.INIT))["params"]["localization"]
        jax.tree.map(np.testing.assert_array_equal, state.params["localization"], fresh)

    def test_a_file_starts_what_it_holds(self, folder, pose_run, tmp_path):
        _, _, learned = load_for_inference(pose_run)
        backbone = {name: {"pose": {"backbone": tree["pose"]["backbone"]}} for name, tree in learned.items()}
        save_variables(tmp_path / "backbone.npz", backbone)
        config = tiny.config(folder, "rmpe")
        config.init_from = str(tmp_path / "backbone.npz")
        state = Trainer.create(config, jax.devices()[:1]).init()
        for branch in ("pose", "parallel"):
            ours, theirs = state.params[branch], learned["params"]["pose"]
            jax.tree.map(np.testing.assert_array_equal, ours["backbone"], theirs["backbone"])
            assert digest.digests(ours["head"]) != digest.digests(theirs["head"])

    def test_a_frozen_branch_needs_values(self, folder):
        config = tiny.config(folder, "rmpe")
        config.method.parallel = "frozen"
        with pytest.raises(ConfigError, match="gives no values for .* such as batch_stats/parallel/"):
            Trainer.create(config, jax.devices()[:1]).init()

    def test_a_run_of_another_network_is_refused(self, folder, finished):
        config = tiny.config(folder, "rmpe")
        config.init_from = str(finished)
        with pytest.raises(ConfigError, match=r"does not fit config.method: \d+ unknown leaves"):
            Trainer.create(config, jax.devices()[:1]).init()

    @pytest.mark.parametrize("name", ["nothing.npz", "folder"])
    def test_nothing_there(self, folder, tmp_path, name):
        (tmp_path / "folder").mkdir()
        config = tiny.config(folder, "rmpe")
        config.init_from = str(tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            Trainer.create(config, jax.devices()[:1]).init()


class TestPhases:
    def test_their_losses_add_up_in_the_log(self, folder, tmp_path):
        config = tiny.config(folder, "rmpe")
        config.train.update({"steps": 2, "log_every": 1})
        train(config, tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        for line in lines:
            parts = [line["parallel/loss"], line["pose/loss"]]
            assert line["loss"] == pytest.approx(sum(parts), rel=1e-6)
            assert min(parts) > 0
            assert {"parallel/grad_norm", "pose/grad_norm", "pose/parallel_loss", "learning_rate"} <= line.keys()
            assert not any(name.startswith("finite") for name in line)


class TestBadNumbers:
    def test_nonfinite_loss_stops_with_step_phase_and_images(self, folder, tmp_path, monkeypatch):
        config = tiny.config(folder)
        original = build.TrainBatches.__next__

        def poisoned(self):
            batch = original(self)
            self.count = getattr(self, "count", 0) + 1
            if self.count == 5:
                batch["source"]["keypoints"] = np.full_like(batch["source"]["keypoints"], np.nan)
            return batch

        monkeypatch.setattr(build.TrainBatches, "__next__", poisoned)
        with pytest.raises(NonFiniteError, match=r"step 5, phase 'pose'.*\.jpg"):
            train(config, tmp_path)
        assert Checkpoints(tmp_path).steps() == [2, 4]


class TestReports:
    def test_files_of_a_run(self, finished):
        assert json.loads((finished / "config.json").read_text())["method"]["name"] == "prtr"
        assert json.loads((finished / "versions.json").read_text())["jax"] == jax.__version__
        lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2, 4, 6, 8]
        assert {"loss", "grad_norm", "learning_rate", "images_per_second"} <= lines[0].keys()
        assert any(name.startswith("events.") for name in os.listdir(finished / "events"))

    def test_evaluation_while_training_and_after_it_agree(self, folder, tmp_path):
        config = tiny.config(folder)
        config.train.steps = 2
        config.evaluate.every = 2
        train(config, tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        scores = evaluate(config, tmp_path)
        during = next(line for line in lines if line["split"] == "validation")
        assert scores == {name: during[name] for name in scores}
        results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
        assert sorted(r["image_id"] for r in results) == list(range(100, 112))
        assert (tmp_path / "pictures" / "validation_0000002.jpg").is_file()

    def test_evaluation_takes_the_method_as_it_is_asked_for_now(self, folder, finished, caplog):
        """What does not change the network may differ from the run's, and the log says so."""
        config, results = tiny.config(folder), finished / "evaluation" / "results.json"
        evaluate(config, finished)
        before = results.read_text()
        config.method.flip_test = not config.method.flip_test
        with caplog.at_level("INFO", "jaxpose"):
            evaluate(config, finished)
        assert results.read_text() != before
        assert "config.method.flip_test is False now; the run was trained with True" in caplog.text
        config.method.decoder_layers += 1
        with pytest.raises(ConfigError, match="another network than the one that was trained"):
            evaluate(config, finished)

    def test_a_run_of_an_earlier_version_lacks_fields(self, finished, tmp_path):
        shutil.copytree(finished, tmp_path / "run")
        content = json.loads((tmp_path / "run" / "config.json").read_text())
        del content["evaluate"]["rescoring"], content["sharding"], content["digest"]
        (tmp_path / "run" / "config.json").write_text(json.dumps(content))
        config, _, _ = load_for_inference(tmp_path / "run")
        assert (config.evaluate.rescoring, config.sharding.fsdp) == ("", 1)

    def test_a_changed_config_is_told(self, finished, tmp_path):
        """Also where the change is of a kind that shows in no shape."""
        shutil.copytree(finished, tmp_path / "run")
        path = tmp_path / "run" / "config.json"
        path.write_text(re.sub(r'"padding": [0-9.]+', '"padding": 1.35', path.read_text()))
        for use in (load_for_inference, lambda run: train(tiny.config(finished), run)):
            with pytest.raises(CheckpointError, match="was changed or damaged since the run wrote it"):
                use(tmp_path / "run")

    def test_an_evaluation_by_another_config_is_refused(self, folder, finished):
        """Unless the user set the field for it; from Python, whatever fits the network."""
        config = tiny.config(folder)
        config.data.padding = 2.0
        with pytest.raises(ConfigError, match=r"trained with another config .data.padding: .* there, 2.0 here"):
            evaluate(config, finished, chosen=())
        assert evaluate(config, finished, chosen=["data.padding"]).keys() == evaluate(config, finished).keys()

    def test_fields_of_a_run_are_changed_by_name(self, finished):
        changed, method, _ = load_for_inference(finished, changes={"method.flip_test": False, "evaluate.oks": 0.5})
        assert (method.flip_test, changed.evaluate.oks) == (False, 0.5)
        for field, value in (("evaluate.okss", 0.5), ("okss", 1), ("evaluate.oks", "much")):
            with pytest.raises(ConfigError, match=field):
                load_for_inference(finished, changes={field: value})
