"""Search for the pixel with a large heatmap value and a tag near a person's, exact although it leaves out most pixels.

Scores are heatmap values less rounded tag distances. A tile of the maps cannot hold more than its largest value less
the rounded distance of its range of tags, so tiles are looked into by falling bound until none can hold a better pixel.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TILE = 16
"""Side of the squares that are looked into or left out as a whole."""
_GROUP = 16
"""Tiles whose bounds are looked at together, 31 at most."""
_SEARCHES = 32
"""Searches of an image that go on at a time."""
_SAFE = 1 - 1e-6
"""Makes a lower bound of a distance safe from rounding."""


class _Tiles(NamedTuple):
    """Bounds of the tiles of an image's maps, known without looking at their pixels; M tiles form one of G groups.

    Attributes:
      value: [J, M, G] largest heatmap value; -inf for a tile that is not there.
      low: least value [J, M, G] of each of the T tags; J is 1 for tags that all joints share.
      high: largest value [J, M, G] of each of the T tags.
    """

    value: jax.Array
    low: tuple[jax.Array, ...]
    high: tuple[jax.Array, ...]


class _Best(NamedTuple):
    """Searches of an image, one for each person and joint: the best pixel so far, and the tiles that may hold a better.

    Attributes:
      score: [Q] heatmap value less rounded tag distance of the best pixel; -inf at first.
      pixel: [Q] index y * W + x of the best pixel.
      value: [Q] heatmap value of the best pixel.
      bound: [Q, G] largest score that a pixel in the unseen tiles of each group can have.
      seen: [Q, G] int32, the tiles that were looked into: bit m for tile m of the group.
      open: [Q] bool, False where the best pixel is found.
    """

    score: jax.Array
    pixel: jax.Array
    value: jax.Array
    bound: jax.Array
    seen: jax.Array
    open: jax.Array


def best_pixels(
    heatmaps: jax.Array, tags: jax.Array, mean: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The pixel with the largest score for every person and joint of one image; the first of equal ones.

    Tiles without a positive value come last, and only where one of them can hold a pixel that is better than a positive
    one: a background of zeros need not be looked at. So the pixel is exact where its value is above 0; elsewhere it is
    some pixel, and all that is known is that no positive value is the best.

    Args:
      heatmaps: [H, W, J] heatmaps of the joints; a pixel whose value or tag is not finite is not found.
      tags: [H, W, J, T] tag maps, or [H, W, 1, T] for tags that all joints share.
      mean: [P, T] mean tags of the people, finite.
      wanted: [P, J] bool, the joints to search for.

    Returns:
      The index y * W + x of the pixel, and the heatmap's value there, both [P, J].
    """
    tiles = _tiles(heatmaps, tags)
    shape, count = wanted.shape, wanted.size
    search = functools.partial(_search_tiles, heatmaps=heatmaps, tags=tags, mean=mean)
    nowhere = (jnp.full(count, -jnp.inf), jnp.full(count, heatmaps[..., 0].size, jnp.int32), jnp.zeros(count))
    positive = tiles._replace(value=jnp.where(tiles.value <= 0, -jnp.inf, tiles.value))
    score, pixel, value = search(positive, nowhere, wanted.reshape(-1))
    others = tiles._replace(value=jnp.where(tiles.value <= 0, tiles.value, -jnp.inf))
    beatable = (value > 0) & (score <= 0)
    best = (score, pixel, value)
    _, pixel, value = jax.lax.cond(jnp.any(beatable), lambda: search(others, best, beatable), lambda: best)
    return pixel.reshape(shape), value.reshape(shape)


def length(parts: Sequence[jax.Array]) -> jax.Array:
    """Length of vectors that are given as one array for each component."""
    return jnp.sqrt(functools.reduce(jnp.add, map(jnp.square, parts)))


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
    """Largest score of a pixel in a tile with this value and these ranges of tags, for a person's mean tags.

    Infinite if a tag or a value in the tile is NaN, so that nothing is known of the others.
    """
    distance = length([m - jnp.clip(m, a, b) for a, b, m in zip(low, high, mean, strict=True)]) * _SAFE
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
    score, pixel, value = best
    state = _Best(score, pixel, value, bound, jnp.zeros(bound.shape, jnp.int32), open_)
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
    """(score, pixel, value), each [S], of the best pixel in each search's tile, from (x, y) on, for tags near `mean`.

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
    score = value - jnp.round(length([tag[..., t] - mean[:, None, t] for t in range(tag.shape[-1])]))
    score = jnp.where(jnp.isfinite(score), score, -jnp.inf)
    chosen = _first_largest(score)  # pixels of a tile are in the order of the map
    score, value = (jnp.take_along_axis(a, chosen[:, None], 1)[:, 0] for a in (score, value))
    return score, (y + chosen // size[1]) * width + x + chosen % size[1], value
