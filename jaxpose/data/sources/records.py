"""Data sets as records: images in ArrayRecord files written through TFDS, their labels in one file of columns.

A folder holds dataset_info.json and features.json of TFDS, NAME-SPLIT.array_record-... with one record an image, and
annotations-SPLIT.npz with the labels of all images in the order of the records.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data.annotations import HEAD_SIZE_OF_BOX, Annotations
from jaxpose.data.formats import checksums
from jaxpose.data.formats.regions import Regions
from jaxpose.data.sources import Source, require_folder
from jaxpose.data.sources.posetrack import VideoAnnotations
from jaxpose.errors import DataError, ImageError
from jaxpose.files.arrays import read_npz
from jaxpose.skeleton import Skeleton

SKULL_ASPECT = 77 / 116
"""Width / height of a marionette's skull, but for a few percent from person to person."""

_REMEDY = "delete the folder, and write it again"
_REQUIRED = (
    *("image_id", "file_name", "width", "height", "person_image", "person_id", "box", "joints", "area", "crowd"),
    "track_id",
)
_OF_IMAGES = {"image_id": "iu", "width": "iu", "height": "iu", "file_name": "U", "crowd_index": "f"}
_OF_SKELETON = {f"skeleton_{part}" for part in ("joints", "limbs", "sigmas", "upper_body")}
_OF_PEOPLE = {
    **dict.fromkeys(("person_image", "person_id", "track_id", "num_keypoints"), "iu"),
    **dict.fromkeys(("area", "head_size"), "f"),
    **dict.fromkeys(("crowd", "mirror"), "b"),
}
_COLUMNS: dict[str, tuple] = {
    **{name: (kinds, "I") for name, kinds in _OF_IMAGES.items()},
    **dict.fromkeys(("video_id", "frame_id", "num_frames", "clip", "frame"), ("iu", "I")),
    **{name: (kinds, "P") for name, kinds in _OF_PEOPLE.items()},
    "box": ("f", "P", 4),
    "joints": ("f", "P", "K", 3),
    "joints_3d": ("f", "P", "K", 3),
    "intrinsics": ("f", "I", 3, 3),
    "skeleton_upper_body": ("U", "J"),
    "skeleton_joints": ("U", "K"),
    "skeleton_sigmas": ("f", "K"),
    "skeleton_limbs": ("U", "L", 2),
    "skeleton_pairs": ("U", "M", 2),
    "unlabelled_image": ("iu", "R"),
    "ignored_image": ("iu", "S"),
}
"""{array: kinds of its dtype, and its axes: numbers, or names of sizes that are the same everywhere}."""


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split of the records in the folder `config.data.dir`."""
    del progress
    what = "the folder with dataset_info.json that jaxpose write-records wrote"
    return open_records(require_folder(data.dir, "data.dir", what), split)


def open_records(folder: str | pathlib.Path, split: str) -> Source:
    """A split of a folder of records.

    Raises:
      DataError: the folder holds no records, not this split, or labels that don't fit the records.
    """
    import tensorflow_datasets as tfds

    folder = pathlib.Path(folder)
    if not (folder / "dataset_info.json").is_file():
        raise DataError(f"{folder}: has no dataset_info.json, so it holds no records; write them again")
    try:
        checksums.check(folder)
    except DataError as error:
        raise DataError(f"{error}; {_REMEDY}") from error
    try:
        builder: Any = tfds.builder_from_directory(folder)  # TFDS hides what its methods take
        splits = sorted(builder.info.splits)
        decoders = {"image": tfds.decode.SkipDecoding()}
        images = builder.as_data_source(split, decoders=decoders) if split in splits else None
        count = 0 if images is None else len(images)
    except Exception as error:  # TFDS, its parsers and the reader of records raise anything about damaged files
        raise DataError(f"{folder}: is damaged ({type(error).__name__}: {error}); {_REMEDY}") from error
    if images is None:
        raise DataError(f"{folder}: has no split {split!r}; there are {splits}")
    annotations = read_columns(folder / f"annotations-{split}.npz")
    if count != annotations.num_images:
        raise DataError(
            f"{folder}: split {split!r} has {count} records but labels of {annotations.num_images} images; {_REMEDY}"
        )

    def read(i: int) -> bytes:
        try:
            return images[i]["image"]
        except Exception as error:  # the reader's own errors for a damaged file
            raise ImageError(str(annotations.file_name[i]), f"record {i} of {folder} is damaged: {error}") from error

    return Source(name=f"{folder} ({split})", annotations=annotations, read=read)


def read_columns(path: pathlib.Path) -> Annotations:
    """The labels of a split.

    Raises:
      DataError: the file is missing or damaged, or an array is not what it should be.
    """
    columns = read_npz(path)
    _check_columns(columns, path)
    joints = columns["joints"]
    videos = _videos(columns)
    if videos and "clip" in columns:  # joints of marionettes outside the picture have places, but are not labelled
        joints = joints * (joints[..., 2:] > 0)
    kind = VideoAnnotations if videos else Annotations
    return kind(
        skeleton=_skeleton(columns),
        image_id=columns["image_id"],
        file_name=columns["file_name"],
        width=columns["width"],
        height=columns["height"],
        person_image=columns["person_image"],
        person_id=columns["person_id"],
        box=columns["box"],
        keypoints=joints[..., :2],
        visibility=joints[..., 2].astype(np.uint8),
        area=columns["area"],
        crowd=columns["crowd"],
        track_id=columns["track_id"],
        clip_boxes=bool(np.all(columns.get("clip_boxes", True))),
        unlabelled=_regions(columns, "unlabelled"),
        **{name: columns[name] for name in ("num_keypoints", "crowd_index", "mirror") if name in columns},
        **_head_size(columns),
        **videos,
    )


def _check_columns(columns: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Raises DataError unless arrays have the kinds and shapes of `_COLUMNS`, and rows that are there."""
    sizes: dict[str, int] = {}
    for name, (kinds, *axes) in _COLUMNS.items():
        if name not in columns:
            if name in _REQUIRED:
                raise DataError(f"{path}: lacks the array {name!r}; {_REMEDY}")
            continue
        array = columns[name]
        if array.dtype.kind not in kinds or not _fits(array.shape, axes, sizes):
            raise DataError(f"{path}: array {name!r} is {array.dtype} of shape {array.shape}; {_REMEDY}")
    if "skeleton" in columns and (columns["skeleton"].size != 1 or columns["skeleton"].dtype.kind != "U"):
        raise DataError(f"{path}: array 'skeleton' is no name; {_REMEDY}")
    if "skeleton" in columns and (missing := sorted(_OF_SKELETON - set(columns))):
        raise DataError(f"{path}: lacks the arrays {missing}; {_REMEDY}")
    for name in ("box", "joints", "area"):
        if not np.isfinite(columns[name]).all():
            raise DataError(f"{path}: array {name!r} is not finite; {_REMEDY}")
    if not np.isin(columns["joints"][..., 2], (0, 1, 2)).all():
        raise DataError(f"{path}: array 'joints' has a visibility that is not 0, 1 or 2; {_REMEDY}")
    for name, axis in (("person_image", "I"), ("unlabelled_image", "I"), ("ignored_image", "I")):
        rows = columns.get(name, np.zeros(0))
        if len(rows) and not 0 <= rows.min() <= rows.max() < sizes[axis]:
            raise DataError(f"{path}: array {name!r} names rows of images that are not there; {_REMEDY}")


def _fits(shape: tuple[int, ...], axes: Sequence[int | str], sizes: dict[str, int]) -> bool:
    """Whether a shape has these axes; a named one that comes first gets its size."""
    expected = [axis if isinstance(axis, int) else sizes.setdefault(axis, n) for axis, n in zip(axes, shape)]
    return len(shape) == len(axes) and list(shape) == expected


def _videos(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """The columns of `VideoAnnotations`, if images are frames of videos; a marionettes' clip is one."""
    if "video_id" in columns:
        videos = {name: columns[name] for name in ("video_id", "frame_id", "num_frames")}
        return videos | {"ignored": _regions(columns, "ignored")}
    if "clip" not in columns or not columns["frame"].any():
        return {}
    frames = np.full_like(columns["frame"], columns["frame"].max() + 1)
    return {"video_id": columns["clip"] + 1, "frame_id": columns["frame"], "num_frames": frames}


def _regions(columns: dict[str, np.ndarray], name: str) -> Regions:
    """The regions `name`, such as those of people without labels; marionettes have none and write none."""
    if f"{name}_image" not in columns:
        return Regions.pack([], [])
    return Regions(*(columns[f"{name}_{field.name}"] for field in dataclasses.fields(Regions)))


def _head_size(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """The column of lengths for PCKh: as written, or from the 3D joints and cameras of marionettes; else nothing."""
    if "head_size" in columns:
        return {"head_size": columns["head_size"]}
    if "joints_3d" not in columns or "intrinsics" not in columns:
        return {}
    focal = columns["intrinsics"][columns["person_image"]][:, 0, 0]
    return {"head_size": marionette_head_size(columns["joints_3d"], focal)}


def marionette_head_size(joints_3d: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """The lengths that PCKh divides by, MPII's .6 of the diagonal of the head's box, for marionettes.

    The box is that of the bare skull turned to the camera, at the head's distance: from chin to crown twice the way
    from the skull's centre ("head") to "head_top", and `SKULL_ASPECT` of that wide. So it does not change with the
    view, as a projected box would. Boxes of MPII hold hair and some of the neck too: there the median is .29 of a
    person's leg (hip to knee to ankle, in the picture, 400 people), here it is .24, the stricter measure.

    Args:
      joints_3d: [P, 25, 3] joints of `skeleton.MARIONETTE` in millimetres in the camera's frame.
      focal: [P] focal lengths in pixels.

    Returns:
      [P] float32 lengths in pixels; 0 for a head that is not before the camera.
    """
    head, top = (joints_3d[:, skeletons.MARIONETTE.index(joint)].astype(np.float64) for joint in ("head", "head_top"))
    height = 2 * np.linalg.norm(top - head, axis=-1)
    depth = np.where(head[:, 2] > 0, head[:, 2], np.inf)
    return (HEAD_SIZE_OF_BOX * height * np.hypot(1, SKULL_ASPECT) * focal / depth).astype(np.float32)


def _skeleton(columns: dict[str, np.ndarray]) -> Skeleton:
    """The keypoint set of the columns; marionettes write none and have their own."""
    if "skeleton" not in columns:
        return skeletons.MARIONETTE
    return Skeleton(
        name=columns["skeleton"].item(),
        joints=tuple(columns["skeleton_joints"].tolist()),
        limbs=tuple((a, b) for a, b in columns["skeleton_limbs"].tolist()),
        sigmas=tuple(columns["skeleton_sigmas"].tolist()),
        upper_body=tuple(columns["skeleton_upper_body"].tolist()),
        pairs=tuple(map(tuple, columns["skeleton_pairs"].tolist())) if "skeleton_pairs" in columns else None,
    )
