import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxpose.methods.dcpose.rsn import ResidualStepsBlock, ResidualStepsChain

MAPS = jax.ShapeDtypeStruct((2, 6, 5, 10), jnp.float32)


@functools.cache
def block(project: bool):
    """A block of ten channels, and variables that are all random numbers."""
    module = ResidualStepsBlock(7 if project else 10, project)
    template = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), MAPS)
    rng = np.random.default_rng(0)
    return module, jax.tree.map(lambda leaf: rng.uniform(0.3, 0.9, leaf.shape).astype(np.float32) - 0.2, template)


def unit(variables: dict, name: str, x: np.ndarray, relu: bool = True) -> np.ndarray:
    """A convolution and its normalization by running statistics, tap by tap."""
    params = flax.traverse_util.flatten_dict(variables["params"][name], sep="/")
    stats, kernel = variables["batch_stats"][name]["bn"], params["conv/kernel"]
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    y = params["conv/bias"] + sum(
        padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j] for i, j in np.ndindex(kernel.shape[:2])
    )
    y = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["bn/scale"] + params["bn/bias"]
    return np.maximum(y, 0) if relu else y


@pytest.mark.parametrize("project", [False, True])
def test_branches_pass_on_what_they_find(project):
    module, variables = block(project)
    x = np.random.default_rng(1).normal(size=MAPS.shape).astype(np.float32)
    u = functools.partial(unit, variables)
    a1, a2, a3, a4 = np.split(u("conv1", x), 4, -1)
    assert a1.shape[-1] == 4  # 26/64 of ten
    y11 = u("conv2_1_1", a1)
    y21 = u("conv2_2_1", a2 + y11)
    y22 = u("conv2_2_2", y21)
    y31 = u("conv2_3_1", a3 + y21)
    y32 = u("conv2_3_2", y31 + y22)
    y33 = u("conv2_3_3", y32)
    y41 = u("conv2_4_1", a4 + y31)
    y42 = u("conv2_4_2", y41 + y32)
    y43 = u("conv2_4_3", y42 + y33)
    y44 = u("conv2_4_4", y43)
    joined = u("conv3", np.concatenate([y11, y22, y33, y44], -1), relu=False)
    expected = np.maximum(joined + (u("downsample", x, relu=False) if project else x), 0)
    ours = jax.jit(functools.partial(module.apply, train=False))(variables, x)
    assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("inputs", "features", "blocks", "width"), [(68, 34, 2, 27), (51, 17, 1, 20), (51, 64, 2, 20), (8, 8, 3, 3)]
)
def test_only_the_first_block_has_a_convolution_as_shortcut(inputs, features, blocks, width):
    x = jax.ShapeDtypeStruct((1, 4, 4, inputs), jnp.float32)
    module = ResidualStepsChain(features, blocks, jnp.bfloat16)
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    params = variables["params"]
    assert (y.shape, y.dtype) == ((1, 4, 4, features), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert [name for name in sorted(params) if "downsample" in params[name]] == ["block0"]
    assert len(params) == blocks
    assert params["block0"]["conv2_4_4"]["conv"]["kernel"].shape == (3, 3, width, width)


def test_training_moves_every_statistic():
    module, variables = block(True)
    x = np.random.default_rng(1).normal(size=MAPS.shape).astype(np.float32)
    train = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    _, state = train(variables, x)
    before, after = (flax.traverse_util.flatten_dict(v["batch_stats"], sep="/") for v in (variables, state))
    assert before.keys() == after.keys()
    assert all(not np.allclose(before[path], after[path]) for path in before)
