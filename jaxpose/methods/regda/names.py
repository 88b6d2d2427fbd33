"""Names in the checkpoints that RegDA's code in the Transfer Learning Library writes.

Files of the adaptation have two regressors, "head" and "head_adv"; those of its pre-training and of ERM have one, which
is a single convolution: read them with adaptation="none" and head_layers=1.
"""

from jaxpose.methods.regda.method import RegDA
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV, RESNET, Kind, Rule, nest

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
