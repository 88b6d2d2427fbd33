"""Weights that come with the package: whole, small, of the config that the table names, and of use."""

import hashlib

import numpy as np
import pytest

from jaxpose import load_config, methods
from jaxpose.convert.files import load_arrays
from jaxpose.runs.reader import open_network
from jaxpose.zoo import fetching, table

ROWS = [row for row in table.rows() if row.is_packaged]
MOST_BYTES = 8 << 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
class TestPackaged:
    def test_the_file_is_the_one_of_the_table(self, row):
        path = fetching.find_file(row)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256
        params = (array for name, array in load_arrays(path).items() if name.startswith("params/"))
        assert {array.dtype for array in params} == {np.dtype(np.float16)}

    def test_its_config_is_the_one_of_the_table(self, row):
        content = open_network(row.name)
        assert content.method == methods.create(load_config(row.config).method)
        assert content.about.data == "marionettes"
        assert content.about.step == content.config.train.steps == load_config(row.config).train.steps
        scores = content.about.scores.values()
        assert row.measured in {f"{score if score > 1 else 100 * score:.1f}" for score in scores}

    def test_the_command_names_the_config(self, row):
        assert f"--config={row.config}" in row.command
        assert row.measured


def test_all_are_small():
    assert 0 < sum(fetching.find_file(row).stat().st_size for row in ROWS) <= MOST_BYTES
