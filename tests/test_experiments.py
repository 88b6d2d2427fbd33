"""Studies and benchmarks start as their own first lines say."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(p for p in (ROOT / "experiments").rglob("*.py") if "app.run(main)" in p.read_text())


def test_there_are_scripts():
    assert {"run.py", "deform.py", "throughput.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_starts(script):
    """--help, in the way of the docstring: it imports all that the script does."""
    command = re.search(r"python ((?:-m )?[\w./]+)", script.read_text())[1].split()
    found = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1, found.stderr  # of absl's --help
    assert "Try --helpfull" in found.stdout
