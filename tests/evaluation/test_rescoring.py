"""Released rescorers -> files of this library."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxpose.cli.convert import main
from jaxpose.convert.conversion import ConversionError
from jaxpose.errors import CheckpointError
from jaxpose.evaluation import rescoring
from jaxpose.evaluation.rescoring import PoseFeatures, convert
from jaxpose.skeleton import COCO, CROWDPOSE

FEATURES = PoseFeatures.of(CROWDPOSE)


def state_dict(hidden=8, size=FEATURES.size):
    rng = np.random.default_rng(0)
    shapes = {"l1": (hidden, size), "l2": (hidden, hidden), "l3": (1, hidden)}
    weights = {f"{name}.weight": rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": rng.normal(size=shape[0]).astype(np.float32) for name, shape in shapes.items()}


def people():
    rng = np.random.default_rng(1)
    return 100 * rng.random((2, 3, 14, 2)), rng.random((2, 3, 14)), rng.random((2, 3))


def by_hand(entries, features):
    for name in ("l1", "l2", "l3"):
        features = features @ entries[f"{name}.weight"].T + entries[f"{name}.bias"]
        features = features if name == "l3" else np.maximum(features, 0)
    return features[..., 0]


def test_the_network_is_the_original(tmp_path):
    """From the checkpoint file through the command to the scores of people."""
    entries = state_dict()
    np.savez(tmp_path / "released.npz", **entries)
    output = tmp_path / "rescoring.npz"
    assert main([str(tmp_path / "released.npz"), "--rescorer", "--skeleton=crowdpose", f"--output={output}"]) == 0
    keypoints, scores, person_score = people()
    expected = by_hand(entries, np.asarray(FEATURES(keypoints, scores))) * person_score
    rescorer = rescoring.load(output, 14)
    assert rescorer.features == FEATURES
    assert_allclose(rescorer(keypoints, scores, person_score), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_other_joints(tmp_path, capsys):
    with pytest.raises(ConversionError, match=r"misshapen: l1.weight \(8, 59\)"):
        convert(state_dict(), PoseFeatures.of(COCO))
    np.savez(tmp_path / "released.npz", **state_dict())
    assert main([str(tmp_path / "released.npz"), "--rescorer", f"--output={tmp_path / 'out.npz'}"]) == 1
    assert "misshapen" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_missing_and_unknown_entries():
    entries = state_dict()
    del entries["l2.bias"]
    with pytest.raises(ConversionError, match="(?s)unknown: l4.weight.*missing: params/layer1/bias"):
        convert(entries | {"l4.weight": np.zeros((1, 1), np.float32)}, FEATURES)


def test_scores_that_are_not_numbers_become_zero():
    keypoints, scores, person_score = people()
    keypoints[0, 1, 3] = np.nan
    rescored = convert(state_dict(), FEATURES)(keypoints, scores, person_score)
    assert np.isfinite(rescored).all()
    assert rescored[0, 1] == 0
    assert (np.asarray(rescored).ravel() != 0).sum() == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"links": None}, r"lacks \['links'\]"),
        ({"joints": np.int32(17)}, "rescores poses of 17 joints, these have 14"),
        ({"params/layer1/bias": np.zeros(3)}, r"layer1/bias': \(3,\)"),
        ({"params/layer0/bias": None}, "the network has parameters"),
    ],
)
def test_damaged_files(tmp_path, change, message):
    path = tmp_path / "rescoring.npz"
    rescoring.save(path, convert(state_dict(), FEATURES))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(CheckpointError, match=message):
        rescoring.load(path, 14)


def test_files_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent.npz: no readable rescorer .* jaxpose fit-rescoring"):
        rescoring.load(tmp_path / "absent.npz", 14)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(CheckpointError, match="text.npz: no readable rescorer"):
        rescoring.load(tmp_path / "text.npz", 14)
    with pytest.raises(CheckpointError, match=r"must end in \.npz"):
        rescoring.save(tmp_path / "rescoring.json", convert(state_dict(), FEATURES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"links": np.zeros((3, 3), int)}, r"array 'links' is int64 of shape \(3, 3\)"),
        ({"links": np.float32([[0, 1]])}, "array 'links' is float32"),
        ({"links": np.array([[0, 99]])}, r"links \[\(0, 99\)\]: expected pairs"),
        ({"units": np.array(0)}, "array 'units'"),
        ({"joints": np.arange(3)}, "array 'joints'"),
        ({"params/layer1/bias": np.full(8, np.nan, np.float32)}, "'layer1/bias' has values that are no finite numbers"),
        ({"params/layer1/bias": np.full(8, 1e300)}, "'layer1/bias' has values that are no finite numbers"),
    ],
)
def test_odd_arrays(tmp_path, change, message):
    path = tmp_path / "rescoring.npz"
    rescoring.save(path, convert(state_dict(), FEATURES))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | change
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match=rf"rescoring.npz: .*{message}"):
        rescoring.load(path, 14)


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "rescoring.npz"
    rescoring.save(path, convert(state_dict(), FEATURES))
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="no readable rescorer"):
            rescoring.load(path, 14)
