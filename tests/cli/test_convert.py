import subprocess
import sys

import numpy as np
import pytest
from convert import originals

from jaxpose.convert import load_variables

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"method": {
        "name": "prtr", "backbone": "resnet18", "backbone_width": 4, "backbone_stages": (1, 1, 1, 1), "hidden_dim": 8,
        "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 12, "num_queries": 20,
    }})
"""


def run(folder, state_dict, *flags) -> subprocess.CompletedProcess:
    np.savez(folder / "original.npz", **state_dict)
    (folder / "config.py").write_text(CONFIG)
    command = [sys.executable, "-m", "jaxpose.convert", "original.npz", "--config=config.py", "--output=ours.npz"]
    return subprocess.run([*command, *flags], cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(autouse=True)
def _importable(monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))


def test_backbone_of_a_file(tmp_path):
    result = run(tmp_path, originals.fill(originals.resnet(4, classes=10)), "--backbone")
    assert result.returncode == 0, result.stderr
    assert "not needed, 2 entries:\n  fc.weight\n  fc.bias" in result.stderr
    assert set(load_variables(tmp_path / "ours.npz")["params"]) == {"backbone"}


def test_misfit_fails_without_a_file(tmp_path):
    result = run(tmp_path, originals.fill(originals.resnet(4)))
    assert result.returncode == 1
    assert "jaxpose: error: the checkpoint does not fit the configured network" in result.stderr
    assert "unknown: conv1.weight (4, 3, 7, 7)" in result.stderr
    assert not (tmp_path / "ours.npz").exists()
