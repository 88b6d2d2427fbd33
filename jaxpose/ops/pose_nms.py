"""Parametric pose non-maximum suppression of RMPE (paper section 3.4), batched, padded, under jit.

Detections of one person give many similar poses. The best remaining pose is picked and absorbs every pose that
resembles it, until none is left; each cluster of picked and absorbed poses is then merged into one. Two rule sets
exist, the paper's own code and today's AlphaPose (see `PoseNMS`).

Poses are picked by falling mean joint score, the first index among equals, so the greedy loop has a closed form: a pose
is picked unless a better picked one absorbs it. That rule is repeated on N x N masks until nothing changes, which takes
as many rounds as chains of suppression are long, not as there are poses.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxpose.errors import ConfigError
from jaxpose.ops.arrays import EXACT, LARGEST
from jaxpose.ops.oks import proposal_score
from jaxpose.types import Array

_ZERO_SCORE = 1e-5
"""Score that AlphaPose gives joints with a score of exactly 0, so that weights never sum to 0."""
_WEAK_ANKLE = 0.1
"""Score below which an ankle is left out of the mean; see `PoseNMS.ankles`."""
_EXTENT_TO_BOX = 1.5**2
"""Area of a person's box by area of the joints' extent."""

_PRESETS: dict[str, dict[str, Any]] = {
    "alphapose": {
        "delta1": 1.0,
        "delta2": 2.65,
        "mu": 1.7,
        "gamma": 22.48,
        "match_count": 5,
        "score_threshold": 0.3,
        "match_radius": 7.0,
        "merge_radius": 15.0,
    },
    "rmpe2017": {
        "delta1": 0.01,
        "delta2": 2.08,
        "mu": 2.08,
        "gamma": 22.48,
        "match_count": None,
        "score_threshold": 0.2,
        "match_radius": None,
        "merge_radius": None,
        "ankles": (0, 5),
    },
}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "delta1",
        "delta2",
        "mu",
        "gamma",
        "match_count",
        "score_threshold",
        "match_radius",
        "merge_radius",
        "alpha",
        "min_box_area",
    ),
    meta_fields=("rules", "ankles", "merge"),
)
@dataclasses.dataclass(frozen=True)
class PoseNMS:
    """Rules and parameters of pose NMS; start from `PoseNMS.preset`.

    A picked pose i absorbs pose j if similarity(i, j) > gamma, or if `match_count` joints or more coincide. With joint
    distances d_n and reference distance r = alpha x the longer side of i's box (the disc that stands for the paper's
    box around a joint):

      similarity(i, j) = sum_n [d_n <= 1] tanh(s_in / delta1) tanh(s_jn / delta1) + mu sum_n exp(-d_n / delta2)

    The paper prints exp(-d^2 / delta2) and eliminates at d <= eta; this is what all code of the authors does.

    A hashable constant for a jitted function, or an argument of it: numbers are then traced, and other numbers do not
    compile anew.

    Attributes:
      rules: rule set. "alphapose": d_n in pixels; scores of 0 count as 1e-5; merged scores are weighted means; a
        cluster is dropped if the best joint score, picked or merged, is below the threshold. "rmpe2017": d_n in units
        of r; merged scores are maxima; a cluster is dropped if its mean joint score is below the threshold.
      delta1: sigma_1 of the paper.
      delta2: sigma_2 of the paper, in the unit of d_n.
      mu: lambda of the paper.
      gamma: eta of the paper.
      match_count: number of coinciding joints that suffices to absorb, or None.
      score_threshold: least score of a cluster.
      match_radius: upper limit of r for coinciding joints in pixels, or None.
      merge_radius: upper limit of r in pixels for joints that are averaged with the picked pose's, or None.
      alpha: reference distance r by the longer side of the box.
      min_box_area: least area in pixels^2 of a cluster's extent, times 2.25; smaller ones are dropped.
      ankles: indices of the two joints that the mean score of "rmpe2017" leaves out where they score below .1. If both
        do, the one after the second is left out in its place, as in the original code, which removes them one by one.
      merge: True to average clusters, False to keep the picked pose as it is.
    """

    rules: Literal["alphapose", "rmpe2017"]
    delta1: float
    delta2: float
    mu: float
    gamma: float
    match_count: int | None
    score_threshold: float
    match_radius: float | None
    merge_radius: float | None
    alpha: float = 0.1
    min_box_area: float = 0.0
    ankles: tuple[int, int] | None = None
    merge: bool = True

    @classmethod
    def preset(cls, rules: str = "alphapose", **changes: Any) -> "PoseNMS":
        """The published parameters of a rule set, with changes.

        Those of "alphapose" serve any number of joints, in pixels that suit COCO; those of "rmpe2017" were fitted to
        MPII's 16 joints.

        Raises:
          ConfigError: an unknown rule set or parameter, or a number that cannot work.
        """
        if rules not in _PRESETS:
            raise ConfigError(f"pose_nms.rules is {rules!r}, expected one of {sorted(_PRESETS)}")
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(changes) - set(known)):
            raise ConfigError(f"pose_nms has unknown parameters {unknown}, expected some of {known}")
        values = {"rules": rules, **_PRESETS[rules], **changes}
        for name in ("delta1", "delta2", "alpha"):
            if not values.get(name, 1) > 0:
                raise ConfigError(f"pose_nms.{name} is {values[name]}, expected a positive number")
        ankles = values.pop("ankles", None)
        return cls(**values, ankles=None if ankles is None else tuple(ankles))


class PoseNMSResult(NamedTuple):
    """The people that remain, aligned with the input: `order[keep[order]]` lists one image's people in picking order.

    Attributes:
      keypoints: [..., N, K, 2] merged poses in pixels; zeros where not kept.
      scores: [..., N, K] merged joint scores; zeros where not kept.
      person_score: [..., N] `oks.proposal_score` of the merged pose and the picked pose's box; 0 where not kept.
      keep: [..., N] bool, picked poses whose cluster passed the thresholds.
      order: [..., N] int32, indices by falling mean joint score, first index among equals, unusable poses last.
      cluster: [..., N] int32, index of the pose that was picked when this one left the pool (a picked pose's is its
        own); -1 for padding and rejected poses.
      rejected: [..., N] bool, valid poses with a coordinate, score or box that is not finite, or beyond
        `arrays.LARGEST`.
    """

    keypoints: jax.Array
    scores: jax.Array
    person_score: jax.Array
    keep: jax.Array
    order: jax.Array
    cluster: jax.Array
    rejected: jax.Array


def pose_nms(
    keypoints: Array, scores: Array, boxes: Array, box_scores: Array, valid: Array, rules: PoseNMS
) -> PoseNMSResult:
    """Parametric pose NMS of every image of a batch.

    A pose with a NaN or infinite coordinate, score, box or box score is neither picked nor merged; `rejected` tells.
    Boxes may lie outside the image. A box without area has reference distance 0: it absorbs equal poses only, or those
    that are similar enough. No pose at all (N = 0, or none valid) gives nothing kept.

    Args:
      keypoints: [..., N, K, 2] poses in pixels of the image.
      scores: [..., N, K] scores of the joints.
      boxes: [..., N, 4] detected boxes (x, y, w, h) of the people in pixels of the image.
      box_scores: [..., N] scores of the boxes.
      valid: [..., N] bool, False for padding.
      rules: rules and parameters.

    Returns:
      The people that remain.
    """
    keypoints, scores, boxes, box_scores = (jnp.asarray(a, jnp.float32) for a in (keypoints, scores, boxes, box_scores))
    valid = jnp.asarray(valid, bool)
    finite = (jnp.abs(box_scores) <= LARGEST) & (jnp.abs(boxes) <= LARGEST).all(-1)
    usable = valid & finite & (jnp.abs(scores) <= LARGEST).all(-1) & (jnp.abs(keypoints) <= LARGEST).all((-2, -1))
    keypoints = jnp.where(usable[..., None, None], keypoints, 0)
    scores, boxes = (jnp.where(usable[..., None], a, 0) for a in (scores, boxes))
    if rules.rules == "alphapose":
        scores = jnp.where(scores == 0, _ZERO_SCORE, scores)
    reference = reference_distance(boxes, rules)
    similarity, matches = pairwise_similarity(keypoints, scores, reference, rules)
    absorbs = similarity > rules.gamma
    if rules.match_count is not None:
        absorbs |= matches >= rules.match_count
    human_score = jnp.where(usable, jnp.mean(scores, -1), -jnp.inf)
    picked, cluster = _cluster(absorbs, human_score, usable)
    merged, merged_scores = (keypoints, scores)
    if rules.merge:
        merged, merged_scores = _merge(keypoints, scores, cluster, reference, rules)
    keep = picked & _confident(scores, merged_scores, rules) & _large_enough(merged, rules)
    return PoseNMSResult(
        keypoints=jnp.where(keep[..., None, None], merged, 0),
        scores=jnp.where(keep[..., None], merged_scores, 0),
        person_score=jnp.where(keep, proposal_score(merged_scores, box_scores), 0),
        keep=keep,
        order=jnp.argsort(-human_score, axis=-1, stable=True).astype(jnp.int32),
        cluster=cluster,
        rejected=valid & ~usable,
    )


def reference_distance(boxes: Array, rules: PoseNMS) -> jax.Array:
    """Boxes [..., N, 4] (x, y, w, h) -> [..., N] pixels: alpha x the longer side, 0 for a box without extent."""
    return rules.alpha * jnp.maximum(jnp.max(jnp.asarray(boxes, jnp.float32)[..., 2:], -1), 0)


def pairwise_similarity(
    keypoints: Array, scores: Array, reference: Array, rules: PoseNMS
) -> tuple[jax.Array, jax.Array]:
    """Similarity and number of coinciding joints of every two poses. Nothing is differentiated through them.

    Args:
      keypoints: [..., N, K, 2] poses in pixels.
      scores: [..., N, K] scores of the joints.
      reference: [..., N] reference distances in pixels, from `reference_distance`.
      rules: rules and parameters.

    Returns:
      The similarity [..., N, N] float32 and the number of coinciding joints [..., N, N] int32; row the picked pose,
      column the candidate.
    """
    values = (jnp.asarray(a, jnp.float32) for a in (keypoints, scores, reference))
    keypoints, scores, reference = (jax.lax.stop_gradient(a) for a in values)
    x, y, weight = (jnp.swapaxes(a, -1, -2) for a in (keypoints[..., 0], keypoints[..., 1], scores))  # [..., K, N]
    distance = jnp.sqrt(jnp.square(x[..., :, None] - x[..., None, :]) + jnp.square(y[..., :, None] - y[..., None, :]))
    matches = jnp.sum(distance <= _capped(reference, rules.match_radius)[..., None, :, None], -3, dtype=jnp.int32)
    if rules.rules == "rmpe2017":
        distance = distance / jnp.maximum(reference, jnp.finfo(jnp.float32).tiny)[..., None, :, None]
    weight = jnp.tanh(weight / rules.delta1)
    soft = jnp.where(distance <= 1, weight[..., :, None] * weight[..., None, :], 0)
    return jnp.sum(soft + rules.mu * jnp.exp(-distance / rules.delta2), -3), matches


def _capped(reference: jax.Array, limit: Any) -> jax.Array:
    return reference if limit is None else jnp.minimum(reference, limit)


def _cluster(absorbs: jax.Array, human_score: jax.Array, usable: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(picked [..., N] bool, cluster [..., N] int32)."""
    count = human_score.shape[-1]
    if count == 0:
        return usable, usable.astype(jnp.int32)
    index = jnp.arange(count, dtype=jnp.int32)
    a, b = human_score[..., :, None], human_score[..., None, :]
    before = (a > b) | ((a == b) & (index[:, None] < index))
    absorbs = absorbs & before & usable[..., :, None] & usable[..., None, :]

    def settle(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, picked = state
        return picked, usable & ~jnp.any(absorbs & picked[..., :, None], axis=-2)

    unsettled = lambda state: jnp.any(state[0] != state[1])  # noqa: E731
    _, picked = jax.lax.while_loop(unsettled, settle, (jnp.zeros_like(usable), usable))
    taken_by = (absorbs | (index[:, None] == index)) & picked[..., :, None]
    rank = jnp.sum(before, -2, dtype=jnp.int32)
    first = jnp.argmin(jnp.where(taken_by, rank[..., :, None], count), axis=-2)
    return picked, jnp.where(usable, first, -1).astype(jnp.int32)


def _merge(
    keypoints: jax.Array, scores: jax.Array, cluster: jax.Array, reference: jax.Array, rules: PoseNMS
) -> tuple[jax.Array, jax.Array]:
    """Per joint, the mean over a cluster's members near the picked pose, weighted by score; at the picked pose's index.

    Averaged are the offsets from the picked pose, a few pixels long, so that no place of the image costs precision.
    """
    count = cluster.shape[-1]
    if count == 0:
        return keypoints, scores
    member = cluster[..., None, :] == jnp.arange(count)[:, None]
    own = jnp.maximum(cluster, 0)
    offset = keypoints - jnp.take_along_axis(keypoints, own[..., None, None], axis=-3)
    radius = jnp.take_along_axis(_capped(reference, rules.merge_radius), own, axis=-1)[..., None]
    weight = jnp.where(jnp.sum(jnp.square(offset), -1) <= jnp.square(radius), scores, 0)
    parts = jnp.concatenate([weight, weight * offset[..., 0], weight * offset[..., 1], weight * scores], -1)
    sums = jnp.einsum("...ij,...jf->...if", member.astype(jnp.float32), parts, precision=EXACT)
    total, dx, dy, squares = jnp.split(sums, 4, axis=-1)
    weighted = total > 0
    share = 1 / jnp.where(weighted, total, 1)
    merged = keypoints + jnp.where(weighted[..., None], jnp.stack([dx, dy], -1) * share[..., None], 0)
    if rules.rules == "rmpe2017":
        masked = jnp.where(member[..., None, :, :], jnp.swapaxes(weight, -1, -2)[..., :, None, :], -jnp.inf)
        return merged, jnp.where(weighted, jnp.swapaxes(jnp.max(masked, -1), -1, -2), scores)
    return merged, jnp.where(weighted, squares * share, scores)


def _confident(scores: jax.Array, merged_scores: jax.Array, rules: PoseNMS) -> jax.Array:
    """[..., N] bool: the cluster's score reaches the threshold."""
    if rules.rules == "alphapose":
        return jnp.minimum(jnp.max(scores, -1), jnp.max(merged_scores, -1)) >= rules.score_threshold
    counted = jnp.ones(merged_scores.shape, bool)
    if rules.ankles is not None:
        joint = jnp.arange(merged_scores.shape[-1])
        first, second = rules.ankles
        weak_first, weak_second = (merged_scores[..., k, None] < _WEAK_ANKLE for k in (first, second))
        removed = second + (weak_first & (second > first)).astype(jnp.int32)
        counted = ~((weak_first & (joint == first)) | (weak_second & (joint == removed)))
    total = jnp.sum(jnp.where(counted, merged_scores, 0), -1)
    return total / jnp.maximum(jnp.sum(counted, -1), 1) >= rules.score_threshold


def _large_enough(keypoints: jax.Array, rules: PoseNMS) -> jax.Array:
    extent = jnp.max(keypoints, -2) - jnp.min(keypoints, -2)
    return _EXTENT_TO_BOX * extent[..., 0] * extent[..., 1] >= rules.min_box_area
