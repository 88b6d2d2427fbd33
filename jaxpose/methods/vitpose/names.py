"""Names in released checkpoints of ViTPose: those of transformers, and those of the authors (mmpose 0.x)."""

import math
import re
from typing import Any

import numpy as np

from jaxpose.methods.vitpose.method import PATCH, SIZES
from jaxpose.nn import recognition
from jaxpose.nn.names import (
    ATTENTION_OUT,
    BATCH_NORM,
    CONV,
    DECONV,
    DECONV_HEAD,
    LAYER_NORM,
    LINEAR,
    Kind,
    OriginalNames,
    PretrainedNames,
    Rule,
    head_bias,
    head_kernel,
    keep,
    nest,
)
from jaxpose.nn.recognition import Recognized, Shapes


def _split_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[D, D] projection -> [D, heads, D / heads]."""
    return array.T.reshape(shape) if array.size == np.prod(shape) else array


def _split_bias(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(shape) if array.size == np.prod(shape) else array


PROJECTION: Kind = {"weight": (("kernel", _split_kernel),), "bias": (("bias", _split_bias),)}
FUSED: Kind = {
    "weight": tuple((f"{n}/kernel", head_kernel(i)) for i, n in enumerate(("query", "key", "value"))),
    "bias": tuple((f"{n}/bias", head_bias(i)) for i, n in enumerate(("query", "key", "value"))),
}

TRANSFORMERS = (
    Rule(r"embeddings\.patch_embeddings\.projection", "patch_embed", CONV),
    Rule(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)", r"block\1/attention/\2", PROJECTION),
    Rule(r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"block\1/attention/out", ATTENTION_OUT),
    Rule(r"encoder\.layer\.(\d+)\.layernorm_before", r"block\1/norm1", LAYER_NORM),
    Rule(r"encoder\.layer\.(\d+)\.layernorm_after", r"block\1/norm2", LAYER_NORM),
    Rule(r"encoder\.layer\.(\d+)\.mlp\.fc1", r"block\1/fc1", LINEAR),
    Rule(r"encoder\.layer\.(\d+)\.mlp\.fc2", r"block\1/mlp/fc2", LINEAR),
    Rule(r"encoder\.layer\.(\d+)\.mlp\.experts\.(?:experts\.)?(\d+)", r"block\1/mlp/expert\2", LINEAR),
    Rule(r"layernorm", "norm", LAYER_NORM),
)
"""The backbone in files of transformers."""

AUTHORS = (
    Rule(r"patch_embed\.proj", "patch_embed", CONV),
    Rule(r"blocks\.(\d+)\.attn\.qkv", r"block\1/attention", FUSED),
    Rule(r"blocks\.(\d+)\.attn\.proj", r"block\1/attention/out", ATTENTION_OUT),
    Rule(r"blocks\.(\d+)\.(norm[12])", r"block\1/\2", LAYER_NORM),
    Rule(r"blocks\.(\d+)\.mlp\.fc1", r"block\1/fc1", LINEAR),
    Rule(r"blocks\.(\d+)\.mlp\.fc2", r"block\1/mlp/fc2", LINEAR),
    Rule(r"blocks\.(\d+)\.mlp\.experts\.(\d+)", r"block\1/mlp/expert\2", LINEAR),
    Rule(r"(?:last_)?norm", "norm", LAYER_NORM),
)
"""The backbone in the authors' files, and in those of MAE."""

POSITIONS = (
    Rule(r"backbone\.embeddings", "backbone", {"position_embeddings": (("positions", keep),)}),
    Rule(r"backbone", "backbone", {"pos_embed": (("positions", keep),)}),
)

HEADS = (
    Rule(r"head\.deconv1", "head/deconv0", DECONV),
    Rule(r"head\.deconv2", "head/deconv1", DECONV),
    Rule(r"head\.batchnorm1", "head/bn0", BATCH_NORM),
    Rule(r"head\.batchnorm2", "head/bn1", BATCH_NORM),
    Rule(r"head\.conv", "head/final_layer", CONV),
    *nest(DECONV_HEAD, r"(?:keypoint_head|head)\.", "head"),
)
"""Both heads in both vocabularies."""

NAMES = OriginalNames(
    (*POSITIONS, *nest(TRANSFORMERS, r"backbone\.", "backbone"), *nest(AUTHORS, r"backbone\.", "backbone"), *HEADS)
)


LAST = ("head.conv.weight", "keypoint_head.final_layer.weight", "head.final_layer.weight")
"""Names of the last convolution."""
HEADS_OF = {width: heads for width, _, heads in SIZES.values()}
"""Number of attention heads by width: entries don't tell it."""


def recognize(shapes: Shapes) -> Recognized | None:
    """A vision transformer in either vocabulary, with one of the two heads."""
    port = "backbone.embeddings.position_embeddings" in shapes
    table = shapes.get("backbone.embeddings.position_embeddings" if port else "backbone.pos_embed", ())
    last = next((shapes[name] for name in LAST if name in shapes), None)
    if len(table) != 3 or last is None or table[2] not in HEADS_OF:
        return None
    block = r"backbone\.encoder\.layer\." if port else r"backbone\.blocks\."
    layers = recognition.count(shapes, rf"{block}(\d+)\.")
    shape = table[2], layers, HEADS_OF[table[2]]
    size = next((name for name, published in SIZES.items() if published == shape), "")
    fields: dict[str, Any] = {"size": size} if size else dict(zip(("width", "layers", "heads"), shape, strict=True))
    fields |= {"experts": 0, "size": size, "head": "simple" if last[2] == 3 else "classic"}
    first = re.compile(rf"{block}0\.mlp\.experts\.(?:experts\.)?(\d+)\.weight")
    if own := [shape for name, shape in shapes.items() if first.fullmatch(name)]:
        fields |= {"experts": len(own), "expert_features": own[0][0]}
    tokens = table[1] - 1
    side, third = math.isqrt(tokens), math.isqrt(tokens // 12)
    columns, rows = (side, side) if side * side == tokens else (3 * third, 4 * third)
    usual = {"input_size": (columns * PATCH, rows * PATCH)} | ({"epsilon": 1e-12} if port else {"blur": 0.0})
    config = {"": "coco", "base": "coco"}.get(size, f"coco_{size}")
    return Recognized(fields, f"vitpose:{config}", last[0], usual)


# --- to start from ---

DECODER = ("cls_token", "mask_token", r"decoder_.*", r"fc_norm\..*", r"head\..*")
"""What files of masked autoencoders and classifiers have and poses don't need."""


def pretrained_names(size: tuple[int, int]) -> PretrainedNames:
    """Names in files of masked autoencoders (MAE), whose positions are resized.

    Args:
      size: (rows, columns) of the tokens.
    """

    def prepare(entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = dict(entries)
        if "pos_embed" in found:
            found["pos_embed"] = resized(found["pos_embed"], size)
        return found

    rules = (Rule("", "backbone", {"pos_embed": (("positions", keep),)}), *nest(AUTHORS, "", "backbone"))
    return PretrainedNames(rules, prepare, DECODER)


def resized(table: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A table of positions [1, 1 + n n, D] of a square of n x n tokens, for rows x columns, interpolated bicubically.

    The row of the class stays. A table of another form is returned as it is.
    """
    side = int(np.sqrt(max(table.shape[1] - 1, 0))) if table.ndim == 3 else 0
    if side * side + 1 != table.shape[1] or not side:
        return table
    grid = table[0, 1:].reshape(side, side, -1).astype(np.float64)
    rows, columns = (_bicubic(side, count) for count in size)
    grid = np.einsum("ri,cj,ijd->rcd", rows, columns, grid).reshape(-1, table.shape[2])
    return np.concatenate([table[:, :1], grid[None].astype(table.dtype)], axis=1)


def _bicubic(count: int, wanted: int, sharpness: float = -0.75) -> np.ndarray:
    """[wanted, count] weights of cubic interpolation between pixel centres, the border going on beyond itself."""
    weights = np.zeros((wanted, count))
    for row in range(wanted):
        place = (row + 0.5) * count / wanted - 0.5
        for cell in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            distance = abs(place - cell)
            if distance <= 1:
                weight = ((sharpness + 2) * distance - (sharpness + 3)) * distance**2 + 1
            else:
                weight = sharpness * (((distance - 5) * distance + 8) * distance - 4)
            weights[row, np.clip(cell, 0, count - 1)] += weight
    return weights
