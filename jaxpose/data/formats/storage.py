"""Writing data sets as files that depend on their content alone: equal data give equal bytes, whenever and wherever."""

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from tensorflow_datasets.core.example_serializer import ExampleSerializer


def write_columns(path: pathlib.Path, table: dict[str, np.ndarray]) -> None:
    """Writes arrays as an .npz file whose bytes depend on nothing but the arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in table.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, data.getvalue())


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
