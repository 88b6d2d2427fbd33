"""Commands run within the test's process, and leave it as it was."""

import logging

import jax
import pytest

from jaxpose.runs import startup


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """JAX is not set up again, no cache is made in the home folder, and logging is as before afterwards."""
    monkeypatch.setattr(startup, "start", lambda *_: None)
    names = ("jaxpose", "jaxpose.cli")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.handlers, each.propagate, each.level) for each in loggers]
    platforms = jax.config.jax_platforms
    yield
    jax.config.update("jax_platforms", platforms)
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.fixture
def error(capsys):
    """The line by which a command says what is wrong; empty if it says nothing."""

    def read() -> str:
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxpose: error: ")]
        return "\n".join(lines)

    return read
