"""Trainings are killed, read while they save, and damaged: nothing is lost, nothing silently wrong."""

import pathlib

import pytest
from faults import engines_runs

from jaxpose.runs.checkpoint_reader import CheckpointReader
from jaxpose.runs.reader import load_for_inference


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert engines_runs.trained(engines_runs.data(), workdir)
    return workdir


def snapshot(workdir: pathlib.Path) -> dict:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in workdir.rglob("*") if path.is_file()}


def test_a_reader_changes_nothing(finished):
    before = snapshot(finished)
    load_for_inference(finished)
    load_for_inference(finished, step=6)
    assert snapshot(finished) == before


def test_a_reader_changes_nothing_where_a_checkpoint_is_damaged(finished):
    """It takes the one before, and leaves the damaged one where it is."""
    array = next((finished / "checkpoints" / "8" / "state" / "d").iterdir())
    content = array.read_bytes()
    array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = snapshot(finished)
    try:
        load_for_inference(finished)
        assert snapshot(finished) == before
        assert CheckpointReader(finished).steps() == [6, 8]
    finally:
        array.write_bytes(content)


def test_readers_beside_a_trainer_that_saves_every_step():
    loads, failures, unharmed = engines_runs.readers(seconds=6)
    assert loads > 3
    assert failures == 0
    assert unharmed


def test_flipped_bits(finished):
    for kind, (_, _, silent, tried) in engines_runs.flips(6, seed=1, workdir=finished).items():
        assert tried == 6
        assert silent == 0, kind


@pytest.mark.slow
def test_many_kills():
    survived, tried = engines_runs.kills(12, seed=0)
    assert survived == tried
