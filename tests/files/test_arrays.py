"""Files of arrays: what NumPy writes, what it would read without end, and what changed on its way."""

import io
import struct
import zipfile

import numpy as np
import pytest

from jaxpose.errors import DataError
from jaxpose.files.arrays import read_npz, write_npz

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column major": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">i4"),
    "text": np.array(["x", "yz"]),
    "number": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "flags": np.array([True, False]),
    "half": np.array([0.5], np.float16),
    "records": np.array([(1, 2.0)], [("n", "i4"), ("x", "f8")]),
}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, lambda path, **arrays: write_npz(path, arrays)])
def test_arrays_come_back(tmp_path, write):
    write(tmp_path / "x.npz", **ARRAYS)
    with np.load(tmp_path / "x.npz") as expected:
        found = read_npz(tmp_path / "x.npz")
        assert list(found) == expected.files
        for name, array in ARRAYS.items():
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], array)
            assert found[name].flags.writeable
    assert set(read_npz(tmp_path / "x.npz", ["a", "text"])) == {"a", "text"}


def test_equal_arrays_give_equal_bytes(tmp_path):
    write_npz(tmp_path / "one.npz", ARRAYS)
    write_npz(tmp_path / "two.npz", ARRAYS)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_every_flipped_bit_is_found(tmp_path):
    write_npz(tmp_path / "x.npz", {"params/a": np.arange(40, dtype=np.float32), "params/b": np.zeros(3)})
    data = (tmp_path / "x.npz").read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        (tmp_path / "x.npz").write_bytes(changed)
        with pytest.raises(DataError, match=r"x.npz: "):
            read_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("keep", [0, 1, 30, 200, -1])
def test_a_file_that_is_cut_off(tmp_path, keep):
    write_npz(tmp_path / "x.npz", ARRAYS)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:keep])
    with pytest.raises(DataError, match="is not an .npz file, or a damaged one|is damaged"):
        read_npz(tmp_path / "x.npz")


def with_header(header: str, values: bytes = b"\0" * 8) -> bytes:
    """An array whose header says what it likes."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values


def archive(member: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("a.npy", member)
    return file.getvalue()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (500000000000,), }",
            "states shape .500000000000,.*has 8",
        ),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", "states shape .-1,"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }", r"states shape \(1, 2\) of float64"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 1), }", r"states shape \(0, 1\) of float64"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "holds Python objects, which are not read"),
        ("{'descr': 'nothing', 'fortran_order': False, 'shape': (1,), }", "has no readable header"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 60, "has no readable header"),
        ("__import__('os').system('true')", "has no readable header"),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (4000000000000,), }", "states shape|cannot be held"),
    ],
)
def test_headers_are_compared_with_what_is_there(tmp_path, header, message):
    (tmp_path / "x.npz").write_bytes(archive(with_header(header)))
    with pytest.raises(DataError, match=f"x.npz: array 'a' {message}"):
        read_npz(tmp_path / "x.npz")


def test_archives_that_grow_too_much(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("a.npy", b"\0" * (300 << 20))
    with pytest.raises(DataError, match="states to hold 314,572,800 bytes in its .*; at most 268,435,456 are read"):
        read_npz(tmp_path / "x.npz")


def test_what_is_missing_is_named(tmp_path):
    write_npz(tmp_path / "x.npz", ARRAYS)
    with pytest.raises(DataError, match=r"lacks the arrays \['joints'\]; it has \['a', "):
        read_npz(tmp_path / "x.npz", ["a", "joints"])
    with pytest.raises(DataError, match="none.npz: cannot be read .No such file"):
        read_npz(tmp_path / "none.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as written:
        for _ in range(2):
            written.writestr("a.npy", with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"))
    with pytest.raises(DataError, match="two members of one name"):
        read_npz(tmp_path / "x.npz")
