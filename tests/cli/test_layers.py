"""The command that draws decoder layers."""

import cv2
import jax
import pytest
from bright_boxes import BrightBoxes
from bright_spot import VARIABLES, BrightSpot, picture
from methods.prtr.test_layers import DEFORMABLE, DENSE, SEQUENTIAL

from jaxpose.cli import inputs, layers
from jaxpose.inference.predictor import Predictor


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command on a method; returns (exit status, {file: picture})."""
    monkeypatch.chdir(tmp_path)

    def run(method, *arguments, variables=None):
        def load(workdir, step, batch_size, changes, detector, box_threshold, like):
            found = Predictor(method, variables or method.init(jax.random.key(1)), batch_size=batch_size)
            return found.with_detector(Predictor(BrightBoxes(), {}, batch_size=4)) if detector else found

        monkeypatch.setattr(inputs, "load", load)
        status = layers.main(["run", *arguments, "--output", "out"])
        return status, {p.name: cv2.imread(str(p)) for p in sorted((tmp_path / "out").glob("*"))}

    for name, spots in {"1.png": [(30, 40), (100, 60), (140, 30)], "2.png": []}.items():
        cv2.imwrite(name, picture(*spots))
    return run


@pytest.mark.parametrize("method", [DENSE, DEFORMABLE], ids=["dense", "deformable"])
def test_whole_images_and_found_people(command, method, tmp_path):
    status, sheets = command(method, "1.png", "2.png", "--joints", "nose,left_wrist")
    assert status == 0
    assert list(sheets) == ["1_1.png", "2_1.png"]
    for sheet in sheets.values():
        assert sheet.shape[1] > 3 * 140
        assert sheet.std() > 10
        (tmp_path / "out" / "2_1.png").unlink(missing_ok=True)
    (tmp_path / "out" / "1_1.png").unlink()
    status, sheets = command(method, "1.png", "2.png", "--joints", "nose", "--detector", "detector")
    assert (status, list(sheets)) == (0, ["1_1.png", "1_2.png"])


def test_people_of_the_sequential_form(command):
    status, sheets = command(SEQUENTIAL, "1.png", "--people", "3", "--box_threshold", "0", "--joints", "nose")
    assert (status, list(sheets)) == (0, ["1_1.png", "1_2.png", "1_3.png"])
    assert command(SEQUENTIAL, "1.png", "--box_threshold", "1")[0] == 0


def test_unusable_inputs_and_methods(command, caplog, error):
    status, sheets = command(DENSE, "1.png", "3.png", "--joints", "nose")
    assert (status, list(sheets)) == (1, ["1_1.png"])
    assert "3.png: there is no such file" in caplog.text
    assert command(DENSE, "1.png", "--joints", "nose,tail")[0] == 1
    assert "no joints ['tail']" in error()
    assert command(BrightSpot(), "1.png", variables=VARIABLES)[0] == 2
    assert "BrightSpot has no decoder layers" in error()
