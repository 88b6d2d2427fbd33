"""A Hugging Face hub on this machine: repositories in memory, and the answers that the library asks for."""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TOKEN = "hf_of_the_owner"
LARGE = (".safetensors",)


class Repository:
    """Commits of files; `private` repositories answer their owner alone, `gated` ones nobody."""

    def __init__(self, private: bool = False):
        self.private, self.gated = private, False
        self.commits: list[dict[str, bytes]] = []
        self.messages: list[str] = []

    @staticmethod
    def sha(number: int) -> str:
        return f"{number:040x}"

    def commit(self, files: dict[str, bytes], message: str) -> None:
        self.commits.append((self.commits[-1] if self.commits else {}) | files)
        self.messages.append(message)

    def at(self, revision: str) -> int | None:
        """The number of a commit; None if there is none."""
        known = {"main": len(self.commits) - 1} | {self.sha(i): i for i in range(len(self.commits))}
        number = known.get(revision, -1)
        return number if number >= 0 else None


class Hub(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
      repositories: {"org/name": repository}.
      cuts: numbers of bytes after which the next answers with a file break off.
      damage: how many of the next answers with a file have a wrong byte.
      asked: (method, path, first byte asked for) of all requests.
      readonly: whether the token may not write.
      is_lfs: whether large files go by LFS, as on the real hub; else all are part of the commit.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.damage = 0
        self.asked: list[tuple[str, str, int]] = []
        self.readonly, self.is_lfs = False, True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetches(self) -> list[int]:
        """The first bytes of all requests for a file's content."""
        return [first for method, path, first in self.asked if method == "GET" and "/resolve/" in path]


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    # --- answering ---

    def handle_one(self, method: str) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        first = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0])[0])
        self.server.asked.append((method, path, first))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, answer in ROUTES[method].items():
            if found := re.fullmatch(pattern, path):
                answer(self, *found.groups(), body if method in ("POST", "PUT") else first)
                return
        self.refuse(404, "", "no such path")

    def do_HEAD(self):
        self.handle_one("HEAD")

    def do_GET(self):
        self.handle_one("GET")

    def do_POST(self):
        self.handle_one("POST")

    def do_PUT(self):
        self.handle_one("PUT")

    def log_message(self, *_):
        pass

    def reply(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    @property
    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, name: str) -> Repository | None:
        """A repository that may be seen; answers if there is none."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.is_owner):
            self.refuse(404 if self.is_owner else 401, "RepoNotFound", "Repository not found")
            return None
        if found.gated:
            self.refuse(403, "GatedRepo", "Access is restricted")
            return None
        return found

    def may_write(self) -> bool:
        if not self.is_owner:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif self.server.readonly:
            self.refuse(403, "", "You don't have the rights to write")
        return self.is_owner and not self.server.readonly

    # --- reading ---

    def info(self, name: str, _: int) -> None:
        if (repository := self.repository(name)) is not None:
            sha = repository.sha(max(len(repository.commits) - 1, 0))
            self.reply({"id": name, "private": repository.private, "sha": sha, "siblings": [], "tags": []})

    def file(self, name: str, revision: str, file: str, first: int) -> None:
        repository = self.repository(name)
        if repository is None:
            return
        number = repository.at(revision)
        if number is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
        elif file not in repository.commits[number]:
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            self.send_file(repository.commits[number][file], repository.sha(number), first)

    def send_file(self, content: bytes, commit: str, first: int) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.damage:
            self.server.damage -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        end = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[first:end])
        self.close_connection = True

    # --- writing ---

    def create(self, body: bytes) -> None:
        if not self.may_write():
            return
        fields = json.loads(body)
        name = f"{fields['organization']}/{fields['name']}"
        is_new = name not in self.server.repositories
        private = fields.get("private") or fields.get("visibility") == "private"
        self.server.repositories.setdefault(name, Repository(private))
        self.reply({"url": f"{self.server.url}/{name}", "name": name}, 200 if is_new else 409)

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        is_good = 'license: "mine"' not in front
        errors = [] if is_good else [{"message": '"license" must be one of [apache-2.0, ...]'}]
        self.reply({"errors": errors, "warnings": []}, 200 if is_good else 400)

    def preupload(self, name: str, _: str, body: bytes) -> None:
        if self.may_write() and self.repository(name) is not None:
            paths = [each["path"] for each in json.loads(body)["files"]]
            modes = ["lfs" if self.server.is_lfs and path.endswith(LARGE) else "regular" for path in paths]
            pairs = zip(paths, modes, strict=True)
            self.reply({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in pairs]})

    def batch(self, _: str, body: bytes) -> None:
        if self.may_write():
            objects = [
                each | {"actions": {"upload": {"href": f"{self.server.url}/store/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid: str, body: bytes) -> None:
        is_good = hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.reply({}, 200 if is_good else 400)

    def commit(self, name: str, _: str, body: bytes) -> None:
        repository = self.repository(name)
        if repository is None or not self.may_write():
            return
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.objects[value["oid"]]
        repository.commit(files, message)
        sha = repository.sha(len(repository.commits) - 1)
        self.reply({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})


_NAME = r"([\w.-]+/[\w.-]+)"
_FILE = rf"/{_NAME}/resolve/([\w.-]+)/(.+)"
ROUTES = {
    "HEAD": {_FILE: Handler.file},
    "GET": {_FILE: Handler.file, rf"/api/models/{_NAME}(?:/revision/main)?": Handler.info},
    "POST": {
        r"/api/repos/create": Handler.create,
        r"/api/validate-yaml": Handler.validate,
        rf"/api/models/{_NAME}/preupload/([\w.-]+)": Handler.preupload,
        rf"/api/models/{_NAME}/commit/([\w.-]+)": Handler.commit,
        rf"/{_NAME}\.git/info/lfs/objects/batch": Handler.batch,
    },
    "PUT": {r"/store/(\w+)": Handler.store},
}
