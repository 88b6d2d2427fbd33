"""The same bytes on every machine: pinned digests, and a run with the processor's vector units switched off."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy._core import _multiarray_umath

from jaxpose.marionettes import GENERATOR_VERSION, MarionettesConfig
from jaxpose.marionettes import examples as records

CONFIGS = {
    "single": {"width": 96, "height": 96},
    "crowd": {"width": 160, "height": 120, "people": (2, 4), "occlusion": 1.0},
    "clip": {"width": 96, "height": 80, "people": (1, 2), "frames": 2, "occlusion": 1.0},
    "sequence": {"width": 500, "height": 500, "frames": 20},
}
PINNED = {
    "version": "1.0.0",
    "single studio": "aaaff9989f11bfc4",
    "single street": "ad7d64330c94ef82",
    "crowd studio": "7b4ba3ea32740311",
    "crowd street": "e51dd60cdb0fd1fb",
    "clip studio": "f3d947f38c2a7572",
    "clip street": "f635db2900a38c0f",
    "sequence studio": "6f47e0b4dd4f2977",
    "sequence street": "6f47e0b4dd4f2977",
}


def digests() -> dict[str, str]:
    """A digest of all record bytes, JPEG included, for every scene and look."""
    out = {}
    for scene, fields in CONFIGS.items():
        for look in ("studio", "street"):
            config = MarionettesConfig(scene=scene, look=look, train=3, validation=2, **fields)
            total = hashlib.sha256()
            for split, index in (("train", 0), ("train", 2), ("validation", 1)):
                for record in records.records(config, split, index):
                    for name, value in sorted(record.items()):
                        array = np.asarray(value) if not isinstance(value, bytes | str) else None
                        data = f"{array.dtype}{array.shape}".encode() + array.tobytes() if array is not None else value
                        total.update(name.encode() + (data.encode() if isinstance(data, str) else data))
            out[f"{scene} {look}"] = total.hexdigest()[:16]
    return out


@pytest.fixture(scope="module")
def here():
    return digests()


def test_bytes_are_the_pinned_ones(here):
    assert {"version": GENERATOR_VERSION, **here} == PINNED, (
        "the generator gives other bytes: if that is meant, raise GENERATOR_VERSION and pin the new digests"
    )


def test_bytes_do_not_depend_on_vector_units(here):
    present = [f for f in _multiarray_umath.__cpu_dispatch__ if _multiarray_umath.__cpu_features__[f]]
    if not present:
        pytest.skip("NumPy dispatches to no optional vector unit on this processor")
    plain = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(present),
        "JSIMD_FORCENONE": "1",
        "OPENCV_CPU_DISABLE": "AVX512_SKX,AVX2",
    }
    script = (
        f"import json, sys; sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}\n"
        "from numpy._core import _multiarray_umath as m\n"
        f"assert not any(m.__cpu_features__[f] for f in {present!r})\n"
        "import test_marionettes_determinism as t\n"
        "print(json.dumps(t.digests()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **plain}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == here
