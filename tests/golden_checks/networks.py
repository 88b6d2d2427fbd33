"""What checks of whole networks share."""

from collections.abc import Iterable

import numpy as np
from numpy.testing import assert_allclose

from jaxpose.nn.names import Rule

FORWARD = 1e-4
"""Largest difference of a network's outputs."""
GRADIENT = 1e-3
"""Largest relative difference of the norm of a gradient."""
LOSS = 1e-4
"""Largest relative difference of a loss."""


def forward_tolerance(case) -> float:
    """`FORWARD`, or where rounding alone moves the original further (training mode with few values): four times that.

    The manifest says how far the original in float32 is from itself in float64.
    """
    noise = case.manifest.get("float32_vs_float64", {})
    return max(FORWARD, 4 * noise.get("pred_logits", 0.0))


def to_channels_last(image: np.ndarray) -> np.ndarray:
    """[N, C, H, W] -> [N, H, W, C]."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def to_channels_first(image) -> np.ndarray:
    """[N, H, W, C] -> [N, C, H, W]."""
    return np.asarray(image).transpose(0, 3, 1, 2)


def leaf(tree: dict, path: str):
    """The leaf of a nested dict at a "/"-joined path."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def original_norm(gradients: dict, rules: Iterable[Rule], name: str) -> float:
    """Norm of the gradient that the original calls `name`, which may be several leaves here."""
    paths = [path for rule in rules for path, _ in rule.targets(name) or ()]
    assert paths, f"no rule for {name}"
    return float(np.sqrt(sum(np.sum(np.square(leaf(gradients, path), dtype=np.float64)) for path in paths)))


def check_gradients(gradients: dict, rules: Iterable[Rule], expected: dict[str, float]) -> None:
    """Compares norms of gradients by the original names."""
    rules = tuple(rules)
    for name, norm in expected.items():
        assert_allclose(original_norm(gradients, rules, name), norm, rtol=GRADIENT, err_msg=name)


def statistics(feature) -> list[float]:
    """Mean, unbiased deviation, least and largest value of a map or token array."""
    feature = np.asarray(feature, np.float64)
    return [feature.mean(), feature.std(ddof=1), feature.min(), feature.max()]
