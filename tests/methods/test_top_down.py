"""What methods share that look at one person's crop: padding, random colours and blur in training."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.errors import ConfigError
from jaxpose.methods.dcpose.method import DCPose
from jaxpose.methods.heatmap.method import Heatmap
from jaxpose.methods.regda.method import RegDA
from jaxpose.methods.top_down import IMAGENET_MEAN, IMAGENET_STD
from jaxpose.ops import photometric
from jaxpose.rng import example_keys
from jaxpose.types import synthetic_batch

STRENGTH = {"brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "blur": 0.8}
PLAIN = Heatmap(input_size=(32, 64))
METHOD = dataclasses.replace(PLAIN, **STRENGTH)
KEY = jax.random.key(3)


def levels(image) -> np.ndarray:
    """Normalised images as they were in [0, 1]."""
    return np.asarray(image) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)


@pytest.fixture
def batch():
    batch = synthetic_batch(METHOD.spec(3))
    batch["source"]["image"] = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3)).astype(np.uint8)
    batch["source"]["index"] = np.array([5, 9, 2], np.int32)
    return batch


@pytest.mark.parametrize(
    "method", [PLAIN, RegDA(input_size=(64, 64)), DCPose(input_size=(32, 64))], ids=lambda method: type(method).__name__
)
def test_padding_counts_for_nothing(method):
    batch = synthetic_batch(method.spec(4))
    for stream in batch.values():
        stream["valid"][1:] = False
    for stream in method.targets(batch, KEY, train=True).values():
        assert stream["weight"][0].any()
        assert not stream["weight"][1:].any()


def test_training_changes_pictures_and_nothing_else(batch):
    plain, changed = (method.targets(batch, KEY, train=True)["source"] for method in (PLAIN, METHOD))
    assert (np.abs(plain["image"] - changed["image"]).max((1, 2, 3)) > 0.1).all()
    for name in set(plain) - {"image"}:
        assert_array_equal(plain[name], changed[name])
    expected = photometric.distort(
        batch["source"]["image"] / np.float32(255),
        example_keys(KEY, batch["source"]["index"]),
        photometric.Strength(**STRENGTH),
    )
    assert_allclose(levels(changed["image"]), expected, atol=1e-5)


def test_evaluation_does_not(batch):
    plain, same = (method.targets(batch, KEY, train=False)["source"] for method in (PLAIN, METHOD))
    assert_array_equal(plain["image"], same["image"])


def test_an_example_is_changed_alike_wherever_it_is_in_a_batch(batch):
    order = np.array([2, 0, 1])
    moved = {"source": {name: values[order] for name, values in batch["source"].items()}}
    here, there = (METHOD.targets(b, KEY, train=True)["source"]["image"] for b in (batch, moved))
    assert_allclose(np.asarray(here)[order], there, atol=1e-6)
    other = METHOD.targets(batch, jax.random.key(4), train=True)["source"]["image"]
    assert np.abs(here - other).max() > 0.1


def test_both_domains_are_changed():
    method = RegDA(input_size=(64, 64), backbone="resnet18", **STRENGTH)
    batch = synthetic_batch(method.spec(2))
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    for stream in batch.values():
        stream["image"] = image
    prepared = method.targets(batch, KEY, train=True)
    source, target = (levels(prepared[stream]["image"]) for stream in ("source", "target"))
    for one, other in ((source, image / 255), (target, image / 255), (source, target)):
        assert np.abs(one - other).max() > 0.02


@pytest.mark.parametrize(
    ("field", "value"), [("brightness", 1.5), ("contrast", -0.1), ("saturation", 2), ("blur", 2.0)]
)
def test_strengths_that_cannot_be(field, value):
    with pytest.raises(ConfigError, match=rf"config.method.{field} is {value}"):
        Heatmap(**{field: value})
