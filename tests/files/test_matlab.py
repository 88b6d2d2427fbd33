"""MATLAB's files, as scipy writes and reads them, and damaged ones, which scipy does not survive."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose.errors import DataError
from jaxpose.files.matlab import read_variable

NUMBERS = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 99, shape).astype(dtype),
    st.sampled_from(["f8", "f4", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "c16"]),
    st.lists(st.integers(0, 3), min_size=2, max_size=4),
    st.integers(0, 9),
)
TEXTS = st.text(
    st.characters(codec="utf-16", exclude_categories=("Cs",), min_codepoint=32, max_codepoint=65535), max_size=9
)


def cells(values: list) -> np.ndarray:
    found = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        found[0, i] = value
    return found


def records(values: list) -> np.ndarray:
    """A row of structures with two fields."""
    found = np.empty((1, len(values)), [("x", object), ("name", object)])
    for i, value in enumerate(values):
        found[0, i] = value, f"record {i}"
    return found


NAMES = st.sampled_from(["a", "b", "annopoints", "is_visible"])
VALUES = st.recursive(
    NUMBERS | TEXTS | st.floats(allow_nan=False) | st.integers(-9, 300),
    lambda inner: (
        st.lists(inner, max_size=4).map(cells)
        | st.dictionaries(NAMES, inner, min_size=1)
        | st.lists(inner, min_size=1, max_size=4).map(records)
    ),
    max_leaves=12,
)


def plain(value):
    """A value as what can be compared: arrays as type, shape and list, structures as dictionaries."""
    if hasattr(value, "_fieldnames"):  # scipy's
        return {name: plain(getattr(value, name)) for name in value._fieldnames}
    if hasattr(value, "__dict__") and not isinstance(value, np.ndarray):
        return {name: plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, np.ndarray):
        kind = value.dtype.newbyteorder("=").str if value.dtype.kind not in "OU" else value.dtype.kind
        return kind, value.shape, [plain(item) for item in value.ravel().tolist()]
    return value


def written(value, compress=True) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"before": 1.0, "value": value, "after": "x"}, do_compression=compress)
    return file.getvalue()


@settings(max_examples=150, deadline=None)
@given(value=VALUES, compress=st.booleans(), squeeze=st.booleans())
def test_values_are_those_of_scipy(tmp_path_factory, value, compress, squeeze):
    data = written(value, compress)
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    path.write_bytes(data)
    expected = scipy.io.loadmat(io.BytesIO(data), squeeze_me=squeeze, struct_as_record=False)["value"]
    assert plain(read_variable(path, "value", squeeze)) == plain(expected)


def test_a_missing_variable(tmp_path):
    (tmp_path / "x.mat").write_bytes(written(1.0))
    assert read_variable(tmp_path / "x.mat", "joints") is None


def big_endian() -> bytes:
    """A file as machines of the other order write it: doubles 1 to 6, text, and a small number in its tag."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">2I", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    def matrix(name: bytes, kind: int, shape: tuple, content: bytes) -> bytes:
        parts = element(6, struct.pack(">2I", kind, 0)), element(5, struct.pack(f">{len(shape)}i", *shape))
        return element(14, b"".join([*parts, element(1, name), content]))

    small = struct.pack(">2HBxxx", 1, 2, 7)
    return b"".join(
        [
            b"MATLAB 5.0".ljust(124) + struct.pack(">H", 0x0100) + b"MI",
            matrix(b"numbers", 6, (2, 3), element(9, struct.pack(">6d", *range(1, 7)))),
            matrix(b"text", 4, (1, 2), element(4, struct.pack(">2H", *b"ab"))),
            matrix(b"small", 6, (1, 1), small),
        ]
    )


def test_the_other_order_of_bytes(tmp_path):
    (tmp_path / "x.mat").write_bytes(big_endian())
    for name in ("numbers", "text", "small"):
        expected = scipy.io.loadmat(tmp_path / "x.mat")[name]
        np.testing.assert_array_equal(read_variable(tmp_path / "x.mat", name), expected)
    np.testing.assert_array_equal(read_variable(tmp_path / "x.mat", "numbers"), [[1, 3, 5], [2, 4, 6]])


@pytest.mark.parametrize("compress", [True, False])
def test_flipped_bits(tmp_path, compress):
    """No flip ends the process or raises anything else; within compressed data each one is found."""
    data = written(records([np.arange(12.0).reshape(3, 4), cells(["a", 1.0])]), compress)
    expected, rng = None, np.random.default_rng(0)
    for i in range(1500):
        changed = bytearray(data)
        if i:
            changed[rng.integers(128, len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "x.mat").write_bytes(changed)
        try:
            found = plain(read_variable(tmp_path / "x.mat", "value", squeeze=True))
        except DataError:
            assert i
            continue
        expected = expected or found
        assert found in (expected, None) or not compress


def nested(depth: int) -> bytes:
    value = 1.0
    for _ in range(depth):
        value = cells([value])
    return written(value)


def with_size(*sizes: int) -> bytes:
    """A file whose variable states another shape."""
    data = written(np.ones((3, 4)), compress=False)
    return data.replace(struct.pack("<2i", 3, 4), struct.pack("<2i", *sizes))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no complete .mat file .* fetch it again"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "version 7.3; save it as version 7"),
        (written(1.0)[:150], "is cut off"),
        (nested(100), "in each other more than 30 times"),
        (with_size(1 << 30, 1 << 30), r"shape \(1073741824, 1073741824\) has 96 bytes"),
        (with_size(-1, -12), r"has sizes \[-1, -12\]"),
    ],
)
def test_damaged_files_are_named(tmp_path, data, message):
    (tmp_path / "x.mat").write_bytes(data)
    with pytest.raises(DataError, match=f"x.mat: .*{message}"):
        read_variable(tmp_path / "x.mat", "value")


def test_a_file_that_grows_too_much(tmp_path):
    packed = zlib.compress(b"\0" * (300 << 20), 9)
    (tmp_path / "x.mat").write_bytes(written(1.0)[:128] + struct.pack("<2I", 15, len(packed)) + packed)
    with pytest.raises(DataError, match="has more than 268,435,456 bytes"):
        read_variable(tmp_path / "x.mat", "value")
