"""One process at a time writes to a run's folder."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import filelock
import jax

from jaxpose.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

LOCK = "lock"


@contextlib.contextmanager
def sole_writer(workdir: pathlib.Path) -> Iterator[None]:
    """Context in which no other run can go on in `workdir`; the system ends it with the process, however that dies.

    Process 0 holds it for all that train together. Where a file system has no locks, a warning says so.

    Raises:
      ConfigError: another process holds it.
      StorageError: there is no such folder, and none can be made.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--workdir {workdir}: no folder can be made there ({error.strerror})") from error
    lock = filelock.FileLock(workdir / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(
            f"{workdir}: another process is training there. Wait for its end, stop it, or choose another --workdir."
        ) from None
    except (OSError, NotImplementedError) as error:
        logger.warning("%s: cannot be locked (%s); see that no other process trains there", workdir, error)
    try:
        yield
    finally:
        lock.release()
