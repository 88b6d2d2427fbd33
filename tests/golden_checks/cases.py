"""Reads golden cases: inputs and outputs of an original implementation, and how its weights are drawn.

A case is a folder with manifest.json (origin, hyperparameters, and for a network the names and shapes of its
checkpoint's entries) and arrays.npz (in/NAME and out/NAME as the original took and gave them; images are N, C, H, W).
Weights are not stored. Each is drawn from a generator seeded with the checksum of the entry's own name.
"""

import dataclasses
import functools
import json
import pathlib
import re
import zlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """A golden case.

    Attributes:
      name: GROUP/CASE.
      folder: where its files are.
      manifest: what manifest.json says.
      inputs: arrays by name.
      outputs: arrays by name.
    """

    name: str
    folder: pathlib.Path
    manifest: dict
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def attrs(self) -> dict:
        return self.manifest.get("attrs", {})

    @functools.cached_property
    def state_dict(self) -> dict[str, np.ndarray]:
        """The original checkpoint's entries."""
        factors = [(re.compile(pattern), factor) for pattern, factor in self.manifest.get("overrides", [])]
        return {name: draw(name, tuple(shape), factors) for name, shape in self.manifest["params"]}


def draw(name: str, shape: tuple[int, ...], factors: list[tuple[re.Pattern, float]]) -> np.ndarray:
    """One checkpoint entry: uniform numbers whose range depends on what the entry is, times all factors that match."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    uniform = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).random(shape)
    is_vector = len(shape) <= 1
    if name.endswith("running_var") or (is_vector and name.endswith("weight") and "running" not in name):
        value = 0.5 + uniform
    elif is_vector:
        value = 0.2 * (uniform - 0.5)
    else:
        value = (2 * uniform - 1) * np.sqrt(3 / np.prod(shape[1:]))
    for pattern, factor in factors:
        if pattern.search(name):
            value = value * factor
    return value.astype(np.float32)


def load(folder: pathlib.Path) -> Case:
    """Reads the case in `folder`."""
    manifest = json.loads((folder / "manifest.json").read_text())
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        parts = {
            kind: {k[len(kind) :]: arrays[k] for k in arrays.files if k.startswith(kind)} for kind in ("in/", "out/")
        }
    return Case(f"{folder.parent.name}/{folder.name}", folder, manifest, parts["in/"], parts["out/"])


def folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Folders of all cases under `root`, in order of their names."""
    return sorted(path.parent for path in root.glob("*/*/manifest.json"))
