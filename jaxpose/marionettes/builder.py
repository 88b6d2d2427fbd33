"""Writes marionettes as a TFDS data set, with a columnar copy of the annotations beside the records.

Works without TensorFlow. The data set is written once: into a temporary folder that is renamed when complete, under a
lock, so that a killed or a parallel run leaves nothing half-finished under the final name.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import filelock
import numpy as np
import tensorflow_datasets as tfds

from jaxpose.data.formats import checksums
from jaxpose.data.formats.storage import UNFINISHED, LocalBuilder, write_columns, write_folder
from jaxpose.errors import DataError, StorageError
from jaxpose.marionettes.config import GENERATOR_VERSION, SPLITS, MarionettesConfig
from jaxpose.marionettes.examples import all_records, columns

logger = logging.getLogger(__name__)

FEW = 64
"""Number of scenes up to which one process draws them all."""


class Marionettes(LocalBuilder):
    """Procedural people; see `MarionettesConfig` for the choices and `prepare` for the way to write them."""

    VERSION = tfds.core.Version(GENERATOR_VERSION)

    def __init__(
        self, *, marionettes: MarionettesConfig | None = None, workers: int = 1, progress: bool = True, **kwargs: Any
    ) -> None:
        self.marionettes = marionettes or MarionettesConfig()
        self._workers = workers
        self._progress = progress
        kwargs.setdefault("file_format", "array_record")
        config = tfds.core.BuilderConfig(name=self.marionettes.fingerprint(), version=GENERATOR_VERSION)
        super().__init__(config=config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Procedural people with exact joints: {self.marionettes}",
            features=tfds.features.FeaturesDict(features(self.marionettes)),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in SPLITS if self.marionettes.count(split)}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        people = itertools.count(1)
        for key, record in enumerate(all_records(self.marionettes, split, self._workers, self._progress)):
            image = {}
            if self.marionettes.scene != "sequence":
                image = {"image": io.BytesIO(record.pop("image"))}
                record["image_id"] = key + 1
                record["person_id"] = np.array([next(people) for _ in record["area"]], np.int64)
            rows.append(record)
            yield key, image | record
        write_columns(pathlib.Path(self.data_dir) / f"annotations-{split}.npz", columns(rows))


def features(config: MarionettesConfig) -> dict[str, Any]:
    """The features of one record: a picture, or a sequence."""

    def floats(*shape: int | None) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=np.float32)

    camera = {"intrinsics": floats(3, 3), "rotation": floats(3, 3), "translation": floats(3)}
    if config.scene == "sequence":
        return {
            "sequence_id": np.int64,
            "subject": np.int64,
            "action": tfds.features.Text(),
            "joints": floats(config.frames, 25, 3),
            "detections": floats(config.frames, 25, 2),
            "visibility_score": floats(config.frames, 25),
            "joints_3d": floats(config.frames, 25, 3),
            **camera,
        }
    return {
        "image": tfds.features.Image(shape=(config.height, config.width, 3), encoding_format="jpeg"),
        "file_name": tfds.features.Text(),
        **dict.fromkeys(("image_id", "clip", "frame", "width", "height"), np.int64),
        "person_id": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        "track_id": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        "box": floats(None, 4),
        "area": floats(None),
        "crowd": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
        "joints": floats(None, 25, 3),
        "joints_3d": floats(None, 25, 3),
        **camera,
    }


def prepare(
    config: MarionettesConfig,
    data_dir: str | os.PathLike[str],
    *,
    workers: int | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """Writes a data set once and returns its folder.

    Args:
      config: description of the data set.
      data_dir: root of prepared data sets.
      workers: number of processes; None for one a core, or for this one alone where there are few scenes, which are
        drawn before others have started. The data do not depend on it.
      progress: True to show a progress bar.

    Returns:
      The folder `data_dir`/marionettes/`fingerprint`/`version` with TFDS records (splits `train` and `validation`; read
      them with `tfds.builder_from_directory`) and `annotations-{split}.npz`. A second call returns it at once.

    Raises:
      RuntimeError: worker processes could not start.
      StorageError: the disk is full, or nothing may be written there. A damaged folder is written anew.
    """
    root = pathlib.Path(data_dir).expanduser().absolute()
    folder = root / "marionettes" / config.fingerprint() / GENERATOR_VERSION
    if _is_whole(folder):
        return folder
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # would wait for its parent, and that for it
        raise RuntimeError(
            'marionettes: put the call of prepare() under `if __name__ == "__main__":`, or pass workers=1'
        )
    workers = workers or (_cores() if config.train + config.validation > FEW else 1)
    with _locked(folder):
        for stale in folder.parent.glob(f"{UNFINISHED}*"):
            shutil.rmtree(stale)
        if not _is_whole(folder, tell=True):
            count = config.train + config.validation
            logger.info("rendering %s marionettes (%s) to %s; this happens once", f"{count:,}", config.scene, folder)
            options: Any = {"marionettes": config, "workers": workers, "progress": progress}
            _write(lambda place: Marionettes(data_dir=place, **options), folder)
    return folder


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing the same folder; the operating system drops the lock if this one dies.

    Raises:
      StorageError: there may nothing be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder.parent / ".lock")
        lock.acquire()
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: cannot be written to ({error.strerror or error}); config.data.dir names another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write(make: Callable[[str], LocalBuilder], folder: pathlib.Path) -> None:
    tfds.disable_progress_bar()
    try:
        write_folder(make, folder)
    finally:
        tfds.enable_progress_bar()


def _is_whole(folder: pathlib.Path, tell: bool = False) -> bool:
    """Whether a folder is there and fits its list of files; `tell` for a warning if it is damaged."""
    if not (folder / "dataset_info.json").exists():
        return False
    try:
        checksums.check(folder)
    except DataError as error:
        if tell:
            logger.warning("%s; it is written anew", error)
        return False
    return True


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
