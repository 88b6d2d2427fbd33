"""Parity with the original implementations, case by case.

The small cases that the repository carries are in tests/golden. The environment variable JAXPOSE_GOLDEN names another
folder of cases.
"""

import importlib
import os
import pathlib
import pkgutil

import golden_checks
import jax
import pytest
from golden_checks import cases

ROOT = pathlib.Path(os.environ.get("JAXPOSE_GOLDEN") or pathlib.Path(__file__).parent / "golden")
FOLDERS = cases.folders(ROOT)


def _collect_checks() -> dict:
    checks = {}
    for info in pkgutil.iter_modules(golden_checks.__path__):
        found = getattr(importlib.import_module(f"golden_checks.{info.name}"), "CHECKS", {})
        assert not checks.keys() & found.keys(), f"{info.name} repeats {checks.keys() & found.keys()}"
        checks |= found
    return checks


CHECKS = _collect_checks()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_case(folder):
    case = cases.load(folder)
    check = case.manifest["check"]
    assert check in CHECKS, f"{case.name} asks for the check {check!r}, which nobody wrote"
    with jax.default_matmul_precision("highest"):
        CHECKS[check](case)


def test_folder_has_cases():
    assert FOLDERS, f"no cases under {ROOT}"
