"""Data sets, one file each. A source has annotations in memory and images to be read one by one, in any order."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

from jaxpose import skeleton as skeletons
from jaxpose.data.annotations import Annotations
from jaxpose.errors import ConfigError

BODIES = ("marionettes", "coco", "mpii", "lsp", "posetrack", "surreal", "h36m_frames")
HANDS = ("rhd", "h3d", "freihand")
SOURCES = (*BODIES, *HANDS, "folder", "records")
"""Values of `config.data.source`, each a module of this package."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access to one split of a data set.

    Attributes:
      name: for messages.
      annotations: the labels of all images.
      read: row of an image -> its encoded bytes (JPEG, PNG, ...); raises ImageError.
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
    """The source that `config.data` describes, with the joints of `data.skeleton`.

    Args:
      data: `config.data`; `data.source` is "marionettes", "coco" (images in a folder and a COCO-format keypoint file),
        "mpii", "lsp" (LSP and LSP Extended), "posetrack" (PoseTrack, and any videos in COCO's format), "surreal",
        "h36m_frames" (Human3.6M as single pictures), "rhd", "h3d", "freihand" (hands), "folder" (pictures without
        labels) or "records" (any of them written by `jaxpose write-records`).
      split: "train" or "validation".
      progress: show a bar where data has to be made first.

    Raises:
      ConfigError: unknown source, or a field that it needs is missing.
      DataError: what is on disk does not fit.
    """
    target = skeletons.get(data.skeleton)
    if data.source not in SOURCES:
        raise ConfigError(f"config.data.source is {data.source!r}; it can be one of {', '.join(SOURCES)}")
    module = importlib.import_module(f"{__name__}.{data.source}")
    source = module.open_split(data, split, progress=progress)
    try:
        return dataclasses.replace(source, annotations=source.annotations.with_skeleton(target))
    except ValueError as error:
        found = source.annotations.skeleton
        raise ConfigError(
            f"config.data.skeleton is {data.skeleton!r}, but {source.name} is annotated with the {found.num_joints} "
            f"joints of {found.name!r}: {error}. Choose a skeleton that the data set has."
        ) from error


def require_folder(path: str, field: str, what: str) -> pathlib.Path:
    """`path` as an existing folder.

    Raises:
      ConfigError: it is empty or does not exist; the message names the config field and what belongs there.
    """
    folder = pathlib.Path(path).expanduser()
    if not path or not folder.is_dir():
        found = f"{str(folder)!r} does not exist" if path else "it is empty"
        raise ConfigError(f"config.{field}: {found}. It must name {what}.")
    return folder
