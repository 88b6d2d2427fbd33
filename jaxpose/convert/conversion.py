"""Turns a state dict into variables by rules, and refuses to leave anything unexplained."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxpose.errors import CheckpointError
from jaxpose.methods.base import Method
from jaxpose.nn.hrnet import HRNet
from jaxpose.nn.names import HRNET, HRNET_CLASSIFICATION, RESNET, Rule, nest
from jaxpose.nn.resnet import ResNet
from jaxpose.types import Variables

StateDict = dict[str, np.ndarray]


class ConversionError(CheckpointError):
    """A checkpoint does not fit the network. The message lists every entry that is missing, unknown or misshapen."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Variables from a file, and what was left out.

    Attributes:
      variables: variables of the network, {"params": ..., "batch_stats": ...}.
      ignored: entries of the file that a rule says are not needed.
      absent: paths of ours that a rule says the file need not hold; they keep their initial values.
    """

    variables: Variables
    ignored: tuple[str, ...]
    absent: tuple[str, ...]


def convert(state_dict: StateDict, method: Method) -> Variables:
    """All variables of a method from a checkpoint of its original implementation.

    Args:
      state_dict: entries by their original names; see `load_state_dict`.
      method: configured method, whose network must be that of the checkpoint.

    Raises:
      ConversionError: the method has no rules, or an entry is missing, unknown or misshapen.
    """
    names = method.original_names()
    if names is None:
        raise ConversionError(f"{type(method).__name__} knows no names of original checkpoints (`original_names`)")
    template = jax.eval_shape(method.init, jax.random.key(0))
    entries = names.prepare(state_dict) if names.prepare else state_dict
    return apply_rules(entries, names.rules, template).variables


def convert_backbone(state_dict: StateDict, method: Method) -> Conversion:
    """The variables of a method's `backbone` from a network pretrained for something else.

    ResNets take torchvision files. HRNets take the ImageNet files and those of the pose repositories. Other backbones
    take what their method's `pretrained_names` tell. The rest of the method keeps its initial values and is not part of
    the result.

    Args:
      state_dict: entries by their original names.
      method: a method whose module, or a module within, has a field `backbone`.

    Raises:
      ConversionError: an unknown kind of backbone, or an entry that is missing, unknown or misshapen.
    """
    if (names := method.pretrained_names()) is not None:
        entries = names.prepare(state_dict) if names.prepare else state_dict
        whole = jax.eval_shape(method.init, jax.random.key(0))
        template = {
            collection: {"backbone": tree["backbone"]} for collection, tree in whole.items() if "backbone" in tree
        }
        return apply_rules(entries, names.rules, template, names.ignored, names.absent)
    path, backbone = _find_backbone(method.module())
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    if not isinstance(backbone, ResNet | HRNet):
        raise ConversionError(f"{type(method).__name__} has no ResNet or HRNet backbone")
    template = jax.eval_shape(backbone.init, jax.random.key(0), image)
    parts = _resnet_backbone(backbone) if isinstance(backbone, ResNet) else _hrnet_backbone(backbone, state_dict)
    rules, ignored, absent = parts
    for name in reversed(path.split("/")):
        template = {collection: {name: tree} for collection, tree in template.items()}
    return apply_rules(state_dict, nest(rules, "", path), template, ignored, [f"{path}/{a}" for a in absent])


def _find_backbone(module: nn.Module, prefix: str = "") -> tuple[str, nn.Module | None]:
    """Path and value of the first field "backbone" in a module or the modules it holds."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    held = {name: value for name, value in fields.items() if isinstance(value, nn.Module)}
    if "backbone" in held:
        return f"{prefix}backbone", held["backbone"]
    for name, inner in held.items():
        path, backbone = _find_backbone(inner, f"{prefix}{name}/")
        if backbone is not None:
            return path, backbone
    return "", None


def _resnet_backbone(backbone: ResNet) -> tuple[tuple[Rule, ...], tuple[str, ...], tuple[str, ...]]:
    """Rules, names to ignore and paths that may be absent, for a torchvision file.

    A truncated network ignores the last stages. What a variant adds starts fresh.
    """
    ignored = (r"fc\.(weight|bias)", rf"layer[{len(backbone.stage_sizes) + 1}-9]\..*")
    return RESNET, ignored + backbone.unused_entries(), backbone.fresh_parts()


def _hrnet_backbone(
    backbone: HRNet, state_dict: StateDict
) -> tuple[tuple[Rule, ...], tuple[str, ...], tuple[str, ...]]:
    """Rules, names to ignore and paths that may be absent.

    A classification file holds heads that branches do not need; a pose file lacks them, and its last module makes only
    the finest branch. Its own 1x1 `final_layer` is never needed, nor are layers of other heads.
    """
    heads = r"(incre_modules|downsamp_modules|final_layer)\..*"
    ignored = [r"classifier\.(weight|bias)", r"final_layer\.(weight|bias)", r"(final_layers|deconv_layers)\..*"]
    absent = []
    rules = HRNET
    if backbone.output == "classification":
        rules = HRNET + HRNET_CLASSIFICATION
    else:
        ignored.append(heads)
    last = backbone.modules[-1] - 1
    if backbone.output == "high_resolution":
        ignored.append(rf"stage4\.{last}\.fuse_layers\.[123]\..*")
    if "final_layer.weight" in state_dict:
        absent += [r"(incre_\d|downsamp_\d|final_layer)/.*", rf"stage4_{last}/fuse_[123]_.*"]
    return rules, tuple(ignored), tuple(absent)


def apply_rules(
    state_dict: StateDict,
    rules: Sequence[Rule],
    template: Variables,
    ignored: Sequence[str] = (),
    absent: Sequence[str] = (),
) -> Conversion:
    """Variables with the structure of `template` from a state dict.

    Args:
      state_dict: entries by their original names.
      rules: every entry must fall under at least one.
      template: shapes of our variables.
      ignored: regular expressions for entries that are not needed.
      absent: regular expressions for paths of ours ("/"-joined, without collection) that need not be found.

    Raises:
      ConversionError: lists all entries that are missing, unknown, doubled or misshapen.
    """
    wanted: dict[str, Any] = dict(flatten_dict(template, sep="/"))
    full_path = {path.partition("/")[2]: path for path in wanted}
    found, skipped, problems = {}, [], []
    for name, array in state_dict.items():
        if any(re.fullmatch(pattern, name) for pattern in ignored):
            skipped.append(name)
            continue
        targets = [rule.targets(name) for rule in rules]
        if all(t is None for t in targets):
            problems.append(f"unknown: {name} {array.shape}")
        for path, transform in (pair for t in targets if t for pair in t):
            problems += _place(found, wanted, full_path.get(path), name, array, transform, path)
    missing = [path for path in wanted if path not in found]
    allowed = tuple(p for p in missing if any(re.fullmatch(a, p.partition("/")[2]) for a in absent))
    problems += [f"missing: {path} {wanted[path].shape}" for path in missing if path not in allowed]
    if problems:
        listing = "\n  ".join(problems)
        raise ConversionError(
            f"the checkpoint does not fit the configured network, {len(problems)} problems:\n  {listing}\n"
            "Check that the config describes the checkpoint's model: backbone, joints, layers and options."
        )
    return Conversion(unflatten_dict(found, sep="/"), tuple(skipped), allowed)


def _place(found, wanted, target, name, array, transform, path) -> list[str]:
    """Puts one entry in its place; a list of what is wrong with it."""
    if target is None:
        return [f"unknown: {name} {array.shape} (would be {path}, which this network lacks)"]
    if target in found:
        return [f"doubled: {name} is not the only entry for {path}"]
    value = transform(array, wanted[target].shape)
    found[target] = np.ascontiguousarray(value, wanted[target].dtype)
    if value.shape != wanted[target].shape:
        return [f"misshapen: {name} {array.shape} gives {value.shape}, but {path} is {wanted[target].shape}"]
    return []
