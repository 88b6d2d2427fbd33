"""Files of marionettes' sequences in the cache, without a list of files as older ones are: what is damaged is told."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxpose.data.formats.storage import write_columns
from jaxpose.data.sources import marionettes
from jaxpose.errors import DataError


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """The config of two short sequences, and the path of their file."""
    root = tmp_path_factory.mktemp("cache")
    fields = {"scene": "sequence", "train": 2, "validation": 1, "frames": 8}
    data = ConfigDict({"dir": str(root), "skeleton": "h36m", "marionettes": fields})
    marionettes.open_sequences(data, "train", progress=False)
    (path,) = root.rglob("annotations-train.npz")
    (path.parent / "checksums.json").unlink()
    return data, path


@pytest.fixture
def rewrite(cached):
    """Reads the file after a change of its arrays or bytes, and puts it back."""
    data, path = cached
    whole = path.read_bytes()

    def read(changed):
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            with np.load(path) as columns:
                write_columns(path, {name: columns[name] for name in columns.files} | changed)
        return marionettes.open_sequences(data, "train", progress=False)

    yield read
    path.write_bytes(whole)


def test_whole_file(cached, rewrite):
    assert len(rewrite(cached[1].read_bytes())) == 2


@pytest.mark.parametrize("cut", [0, 30, -1, -100])
def test_cut_off(cached, rewrite, cut):
    with pytest.raises(DataError, match=r"annotations-train.npz: .*[Dd]elete .* it will be written again"):
        rewrite(cached[1].read_bytes()[:cut])


def test_flipped_bits(cached, rewrite):
    """Every one is found, or means nothing to the reader."""
    data, rng, found = cached[1].read_bytes(), np.random.default_rng(0), 0
    expected = rewrite(data)
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            source = rewrite(bytes(changed))
        except DataError:
            found += 1
        else:
            for ours, theirs in zip(source.videos, expected.videos, strict=True):
                np.testing.assert_array_equal(ours.keypoints, theirs.keypoints)
    assert found > 40


@pytest.mark.parametrize("name", ["detections", "visibility_score", "joints_3d", "intrinsics", "translation"])
def test_arrays_of_other_shapes(rewrite, name):
    with pytest.raises(DataError, match=rf"array '{name}' has shape \(2, 5\); delete its folder"):
        rewrite({name: np.zeros((2, 5), np.float32)})
