"""Names in AlphaPose's checkpoints (`fast_res50_256x192.pth`, `fast_421_*`, `fast_dcn_*`, `simple_*`, `hrnet_*`)."""

from typing import Any

from jaxpose.errors import CheckpointError
from jaxpose.methods.rmpe.fastpose import FastPoseDUCHead
from jaxpose.methods.rmpe.method import RMPE
from jaxpose.nn import recognition
from jaxpose.nn.names import BATCH_NORM, CONV, DECONV_HEAD, HRNET, LINEAR, RESNET, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes

SE_RESNET = (
    *RESNET,
    Rule(r"layer(\d)\.(\d+)\.se\.fc\.0", r"layer\1_\2/se/linear1", LINEAR),
    Rule(r"layer(\d)\.(\d+)\.se\.fc\.2", r"layer\1_\2/se/linear2", LINEAR),
    Rule(r"layer(\d)\.(\d+)\.conv2_offset", r"layer\1_\2/conv2_offset", CONV),
    Rule(r"layer(\d)\.(\d+)\.conv2\.1", r"layer\1_\2/conv2", CONV),
)
"""AlphaPose's residual networks: what torchvision's have, and what their options add."""

FASTPOSE_HEAD = (
    Rule(r"duc(\d)\.conv", r"conv\1", CONV),
    Rule(r"duc(\d)\.bn", r"bn\1", BATCH_NORM),
    Rule("conv_out", "conv_out", CONV),
)

DUC_HEAD = (
    *(
        rule
        for stage, count in enumerate(FastPoseDUCHead.convolutions, 1)
        for i in range(count)
        for rule in (
            Rule(rf"duc{stage}\.{3 * i + 1}", f"conv{stage}_{i}", CONV),
            Rule(rf"duc{stage}\.{3 * i + 2}", f"bn{stage}_{i}", BATCH_NORM),
        )
    ),
    Rule("conv_out", "conv_out", CONV),
)
"""Entry 0 of each sequence is a pixel shuffle; a convolution, a norm and a ReLU follow in turn."""

HEADS = {"fastpose": FASTPOSE_HEAD, "fastpose_duc": DUC_HEAD, "simplepose": DECONV_HEAD}


def rules(method: RMPE) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint.

    Raises:
      CheckpointError: networks of 2017, of which no checkpoint can be had.
    """
    if method.network == "hourglass" or method.sstn:
        raise CheckpointError(
            f"config.method describes a network of RMPE (2017) (network={method.network!r}, sstn={method.sstn}); "
            "no checkpoint of these was kept. Convert a network of AlphaPose with sstn=False."
        )
    if method.network in HEADS:
        return (*nest(SE_RESNET, r"preact\.", "pose/backbone"), *nest(HEADS[method.network], "", "pose/head"))
    return (*nest(HRNET, "", "pose/backbone"), *nest(DECONV_HEAD, "", "pose/head"))


FIRST = {"fastpose": "duc1.conv.weight", "fastpose_duc": "duc1.1.weight", "simplepose": "deconv_layers.0.weight"}
"""First convolution of each head."""


def recognize(shapes: Shapes) -> Recognized | None:
    """A residual network under "preact." with one of the three heads.

    AlphaPose's HRNet has the entries of any HRNet for heatmaps; it is not told from these.
    """
    trunk = recognition.under(shapes, "preact.")
    network = next((name for name, first in FIRST.items() if recognition.has(shapes, {first: 4})), None)
    last = "final_layer.weight" if network == "simplepose" else "conv_out.weight"
    fields = recognition.resnet(trunk)
    if network is None or fields is None or not recognition.has(shapes, {last: 4}):
        return None
    fields |= {"network": network, "backbone": _variant(trunk, fields["backbone"])}
    fields["deformable"] = any(".conv2_offset." in name for name in trunk)
    if network == "simplepose":
        fields["deconv_features"] = shapes[FIRST[network]][1]
    if network == "fastpose" and recognition.has(shapes, {"duc2.conv.weight": 4}):
        outputs, inputs = shapes["duc2.conv.weight"][:2]
        fields["wide_head"] = outputs == 4 * inputs
    return Recognized(fields, f"rmpe:{_recipe(fields)}", shapes[last][0])


def _variant(trunk: Shapes, backbone: str) -> str:
    """The name of a residual network with AlphaPose's options."""
    if "layer2.0.conv2.1.weight" in trunk:
        return backbone.replace("resnet", "shuffle")
    return f"se_{backbone}" if "layer1.0.se.fc.0.weight" in trunk else backbone


def _recipe(fields: dict[str, Any]) -> str:
    if fields["network"] == "simplepose":
        return "coco_simple"
    if fields["network"] == "fastpose_duc":
        return "coco_r152" if fields["backbone"].endswith("152") else "coco_duc"
    return "coco_dcn" if fields["deformable"] else "coco"
