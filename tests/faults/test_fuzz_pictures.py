"""Odd pictures and odd labels of PoseTrack: read, or refused with a message."""

import pytest
from faults import engines_pictures, fuzz

COUNT = 150


@pytest.mark.parametrize("name", engines_pictures.parsers())
def test_odd_inputs_are_read_or_refused(name, capfd):
    outcome = fuzz.fuzz(name, COUNT, seed=1)
    capfd.readouterr()  # what the decoders say
    assert not outcome.failures, str(outcome)
    assert outcome.tried == COUNT
    assert outcome.accepted > 0
