import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.rmpe.fastpose import FastPoseDUCHead, FastPoseHead, pixel_shuffle, pixel_unshuffle
from jaxpose.methods.rmpe.se_resnet import SEBottleneck, SEResNet, SqueezeExcitation, se_resnet

IMAGE = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(module: SEResNet) -> dict:
    return jax.eval_shape(module.init, jax.random.key(0), IMAGE)["params"]


@pytest.mark.parametrize("factor", [2, 3])
def test_pixels_are_shuffled_in_the_order_of_torch(factor):
    torch = pytest.importorskip("torch")
    x = draw(2, 3, 4, 5 * factor**2)
    theirs = torch.nn.functional.pixel_shuffle(torch.tensor(x.transpose(0, 3, 1, 2)), factor)
    assert_array_equal(pixel_shuffle(x, factor), theirs.numpy().transpose(0, 2, 3, 1))
    assert_array_equal(pixel_unshuffle(pixel_shuffle(x, factor), factor), x)


def test_channels_become_pixels_row_by_row():
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    assert_array_equal(pixel_shuffle(x, 2)[0, :, :, 1], [[4, 5], [6, 7]])


@pytest.mark.parametrize(("wide", "last"), [(False, 16), (True, 32)])
def test_fastpose_head_widths(wide, last):
    head = FastPoseHead(5, wide=wide)
    x = jax.ShapeDtypeStruct((1, 2, 3, 256), jnp.bfloat16)
    out, variables = jax.eval_shape(lambda k, x: head.init_with_output(k, x, False), jax.random.key(0), x)
    assert (out.shape, out.dtype) == ((1, 16, 24, 5), jnp.float32)
    params = variables["params"]
    assert params["conv1"]["kernel"].shape == (3, 3, 64, 128)
    assert params["conv2"]["kernel"].shape == (3, 3, 32, 4 * last)
    assert params["conv_out"]["kernel"].shape == (3, 3, last, 5)
    assert "bias" not in params["conv1"]


def test_duc_head_widths():
    head = FastPoseDUCHead(5)
    out, variables = head.init_with_output(jax.random.key(0), draw(1, 1, 2, 64), False)
    assert (out.shape, out.dtype) == ((1, 8, 16, 5), jnp.float32)
    widths = {name: p["kernel"].shape[2:] for name, p in variables["params"].items() if "conv" in name}
    assert widths.pop("conv_out") == (8, 5)
    inner = {f"conv1_{i}": (16, 16) for i in range(3)} | {"conv1_3": (16, 32), "conv2_0": (8, 8), "conv2_1": (8, 16)}
    assert widths == inner | {"conv3_0": (4, 8)}


def test_squeeze_and_excitation_sits_in_first_blocks_without_reduction():
    params = shapes(se_resnet(50))
    assert {name for name, block in params.items() if "se" in block} == {f"layer{stage}_0" for stage in (1, 2, 3, 4)}
    gate = params["layer4_0"]["se"]
    assert gate["linear1"]["kernel"].shape == gate["linear2"]["kernel"].shape == (2048, 2048)


def test_gate_scales_channels():
    x = draw(2, 3, 4, 6)
    module = SqueezeExcitation()
    variables = module.init(jax.random.key(0), x)
    ratio = np.asarray(module.apply(variables, x)) / x
    assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-4)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_deformable_convolutions_are_in_stages_2_to_4():
    params = shapes(se_resnet(50, deformable=(False, True, True, True)))
    moved = {name for name, block in params.items() if "conv2_offset" in block}
    assert moved == {name for name in params if name[:6] in ("layer2", "layer3", "layer4")}
    assert params["layer3_0"]["conv2_offset"]["kernel"].shape == (3, 3, 256, 18)
    assert params["layer3_0"]["conv2_offset"]["bias"].shape == (18,)


@pytest.mark.parametrize("stride", [1, 2])
def test_taps_that_do_not_move_are_a_plain_block(stride):
    x = draw(1, 8, 8, 8)
    plain, deformable = (SEBottleneck(4, stride, deformable=flag) for flag in (False, True))
    variables = deformable.init(jax.random.key(0), x, False)
    params = dict(variables["params"])
    params["conv2_offset"] = jax.tree.map(jnp.zeros_like, params["conv2_offset"])
    ours = deformable.apply(variables | {"params": params}, x, False)
    params.pop("conv2_offset")
    assert_allclose(ours, plain.apply(variables | {"params": params}, x, False), atol=1e-5)
    moved = deformable.apply(variables, x, False)
    assert np.abs(moved - ours).max() > 1e-3


def test_shuffled_blocks_have_no_strided_taps():
    params = shapes(se_resnet(50, shuffle=True))
    wide = {name: block["conv2"]["kernel"].shape[2] for name, block in params.items() if name.startswith("layer")}
    assert {name for name, inputs in wide.items() if inputs != 64 * 2 ** (int(name[5]) - 1)} == {
        "layer2_0",
        "layer3_0",
        "layer4_0",
    }
    assert wide["layer2_0"] == 4 * 128
    maps = jax.eval_shape(se_resnet(50, shuffle=True).init_with_output, jax.random.key(0), IMAGE)[0]
    assert [m.shape[1] for m in maps] == [16, 8, 4, 2]


def test_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"depth 34; known depths: \[50, 101, 152\]"):
        se_resnet(34)
