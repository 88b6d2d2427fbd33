"""Networks on the Hugging Face hub: a server on this machine stands in for it, and the real library talks to it."""

import contextlib
import dataclasses
import pathlib
import sys
import time

import cv2
import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from zoo import stand_in_hub

import jaxpose
from jaxpose import cli, main
from jaxpose.errors import CheckpointError, ConfigError, JaxposeError, StorageError
from jaxpose.evaluation import evaluator
from jaxpose.methods.heatmap import tiny
from jaxpose.runs.reader import open_network, short_name
from jaxpose.training.pretrained import load_pretrained
from jaxpose.zoo import fetching, hub, table, weights_file
from jaxpose.zoo.hub import Address
from jaxpose.zoo.weights_file import About

constants = pytest.importorskip("huggingface_hub.constants")

NAME = "lab/pose"
ADDRESS = f"hf://{NAME}"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of weights of a tiny network."""
    config = jaxpose.load_config("heatmap")
    config.method.update(tiny.FIELDS["heatmap"])
    method = jaxpose.methods.create(config.method)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights_file.write(path, config, method.init(jax.random.key(0)), About("coco", 7, {"AP": 0.5}, "tiny"))
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The hub as its owner sees it, with an empty cache."""
    for name, value in {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN_PATH": str(tmp_path / "token"),
                        "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    for name in ("JAXPOSE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with stand_in_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in ("constants", "file_download"):  # read once, and copied by releases before 1.0
            monkeypatch.setattr(f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setenv("HF_TOKEN", stand_in_hub.TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def pushed(server, file):
    """The hub with the file in a repository."""
    jaxpose.push_to_hub(file, NAME)
    return server


def stranger(monkeypatch):
    """Makes the user somebody else, who has no token."""
    monkeypatch.delenv("HF_TOKEN")


def people(source):
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    return jaxpose.load(source, batch_size=8)([image])[0]


def equal(ours, theirs):
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert_array_equal(mine, other)


# --- addresses ---


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("hf://lab/pose", Address("lab/pose")),
        ("hf://lab/pose@v1.0", Address("lab/pose", "v1.0")),
        ("hf://lab/pose@refs/pr/1", Address("lab/pose", "refs/pr/1")),
        (pathlib.Path("hf://lab/pose@v1"), Address("lab/pose", "v1")),
        ("runs/pose", None),
        ("hf/pose", None),
        (pathlib.Path("/data/hf:/pose"), None),
    ],
)
def test_addresses(source, address):
    assert hub.parse(source) == address


@pytest.mark.parametrize(
    "source", ["hf://pose", "hf://lab/pose/model.pth", "hf://lab/pose@", "hf://", "hf:///lab/pose"]
)
def test_addresses_of_no_repository(source):
    with pytest.raises(ConfigError, match="expected hf://ORG/NAME or hf://ORG/NAME@REVISION"):
        open_network(source)


# --- there and back ---


@pytest.mark.parametrize("is_lfs", [True, False], ids=["large files apart", "all in the commit"])
def test_there_and_back(server, file, is_lfs, caplog):
    server.is_lfs = is_lfs
    assert cli.main(["push-to-hub", str(file), NAME, "--licence=apache-2.0"]) == 0
    repository = server.repositories[NAME]
    assert f"{server.url}/{NAME}; it opens as {ADDRESS}" in caplog.text
    assert [set(files) for files in repository.commits] == [{"model.safetensors", "README.md"}]
    assert repository.messages == ["Weights of tiny"]
    assert not repository.private
    assert 'license: "apache-2.0"' in repository.commits[0]["README.md"].decode()
    assert repository.commits[0]["model.safetensors"] == file.read_bytes()
    ours, theirs = people(ADDRESS), people(file)
    assert_array_equal(ours.keypoints, theirs.keypoints)
    assert_array_equal(ours.scores, theirs.scores)


def test_commands_take_an_address(pushed, file, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    for name, source in (("ours", ADDRESS), ("theirs", file)):
        assert cli.main(["predict", str(source), str(tmp_path / "a.png"), f"--output={tmp_path / name}"]) == 0
    ours, theirs = ((tmp_path / name / "poses.json").read_text() for name in ("ours", "theirs"))
    assert ours == theirs
    assert cli.main(["export-weights", ADDRESS, str(tmp_path / "copy.safetensors")]) == 0
    assert (tmp_path / "copy.safetensors").read_bytes() == file.read_bytes()


def test_a_detector_is_looked_for_there(pushed, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((90, 70, 3), np.uint8))
    flags = [f"--detector={ADDRESS}@v9", f"--output={tmp_path / 'out'}"]
    assert cli.main(["predict", ADDRESS, str(tmp_path / "a.png"), *flags]) == 1
    assert f"{ADDRESS}@v9: has no revision 'v9'" in capsys.readouterr().err


def test_training_starts_from_it(pushed, file):
    content = weights_file.read(file)
    equal(load_pretrained(ADDRESS, content.method), content.variables)


def test_results_of_an_evaluation_go_into_runs(pushed, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluator, "evaluate", lambda config, workdir, **options: asked.append((workdir, options)))
    main.evaluate_weights(ADDRESS + "@main", None, {})
    assert asked == [("runs/pose", {"weights": ADDRESS + "@main", "like": ""})]


def test_short_names(file, tmp_path):
    sources = ("hf://lab/pose@refs/pr/1", file, tmp_path, "hrnet-w32-coco")
    assert [short_name(source) for source in sources] == ["pose", "tiny", tmp_path.name, "hrnet-w32-coco"]


def test_revisions(pushed, file):
    jaxpose.push_to_hub(file, NAME, dtype="float16")
    repository = pushed.repositories[NAME]
    sizes = [len(files["model.safetensors"]) for files in repository.commits]
    assert sizes[1] < 0.8 * sizes[0]
    for address, number in ((ADDRESS, 1), (f"{ADDRESS}@main", 1), (f"{ADDRESS}@{repository.sha(0)}", 0)):
        assert hub.download(hub.parse(address)).stat().st_size == sizes[number]
    with pytest.raises(CheckpointError, match="pose@v9: has no revision 'v9'"):
        open_network(f"{ADDRESS}@v9")


def test_a_row_of_the_zoo_comes_from_there(pushed, file, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(tmp_path))
    row = dataclasses.replace(table.find("vitpose-b-coco"), hub=NAME, sha256="")
    assert fetching.find_file(row).read_bytes() == file.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"vitpose-b-coco: .*has no file pose.pth.*\. Else download pose.pth from"
    ):
        fetching.find_file(dataclasses.replace(row, file="pose.pth"))


# --- downloads ---


def test_a_file_is_downloaded_once(pushed, monkeypatch):
    paths = {hub.download(Address(NAME)) for _ in range(2)}
    assert len(paths) == 1
    assert pushed.fetches() == [0]
    monkeypatch.setenv("JAXPOSE_OFFLINE", "1")
    before = len(pushed.asked)
    assert hub.download(Address(NAME)) in paths
    assert len(pushed.asked) == before


@pytest.mark.parametrize("name", ["JAXPOSE_OFFLINE", "HF_HUB_OFFLINE"])
def test_downloads_that_are_forbidden(pushed, monkeypatch, name):
    before = len(pushed.asked)
    monkeypatch.setenv(name, "1")
    with pytest.raises(CheckpointError, match=f"model.safetensors is not in the hub's cache, and {name} is set"):
        open_network(ADDRESS)
    assert len(pushed.asked) == before


def test_a_download_that_broke_off_goes_on(pushed, file, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    pushed.cuts = [3000, 5000]
    while pushed.cuts:
        with contextlib.suppress(CheckpointError):  # releases before 1.0 go on in the next call
            hub.download(Address(NAME))
    assert hub.download(Address(NAME)).read_bytes() == file.read_bytes()
    assert pushed.fetches() == [0, 3000, 5000]


def test_a_damaged_download_is_repeated(pushed, file):
    pushed.damage = 1
    assert hub.download(Address(NAME)).read_bytes() == file.read_bytes()
    assert pushed.fetches() == [0, 0]


def test_a_download_that_stays_damaged(pushed, file, monkeypatch):
    pushed.damage = 2
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged, and came so again"):
        open_network(ADDRESS)
    monkeypatch.setenv("JAXPOSE_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged, and JAXPOSE_OFFLINE is set"):
        open_network(ADDRESS)
    monkeypatch.delenv("JAXPOSE_OFFLINE")
    assert hub.download(Address(NAME)).read_bytes() == file.read_bytes()


def test_a_hub_that_is_away(pushed, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"the hub cannot be used now \(.*refused"):
        hub.download(Address(NAME))
    monkeypatch.setenv("HF_ENDPOINT", pushed.url)
    path = hub.download(Address(NAME))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.download(Address(NAME)) == path


# --- what the hub refuses ---


def test_nothing_there(server):
    with pytest.raises(CheckpointError, match="nobody/pose: there is no such repository, or it is not for everybody"):
        open_network("hf://nobody/pose")


def test_a_name_that_the_hub_does_not_allow(server, file):
    with pytest.raises(CheckpointError, match="hf://lab/po--se: the hub allows no such name"):
        open_network("hf://lab/po--se")
    with pytest.raises(StorageError, match="hf://lab/po--se: the hub allows no such name"):
        jaxpose.push_to_hub(file, "lab/po--se")


def test_private_ones(server, file, monkeypatch, tmp_path):
    assert cli.main(["push-to-hub", str(file), NAME, "--private"]) == 0
    assert server.repositories[NAME].private
    assert hub.download(Address(NAME)).read_bytes() == file.read_bytes()
    stranger(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    with pytest.raises(
        CheckpointError, match=r"not for everybody: check the name, or log in by `hf auth login`, or set"
    ):
        open_network(ADDRESS)


def test_ones_to_ask_for(pushed):
    pushed.repositories[NAME].gated = True
    with pytest.raises(CheckpointError, match="gives it to those who ask on its page"):
        open_network(ADDRESS)


def test_a_repository_without_such_a_file(pushed):
    pushed.repositories[NAME].commits[0].pop("model.safetensors")
    with pytest.raises(CheckpointError, match="has no file model.safetensors, which `jaxpose push-to-hub` writes"):
        open_network(ADDRESS)


def test_a_file_of_another_program(pushed):
    pushed.repositories[NAME].commits[0]["model.safetensors"] = b"{}"
    with pytest.raises(CheckpointError, match="it is damaged or something else"):
        open_network(ADDRESS)


def test_a_push_without_a_token(server, file, monkeypatch):
    stranger(monkeypatch)
    with pytest.raises(StorageError, match="the hub wants to know you: log in by `hf auth login`, or set HF_TOKEN"):
        jaxpose.push_to_hub(file, NAME)
    assert server.asked == []


def test_a_push_with_a_wrong_token(server, file, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(StorageError, match="check the name, or log in"):
        jaxpose.push_to_hub(file, NAME)


def test_a_push_that_is_not_allowed(server, file):
    server.readonly = True
    with pytest.raises(StorageError, match=r"your token may not do this .*with one that may"):
        jaxpose.push_to_hub(file, NAME)


def test_a_push_while_uploads_are_forbidden(server, file, monkeypatch):
    monkeypatch.setenv("JAXPOSE_OFFLINE", "1")
    with pytest.raises(StorageError, match="JAXPOSE_OFFLINE is set, so nothing is uploaded"):
        jaxpose.push_to_hub(file, NAME)


def test_a_licence_that_the_hub_does_not_know(server, file):
    with pytest.raises(StorageError, match=r'Invalid metadata in README.md. - "license" must be one of'):
        jaxpose.push_to_hub(file, NAME, licence="mine")
    assert server.repositories[NAME].commits == []


@pytest.mark.parametrize("name", ["pose", "lab/pose/1", "lab/po se", "hf://lab/pose", ""])
def test_a_push_to_no_repository(server, file, name):
    with pytest.raises(ConfigError, match="is no repository of the hub; expected ORG/NAME"):
        jaxpose.push_to_hub(file, name)


def test_what_is_to_be_private_is_not_added_to_what_everybody_sees(pushed, file):
    with pytest.raises(ConfigError, match=f"everybody sees it; make it private at {pushed.url}/{NAME}/settings"):
        jaxpose.push_to_hub(file, NAME, private=True)
    assert len(pushed.repositories[NAME].commits) == 1


def test_a_push_of_nothing(server, tmp_path):
    with pytest.raises(CheckpointError, match="has no config.json"):
        jaxpose.push_to_hub(tmp_path, NAME)
    assert server.asked == []


@pytest.mark.parametrize("call", [lambda file: open_network(ADDRESS), lambda file: jaxpose.push_to_hub(file, NAME)])
def test_without_the_library(server, file, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(JaxposeError, match=r"hf://lab/pose: pip install 'jaxpose\[hub\]' to use the Hugging Face hub"):
        call(file)
