import argparse
import json
import sys

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxpose.convert import load_state_dict, load_variables, save_variables
from jaxpose.errors import CheckpointError, StorageError

VARIABLES = {
    "params": {"head": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "bias": np.ones(2, np.float32)}},
    "batch_stats": {"bn": {"mean": np.zeros(3, np.float32)}},
}
ENTRIES = {"a.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float32)}


@pytest.mark.parametrize("name", ["variables.npz", "variables.safetensors"])
def test_variables_come_back(tmp_path, name):
    save_variables(tmp_path / name, VARIABLES)
    loaded = load_variables(tmp_path / name)
    jax.tree.map(assert_array_equal, loaded, VARIABLES)
    assert loaded["params"]["head"]["kernel"].dtype == np.float32


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"must end in one of .npz, .safetensors"):
        save_variables(tmp_path / "variables.pkl", VARIABLES)


def test_files_that_hold_something_else_are_named(tmp_path):
    np.savez(tmp_path / "other.npz", **ENTRIES)
    with pytest.raises(CheckpointError, match=r"other.npz holds \['a.bias', 'a.weight'\], not paths"):
        load_variables(tmp_path / "other.npz")
    with pytest.raises(CheckpointError, match="no such file"):
        load_variables(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "1.",
        "module.1.",
        "module.module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "model.model._orig_mod.module.",
        "network.",
        "net.1.",
    ],
)
def test_prefixes_of_wrappers_go(tmp_path, prefix):
    np.savez(tmp_path / "entries.npz", **{prefix + name: value for name, value in ENTRIES.items()})
    loaded = load_state_dict(tmp_path / "entries.npz")
    assert set(loaded) == set(ENTRIES)


def test_a_prefix_that_some_names_lack_stays(tmp_path):
    np.savez(tmp_path / "entries.npz", **{"1.weight": np.zeros(2), "head.weight": np.zeros(2)})
    assert set(load_state_dict(tmp_path / "entries.npz")) == {"1.weight", "head.weight"}


def test_safetensors_needs_no_torch(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.setitem(sys.modules, "torch", None)
    save_file(ENTRIES, tmp_path / "entries.safetensors")
    jax.tree.map(assert_array_equal, load_state_dict(tmp_path / "entries.safetensors"), ENTRIES)


def test_torch_files_need_no_torch(torch, tmp_path, monkeypatch):
    torch.save(tensors(torch), tmp_path / "model.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    jax.tree.map(assert_array_equal, load_state_dict(tmp_path / "model.pth"), ENTRIES)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone.pth: no such file"):
        load_state_dict(tmp_path / "gone.pth")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reading .pth files needs the package torch")


def tensors(torch, prefix: str = "", offset: float = 0.0) -> dict:
    return {prefix + name: torch.from_numpy(value.copy()) + offset for name, value in ENTRIES.items()}


def test_plain_torch_file(torch, tmp_path):
    torch.save(tensors(torch), tmp_path / "model.pth")
    jax.tree.map(assert_array_equal, load_state_dict(tmp_path / "model.pth"), ENTRIES)


def test_training_checkpoint_gives_its_best_network(torch, tmp_path):
    checkpoint = {
        "epoch": 3,
        "perf": np.float64(0.7),
        "args": argparse.Namespace(lr=0.1),
        "state_dict": tensors(torch, "module.", offset=1.0),
        "best_state_dict": tensors(torch),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    jax.tree.map(assert_array_equal, load_state_dict(tmp_path / "checkpoint.pth"), ENTRIES)
    del checkpoint["best_state_dict"]
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_array_equal(load_state_dict(tmp_path / "checkpoint.pth")["a.bias"], ENTRIES["a.bias"] + 1)


def test_half_precision_widens_and_integers_stay(torch, tmp_path):
    entries = {"w": torch.tensor([0.5], dtype=torch.bfloat16), "n": torch.tensor(3)}
    torch.save({"model": entries}, tmp_path / "model.pth")
    loaded = load_state_dict(tmp_path / "model.pth")
    assert loaded["w"].dtype == np.float32
    assert loaded["n"].dtype == np.int64


def test_code_in_a_file_is_not_run(torch, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"state_dict": Attack()}, tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match="cannot be read as a PyTorch checkpoint: it holds .*open, which is no part"
    ):
        load_state_dict(tmp_path / "model.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["model.pth", "model.npz", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint, but text\n", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"PK\x03\x04"]
)
def test_damaged_files_are_named_in_one_line(torch, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"{name} cannot be read as .*: it is damaged or something else$"
    ) as error:
        load_state_dict(tmp_path / name)
    assert "\n" not in str(error.value)


def test_half_a_file_is_named(torch, tmp_path):
    torch.save({"w": torch.zeros(100, 100)}, tmp_path / "model.pth")
    np.savez(tmp_path / "model.npz", w=np.zeros((100, 100)))
    for name in ("model.pth", "model.npz"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            load_state_dict(tmp_path / name)


def test_file_without_arrays_is_named(torch, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"holds no arrays; its entries are \['epoch'\]"):
        load_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["variables.npz", "variables.safetensors"])
def test_every_flipped_bit_of_weights_is_found(tmp_path, name):
    save_variables(tmp_path / name, VARIABLES)
    data = (tmp_path / name).read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as .*it is damaged"):
            load_variables(tmp_path / name)


@pytest.mark.parametrize("name", ["variables.npz", "variables.safetensors"])
def test_weights_are_written_whole_or_not_at_all(tmp_path, name, monkeypatch):
    save_variables(tmp_path / name, VARIABLES)
    before = (tmp_path / name).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxpose.files.whole.os.replace", full)
    with pytest.raises(StorageError, match=f"{name}: cannot be written .No space left on device."):
        save_variables(tmp_path / name, {"params": {"a": np.zeros(3)}})
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_weights_of_others_have_no_digest(tmp_path):
    from safetensors.numpy import save_file

    np.savez(tmp_path / "x.npz", **{"params/a": np.ones(3, np.float32)})
    save_file({"params/a": np.ones(3, np.float32)}, tmp_path / "x.safetensors", {"format": "pt", "sha256": "0" * 64})
    for name in ("x.npz", "x.safetensors"):
        assert_array_equal(load_variables(tmp_path / name)["params"]["a"], np.ones(3))


def test_half_precision_of_safetensors_widens(tmp_path, torch):
    from safetensors.torch import save_file

    kinds = (torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.bool, torch.uint8)
    entries = {str(kind): torch.tensor([1, 2.5, 3]).to(kind) for kind in kinds}
    save_file(entries, tmp_path / "x.safetensors")
    for name, value in load_state_dict(tmp_path / "x.safetensors").items():
        assert_array_equal(value, entries[name].float().numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [3]}, "array 'a' of shape .3. has 8 bytes"),
        ({"shape": [-1, -2]}, "array 'a' has dtype"),
        ({"shape": [1 << 40]}, "array 'a' of shape"),
        ({"dtype": "F4"}, "array 'a' has dtype 'F4'"),
        ({"dtype": ["F32"]}, "array 'a' has dtype"),
        ({"data_offsets": [0, 16]}, "array 'a' of shape"),
        ({"data_offsets": [4, 12]}, "bytes that are of no array or of several"),
        ({"data_offsets": [8, 16]}, "is cut off within array 'a'|bytes that are of no array"),
        ({"data_offsets": None}, "array 'a' has dtype"),
    ],
)
def test_odd_headers_of_safetensors(tmp_path, change, message):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change,
              "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}  # fmt: skip
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 12)
    with pytest.raises(CheckpointError, match=f"x.safetensors cannot be read as .safetensors .*{message}"):
        load_state_dict(tmp_path / "x.safetensors")


def test_an_array_and_a_group_of_one_name(tmp_path):
    np.savez(tmp_path / "x.npz", **{"params/a": np.ones(3), "params/a/b": np.ones(3)})
    with pytest.raises(CheckpointError, match=r"arrays and groups of arrays of the same names, \['params/a'\]"):
        load_variables(tmp_path / "x.npz")
