"""Training of the network that rescores found people by the shape of their poses (DEKR, section 3.4).

`jaxpose fit-rescoring` is the command. The network learns which OKS a pose will have with the person it shows, from
poses of an evaluation and the labels of the same images.
"""

import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpose.data.sources.coco import read_keypoints
from jaxpose.errors import ConfigError, DataError
from jaxpose.evaluation import pose_files, rescoring
from jaxpose.evaluation.best_oks import AREA_RANGES, best_oks
from jaxpose.evaluation.metrics import coco
from jaxpose.evaluation.metrics.crowdpose import with_box_areas
from jaxpose.evaluation.rescoring import PoseFeatures, Rescoring, RescoringNet, expected_oks
from jaxpose.files.whole import write_text
from jaxpose.skeleton import CROWDPOSE, Skeleton
from jaxpose.types import Array

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training; the defaults are the released ones.

    Attributes:
      epochs: passes over all samples.
      batch_size: number of samples in a batch; the rest of an epoch that does not fill one is left out.
      learning_rate: learning rate of Adam.
      hidden: width of the network's hidden layers.
      perfect_as_zero: whether a pose with an OKS of exactly 1 counts as 0, as in the original code. Such poses are
        seldom more than points in the boxes of people without labels.
      seed: seed of initial values and order.
    """

    epochs: int = 20
    batch_size: int = 1024
    learning_rate: float = 1e-3
    hidden: int = 256
    perfect_as_zero: bool = True
    seed: int = 0

    def __post_init__(self):
        """Raises `ConfigError` for numbers that cannot work."""
        for name in ("epochs", "batch_size", "learning_rate", "hidden"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a positive number")


# --- training ---


def targets(oks: Array, perfect_as_zero: bool = True) -> np.ndarray:
    """The values that the network learns for poses with these best OKS, float32; see `Recipe.perfect_as_zero`."""
    oks = np.asarray(oks, np.float32)
    return np.where(oks == 1, np.float32(0), oks) if perfect_as_zero else oks


def fit(features: PoseFeatures, inputs: Array, wanted: Array, recipe: Recipe) -> tuple[Rescoring, list[float]]:
    """Trains a network; equal arguments give equal results.

    Args:
      features: features that `inputs` hold.
      inputs: [D, size] float32 features, one row a pose.
      wanted: [R, D] float32 targets, of which each is a sample.
      recipe: hyperparameters of the training.

    Returns:
      The rescorer, and the mean loss of each epoch.

    Raises:
      DataError: there is no pose.
    """
    count = wanted.size
    if not count:
        raise DataError("there is no pose to learn from; are the poses those of the annotated images?")
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, count))
    key = jax.random.key(recipe.seed)
    params = RescoringNet(recipe.hidden).init(key, jnp.zeros(features.size))["params"]
    rng = np.random.default_rng(recipe.seed)
    orders = (rng.permutation(count) for _ in range(recipe.epochs))
    params, losses = train(params, inputs, wanted, orders, recipe)
    return Rescoring(features, jax.device_get(params)), losses


def train(
    params: Any, inputs: Array, wanted: Array, orders: Iterator[np.ndarray] | Sequence[np.ndarray], recipe: Recipe
) -> tuple[Any, list[float]]:
    """`fit` from given parameters, with the samples in given orders.

    Args:
      params: parameters of `RescoringNet`.
      inputs: [D, size] features, one row a pose.
      wanted: [R, D] targets.
      orders: samples of each epoch, as indices into the flat `wanted`.
      recipe: hyperparameters, of which batch_size and learning_rate count.

    Returns:
      The parameters after the last epoch, and the mean loss of each epoch.
    """
    inputs, wanted = jnp.asarray(inputs, jnp.float32), jnp.asarray(wanted, jnp.float32)
    state, losses = optax.adam(recipe.learning_rate).init(params), []
    for order in orders:
        batches = len(order) // recipe.batch_size
        rows = np.asarray(order, np.int32)[: batches * recipe.batch_size].reshape(batches, -1)
        params, state, loss = _epoch(params, state, inputs, wanted, rows, recipe.learning_rate)
        losses.append(float(loss))
        logger.info("epoch %d: loss %.5f", len(losses), losses[-1])
    return params, losses


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _epoch(params: Any, state: Any, inputs: jax.Array, wanted: jax.Array, rows: jax.Array, learning_rate: float):
    """Parameters and optimizer state after the batches `rows` [batches, batch_size], and their mean loss."""
    optimizer = optax.adam(learning_rate)
    samples = wanted.reshape(-1)

    def loss(params: Any, row: jax.Array) -> jax.Array:
        said = expected_oks(params, inputs[row % inputs.shape[0]])
        return jnp.mean(jnp.square(said - samples[row]))

    def step(carry: tuple[Any, Any], row: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, row)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.lax.scan(step, (params, state), rows)
    return params, state, jnp.mean(losses)


# --- from files to a file ---


def read_poses(path: str | pathlib.Path, skeleton: Skeleton) -> list[dict]:
    """Poses in the format of the COCO server.

    Raises:
      DataError: no list of such records; the message names the first bad one.
    """
    return pose_files.read_poses(path, skeleton, {"score": None}, "take results.json of an evaluation")


def run(annotations: Any, poses: Any, output: pathlib.Path, recipe: Recipe, area: str = "") -> dict:
    """Reads poses and labels, trains a rescorer and writes it; gives the report.

    Args:
      annotations: COCO keypoint file of the true poses.
      poses: JSON file of results without rescoring, in the format of the COCO server.
      output: .npz file to write; the report is written beside it, with the suffix .json.
      recipe: hyperparameters of the training.
      area: area in OKS, "annotation" or "box" (see `metrics.crowdpose`); "box" for CrowdPose's joints if empty.

    Returns:
      AP and rank correlation of the scores with the best OKS, each before and after; the number of poses, samples and
      perfect poses; the loss of each epoch; the recipe.

    Raises:
      JaxposeError: a file cannot be used.
    """
    skeleton = read_keypoints(annotations).skeleton
    features, results = PoseFeatures.of(skeleton), read_poses(poses, skeleton)
    area = area or ("box" if skeleton.joints == CROWDPOSE.joints else "annotation")
    content = with_box_areas(coco.read_truth(annotations)) if area == "box" else annotations
    truth = coco.load_truth(content, skeleton)
    _check_images(poses, results, truth)
    index, oks = best_oks(truth, results, skeleton.sigmas)
    triples = np.array([results[i]["keypoints"] for i in index], np.float32).reshape(len(index), -1, 3)
    keypoints, scores = triples[..., :2], triples[..., 2]
    wanted = targets(oks, recipe.perfect_as_zero)
    rescorer, losses = fit(features, np.asarray(features(keypoints, scores)), wanted, recipe)
    rescoring.save(output, rescorer)
    old = np.array([results[i]["score"] for i in index])
    new = np.asarray(rescorer(keypoints, scores, old), np.float64)
    report = {
        "AP": _ap(truth, results, index, new, skeleton),
        "AP_before": _ap(truth, results, index, old, skeleton),
        "rank_correlation": _rank_correlation(new, oks[0]),
        "rank_correlation_before": _rank_correlation(old, oks[0]),
        "poses": len(index),
        "samples": len(AREA_RANGES) * len(index),
        "perfect": int((np.asarray(oks, np.float32) == 1).sum()),
        "loss": losses,
        "recipe": dataclasses.asdict(recipe),
    }
    write_text(output.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    return report


def _check_images(path: Any, results: list[dict], truth: dict) -> None:
    strangers = sorted({r["image_id"] for r in results} - {image["id"] for image in truth["images"]})
    if strangers:
        raise DataError(
            f"{path}: {len(strangers)} images are not in the annotations: {strangers[:5]}; "
            "do poses and annotations belong to the same split?"
        )


def _ap(truth: dict, results: list[dict], index: np.ndarray, scores: np.ndarray, skeleton: Skeleton) -> float:
    scored = [results[i] | {"score": float(score)} for i, score in zip(index, scores, strict=True)]
    ids = sorted(image["id"] for image in truth["images"])
    category = truth["categories"][0]["id"]
    return float(coco.match(truth, [r | {"category_id": category} for r in scored], skeleton.sigmas, ids).stats[0])


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, with ties in the order of the list; 0 where one does not vary."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (a, b)]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
