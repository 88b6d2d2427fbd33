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

DETECTOR = "DETR, the person detector, is not built yet"
DEFORMABLE = "deformable attention is not built yet"
END_TO_END = "PRTR from whole images is not built yet"

PENDING = {
    "prtr/detr_criterion": DETECTOR,
    "prtr/detr_forward": DETECTOR,
    "prtr/detr_giou": DETECTOR,
    "prtr/detr_train": DETECTOR,
    "prtr/detr_transforms": DETECTOR,
    "prtr/ms_deform_attn_core": DEFORMABLE,
    "prtr/ms_deform_attn_module": DEFORMABLE,
    "prtr/seq_crop": END_TO_END,
    "prtr/seq_forward": END_TO_END,
    "prtr/seq_keypoint_transformer": END_TO_END,
    "prtr/seq_readout": END_TO_END,
    "prtr/seq_train": END_TO_END,
}
"""Checks that no code answers yet: {check: reason}."""

PENDING_GROUPS = {
    "anatomy3d": "Anatomy-aware 3D is not built yet",
    "dcpose": "DCPose is not built yet",
    "dekr": "DEKR is not built yet",
    "higherhrnet": "HigherHRNet is not built yet",
    "regda": "RegDA is not built yet",
}
"""Groups of cases of whole papers that no code answers yet: {group: reason}."""


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
    reason = PENDING.get(check) or PENDING_GROUPS.get(check.partition("/")[0])
    if reason and check not in CHECKS:
        pytest.skip(reason)
    assert check in CHECKS, f"{case.name} asks for the check {check!r}, which nobody wrote and PENDING does not list"
    with jax.default_matmul_precision("highest"):
        CHECKS[check](case)


def test_folder_has_cases():
    assert FOLDERS, f"no cases under {ROOT}"


def test_pending_checks_are_not_written():
    assert not PENDING.keys() & CHECKS.keys()
