"""PoseTrack 2017 and 2018 (https://posetrack.net), and any set of videos whose frames have labels in COCO's format.

`data.<split>.annotations`, relative to `data.dir`, is a .json file of one or more videos, or a folder of such files, in
PoseTrack's form of 2018 or of 2017 (see jaxpose/data/formats/posetrack.py). `data.<split>.images` is the folder that
the file names in it are relative to. PoseTrack 2018 as it is published:

  annotations/val/000342_mpii_test.json ...     images/val/000342_mpii_test/000000.jpg ...
  annotations = "annotations/val"               images = "."

Of another set, an image's "video_id" (or "vid_id") and its folder say which video it belongs to, and the number that
its file is named with, or "frame_id", which frame it is. People may have "track_id", and "bbox_head" or "head_size".
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxpose.data import images
from jaxpose.data.annotations import UNLESS_GIVEN, Annotations, Skipped
from jaxpose.data.formats import posetrack as forms
from jaxpose.data.formats.posetrack_fields import REGION
from jaxpose.data.formats.regions import Regions, is_drawable
from jaxpose.data.sources import Source, require_folder, require_inside
from jaxpose.data.sources.coco import parse_people
from jaxpose.data.sources.folder import picture_sizes
from jaxpose.errors import ConfigError
from jaxpose.files.fields import LARGEST_ID

_MOST_UNLISTED = 1 << 40
_DIGITS_FROM_ONE = 8  # in the names of PoseTrack 2017, whose frames count from 1; all others count from 0


@dataclasses.dataclass(frozen=True)
class VideoAnnotations(Annotations):
    """Labels of images that are frames of videos.

    Attributes:
      video_id: [I] int64 number of the image's video, from 1 in the order of the files; unless given, every image is a
        video of its own.
      frame_id: [I] int64 position of the image in its video, from 0, whether or not all frames are listed.
      num_frames: [I] int64 number of frames in the image's video.
      ignored: regions in which nobody is annotated and nothing is evaluated; they are among `unlabelled`, too.
    """

    video_id: np.ndarray = UNLESS_GIVEN
    frame_id: np.ndarray = UNLESS_GIVEN
    num_frames: np.ndarray = UNLESS_GIVEN
    ignored: Regions = Regions.pack([], [])

    def __post_init__(self):
        super().__post_init__()
        alone = np.arange(self.num_images)
        for name, default in {"video_id": alone + 1, "frame_id": 0 * alone, "num_frames": 0 * alone + 1}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    def _coco_image(self, i: int) -> dict:
        columns = {"video_id": self.video_id, "frame_id": self.frame_id, "nframes": self.num_frames}
        image = super()._coco_image(i) | {name: int(values[i]) for name, values in columns.items()}
        if polygons := [np.reshape(polygon, (-1, 2)).T.tolist() for (polygon,) in self.ignored.of(i)]:
            image["ignore_regions_x"], image["ignore_regions_y"] = map(list, zip(*polygons, strict=True))
        return image

    def _coco_person(self, p: int) -> dict:
        """Keeps the positions of joints with visibility 0: PoseTrack evaluates them."""
        triples = np.concatenate([self.keypoints[p].astype(np.float64), self.visibility[p][:, None]], axis=-1)
        person = {"track_id": int(self.track_id[p]), "head_size": float(self.head_size[p])}
        return super()._coco_person(p) | person | {"keypoints": triples.reshape(-1).tolist()}


def open_split(data: Any, split: str, *, progress: bool = True) -> Source:
    """The split that `config.data.<split>` describes, relative to `config.data.dir`; see the top of this file.

    Frames that lie beside listed ones but are not listed themselves are added without people, so that clips have their
    neighbours.

    Raises:
      ConfigError: a field is missing or names no folder.
      DataError: labels or pictures are not what they should be.
    """
    del progress
    what = "the folder that holds PoseTrack's images and annotations (see jaxpose/data/sources/posetrack.py)"
    root = require_folder(data.dir, "data.dir", what)
    if split not in data or not data[split].annotations:
        raise ConfigError(f"config.data.{split}.annotations is missing: it must name a .json file, or a folder of them")
    folder = require_folder(str(root / data[split].images), f"data.{split}.images", "the folder of the split's images")
    path = root / data[split].annotations
    content = forms.read(path)
    require_inside([str(image.get("file_name")) for image in content["images"]], path, data)
    listed = [*content["images"], *_unlisted_frames(content["images"], folder)]
    annotations = _columns(content | {"images": _with_sizes(listed, folder)}, str(path))

    def read(i: int) -> bytes:
        return images.read(folder / str(annotations.file_name[i]))

    return Source(name=str(path), annotations=annotations, read=read)


def parse(content: forms.Content, name: str) -> VideoAnnotations:
    """The labels of content in the form of 2018, every image of which has a width and a height.

    Kept and skipped is what `sources.coco.parse_keypoints` says. A person without a box gets one around its joints
    (`formats.posetrack.with_box`). In an image that is not labelled everything is an `unlabelled` region, for there may
    be people.

    Args:
      content: content of a file.
      name: name of the data set, for messages.

    Raises:
      DataError: as `parse_keypoints`, or frames of a video of which two have the same number, or only some have one.
    """
    return _columns(forms.unified(content, name), name)


def _columns(content: forms.Content, name: str) -> VideoAnnotations:
    boxed = [forms.with_box(person) for person in content["annotations"]]
    a, listed = parse_people(content | {"annotations": boxed}, name)
    heads = [forms.head_size(boxed[row]) for row in listed]
    ignored = _ignored(content["images"], name)
    everywhere = [_frame_of(i) for i in content["images"] if not i.get("is_labeled", True)]
    rows = [row for row, i in enumerate(content["images"]) if not i.get("is_labeled", True)]
    parts = [
        (a.unlabelled.image, _all(a.unlabelled)),
        (ignored.image, _all(ignored)),
        (np.array(rows, int), everywhere),
    ]
    columns: dict[str, Any] = {field.name: getattr(a, field.name) for field in dataclasses.fields(Annotations)}
    columns["head_size"] = np.array(heads, np.float32)
    columns["unlabelled"] = Regions.pack(np.concatenate([r for r, _ in parts]), sum((list(s) for _, s in parts), []))
    return VideoAnnotations(**columns, **_video_columns(content["images"], name), ignored=ignored)


def _video_columns(listed: Sequence[dict], name: str) -> dict[str, Any]:
    """The columns video_id, frame_id and num_frames of the images."""
    rows: dict[forms.VideoKey, list[int]] = {}
    for row, image in enumerate(listed):
        rows.setdefault(forms.video_of(image), []).append(row)
    video, frame, frames = np.zeros((3, len(listed)), np.int64)
    for number, members in enumerate(rows.values(), start=1):
        video[members] = number
        frame[members] = _positions([listed[row] for row in members], name)
        stated = max(listed[row].get("nframes", 0) for row in members)
        frames[members] = max(stated, int(frame[members].max()) + 1)
    return {"video_id": video, "frame_id": frame, "num_frames": frames}


def _positions(members: Sequence[dict], name: str) -> list[int]:
    """The positions of the listed frames of one video."""
    numbers = forms.positions(members, name)
    stems = [pathlib.PurePosixPath(image["file_name"]).stem for image in members]
    from_one = min(numbers) > 0 and all(stem.isdecimal() and len(stem) == _DIGITS_FROM_ONE for stem in stems)
    return [number - from_one for number in numbers]


def _unlisted_frames(listed: Sequence[dict], folder: pathlib.Path) -> list[dict]:
    """Pictures beside listed ones that are named like frames: digits, as many as theirs."""
    names = {image["file_name"] for image in listed}
    patterns: dict[tuple[pathlib.PurePosixPath, int, str], dict] = {}
    for image in listed:
        path = pathlib.PurePosixPath(image["file_name"])
        if path.stem.isdecimal():
            patterns.setdefault((path.parent, len(path.stem), path.suffix), image)
    found = []
    for (parent, digits, suffix), image in patterns.items():
        for path in sorted((folder / parent).glob("*" + suffix)):
            name = (parent / path.name).as_posix()
            if path.stem.isdecimal() and len(path.stem) == digits and name not in names:
                copied = {f: image[f] for f in ("width", "height", "vid_id", "video_id", "nframes") if f in image}
                found.append(copied | {"file_name": name, "is_labeled": False})
    return [image | {"id": number} for image, number in zip(found, _free_ids(listed))]


def _free_ids(listed: Sequence[dict]) -> Iterator[int]:
    """Ids that no listed image has: those above them, or the smallest where there is no room above."""
    taken = {image["id"] for image in listed}
    first = max(taken, default=0) + 1
    first = max(first, 1) if first < LARGEST_ID - _MOST_UNLISTED else 1
    return (number for number in itertools.count(first) if number not in taken)


def _with_sizes(listed: Sequence[dict], folder: pathlib.Path) -> list[dict]:
    """Images with width and height, from the pictures where the labels don't tell."""
    unknown = [i for i, image in enumerate(listed) if not (image.get("width") and image.get("height"))]
    remedy = "The labels don't tell their sizes, so the pictures are needed; fetch them again."
    sizes = picture_sizes(folder, [listed[i]["file_name"] for i in unknown], remedy).tolist()
    known = dict(zip(unknown, sizes, strict=True))
    return [
        image | dict(zip(("width", "height"), known[i], strict=True)) if i in known else image
        for i, image in enumerate(listed)
    ]


def _ignored(listed: Sequence[dict], name: str) -> Regions:
    rows, found, skipped = [], [], Skipped(name)
    for row, image in enumerate(listed):
        for xs, ys in forms.polygons(image):
            polygon = [[float(v) for point in zip(xs, ys, strict=True) for v in point]]
            if is_drawable(polygon, image["width"], image["height"]):
                rows.append(row)
                found.append(polygon)
            else:
                skipped.add(REGION, f"image {image['id']}")
    skipped.log()
    return Regions.pack(rows, found)


def _frame_of(image: dict) -> list[list[float]]:
    w, h = float(image["width"]), float(image["height"])
    return [[0.0, 0.0, w, 0.0, w, h, 0.0, h]]


def _all(regions: Regions) -> list:
    """The regions in the order of `regions.image`."""
    return [region for image in np.unique(regions.image) for region in regions.of(int(image))]
