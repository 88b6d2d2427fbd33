"""Reading a run's checkpoints, without writing, moving or deleting anything.

WORKDIR/checkpoints/STEP/ holds `state` (Orbax) and `digests` (JSON): a digest of every leaf, saved with it. The folder
gets its name when it is whole. WORKDIR/seals/STEP.json holds checksums of all its files; it may come later, or never if
the trainer was killed.

A checkpoint is good if what was restored has the recorded digests, and its files have the checksums of its seal, if it
has a readable one. A seal alone proves nothing: where it is cut off, digests decide.
"""

import hashlib
import json
import logging
import pathlib
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxpose.errors import CheckpointError
from jaxpose.runs import digest
from jaxpose.runs.state import TrainState

logger = logging.getLogger(__name__)

MOST_VANISHED = 1000
"""Checkpoints that may be deleted while they are read, by a trainer that saves newer ones, before that is an error."""


class CheckpointReader:
    """The checkpoints of one run, for somebody who only reads.

    Args:
      workdir: folder of the run.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self.seal_folder = self.folder.parent / "seals"

    def steps(self) -> list[int]:
        """Steps with a finished checkpoint, rising.

        Raises:
          CheckpointError: the folder cannot be read.
        """
        try:
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot be read ({error.strerror})") from error
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))

    def restore(self, template: TrainState, step: int | None = None) -> TrainState | None:
        """The newest good state, or that of `step`; None if the run has no checkpoint at all.

        A trainer may save and delete meanwhile: a checkpoint that vanishes is no damage, and the next newest is taken.

        Args:
          template: shapes, dtypes and shardings to restore to (`jax.ShapeDtypeStruct` leaves).
          step: step of the only checkpoint that will do.

        Raises:
          CheckpointError: there are checkpoints but none is good, the one asked for is damaged or missing, or they
            belong to another network.
        """
        damaged: dict[int, str] = {}
        for _ in range(MOST_VANISHED):
            steps = self.steps()
            left = [each for each in steps if each not in damaged]
            if step is not None and step not in steps:
                raise CheckpointError(f"{self.folder}: no checkpoint of step {step}; there are {steps}")
            if not left:
                break
            candidate = left[-1] if step is None else step
            content, problem = self._read(candidate, content_of(template))
            if all_agree(problem is None):
                return template.replace(**content)
            if not all_agree((self.folder / str(candidate)).is_dir()):
                continue
            problem = problem or "damaged for another process"
            if step is not None:
                raise CheckpointError(f"{self.folder / str(candidate)}: {problem}")
            damaged[candidate] = problem
            self._pass_over(candidate, problem)
        if damaged:
            listed = "; ".join(f"{each}: {problem}" for each, problem in sorted(damaged.items())[:3])
            raise CheckpointError(f"{self.folder}: all checkpoints ({sorted(damaged)}) are damaged ({listed})")
        return None

    def _pass_over(self, step: int, problem: str) -> None:
        """What becomes of a damaged checkpoint when the one before it is used."""
        logger.error("%s: is damaged: %s; using the one before it", self.folder / str(step), problem)

    def _read(self, step: int, template: dict) -> tuple[Any, str | None]:
        """(content, None), or (None, what is wrong with it)."""
        folder = self.folder / str(step)
        if broken := self._broken_file(step):
            return None, broken
        try:
            recorded = json.loads((folder / "digests" / "metadata").read_bytes())
            if not isinstance(recorded, dict):
                return None, "its digests are no list of names"
        except (OSError, ValueError, RecursionError) as error:
            return None, f"its digests cannot be read ({first_line(error)})"
        _check_structure(folder, set(recorded), template)
        try:
            args = ocp.args.PyTreeRestore(
                item=template,
                restore_args=ocp.checkpoint_utils.construct_restore_args(template),
                partial_restore=True,
            )
            with ocp.PyTreeCheckpointer() as reader:
                content: Any = reader.restore(folder / "state", args=args)
        except ValueError as error:
            if "shape" in str(error):
                raise CheckpointError(
                    f"{folder}: {first_line(error)}. It was written with another config.method; "
                    "use the config of that run or another --workdir."
                ) from error
            return None, f"it cannot be read ({first_line(error)})"
        except Exception as error:  # whatever a damaged or vanishing file makes the readers raise
            return None, f"it cannot be read ({first_line(error)})"
        found = digest.digests(content)
        wrong = sorted(name for name in found if found[name] != recorded[name])
        if wrong:
            first = wrong[0]
            return None, f"{len(wrong)} damaged leaves: {first} has {found[first]}, was saved as {recorded[first]}"
        return content, None

    def _broken_file(self, step: int) -> str | None:
        """What differs from the checkpoint's seal, if it has a readable one."""
        seal = self.seal_folder / f"{step}.json"
        if jax.process_index() != 0 or not seal.exists():
            return None
        if (recorded := read_seal(seal)) is None:
            logger.warning("%s: is damaged; the digests of the checkpoint's arrays count", seal)
            return None
        try:
            found = checksums(self.folder / str(step))
        except OSError as error:
            return f"its files cannot be read ({error.strerror})"
        wrong = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
        return f"{len(wrong)} of its files are missing or changed, such as {wrong[0]}" if wrong else None


def read_seal(seal: pathlib.Path) -> dict[str, str] | None:
    """{path: SHA-256} of a checkpoint's files; None if there is no seal, or it was cut off or changed."""
    try:
        recorded = json.loads(seal.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    texts = isinstance(recorded, dict) and all(isinstance(value, str) for value in recorded.values())
    return recorded if texts else None


def checksums(folder: pathlib.Path) -> dict[str, str]:
    """{path within `folder`: SHA-256} of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def content_of(state: TrainState) -> dict[str, Any]:
    """The parts of a state that are saved, by name."""
    fields = ("step", "params", "batch_stats", "opt_state", "ema")
    return {f: getattr(state, f) for f in fields if getattr(state, f) is not None}


def _check_structure(folder: pathlib.Path, recorded: set[str], template: dict) -> None:
    wanted = {digest.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(template)}
    if missing := sorted(wanted - recorded):
        raise CheckpointError(
            f"{folder}: lacks {len(missing)} leaves that the config asks for, such as {missing[0]!r}. It was written "
            "with another config.method or config.optim; use the config of that run or another --workdir."
        )


def all_agree(ok: bool) -> bool:
    """Whether `ok` holds for all processes."""
    if jax.process_count() == 1:
        return ok
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
