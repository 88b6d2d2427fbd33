"""SIGTERM means: save, then leave. All processes have to stop after the same step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax


class Watcher:
    """Context in which calling it with the number of finished steps says whether to stop now.

    With one process it remembers SIGTERM. With several, JAX's coordination service agrees on a step at which all of
    them stop, a few steps after the signal reached one of them.
    """

    def __init__(self):
        self._several = jax.process_count() > 1
        self._listens = not self._several and threading.current_thread() is threading.main_thread()
        self._signalled = False
        self._previous: Any = None

    def __enter__(self) -> "Watcher":
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def __call__(self, step: int) -> bool:
        if not self._several:
            return self._signalled
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
