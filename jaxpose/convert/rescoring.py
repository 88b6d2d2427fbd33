"""Converts a released rescorer of DEKR: jaxpose convert-rescoring CHECKPOINT --skeleton=coco --output=FILE

CHECKPOINT is final_rescore_coco_kpt.pth, final_rescore_crowd_pose_kpt.pth or one like them. The output (.npz) is what
--config.evaluate.rescoring names.
"""

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxpose import skeleton as skeletons
from jaxpose.convert.conversion import StateDict, apply_rules
from jaxpose.convert.torch_files import load_state_dict
from jaxpose.errors import JaxposeError
from jaxpose.evaluation import rescoring
from jaxpose.nn.names import LINEAR, Rule
from jaxpose.nn.rescoring import RescoringNet
from jaxpose.ops.rescoring import PoseFeatures

logger = logging.getLogger(__name__)

RULES = tuple(Rule(f"l{i + 1}", f"layer{i}", LINEAR) for i in range(3))


def convert(state_dict: StateDict, features: PoseFeatures) -> rescoring.Rescoring:
    """The rescorer of a checkpoint.

    Args:
      state_dict: entries l1, l2, l3 with weight and bias.
      features: what the network was trained on.

    Raises:
      ConversionError: an entry is missing, unknown or misshapen.
    """
    hidden = len(state_dict["l1.bias"]) if "l1.bias" in state_dict else RescoringNet.hidden
    inputs = jax.ShapeDtypeStruct((features.size,), jnp.float32)
    template = jax.eval_shape(RescoringNet(hidden).init, jax.random.key(0), inputs)
    return rescoring.Rescoring(features, apply_rules(state_dict, RULES, template).variables["params"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxpose convert-rescoring", description="Converts a released rescorer of DEKR."
    )
    parser.add_argument("checkpoint", type=pathlib.Path, help="final_rescore_*.pth, .npz or .safetensors")
    parser.add_argument("--skeleton", choices=sorted(skeletons.SKELETONS), default="coco", help="of the poses")
    parser.add_argument("--output", type=pathlib.Path, required=True, help=".npz file to write")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        features = PoseFeatures.of(skeletons.get(options.skeleton))
        rescoring.save(options.output, convert(load_state_dict(options.checkpoint), features))
    except JaxposeError as error:
        logger.error("%s", error)
        return 1
    logger.info("%s: rescores poses of %d joints by %d features", options.output, features.joints, features.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
