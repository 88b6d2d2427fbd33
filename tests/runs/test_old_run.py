"""A run of the code before its modules moved, with two finished steps, is still read, used and gone on with.

`old_run` was written by version 0.1.0 on `tiny.write_coco` with `tiny.config(folder, "heatmap")` and 2 steps; its
pictures and logs for TensorBoard are left out.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tiny

import jaxpose
from jaxpose.data import images
from jaxpose.errors import ConfigError
from jaxpose.runs import digest, run_config
from jaxpose.runs.checkpoint import Checkpoints
from jaxpose.runs.reader import load_for_inference
from jaxpose.training.loop import train

OLD = pathlib.Path(__file__).parent / "old_run"
DIGEST = "88fad8eca3d1761a"
"""Digest of the parameters and statistics, computed when the run was put here."""


@pytest.fixture
def workdir(tmp_path):
    """A copy that may be written to."""
    return pathlib.Path(shutil.copytree(OLD, tmp_path / "run"))


@pytest.fixture
def config(tmp_path):
    """The run's own config on data that are here."""
    config = run_config.read(OLD)
    config.data.dir = str(tiny.write_coco(tmp_path / "data"))
    return config


def test_its_values_are_those_that_were_written():
    config, method, variables = load_for_inference(OLD)
    assert (config.name, type(method).__name__) == ("heatmap", "Heatmap")
    found = digest.digests(variables)
    recorded = json.loads((OLD / "checkpoints/2/digests/metadata").read_text())
    assert found.items() <= recorded.items()
    assert digest.combine(found) == DIGEST


def test_it_predicts(config):
    path = pathlib.Path(config.data.dir) / "images/000.jpg"
    (people,) = jaxpose.load(OLD)([images.decode(images.read(path), path.name)])
    assert people.keypoints.shape == (1, 17, 2)
    assert np.isfinite(people.keypoints).all()


def test_it_goes_on(workdir, config):
    config.train.steps = 4
    run_config.check_same_run(workdir, config)
    state = train(config, workdir)
    assert int(state.step) == 4
    checkpoints = Checkpoints(workdir)
    assert checkpoints.steps() == [2, 4]
    checkpoints.close()
    logged = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert logged == [2, 4]


def test_another_config_is_refused(workdir, config):
    config.optim.learning_rate = 0.5
    with pytest.raises(ConfigError, match="optim.learning_rate: 0.001 then, 0.5 now"):
        run_config.check_same_run(workdir, config)
