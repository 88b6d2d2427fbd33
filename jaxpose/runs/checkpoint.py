"""Checkpoints that can be trusted, written by the one trainer that holds a run's lock.

What lies where, and when a checkpoint is good, stands in `checkpoint_reader`, which everybody else uses. The trainer
alone seals checkpoints when they are complete (with the next save at the latest), moves damaged ones to
WORKDIR/damaged/STEP for inspection, and deletes old ones. WORKDIR/best.json tells which one is kept for its score.
"""

import contextlib
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.experimental.v1 import training as policies

from jaxpose.errors import JaxposeError, StorageError
from jaxpose.files.json_files import write_json
from jaxpose.files.whole import write_text
from jaxpose.runs import digest
from jaxpose.runs.checkpoint_reader import CheckpointReader, all_agree, checksums, content_of, first_line, read_seal
from jaxpose.runs.state import TrainState

logger = logging.getLogger(__name__)

TRASH = "trash"
BEST = "best.json"


class Checkpoints(CheckpointReader):
    """The checkpoints of one run, for its trainer.

    Args:
      workdir: folder of the run.
      keep: number of latest checkpoints to keep.
      best: metric by which the checkpoint with the highest value is kept too.
      lowest: whether the lowest value is the best.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int = 2, best: str = "", lowest: bool = False):
        super().__init__(workdir)
        self.damaged_folder = self.folder.parent / "damaged"
        self._keep, self._metric, self._lowest = keep, best, lowest
        self._best = _Best()
        with self._guarded("opened"):
            self._manager = self._open()
            self._best.step, self._best.value = self._recorded_best()

    def _open(self) -> ocp.CheckpointManager:
        latest = policies.preservation_policies.LatestN(self._keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.preservation_policies.AnyPreservationPolicy([latest, self._best]),
            todelete_subdir=TRASH,
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self.folder, options=options, item_names=("state", "digests"))

    def save(self, state: TrainState) -> dict[str, str]:
        """Writes a checkpoint in the background; returns the digests of its leaves.

        Raises:
          StorageError: this one, or the one before it, which was written meanwhile, cannot be written.
        """
        step = int(state.step)
        self._seal()
        self._empty_trash()
        content = content_of(state)
        parts = digest.digests(content)
        items = ocp.args.Composite(state=ocp.args.StandardSave(content), digests=ocp.args.JsonSave(parts))
        with self._guarded(f"written at step {step}"):
            self._manager.save(step, args=items, force=True)
        return parts

    def score(self, step: int, scores: dict[str, float]) -> None:
        """Keeps the checkpoint of `step` for its score if that is the best so far.

        Raises:
          StorageError: that cannot be written down.
        """
        value = scores.get(self._metric)
        if value is None:
            return
        before = self._best.value
        if before is None or (value < before if self._lowest else value > before):
            self._best.step, self._best.value = step, value
            if jax.process_index() == 0:
                write_json(self.folder.parent / BEST, {"metric": self._metric, "step": step, "value": value})

    def _recorded_best(self) -> tuple[int | None, float | None]:
        """Step and value of the best score so far; of runs from before 0.2 as Orbax has it."""
        try:
            recorded = json.loads((self.folder.parent / BEST).read_bytes())
            if recorded["metric"] == self._metric:
                return int(recorded["step"]), float(recorded["value"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("%s: cannot be read (%s)", self.folder.parent / BEST, first_line(error))
        found = [(step, self._old_score(step)) for step in self.steps()]
        scored = [(value, step) for step, value in found if value is not None]
        if not scored:
            return None, None
        value, step = min(scored) if self._lowest else max(scored)
        return step, value

    def _old_score(self, step: int) -> float | None:
        try:
            return float(json.loads((self.folder / str(step) / "metrics" / "metrics").read_bytes())[self._metric])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _pass_over(self, step: int, problem: str) -> None:
        """Moves a damaged checkpoint out of the way."""
        target = self.damaged_folder / str(step)
        logger.error("checkpoint %d is damaged: %s; moved to %s, using the one before it", step, problem, target)
        with self._guarded("moved away"):
            self._manager.close()
            if jax.process_index() == 0:
                self.damaged_folder.mkdir(exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    (self.folder / str(step)).rename(_free_name(target))
                (self.seal_folder / f"{step}.json").unlink(missing_ok=True)
            all_agree(True)
            self._manager = self._open()

    def _seal(self) -> None:
        """Writes down the checksums of all files of the checkpoints that are on disk by now."""
        with self._guarded("written"):
            self._manager.wait_until_finished()
            if jax.process_index() != 0:
                return
            self.seal_folder.mkdir(exist_ok=True)
            seals = {step: self.seal_folder / f"{step}.json" for step in self.steps()}
            for step, seal in seals.items():
                if read_seal(seal) is None:
                    write_text(seal, json.dumps(checksums(self.folder / str(step)), indent=1))
            for stale in set(self.seal_folder.iterdir()) - set(seals.values()):
                stale.unlink()

    @contextlib.contextmanager
    def _guarded(self, done: str) -> Iterator[None]:
        """What goes wrong with the disk, in the threads of Orbax too, as one StorageError."""
        try:
            yield
        except JaxposeError:
            raise
        except Exception as error:
            raise StorageError(
                f"{self.folder}: a checkpoint cannot be {done} ({first_line(error)}). Those that are there stay as "
                "they are; once there is room, the same command goes on from the newest."
            ) from error

    def _empty_trash(self) -> None:
        """Removes the checkpoints that Orbax moved aside because newer or better ones came."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / TRASH, ignore_errors=True)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          StorageError: something cannot be written.
        """
        self._seal()

    def close(self) -> None:
        """Waits until everything is on disk, and ends the threads that write.

        Raises:
          StorageError: something cannot be written.
        """
        try:
            self._seal()
        finally:
            with self._guarded("written"):
                self._manager.close()
            self._empty_trash()


class _Best:
    """A policy of Orbax: the checkpoint with the best score stays."""

    def __init__(self):
        self.step: int | None = None
        self.value: float | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        return [info.step == self.step for info in checkpoints]


def _free_name(path: pathlib.Path) -> pathlib.Path:
    names: Iterator[pathlib.Path] = (path.with_name(f"{path.name}.{i}") for i in range(1, 1000))
    return path if not path.exists() else next(n for n in names if not n.exists())
