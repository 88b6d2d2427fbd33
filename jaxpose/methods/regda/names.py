"""Names in the checkpoints that RegDA's code in the Transfer Learning Library writes.

Files of the adaptation have two regressors, "head" and "head_adv"; those of its pre-training and of ERM have one, which
is a single convolution: they are of adaptation="none" and head_layers=1.
"""

from typing import Any

from jaxpose.methods.regda.method import RegDA
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV, RESNET, Kind, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes
from jaxpose.skeleton import HAND

UNUSED: Kind = {"weight": (), "bias": ()}


def upsampling(layers: int) -> tuple[Rule, ...]:
    """Transposed convolutions in a sequence in which each of them, its norm and its ReLU have a number."""
    return tuple(
        rule
        for i in range(layers)
        for rule in (Rule(f"{3 * i}", f"deconv{i}", DECONV), Rule(f"{3 * i + 1}", f"bn{i}", BATCH_NORM))
    )


def regressor(name: str, path: str, layers: int) -> tuple[Rule, ...]:
    """A regressor, which is called `name` there and `path` here."""
    if layers == 1:
        return (Rule(name, f"{path}/final_layer", CONV),)
    inner = [
        rule
        for i in range(layers - 1)
        for rule in (Rule(f"{3 * i}", f"conv{i}", CONV), Rule(f"{3 * i + 1}", f"bn{i}", BATCH_NORM))
    ]
    return nest((*inner, Rule(f"{3 * (layers - 1)}", "final_layer", CONV)), rf"{name}\.", path)


def rules(method: RegDA) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint, the backbone's classifier among them, which has no use."""
    adversary = regressor("head_adv", "adversary", method.head_layers) if method.adapts else ()
    return (
        *nest(RESNET, r"backbone\.", "backbone"),
        Rule(r"backbone\.fc", "", UNUSED),
        *nest(upsampling(len(method.deconv_features)), r"upsampling\.", "upsampling"),
        *regressor("head", "head", method.head_layers),
        *adversary,
    )


def recognize(shapes: Shapes) -> Recognized | None:
    """A residual network with transposed convolutions, and one regressor or two of the same form."""
    fields = recognition.resnet(recognition.under(shapes, "backbone."))
    last = [name for name in shapes if name.startswith("head.") and name.endswith("weight") and len(shapes[name]) == 4]
    if fields is None or not last or "upsampling.0.weight" not in shapes:
        return None
    fields |= _upsampling(shapes) | {"head_layers": len(last)}
    if not any(name.startswith("head_adv.") for name in shapes):
        fields["adaptation"] = "none"
    joints = shapes[max(last, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])][0]
    return Recognized(fields, "regda:" + ("rhd_h3d" if joints == HAND.num_joints else "surreal_lsp"), joints)


def _upsampling(shapes: Shapes) -> dict[str, Any]:
    """Fields of the transposed convolutions."""
    kernels = [shapes[f"upsampling.{3 * i}.weight"] for i in range(9) if f"upsampling.{3 * i}.weight" in shapes]
    return {
        "deconv_features": tuple(kernel[1] for kernel in kernels),
        "deconv_kernels": tuple(kernel[2] for kernel in kernels),
        "deconv_bias": "upsampling.0.bias" in shapes,
    }
