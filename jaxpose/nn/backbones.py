"""Backbones by the names that configs use."""

import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn.hrnet import HRNet
from jaxpose.nn.resnet import STAGES, resnet

KNOWN = '"resnet18", 34, 50, 101 or 152, or "hrnet_wC" with C channels in the finest branch (32, 48)'
_NAMES = re.compile(rf"resnet({'|'.join(map(str, STAGES))})|hrnet_w(\d+)")


def is_known(name: str) -> bool:
    """True for a name that `backbone` takes."""
    return _NAMES.fullmatch(name) is not None


def is_hrnet(name: str) -> bool:
    """True for the name of an HRNet."""
    return name.startswith("hrnet")


def backbone(
    name: str,
    *,
    width: int = 0,
    stages: tuple[int, ...] = (),
    output: str = "high_resolution",
    dtype: Dtype = jnp.float32,
    **of_resnet: Any,
) -> nn.Module:
    """The backbone called `name`, which returns a list of maps.

    Args:
      name: name of the network, see `KNOWN`.
      width: channels of a ResNet's stem; 0 for the published 64.
      stages: number of blocks in each stage (ResNet) or of modules in stages 2 to 4 (HRNet); empty for the published
        ones.
      output: maps that an HRNet puts out, see `HRNet.output`.
      dtype: compute precision.
      **of_resnet: further fields of a ResNet.

    Returns:
      The network, not yet initialized.

    Raises:
      ValueError: an unknown name.
    """
    found = _NAMES.fullmatch(name)
    if found is None:
        raise ValueError(f"there is no backbone {name!r}; known are {KNOWN}")
    if found[2]:
        modules: dict[str, Any] = {"modules": tuple(stages)} if stages else {}
        return HRNet(width=int(found[2]), output=output, dtype=dtype, **modules)
    sizes = {"stage_sizes": tuple(stages)} if stages else {}
    return resnet(int(found[1]), width=width or 64, dtype=dtype, **sizes, **of_resnet)
