"""Checkpoints that can be trusted: Orbax files beside a digest of every leaf and a checksum of every file.

WORKDIR/checkpoints/STEP/ holds `state` (Orbax) and `digests` (JSON), both written together. WORKDIR/seals/STEP.json has
the checksums of these files; it follows when they are complete, with the next save at the latest, so that a killed
run's last checkpoint may have none. Restoring verifies all there is. A damaged checkpoint is named in the log, moved to
WORKDIR/damaged/STEP for inspection, and the one before it is used.
"""

import contextlib
import hashlib
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.experimental.v1 import training as policies

from jaxpose.errors import CheckpointError
from jaxpose.runs import digest
from jaxpose.runs.state import TrainState

logger = logging.getLogger(__name__)

TRASH = "trash"


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: folder of the run.
      keep: number of latest checkpoints to keep.
      best: metric by which the checkpoint with the highest value is kept too.
      lowest: whether the lowest value is the best.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int = 2, best: str = "", lowest: bool = False):
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self.damaged_folder = self.folder.parent / "damaged"
        self.seal_folder = self.folder.parent / "seals"
        self._keep, self._best, self._lowest = keep, best, lowest
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        keep: list[Any] = [policies.preservation_policies.LatestN(self._keep)]
        if self._best:
            best = policies.preservation_policies.BestN(
                get_metric_fn=lambda metrics: metrics[self._best],
                reverse=self._lowest,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.preservation_policies.AnyPreservationPolicy(keep),
            todelete_subdir=TRASH,
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self.folder, options=options, item_names=("state", "digests"))

    def steps(self) -> list[int]:
        """Steps with a finished checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> dict[str, str]:
        """Writes a checkpoint in the background; returns the digests of its leaves."""
        step = int(state.step)
        self._seal()
        self._empty_trash()
        content = _content(state)
        parts = digest.digests(content)
        items = ocp.args.Composite(state=ocp.args.StandardSave(content), digests=ocp.args.JsonSave(parts))
        self._manager.save(step, args=items, metrics=metrics, force=True)
        return parts

    def restore(self, template: TrainState, step: int | None = None) -> TrainState | None:
        """The newest good state, or that of `step`; None if the run has no checkpoint at all.

        Args:
          template: shapes, dtypes and shardings to restore to (`jax.ShapeDtypeStruct` leaves).
          step: step of the only checkpoint that will do.

        Raises:
          CheckpointError: there are checkpoints but none is good, the one asked for is damaged or missing, or they
            belong to another network.
        """
        steps = self.steps()
        if step is not None and step not in steps:
            raise CheckpointError(f"{self.folder}: no checkpoint of step {step}; there are {steps}")
        for candidate in [step] if step is not None else reversed(steps):
            content, problem = self._read(candidate, _content(template))
            if _all_agree(problem is None):
                return template.replace(**content)
            if step is not None:
                raise CheckpointError(f"{self.folder / str(candidate)}: {problem or 'damaged for another process'}")
            self._set_aside(candidate, problem or "damaged for another process")
        if steps:
            raise CheckpointError(f"{self.folder}: all checkpoints ({steps}) are damaged; see {self.damaged_folder}")
        return None

    def _read(self, step: int, template: dict) -> tuple[Any, str | None]:
        """(content, None), or (None, what is wrong with it)."""
        if broken := self._broken_file(step):
            return None, broken
        try:
            recorded = self._manager.restore(step, args=ocp.args.Composite(digests=ocp.args.JsonRestore()))["digests"]
        except Exception as error:  # whatever a damaged file makes the readers raise
            return None, f"its digests cannot be read ({_first_line(error)})"
        _check_structure(self.folder / str(step), set(recorded), template)
        try:
            args = ocp.args.PyTreeRestore(
                item=template,
                restore_args=ocp.checkpoint_utils.construct_restore_args(template),
                partial_restore=True,
            )
            content = _restore_state(self.folder / str(step) / "state", args)
        except ValueError as error:
            if "shape" in str(error):
                raise CheckpointError(
                    f"{self.folder / str(step)}: {_first_line(error)}. It was written with another config.method; "
                    "use the config of that run or another --workdir."
                ) from error
            return None, f"it cannot be read ({_first_line(error)})"
        except Exception as error:
            return None, f"it cannot be read ({_first_line(error)})"
        found = digest.digests(content)
        wrong = sorted(name for name in found if found[name] != recorded[name])
        if wrong:
            first = wrong[0]
            return None, f"{len(wrong)} damaged leaves: {first} has {found[first]}, was saved as {recorded[first]}"
        return content, None

    def _set_aside(self, step: int, problem: str) -> None:
        target = self.damaged_folder / str(step)
        logger.error("checkpoint %d is damaged: %s; moved to %s, using the one before it", step, problem, target)
        self._manager.close()
        if jax.process_index() == 0:
            self.damaged_folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (self.folder / str(step)).rename(_free_name(target))
            (self.seal_folder / f"{step}.json").unlink(missing_ok=True)
        _all_agree(True)
        self._manager = self._open()

    def _seal(self) -> None:
        """Writes down the checksums of all files of the checkpoints that are on disk by now."""
        self._manager.wait_until_finished()
        if jax.process_index() != 0:
            return
        self.seal_folder.mkdir(exist_ok=True)
        seals = {step: self.seal_folder / f"{step}.json" for step in self.steps()}
        for step, seal in seals.items():
            if not seal.exists():
                seal.write_text(json.dumps(checksums(self.folder / str(step)), indent=1))
        for stale in set(self.seal_folder.iterdir()) - set(seals.values()):
            stale.unlink()

    def _broken_file(self, step: int) -> str | None:
        """What differs from the checkpoint's seal, if it has one."""
        seal = self.seal_folder / f"{step}.json"
        if jax.process_index() != 0 or not seal.exists():
            return None
        try:
            recorded = json.loads(seal.read_text())
        except ValueError:
            return f"its seal {seal} cannot be read"
        found = checksums(self.folder / str(step))
        wrong = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
        return f"{len(wrong)} of its files are missing or changed, such as {wrong[0]}" if wrong else None

    def _empty_trash(self) -> None:
        """Removes the checkpoints that Orbax moved aside because newer or better ones came."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / TRASH, ignore_errors=True)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._seal()

    def close(self) -> None:
        self._seal()
        self._manager.close()
        self._empty_trash()


def checksums(folder: pathlib.Path) -> dict[str, str]:
    """{path within `folder`: SHA-256} of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _restore_state(folder: pathlib.Path, args: Any) -> Any:
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(folder, args=args)


def _content(state: TrainState) -> dict[str, Any]:
    fields = ("step", "params", "batch_stats", "opt_state", "ema")
    return {f: getattr(state, f) for f in fields if getattr(state, f) is not None}


def _check_structure(folder: pathlib.Path, recorded: set[str], template: dict) -> None:
    wanted = {digest.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(template)}
    if missing := sorted(wanted - recorded):
        raise CheckpointError(
            f"{folder}: lacks {len(missing)} leaves that the config asks for, such as {missing[0]!r}. It was written "
            "with another config.method or config.optim; use the config of that run or another --workdir."
        )


def _all_agree(ok: bool) -> bool:
    if jax.process_count() == 1:
        return ok
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def _free_name(path: pathlib.Path) -> pathlib.Path:
    names: Iterator[pathlib.Path] = (path.with_name(f"{path.name}.{i}") for i in range(1, 1000))
    return path if not path.exists() else next(n for n in names if not n.exists())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
