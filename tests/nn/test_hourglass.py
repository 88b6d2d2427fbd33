import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose.nn import initializers
from jaxpose.nn.hourglass import STEM_BEARPAW, STEM_NEWELL, Hourglass

TINY = {"num_joints": 3, "features": 8, "depth": 2, "stem": (4, 6, 6)}
IMAGE = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float32)


@functools.cache
def tiny(**fields):
    module = Hourglass(**(TINY | fields))
    return module, initializers.initialize(module, jax.random.key(0), IMAGE)


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("stacks", "stem", "parameters"),
    [(1, STEM_BEARPAW, 3_586_960), (2, STEM_BEARPAW, 6_730_912), (8, STEM_NEWELL, 25_434_112)],
    ids=["bearpaw1", "bearpaw2", "newell8"],
)
def test_parameters_of_published_networks(stacks, stem, parameters):
    """The original's counts for 16 joints."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(Hourglass(16, stacks, stem=stem).init, jax.random.key(0), image)
    assert count(variables["params"]) == parameters


def test_every_stack_has_maps_of_a_quarter_of_the_size():
    module, variables = tiny(stacks=3, dtype=jnp.bfloat16)
    maps = jax.eval_shape(module.apply, variables, IMAGE)
    assert [(m.shape, m.dtype) for m in maps] == [((2, 8, 12, 3), jnp.float32)] * 3


def test_nothing_goes_back_after_the_last_stack():
    _, variables = tiny(stacks=2)
    assert {name for name in variables["params"] if name.startswith("remix")} == {"remix0_features", "remix0_score"}


def test_more_modules_at_each_place():
    _, one = tiny()
    _, two = tiny(modules=2)
    added = set(two["params"]["hourglass0"]) - set(one["params"]["hourglass0"])
    places = [f"level{level}_{branch}" for level in (0, 1) for branch in ("across", "down", "up")]
    assert added == {f"{place}_1" for place in [*places, "level0_bottom"]}
    assert "residual0_1" in two["params"]


def test_training_moves_the_statistics():
    module, variables = tiny()
    image = jnp.asarray(np.random.default_rng(0).random(IMAGE.shape), jnp.float32)
    train = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))
    _, moved = train(variables, image)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"], moved["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 64, but this one has 64 x 96"):
        jax.eval_shape(Hourglass(16).init, jax.random.key(0), jnp.zeros((1, 96, 64, 3)))
