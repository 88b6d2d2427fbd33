"""Processes that are to train together: what is missing or does not fit is said before anything starts."""

import pytest

from jaxpose.errors import ConfigError
from jaxpose.runs.startup import check_processes

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_one_process():
    assert check_processes("", 0, -1) == ("", 0, -1)


def test_arguments_or_environment(monkeypatch):
    assert check_processes("host:1234", 4, 3) == ("host:1234", 4, 3)
    for name, value in zip(NAMES, ("other:1", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    assert check_processes("", 0, -1) == ("other:1", 2, 0)
    assert check_processes("host:1234", 4, 3) == ("host:1234", 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 4, -1), "--num-processes and --process-id need --coordinator"),
        (("", 0, 0), "--num-processes and --process-id need --coordinator"),
        (("host:1234", 0, -1), "--coordinator=host:1234 needs --num-processes and --process-id"),
        (("host:1234", 4, -1), "needs --num-processes and --process-id"),
        (("host:1234", 0, 1), "needs --num-processes and --process-id"),
        (("host:1234", 4, 4), "--process-id is 4; with --num-processes=4 it can be 0 to 3"),
        (("host", 4, 0), "--coordinator is 'host'; expected HOST:PORT"),
    ],
)
def test_what_does_not_fit(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_processes(*arguments)


def test_an_environment_without_numbers(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "four")
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is 'four'; expected a whole number"):
        check_processes("host:1234", 0, 0)
