"""Files are whole or absent, whatever happens while they are written."""

import json
import os
import subprocess
import sys

import pytest

from jaxpose.errors import DataError, StorageError
from jaxpose.files import json_files
from jaxpose.files.whole import whole, write_text


def test_a_failure_keeps_what_was_there(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole(path) as unfinished:
        unfinished.write_text(f"ne{1 / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_has_a_name(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with pytest.raises(StorageError, match="scores.json: cannot be written .No space left on device"), whole(path):
        raise OSError(28, os.strerror(28))
    assert path.read_text() == "old"


def test_a_folder_that_vanished(tmp_path):
    with pytest.raises(StorageError, match="cannot be written .No such file or directory"):
        write_text(tmp_path / "gone" / "scores.json", "new")


def test_a_killed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    code = (
        "import os, sys\nfrom jaxpose.files.whole import whole\n"
        "with whole(sys.argv[1]) as unfinished:\n    unfinished.write_text('ne')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.read_text() == "old"


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "nul", "\ufeff", "[" * 10**6, '{"a": ' * 10**6, "1" * 10**5])
def test_what_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DataError, match="labels.json: (not valid JSON|lists and objects are nested too deeply)"):
        json_files.read_json(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "labels.json"
    path.write_bytes(json.dumps({"name": "Jürgen"}, ensure_ascii=False).encode(encoding))
    assert json_files.read_json(path) == {"name": "Jürgen"}
