"""The public names of the library: imported for real, the same for ever, documented with examples that run."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import jaxpose


@pytest.mark.parametrize("name", jaxpose.__all__)
def test_names_are_documented_with_an_example(name):
    found = vars(jaxpose)[name]  # a real import: nothing is looked up at first use
    assert inspect.getdoc(found)
    examples = [example for test in doctest.DocTestFinder(recurse=False).find(found) for example in test.examples]
    assert examples, f"jaxpose.{name} has no example in its docstring"


def test_names_stay_what_they_are_whatever_is_imported():
    before = {name: vars(jaxpose)[name] for name in jaxpose.__all__}
    for info in pkgutil.walk_packages(jaxpose.__path__, "jaxpose."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    assert before == {name: vars(jaxpose)[name] for name in jaxpose.__all__}
    modules = {info.name for info in pkgutil.iter_modules(jaxpose.__path__)}
    assert not modules & set(jaxpose.__all__)


def test_importing_starts_no_device_and_reads_no_data_set_library():
    code = (
        "import sys, jaxpose; from jax._src import xla_bridge;"
        "print(xla_bridge.backends_are_initialized());"
        "print('tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False", "False"]
