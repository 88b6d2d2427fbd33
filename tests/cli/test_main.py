"""`python -m jaxpose.main`: its flags, and several processes that train as one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "jaxpose.main", "--platform=cpu"]


def run(*flags: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


def flags_of(config) -> list[str]:
    """Command-line flags that turn the laptop config for COCO-format data into `config`."""
    flat = {"data.dir": config.data.dir}
    for split in ("train", "validation"):
        flat |= {f"data.{split}.{k}": config.data[split][k] for k in ("annotations", "images")}
    names = ("input_size", "backbone_width", "backbone_stages", "hidden_dim", "heads", "decoder_layers", "feedforward")
    flat |= {f"method.{n}": config.method[n] for n in names}
    flat |= {f"train.{n}": config.train[n] for n in ("steps", "batch_size", "checkpoint_every", "log_every")}
    flat |= {"evaluate.every": config.evaluate.every, "evaluate.batch_size": config.evaluate.batch_size}
    flat |= {"optim.schedule.warmup": config.optim.schedule.warmup}
    return ["--config=configs/prtr.py:coco_laptop", *(f"--config.{k}={v}" for k, v in flat.items())]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/prtr.py", "train"], "unrecognized arguments: train"),
        (["--config=configs/prtr.py:coco", "--config.data.dir=/nowhere"], "config.data.dir: '/nowhere' does not exist"),
        (["--config=configs/prtr.py", "--mode=evaluate", "--workdir=/nowhere"], "/nowhere: has no config.json"),
    ],
)
def test_wrong_flags_say_what_is_wrong(flags, message):
    result = run(*flags)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("jaxpose: error: ")
    assert message in result.stderr.splitlines()[-1]


def losses(workdir: pathlib.Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines() if "loss" in line]


def scores(workdir: pathlib.Path) -> dict:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in lines if line["split"] == "validation")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    config = tiny.config(tiny.write_coco(tmp_path_factory.mktemp("coco")))
    config.evaluate.every = 8
    return flags_of(config)


def test_two_processes_train_like_one(flags, tmp_path):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    alone = run(*flags, f"--workdir={tmp_path / 'one'}", env=environment)
    assert alone.returncode == 0, alone.stderr
    join = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", f"--workdir={tmp_path / 'two'}"]
    processes = [
        subprocess.Popen(
            [*COMMAND, *flags, *join, f"--process_id={i}"], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for i in range(2)
    ]
    for process in processes:
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log.decode()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    for name, value in scores(tmp_path / "one").items():
        if name not in ("step", "split"):
            assert scores(tmp_path / "two")[name] == pytest.approx(value, abs=1e-3), name
    resumed = run(*flags, f"--workdir={tmp_path / 'two'}", env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on with steps 8 to 8" in resumed.stderr
