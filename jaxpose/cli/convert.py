"""Converts a checkpoint of an original PyTorch implementation.

    jaxpose convert CHECKPOINT --config=prtr:coco --output=weights.npz
    jaxpose convert resnet50-19c8e357.pth --config=prtr:coco --backbone --output=resnet50.npz
    jaxpose convert final_rescore_coco_kpt.pth --rescorer --skeleton=coco --output=rescoring.npz

CHECKPOINT is a PyTorch file (.pth, .pth.tar, ...), which is read without PyTorch and without running anything in it,
.npz or .safetensors. Where a trainer has put the network among other things, or something before its names, the log
says what was taken. The first form takes all of a method's
network, the second a network pretrained for something else (torchvision ResNet, ImageNet or pose HRNet), of which the
method's backbone takes what it needs. The output (.npz or .safetensors) is for the config field `init_from`. The third
form takes a network that rescores poses; its output (.npz) is for the config field `evaluate.rescoring`.
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

import jax

from jaxpose import convert, methods
from jaxpose import skeleton as skeletons
from jaxpose.cli import command, config_flags
from jaxpose.errors import ConfigError
from jaxpose.evaluation import rescoring

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("convert", __doc__, fields=True)
    add = parser.add_argument
    add("checkpoint", type=pathlib.Path, help="file to convert")
    config_flags.add_config(parser, required=False)
    add("--output", type=pathlib.Path, required=True, help="file to write, .npz or .safetensors")
    kind = parser.add_mutually_exclusive_group()
    backbone = "take a network pretrained for something else as the method's backbone"
    kind.add_argument("--backbone", action=argparse.BooleanOptionalAction, default=False, help=backbone)
    kind.add_argument("--rescorer", action="store_true", help="the checkpoint is a network that rescores poses")
    add("--skeleton", choices=sorted(skeletons.SKELETONS), help="joints of the poses to rescore (default: coco)")
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    if options.rescorer == bool(options.config):
        raise ConfigError("jaxpose convert needs either --config=NAME or --rescorer")
    if options.skeleton and not options.rescorer:
        raise ConfigError("--skeleton goes with --rescorer; a method's is --config.method.skeleton")
    jax.config.update("jax_platforms", "cpu")
    if options.rescorer:
        _convert_rescorer(options)
    else:
        _convert_method(options)


def _convert_method(options: argparse.Namespace) -> None:
    method = methods.create(config_flags.load(options.config, options.fields).method)
    state_dict = convert.load_state_dict(options.checkpoint)
    if options.backbone:
        conversion = convert.convert_backbone(state_dict, method)
        for title, names in (("not needed", conversion.ignored), ("not in the file", conversion.absent)):
            if names:
                logger.info("%s, %d entries:\n  %s", title, len(names), "\n  ".join(names))
        variables = conversion.variables
    else:
        variables = convert.convert(state_dict, method)
    convert.save_variables(options.output, variables)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    logger.info("%s: %d numbers from %d entries of %s", options.output, count, len(state_dict), options.checkpoint)


def _convert_rescorer(options: argparse.Namespace) -> None:
    features = rescoring.PoseFeatures.of(skeletons.get(options.skeleton or "coco"))
    rescoring.save(options.output, rescoring.convert(convert.load_state_dict(options.checkpoint), features))
    logger.info("%s: rescores poses of %d joints by %d features", options.output, features.joints, features.size)
