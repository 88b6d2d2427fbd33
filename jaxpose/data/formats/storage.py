"""Writing data sets as files that depend on their content alone: equal data give equal bytes, whenever and wherever.

A folder is whole or absent: it is written elsewhere, gets a list of its files with their sizes and digests, and is then
renamed. `jaxpose.data.formats.checksums` compares the list.
"""

import contextlib
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from jaxpose.data.formats import checksums
from jaxpose.errors import StorageError
from jaxpose.files.arrays import write_archive


class LocalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder of data that are made here: it downloads nothing and leaves messages to its callers."""

    url_infos = None  # TFDS would look for checksums of downloads with a package that it does not require

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        """The given configuration; TFDS warns of any that is not in a list of the class."""
        del version
        return builder_config

    def _log_download_bytes(self) -> None: ...

    def _log_download_done(self) -> None: ...


def write_columns(path: pathlib.Path, table: dict[str, np.ndarray]) -> None:
    """Writes arrays as an .npz file whose bytes depend on nothing but the arrays."""
    with path.open("wb") as file:
        write_archive(file, table, zipfile.ZIP_DEFLATED)


UNFINISHED = "incomplete."
"""What names of folders begin with that are being written."""


def write_folder(make: Callable[[str], LocalBuilder], folder: pathlib.Path) -> None:
    """Writes the folder of a data set; one that is there is replaced.

    Args:
      make: function from a root of data sets to a builder, which writes somewhere below it.
      folder: final place of the folder.

    Raises:
      StorageError: the disk is full, or nothing may be written there. Nothing that looks whole is left.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = pathlib.Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    except OSError as error:
        raise StorageError(f"{folder.parent}: cannot be written to ({error.strerror or error})") from error
    try:
        builder = make(str(unfinished))
        with ordered_fields():
            builder.download_and_prepare()
        written = pathlib.Path(builder.data_dir)
        checksums.write(written)
        if folder.is_dir():
            folder.rename(unfinished / "replaced")
        written.rename(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def ordered_fields() -> Iterator[None]:
    """Makes TFDS write the fields of a record in order of their names; by itself it takes their order in memory."""
    original = ExampleSerializer.serialize_example

    def serialize(self: ExampleSerializer, example: Any) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    ExampleSerializer.serialize_example = serialize
    try:
        yield
    finally:
        ExampleSerializer.serialize_example = original
