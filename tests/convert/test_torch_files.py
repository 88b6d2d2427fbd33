"""PyTorch's files as trainers write them, and files that are meant to do harm."""

import argparse
import collections
import contextlib
import io
import pathlib
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxpose.convert import load_state_dict
from jaxpose.errors import CheckpointError

torch = pytest.importorskip("torch", reason="files are written by the package torch")

ENTRIES = {"conv.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "conv.bias": np.ones(2, np.float32)}


def network(offset: float = 0.0) -> dict:
    return {name: torch.from_numpy(value.copy()) + offset for name, value in ENTRIES.items()}


def load(tmp_path, content, **options) -> dict:
    torch.save(content, tmp_path / "model.pth", **options)
    return load_state_dict(tmp_path / "model.pth")


def check(found: dict, offset: float = 0.0):
    assert set(found) == set(ENTRIES)
    for name, value in ENTRIES.items():
        assert_array_equal(found[name], value + offset)
        assert found[name].dtype == np.float32


class Config(dict):
    """As a config whose entries are attributes, too."""

    __getattr__ = dict.__getitem__


class History:
    """As a log of a trainer that keeps arrays."""

    def __init__(self):
        self.values = np.arange(3.0)
        self.window = collections.deque([1, 2], 2)


WRAPPED = [
    {"network": network()},
    {"net": network(), "epoch": torch.tensor(3)},
    {"model_state_dict": network(), "optimizer_state_dict": {"state": {0: {"step": torch.ones(1)}}}},
    {"state_dict_ema": network()},
    {"ema": {"module": network()}},
    {"model": {"state_dict": network()}, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    {"generator": network(), "step": 3},
    {"a": {"b": {"c": network()}}, "optimizer": network()},
    {"state_dict": network(), "ema_state_dict": network(1)},
    {"best_state_dict": network(), "state_dict": network(1), "model": network(2)},
    {"state_dict": {f"model.{name}": value for name, value in network().items()},
     "pytorch-lightning_version": "2.1", "callbacks": {"Checkpoint{'a': 1}": {"best": torch.tensor(0.5)}}, "loops": {}},
    {"n_averaged": torch.tensor(4), **{f"module.{name}": value for name, value in network().items()}},
    collections.OrderedDict(network()),
    {"state_dict": Config(network())},
]  # fmt: skip


@pytest.mark.parametrize("content", WRAPPED)
def test_the_network_is_found(tmp_path, content):
    check(load(tmp_path, content))
    check(load(tmp_path, content, _use_new_zipfile_serialization=False))


def test_what_was_taken_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    load(tmp_path, {"state_dict": {f"model.{name}": value for name, value in network().items()}, "ema": network()})
    assert "took its entry state_dict" in caplog.text
    assert "ema, too; state_dict is preferred" in caplog.text
    assert "lost the prefix model. of a wrapper" in caplog.text


def test_several_networks_are_listed(tmp_path):
    with pytest.raises(CheckpointError, match=r"several entries with arrays: 'left', 'right'. Save the wanted one"):
        load(tmp_path, {"left": network(), "right": network()})


ARGUMENTS = [
    pathlib.Path("runs/a"),
    pathlib.PureWindowsPath("c:/runs"),
    argparse.Namespace(output=pathlib.Path("runs"), lr=0.1),
    Config(a=1, b=Config(c=[2])),
    History(),
    collections.defaultdict(list, {"a": [1]}),
    collections.Counter("abca"),
    {1, 2, frozenset((3,))},
    np.float64(0.5),
    np.random.RandomState(0).get_state(),
    np.random.default_rng(0),
    random.Random(0).getstate(),
    slice(1, 2),
    torch.device("cpu"),
    torch.float16,
    torch.Size([1, 2]),
    bytearray(b"abc"),
    complex(1, 2),
    2**200,
]


@pytest.mark.parametrize("value", ARGUMENTS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_else_is_in_a_file_does_not_matter(tmp_path, value, protocol):
    content = {"meta": {"arguments": [value, value]}, "state_dict": network(), "message_hub": value}
    check(load(tmp_path, content, pickle_protocol=protocol))


KINDS = [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.uint8, torch.int16,
         torch.int32, torch.int64, torch.bool]  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, torch.uint16, torch.uint32, torch.float8_e5m2, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("zipped", [True, False])
def test_kinds_of_numbers(tmp_path, kind, zipped):
    value = torch.tensor([[0, 1, 2], [3, 5, 0.5]]).to(kind)
    found = load(tmp_path, {"a.weight": value}, _use_new_zipfile_serialization=zipped)["a.weight"]
    assert_array_equal(found, value.float().numpy())
    assert (found.dtype == np.float32) == value.dtype.is_floating_point


def test_views_scalars_and_empty_tensors(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    entries = {"a": base.transpose(0, 2), "b": base[1, 1:, ::2], "c": base[0, 0, 0], "d": torch.zeros(0, 5),
               "e": torch.ones(1).expand(4, 5), "f": base, "g": torch.nn.Parameter(base[0])}  # fmt: skip
    for zipped in (True, False):
        found = load(tmp_path, entries, _use_new_zipfile_serialization=zipped)
        for name, value in entries.items():
            assert_array_equal(found[name], value.detach().numpy())


def test_sparse_tensors_become_dense(tmp_path):
    twice = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 2]], [1.0, 2.0, 4.0], (3, 4))
    assert_array_equal(load(tmp_path, {"a": twice})["a"], twice.to_dense().numpy())
    rows = torch.sparse_coo_tensor([[2, 0]], [[1.0, 2.0], [3.0, 4.0]], (3, 2))
    assert_array_equal(load(tmp_path, {"a": rows})["a"], rows.to_dense().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(2, dtype=torch.complex64), "entry 'a' holds complex numbers"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "entry 'a' is quantised"),
        (lambda: torch.ones(2, device="meta"), "entry 'a' is on the device 'meta'"),
        (lambda: torch.eye(3).to_sparse_csr(), "entry 'a' is .*layout"),
        (lambda: torch.tensor([1e300], dtype=torch.float64), r"entry 'a' holds 1e\+300, which float32 cannot hold"),
    ],
)
def test_tensors_that_are_no_arrays_are_named(tmp_path, make, message):
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, {"state_dict": {"a": make(), "b": torch.ones(1)}})


def test_whole_networks_and_programs_are_told_what_to_do(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"object of torch.nn.modules.linear.Linear.*torch.save\(model.state_dict"
    ):
        load_state_dict(tmp_path / "model.pth")
    torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(CheckpointError, match=r"program \(TorchScript\).*torch.save\(model.state_dict"):
        load_state_dict(tmp_path / "program.pt")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, not the state dict"):
        load_state_dict(tmp_path / "list.pth")


def test_a_pickle_of_arrays(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": ENTRIES, "author": "x"}))
    check(load_state_dict(tmp_path / "model.pkl"))


def test_big_endian_archives(tmp_path):
    """As torch.save writes them on machines that have the other order of bytes."""
    torch.save(network(), tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "model.pth") as archive, zipfile.ZipFile(tmp_path / "big.pth", "w") as turned:
        for name in archive.namelist():
            data = archive.read(name)
            data = np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data
            turned.writestr(name, b"big" if name.endswith("/byteorder") else data)
    check(load_state_dict(tmp_path / "big.pth"))


# --- harm ---


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.made


def calls(trap: str) -> list:
    import builtins
    import importlib
    import os
    import shutil
    import subprocess
    import sys

    write = f"open({trap!r}, 'w')"
    found = [
        Call(os.system, f"touch {trap}"),
        Call(os.mkdir, trap),
        Call(os.popen, f"touch {trap}"),
        Call(open, trap, "w"),
        Call(io.open, trap, "w"),
        Call(eval, write),
        Call(exec, write),
        Call(compile, write, "x", "exec"),
        Call(__import__, "os"),
        Call(importlib.import_module, "os"),
        Call(subprocess.Popen, ["touch", trap]),
        Call(subprocess.check_output, ["touch", trap]),
        Call(shutil.copyfile, "/etc/hostname", trap),
        Call(pathlib.Path.touch, pathlib.Path(trap)),
        Call(getattr, builtins.open, "__call__"),
        Call(setattr, sys.modules["argparse"].Namespace, "x", 1),
        Call(np.save, trap, np.ones(1)),
        Call(np.load, trap),
        Call(np.fromfile, "/etc/hostname"),
        Call(torch.save, {}, trap),
        Call(torch.load, trap),
        Call(torch.hub.load, "a", "b"),
        Call(pickle.loads, pickle.dumps(Call(open, trap, "w"))),
        Call(map, eval, [write]),
        Call(filter, eval, [write]),
        Call(sys.exit, 1),
        Call(os._exit, 1),
        Call(os.kill, os.getpid(), 9),
        Call(os.remove, __file__),
        Call(argparse.Namespace, state={"a": Call(open, trap, "w")}),
        Call(collections.OrderedDict, state={"a": Call(open, trap, "w")}),
        Call(collections.defaultdict, Call(open, trap, "w")),
        Call(bytearray, 1 << 40),
        Call(range, 1 << 60),
        Call(np.zeros, (1 << 40,)),
        Call(np.ndarray, (1 << 40,)),
    ]
    return found


RAW = [
    b"cos\nsystem\n(S'touch {trap}'\ntR.",
    b"cposix\nsystem\n(S'touch {trap}'\ntR.",
    b'c__builtin__\neval\n(S\'open("{trap}","w")\'\ntR.',
    b'cbuiltins\nexec\n(S\'open("{trap}","w")\'\ntR.',
    b"(S'touch {trap}'\nios\nsystem\n.",
    b"(cos\nsystem\nS'touch {trap}'\no.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x00\x85R.",
    b"\x80\x04\x8c\x08builtins\x8c\x10getattr.__self__\x93.",
    b"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR(S'touch {trap}'\ntR.",
    b"\x80\x02cos\nsystem\nS'touch {trap}'\n\x85\x81.",
    b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
    b"\x82\x01.",
    b"cos\nsystem\n}S'__setstate__'\ncos\nsystem\nsb.",
    b"Ptouch {trap}\n.",
]


@pytest.mark.parametrize("number", range(36))
@pytest.mark.parametrize("zipped", [True, False])
def test_no_call_is_made(tmp_path, number, zipped):
    trap, path = tmp_path / "trap", tmp_path / "model.pth"
    call = calls(str(trap))[number]
    torch.save({"args": call, "state_dict": network()}, path, _use_new_zipfile_serialization=zipped)
    check(load_state_dict(path))
    for content in ({"state_dict": call}, call):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"holds|torch.save\(model.state_dict"):
            load_state_dict(path)
    assert not trap.exists()
    assert not hasattr(argparse.Namespace, "x")


@pytest.mark.parametrize("program", RAW)
def test_no_program_is_run(tmp_path, program):
    trap = tmp_path / "trap"
    program = program.replace(b"{trap}", str(trap).encode())
    (tmp_path / "bare.pth").write_bytes(program)
    with zipfile.ZipFile(tmp_path / "zipped.pth", "w") as archive:
        archive.writestr("model/data.pkl", program)
    for name in ("bare.pth", "zipped.pth"):
        with pytest.raises(CheckpointError):
            load_state_dict(tmp_path / name)
        assert not trap.exists()


DEEP_KEY = b"(" * 200_000 + b"t" * 200_000
BOMBS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "byte array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".",
    "number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\xff.",
    "memo": b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "deep list": b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep key": b"}" + DEEP_KEY + b"Ns.",
    "no end": b"(" * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(tmp_path, name):
    (tmp_path / "model.pth").write_bytes(BOMBS[name])
    with pytest.raises(CheckpointError):
        load_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("size", [(1 << 20, 1 << 20), (1 << 40,), (1 << 62, 1 << 62)])
def test_tensors_larger_than_the_file_are_refused(tmp_path, size):
    torch.save({"a": torch.ones(1).expand(2, 3)}, tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "model.pth") as archive, zipfile.ZipFile(tmp_path / "big.pth", "w") as big:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                start = data.index(b"K\x02K\x03\x86")
                new = b"".join(b"\x8a\x09" + n.to_bytes(9, "little") for n in size)
                tail = data[start + 5 :].replace(b"K\x00K\x00\x86", b"K\x00" * len(size) + bytes([0x84 + len(size)]))
                data = data[:start] + new + bytes([0x84 + len(size)]) + tail
            big.writestr(name, data)
    with pytest.raises(CheckpointError, match="entry 'a' states more numbers than the file has|a tensor of shape"):
        load_state_dict(tmp_path / "big.pth")


def test_flipped_bits_are_found(tmp_path):
    """Archives have a checksum for each part; what a flip leaves in place is a name, or a date."""
    torch.save(network(), tmp_path / "model.pth")
    data, rng = (tmp_path / "model.pth").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "flipped.pth").write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            check(load_state_dict(tmp_path / "flipped.pth"))
