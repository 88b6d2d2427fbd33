import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxpose.methods.anatomy3d import temporal
from jaxpose.methods.anatomy3d.temporal import Contexts, FrameNetwork, GatedTrunk, Propagation


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestTaps:
    x = draw(2, 12, 3)

    def test_strided(self):
        taps = temporal.strided_taps(self.x, 3)
        assert_array_equal(taps[1, 2], self.x[1, 6:9].ravel())

    def test_dilated(self):
        taps = temporal.dilated_taps(self.x, 3, 2)
        assert taps.shape == (2, 8, 9)
        assert_array_equal(taps[1, 4], self.x[1, 4:9:2].ravel())

    def test_a_linear_layer_of_them_is_a_convolution(self):
        kernel = draw(3, 3, 5)
        for strides, dilation in (((3,), 1), ((1,), 2)):
            expected = jax.lax.conv_general_dilated(
                self.x, kernel, strides, "VALID", rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
            )
            strided = strides == (3,)
            taps = temporal.strided_taps(self.x, 3) if strided else temporal.dilated_taps(self.x, 3, dilation)
            assert_allclose(taps @ kernel.reshape(9, 5), expected, rtol=1e-4, atol=1e-5)

    def test_the_middle_or_the_last(self):
        taps = temporal.strided_taps(self.x, 3)
        assert_array_equal(temporal.middle_tap(taps, 3, causal=False), self.x[:, 1::3])
        assert_array_equal(temporal.middle_tap(taps, 3, causal=True), self.x[:, 2::3])

    def test_spans(self):
        assert temporal.spans((3, 5, 7)) == [3, 15, 105]


@pytest.mark.parametrize("causal", [False, True])
def test_strided_features_of_a_window_are_dilated_features_of_the_sequence(causal):
    widths, joints = (3, 5, 3), 4
    trunk, sequence = GatedTrunk(channels=6, widths=widths, causal=causal), draw(2, 45 + 4, joints, 3)
    variables = trunk.init(jax.random.key(0), sequence[:, :45])
    whole = jax.jit(lambda x: trunk.apply(variables, x, strided=False))(sequence)
    window = jax.jit(lambda x: trunk.apply(variables, x))
    for frame in (0, 4):
        for all_of_it, span, alone in zip(
            whole, temporal.spans(widths), window(sequence[:, frame : frame + 45]), strict=True
        ):
            assert all_of_it.shape == (2, 49 + 1 - span, 6)
            assert_allclose(alone, all_of_it[:, frame : frame + 45 : span], atol=1e-5)


def test_joints_without_confidence_count_less():
    """The gate alone sees the scores: without them, the second half of the first convolution's input is constant."""
    trunk, x = GatedTrunk(channels=6, widths=(3,)), draw(2, 3, 4, 3)
    variables = trunk.init(jax.random.key(0), x)
    changed = x.copy()
    changed[..., 2] += 1
    assert_array_equal(trunk.apply(variables, x)[0], trunk.apply(variables, changed)[0])
    trunk = trunk.clone(widths=(3, 1))
    variables = trunk.init(jax.random.key(0), x)
    features = [trunk.apply(variables, v) for v in (x, changed)]
    assert_array_equal(features[0][0], features[1][0])
    assert np.abs(features[0][1] - features[1][1]).max() > 1e-3


def test_one_level_propagates_nothing():
    top = draw(2, 6)
    module = Propagation(channels=6, widths=(3,))
    assert_array_equal(module.apply({}, top, []), top)
    assert Contexts(channels=6, widths=(3,)).apply({}, []) == []


def test_the_halves_of_a_convolution_start_as_one():
    """Initial values are bounded like those of one layer that sees both."""
    features = [draw(1, 9, 64), draw(1, 3, 64)]
    contexts = Contexts(channels=64, widths=(3, 3, 3))
    kernel = contexts.init(jax.random.key(0), features)["params"]["conv0"]["kernel"]
    assert kernel.shape == (3 * 64, 64)
    assert 0.95 < np.abs(kernel).max() * np.sqrt(2 * 3 * 64) <= 1


def test_frames_are_looked_at_one_by_one():
    network, x = FrameNetwork(channels=6, outputs=5), draw(2, 7, 4)
    variables = network.init(jax.random.key(0), x)
    assert_allclose(network.apply(variables, x)[1, 3], network.apply(variables, x[1, 3]), atol=1e-6)
    half = jax.eval_shape(network.clone(dtype=jnp.bfloat16).apply, variables, x)
    assert half.dtype == jnp.float32


class TestAttention:
    logits, lengths = 30 * draw(2, 9, 3), draw(2, 9, 3, seed=1)
    frames = np.arange(9) < np.array([9, 6])[:, None]

    def mean(self, row: int, frames) -> np.ndarray:
        """Of some frames of a row, by hand."""
        logits, lengths = (x[row, frames].astype(np.float64) for x in (self.logits, self.lengths))
        weights = np.exp(logits - logits.max(0))
        return (weights * lengths).sum(0) / weights.sum(0)

    def test_frames_that_count(self):
        found = temporal.attend(self.logits, self.lengths, self.frames)
        assert_allclose(found, [self.mean(0, slice(9)), self.mean(1, slice(6))], rtol=1e-4)

    def test_no_frame_gives_no_nan(self):
        assert np.isfinite(temporal.attend(self.logits, self.lengths, np.zeros((2, 9), bool))).all()

    def test_frames_so_far(self):
        found = jax.jit(temporal.attend_so_far)(self.logits, self.lengths, self.frames)
        for row, count in ((0, 9), (1, 6)):
            expected = [self.mean(row, slice(t + 1)) for t in range(count)]
            assert_allclose(found[row, :count], expected, rtol=1e-3, atol=1e-4)

    def test_some_frames(self):
        """With equal logits and one bit a frame, the sum tells which frames were drawn."""
        bits = np.broadcast_to(2.0 ** np.arange(9), (2, 9))[..., None]
        attend = jax.jit(temporal.attend_to_some, static_argnums=3)
        seen = set()
        for seed in range(8):
            found = attend(np.zeros((2, 9, 1)), bits, self.frames, 6, jax.random.key(seed))[:, 0] * 6
            drawn = [[t for t in range(9) if int(round(float(total))) >> t & 1] for total in found]
            assert [len(d) for d in drawn] == [6, 6]
            assert drawn[1] == list(range(6))
            seen.add(tuple(drawn[0]))
        assert len(seen) > 4

    def test_all_frames_where_there_are_not_more(self):
        found = temporal.attend_to_some(self.logits, self.lengths, self.frames, 20, jax.random.key(0))
        assert_allclose(found, temporal.attend(self.logits, self.lengths, self.frames), rtol=1e-6)
