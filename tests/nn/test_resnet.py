import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxpose.nn.resnet import STAGES, BasicBlock, ResNet, resnet

IMAGE = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)


def shapes(module):
    maps, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), IMAGE)
    return [m.shape[1:] for m in maps]


@pytest.mark.parametrize(("depth", "channels"), [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))])
def test_maps_of_all_stages(depth, channels):
    expected = [(64 // s, 96 // s, c) for s, c in zip((4, 8, 16, 32), channels, strict=True)]
    assert shapes(resnet(depth)) == expected


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160), (152, 58_143_808)],
)
def test_parameters_of_published_depths(depth, parameters):
    """torchvision's counts less the classifier."""
    variables = jax.eval_shape(resnet(depth).init, jax.random.key(0), IMAGE)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(("dilate", "strides"), [(1, (4, 8, 16, 16)), (2, (4, 8, 8, 8)), (3, (4, 4, 4, 4))])
def test_dilated_stages_keep_their_resolution(dilate, strides):
    module = ResNet(stage_sizes=(1, 1, 1, 1), block=BasicBlock, width=4, dilate=dilate)
    assert [s[0] for s in shapes(module)] == [64 // s for s in strides]


def test_first_convolution_of_a_dilated_stage_is_not_dilated():
    """A spike reaches as far as the dilations of layer4 let it: 1 + 2 cells in the block of two 3x3 convolutions."""
    module = ResNet(stage_sizes=(1, 1), block=BasicBlock, width=2, dilate=1, norm="frozen")
    variables = module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    positive = jax.tree.map(lambda p: jnp.abs(p) + 0.1, variables["params"])
    block = BasicBlock(4, dilations=(1, 2), norm="frozen")
    x = jnp.zeros((1, 16, 16, 2)).at[0, 8, 8].set(1.0)
    out = block.apply({"params": positive["layer2_0"], "batch_stats": variables["batch_stats"]["layer2_0"]}, x, False)
    reached = np.flatnonzero(np.asarray(out[0, 8, :, 0]))
    assert_array_equal(reached, [5, 6, 7, 8, 9, 10, 11])


def test_frozen_stages_get_no_gradient():
    module = ResNet(stage_sizes=(1, 1), block=BasicBlock, width=4, norm="frozen", frozen_stages=1)
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = module.init(jax.random.key(0), x)
    loss = lambda p: (module.apply(variables | {"params": p}, x)[-1] ** 2).sum()
    gradients = jax.jit(jax.grad(loss))(variables["params"])
    moved = {name for name, tree in gradients.items() if any(jnp.any(g != 0) for g in jax.tree.leaves(tree))}
    assert moved == {"layer2_0"}


def test_unknown_depth_is_refused():
    with pytest.raises(ValueError, match="depth 51"):
        resnet(51)
    assert sorted(STAGES) == [18, 34, 50, 101, 152]
