"""Faults of a training: kills at any moment, readers beside it, and flipped bits in every file of its folder."""

import collections
import contextlib
import json
import logging
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from jaxpose.errors import JaxposeError
from jaxpose.runs.checkpoint_reader import CheckpointReader
from jaxpose.runs.reader import load_for_inference

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 8
Counts = tuple[int, int, int, int]
"""Flipped bits that were found, that had no effect, that changed a result in silence, and all that were tried."""


def parsers() -> dict:
    """No parsers of files: those of a run are tried by `flips`."""
    return {}


def command(folder: pathlib.Path, workdir: pathlib.Path, steps: int = STEPS, *extra: str) -> list[str]:
    """A training of the smallest heatmap network that saves at every other step, in a process of its own."""
    code = (
        "import sys; sys.path[:0] = ['tests', '.'];"
        "from jaxpose import main; from jaxpose.runs import startup; startup.start(); import tiny;"
        f"c = tiny.config({str(folder)!r}, 'heatmap');"
        f"c.train.update({{'steps': {steps}, 'checkpoint_every': 2, 'log_every': 1, 'keep': 2}});"
        f"{';'.join((*extra, 'main.log_to_stderr()'))};"
        f"main.run(c, {str(workdir)!r}, 'train')"
    )
    return [sys.executable, "-c", f"if __name__ == '__main__':\n    exec({code!r})"]


def trained(folder: pathlib.Path, workdir: pathlib.Path, steps: int = STEPS, *extra: str) -> bool:
    """Whether a training came to its end."""
    arguments = command(folder, workdir, steps, *extra)
    return subprocess.run(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == 0


def data() -> pathlib.Path:
    """A new folder with a small data set."""
    import tiny

    return tiny.write_coco(pathlib.Path(tempfile.mkdtemp()))


def digests(workdir: pathlib.Path, step: int = STEPS) -> dict[str, str]:
    """Digests of all leaves with which a checkpoint was saved."""
    return json.loads((workdir / "checkpoints" / str(step) / "digests" / "metadata").read_text())


# --- kills ---


def kills(count: int, seed: int = 0) -> tuple[int, int]:
    """Kills a training at random moments and starts it again; (kills with the undisturbed end, kills).

    A moment is a share of the time that the undisturbed training takes after its first step.
    """
    folder, base = data(), pathlib.Path(tempfile.mkdtemp())
    assert trained(folder, base / "whole")
    began = time.monotonic()
    assert trained(folder, base / "again")
    seconds, rng = time.monotonic() - began, random.Random(seed)
    survived = 0
    for number in range(count):
        workdir = base / f"killed{number}"
        _start_and_kill(folder, workdir, rng.uniform(0.3, 1.0) * seconds)
        survived += trained(folder, workdir) and digests(workdir) == digests(base / "whole")
        shutil.rmtree(workdir)
    shutil.rmtree(base)
    return survived, count


def _start_and_kill(folder: pathlib.Path, workdir: pathlib.Path, seconds: float) -> None:
    process = subprocess.Popen(command(folder, workdir), cwd=ROOT, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


# --- readers beside a trainer ---


def readers(seconds: float, every: int = 1) -> tuple[int, int, bool]:
    """Loads a run again and again while it trains and saves; (loads, failed loads, whether the trainer is unharmed)."""
    folder, base = data(), pathlib.Path(tempfile.mkdtemp())
    changes = f"c.train.checkpoint_every = {every}"
    process = subprocess.Popen(command(folder, base / "run", 10**6, changes), cwd=ROOT, stderr=subprocess.DEVNULL)
    loads = failures = 0
    while not CheckpointReader(base / "run").steps() and process.poll() is None:
        time.sleep(0.1)
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        loads += 1
        try:
            load_for_inference(base / "run")
        except JaxposeError:
            failures += 1
    process.send_signal(signal.SIGTERM)
    unharmed = process.wait(120) == 0
    shutil.rmtree(base)
    return loads, failures, unharmed


# --- flipped bits ---


def flips(per_kind: int, seed: int = 0, workdir: pathlib.Path | None = None) -> dict[str, Counts]:
    """Flips one bit at a time in the files of a run, and loads it; {kind of file: counts}.

    A bit is found if loading ends with a JaxposeError or says in its log what is damaged; it has no effect if config
    and variables are those of the untouched run.
    """
    if workdir is None:
        workdir = pathlib.Path(tempfile.mkdtemp()) / "run"
        assert trained(data(), workdir)
    rng, counts = random.Random(seed), collections.defaultdict(lambda: [0, 0, 0, 0])
    expected = _loaded(workdir)
    for kind, files in sorted(_kinds(workdir).items()):
        for _ in range(per_kind):
            outcome = _flip(workdir, rng.choice(files), rng, expected)
            counts[kind][outcome] += 1
            counts[kind][3] += 1
    return {kind: (found, harmless, silent, tried) for kind, (found, harmless, silent, tried) in counts.items()}


def _kinds(workdir: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Files of a run that are not empty, by kind; of checkpoints those of the newest."""
    newest = CheckpointReader(workdir).steps()[-1]
    kinds = collections.defaultdict(list)
    for path in sorted(path for path in workdir.rglob("*") if path.is_file() and path.stat().st_size):
        parts = path.relative_to(workdir).parts
        if parts[0] == "checkpoints":
            if parts[1] == str(newest):
                kinds[f"checkpoint: {'arrays' if parts[2] == 'state' else parts[2]}"].append(path)
        elif parts[0] != "seals" or path.stem == str(newest):
            kinds[parts[0]].append(path)
    return kinds


def _loaded(workdir: pathlib.Path) -> tuple:
    config, _, variables = load_for_inference(workdir)
    return config.to_dict(), [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]


def _flip(workdir: pathlib.Path, path: pathlib.Path, rng: random.Random, expected: tuple) -> int:
    """0 if a flipped bit is found, 1 if it has no effect, 2 if it is silent; the file is restored."""
    original = path.read_bytes()
    changed = bytearray(original)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    path.write_bytes(changed)
    try:
        with _warnings() as told:
            config, leaves = _loaded(workdir)
    except JaxposeError:
        return 0
    finally:
        path.write_bytes(original)
    same = config == expected[0] and all(np.array_equal(a, b) for a, b in zip(leaves, expected[1], strict=True))
    return 1 if same and not told else 0 if told else 2


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the library's log says of damage within a block."""
    told: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, handler, disabled = logging.getLogger("jaxpose"), Keep(logging.WARNING), logging.root.manager.disable
    logging.disable(logging.NOTSET)
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logging.disable(disabled)
