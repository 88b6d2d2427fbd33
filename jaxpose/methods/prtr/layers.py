"""Views of each decoder layer on the way to the joints: the places that it reads, and its joints (PRTR's figures of its
keypoint queries).
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxpose.methods.prtr.assignment import take_assigned
from jaxpose.methods.prtr.method import PRTR
from jaxpose.methods.prtr.sequential_prtr import SequentialPRTR, crop_grid
from jaxpose.ops.sampling import to_pixels
from jaxpose.types import Batch, LayerViews, Variables


def watch_crops(method: PRTR, variables: Variables, batch: Batch) -> LayerViews:
    """The layers of a form that looks at crops, one person each; the mirrored crop of a flip test is left out."""
    stream = method.targets(batch, jax.random.key(0), train=False)["source"]
    outputs, found = method.apply(
        variables,
        stream["image"],
        mutable=["intermediates"],
        capture_intermediates=lambda module, _: module.name == "input_projection",
    )
    found, size = found["intermediates"], jnp.array(method.input_size, jnp.float32)
    columns, scores = chosen(method, outputs["logits"][-1])
    keypoints = jax.vmap(take_assigned, (0, None))(outputs["keypoints"], columns) * size
    if method.deformable:
        grid, (places, weights) = None, _places_read(found["decoder"], columns)
        places = places * size - 0.5
    else:
        _, height, width, _ = found["input_projection"]["__call__"][0].shape
        grid = height, width
        places, weights = cell_centers(grid) * size - 0.5, _cells_read(found["decoder"], columns)
        places = jnp.broadcast_to(places, (1, len(scores), 1, *places.shape))
    region = jnp.array([-0.5, -0.5, *method.input_size])
    return LayerViews(
        keypoints=keypoints,
        scores=scores,
        person_score=jnp.where(stream["valid"], stream["person_score"], 0),
        places=places,
        weights=weights,
        regions=jnp.broadcast_to(region, (len(scores), 4)),
        grid=grid,
    )


def watch_images(method: SequentialPRTR, variables: Variables, batch: Batch) -> LayerViews:
    """The layers of the form that looks at whole images and at the people in them; only the last layer has heads."""
    stream = method.targets(batch, jax.random.key(0), train=False)["source"]
    found = method.forward(variables, {"source": stream})
    _, maps = method.apply(variables, stream["image"], stream["inside"], method="detect")
    _, inner = method.apply(
        variables, maps, found["boxes"], stream["inside"], method="locate", mutable=["intermediates"]
    )
    columns, scores = chosen(method, rearrange(found["logits"], "b p q k -> (b p) q k"))
    weights = _cells_read(inner["intermediates"]["pose"]["decoder"], columns)
    keypoints = take_assigned(rearrange(found["keypoints"], "b p q c -> (b p) q c"), columns)
    canvas = jnp.array(stream["image"].shape[2:0:-1], jnp.float32)
    grid = crop_grid(found["boxes"], stream["size"] / canvas, method.crop_size, method.box_growth)
    places = rearrange(to_pixels(grid, stream["image"].shape[2:0:-1], "centers"), "b p h w c -> (b p) (h w) c")
    keypoints = keypoints * jnp.repeat(stream["size"], method.top_people, 0)[:, None]
    untold = jnp.full((len(weights) - 1, *keypoints.shape), jnp.nan)
    person_score = jnp.where(stream["valid"][:, None], found["person"], 0)
    return LayerViews(
        keypoints=jnp.concatenate([untold, keypoints[None]]),
        scores=scores,
        person_score=person_score.reshape(-1),
        places=places[None, :, None],
        weights=weights,
        regions=jnp.concatenate([places[:, 0] - 0.5, places[:, -1] - places[:, 0] + 1], -1),
        grid=(method.crop_size[1], method.crop_size[0]),
    )


def chosen(method: PRTR | SequentialPRTR, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Queries [M, K] that the method chooses for the joints, and scores [M, K], for logits [M, Q, K + 1]."""
    numbers = jnp.arange(logits.shape[1], dtype=jnp.float32)[:, None]
    columns, scores = method.select(logits, jnp.broadcast_to(numbers, (*logits.shape[:2], 1)))
    return columns[..., 0].astype(jnp.int32), scores


def cell_centers(grid: tuple[int, int]) -> jax.Array:
    """[rows * columns, 2] (x, y), fractions of the map."""
    rows, columns = grid
    x, y = jnp.meshgrid((jnp.arange(columns) + 0.5) / columns, (jnp.arange(rows) + 0.5) / rows)
    return jnp.stack([x, y], -1).reshape(-1, 2)


def _cross_attention(decoder: dict[str, Any], name: str) -> list[Any]:
    """Records of every layer of a decoder about its attention to the image."""
    return [decoder[f"layer{index}"]["cross_attention"][name][0] for index in range(len(decoder))]


def _cells_read(decoder: dict[str, Any], columns: jax.Array) -> jax.Array:
    """[L, M, K, T] weights of the tokens in the joints' queries [M, K]."""
    weights = jnp.stack([layer.mean(1) for layer in _cross_attention(decoder, "attention_weights")])
    return jax.vmap(take_assigned, (0, None))(weights.astype(jnp.float32), columns)


def _places_read(decoder: dict[str, Any], columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Places [L, M, K, S, 2], fractions of the crop, and their weights [L, M, K, S], of the joints' queries [M, K]."""
    looks = _cross_attention(decoder, "attention")
    places = jnp.stack([rearrange(places, "b q h l p c -> b q (h l p c)") for places, _ in looks])
    weights = jnp.stack([rearrange(weights / weights.shape[2], "b q h l p -> b q (h l p)") for _, weights in looks])
    places, weights = (jax.vmap(take_assigned, (0, None))(values, columns) for values in (places, weights))
    return rearrange(places, "l b k (s c) -> l b k s c", c=2), weights
