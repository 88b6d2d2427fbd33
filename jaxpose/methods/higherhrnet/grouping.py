"""Joints of many people from heatmaps and tag maps (associative embedding), batched, padded, under jit.

A heatmap says where joints of one kind are, whoever they belong to; a tag map holds, at each joint, a number that
differs from person to person. `group` finds peaks, joins them to people joint by joint, moves them towards the larger
neighbour, and looks for what is missing where tags fit best, as HigherHRNet's original code does, to the last tie
(Cheng et al., CVPR 2020; Newell et al., NeurIPS 2017).

Maps are [B, H, W, J] and tags [B, H, W, J, T], channels last; a tag map for all joints together is [B, H, W, 1, T].
Positions are (x, y) in pixel indices of the maps. `adjust` and `refine` add half a pixel: targets put a joint into the
pixel that holds it, and its centre is what counts.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpose.methods.higherhrnet.munkres import DIGIT_BITS, Digits, munkres, normalize
from jaxpose.methods.higherhrnet.tag_search import best_pixels, length
from jaxpose.ops.parallel import per_device
from jaxpose.ops.peaks import each_entry, peaks, read, read_peaks
from jaxpose.skeleton import CROWDPOSE, Skeleton
from jaxpose.types import Array

_FARTHEST = 2.0**14
"""Tag distances are cut here, so that costs fit their digits."""
_MANY = 50
"""Beyond so many rows, sums of costs may need a third digit."""


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
    """Rules by which joints become people. A hashable constant for a jitted function.

    Attributes:
      joint_order: [J] permutation of the joints, see `joint_order`.
      max_people: number of candidates of each joint, and of people that further joints can join: the first ones found.
      capacity: number of people that the result has room for. Candidates that fit nobody start people of their own, so
        there can be more than `max_people`. Those beyond the capacity, the last ones found, are left out and counted.
        None of them can be joined, so they have a single joint each, unless `capacity` is below `max_people`.
      threshold: heatmap value that a candidate exceeds.
      tag_threshold: tag distance below which a candidate may join a person.
      window: side of the square, in pixels of the maps, in which a peak is a maximum.
      use_detection_val: True to match by rounded tag distance first and by heatmap value second, False by tag distance
        alone.
      ignore_too_much: True to skip joints once there are `max_people`, instead of starting more people.
      adjust: True to move joints a quarter of a pixel towards the larger neighbour.
      refine: True to fill in missing joints.
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
      keypoints: [B, P, J, 2] poses in pixels of the maps, (0, 0) where a joint is missing.
      values: [B, P, J] heatmap values, 0 where a joint is missing.
      person_score: [B, P] means of the values before refinement, missing joints counting 0.
      valid: [B, P] bool; invalid rows are zeros.
      omitted: [B] int32, number of people that were found beyond the capacity.
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
      heatmaps: [B, H, W, J] heatmaps of the joints.
      tags: [B, H, W, J, T] tag maps, or [B, H, W, 1, T] for tags that all joints share; the T tags of a pixel are
        compared as a vector.
      settings: rules of grouping.

    Returns:
      The people, in pixels of the maps.

    Raises:
      ValueError: shapes that do not fit.
    """
    heatmaps, tags = (jax.lax.stop_gradient(jnp.asarray(maps, jnp.float32)) for maps in (heatmaps, tags))
    joints = len(settings.joint_order)
    if heatmaps.ndim != 4 or heatmaps.shape[3] != joints:
        raise ValueError(f"heatmaps have shape {heatmaps.shape}, expected [B, H, W, {joints}]")
    if tags.ndim != 5 or tags.shape[:3] != heatmaps.shape[:3] or tags.shape[3] not in (1, joints):
        raise ValueError(f"tags have shape {tags.shape}, expected {(*heatmaps.shape, 'T')} or 1 for the {joints}")

    def of_rows(maps: tuple[jax.Array, jax.Array]) -> People:
        return _group(*maps, settings)

    return per_device(of_rows, 0)((heatmaps, tags))


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
      positions: [B, J, K, 2] positions of the candidates in pixels of the maps.
      values: [B, J, K] heatmap values of the candidates.
      choice: [B, P, J] index of the candidate that is each person's joint, -1 for none; see `match`.

    Returns:
      The joints [B, P, J, 2] and their heatmap values [B, P, J]; zeros where nothing was chosen.
    """
    index = jnp.swapaxes(jnp.maximum(choice, 0), 1, 2)
    keypoints = jnp.take_along_axis(positions, index[..., None], axis=2).swapaxes(1, 2).astype(jnp.float32)
    values = jnp.take_along_axis(values, index, axis=2).swapaxes(1, 2)
    chosen = choice >= 0
    return jnp.where(chosen[..., None], keypoints, 0), jnp.where(chosen, values, 0)


# --- candidates become people ---


class _Found(NamedTuple):
    """People so far.

    Attributes:
      tag_sum: [P, T] sums of the tags that each person collected.
      tag_count: [P] numbers of the tags that each person collected.
      key: [P] first tag of the candidate that started each person.
      count: number of people.
    """

    tag_sum: jax.Array
    tag_count: jax.Array
    key: jax.Array
    count: jax.Array


def match(tags: Array, values: Array, settings: Grouping) -> tuple[jax.Array, jax.Array]:
    """Candidates joined to people, joint by joint in `settings.joint_order`.

    The candidates of a joint are assigned to the first `max_people` people such that the summed cost is minimal. It is
    100 times the rounded distance between the candidate's tag and the mean of those collected by the person, less the
    candidate's value. A candidate joins its person if their distance is below `tag_threshold`; otherwise it starts a
    new one. As in the original code, which lists people by the first tag of whoever started them, a candidate with
    exactly that tag does not start another person, but replaces all that person's tags and its joint of that kind.

    Args:
      tags: [B, J, K, T] tags of the candidates.
      values: [B, J, K] heatmap values of the candidates, falling; one that is not above the threshold, or not finite,
        is no candidate.
      settings: rules of grouping.

    Returns:
      The choice [B, P, J] int32, index of the candidate that is each person's joint, -1 for none, with people in the
      order in which they were found; and the number [B] int32 of people found, those beyond the capacity P included.
    """
    candidates = jnp.asarray(tags), jnp.asarray(values)
    return each_entry(lambda one: _match(*one, settings=settings), candidates)


def _match(tags: jax.Array, values: jax.Array, settings: Grouping) -> tuple[jax.Array, jax.Array]:
    """`match` for one image."""
    usable = (values > _float32_below(settings.threshold)) & jnp.isfinite(values) & jnp.all(jnp.isfinite(tags), -1)
    place = jnp.argsort(~usable, axis=-1, stable=True).astype(jnp.int32)
    tags = jnp.take_along_axis(tags, place[..., None], 1)
    candidates = (tags, jnp.take_along_axis(values, place, 1), jnp.sum(usable, -1, dtype=jnp.int32))
    order = np.asarray(settings.joint_order)
    most = max(values.size, settings.max_people, settings.capacity)
    nobody = _Found(
        tag_sum=jnp.zeros((most, tags.shape[-1])),
        tag_count=jnp.zeros(most, jnp.int32),
        key=jnp.zeros(most),
        count=jnp.int32(0),
    )
    add = functools.partial(_add_joint, settings=settings)
    found, choice = jax.lax.scan(add, nobody, jax.tree.map(lambda a: a[order], candidates))
    choice = choice[np.argsort(order)]
    choice = jnp.where(choice < 0, -1, jnp.take_along_axis(place, jnp.maximum(choice, 0), 1))
    return choice.T[: settings.capacity], found.count


def _add_joint(found: _Found, candidates: tuple, settings: Grouping) -> tuple[_Found, jax.Array]:
    """People after the candidates of a joint were joined to them, and the candidate that each of them has now."""
    tags, values, number = candidates
    if settings.ignore_too_much:
        number = jnp.where(found.count >= settings.max_people, 0, number)
    people = jnp.minimum(found.count, settings.max_people)
    mean = found.tag_sum[: settings.max_people] / jnp.maximum(found.tag_count[: settings.max_people, None], 1)
    distance = length([tags[:, None, t] - mean[:, t] for t in range(tags.shape[-1])])
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
    """The people that candidates [K] start, those there are if their key is taken; and the first candidate of each.

    Returns:
      The person [K] int32 and a mask [K] of the first candidates.
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
      distance: [K, M] tag distances of candidates and people.
      values: [K] heatmap values of the candidates.
      people: number of the M columns that are people.
      use_detection_val: True to count heatmap values, see `Grouping`.

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
    rows, columns = ((0, size - extent) for extent in distance.shape)
    pairs = [(jnp.pad(a, [rows, columns]), jnp.pad(b, [rows, (0, 0)])) for a, b in zip(person, nobody, strict=True)]
    digits = tuple(jnp.where(jnp.arange(size) < people, a, b) for a, b in pairs)
    return digits if size <= _MANY else (jnp.zeros_like(digits[0]), *digits)


def _shifted(number: jax.Array, bits: int) -> Digits:
    """`number` times 2^bits as two digits."""
    rest = DIGIT_BITS - bits
    return number >> rest, (number & ((1 << rest) - 1)) << bits


# --- positions ---


def adjust(heatmaps: Array, keypoints: Array, values: Array) -> jax.Array:
    """Joints moved a quarter of a pixel towards the larger neighbour, and all of them half a pixel up.

    Of equal neighbours the lower one counts as larger. Joints without a value above 0 stay where they are.

    Args:
      heatmaps: [B, H, W, J] heatmaps of the joints.
      keypoints: [B, P, J, 2] joints in pixels of the maps.
      values: [B, P, J] heatmap values of the joints.

    Returns:
      [B, P, J, 2] joints in pixels of the maps.
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


def refine(heatmaps: Array, tags: Array, keypoints: Array, values: Array) -> tuple[jax.Array, jax.Array]:
    """Joints with missing ones filled in, each at the pixel with the largest heatmap value less rounded tag distance.

    The distance is that to the mean of the tags at the joints that the person has. The first of equal pixels counts. A
    joint stays missing if the value there is not above 0, and so do all joints of a person without any.

    Args:
      heatmaps: [B, H, W, J] heatmaps of the joints.
      tags: [B, H, W, J, T] or [B, H, W, 1, T] tag maps.
      keypoints: [B, P, J, 2] joints in pixels of the maps.
      values: [B, P, J] heatmap values, above 0 for joints that are there.

    Returns:
      The joints [B, P, J, 2] and their heatmap values [B, P, J].
    """
    heatmaps, tags, keypoints, values = (jnp.asarray(a, jnp.float32) for a in (heatmaps, tags, keypoints, values))
    there = values > 0
    collected = jnp.where(there[..., None], read(tags, keypoints), 0)
    mean = jnp.sum(collected, 2) / jnp.maximum(jnp.sum(there, 2), 1)[..., None]
    known = jnp.any(there, 2) & jnp.all(jnp.isfinite(mean), -1)
    missing = ~there & known[..., None]
    pixel, found_values = each_entry(lambda image: best_pixels(*image), (heatmaps, tags, mean, missing))
    found = jnp.stack([pixel % heatmaps.shape[2], pixel // heatmaps.shape[2]], -1).astype(jnp.float32)
    found = found + _towards_larger(heatmaps, found)
    fill = missing & (found_values > 0)
    return jnp.where(fill[..., None], found, keypoints), jnp.where(fill, found_values, values)
