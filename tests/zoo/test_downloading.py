"""Files are downloaded whole or not at all: a server on this machine answers as the test wants."""

import dataclasses
import hashlib
import http.server
import threading

import pytest

from jaxpose.errors import CheckpointError, StorageError
from jaxpose.zoo import fetching, table
from jaxpose.zoo.downloading import download

CONTENT = bytes(range(256)) * 5000


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `cut` is the number of bytes after which it breaks off, `ranges` whether it can go on."""

    content, cut, ranges = CONTENT, None, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        content = self.server.content[first:]
        if self.path != "/weights.pth" or not content:
            self.send_error(416 if wanted else 404)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def row(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPOSE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("JAXPOSE_OFFLINE")
    digest = hashlib.sha256(CONTENT).hexdigest()[:8]
    return dataclasses.replace(table.find("hrnet-w32-coco"), file="weights.pth", sha256=digest, url=server.url)


def test_a_file_is_downloaded_once(server, row):
    for _ in range(2):
        found = fetching.find_file(row)
        assert found == fetching.place(row)
        assert found.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [path.name for path in found.parent.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("ranges", [True, False], ids=["goes on", "from the start"])
def test_a_download_that_broke_off(server, row, ranges):
    server.cut = 300_000
    with pytest.raises(CheckpointError, match=r"300,000 of 1,280,000 bytes came; the same command goes on"):
        fetching.find_file(row)
    assert not fetching.place(row).exists()
    server.cut, server.ranges = None, ranges
    assert fetching.find_file(row).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_download_of_which_nothing_is_missing(server, row):
    partial = fetching.place(row).with_name("weights.pth.partial")
    partial.parent.mkdir()
    partial.write_bytes(CONTENT)
    assert fetching.find_file(row).read_bytes() == CONTENT


def test_another_file_is_refused_and_forgotten(server, row):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(CheckpointError, match=f"that of the published file with {row.sha256}"):
        fetching.find_file(row)
    assert not list(fetching.place(row).parent.iterdir())
    server.content = CONTENT
    assert fetching.find_file(row).read_bytes() == CONTENT


def test_what_is_there_is_not_asked_for(server, row):
    fetching.place(row).parent.mkdir()
    fetching.place(row).write_bytes(CONTENT)
    fetching.find_file(row)
    assert server.asked == []


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "JAXPOSE_OFFLINE"])
def test_downloads_that_are_forbidden(server, row, name, monkeypatch):
    monkeypatch.setenv(name, "1")
    with pytest.raises(CheckpointError, match=f"{name} is set, .* Else download weights.pth from .* and put it at"):
        fetching.find_file(row)
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9/weights.pth", "cannot be reached"),
        ("http://no.such.host.invalid/weights.pth", "cannot be reached"),
        ("weights.pth", "cannot be reached"),
        ("", "answers 404"),
    ],
)
def test_addresses_that_give_nothing(server, row, url, why):
    row = dataclasses.replace(row, url=url or server.url.replace("weights", "others"))
    with pytest.raises(CheckpointError, match=rf"hrnet-w32-coco: cannot be downloaded: .*{why}.* Else download"):
        fetching.find_file(row)


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXPOSE_OFFLINE")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        download(server.url, tmp_path / "file" / "weights.pth")
