"""Flipped bits in files of weights and in cached records, for `faults.report`."""

import collections
import pathlib
import random
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxpose import load_config, marionettes, methods
from jaxpose.convert import load_variables, save_variables
from jaxpose.data.sources.records import open_records
from jaxpose.errors import CheckpointError, JaxposeError
from jaxpose.evaluation import rescoring
from jaxpose.methods.heatmap import tiny
from jaxpose.zoo import weights_file

Counts = tuple[int, int, int, int]
"""Flipped bits that were found, that had no effect, that changed a result in silence, and all that were tried."""


def parsers() -> dict:
    """No parsers: those of these files are in `engines_files`."""
    return {}


def flips(per_kind: int, seed: int = 0) -> dict[str, Counts]:
    """Flips one bit at a time in weights, rescorers and cached records; {kind of file: counts}."""
    folder = pathlib.Path(tempfile.mkdtemp())
    found = {
        f"converted weights: {suffix}": _tried(_weights(folder, suffix), load_variables, per_kind, seed)
        for suffix in (".npz", ".safetensors")
    }
    found["exported networks"] = _tried(_exported(folder), _loaded_network, per_kind, seed)
    found["rescorers"] = _tried(_rescorer(folder), _loaded_rescorer, per_kind, seed)
    return found | _cached(folder, per_kind, seed)


def _tried(path: pathlib.Path, read: Callable[[pathlib.Path], Any], count: int, seed: int) -> Counts:
    """Counts of a file's bits; where most bytes are padding, of the others."""
    rng, original, outcomes = random.Random(f"{path.name} {seed}"), path.read_bytes(), collections.Counter()
    filled = [place for place, byte in enumerate(original) if byte]
    places = filled if len(filled) < len(original) / 4 else range(len(original))
    expected = read(path)
    for _ in range(count):
        changed = bytearray(original)
        changed[places[rng.randrange(len(places))]] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            outcomes["harmless" if _same(read(path), expected) else "silent"] += 1
        except JaxposeError:
            outcomes["found"] += 1
    path.write_bytes(original)
    return outcomes["found"], outcomes["harmless"], outcomes["silent"], count


def _same(one: Any, other: Any) -> bool:
    ours, theirs = jax.tree.flatten(one), jax.tree.flatten(other)
    return ours[1] == theirs[1] and all(np.array_equal(a, b) for a, b in zip(ours[0], theirs[0], strict=True))


def _weights(folder: pathlib.Path, suffix: str) -> pathlib.Path:
    rng = np.random.default_rng(0)
    layers = {f"conv{i}": {"kernel": rng.normal(size=(3, 3, 8, 8)).astype(np.float32)} for i in range(4)}
    save_variables(folder / f"weights{suffix}", {"params": layers, "batch_stats": {"bn": {"mean": np.zeros(8)}}})
    return folder / f"weights{suffix}"


def _exported(folder: pathlib.Path) -> pathlib.Path:
    config = load_config("heatmap")
    config.method.update(tiny.FIELDS["heatmap"])
    variables = methods.create(config.method).init(jax.random.key(0))
    weights_file.write(folder / "network.safetensors", config, variables, weights_file.About("coco", 10, {"AP": 0.5}))
    return folder / "network.safetensors"


def _loaded_network(path: pathlib.Path) -> Any:
    content = weights_file.read(path)
    if content is None:
        raise CheckpointError(f"{path}: is taken for another program's")
    return content.variables, content.config.to_json(), content.about.scores


def _rescorer(folder: pathlib.Path) -> pathlib.Path:
    features = rescoring.PoseFeatures(((0, 1), (1, 2)), (0,), 3)
    variables = rescoring.RescoringNet(4).init(jax.random.key(0), np.zeros(features.size, np.float32))
    rescoring.save(folder / "rescoring.npz", rescoring.Rescoring(features, jax.device_get(variables)["params"]))
    return folder / "rescoring.npz"


def _loaded_rescorer(path: pathlib.Path) -> Any:
    loaded = rescoring.load(path, 3)
    return loaded.params, loaded.features.links, loaded.features.units


def _cached(folder: pathlib.Path, count: int, seed: int) -> dict[str, Counts]:
    """Each file of a folder of rendered people; its records are read, too."""
    config = marionettes.MarionettesConfig(train=6, validation=2, width=64, height=64)
    place = marionettes.prepare(config, folder, workers=1, progress=False)

    def read(_: pathlib.Path) -> Any:
        source = open_records(place, "train")
        return [source.read(i) for i in range(len(source))], repr(source.annotations.to_coco())

    found = {}
    for path in sorted(place.iterdir()):
        if "validation" not in path.name:
            found[f"cached records: {path.name}"] = _tried(path, read, count, seed)
    return found
