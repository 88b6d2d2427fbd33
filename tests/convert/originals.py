"""Checkpoints with the names of the original networks, at any size, filled with random numbers."""

import re

import numpy as np

NORM = ("weight", "bias", "running_mean", "running_var")


def fill(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Random entries of these shapes."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def norm(name: str, channels: int, counter: bool) -> dict[str, tuple[int, ...]]:
    entries = {f"{name}.{leaf}": (channels,) for leaf in NORM}
    return entries | ({f"{name}.num_batches_tracked": ()} if counter else {})


def basic_block(name: str, inputs: int, outputs: int, downsample: bool, counter: bool = True) -> dict:
    shapes = {f"{name}.conv1.weight": (outputs, inputs, 3, 3), **norm(f"{name}.bn1", outputs, counter)}
    shapes |= {f"{name}.conv2.weight": (outputs, outputs, 3, 3), **norm(f"{name}.bn2", outputs, counter)}
    if downsample:
        shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
        shapes |= norm(f"{name}.downsample.1", outputs, counter)
    return shapes


def bottleneck(name: str, inputs: int, width: int, downsample: bool) -> dict:
    shapes = {}
    for index, (i, o, k) in enumerate([(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)], start=1):
        shapes[f"{name}.conv{index}.weight"] = (o, i, k, k)
        shapes |= norm(f"{name}.bn{index}", o, True)
    if downsample:
        shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
        shapes |= norm(f"{name}.downsample.1", 4 * width, True)
    return shapes


def resnet(width: int, counter: bool = True, classes: int = 0) -> dict:
    """A residual network of one basic block a stage; `classes` > 0 adds torchvision's classifier."""
    shapes = {"conv1.weight": (width, 3, 7, 7), **norm("bn1", width, counter)}
    channels = width
    for stage in range(4):
        outputs = width * 2**stage
        shapes |= basic_block(f"layer{stage + 1}.0", channels, outputs, stage > 0, counter)
        channels = outputs
    if classes:
        shapes |= {"fc.weight": (classes, channels), "fc.bias": (classes,)}
    return shapes


DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage of a published residual network."""


def published_resnet(depth: int) -> dict:
    """torchvision's ResNet-50, 101 or 152 without its classifier."""
    shapes, channels = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64, True)}, 64
    for stage, blocks in enumerate(DEPTHS[depth]):
        for block in range(blocks):
            shapes |= bottleneck(f"layer{stage + 1}.{block}", channels, 64 * 2**stage, block == 0)
            channels = 256 * 2**stage
    return shapes


def hrnet(width: int, outputs_of_last: int, modules: tuple[int, int, int] = (1, 1, 1)) -> dict:
    """HRNet with some modules in stages 2 to 4, four blocks a branch, as wide as published outside its branches."""
    shapes = {"conv1.weight": (64, 3, 3, 3), **norm("bn1", 64, True)}
    shapes |= {"conv2.weight": (64, 64, 3, 3), **norm("bn2", 64, True)}
    for block in range(4):
        shapes |= bottleneck(f"layer1.{block}", 64 if block == 0 else 256, 64, block == 0)
    shapes |= conv_norm("transition1.0", width, 256) | conv_norm("transition1.1.0", 2 * width, 256)
    for stage in (3, 4):
        shapes |= conv_norm(f"transition{stage - 1}.{stage - 1}.0", width * 2 ** (stage - 1), width * 2 ** (stage - 2))
    for stage, count in zip((2, 3, 4), modules, strict=True):
        for module in range(count):
            outputs = outputs_of_last if (stage, module) == (4, count - 1) else stage
            shapes |= fusion_module(f"stage{stage}.{module}", width, stage, outputs)
    return shapes


def conv_norm(name: str, outputs: int, inputs: int, size: int = 3, bias: bool = False) -> dict:
    shapes = {f"{name}.0.weight": (outputs, inputs, size, size), **norm(f"{name}.1", outputs, True)}
    return shapes | ({f"{name}.0.bias": (outputs,)} if bias else {})


def fusion_module(name: str, width: int, branches: int, outputs: int) -> dict:
    channels = [width * 2**b for b in range(branches)]
    shapes = {}
    for branch, count in enumerate(channels):
        for block in range(4):
            shapes |= basic_block(f"{name}.branches.{branch}.{block}", count, count, False)
    for i in range(outputs):
        for j in range(branches):
            if j > i:
                shapes |= conv_norm(f"{name}.fuse_layers.{i}.{j}", channels[i], channels[j], 1)
            for step in range(i - j):
                last = step == i - j - 1
                shapes |= conv_norm(f"{name}.fuse_layers.{i}.{j}.{step}", channels[i if last else j], channels[j])
    return shapes


def hrnet_classifier(width: int) -> dict:
    """What an ImageNet file adds to `hrnet`."""
    shapes = {}
    for branch in range(4):
        shapes |= bottleneck(f"incre_modules.{branch}.0", width * 2**branch, 32 * 2**branch, True)
    for branch in range(3):
        shapes |= conv_norm(f"downsamp_modules.{branch}", 256 * 2**branch, 128 * 2**branch, bias=True)
    shapes |= conv_norm("final_layer", 2048, 1024, 1, bias=True)
    return shapes | {"classifier.weight": (1000, 2048), "classifier.bias": (1000,)}


def attention(name: str, width: int) -> dict:
    return {
        f"{name}.in_proj_weight": (3 * width, width),
        f"{name}.in_proj_bias": (3 * width,),
        f"{name}.out_proj.weight": (width, width),
        f"{name}.out_proj.bias": (width,),
    }


def linear(name: str, outputs: int, inputs: int) -> dict:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def transformer_layer(name: str, width: int, feedforward: int, cross: bool) -> dict:
    shapes = attention(f"{name}.self_attn", width)
    if cross:
        shapes |= attention(f"{name}.multihead_attn", width)
    shapes |= linear(f"{name}.linear1", feedforward, width) | linear(f"{name}.linear2", width, feedforward)
    for index in range(1, 4 if cross else 3):
        shapes |= {f"{name}.norm{index}.weight": (width,), f"{name}.norm{index}.bias": (width,)}
    return shapes


def prtr(backbone: dict, channels: int, width: int, feedforward: int, queries: int, joints: int) -> dict:
    """A two-stage checkpoint of one encoder and one decoder layer."""
    shapes = {f"backbone.0.body.{name}": shape for name, shape in backbone.items()}
    shapes |= {"input_proj.weight": (width, channels, 1, 1), "input_proj.bias": (width,)}
    shapes |= transformer_layer("transformer.encoder.layers.0", width, feedforward, cross=False)
    shapes |= transformer_layer("transformer.decoder.layers.0", width, feedforward, cross=True)
    shapes |= {"transformer.decoder.norm.weight": (width,), "transformer.decoder.norm.bias": (width,)}
    shapes |= {"query_embed.weight": (queries, width), **linear("class_embed", joints + 1, width)}
    for index, outputs in enumerate((width, width, 2)):
        shapes |= linear(f"kpt_embed.layers.{index}", outputs, width)
    return shapes


def renamed(state_dict: dict, pattern: str, replacement: str) -> dict:
    """Entries with a part of their names replaced."""
    return {re.sub(pattern, replacement, name): value for name, value in state_dict.items()}
