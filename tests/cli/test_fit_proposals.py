"""The command that fits random training boxes."""

import pytest
from boxed_people import write_people
from numpy.testing import assert_array_equal

from jaxpose.cli import fit_proposals
from jaxpose.data.proposals import PoseGuidedProposals, fit
from jaxpose.data.sources import coco


@pytest.fixture
def files(tmp_path):
    write_people(tmp_path)
    return tmp_path


def test_the_command_writes_what_fit_finds(files, tmp_path):
    output = tmp_path / "pgpg.json"
    arguments = ["--annotations", files / "truth.json", "--boxes", files / "boxes.json", "--output", output]
    assert fit_proposals.main([*map(str, arguments), "--clusters=2"]) == 0
    annotations = coco.read_keypoints(files / "truth.json")
    fitted = fit(annotations, coco.read_detections(files / "boxes.json", annotations.image_id), clusters=2)
    assert_array_equal(PoseGuidedProposals.read(output).mean, fitted.mean)
    assert fit_proposals.main([*map(str, arguments), "--threshold=0.99"]) == 1  # no box scores that high
