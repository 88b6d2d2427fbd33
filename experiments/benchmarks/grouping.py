"""Grouping, adjustment and refinement of HigherHRNet: milliseconds an image, one image and 16 images a call.

    python experiments/benchmarks/grouping.py [--size=512] [--batch=16] [--calls=3]

Maps are made like the network's: Gaussians of sigma 2 at half the resolution, tags at a quarter, both resized to that
of the image; with noise, with every tenth joint missed, and with some false positives. Tags of people are two apart,
so that most people are found as one. Printed are the median and the range over rounds, after one call that compiles;
beside them the time of the original code, which handles one image at a time on one core. `grouped` are people an image,
spurious ones with a single joint included; refinement fills in nearly all joints that they lack.
"""

import functools
import statistics

import jax
import numpy as np
from absl import app, flags
from timing import milliseconds

from jaxpose.methods.higherhrnet.grouping import Grouping, group
from jaxpose.runs import startup
from jaxpose.skeleton import COCO

flags.DEFINE_integer("size", 512, "Side of the maps in pixels, a multiple of 4.")
flags.DEFINE_integer("batch", 16, "Images in the larger call.")
flags.DEFINE_integer("rounds", 5, "Timed rounds.")
flags.DEFINE_integer("calls", 3, "Calls in a round.")

JOINTS, TAGS = COCO.num_joints, 2
MISSED, SPURIOUS = 0.1, 2.5
"""Share of a person's joints without a peak, and mean number of peaks of an image that belong to nobody."""
ORIGINAL_MS = {1: 393, 3: 669, 10: 1467, 30: 3486}
"""Milliseconds an image that the original code takes on one core of such a machine."""


def crowd(people: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps [size / 2, size / 2, J] and tags [size / 4, size / 4, J, T] of one image."""
    side = size // 2
    heatmaps = np.zeros((side, side, JOINTS), np.float32)
    tags = np.repeat(np.repeat(rng.normal(0, 1, (size // 32, size // 32, JOINTS, TAGS)), 8, 0), 8, 1)
    extent = side / max(2.0, np.sqrt(people))
    centers = rng.uniform(0.15, 0.85, (people, 2)) * side
    own = 2 * np.arange(people)[:, None, None] - people + rng.normal(0, 0.1, (people, JOINTS, TAGS))
    for person, (x, y) in enumerate(centers):
        body = tuple(slice(int(max(0, c - extent / 2) / 2), int((c + extent / 2) / 2)) for c in (y, x))
        tags[body] = own[person] + 0.1 * tags[body]
    for person, joint in np.ndindex(people, JOINTS):
        x, y = np.clip(centers[person] + rng.uniform(-0.45, 0.45, 2) * extent, 0, side - 1)
        height = rng.uniform(0.02, 0.08) if rng.random() < MISSED else rng.uniform(0.3, 0.95)
        _draw(heatmaps[..., joint], x, y, height)
        near = (slice(max(int(c / 2) - 1, 0), int(c / 2) + 2) for c in (y, x))
        tags[*near, joint] = own[person, joint]
    for joint in rng.integers(0, JOINTS, rng.poisson(SPURIOUS)):
        _draw(heatmaps[..., joint], *rng.uniform(0, side - 1, 2), rng.uniform(0.1, 0.4))
    return heatmaps + rng.normal(0, 0.01, heatmaps.shape).astype(np.float32), tags.astype(np.float32)


def _draw(heatmap: np.ndarray, x: float, y: float, height: float) -> None:
    """Draws a Gaussian of sigma 2 in place."""
    top, left = max(int(y) - 7, 0), max(int(x) - 7, 0)
    patch = heatmap[top : int(y) + 8, left : int(x) + 8]
    rows, columns = np.indices(patch.shape)
    squares = (columns + left - int(x)) ** 2 + (rows + top - int(y)) ** 2
    np.maximum(patch, height * np.exp(-squares / 8), out=patch)


@functools.partial(jax.jit, static_argnums=2)
def enlarged(heatmaps: np.ndarray, tags: np.ndarray, size: int) -> tuple[jax.Array, jax.Array]:
    resize = lambda maps: jax.image.resize(maps, (len(maps), size, size, *maps.shape[3:]), "bilinear")  # noqa: E731
    return resize(heatmaps), resize(tags)


def main(arguments: list[str]) -> None:
    del arguments
    startup.start()
    size, rng, settings = flags.FLAGS.size, np.random.default_rng(0), Grouping.of(COCO)
    print(f"{size} x {size}, {jax.devices()[0].device_kind}, ms an image: median (lowest - highest)")
    print(f"{'images':>6} {'people':>6} {'grouped':>7} {'ms/image':>24} {'original':>8} {'times':>6}")
    for images in (1, flags.FLAGS.batch):
        for people, original in ORIGINAL_MS.items():
            maps = enlarged(*(np.stack(a) for a in zip(*[crowd(people, size, rng) for _ in range(images)])), size)
            call = jax.jit(lambda *a: group(*a, settings)).lower(*maps).compile()
            figures = milliseconds(functools.partial(call, *maps), flags.FLAGS.rounds, flags.FLAGS.calls, images)
            people_found = call(*maps)
            grouped = float(people_found.valid.sum() + people_found.omitted.sum()) / images
            median = statistics.median(figures)
            shown = f"{median:.1f} ({min(figures):.1f} - {max(figures):.1f})"
            print(f"{images:>6} {people:>6} {grouped:>7.1f} {shown:>24} {original:>8} {original / median:>6.0f}")


if __name__ == "__main__":
    app.run(main)
