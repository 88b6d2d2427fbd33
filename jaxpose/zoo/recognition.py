"""Which network a file is of: every method is asked whether entries of such names and shapes are one of its own."""

import collections
from collections.abc import Mapping

import numpy as np

from jaxpose import methods
from jaxpose.errors import CheckpointError
from jaxpose.nn.recognition import Recognized, Shapes


class UnknownNetworkError(CheckpointError):
    """A checkpoint that is of no method."""


def recognize(shapes: Shapes, name: str) -> tuple[str, Recognized]:
    """The method that a checkpoint is of, by its name in configs, and what entries tell of it.

    Args:
      shapes: names and shapes of the entries.
      name: name of the file, for messages.

    Raises:
      UnknownNetworkError: it is of no method; the message lists what it looks like.
      CheckpointError: it is of several.
    """
    found = {}
    for method in methods.names():
        told = methods.find(method).recognize(shapes)
        if told is not None:
            found[method] = told
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise CheckpointError(f"{name}: its entries are those of {' and of '.join(found)}; say which by --as NAME")
    parts = collections.Counter(entry.partition(".")[0] for entry in shapes)
    listed = ", ".join(f"{part} ({count})" for part, count in parts.most_common(8))
    raise UnknownNetworkError(
        f"{name}: is of no network that jaxpose knows. Its {len(shapes)} entries begin with {listed}; "
        f"known are networks of {', '.join(methods.names())}"
    )


def shapes_of(entries: Mapping[str, np.ndarray]) -> Shapes:
    """Names and shapes of entries."""
    return {name: tuple(array.shape) for name, array in entries.items()}
