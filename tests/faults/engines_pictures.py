"""Pictures, and PoseTrack's labels in both forms, for `faults.fuzz`."""

import functools
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import odd_pictures
from faults.fuzz import Parser

from jaxpose.data import images
from jaxpose.data.formats import pictures
from jaxpose.data.formats import posetrack as forms
from jaxpose.data.sources import posetrack
from jaxpose.data.sources.folder import picture_sizes
from jaxpose.evaluation.metrics import MetricContext
from jaxpose.evaluation.metrics.posetrack import PoseTrackKeypoints
from jaxpose.files.json_files import parse_json
from jaxpose.skeleton import from_coco_category

SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".gif", ".tiff")


@functools.cache
def picture(suffix: str) -> bytes:
    """A small picture, if the format allows with an orientation."""
    rows, columns = np.mgrid[:24, :32]
    image = np.stack([8 * columns, 10 * rows, 4 * rows + 4 * columns], -1).astype(np.uint8)
    if suffix == ".gif":
        return odd_pictures.gif(2)
    data = odd_pictures.encode(image, suffix)
    return odd_pictures.with_exif(data, 6) if suffix in (".jpg", ".png", ".webp") else data


def decode(data: bytes) -> None:
    """Reads a picture as prediction and as training do."""
    pictures.header(data[: len(data) // 2])
    seen = images.decode(data, "x")
    again, _ = images.decode_labelled(data, "x", (seen.shape[1], seen.shape[0]))
    assert (seen.ndim, seen.dtype) == (3, np.uint8)
    assert np.array_equal(seen, again)


def read_size(folder: pathlib.Path) -> Callable[[bytes], object]:
    """Reads the size of a picture from its first bytes."""

    def read(data: bytes) -> object:
        (folder / "x").write_bytes(data)
        return picture_sizes(folder, ["x"], "Fetch it again.")

    return read


def labels_2018() -> dict:
    """Two videos of two frames, with regions, heads, tracks, and people without boxes."""
    listed = [
        {"id": 10 + i, "file_name": f"v{i // 2}/{i % 2:06d}.jpg", "vid_id": f"00000{i // 2}", "nframes": 2,
         "width": 640, "height": 480, "is_labeled": True, "frame_id": i % 2,
         "ignore_regions_x": [[0, 200, 200, 0]], "ignore_regions_y": [[0, 0, 100, 100]]}
        for i in range(4)
    ]  # fmt: skip
    joints = [value for k in range(17) for value in (300.0 + 5 * k, 100 + 15 * k, 1)]
    people = [
        {"id": 100 + i, "image_id": 10 + i % 4, "category_id": 1, "track_id": i // 4, "keypoints": list(joints),
         "scores": [0.5] * 17, "bbox_head": [300, 80, 30, 40], "bbox": [290.0, 80, 100, 300], "iscrowd": 0}
        for i in range(6)
    ]  # fmt: skip
    del people[1]["bbox"], people[2]["scores"]
    people[3]["iscrowd"] = 1
    return {"images": listed, "annotations": people, "categories": [forms.category()]}


def labels_2017() -> dict:
    """The first video in the form of 2017."""
    return json.loads(json.dumps(next(iter(forms.to_annolists(labels_2018()).values()))))


def read_labels(data: bytes) -> None:
    """Reads labels as training does, evaluates poses against them, and writes them in the other form."""
    content = forms.unified(parse_json(data, "labels.json"), "labels.json")
    sizes = [{"width": 640, "height": 480} | image for image in content["images"]]
    for image in sizes:
        image |= {side: image[side] or 99 for side in ("width", "height")}
    annotations = posetrack.parse(content | {"images": sizes}, "labels.json")
    skeleton = from_coco_category(content["categories"][0]) if content["categories"] else annotations.skeleton
    metric = PoseTrackKeypoints(MetricContext(skeleton, content))
    metric.frames()
    forms.file_names(forms.to_annolists(content))


def parsers() -> dict[str, Parser]:
    """{name: valid input, parser}; see `faults.fuzz`."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pictures-"))
    found: dict[str, Parser] = {
        f"picture {suffix[1:]}": (functools.partial(picture, suffix), decode) for suffix in SUFFIXES
    }
    found |= {
        f"size of {suffix[1:]}": (functools.partial(picture, suffix), read_size(folder)) for suffix in SUFFIXES[:4]
    }
    return found | {"posetrack 2018": (labels_2018, read_labels), "posetrack 2017": (labels_2017, read_labels)}
