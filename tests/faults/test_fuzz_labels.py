"""Odd labels and results: each is read or refused by a message, none ends in a traceback or hangs."""

import pytest
from faults import engines_labels, fuzz

COUNT = 400


@pytest.mark.parametrize("name", engines_labels.parsers())
def test_odd_inputs_are_read_or_refused(name):
    outcome = fuzz.fuzz(name, COUNT)
    assert not outcome.failures, str(outcome)
    assert outcome.tried == COUNT
    assert min(outcome.accepted, outcome.refused) > COUNT / 20, str(outcome)


@pytest.mark.parametrize("name", engines_labels.parsers())
def test_valid_inputs_are_read(name):
    make, parse = engines_labels.parsers()[name]
    content = make()
    parse(content if isinstance(content, bytes) else fuzz.as_json(content))
