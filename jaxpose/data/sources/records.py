"""Data sets as records: images in ArrayRecord files written through TFDS, their labels in one file of columns.

A folder holds dataset_info.json and features.json of TFDS, NAME-SPLIT.array_record-... with one record an image, and
annotations-SPLIT.npz with the labels of all images in the order of the records.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from jaxpose import skeleton as skeletons
from jaxpose.data.annotations import HEAD_SIZE_OF_BOX, Annotations
from jaxpose.data.formats.regions import Regions
from jaxpose.data.sources import Source, require_folder
from jaxpose.data.sources.posetrack import VideoAnnotations
from jaxpose.errors import DataError, ImageError
from jaxpose.skeleton import Skeleton

SKULL_ASPECT = 77 / 116
"""Width / height of a marionette's skull, but for a few percent from person to person."""


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
    builder: Any = tfds.builder_from_directory(folder)  # TFDS hides what its methods take
    if split not in builder.info.splits:
        raise DataError(f"{folder}: has no split {split!r}; there are {sorted(builder.info.splits)}")
    decoders = {"image": tfds.decode.SkipDecoding()}
    images = builder.as_data_source(split, decoders=decoders)
    annotations = read_columns(folder / f"annotations-{split}.npz")
    if len(images) != annotations.num_images:
        raise DataError(
            f"{folder}: split {split!r} has {len(images)} records but labels of {annotations.num_images} images; "
            "write the records again"
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
      DataError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as columns:
            columns = {name: columns[name] for name in columns.files}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write the records again") from error
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
        clip_boxes=bool(columns.get("clip_boxes", True)),
        unlabelled=_regions(columns, "unlabelled"),
        **{name: columns[name] for name in ("num_keypoints", "crowd_index", "mirror") if name in columns},
        **_head_size(columns),
        **videos,
    )


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
