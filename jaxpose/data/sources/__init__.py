"""Data sets, a module each. `config.data.source` names one of this package ("coco") or of any other ("mylab.data").

A module of a data set has one of these functions, or both:

  open_split(data, split, *, progress) -> Split                images with people, for most methods
  open_sequences(data, split, *, progress) -> SequenceSource   2D keypoints over time with their 3D truth, for lifting

`data` is `config.data`, `split` is "train" or "validation", and `progress` asks for a bar where data have to be made
first. They raise `ConfigError` about a field and `DataError` about a file; reading an unreadable image raises
`ImageError`. `config.data.source` may also be the dotted path of a function or class that is called in the same way
("mylab.data.open_birds", "mylab.data.Birds"). Nothing is registered anywhere.
"""

import dataclasses
import importlib
import pathlib
import types
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from jaxpose import config
from jaxpose import skeleton as skeletons
from jaxpose.data.annotations import Annotations
from jaxpose.errors import ConfigError, DataError

_CONTENTS = {"open_split": "images with people", "open_sequences": "sequences of 2D keypoints and 3D joints"}
"""What the functions of a data set open."""


@runtime_checkable
class Split(Protocol):
    """One split of a data set as its module gives it, with all joints that the labels have; `Source` is one."""

    @property
    def name(self) -> str:
        """Name of the split, for messages."""
        ...

    @property
    def annotations(self) -> Annotations:
        """Labels of all images; `data.sources.posetrack.VideoAnnotations` where images are frames of videos."""
        ...

    def read(self, i: int, /) -> bytes:
        """Encoded bytes (JPEG, PNG, ...) of the image in row i of the annotations; raises ImageError."""
        ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access to one split of a data set; the joints of `annotations.skeleton` are known of its people.

    Attributes:
      name: name of the split, for messages.
      annotations: labels of all images.
      read: function from the row of an image to its encoded bytes (JPEG, PNG, ...); raises ImageError.
    """

    name: str
    annotations: Annotations
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return self.annotations.num_images

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Image i with all its people: {"image": bytes, "image_id", "file_name", "box" [N, 4], ...}."""
        a = self.annotations
        rows = a.person_image == i
        people = ("person_id", "box", "keypoints", "visibility", "area", "crowd", "track_id", "head_size", "mirror")
        example = {field: getattr(a, field)[rows] for field in people}
        return {"image": self.read(i), "image_id": int(a.image_id[i]), "file_name": str(a.file_name[i])} | example


def open_source(data: Any, split: str, *, progress: bool = True) -> Source:
    """The images with people that `config.data` names, with the joints of `data.skeleton`.

    Args:
      data: `config.data`.
      split: "train" or "validation".
      progress: True to show a bar where data have to be made first.

    Raises:
      ConfigError: unknown source, one without images, or a field that it needs is missing.
      DataError: a file of the data set is not what it should be.
    """
    target = skeletons.get(data.skeleton)
    found = opener(data.source, "open_split")(data, split, progress=progress)
    if not isinstance(found, Split):
        raise ConfigError(
            f"config.data.source is {data.source!r}, which opens a {type(found).__name__}; expected a "
            "jaxpose.data.sources.Source, or something with 'name', 'annotations' and 'read'"
        )
    try:
        return Source(found.name, found.annotations.with_skeleton(target), found.read)
    except ValueError as error:
        known = found.annotations.skeleton
        raise ConfigError(
            f"config.data.skeleton is {data.skeleton!r}, but {found.name} is annotated with the {known.num_joints} "
            f"joints of {known.name!r}: {error}. Choose a skeleton that the data set has."
        ) from error


def opener(name: str, function: str) -> Callable[..., Any]:
    """What opens the splits of a data set; see the top of this file.

    Args:
      name: value of `config.data.source`.
      function: name of the function of a module, "open_split" or "open_sequences".

    Raises:
      ConfigError: no data set has that name, or it has nothing of the kind.
    """
    found = config.find(name, __name__, "config.data.source")
    opened = getattr(found, function, None) if isinstance(found, types.ModuleType) else found
    if callable(opened):
        return opened
    modules = {known: importlib.import_module(f"{__name__}.{known}") for known in config.names(__name__)}
    offered = ", ".join(known for known, module in modules.items() if hasattr(module, function))
    raise ConfigError(
        f"config.data.source is {name!r}, which has no {_CONTENTS[function]} (no function {function!r}); "
        f"the data sets that have are {offered}"
    )


def require_inside(names: Iterable[str], where: Any, data: Any) -> None:
    """Checks that the file names of a data set's images do not lead out of the folder of its images.

    Links within the folder may lead where they like.

    Args:
      names: file names, relative to the folder.
      where: path of the annotations that name them.
      data: `config.data`.

    Raises:
      DataError: an absolute name, or one with "..", unless `data.allow_outside` is True.
    """
    if data.get("allow_outside", False):
        return
    outside = [name for name in names if pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts]
    if outside:
        raise DataError(
            f"{where}: {len(outside)} images lie outside of the folder of the images, {outside[0]!r} first. Set "
            "config.data.allow_outside to True if these annotations may name any file of this machine."
        )


def require_folder(path: str, field: str, what: str) -> pathlib.Path:
    """A path as an existing folder.

    Args:
      path: value of the config field.
      field: name of the field without "config.", for messages.
      what: description of the folder that belongs there, for messages.

    Raises:
      ConfigError: it is empty or does not exist; the message names the config field and what belongs there.
    """
    folder = pathlib.Path(path).expanduser()
    if not path or not folder.is_dir():
        found = f"{str(folder)!r} does not exist" if path else "it is empty"
        raise ConfigError(f"config.{field}: {found}. It must name {what}.")
    return folder
