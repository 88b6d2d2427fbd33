"""Metrics of steps, looked at a little later, so that the host never waits for the device."""

import collections
from typing import Any

import jax

from jaxpose.errors import NonFiniteError


class Watch:
    """Collects the metrics of steps without making the host wait for the device, and stops a run that went wrong."""

    def __init__(self, lag: int = 2):
        self._lag = lag
        self._pending: collections.deque = collections.deque()
        self._values: list[dict[str, float]] = []

    def add(self, step: int, metrics: dict[str, jax.Array], describe: Any) -> None:
        """Takes a step's metrics, and looks at those of `lag` steps before."""
        self._pending.append((step, metrics, describe))
        while len(self._pending) > self._lag:
            self._look_at_oldest()

    def look(self) -> None:
        """Looks at all steps so far.

        Raises:
          NonFiniteError: a phase of some step was not finite.
        """
        while self._pending:
            self._look_at_oldest()

    def flush(self) -> dict[str, float]:
        """Looks at all steps so far, and returns the means since the last flush."""
        self.look()
        values, self._values = self._values, []
        return {k: sum(v[k] for v in values) / len(values) for k in values[0]} if values else {}

    def _look_at_oldest(self) -> None:
        step, metrics, describe = self._pending.popleft()
        metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
        finite = {k.removeprefix("finite/"): metrics.pop(k) for k in list(metrics) if k.startswith("finite/")}
        for phase, ok in finite.items():
            if not ok:
                raise NonFiniteError(
                    f"step {step}, phase {phase!r}: loss, gradient or update is not finite ({metrics}). Examples: "
                    f"{describe()}. Nothing was saved after it. Look at these images and their labels, lower "
                    "config.optim.learning_rate, or set config.optim.clip_norm."
                )
        self._values.append(metrics)
