import jax
import jax.numpy as jnp
import pytest

from jaxpose.nn.hrnet import HRNet, upsample_nearest

IMAGE = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
TINY = {"width": 4, "modules": (1, 1, 1), "blocks": 1, "stem_blocks": 1, "stem_width": 4, "head_width": 2}


def outputs(**fields):
    maps, variables = jax.eval_shape(HRNet(**fields).init_with_output, jax.random.key(0), IMAGE)
    return [m.shape for m in maps], variables["params"]


def test_branches():
    shapes, _ = outputs(**TINY)
    assert shapes == [(2, 16, 24, 4), (2, 8, 12, 8), (2, 4, 6, 16), (2, 2, 3, 32)]


def test_high_resolution_leaves_out_what_it_does_not_need():
    shapes, params = outputs(**TINY, output="high_resolution")
    assert shapes == [(2, 16, 24, 4)]
    fusions = {name for name in params["stage4_0"] if name.startswith("fuse")}
    assert fusions == {"fuse_0_1", "fuse_0_2", "fuse_0_3"}


def test_classification_form():
    shapes, params = outputs(**TINY, output="classification")
    assert shapes == [(2, 2, 3, 128)]
    assert "bias" in params["final_layer"]["conv"]
    assert "bias" in params["downsamp_0"]["conv"]


@pytest.mark.parametrize(
    ("width", "parameters"), [(32, 28_536_113 - 17 * 33), (48, 63_595_745 - 17 * 49)], ids=["w32", "w48"]
)
def test_parameters_of_published_widths(width, parameters):
    """The original's counts less its 1x1 head for 17 joints."""
    _, params = outputs(width=width, output="high_resolution")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="divisible by 32"):
        jax.eval_shape(HRNet(**TINY).init, jax.random.key(0), jnp.zeros((1, 48, 64, 3)))
    with pytest.raises(ValueError, match="'all' is none of"):
        jax.eval_shape(HRNet(**TINY, output="all").init, jax.random.key(0), IMAGE)


def test_nearest_upsampling_repeats():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    assert upsample_nearest(x, 2)[0, :, :, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
