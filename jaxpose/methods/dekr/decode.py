"""Decoding of DEKR, from maps to people (Geng et al., CVPR 2021, section 3.4 and the released code), under jit.

Maxima of the person-centre heatmap name cells, and the network tells a whole pose at each cell. These candidates, of
all test scales together, are scored by the joint heatmaps, and duplicates are removed.

Positions are (x, y). Input pixel = stride x cell exactly, without a half-pixel term. Everything comes out in pixels of
the input at scale 1, which every scale's maps cover.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpose.errors import ConfigError
from jaxpose.methods.dekr.gaussian_fit import gaussian_centers
from jaxpose.ops.arrays import LARGEST
from jaxpose.ops.peaks import local_maxima
from jaxpose.types import Array

STRIDE = 4
"""Pixels of the input along each side of a cell."""
_SINGLE_SCALE_THRESHOLD, _MULTI_SCALE_THRESHOLD = 0.05, 0.15


@dataclasses.dataclass(frozen=True)
class Matching:
    """Rules by which joints move onto heatmap peaks; for several test scales, where it gains .2 to .4 AP.

    Attributes:
      distance: distance in pixels below which a joint moves to the nearest peak of its averaged heatmap.
      score: score above which a joint is refined by fitting a Gaussian to the heatmap around it.
      radius: half the side of the window of the fit, in pixels.
      sigma: standard deviation by which the fit starts, in pixels.
      pool: side of the window within which a peak is the maximum, in pixels.
      mixed_borders: True to mix up rows and columns of a window that the image's border cuts to an oblong, as the
        original code does, which puts joints there up to about 3 pixels off.
    """

    distance: float = 75.0
    score: float = 0.05
    radius: int = 6
    sigma: float = 2.0
    pool: int = 5
    mixed_borders: bool = False


@dataclasses.dataclass(frozen=True)
class Selection:
    """Rules by which people are chosen among the cells; the defaults are the released ones for COCO.

    Attributes:
      max_people: largest number P of candidates of each scale, and of people of an image.
      threshold: centre score above which a cell is a candidate.
      pool_thresholds: mean sides of maps, in cells, above which a centre is the maximum of 7 x 7 cells and of 5 x 5;
        elsewhere of 3 x 3.
      nms_threshold: share of the diagonal of the first pose's box below which two joints of a kind coincide; None for
        .05 with one test scale and .15 with several.
      nms_count: number of coinciding joints that neighbouring poses exceed; None for half the joints.
      decrease: factor of the scores of the other scales.
      matching: rules of matching to heatmaps; None to leave joints where the network saw them.
    """

    max_people: int = 30
    threshold: float = 0.01
    pool_thresholds: tuple[float, float] = (300.0, 200.0)
    nms_threshold: float | None = None
    nms_count: int | None = None
    decrease: float = 0.9
    matching: Matching | None = None

    def __post_init__(self):
        """Raises `ConfigError` for numbers that cannot work."""
        if self.max_people < 1:
            raise ConfigError(f"max_people is {self.max_people}, expected at least 1")
        if self.nms_threshold is not None and not self.nms_threshold > 0:
            raise ConfigError(f"nms_threshold is {self.nms_threshold}, expected a positive number")
        if self.nms_count is not None and self.nms_count < 0:
            raise ConfigError(f"nms_count is {self.nms_count}, expected 0 or more")

    def pool(self, height: int, width: int) -> int:
        """Side of the window within which a centre is the maximum."""
        side = (height + width) / 2
        return 3 + 2 * sum(side > threshold for threshold in self.pool_thresholds)

    def coinciding(self, scales: int) -> float:
        """Share of the diagonal within which joints coincide, for so many test scales."""
        if self.nms_threshold is not None:
            return self.nms_threshold
        return _SINGLE_SCALE_THRESHOLD if scales == 1 else _MULTI_SCALE_THRESHOLD

    def neighbor_count(self, joints: int) -> int:
        """Coinciding joints that neighbours exceed.

        Raises:
          ConfigError: as many as there are joints, so that nobody would be found.
        """
        count = joints // 2 if self.nms_count is None else self.nms_count
        if count >= joints:
            raise ConfigError(
                f"nms_count is {count}, but poses have {joints} joints; neighbours need more coinciding joints than "
                f"that, so nobody would ever be found. Take less, such as {joints // 2}"
            )
        return count


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("centers", "poses", "heatmaps"), meta_fields=("scale",)
)
@dataclasses.dataclass(frozen=True)
class ScaleMaps:
    """Outputs of the network at one test scale.

    Attributes:
      scale: scale of the input; its maps have `scale` times the cells of those at scale 1 along each side.
      centers: [..., h, w] heatmap of the people's centres.
      poses: [..., h, w, K, 2] pose that each cell tells, in cells.
      heatmaps: [..., h, w, K] heatmaps of the joints.
    """

    scale: float
    centers: Array
    poses: Array
    heatmaps: Array

    @property
    def factor(self) -> float:
        """Pixels of the input at scale 1 along each side of a cell."""
        return STRIDE / self.scale


class Candidates(NamedTuple):
    """Poses that may be people.

    Attributes:
      keypoints: [..., N, K, 2] poses in pixels of the input at scale 1.
      score: [..., N] scores of the centres.
      valid: [..., N] bool, False for padding.
    """

    keypoints: jax.Array
    score: jax.Array
    valid: jax.Array


class People(NamedTuple):
    """The people of each image: P rows, of which the first `valid.sum(-1)` count; the others are zeros.

    Attributes:
      keypoints: [..., P, K, 2] poses in pixels of the input at scale 1.
      scores: [..., P, K] centre score x heatmap value of each joint.
      person_score: [..., P] means of `scores`.
      valid: [..., P] bool, False for padding.
    """

    keypoints: jax.Array
    scores: jax.Array
    person_score: jax.Array
    valid: jax.Array


def decode(maps: Sequence[ScaleMaps], selection: Selection) -> People:
    """The people of every image of a batch.

    An image whose maps hold a number that is not finite where people are looked for gives one valid person made of
    NaN, so that whoever counts people learns of it instead of seeing an empty image.

    Args:
      maps: outputs of the network at each test scale, in any order; scale 1 is among them.
      selection: rules of selection.

    Returns:
      The people, in pixels of the input at scale 1.

    Raises:
      ConfigError: scale 1 is missing or a scale is doubled, maps of different sizes do not fit one input, or
        `nms_count` cannot work.
    """
    maps = sorted(maps, key=lambda m: -m.scale)
    size = input_size(maps)
    found = [propose(m, selection) for m in maps]
    base = [m.scale for m in maps].index(1)
    everyone = join(found, base, selection.decrease)
    heat = heat_values([(m.heatmaps, m.factor) for m in maps], everyone.keypoints, size)
    people = select(everyone, heat, selection, len(maps))
    if selection.matching is not None:
        full = jnp.asarray(sum(upsample(m.heatmaps, m.factor, size) for m in maps)) / len(maps)
        people = match_to_heatmaps(people, full, selection)
    return _mark(people, _broken(maps, everyone, heat))


def input_size(maps: Sequence[ScaleMaps]) -> tuple[int, int]:
    """(width, height) in pixels of the input at scale 1.

    Raises:
      ConfigError: scale 1 is missing, a scale is doubled, or a map has another size than its scale asks for.
    """
    scales = [m.scale for m in maps]
    if scales.count(1) != 1 or len(set(scales)) != len(scales) or min(scales) <= 0:
        raise ConfigError(f"the test scales are {scales}, expected different positive numbers, 1 among them")
    height, width = maps[scales.index(1)].centers.shape[-2:]
    for m in maps:
        if (found := m.centers.shape[-2:]) != (expected := (int(m.scale * height), int(m.scale * width))):
            raise ConfigError(
                f"the maps of scale {m.scale:g} have {found} rows and columns, expected {expected} beside "
                f"{(height, width)} at scale 1; take input sizes that the scales divide into multiples of 32"
            )
    return STRIDE * width, STRIDE * height


def _broken(maps: Sequence[ScaleMaps], everyone: Candidates, heat: jax.Array) -> jax.Array:
    """Mask [...] of images in which a centre, or a candidate's position or heatmap value, is beyond all use."""
    seen = (jnp.abs(everyone.keypoints) <= LARGEST).all(-1) & (jnp.abs(heat) <= LARGEST)
    finite = (seen | ~everyone.valid[..., None]).all((-2, -1))
    for m in maps:
        finite &= (jnp.abs(m.centers) <= LARGEST).all((-2, -1))
    return ~finite


def _mark(people: People, broken: jax.Array) -> People:
    """`people`, those of images [...] that are `broken` replaced by one person made of NaN."""
    first = jnp.arange(people.valid.shape[-1]) == 0
    nan = jnp.where(first, jnp.nan, 0.0)
    keypoints, scores, person_score, valid = people
    return People(
        jnp.where(broken[..., None, None, None], nan[:, None, None], keypoints),
        jnp.where(broken[..., None, None], nan[:, None], scores),
        jnp.where(broken[..., None], nan, person_score),
        jnp.where(broken[..., None], first, valid),
    )


# --- candidates ---


def center_maxima(centers: Array, selection: Selection) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best person centres of each map, by falling score, the lower index first among equals.

    Args:
      centers: [..., h, w] heatmaps of the people's centres.
      selection: rules of selection.

    Returns:
      The index [..., P] int32 of the cell, row * w + column; the score [..., P]; and a mask [..., P] of scores above
      the threshold.
    """
    height, width = centers.shape[-2:]
    best = local_maxima(jnp.asarray(centers, jnp.float32)[..., None], selection.pool(height, width))
    cells = best.reshape(*centers.shape[:-2], height * width)
    score, index = jax.lax.top_k(cells, min(selection.max_people, height * width))
    padding = [(0, 0)] * (score.ndim - 1) + [(0, selection.max_people - score.shape[-1])]
    score, index = jnp.pad(score, padding), jnp.pad(index, padding)
    return index, score, score > selection.threshold


def propose(maps: ScaleMaps, selection: Selection) -> Candidates:
    """The poses at the best person centres of one scale, P for each image."""
    index, score, valid = center_maxima(maps.centers, selection)
    poses = jnp.asarray(maps.poses, jnp.float32)
    cells = poses.reshape(*poses.shape[:-4], -1, *poses.shape[-2:])
    chosen = jnp.take_along_axis(cells, index[..., None, None], axis=-3)
    return Candidates(chosen * maps.factor, score, valid)


def join(found: Sequence[Candidates], base: int, decrease: float) -> Candidates:
    """Candidates of all scales in one list, with centre scores on one level.

    Scores of other scales are stretched so that their best equals the best of the base scale (1 if it has none), then
    multiplied by `decrease`.

    Args:
      found: candidates of each scale, by falling scale.
      base: position of scale 1 in `found`.
      decrease: factor of the other scales.

    Returns:
      The candidates of all scales.
    """
    best = [_best(f) for f in found]
    scores = [
        f.score if i == base else f.score / best[i][..., None] * best[base][..., None] * decrease
        for i, f in enumerate(found)
    ]
    return Candidates(
        jnp.concatenate([f.keypoints for f in found], axis=-3),
        jnp.concatenate(scores, axis=-1),
        jnp.concatenate([f.valid for f in found], axis=-1),
    )


def _best(found: Candidates) -> jax.Array:
    """[...] the highest score of each image, 1 where there is none."""
    best = jnp.max(jnp.where(found.valid, found.score, -jnp.inf), axis=-1, initial=-jnp.inf)
    return jnp.where(found.valid.any(-1), best, 1)


# --- reading heatmaps ---


def upsample(maps: Array, factor: float, size: tuple[int, int]) -> jax.Array:
    """Maps enlarged such that pixel factor x i has the value of cell i, linear between, constant after the last cell.

    Args:
      maps: [..., h, w, K] maps.
      factor: pixels along each side of a cell; any number above 0.
      size: (width, height) of the result in pixels.

    Returns:
      [..., height, width, K] maps.
    """
    maps = jnp.asarray(maps, jnp.float32)
    for axis, length in zip((maps.ndim - 3, maps.ndim - 2), size[::-1]):
        low, high, share = _between(jnp.arange(length, dtype=jnp.float32), factor, maps.shape[axis])
        share = share.reshape(-1, *[1] * (maps.ndim - 1 - axis))
        maps = (1 - share) * jnp.take(maps, low, axis) + share * jnp.take(maps, high, axis)
    return maps


def _between(pixel: jax.Array, factor: float, cells: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cells on both sides of a pixel, as indices, and the share of the second."""
    position = jnp.clip(pixel / factor, 0, cells - 1)
    low = jnp.floor(position)
    index = low.astype(jnp.int32)
    return index, jnp.minimum(index + 1, cells - 1), position - low


def heat_values(maps: Sequence[tuple[Array, float]], keypoints: Array, size: tuple[int, int]) -> jax.Array:
    """Heatmap values of joints: the mean over scales of the enlarged maps (see `upsample`) at floor(x), floor(y).

    The enlarged maps are never made; the four cells around each joint are read. Joints outside the input take the
    value of the nearest pixel.

    Args:
      maps: heatmaps [..., h, w, K] of each scale, with the pixels along each side of a cell.
      keypoints: [..., N, K, 2] poses in pixels of the input.
      size: (width, height) of the input in pixels.

    Returns:
      [..., N, K] heatmap values.
    """
    pixel = jnp.clip(jnp.floor(jnp.asarray(keypoints, jnp.float32)), 0, jnp.array(size, jnp.float32) - 1)
    return jnp.asarray(sum(_read(jnp.asarray(heat, jnp.float32), factor, pixel) for heat, factor in maps)) / len(maps)


def _read(heat: jax.Array, factor: float, pixel: jax.Array) -> jax.Array:
    height, width, joints = heat.shape[-3:]
    flat = heat.reshape(*heat.shape[:-3], height * width, joints)
    left, right, x_share = _between(pixel[..., 0], factor, width)
    top, bottom, y_share = _between(pixel[..., 1], factor, height)

    def row(y: jax.Array) -> jax.Array:
        ends = (jnp.take_along_axis(flat, y * width + x, axis=-2) for x in (left, right))
        return (1 - x_share) * next(ends) + x_share * next(ends)

    return (1 - y_share) * row(top) + y_share * row(bottom)


# --- suppression ---


def diagonal(keypoints: Array) -> jax.Array:
    """Length [...] of the diagonal of the box around the joints [..., K, 2]."""
    return jnp.linalg.norm(jnp.max(keypoints, axis=-2) - jnp.min(keypoints, axis=-2), axis=-1)


def neighbors(keypoints: Array, valid: Array, threshold: float, count: int) -> jax.Array:
    """Pairs of poses (i, j) of which more than `count` joints of j lie within `threshold` x i's diagonal of i's joints.

    A pose is its own neighbour, unless all its joints coincide. The relation is not symmetric.

    Args:
      keypoints: [..., N, K, 2] poses in pixels.
      valid: [..., N] bool; other poses neither are nor have neighbours.
      threshold: share of the diagonal of pose i.
      count: number of joints that neighbours exceed.

    Returns:
      [..., N, N] bool; row i, column j.
    """
    x, y = (jnp.moveaxis(jnp.asarray(keypoints, jnp.float32)[..., c], -1, -2) for c in (0, 1))  # [..., K, N]
    squared = jnp.square(x[..., :, None] - x[..., None, :]) + jnp.square(y[..., :, None] - y[..., None, :])
    reach = threshold * diagonal(keypoints)
    near = jnp.sum(jnp.sqrt(squared) < reach[..., None, :, None], axis=-3) > count
    return near & valid[..., :, None] & valid[..., None, :]


def pose_nms(near: Array, score: Array) -> tuple[jax.Array, jax.Array]:
    """Pose suppression of DEKR.

    Poses are visited in the order of the list. One that is suppressed already is passed over. Of the neighbours of one
    that is not, suppressed ones included, the best is taken; if it is suppressed, nothing happens; else it is kept and
    all these neighbours are suppressed.

    A visit matters unless an earlier one that matters suppressed the visited pose or its best neighbour. That rule is
    repeated on all pairs until nothing changes, which takes as many rounds as chains of suppression are long.

    Args:
      near: [..., N, N] bool, the neighbours from `neighbors`; a pose without neighbours is dropped.
      score: [..., N] scores of the poses, finite.

    Returns:
      The order [..., N] int32, indices of the kept poses in the order of keeping, followed by meaningless entries; and
      the number [...] int32 of kept poses.
    """
    near, number = jnp.asarray(near), near.shape[-1]
    if number == 0:
        return jnp.zeros(score.shape, jnp.int32), jnp.zeros(score.shape[:-1], jnp.int32)
    best = jnp.argmax(jnp.where(near, score[..., None, :], -jnp.inf), axis=-1).astype(jnp.int32)
    takes_best = jnp.take_along_axis(near, jnp.broadcast_to(best[..., None, :], near.shape), axis=-1)
    prevents = jnp.triu(near | takes_best, k=1)
    visited = near.any(-1)

    def settle(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, matters = state
        return matters, visited & ~jnp.any(prevents & matters[..., :, None], axis=-2)

    unsettled = lambda state: jnp.any(state[0] != state[1])  # noqa: E731
    _, matters = jax.lax.while_loop(unsettled, settle, (jnp.zeros_like(visited), visited))
    visits = jnp.argsort(~matters, axis=-1, stable=True)
    return jnp.take_along_axis(best, visits, axis=-1), jnp.sum(matters, axis=-1, dtype=jnp.int32)


def select(everyone: Candidates, heat: Array, selection: Selection, scales: int = 1) -> People:
    """The people among the candidates, in the order in which suppression keeps them.

    If more than P are kept, the P with the highest mean heatmap values, sorted by these.

    Args:
      everyone: candidates of all scales.
      heat: [..., N, K] heatmap values of their joints, from `heat_values`.
      selection: rules of selection.
      scales: number of test scales.

    Returns:
      The people, P for each image.
    """
    joints = everyone.keypoints.shape[-2]
    usable = everyone.valid & ((jnp.abs(everyone.keypoints) <= LARGEST).all(-1) & (jnp.abs(heat) <= LARGEST)).all(-1)
    keypoints = jnp.where(usable[..., None, None], everyone.keypoints, 0)
    mean_heat = jnp.mean(jnp.where(usable[..., None], heat, 0), axis=-1)
    near = neighbors(keypoints, usable, selection.coinciding(scales), selection.neighbor_count(joints))
    order, count = pose_nms(near, mean_heat)
    order, valid = _limit(order, count, mean_heat, selection.max_people)
    scores = everyone.score[..., None] * heat
    kept = jnp.take_along_axis(scores, order[..., None], axis=-2)
    kept = jnp.where(valid[..., None], kept, 0)
    positions = jnp.take_along_axis(keypoints, order[..., None, None], axis=-3)
    return People(jnp.where(valid[..., None, None], positions, 0), kept, jnp.mean(kept, axis=-1), valid)


def _limit(order: jax.Array, count: jax.Array, score: jax.Array, people: int) -> tuple[jax.Array, jax.Array]:
    """The first `people` of `order`, or the best where there are more: indices and validity [..., people]."""
    number = order.shape[-1]
    valid = jnp.arange(number) < count[..., None]
    ranked = jnp.argsort(jnp.where(valid, -jnp.take_along_axis(score, order, axis=-1), jnp.inf), axis=-1, stable=True)
    best = jnp.take_along_axis(order, ranked, axis=-1)
    order = jnp.where(count[..., None] > people, best, order)[..., :people]
    padding = [(0, 0)] * (order.ndim - 1) + [(0, people - order.shape[-1])]
    return jnp.pad(order, padding), jnp.pad(valid[..., :people], padding)


# --- matching to heatmaps ---


def match_to_heatmaps(people: People, heatmaps: Array, selection: Selection) -> People:
    """Moves joints to heatmap peaks and refines them there; scores stay.

    Args:
      people: people from `select`.
      heatmaps: [..., H, W, K] average heatmaps of all scales in the size of the input.
      selection: rules of selection with `matching`; the best `max_people` peaks of each map are looked at.

    Returns:
      The people with moved joints.
    """
    rules = selection.matching or Matching()
    absorbed = absorb(people, heatmaps, selection)
    return absorbed._replace(keypoints=refine(absorbed, heatmaps, rules))


def absorb(people: People, heatmaps: Array, selection: Selection) -> People:
    """Every joint at the nearest of its heatmap's best peaks, if that is near enough; see `match_to_heatmaps`."""
    rules = selection.matching or Matching()
    width = heatmaps.shape[-2]
    peaks = jnp.moveaxis(local_maxima(heatmaps, rules.pool), -1, -3)
    cells = peaks.reshape(*peaks.shape[:-2], -1)
    value, index = jax.lax.top_k(cells, min(selection.max_people, cells.shape[-1]))
    peak = jnp.stack([index % width, index // width], axis=-1).astype(jnp.float32)[..., None, :, :, :]
    distance = jnp.linalg.norm(people.keypoints[..., :, :, None, :] - peak, axis=-1)
    distance = jnp.where(value[..., None, :, :] > 0, distance, jnp.inf)
    nearest = jnp.argmin(distance, axis=-1)[..., None]
    moves = (jnp.take_along_axis(distance, nearest, axis=-1) < rules.distance) & people.valid[..., None, None]
    target = jnp.take_along_axis(peak, nearest[..., None], axis=-2)[..., 0, :]
    return people._replace(keypoints=jnp.where(moves, target, people.keypoints))


def refine(people: People, heatmaps: Array, rules: Matching) -> jax.Array:
    """Joints [..., P, K, 2] at the centres of Gaussians fitted to the heatmaps around them.

    Of several people whose joint falls on one pixel the first is fitted, and all move with it. Joints of low score or
    outside the map stay, and those whose fit fails or leaves the window.
    """
    height, width = heatmaps.shape[-3:-1]
    pixel = jnp.floor(people.keypoints + 0.5)
    inside = jnp.all((pixel >= 0) & (pixel <= jnp.array([width - 1, height - 1])), axis=-1)
    fitted = people.valid[..., None] & (people.scores > rules.score) & inside
    points, counted = _window(pixel, rules, (width, height))
    values = _values(jnp.asarray(heatmaps, jnp.float32), pixel, rules.radius)
    middle = values[..., values.shape[-1] // 2]
    offset = people.keypoints - pixel
    start = jnp.stack([middle, offset[..., 0], offset[..., 1], jnp.full_like(middle, rules.sigma)], axis=-1)
    center, success = gaussian_centers(values, points, counted, start)
    success &= jnp.all(jnp.abs(center) <= rules.radius + 0.5, axis=-1)
    same = jnp.all(pixel[..., :, None, :, :] == pixel[..., None, :, :, :], axis=-1) & fitted[..., None, :, :]
    first = jnp.argmax(same, axis=-2)
    shared = jnp.take_along_axis(pixel + center, first[..., None], axis=-3)
    moves = fitted & jnp.take_along_axis(success, first, axis=-2)
    return jnp.where(moves[..., None], shared, people.keypoints)


def _square(radius: int) -> tuple[jax.Array, jax.Array]:
    """x and y [n * n] of the pixels of a window, row after row, from its middle."""
    y, x = jnp.divmod(jnp.arange((2 * radius + 1) ** 2), 2 * radius + 1)
    return x - radius, y - radius


def _window(pixel: jax.Array, rules: Matching, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Pixels of the windows around `pixel` [..., 2], relative to it, and a mask of those that the map has.

    [..., n * n, 2] or, without mixing, [n * n, 2]; and bool [..., n * n].
    """
    offset = jnp.stack(_square(rules.radius), axis=-1)
    there = pixel[..., None, :].astype(jnp.int32) + offset
    counted = jnp.all((there >= 0) & (there < jnp.array(size)), axis=-1)
    if not rules.mixed_borders:
        return offset, counted
    first = jnp.maximum(pixel.astype(jnp.int32) - rules.radius, 0)
    extent = jnp.minimum(pixel.astype(jnp.int32) + rules.radius + 1, jnp.array(size)) - first
    columns, rows = (jnp.maximum(extent[..., axis, None], 1) for axis in (0, 1))
    index = (there[..., 1] - first[..., None, 1]) * columns + there[..., 0] - first[..., None, 0]
    mixed = jnp.stack([index % rows, index // rows], axis=-1) + first[..., None, :]
    return mixed - pixel[..., None, :], counted


def _values(heatmaps: jax.Array, pixel: jax.Array, radius: int) -> jax.Array:
    """Values [..., P, K, n * n] around pixels [..., P, K, 2] of each joint's map; at the border the nearest ones."""
    height, width, joints = heatmaps.shape[-3:]
    x, y = _square(radius)
    column = jnp.clip(pixel[..., 0, None].astype(jnp.int32) + x, 0, width - 1)
    row = jnp.clip(pixel[..., 1, None].astype(jnp.int32) + y, 0, height - 1)
    cells = jnp.swapaxes(row * width + column, -1, -2)
    flat = heatmaps.reshape(*heatmaps.shape[:-3], height * width, joints)
    index = cells.reshape(*cells.shape[:-3], -1, joints)
    return jnp.swapaxes(jnp.take_along_axis(flat, index, axis=-2).reshape(cells.shape), -1, -2)
