import errno
import fcntl
import signal
import subprocess
import sys

import pytest

from jaxpose.errors import ConfigError
from jaxpose.runs.lock import LOCK, sole_writer

HOLD = """
import pathlib, sys, time
from jaxpose.runs.lock import sole_writer
with sole_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_turned_away_until_the_first_is_gone(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="run: another process is training there"), sole_writer(tmp_path / "run"):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with sole_writer(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()


def test_runs_in_a_row_and_side_by_side_do_not_meet(tmp_path):
    with sole_writer(tmp_path / "a"), sole_writer(tmp_path / "b"):
        pass
    with sole_writer(tmp_path / "a"):
        pass


def test_a_file_system_without_locks_is_named_in_the_log(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with sole_writer(tmp_path):
        pass
    assert "cannot be locked" in caplog.text
