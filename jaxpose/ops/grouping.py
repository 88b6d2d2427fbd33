"""Joints of many people from heatmaps and tag maps (associative embedding), batched, padded, under jit.

A heatmap says where joints of one kind are, whoever they belong to; a tag map holds, at each joint, a number that
differs from person to person. `group` finds peaks, joins them to people joint by joint, moves them towards the larger
neighbour, and looks for what is missing where tags fit best, as HigherHRNet's original code does, to the last tie
(Cheng et al., CVPR 2020; Newell et al., NeurIPS 2017).

Maps are [B, H, W, J] and tags [B, H, W, J, T], channels last; a tag map for all joints together is [B, H, W, 1, T].
Positions are (x, y) in pixel indices of the maps. After `adjust` and `refine` they are half a pixel higher: targets put
a joint into the pixel that holds it, and its centre is what counts.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.ops.munkres import DIGIT_BITS, Digits, munkres, normalize
from jaxpose.ops.parallel import per_device
from jaxpose.skeleton import CROWDPOSE, Skeleton
from jaxpose.types import Array

_STRIP = 32
"""Rows that are searched for peaks at a time; a strip of maps fits a processor's cache."""
_SEGMENT = 32
"""Neighbouring pixels of a row of which only the best peak is known at first."""
_TILE = 16
"""Side of the squares that `refine` keeps or skips as a whole."""
_GROUP = 16
"""Tiles whose bounds are looked at together."""
_SEARCHES = 32
"""Missing joints of an image that `refine` looks for at a time."""
_FARTHEST = 2.0**14
"""Tag distances are cut here, so that costs fit their digits."""
_SAFE = 1 - 1e-6
"""Makes a lower bound of a distance safe from rounding."""


# --- settings and result ---


def joint_order(skeleton: Skeleton) -> tuple[int, ...]:
    """The order in which joints are grouped: the earlier ones found people, the later ones join them.

    Head and trunk come first, then elbows, wrists, knees, ankles and the rest of the foot, each in the skeleton's
    order. For COCO that is the original code's list. For CrowdPose the original code takes the first 14 numbers of
    COCO's list, whatever they mean there; so does this.
    """
    if skeleton.joints == CROWDPOSE.joints:
        return (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13)
    outward = ("elbow", "wrist", "knee", "ankle", "heel", "toe")
    parts = [joint.removeprefix("left_").removeprefix("right_").split("_")[-1] for joint in skeleton.joints]
    ranks = [outward.index(part) if part in outward else -1 for part in parts]
    return tuple(sorted(range(len(ranks)), key=ranks.__getitem__))


@dataclasses.dataclass(frozen=True)
class Grouping:
    """How joints become people. A hashable constant for a jitted function.

    Attributes:
      joint_order: [J] permutation of the joints, see `joint_order`.
      max_people: candidates of each joint, and people that further joints can join: the first ones found.
      capacity: people that the result has room for. Candidates that fit nobody start people of their own, so there can
        be more than `max_people`. Those beyond the capacity, the last ones found, are left out and counted; while
        `capacity` is at least `max_people`, they have a single joint each.
      threshold: smallest heatmap value of a candidate, exclusive.
      tag_threshold: tag distance below which a candidate may join a person.
      window: side of the square, in pixels of the maps, in which a peak is a maximum.
      use_detection_val: match by rounded tag distance first and by heatmap value second; else by tag distance alone.
      ignore_too_much: once there are `max_people`, skip joints instead of starting more people.
      adjust: move joints a quarter of a pixel towards the larger neighbour.
      refine: fill in missing joints.
    """

    joint_order: tuple[int, ...]
    max_people: int = 30
    capacity: int = 60
    threshold: float = 0.1
    tag_threshold: float = 1.0
    window: int = 5
    use_detection_val: bool = True
    ignore_too_much: bool = False
    adjust: bool = True
    refine: bool = True

    def __post_init__(self):
        if sorted(self.joint_order) != list(range(len(self.joint_order))):
            raise ValueError(f"joint_order is {self.joint_order}, expected every joint's index once")
        for name in ("max_people", "capacity", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.window % 2 == 0:
            raise ValueError(f"window is {self.window}, expected an odd number, so that it has a centre")

    @classmethod
    def of(cls, skeleton: Skeleton, **changes: Any) -> "Grouping":
        """The published settings for a skeleton, with changes."""
        return cls(**{"joint_order": joint_order(skeleton), **changes})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class People:
    """People found in the maps of a batch, in the order in which they were found.

    Attributes:
      keypoints: [B, P, J, 2] pixels of the maps, (0, 0) where a joint is missing.
      values: [B, P, J] heatmap values, 0 where a joint is missing.
      person_score: [B, P] mean of the values before refinement, missing joints counting 0.
      valid: [B, P] bool; invalid rows are zeros.
      omitted: [B] int32, people that were found beyond the capacity.
    """

    keypoints: Array
    values: Array
    person_score: Array
    valid: Array
    omitted: Array


def group(heatmaps: Array, tags: Array, settings: Grouping) -> People:
    """People of every image of a batch.

    Nothing is differentiated through it. Where a heatmap value or a tag is not finite there is no joint, and no peak
    near a heatmap value that is NaN.

    Args:
      heatmaps: [B, H, W, J].
      tags: [B, H, W, J, T], or [B, H, W, 1, T] for tags that all joints share; T tags a pixel, compared as a vector.
      settings: see `Grouping`.

    Raises:
      ValueError: shapes that do not fit.
    """
    heatmaps, tags = (jax.lax.stop_gradient(jnp.asarray(maps, jnp.float32)) for maps in (heatmaps, tags))
    joints = len(settings.joint_order)
    if heatmaps.ndim != 4 or heatmaps.shape[3] != joints:
        raise ValueError(f"heatmaps have shape {heatmaps.shape}, expected [B, H, W, {joints}]")
    if tags.ndim != 5 or tags.shape[:3] != heatmaps.shape[:3] or tags.shape[3] not in (1, joints):
        raise ValueError(f"tags have shape {tags.shape}, expected {(*heatmaps.shape, 'T')} or 1 for the {joints}")
    return per_device(lambda maps: _group(*maps, settings), 0)((heatmaps, tags))


def _group(heatmaps: jax.Array, tags: jax.Array, settings: Grouping) -> People:
    positions, candidate_values = peaks(heatmaps, settings.max_people, settings.window)
    choice, count = match(read_peaks(tags, positions), candidate_values, settings)
    keypoints, values = take(positions, candidate_values, choice)
    score = jnp.mean(values, axis=-1)
    if settings.adjust:
        keypoints = adjust(heatmaps, keypoints, values)
    if settings.refine:
        keypoints, values = refine(heatmaps, tags, keypoints, values)
    valid = jnp.arange(settings.capacity) < count[:, None]
    return People(keypoints, values, score, valid, jnp.maximum(count - settings.capacity, 0))


def take(positions: jax.Array, values: jax.Array, choice: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The candidates that people chose as their joints.

    Args:
      positions: [B, J, K, 2] of the candidates.
      values: [B, J, K].
      choice: [B, P, J], see `match`.

    Returns:
      keypoints [B, P, J, 2] and values [B, P, J]; zeros where nothing was chosen.
    """
    index = jnp.swapaxes(jnp.maximum(choice, 0), 1, 2)
    keypoints = jnp.take_along_axis(positions, index[..., None], axis=2).swapaxes(1, 2).astype(jnp.float32)
    values = jnp.take_along_axis(values, index, axis=2).swapaxes(1, 2)
    chosen = choice >= 0
    return jnp.where(chosen[..., None], keypoints, 0), jnp.where(chosen, values, 0)


def read(maps: jax.Array, positions: jax.Array) -> jax.Array:
    """Values of each joint's map at its pixels.

    Args:
      maps: [B, H, W, J, ...]; J may be 1 for a map that all joints share.
      positions: [B, N, J, 2] (x, y), cut to whole pixels and to the map.

    Returns:
      [B, N, J, ...].
    """
    height, width, joints = maps.shape[1:4]
    x, y = positions[..., 0].astype(jnp.int32), positions[..., 1].astype(jnp.int32)
    image = jnp.arange(maps.shape[0])[:, None, None]
    joint = jnp.arange(positions.shape[2]) % joints
    return maps[image, jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1), joint]


def read_peaks(maps: jax.Array, positions: jax.Array) -> jax.Array:
    """`read` for positions in the order of `peaks`: [B, J, K, 2] -> [B, J, K, ...]."""
    return jnp.swapaxes(read(maps, jnp.swapaxes(positions, 1, 2)), 1, 2)


def _each(function: Callable, arrays: Any) -> Any:
    """`function` of every entry: one after the other on a CPU, where that is faster, else all at once."""
    return jax.lax.platform_dependent(arrays, cpu=functools.partial(jax.lax.map, function), default=jax.vmap(function))


# --- candidates ---


def local_maxima(heatmaps: Array, window: int) -> jax.Array:
    """Keeps pixels that equal the maximum of the square `window` around them, and sets the others to 0.

    All pixels of a plateau stay. Beyond the border there is nothing. No NaN stays, nor what has one in its window.

    Args:
      heatmaps: [..., H, W, J].
      window: odd number of pixels.

    Returns:
      [..., H, W, J].
    """
    heatmaps, margin = jnp.asarray(heatmaps), window // 2
    border = [(0, 0)] * (heatmaps.ndim - 3) + [(margin, margin), (margin, margin), (0, 0)]
    return _inner_maxima(jnp.pad(heatmaps, border, constant_values=-jnp.inf), window)


def _inner_maxima(heatmaps: jax.Array, window: int) -> jax.Array:
    """`local_maxima` where windows lie inside the maps: [..., H + window - 1, W + window - 1, J] -> [..., H, W, J]."""
    joints, margin = heatmaps.shape[-1], window // 2
    height, width = (size - 2 * margin for size in heatmaps.shape[-3:-1])
    flat = heatmaps.reshape(*heatmaps.shape[:-2], -1)  # long rows, so that neighbours are read side by side
    largest = _sliding_max(_sliding_max(flat, -2, window, 1), -1, window, joints)
    center = flat[..., margin : margin + height, margin * joints : (margin + width) * joints]
    return jnp.where(center == largest, center, 0).reshape(*center.shape[:-1], width, joints)


def _sliding_max(values: jax.Array, axis: int, window: int, step: int) -> jax.Array:
    """Maxima of every `window` entries, each `step` from the next, along an axis that gets so much shorter."""
    shifted = lambda start, size: jax.lax.slice_in_dim(values, start * step, start * step + size, axis=axis)  # noqa: E731
    size, covered = values.shape[axis], 1
    while 2 * covered <= window:
        size -= covered * step
        values = jnp.maximum(shifted(0, size), shifted(covered, size))
        covered *= 2
    size -= (window - covered) * step
    return jnp.maximum(shifted(0, size), shifted(window - covered, size))


def peaks(heatmaps: Array, count: int, window: int = 5) -> tuple[jax.Array, jax.Array]:
    """The `count` highest positive peaks of each map, highest first; of equal ones the first in row-major order.

    Selection goes from rows to segments of rows to pixels: whatever is not among the best `count` of a level has
    `count` better peaks elsewhere, so nothing is lost.

    Args:
      heatmaps: [B, H, W, J].
      count: K.
      window: see `local_maxima`.

    Returns:
      positions [B, J, K, 2] int32 (x, y) and values [B, J, K]; zeros where there are fewer peaks.
    """
    heatmaps = jnp.asarray(heatmaps, jnp.float32)
    best = _segment_peaks(heatmaps, window)  # [B, J, rows, segments]
    rows = _best(jnp.max(best, -1), count)
    segments = _best(jnp.take_along_axis(best, rows[..., None], 2).reshape(*rows.shape[:2], -1), count)
    row = jnp.take_along_axis(rows, segments // best.shape[3], -1)
    column = segments % best.shape[3] * _SEGMENT
    pixels = _segment_pixels(heatmaps, row, column, window)  # [B, J, segments, _SEGMENT]
    flat = pixels.reshape(*rows.shape[:2], -1)
    values, place = jax.lax.top_k(flat, min(count, flat.shape[-1]))
    segment, offset = place // _SEGMENT, place % _SEGMENT
    x, y = (jnp.take_along_axis(start, segment, -1) for start in (column, row))
    found = values > 0
    positions = jnp.where(found[..., None], jnp.stack([x + offset, y], -1), 0)
    missing = [(0, 0), (0, 0), (0, count - values.shape[-1])]
    return jnp.pad(positions, [*missing, (0, 0)]), jnp.pad(jnp.where(found, values, 0), missing)


def _best(values: jax.Array, count: int) -> jax.Array:
    """Indices of the `count` largest along the last axis, the lower among equals; in rising order."""
    return jnp.sort(jax.lax.top_k(values, min(count, values.shape[-1]))[1], axis=-1)


def _segment_peaks(heatmaps: jax.Array, window: int) -> jax.Array:
    """[B, H, W, J] -> [B, J, rows, segments], the best peak of each segment, 0 for none; rows are filled up."""
    batch, height, width, joints = heatmaps.shape
    margin, strips = window // 2, -(-height // _STRIP)
    lines = heatmaps.reshape(batch * height, width, joints)
    columns = (margin, margin + -width % _SEGMENT)

    def search(strip: jax.Array) -> jax.Array:
        rows = strip % strips * _STRIP + jnp.arange(-margin, _STRIP + margin)
        inside = lines[strip // strips * height + jnp.clip(rows, 0, height - 1)]  # rows of the border come twice
        maxima = _inner_maxima(jnp.pad(inside, [(0, 0), columns, (0, 0)], constant_values=-jnp.inf), window)
        best = jnp.max(maxima.reshape(_STRIP, -1, _SEGMENT, joints), 2)
        return jnp.where((rows < height)[margin : margin + _STRIP, None, None], best, 0)

    best = _each(search, jnp.arange(batch * strips))
    return jnp.moveaxis(best.reshape(batch, strips * _STRIP, -1, joints), -1, 1)


def _segment_pixels(heatmaps: jax.Array, row: jax.Array, column: jax.Array, window: int) -> jax.Array:
    """Peaks in segments that begin at (column, row), both [B, J, N]: [B, J, N, _SEGMENT] values, 0 for no peak."""
    height, width = heatmaps.shape[1:3]
    margin = window // 2
    y = row[..., None] + jnp.arange(-margin, margin + 1)
    x = column[..., None] + jnp.arange(-margin, _SEGMENT + margin)
    batch, joints = row.shape[:2]
    image, joint = jnp.arange(batch)[:, None, None, None, None], jnp.arange(joints)[:, None, None, None]
    y, x = y[..., :, None], x[..., None, :]
    values = heatmaps[image, jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1), joint]
    maxima = _inner_maxima(values[..., None], window)[..., 0, :, 0]
    return jnp.where(((x < width) & (y < height))[..., 0, margin : margin + _SEGMENT], maxima, 0)


# --- candidates become people ---


class _Found(NamedTuple):
    """People so far.

    Attributes:
      tag_sum: [P, T] of the tags collected by each.
      tag_count: [P] how many.
      key: [P] first tag of the candidate that started each.
      count: number of people, which may exceed P.
    """

    tag_sum: jax.Array
    tag_count: jax.Array
    key: jax.Array
    count: jax.Array


def match(tags: Array, values: Array, settings: Grouping) -> tuple[jax.Array, jax.Array]:
    """Joins candidates to people, joint by joint in `settings.joint_order`.

    The candidates of a joint are assigned to the first `max_people` people such that the summed cost is minimal. It is
    100 times the rounded distance between the candidate's tag and the mean of those collected by the person, less the
    candidate's value. A candidate joins its person if their distance is below `tag_threshold`; otherwise it starts a
    new one. As in the original code, which lists people by the first tag of whoever started them, a candidate with
    exactly that tag does not start another person, but replaces all that person's tags and its joint of that kind.

    Args:
      tags: [B, J, K, T] of the candidates.
      values: [B, J, K] of their heatmaps, falling. What is not above the threshold, or not finite, is no candidate.
      settings: see `Grouping`.

    Returns:
      choice [B, P, J] int32, the candidate that is each person's joint, -1 for none; people in the order in which
        they were found.
      count [B] int32, people found, those beyond the capacity P included.
    """
    return _each(lambda candidates: _match(*candidates, settings), (jnp.asarray(tags), jnp.asarray(values)))


def _match(tags: jax.Array, values: jax.Array, settings: Grouping) -> tuple[jax.Array, jax.Array]:
    """`match` for one image."""
    usable = (values > _float32_below(settings.threshold)) & jnp.isfinite(values) & jnp.all(jnp.isfinite(tags), -1)
    place = jnp.argsort(~usable, axis=-1, stable=True).astype(jnp.int32)
    tags = jnp.take_along_axis(tags, place[..., None], 1)
    candidates = (tags, jnp.take_along_axis(values, place, 1), jnp.sum(usable, -1, dtype=jnp.int32))
    order = np.asarray(settings.joint_order)
    capacity = max(settings.capacity, settings.max_people)
    nobody = _Found(
        tag_sum=jnp.zeros((capacity, tags.shape[-1])),
        tag_count=jnp.zeros(capacity, jnp.int32),
        key=jnp.zeros(capacity),
        count=jnp.int32(0),
    )
    add = functools.partial(_add_joint, settings=settings)
    found, choice = jax.lax.scan(add, nobody, jax.tree.map(lambda a: a[order], candidates))
    choice = choice[np.argsort(order)]
    choice = jnp.where(choice < 0, -1, jnp.take_along_axis(place, jnp.maximum(choice, 0), 1))
    return choice.T[: settings.capacity], found.count


def _add_joint(found: _Found, candidates: tuple, settings: Grouping) -> tuple[_Found, jax.Array]:
    """People after the candidates of a joint were joined to them, and which of those each of them has now."""
    tags, values, number = candidates
    if settings.ignore_too_much:
        number = jnp.where(found.count >= settings.max_people, 0, number)
    people = jnp.minimum(found.count, settings.max_people)
    mean = found.tag_sum[: settings.max_people] / jnp.maximum(found.tag_count[: settings.max_people, None], 1)
    distance = _length([tags[:, None, t] - mean[:, t] for t in range(tags.shape[-1])])
    cost = _cost(distance, values, people, settings.use_detection_val)
    person = munkres(cost, number, jnp.maximum(people, number))[: len(values)]
    own = jnp.take_along_axis(distance, jnp.clip(person, 0, settings.max_people - 1)[:, None], 1)[:, 0]
    candidate = jnp.arange(len(values))
    joins = (candidate < number) & (person < people) & (own < settings.tag_threshold)
    starts = (candidate < number) & ~joins
    started, fresh = _people_started(found, tags[:, 0], starts)
    person = jnp.where(joins, person, jnp.where(starts, started, -1))
    return _collect(found, person, joins, tags, fresh)


def _people_started(found: _Found, key: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The people that candidates [K] start, those there are if their key is taken; and which candidates are the first.

    Returns:
      person [K] int32 and fresh [K] bool.
    """
    exists = jnp.arange(len(found.key)) < found.count
    known = exists & (key[:, None] == found.key)
    same = (key[:, None] == key) & starts[:, None] & starts
    first = jnp.argmax(same, axis=1)
    fresh = starts & ~jnp.any(known, 1) & (first == jnp.arange(len(key)))
    new = found.count + jnp.cumsum(fresh, dtype=jnp.int32) - 1
    return jnp.where(jnp.any(known, 1), jnp.argmax(known, 1), new[first]).astype(jnp.int32), fresh


def _collect(
    found: _Found, person: jax.Array, joins: jax.Array, tags: jax.Array, fresh: jax.Array
) -> tuple[_Found, jax.Array]:
    """Gives each candidate [K] to its person; of several, the last one stays, and one that starts drops earlier tags.

    Returns:
      People, and the candidate [P] that each of them has for this joint, -1 for none.
    """
    index = jnp.arange(len(person), dtype=jnp.int32)
    given = person[:, None] == jnp.arange(len(found.key))
    last, joined, started = (
        jnp.max(jnp.where(given & kind[:, None], index[:, None], -1), axis=0)
        for kind in (jnp.ones_like(joins), joins, ~joins)
    )
    restart = started >= 0
    adds = joined > started
    tag_sum = jnp.where(restart[:, None], tags[jnp.maximum(started, 0)], found.tag_sum)
    tag_sum = tag_sum + jnp.where(adds[:, None], tags[jnp.maximum(joined, 0)], 0)
    key = jnp.max(jnp.where(given & fresh[:, None], tags[:, :1], -jnp.inf), axis=0)
    return _Found(
        tag_sum=tag_sum,
        tag_count=jnp.where(restart, 1, found.tag_count) + adds,
        key=jnp.where(key > -jnp.inf, key, found.key),
        count=found.count + jnp.sum(fresh, dtype=jnp.int32),
    ), last


def _length(parts: Sequence[jax.Array]) -> jax.Array:
    """Of vectors in parts, one array a component."""
    return jnp.sqrt(functools.reduce(jnp.add, map(jnp.square, parts)))


def _float32_below(limit: float) -> np.float32:
    """The largest float32 up to `limit`: a float32 exceeds the one if and only if it exceeds the other."""
    near = np.float32(limit)
    return near if float(near) <= limit else np.nextafter(near, np.float32(-np.inf))


def _cost(distance: jax.Array, values: jax.Array, people: jax.Array, use_detection_val: bool) -> Digits:
    """The square matrix to assign by: people first, then, for candidates without one, columns of 1e10.

    Each row has lost its smallest cost for a person already, so that a candidate's value is left in the last columns
    alone. Those hold what float64 makes of 1e10 less that cost, whole multiples of 2^-19. Distances themselves, without
    `use_detection_val`, count in 2^-30, and 2^21 is as good as 1e10.

    Args:
      distance: [K, M].
      values: [K].
      people: how many of the M columns are people.
      use_detection_val: see `Grouping`.

    Returns:
      Digits [N, N], N the larger of K and M.
    """
    distance = jnp.where(distance < _FARTHEST, distance, _FARTHEST)
    is_person = jnp.arange(distance.shape[1]) < people
    if use_detection_val:
        steps = 100 * jnp.round(distance).astype(jnp.int32)
        least = jnp.min(jnp.where(is_person, steps, jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
        least = jnp.where(people > 0, least, 0)
        value = jnp.round(jnp.clip(values, -1024, 1024)[:, None] * 2.0**19).astype(jnp.int32)
        person = _shifted(steps - least, 19)
        high, low = _shifted(least, 19)
        nobody = normalize((int(1e10 * 2**19) // 2**DIGIT_BITS - high, value - low))
    else:
        quarters = jnp.floor(distance * 4)
        person = (quarters.astype(jnp.int32), jnp.round((distance - quarters / 4) * 2.0**30).astype(jnp.int32))
        nobody = (jnp.full_like(person[0][:, :1], 2**23), jnp.zeros_like(person[1][:, :1]))
    size = max(distance.shape)
    spread = [(0, size - distance.shape[0]), (0, size - distance.shape[1])]
    is_person = jnp.arange(size) < people
    fill = [(spread[0]), (0, 0)]
    return tuple(
        jnp.where(is_person, jnp.pad(a, spread), jnp.pad(b, fill)) for a, b in zip(person, nobody, strict=True)
    )


def _shifted(number: jax.Array, bits: int) -> Digits:
    """`number` times 2^bits as two digits."""
    rest = DIGIT_BITS - bits
    return number >> rest, (number & ((1 << rest) - 1)) << bits


# --- positions ---


def adjust(heatmaps: Array, keypoints: Array, values: Array) -> jax.Array:
    """Moves joints a quarter of a pixel towards the larger neighbour, and all of them half a pixel up.

    Of equal neighbours the lower one counts as larger. Joints without a value above 0 stay where they are.

    Args:
      heatmaps: [B, H, W, J].
      keypoints: [B, P, J, 2].
      values: [B, P, J].

    Returns:
      [B, P, J, 2].
    """
    keypoints = jnp.asarray(keypoints, jnp.float32)
    moved = keypoints + _towards_larger(jnp.asarray(heatmaps), keypoints)
    return jnp.where(jnp.asarray(values)[..., None] > 0, moved, keypoints)


def _towards_larger(heatmaps: jax.Array, keypoints: jax.Array) -> jax.Array:
    """[B, P, J, 2]: .75 towards a larger right or lower neighbour, else .25."""
    pixel = jnp.trunc(keypoints)
    slopes = [
        read(heatmaps, pixel + step) > read(heatmaps, pixel - step) for step in (np.array([1, 0]), np.array([0, 1]))
    ]
    return jnp.where(jnp.stack(slopes, -1), 0.75, 0.25)


# --- missing joints ---


class _Tiles(NamedTuple):
    """What is known of the tiles of an image's maps without looking at their pixels; M tiles form one of G groups.

    Attributes:
      value: [J, M, G] largest heatmap value; -inf for a tile that is not there.
      low, high: range of each of the T tags, [J, M, G]; J is 1 for tags that all joints share.
    """

    value: jax.Array
    low: tuple[jax.Array, ...]
    high: tuple[jax.Array, ...]


class _Best(NamedTuple):
    """Searches of an image, one for each person and joint: the best pixel so far, and where a better one may be.

    Attributes:
      score: [Q] heatmap value less rounded tag distance; -inf at first.
      pixel: [Q] index y * W + x.
      value: [Q] of the heatmap.
      bound: [Q, G] what a pixel in the unseen tiles of each group can score at most.
      seen: [Q, G] int32, bit m for tile m of the group.
      open: [Q] bool, False where the best pixel is found.
    """

    score: jax.Array
    pixel: jax.Array
    value: jax.Array
    bound: jax.Array
    seen: jax.Array
    open: jax.Array


def refine(heatmaps: Array, tags: Array, keypoints: Array, values: Array) -> tuple[jax.Array, jax.Array]:
    """Fills in missing joints, each at the pixel with the largest heatmap value less rounded tag distance.

    The distance is that to the mean of the tags at the joints that the person has. The first of equal pixels counts. A
    joint stays missing if the value there is not above 0, and so do all joints of a person without any.

    Every missing joint is a search of its own. A tile of the maps cannot hold more than its largest value less the
    rounded distance of its range of tags, so tiles are searched by falling bound until none can hold a better pixel.

    Args:
      heatmaps: [B, H, W, J].
      tags: [B, H, W, J, T] or [B, H, W, 1, T].
      keypoints: [B, P, J, 2].
      values: [B, P, J], above 0 for joints that are there.

    Returns:
      keypoints [B, P, J, 2] and values [B, P, J].
    """
    heatmaps, tags = jnp.asarray(heatmaps), jnp.asarray(tags)
    keypoints, values = jnp.asarray(keypoints, jnp.float32), jnp.asarray(values)
    there = values > 0
    collected = jnp.where(there[..., None], read(tags, keypoints), 0)
    mean = jnp.sum(collected, 2) / jnp.maximum(jnp.sum(there, 2), 1)[..., None]
    missing = ~there & jnp.any(there, 2, keepdims=True)
    pixel, found_values = _each(lambda image: _search(*image), (heatmaps, tags, mean, missing))
    found = jnp.stack([pixel % heatmaps.shape[2], pixel // heatmaps.shape[2]], -1).astype(jnp.float32)
    found = found + _towards_larger(heatmaps, found)
    fill = missing & (found_values > 0)
    return jnp.where(fill[..., None], found, keypoints), jnp.where(fill, found_values, values)


def _search(heatmaps: jax.Array, tags: jax.Array, mean: jax.Array, missing: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For one image, index y * W + x of the best pixel and the value there, both [P, J], where joints are `missing`.

    Tiles without a positive value hold nothing to fill in. They come last, and only where one of them can hold a pixel
    that is better than a positive one, so that a background of zeros need not be looked at.
    """
    tiles = _tiles(heatmaps, tags)
    shape, count = missing.shape, missing.size
    search = functools.partial(_search_tiles, heatmaps=heatmaps, tags=tags, mean=mean)
    nowhere = (jnp.full(count, -jnp.inf), jnp.full(count, heatmaps[..., 0].size, jnp.int32), jnp.zeros(count))
    positive = tiles._replace(value=jnp.where(tiles.value <= 0, -jnp.inf, tiles.value))
    score, pixel, value = search(positive, nowhere, missing.reshape(-1))
    others = tiles._replace(value=jnp.where(tiles.value <= 0, tiles.value, -jnp.inf))
    beatable = (value > 0) & (score <= 0)
    best = (score, pixel, value)
    _, pixel, value = jax.lax.cond(jnp.any(beatable), lambda: search(others, best, beatable), lambda: best)
    return pixel.reshape(shape), value.reshape(shape)


def _tiles(heatmaps: jax.Array, tags: jax.Array) -> _Tiles:
    """Tiles of one image in row-major order; those beyond the border, and those that fill the last group, are empty."""
    height, width = heatmaps.shape[:2]
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    groups = -(-rows * columns // _GROUP)

    def reduced(maps: jax.Array, reduce: Callable, empty: float) -> jax.Array:
        others = [(0, 0)] * (maps.ndim - 2)
        border = [(0, rows * _TILE - height), (0, columns * _TILE - width), *others]
        maps = jnp.pad(maps, border, constant_values=empty)
        tiles = reduce(maps.reshape(rows, _TILE, columns, _TILE, *maps.shape[2:]), axis=(1, 3))
        tiles = tiles.reshape(rows * columns, *maps.shape[2:])
        tiles = jnp.pad(tiles, [(0, groups * _GROUP - rows * columns), *others], constant_values=empty)
        return jnp.moveaxis(tiles.reshape(groups, _GROUP, *maps.shape[2:]), (0, 1), (-1, -2))

    return _Tiles(
        value=reduced(heatmaps, jnp.max, -np.inf),
        low=tuple(jnp.moveaxis(reduced(tags, jnp.min, np.inf), 1, 0)),
        high=tuple(jnp.moveaxis(reduced(tags, jnp.max, -np.inf), 1, 0)),
    )


def _bound(
    value: jax.Array, low: Sequence[jax.Array], high: Sequence[jax.Array], mean: Sequence[jax.Array]
) -> jax.Array:
    """What a pixel can score at most in a tile with this value and these ranges of tags, for a person's mean tags.

    Infinite if a tag or a value in the tile is NaN, so that nothing is known of the others.
    """
    distance = _length([m - jnp.clip(m, a, b) for a, b, m in zip(low, high, mean, strict=True)]) * _SAFE
    bound = value - jnp.where(jnp.isnan(distance), 0, jnp.round(distance))
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)


def _search_tiles(
    tiles: _Tiles, best: tuple, wanted: jax.Array, heatmaps: jax.Array, tags: jax.Array, mean: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(score, pixel, value), each [Q], after all tiles that can hold something better than `best`, where `wanted`."""
    means = mean.T[..., None, None, None]
    bound = jnp.max(_bound(tiles.value, tiles.low, tiles.high, tuple(means)), axis=2)  # [P, J, G]
    bound = bound.reshape(wanted.size, -1)
    open_ = wanted & (jnp.max(bound, 1) > -jnp.inf)
    state = _Best(*best, bound, jnp.zeros(bound.shape, jnp.int32), open_)
    step = functools.partial(_search_next, tiles=tiles, heatmaps=heatmaps, tags=tags, mean=mean)
    return jax.lax.while_loop(lambda state: jnp.any(state.open), step, state)[:3]


def _search_next(state: _Best, tiles: _Tiles, heatmaps: jax.Array, tags: jax.Array, mean: jax.Array) -> _Best:
    """Takes the most promising tile of each of some open searches, and closes those that are done."""
    width, joints = heatmaps.shape[1:]
    is_open, pair = jax.lax.top_k(state.open.astype(jnp.float32), min(_SEARCHES, state.open.size))
    mean, joint = mean[pair // joints], pair % joints
    score, pixel, value, bound = (a[pair] for a in (state.score, state.pixel, state.value, state.bound))
    group = _first_largest(bound)
    seen = state.seen[pair, group]
    tag_joint, member = joint % len(tiles.low[0]), jnp.arange(_GROUP)
    low, high = ([table[tag_joint, :, group] for table in tables] for tables in (tiles.low, tiles.high))
    inside = _bound(tiles.value[joint, :, group], low, high, tuple(mean.T[..., None]))
    inside = jnp.where((seen[:, None] >> member) & 1, -jnp.inf, inside)
    chosen = _first_largest(inside)
    tile, columns = group * _GROUP + chosen, -(-width // _TILE)
    y, x = tile // columns * _TILE, tile % columns * _TILE

    most = jnp.max(inside, 1)
    promising = (most > score) | ((most == score) & (y * width + x < pixel))
    new_score, new_pixel, new_value = _best_in_tile(heatmaps, tags, mean, joint, y, x)
    better = (new_score > score) | ((new_score == score) & (new_pixel < pixel))
    better &= (is_open > 0) & promising
    score = jnp.where(better, new_score, score)
    rest = jnp.max(jnp.where(member == chosen[:, None], -jnp.inf, inside), 1)
    rest = jnp.where(promising, rest, -jnp.inf)  # where this tile is no better, neither are the group's later ones
    most = jnp.max(jnp.where(jnp.arange(bound.shape[1]) == group[:, None], rest[:, None], bound), 1)
    return _Best(
        score=state.score.at[pair].set(score),
        pixel=state.pixel.at[pair].set(jnp.where(better, new_pixel, pixel)),
        value=state.value.at[pair].set(jnp.where(better, new_value, value)),
        bound=state.bound.at[pair, group].set(rest),
        seen=state.seen.at[pair, group].set(seen | (1 << chosen)),
        open=state.open.at[pair].set((is_open > 0) & (most > -jnp.inf) & (most >= score)),
    )


def _first_largest(values: jax.Array) -> jax.Array:
    """[S, N] -> [S], argmax in two steps, which a CPU does several times faster."""
    index = jnp.arange(values.shape[1], dtype=jnp.int32)
    largest = values == jnp.max(values, 1, keepdims=True)
    return jnp.min(jnp.where(largest, index, values.shape[1] - 1), 1)


def _best_in_tile(
    heatmaps: jax.Array, tags: jax.Array, mean: jax.Array, joint: jax.Array, y: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(score, pixel, value), each [S], of the best pixel in one tile a search, from (x, y) on, for tags near `mean`.

    At the right and lower border the tile is moved into the map: a pixel more or less makes no difference.
    """
    height, width = heatmaps.shape[:2]
    size = (min(_TILE, height), min(_TILE, width))
    y, x = jnp.minimum(y, height - size[0]), jnp.minimum(x, width - size[1])

    def cut(maps: jax.Array) -> jax.Array:
        """[S, tile pixels, ...]"""
        rest = maps.shape[3:]
        slices = jax.vmap(lambda *place: jax.lax.dynamic_slice(maps, (*place, *[0] * len(rest)), (*size, 1, *rest)))
        return slices(y, x, joint % maps.shape[2]).reshape(len(joint), -1, *rest)

    value, tag = cut(heatmaps), cut(tags)
    score = value - jnp.round(_length([tag[..., t] - mean[:, None, t] for t in range(tag.shape[-1])]))
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    chosen = _first_largest(score)  # pixels of a tile are in the order of the map
    score, value = (jnp.take_along_axis(a, chosen[:, None], 1)[:, 0] for a in (score, value))
    return score, (y + chosen // size[1]) * width + x + chosen % size[1], value
