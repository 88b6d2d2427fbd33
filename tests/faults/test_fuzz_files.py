"""Odd binary files: read, or refused with a message."""

import pytest
from faults import engines_files, fuzz

COUNT = 100


@pytest.mark.parametrize("name", engines_files.parsers())
def test_odd_inputs_are_read_or_refused(name):
    outcome = fuzz.fuzz(name, COUNT, seed=1)
    assert not outcome.failures, str(outcome)
    assert outcome.tried == COUNT
    assert outcome.refused > 0


@pytest.mark.parametrize("name", engines_files.parsers())
def test_valid_inputs_are_read(name):
    make, parse = engines_files.parsers()[name]
    content = make()
    if name != "list of files":  # its files are not there
        parse(content if isinstance(content, bytes) else fuzz.as_json(content))
