"""Every file of the zoo opens as the network that it is, in each style of names and behind every wrapper's prefix."""

import dataclasses
import functools
import math

import jax
import pytest
from zoo import published

from jaxpose import load_config, methods
from jaxpose.convert.state_dicts import without_prefixes
from jaxpose.methods.base import Method
from jaxpose.zoo import table
from jaxpose.zoo.recognition import recognize

ELSEWHERE = {
    "hourglass52-coco": "its names are mmpose's own; a parity case holds all of them",
    "vitpose-plus-s": "its experts are mmpose's own names; a parity case holds all of them",
}
"""{row: why its entries are not built here}."""
WRAPPERS = ("module.", "module.module.", "_orig_mod.", "model.", "module._orig_mod.")
TOLD = {"num_classes", "person_class", "experts", "expert_features", "gated", "deconv_features"}
"""Fields that the file tells and the config may leave open."""


def method_of(row) -> Method:
    """The network that a row describes."""
    fields = load_config(row.config).method.to_dict() | dict(row.method)
    if row.name.startswith("videopose3d"):
        fields |= {"gated": False, "widths": (3, 3, 3) if row.name.endswith("27") else (3,) * 5}
    if row.config == "prtr:detector_coco":
        fields |= {"num_classes": 91, "person_class": 1, "backbone": "resnet101" if "101" in row.name else "resnet50"}
    return methods.create(fields)


ROWS = [row for row in table.rows() if not row.is_packaged and row.name not in ELSEWHERE]
CASES = [
    pytest.param(row, style, id=f"{row.name}-{style}")
    for row in ROWS
    for style in published.styles_of(load_config(row.config).method.name, method_of(row))
]


@functools.cache
def entries(name: str, method: Method, style: str) -> published.Shapes:
    return published.BUILDERS[name][0](method, style)


@functools.cache
def numbers_of(method: Method) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(method.init, jax.random.key(0))))


@pytest.mark.parametrize(("row", "style"), CASES)
def test_entries_open_as_the_network_of_their_row(row, style):
    name, method = load_config(row.config).method.name, method_of(row)
    shapes = entries(name, method, style)
    found, told = recognize(shapes, row.file)
    assert found == name
    assert told.joints in (None, method.joints.num_joints)
    assert {field: getattr(method, field) for field in told.fields.keys() - TOLD} == {
        field: value for field, value in told.fields.items() if field not in TOLD
    }
    opened = dataclasses.replace(method, **{field: told.fields[field] for field in TOLD & told.fields.keys()})
    counted = (math.prod(shape) for entry, shape in shapes.items() if not entry.endswith(published.UNUSED))
    assert sum(counted) == numbers_of(opened)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("style", ["authors", "mmpose 1.x", "mmpose 0.x", "transformers"])
def test_wrappers_make_no_difference(style, wrapper):
    for row in ROWS:
        name, method = load_config(row.config).method.name, method_of(row)
        if style in published.styles_of(name, method):
            shapes = entries(name, method, style)
            kept, gone = without_prefixes({wrapper + entry: shape for entry, shape in shapes.items()})
            assert (kept, gone) == (shapes, wrapper)


def test_rows_that_are_left_out_are_there():
    assert set(ELSEWHERE) <= {row.name for row in table.rows()}
