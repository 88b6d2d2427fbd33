"""The run log: numbers, event files, pictures, the config, and a progress bar.

Only process 0 writes. In WORKDIR:
  config.json      the whole config          versions.json   of everything that computed
  metrics.jsonl    one object a line: {"step": 100, "split": "train", "loss": ...}
  events/          the same for TensorBoard  pictures/       predictions over time
"""

import importlib.metadata
import json
import logging
import pathlib
import platform
import sys
import time
from typing import Any

import jax
import numpy as np

from jaxpose.errors import StorageError
from jaxpose.files.json_files import write_json
from jaxpose.files.whole import write_bytes, write_text
from jaxpose.runs import run_config

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
VERSIONS_OF = ("jaxpose", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets",
               "numpy", "opencv-python-headless", "hotcoco")  # fmt: skip


class Journal:
    """Writes what happens in a run.

    Args:
      workdir: folder of the run.
      config: config of the run.
      step: number of finished steps; lines and events of later ones, left by a run that was cut off, are dropped.
      total: number of steps of the whole run, for the bar.
    """

    def __init__(self, workdir: pathlib.Path, config: Any, *, step: int, total: int):
        self.workdir = pathlib.Path(workdir)
        path = self.workdir / METRICS
        self._known = {(line["step"], line["split"]) for line in read_lines(path) if line["step"] <= step}
        self.active = jax.process_index() == 0
        self._events: Any = None
        self._bar: Any = None
        self._lines: Any = None
        self._since = (step, time.monotonic())
        if not self.active:
            return
        import tensorboardX
        from tqdm import tqdm

        self.workdir.mkdir(parents=True, exist_ok=True)
        run_config.write(self.workdir, config)
        write_json(self.workdir / "versions.json", versions())
        drop_lines_after(path, step)
        self._lines = path.open("a")
        self._events = tensorboardX.SummaryWriter(str(self.workdir / "events"), purge_step=step + 1, flush_secs=20)
        self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty())

    def has(self, step: int, split: str) -> bool:
        """Whether numbers of a step and split were recorded when the run stopped before."""
        return (step, split) in self._known

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Records named numbers; `split` is "train", "validation", ..."""
        if not self.active:
            return
        line = {"step": step, "split": split} | {k: float(v) for k, v in values.items()}
        try:
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        except OSError as error:
            raise StorageError(f"{self.workdir / METRICS}: cannot be written ({error.strerror})") from error
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", float(value), step)

    def progress(self, step: int, loss: float, batch_size: int) -> dict[str, float]:
        """Moves the bar and says how fast it goes; on a terminal as a bar, elsewhere as log lines."""
        before, then = self._since
        now = time.monotonic()
        self._since = (step, now)
        speed = (step - before) * batch_size / max(now - then, 1e-9)
        if self.active:
            self._bar.set_postfix(loss=f"{loss:.4f}", images_s=f"{speed:.0f}", refresh=False)
            self._bar.update(step - self._bar.n)
            if self._bar.disable:
                total = self._bar.total
                left = clock((total - step) * batch_size / max(speed, 1e-9))
                logger.info("step %d/%d  loss %.4f  %.0f images/s  %s left", step, total, loss, speed, left)
        return {"images_per_second": speed}

    def rest(self) -> None:
        """Takes the time since the last `progress` (evaluation, saving) out of the speed."""
        self._since = (self._since[0], time.monotonic())

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Keeps an RGB picture [H, W, 3] uint8 as a JPEG file and a TensorBoard image."""
        if not self.active:
            return
        import cv2
        from tensorboardX.proto import summary_pb2

        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        folder = self.workdir / "pictures"
        folder.mkdir(exist_ok=True)
        write_bytes(folder / f"{name}_{step:07d}.jpg", jpeg)
        height, width, _ = image.shape
        summary: Any = summary_pb2  # its classes are made at run time
        picture = summary.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=jpeg)
        self._events.file_writer.add_summary(
            summary.Summary(value=[summary.Summary.Value(tag=name, image=picture)]), step
        )

    def close(self) -> None:
        if self.active:
            self._bar.close()
            self._lines.close()
            self._events.close()


def clock(seconds: float) -> str:
    """1:02:03."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def versions() -> dict[str, Any]:
    """Of Python, this machine's devices, and the packages that compute."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "platform": platform.platform()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    devices = jax.devices()
    return found | {"devices": f"{len(devices)} x {devices[0].device_kind}", "processes": jax.process_count()}


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order: objects with "step" and "split".

    A line that is cut off or changed is named in the log and left out; without a file there are none.
    """
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            if isinstance(entry["step"], int) and isinstance(entry["split"], str):
                found.append(entry)
                continue
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        logger.warning("%s: left out line %d, which is damaged: %.60s", path, number, line)
    return found


def drop_lines_after(path: pathlib.Path, step: int) -> None:
    """Removes lines of steps beyond `step`, and damaged ones, from a metrics file."""
    if path.exists():
        kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step]
        write_text(path, "".join(kept))
