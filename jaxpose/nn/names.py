"""Names and layouts that entries of a PyTorch checkpoint have here.

A `Rule` names a module of the original network by a regular expression and says which module of ours it is and of what
kind. The kind knows the entries that such a module owns and how each is laid out.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np

Transform = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""(original array, shape wanted) -> our array; what cannot get that shape is returned in another one."""


def keep(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array as it is."""
    return array


def conv_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def deconv_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[in, out, h, w] of a transposed convolution -> [h, w, in, out], turned by half a circle."""
    return array.transpose(2, 3, 0, 1)[::-1, ::-1] if array.ndim == 4 else array


def linear_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in] -> [in, out]."""
    return array.T


def _heads(array: np.ndarray, shape: tuple[int, ...], flat: tuple[int, ...]) -> np.ndarray:
    return array.reshape(shape) if array.shape == flat else array


def head_kernel(part: int) -> Transform:
    """One third of the fused [3 D, D] projection -> [D, heads, D / heads]."""

    def transform(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        third = np.split(array, 3)[part].T if len(array) % 3 == 0 else array
        return _heads(third, shape, (shape[0], int(np.prod(shape[1:]))))

    return transform


def head_bias(part: int) -> Transform:
    """One third of the fused [3 D] bias -> [heads, D / heads]."""

    def transform(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        third = np.split(array, 3)[part] if len(array) % 3 == 0 else array
        return _heads(third, shape, (int(np.prod(shape)),))

    return transform


def merge_kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[D, D] output projection of an attention -> [heads, D / heads, D]."""
    return _heads(array.T, shape, (int(np.prod(shape[:-1])), shape[-1]))


Kind = dict[str, tuple[tuple[str, Transform], ...]]
"""{entry of the original module: our leaves with their transforms}. An empty tuple: the entry has no use here."""

CONV: Kind = {"weight": (("kernel", conv_kernel),), "bias": (("bias", keep),)}
DECONV: Kind = {"weight": (("kernel", deconv_kernel),), "bias": (("bias", keep),)}
LINEAR: Kind = {"weight": (("kernel", linear_kernel),), "bias": (("bias", keep),)}
LAYER_NORM: Kind = {"weight": (("scale", keep),), "bias": (("bias", keep),)}
BATCH_NORM: Kind = {
    "weight": (("scale", keep),),
    "bias": (("bias", keep),),
    "running_mean": (("mean", keep),),
    "running_var": (("var", keep),),
    "num_batches_tracked": (),
}
ATTENTION: Kind = {
    "in_proj_weight": tuple((f"{n}/kernel", head_kernel(i)) for i, n in enumerate(("query", "key", "value"))),
    "in_proj_bias": tuple((f"{n}/bias", head_bias(i)) for i, n in enumerate(("query", "key", "value"))),
}
ATTENTION_OUT: Kind = {"weight": (("kernel", merge_kernel),), "bias": (("bias", keep),)}
TABLE: Kind = {"weight": (("", keep),)}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One kind of module in the original network.

    Attributes:
      module: regular expression for the original module's full name; entry names follow it after a dot.
      path: our module path, a template for the groups of `module`.
      kind: entries and layouts.
    """

    module: str
    path: str
    kind: Kind

    def under(self, module: str, path: str) -> "Rule":
        """The same rule for a network nested under `module` (a regular expression) there and `path` here.

        The prefix must not capture groups.
        """
        return Rule(f"{module}(?:{self.module})", f"{path}/{self.path}" if path else self.path, self.kind)

    def targets(self, name: str) -> list[tuple[str, Transform]] | None:
        """Our paths and transforms for an original entry, or None if the rule does not speak of it."""
        module, _, entry = name.rpartition(".")
        match = re.fullmatch(self.module, module)
        if match is None or entry not in self.kind:
            return None
        path = match.expand(self.path)
        return [(f"{path}/{leaf}" if leaf else path, transform) for leaf, transform in self.kind[entry]]


@dataclasses.dataclass(frozen=True)
class OriginalNames:
    """Names of all entries in the checkpoints of an original implementation.

    Attributes:
      rules: rules for every entry.
      prepare: function from the entries of a file to those that the rules speak of; it raises CheckpointError for files
        of another kind. None to take the entries as they are.
    """

    rules: tuple[Rule, ...]
    prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None


@dataclasses.dataclass(frozen=True)
class PretrainedNames(OriginalNames):
    """Names of all entries in files of networks that were trained for something else, and have a method's backbone.

    Attributes:
      ignored: regular expressions for entries that are not needed.
      absent: regular expressions for paths of the backbone that a file need not hold.
    """

    ignored: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def nest(rules: Iterable[Rule], module: str, path: str) -> tuple[Rule, ...]:
    """Rules of a network for the same network nested in another; see `Rule.under`."""
    return tuple(rule.under(module, path) for rule in rules)


RESIDUAL_STAGES = (
    Rule(r"layer(\d)\.(\d+)\.(conv\d)", r"layer\1_\2/\3", CONV),
    Rule(r"layer(\d)\.(\d+)\.(bn\d)", r"layer\1_\2/\3", BATCH_NORM),
    Rule(r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1_\2/downsample_conv", CONV),
    Rule(r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_bn", BATCH_NORM),
)

RESNET = (
    Rule(r"conv1", "conv1", CONV),
    Rule(r"bn1", "bn1", BATCH_NORM),
    *RESIDUAL_STAGES,
)
"""torchvision's ResNet."""

HRNET = (
    Rule(r"(conv[12])", r"\1", CONV),
    Rule(r"(bn[12])", r"\1", BATCH_NORM),
    *RESIDUAL_STAGES,
    Rule(r"transition(\d)\.(\d)(?:\.0)?\.0", r"transition\1_\2/conv", CONV),
    Rule(r"transition(\d)\.(\d)(?:\.0)?\.1", r"transition\1_\2/bn", BATCH_NORM),
    Rule(r"stage(\d)\.(\d+)\.branches\.(\d)\.(\d+)\.(conv\d)", r"stage\1_\2/branch\3_\4/\5", CONV),
    Rule(r"stage(\d)\.(\d+)\.branches\.(\d)\.(\d+)\.(bn\d)", r"stage\1_\2/branch\3_\4/\5", BATCH_NORM),
    Rule(r"stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.0", r"stage\1_\2/fuse_\3_\4/conv", CONV),
    Rule(r"stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.1", r"stage\1_\2/fuse_\3_\4/bn", BATCH_NORM),
    Rule(r"stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.(\d)\.0", r"stage\1_\2/fuse_\3_\4_\5/conv", CONV),
    Rule(r"stage(\d)\.(\d+)\.fuse_layers\.(\d)\.(\d)\.(\d)\.1", r"stage\1_\2/fuse_\3_\4_\5/bn", BATCH_NORM),
)
"""The branches of the HRNet repositories."""

HRNET_CLASSIFICATION = (
    Rule(r"incre_modules\.(\d)\.0\.(conv\d)", r"incre_\1/\2", CONV),
    Rule(r"incre_modules\.(\d)\.0\.(bn\d)", r"incre_\1/\2", BATCH_NORM),
    Rule(r"incre_modules\.(\d)\.0\.downsample\.0", r"incre_\1/downsample_conv", CONV),
    Rule(r"incre_modules\.(\d)\.0\.downsample\.1", r"incre_\1/downsample_bn", BATCH_NORM),
    Rule(r"downsamp_modules\.(\d)\.0", r"downsamp_\1/conv", CONV),
    Rule(r"downsamp_modules\.(\d)\.1", r"downsamp_\1/bn", BATCH_NORM),
    Rule(r"final_layer\.0", "final_layer/conv", CONV),
    Rule(r"final_layer\.1", "final_layer/bn", BATCH_NORM),
)
"""Rules that the classification form adds to `HRNET`."""

DECONV_HEAD = (
    *(Rule(rf"deconv_layers\.{3 * i}", f"deconv{i}", DECONV) for i in range(6)),
    *(Rule(rf"deconv_layers\.{3 * i + 1}", f"bn{i}", BATCH_NORM) for i in range(6)),
    Rule("final_layer", "final_layer", CONV),
)
"""The head of SimpleBaselines, a sequence in which each transposed convolution, norm and ReLU has a number."""

DETR_TRANSFORMER = (
    Rule(r"(encoder|decoder)\.layers\.(\d+)\.self_attn", r"\1/layer\2/self_attention", ATTENTION),
    Rule(r"(encoder|decoder)\.layers\.(\d+)\.self_attn\.out_proj", r"\1/layer\2/self_attention/out", ATTENTION_OUT),
    Rule(r"decoder\.layers\.(\d+)\.multihead_attn", r"decoder/layer\1/cross_attention", ATTENTION),
    Rule(r"decoder\.layers\.(\d+)\.multihead_attn\.out_proj", r"decoder/layer\1/cross_attention/out", ATTENTION_OUT),
    Rule(r"(encoder|decoder)\.layers\.(\d+)\.(linear\d)", r"\1/layer\2/\3", LINEAR),
    Rule(r"(encoder|decoder)\.layers\.(\d+)\.(norm\d)", r"\1/layer\2/\3", LAYER_NORM),
    Rule(r"(encoder|decoder)\.norm", r"\1/norm", LAYER_NORM),
)
"""DETR's transformer."""
