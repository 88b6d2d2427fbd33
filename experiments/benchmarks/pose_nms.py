"""Parametric pose NMS: milliseconds an image and memory, one image at a time and 64 images a call.

    python experiments/benchmarks/pose_nms.py [--rules=rmpe2017] [--calls=20]

Each image holds the given number of proposals of 17 joints, about three noisy copies of every person, in random order.
Printed are the median and the range over rounds, after one call that compiles; beside them the time of the original
code, which handles one image at a time on one core. Memory is what the compiled call holds at once: arguments, results
and temporaries.
"""

import functools
import statistics

import jax
import numpy as np
from absl import app, flags
from timing import milliseconds

from jaxpose.ops.pose_nms import PoseNMS, pose_nms
from jaxpose.runs import startup

flags.DEFINE_enum("rules", "alphapose", ["alphapose", "rmpe2017"], "Rule set.")
flags.DEFINE_integer("rounds", 5, "Timed rounds.")
flags.DEFINE_integer("calls", 20, "Calls in a round.")

JOINTS = 17
ORIGINAL_MS = {3: 2.3, 10: 5.1, 45: 17.7, 90: 31.0}
"""Milliseconds an image that the original code takes on one core of such a machine."""


def proposals(images: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Arguments of `pose_nms` but the rules: about three noisy copies of every person, in random order."""
    person = rng.integers(0, max(1, count // 3), (images, count))
    corner = rng.uniform(0, 1500, (images, count, 2))
    size = rng.uniform(60, 300, (images, count, 2))
    shape = rng.random((images, count, JOINTS, 2))
    true = corner[..., None, :] + shape * size[..., None, :]
    rows = np.arange(images)[:, None]
    keypoints = true[rows, person] + rng.normal(0, 3, (images, count, JOINTS, 2))
    boxes = np.concatenate([corner, size], -1)[rows, person]
    scores = rng.uniform(0.2, 1, (images, count, JOINTS))
    arrays = (keypoints, scores, boxes, rng.random((images, count)))
    return (*(a.astype(np.float32) for a in arrays), np.ones((images, count), bool))


def main(arguments: list[str]) -> None:
    del arguments
    startup.start()
    rules, rng = PoseNMS.preset(flags.FLAGS.rules), np.random.default_rng(0)
    print(f"{flags.FLAGS.rules}, {jax.devices()[0].device_kind}, ms an image: median (lowest - highest)")
    print(f"{'images':>6} {'proposals':>9} {'kept':>6} {'ms/image':>24} {'original':>9} {'MiB':>7}")
    for images in (1, 64):
        for count in (*ORIGINAL_MS, 100):
            batch = jax.device_put(proposals(images, count, rng))
            call = jax.jit(lambda *a: pose_nms(*a, rules)).lower(*batch).compile()
            figures = milliseconds(functools.partial(call, *batch), flags.FLAGS.rounds, flags.FLAGS.calls, images)
            kept = float(call(*batch).keep.sum()) / images
            memory = call.memory_analysis()
            used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
            shown = f"{statistics.median(figures):.3f} ({min(figures):.3f} - {max(figures):.3f})"
            original = ORIGINAL_MS.get(count, "")
            print(f"{images:>6} {count:>9} {kept:>6.1f} {shown:>24} {original:>9} {used / 2**20:>7.1f}")


if __name__ == "__main__":
    app.run(main)
