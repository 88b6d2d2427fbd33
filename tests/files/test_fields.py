"""What a field of a record may hold: nothing is rounded, cut off or narrowed before it has been checked."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxpose.files import fields
from jaxpose.files.fields import FieldError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
)
UNUSABLE = ["", "a1b2-c3", "1_000", "٣", [], {}, [1], True, math.nan, math.inf, -math.inf, 1e300, 10**400]


@pytest.mark.parametrize("value", [*UNUSABLE, 2.7, 64.9, "2.7", 2**63])
def test_no_whole_number(value):
    with pytest.raises(FieldError, match="field 'id' is .*, expected a whole number"):
        fields.whole({"id": value}, "id")


@pytest.mark.parametrize("value", UNUSABLE)
def test_no_number(value):
    with pytest.raises(FieldError, match="field 'area' is .*, expected a finite number"):
        fields.number({"area": value}, "area")


@pytest.mark.parametrize("value", [*UNUSABLE[:-4], 2, -1, 0.5, "yes"])
def test_no_flag(value):
    if value is not True:
        with pytest.raises(FieldError, match="expected 0 or 1"):
            fields.flag({"iscrowd": value}, "iscrowd")


@pytest.mark.parametrize("value", [None, math.nan, 1e300, "x", True, [1]])
def test_one_bad_number_of_a_list_is_named(value):
    with pytest.raises(FieldError, match=r"field 'bbox' holds .*, expected finite numbers"):
        fields.numbers({"bbox": [1, 2, value, 4]}, "bbox", 4)


def test_limits_are_named():
    with pytest.raises(FieldError, match="field 'width' is 70000, expected a whole number from 1 to 65,535"):
        fields.whole({"width": 70000}, "width", least=1, most=65535)
    with pytest.raises(FieldError, match="field 'area' is -0.5, expected a finite number from 0"):
        fields.number({"area": -0.5}, "area", least=0)
    assert fields.number({"area": "0"}, "area", least=0) == 0


def test_what_is_wrong_can_be_counted_without_what_was_found():
    found = []
    for value in (-1, 1e300):
        with pytest.raises(FieldError) as error:
            fields.number({"area": value}, "area", least=0)
        found.append((error.value.reason, error.value.found))
    assert found == [("field 'area': expected a finite number from 0", f"is {v}") for v in (-1, 1e300)]
    with pytest.raises(FieldError) as error:
        fields.number({}, "area")
    assert (error.value.reason, error.value.found) == ("field 'area' is missing", "")


@pytest.mark.parametrize("value", ["", "a\0b", "\ud800.jpg", "x" * 4097, 5, True, ["a"]])
def test_no_text(value):
    with pytest.raises(FieldError, match="field 'file_name' is .*, expected text"):
        fields.text({"file_name": value}, "file_name")


def test_text_of_any_language():
    assert fields.text({"file_name": "Bänder/图.jpg"}, "file_name") == "Bänder/图.jpg"


@pytest.mark.parametrize("read", [fields.number, fields.whole, fields.flag, fields.text, fields.numbers])
def test_null_is_missing(read):
    for record in ({}, {"x": None}):
        with pytest.raises(FieldError, match="field 'x' is missing"):
            read(record, "x")
    assert fields.whole({"x": None}, "x", missing=-1) == -1


def test_numbers_of_numpy_are_numbers():
    assert fields.number({"x": np.float32(0.5)}, "x") == 0.5
    assert fields.whole({"x": np.int64(7)}, "x") == 7
    assert fields.flag({"x": np.True_}, "x") is True
    assert fields.numbers({"x": np.arange(3)}, "x", 3).tolist() == [0, 1, 2]
    assert fields.numbers({"x": [np.float64(1), 2]}, "x", 2).tolist() == [1, 2]
    with pytest.raises(FieldError):
        fields.number({"x": np.float32("nan")}, "x")
    with pytest.raises(FieldError):
        fields.number({"x": np.True_}, "x")


@given(JSON)
def test_any_value_is_used_as_it_is_or_refused(value):
    """Whatever JSON holds: a value that stands for the same number, or `FieldError`."""
    for read in (fields.number, fields.whole, fields.flag):
        try:
            found = read({"x": value}, "x")
        except FieldError:
            continue
        assert float(found) == float(value)
    try:
        found = fields.numbers({"x": value}, "x")
    except FieldError:
        return
    assert found.tolist() == [float(v) for v in value]
    assert np.isfinite(found.astype(np.float32)).all()
