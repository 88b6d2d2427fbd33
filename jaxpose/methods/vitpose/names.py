"""Names in released checkpoints of ViTPose: those of transformers, and those of the authors (mmpose 0.x)."""

import numpy as np

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
    Rule,
    head_bias,
    head_kernel,
    keep,
    nest,
)


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
