"""Downloading a file: what an earlier try has got is kept, and only a whole file gets its name."""

import http.client
import os
import pathlib
import urllib.error
import urllib.request
from typing import IO

from jaxpose.errors import CheckpointError, StorageError

PATIENCE = 30.0
"""Seconds after which a server that says nothing is given up."""
BLOCK = 1 << 20
"""Bytes that are written at once."""
OFFLINE = ("HF_HUB_OFFLINE", "JAXPOSE_OFFLINE")
"""Environment variables by which a user forbids downloads."""


def forbidding() -> str:
    """The name of the environment variable that forbids downloads; empty where none does."""
    return next((name for name in OFFLINE if os.environ.get(name, "0").lower() not in ("", "0", "false")), "")


def download(url: str, path: pathlib.Path) -> pathlib.Path:
    """The path of a file that was downloaded, `path` with ".partial" at its end; it goes on where it stopped before.

    Args:
      url: address of the file.
      path: path that the file is meant for.

    Raises:
      CheckpointError: it cannot be had, or not as a whole.
      StorageError: it cannot be written.
    """
    if forbids := forbidding():
        raise CheckpointError(f"{forbids} is set, so nothing is downloaded")
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
    except OSError as error:
        raise StorageError(f"{partial}: cannot be written ({error.strerror})") from error
    try:
        with urllib.request.urlopen(_request(url, have), timeout=PATIENCE) as answer:
            goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            whole = int(answer.headers.get("Content-Length") or 0) + (have if goes_on else 0)
            _write(partial, "ab" if goes_on else "wb", answer)
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is missing
            return partial
        raise CheckpointError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CheckpointError(f"{url} cannot be reached ({getattr(error, 'reason', None) or error})") from error
    if (got := partial.stat().st_size) < whole:
        raise CheckpointError(f"{url}: {got:,} of {whole:,} bytes came; the same command goes on from there")
    return partial


def _request(url: str, have: int) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})


def _write(path: pathlib.Path, mode: str, answer: IO[bytes]) -> None:
    try:
        file = path.open(mode)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        while block := answer.read(BLOCK):
            try:
                file.write(block)
            except OSError as error:
                raise StorageError(f"{path}: cannot be written ({error.strerror}); the same command goes on") from error
