"""Records of pictures and sequences, made by several processes, and their columnar copy on disk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tqdm

from jaxpose.marionettes.config import MarionettesConfig
from jaxpose.marionettes.scenes import picture
from jaxpose.marionettes.sequences import Sequence, sequence
from jaxpose.marionettes.shots import Rendering

JPEG_QUALITY = 92
_OF_PEOPLE = ("person_id", "track_id", "box", "area", "crowd", "joints", "joints_3d")  # one row a person


def encode_jpeg(image: np.ndarray) -> bytes:
    """JPEG bytes of an RGB picture."""
    good, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not good:
        raise RuntimeError("OpenCV could not encode a JPEG; its build lacks the JPEG codec")
    return data.tobytes()


def records(config: MarionettesConfig, split: str, index: int) -> list[dict[str, Any]]:
    """The records of one picture, clip or sequence, but for the ids that count through the split."""
    if config.scene == "sequence":
        return [_sequence_record(sequence(config, split, index), index)]
    made = picture(config, split, index)
    if isinstance(made, Rendering):
        return [_picture_record(made, index, 0, f"{split}/{index:06d}.jpg")]
    return [_picture_record(p, index, t, f"{split}/{index:06d}/{t:04d}.jpg") for t, p in enumerate(made)]


def _picture_record(p: Rendering, clip: int, frame: int, file_name: str) -> dict[str, Any]:
    height, width = p.image.shape[:2]
    return {
        "image": encode_jpeg(p.image),
        "file_name": file_name,
        "clip": clip,
        "frame": frame,
        "width": width,
        "height": height,
        "track_id": p.track_id,
        "box": p.box,
        "area": p.area,
        "crowd": p.crowd,
        "joints": p.joints_2d,
        "joints_3d": p.joints_3d,
        "intrinsics": p.intrinsics,
        "rotation": p.rotation,
        "translation": p.translation,
    }


def _sequence_record(s: Sequence, index: int) -> dict[str, Any]:
    record = {field.name: getattr(s, field.name) for field in dataclasses.fields(s)}
    record["joints"] = record.pop("joints_2d")
    return {"sequence_id": index + 1, **record}


def all_records(config: MarionettesConfig, split: str, workers: int, progress: bool) -> Iterator[dict[str, Any]]:
    """All records of a split in order, made by `workers` processes; the records do not depend on their number.

    Raises:
      RuntimeError: the processes did not start or died.
    """
    count = config.count(split)
    make = functools.partial(records, config, split)
    show = functools.partial(tqdm.tqdm, total=count, desc=f"marionettes {split}", unit=" scenes", disable=not progress)
    if workers <= 1 or count <= 1:
        yield from itertools.chain.from_iterable(map(make, show(range(count))))
        return
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, count), mp_context=spawn)
    try:
        chunk = max(1, min(16, count // (4 * workers)))
        yield from itertools.chain.from_iterable(show(pool.map(make, range(count), chunksize=chunk)))
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            "worker processes that draw marionettes died or could not start; run the preparation under "
            '`if __name__ == "__main__":` in a script file, or in this process with workers=1'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The records of a split, pixels apart, as arrays: one row a picture or a sequence, and one row a person."""
    if "person_id" not in rows[0]:
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}
    table = {name: np.array([row[name] for row in rows]) for name in rows[0] if name not in _OF_PEOPLE}
    people = [len(row["area"]) for row in rows]
    table["person_image"] = np.repeat(np.arange(len(rows), dtype=np.int64), people)
    return table | {name: np.concatenate([row[name] for row in rows]) for name in _OF_PEOPLE}
