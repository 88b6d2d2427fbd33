"""Writing any source of images as records, for fast random access from network storage.

`jaxpose write-records` calls it; the source "records" (`data.sources.records`) reads what it writes.
"""

import dataclasses
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxpose.data.annotations import Annotations
from jaxpose.data.formats.regions import Regions
from jaxpose.data.formats.storage import LocalBuilder, write_columns, write_folder
from jaxpose.data.sources import Source
from jaxpose.data.sources.posetrack import VideoAnnotations

VERSION = "1.2.0"
"""1.1.0 added num_keypoints, crowd_index and the regions of people without labels; 1.2.0 people seen mirrored, and the
columns of videos."""


class PoseRecords(LocalBuilder):
    """Images of a source, one record each, in the source's order; their labels in annotations-SPLIT.npz."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, sources: dict[str, Source], **kwargs: Any):
        self._sources = sources
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "image_id": tfds.features.Scalar(np.int64),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._sources}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        source = self._sources[split]
        for i in range(len(source)):
            image_id, name = int(source.annotations.image_id[i]), str(source.annotations.file_name[i])
            yield i, {"image": io.BytesIO(source.read(i)), "image_id": image_id, "file_name": name}
        write_columns(pathlib.Path(self.data_dir) / f"annotations-{split}.npz", to_columns(source.annotations))


def to_columns(annotations: Annotations) -> dict[str, np.ndarray]:
    """The arrays of a file of annotations; `sources.records.read_columns` is the inverse."""
    a, skeleton = annotations, annotations.skeleton
    names = (
        "image_id",
        "file_name",
        "width",
        "height",
        "person_image",
        "person_id",
        "box",
        "area",
        "crowd",
        "track_id",
        "head_size",
        "num_keypoints",
        "crowd_index",
        "mirror",
    )
    regions = {f"unlabelled_{field.name}": getattr(a.unlabelled, field.name) for field in dataclasses.fields(Regions)}
    columns = {name: getattr(a, name) for name in names} | regions
    if isinstance(a, VideoAnnotations):
        columns |= {name: getattr(a, name) for name in ("video_id", "frame_id", "num_frames")}
        columns |= {f"ignored_{field.name}": getattr(a.ignored, field.name) for field in dataclasses.fields(Regions)}
    if skeleton.pairs is not None:
        columns["skeleton_pairs"] = np.array(skeleton.pairs, np.str_).reshape(-1, 2)
    return columns | {
        "joints": np.concatenate([a.keypoints, a.visibility[..., None].astype(np.float32)], -1),
        "clip_boxes": np.array(a.clip_boxes),
        "skeleton": np.array(skeleton.name),
        "skeleton_joints": np.array(skeleton.joints),
        "skeleton_limbs": np.array(skeleton.limbs, np.str_).reshape(-1, 2),
        "skeleton_sigmas": np.array(skeleton.sigmas),
        "skeleton_upper_body": np.array(skeleton.upper_body, np.str_),
    }


def write(sources: dict[str, Source], output: str | pathlib.Path) -> pathlib.Path:
    """Writes {split: source} under `output`, once, and returns the folder of the records.

    Raises:
      ImageError: an image cannot be read; nothing that looks finished is left behind.
      StorageError: the folder cannot be written.
    """
    folder = pathlib.Path(output).expanduser() / PoseRecords.name / VERSION
    if not (folder / "dataset_info.json").is_file():
        write_folder(lambda root: PoseRecords(sources=sources, data_dir=root), folder)
    return folder
