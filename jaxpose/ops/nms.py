"""Non-maximum suppression of poses and boxes: batched, padded, under jit.

Every function returns `(order, keep)`:
  order: [..., N] int32, indices of the entries, best first, invalid ones last;
  keep: [..., N] bool, aligned with the input, True for entries that stay.
`order[keep[order]]` lists the kept entries of one image, best first. Entries are ranked by falling score; among equal
scores the later index comes first, as the original code's reversed sort has it. An entry with a score, position or area
that is not finite, or beyond `arrays.LARGEST`, counts as invalid: it neither stays nor suppresses another.
"""

import functools

import jax
import jax.numpy as jnp

from jaxpose.ops.arrays import LARGEST
from jaxpose.ops.boxes import box_iou
from jaxpose.ops.oks import pairwise_oks
from jaxpose.types import Array


def oks_nms(
    keypoints: Array,
    scores: Array,
    area: Array,
    valid: Array,
    sigmas: Array,
    threshold: float = 0.9,
    counted: Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Greedy suppression of poses whose OKS with a better, kept pose exceeds `threshold`.

    Args:
      keypoints: [..., N, K, 2] poses in pixels.
      scores: [..., N] scores of the people.
      area: [..., N] areas of the people in pixels^2.
      valid: [..., N] bool, False for padding.
      sigmas: [K] OKS constants of the skeleton's joints.
      threshold: largest OKS between kept poses.
      counted: [..., N, K] bool, the joints that count (see `pairwise_oks`); None for all.

    Returns:
      (order, keep).

    Examples:
      >>> poses = jnp.array([[[10.0, 10.0], [20.0, 40.0]], [[11.0, 10.0], [20.0, 41.0]], [[90.0, 10.0], [80.0, 40.0]]])
      >>> scores, area, valid = jnp.array([0.8, 0.9, 0.7]), jnp.full(3, 1000.0), jnp.ones(3, bool)
      >>> order, keep = oks_nms(poses, scores, area, valid, sigmas=jnp.array([0.1, 0.1]))
      >>> order[keep[order]].tolist()
      [1, 2]
    """
    usable = valid & _usable(keypoints).all((-2, -1)) & _usable(area)
    return greedy_nms(pairwise_oks(keypoints, area, sigmas, counted), scores, usable, threshold)


def soft_oks_nms(
    keypoints: Array,
    scores: Array,
    area: Array,
    valid: Array,
    sigmas: Array,
    threshold: float = 0.9,
    counted: Array | None = None,
    limit: int = 20,
) -> tuple[jax.Array, jax.Array]:
    """Soft suppression: each picked pose lowers the rank of those that resemble it; at most `limit` are kept.

    After each pick the remaining scores are multiplied by exp(-OKS^2 / threshold) and sorted anew. The lowered scores
    serve the order only; nothing is dropped below `limit`. Arguments and result as in `oks_nms`.
    """
    overlap = pairwise_oks(keypoints, area, sigmas, counted)
    valid = jnp.asarray(valid) & _usable(keypoints).all((-2, -1)) & _usable(area) & _usable(scores)
    count = scores.shape[-1]
    if count == 0:
        return rank(scores, valid), jnp.asarray(valid)
    pick = functools.partial(_soft_order, threshold=threshold, limit=min(limit, count))
    for _ in scores.shape[:-1]:
        pick = jax.vmap(pick)
    return pick(jnp.where(jnp.isnan(overlap), 0, overlap), jnp.asarray(scores), valid)


def _usable(values: Array) -> jax.Array:
    """[...] bool, False for NaN and for what is beyond `LARGEST`."""
    return jnp.abs(jnp.asarray(values)) <= LARGEST


def box_nms(
    boxes: Array, scores: Array, valid: Array, threshold: float, extra: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Greedy suppression of boxes whose IoU with a better, kept box exceeds `threshold`.

    Args:
      boxes: [..., N, 4] boxes (x, y, w, h) in pixels.
      scores: [..., N] scores of the boxes.
      valid: [..., N] bool, False for padding.
      threshold: largest IoU between kept boxes.
      extra: pixels added to every width and height; the original code counts pixels and adds 1.

    Returns:
      (order, keep).

    Examples:
      >>> boxes = jnp.array([[0.0, 0, 9, 9], [1, 0, 9, 9], [50, 0, 9, 9]])
      >>> order, keep = box_nms(boxes, jnp.array([0.8, 0.9, 0.7]), jnp.ones(3, bool), threshold=0.5)
      >>> order.tolist(), keep.tolist()
      ([1, 0, 2], [False, True, True])
    """
    boxes = jnp.asarray(boxes, jnp.float32)
    overlap = box_iou(boxes[..., :, None, :], boxes[..., None, :, :], extra)
    return greedy_nms(overlap, scores, valid & _usable(boxes).all(-1), threshold)


def rank(scores: Array, valid: Array) -> jax.Array:
    """[..., N] scores -> [..., N] indices by falling score, later index first among equals, unusable entries last."""
    usable = jnp.asarray(valid) & _usable(scores)
    return jnp.argsort(jnp.where(usable, scores, -jnp.inf), axis=-1, stable=True)[..., ::-1].astype(jnp.int32)


def greedy_nms(overlap: Array, scores: Array, valid: Array, threshold: float) -> tuple[jax.Array, jax.Array]:
    """Keeps, best first, every entry whose overlap with all kept ones is at most `threshold`.

    All entries are settled at once: an entry stays unless a better one that stays suppresses it. Repeating that rule
    from "all stay" settles at least one more rank per round, and in practice all of them in a few rounds.

    Args:
      overlap: [..., N, N] overlaps; row the kept entry, column the candidate.
      scores: [..., N] scores of the entries.
      valid: [..., N] bool, False for padding.
      threshold: largest overlap between kept entries.

    Returns:
      (order, keep).
    """
    valid = jnp.asarray(valid) & _usable(scores)
    order = rank(scores, valid)
    by_rank = jnp.take_along_axis(jnp.take_along_axis(overlap, order[..., None], -2), order[..., None, :], -1)
    suppresses = jnp.triu(by_rank > threshold, k=1)
    stays = jnp.take_along_axis(valid, order, -1)

    def settle(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, keep = state
        return keep, stays & ~jnp.any(suppresses & keep[..., :, None], axis=-2)

    unsettled = lambda state: jnp.any(state[0] != state[1])  # noqa: E731
    _, keep = jax.lax.while_loop(unsettled, settle, (jnp.zeros_like(stays), stays))
    return order, jnp.take_along_axis(keep, jnp.argsort(order, axis=-1), -1)


def _soft_order(
    overlap: jax.Array, scores: jax.Array, valid: jax.Array, threshold: float, limit: int
) -> tuple[jax.Array, jax.Array]:
    """Soft suppression of one image: (order with the picks first, mask of the picks)."""
    count = scores.shape[0]
    order = rank(scores, valid)

    def pick(state: tuple[jax.Array, jax.Array], position: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        order, ranked = state
        decayed = ranked * jnp.exp(-jnp.square(overlap[order[position]][order]) / threshold)
        ahead = jnp.arange(count) <= position
        ranked = jnp.where(ahead, jnp.inf, jnp.where(valid[order], decayed, -jnp.inf))
        again = jnp.argsort(ranked, stable=True)[::-1]
        again = jnp.where(ahead, jnp.arange(count), again)
        return (order[again], jnp.where(ahead, jnp.inf, ranked[again])), None

    (order, _), _ = jax.lax.scan(pick, (order, scores[order]), jnp.arange(limit))
    keep = jnp.zeros(count, bool).at[order[:limit]].set(True) & valid
    return order.astype(jnp.int32), keep
