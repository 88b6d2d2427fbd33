"""Files that are whole or absent: written beside their place, then renamed."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator

from jaxpose.errors import StorageError

_NUMBERS = itertools.count()


@contextlib.contextmanager
def whole(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, which becomes `path` when the block ends well; else nothing remains of it.

    Whoever reads `path` sees what was there before or what was written, never a part, even if the process is killed or
    the power fails.

    Args:
      path: path of the file. Its folder must exist. The file that is written has the same ending.

    Raises:
      StorageError: the disk is full, the folder vanished, or it can't be written to.

    Examples:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.txt"
      >>> with whole(path) as unfinished:
      ...     _ = unfinished.write_text("AP 0.5")
      ...     print(path.exists())
      False
      >>> path.read_text()
      'AP 0.5'
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}-{next(_NUMBERS)}.unfinished{path.suffix}")
    try:
        yield unfinished
        _to_disk(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Writes a text file in UTF-8; see `whole`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | pathlib.Path, data: bytes) -> None:
    """Writes a file; see `whole`."""
    with whole(path) as unfinished:
        unfinished.write_bytes(data)


def _to_disk(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
