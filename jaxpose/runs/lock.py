"""One process at a time writes to a run's folder."""

import contextlib
import fcntl
import logging
import pathlib
from collections.abc import Iterator

import jax

from jaxpose.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = "lock"


@contextlib.contextmanager
def sole_writer(workdir: pathlib.Path) -> Iterator[None]:
    """Context in which no other run can go on in `workdir`; the system ends it with the process, however that dies.

    Process 0 holds it for all that train together. Where a file system has no locks, a warning says so.

    Raises:
      ConfigError: another process holds it.
    """
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{workdir}: another process is training there. Wait for its end, stop it, or choose another --workdir."
            ) from None
        except OSError as error:
            logger.warning("%s: cannot be locked (%s); see that no other process trains there", workdir, error)
        yield
