"""Converts a checkpoint of an original implementation: jaxpose convert CHECKPOINT --config=... --output=...

CHECKPOINT is a PyTorch file (.pth, .pth.tar, ...), .npz or .safetensors. With --backbone it is a network
pretrained for something else (torchvision ResNet, ImageNet or pose HRNet), of which the method's backbone takes what
it needs. The output (.npz or .safetensors) is what the config field `init_from` names.
"""

import logging
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config of the method, as in configs/prtr.py:coco.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write, .npz or .safetensors.")
_BACKBONE = flags.DEFINE_bool("backbone", False, "The checkpoint is for the method's backbone alone.")

flags.mark_flags_as_required(["config", "output"])


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        raise app.UsageError(f"expected one checkpoint file, found {arguments[1:]}")
    from jaxpose.errors import JaxposeError

    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        _convert(arguments[1])
    except JaxposeError as error:
        logging.getLogger("jaxpose").error("%s: %s", type(error).__name__, error)
        sys.exit(1)


def _convert(checkpoint: str) -> None:
    import jax

    from jaxpose import convert, methods

    jax.config.update("jax_platforms", "cpu")
    log = logging.getLogger("jaxpose")
    method = methods.create(_CONFIG.value.method)
    state_dict = convert.load_state_dict(checkpoint)
    if _BACKBONE.value:
        conversion = convert.convert_backbone(state_dict, method)
        for title, names in (("not needed", conversion.ignored), ("not in the file", conversion.absent)):
            if names:
                log.info("%s, %d entries:\n  %s", title, len(names), "\n  ".join(names))
        variables = conversion.variables
    else:
        variables = convert.convert(state_dict, method)
    convert.save_variables(_OUTPUT.value, variables)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    log.info("%s: %d numbers from %d entries of %s", _OUTPUT.value, count, len(state_dict), checkpoint)


if __name__ == "__main__":
    app.run(main)
