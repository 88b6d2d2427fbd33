"""High-resolution networks (Sun et al., CVPR 2019; Wang et al., TPAMI 2020)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxpose.nn.normalization import BatchNorm
from jaxpose.nn.resnet import BasicBlock, Bottleneck, conv

OUTPUTS = ("branches", "high_resolution", "classification")


class ConvNorm(nn.Module):
    """A convolution, batch normalization and, unless `relu` is False, ReLU.

    Attributes:
      features: output channels.
      size: side of the kernel.
      stride: stride of the kernel.
      relu: True to rectify the result.
      use_bias: True for a convolution with a bias.
      dtype: compute precision.
    """

    features: int
    size: int = 3
    stride: int = 1
    relu: bool = True
    use_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(self.features, self.size, self.stride, use_bias=self.use_bias, dtype=self.dtype, name="conv")(x)
        x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
        return nn.relu(x) if self.relu else x


def upsample_nearest(x: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C] -> [B, factor * H, factor * W, C] by repetition."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


class FusionModule(nn.Module):
    """Residual blocks on every branch, then an exchange among all branches.

    Attributes:
      channels: channels of the branches, finest first.
      blocks: number of residual blocks on each branch.
      outputs: number of branches, from the finest, that are put out.
      dtype: compute precision.
    """

    channels: tuple[int, ...]
    blocks: int = 4
    outputs: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, branches: Sequence[jax.Array], train: bool) -> list[jax.Array]:
        branches = list(branches)
        for branch, channels in enumerate(self.channels):
            for index in range(self.blocks):
                block = BasicBlock(channels, dtype=self.dtype, name=f"branch{branch}_{index}")
                branches[branch] = block(branches[branch], train)
        return [self._fuse(branches, target, train) for target in range(self.outputs)]

    def _fuse(self, branches: list[jax.Array], target: int, train: bool) -> jax.Array:
        """Branch `target` with all others brought to its resolution and added, finest first."""
        total = 0.0
        for source, x in enumerate(branches):
            if source > target:
                conv_norm = ConvNorm(
                    self.channels[target], size=1, relu=False, dtype=self.dtype, name=f"fuse_{target}_{source}"
                )
                x = upsample_nearest(conv_norm(x, train), 2 ** (source - target))
            for step in range(target - source):
                last = step == target - source - 1
                x = ConvNorm(
                    self.channels[target if last else source],
                    stride=2,
                    relu=not last,
                    dtype=self.dtype,
                    name=f"fuse_{target}_{source}_{step}",
                )(x, train)
            total = total + x
        return nn.relu(total)


class HRNet(nn.Module):
    """Parallel branches from stride 4 to stride 32 that exchange their features again and again.

    Attributes:
      width: channels of the finest branch (32 or 48 in the papers); doubled from branch to branch.
      modules: number of fusion modules in stages 2, 3 and 4.
      blocks: number of residual blocks on each branch of a module.
      stem_width: channels of the stem.
      stem_blocks: number of bottlenecks before the branches.
      output: maps that are put out: "branches" for all four, "high_resolution" for the finest alone (the last module
        makes only that), "classification" for one of stride 32 and 64 * `head_width` channels, the form trained on
        ImageNet.
      head_width: base width of the classification form.
      dtype: compute precision.
    """

    width: int = 32
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    stem_width: int = 64
    stem_blocks: int = 4
    output: str = "branches"
    head_width: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> list[jax.Array]:
        """[B, H, W, 3], both sides divisible by 32, -> maps, finest first.

        Raises:
          ValueError: unknown `output` or an image that does not divide.
        """
        if self.output not in OUTPUTS:
            raise ValueError(f"HRNet output {self.output!r} is none of {OUTPUTS}")
        if x.shape[1] % 32 or x.shape[2] % 32:
            raise ValueError(f"HRNet needs sides divisible by 32, not {x.shape[2]} x {x.shape[1]} (width x height)")
        branches = [self._stem(x.astype(self.dtype), train)]
        for stage, modules in enumerate(self.modules, start=2):
            channels = tuple(self.width * 2**b for b in range(stage))
            branches = self._transition(stage - 1, branches, channels, train)
            for index in range(modules):
                last = stage == 4 and index == modules - 1
                outputs = 1 if last and self.output == "high_resolution" else stage
                module = FusionModule(channels, self.blocks, outputs, self.dtype, name=f"stage{stage}_{index}")
                branches = module(branches, train)
        return self._classify(branches, train) if self.output == "classification" else branches

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        for index in (1, 2):
            x = conv(self.stem_width, 3, 2, dtype=self.dtype, name=f"conv{index}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{index}")(x, train))
        for index in range(self.stem_blocks):
            x = Bottleneck(self.stem_width, dtype=self.dtype, name=f"layer1_{index}")(x, train)
        return x

    def _transition(
        self, number: int, branches: list[jax.Array], channels: tuple[int, ...], train: bool
    ) -> list[jax.Array]:
        """Branches with the channels of the next stage, and a new one from the coarsest."""
        moved = []
        for branch, features in enumerate(channels):
            x = branches[min(branch, len(branches) - 1)]
            new = branch == len(branches)
            if new or x.shape[-1] != features:
                layer = ConvNorm(
                    features, stride=2 if new else 1, dtype=self.dtype, name=f"transition{number}_{branch}"
                )
                x = layer(x, train)
            moved.append(x)
        return moved

    def _classify(self, branches: list[jax.Array], train: bool) -> list[jax.Array]:
        """Widens every branch, then adds them up from fine to coarse."""
        total = self._widen(branches, 0, train)
        for branch in range(1, len(branches)):
            x = self._widen(branches, branch, train)
            down = ConvNorm(x.shape[-1], stride=2, use_bias=True, dtype=self.dtype, name=f"downsamp_{branch - 1}")
            total = x + down(total, train)
        final = ConvNorm(64 * self.head_width, size=1, use_bias=True, dtype=self.dtype, name="final_layer")
        return [final(total, train)]

    def _widen(self, branches: list[jax.Array], branch: int, train: bool) -> jax.Array:
        block = Bottleneck(self.head_width * 2**branch, dtype=self.dtype, name=f"incre_{branch}")
        return block(branches[branch], train)
