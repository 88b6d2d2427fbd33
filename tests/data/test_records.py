"""A source written as records is the same source."""

import hashlib

import numpy as np
import pytest
import tiny

from jaxpose.data import records
from jaxpose.data.sources import open_source
from jaxpose.data.sources.records import open_records
from jaxpose.errors import DataError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(tiny.config(tiny.write_coco(tmp_path_factory.mktemp("coco"))).data, "train")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    return records.write({"train": source}, tmp_path_factory.mktemp("records"))


def test_same_images_and_labels(source, folder):
    copy = open_records(folder, "train")
    assert len(copy) == len(source)
    assert copy.annotations.skeleton == source.annotations.skeleton
    for i in range(len(source)):
        ours, theirs = copy[i], source[i]
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_equal_data_give_equal_files(source, folder, tmp_path):
    again = records.write({"train": source}, tmp_path)
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(p.name for p in again.iterdir())
    assert [digest(folder / n) for n in names] == [digest(again / n) for n in names]


def test_missing_split_and_folder(folder, tmp_path):
    with pytest.raises(DataError, match=r"has no split 'validation'; there are \['train'\]"):
        open_records(folder, "validation")
    with pytest.raises(DataError, match="has no dataset_info.json"):
        open_records(tmp_path, "train")
