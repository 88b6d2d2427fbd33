"""The table of released weights: every row makes sense, and files find their rows."""

import pytest

from jaxpose import load_config, methods
from jaxpose import skeleton as skeletons
from jaxpose.cli import zoo
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.methods.base import Method
from jaxpose.zoo import fetching, table

ROWS = pytest.mark.parametrize("row", table.rows(), ids=lambda row: row.name)


@ROWS
def test_a_row_is_complete(row):
    """Its config exists, its fields are the method's, and a digest is that of the file's name where that has one."""
    method = dict(load_config(row.config).method) | dict(row.method)
    assert skeletons.get(method.get("skeleton", "coco"))
    opens = type(methods.create(method)).recognize.__func__ is not Method.recognize.__func__
    assert opens or row.is_packaged, "nobody can open it"
    assert row.page.startswith("https://")
    assert row.paper
    assert row.licence
    assert bool(row.published or row.measured) == bool(row.protocol)
    assert row.is_packaged == bool(row.measured)
    if row.sha256 and not row.is_packaged:
        assert row.sha256 in row.file


def test_names_and_files_are_unique():
    names = [row.name for row in table.rows()]
    assert len(set(names)) == len(names)
    files = [(row.hub, row.file) for row in table.rows()]
    assert len(set(files)) == len(files)


@ROWS
def test_a_file_finds_its_row(row, tmp_path):
    folder = tmp_path / (f"models--{row.hub.replace('/', '--')}" if row.hub else "downloads") / "snapshots"
    assert table.of_file(folder / row.file.replace("*", "x")) == row


@pytest.mark.parametrize("name", ["model.safetensors", "best.pth", "hrnet.npz", "td-hm_hrnet-w32.pth"])
def test_other_files_have_no_row(name):
    assert table.of_file(name) is None


def test_a_name_that_is_nearly_one():
    with pytest.raises(
        ConfigError, match="no weights called 'hrnet-w32-cocoo' in the zoo. Did you mean 'hrnet-w32-coco'"
    ):
        table.find("hrnet-w32-cocoo")


# --- getting them ---


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(tmp_path))
    return tmp_path


def test_what_to_download_and_where_to_put_it(weights):
    row = table.find("higherhrnet-w32-coco")
    with pytest.raises(CheckpointError) as caught:
        fetching.find_file(row)
    for part in (row.file, row.page, row.licence, str(weights / row.file)):
        assert part in str(caught.value)


def test_another_file_of_that_name_is_refused(weights):
    row = table.find("higherhrnet-w32-coco")
    (weights / row.file).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="its SHA-256 begins with .*, that of the published file with 8ae85183"):
        fetching.find_file(row)


def test_files_of_one_name_lie_in_folders_of_their_own(weights):
    row = table.find("vitpose-b-coco")
    place = weights / "vitpose-b-coco" / "model.safetensors"
    place.parent.mkdir()
    place.write_bytes(b"")
    assert fetching.find_file(row) == place
    assert table.of_file(place) == row


# --- the command ---


@pytest.mark.parametrize("wanted", ["", "vitpose", "mpii", "HigherHRNet"])
def test_the_command_lists(wanted, capsys):
    assert zoo.main([wanted] if wanted else []) == 0
    printed = capsys.readouterr().out
    for row in table.rows():
        assert (row.name in printed.split()) == (wanted.lower() in f"{row.name} {row.paper} {row.config}".lower())


@ROWS
def test_the_command_tells_all_about_one(row, capsys):
    assert zoo.main([row.name]) == 0
    printed = capsys.readouterr().out
    use = "lift" if "anatomy3d" in row.config else "predict"
    for part in (row.paper, row.page, row.licence, row.published, row.measured, f"jaxpose {use} {row.name}"):
        assert part in printed


def test_the_command_knows_no_such_weights(capsys):
    assert zoo.main(["vitpoze-b-coco"]) == 2
    assert "Did you mean 'vitpose-b-coco'" in capsys.readouterr().err
