"""Names in DETR's checkpoints (`detr-r50-e632da11.pth`, `detr-r101-2c7b67e5.pth` and their dilated siblings)."""

import re
from typing import Any

from jaxpose.methods.prtr.detr import DETR
from jaxpose.nn import recognition
from jaxpose.nn.names import CONV, DETR_TRANSFORMER, HRNET, LINEAR, RESNET, TABLE, Rule, nest
from jaxpose.nn.recognition import Recognized, Shapes

COCO_CLASSES, COCO_PERSON = 91, 1
"""Classes of the released detectors, and which of them is that of people."""

DETECTOR = (
    *nest(DETR_TRANSFORMER, r"transformer\.", ""),
    Rule(r"query_embed", "queries", TABLE),
    Rule(r"input_proj", "input_projection", CONV),
    Rule(r"class_embed", "class_head", LINEAR),
    Rule(r"bbox_embed\.layers\.(\d)", r"box_head/layer\1", LINEAR),
)
"""Rules of the parts after the backbone."""


def rules(method: DETR) -> tuple[Rule, ...]:
    """Rules for every entry of a checkpoint."""
    backbone = HRNET if method.backbone.startswith("hrnet") else RESNET
    return (*nest(backbone, r"backbone\.(?:0\.)?body\.", "backbone"), *nest(DETECTOR, "", "detector"))


def recognize(shapes: Shapes) -> Recognized | None:
    """A backbone, DETR's transformer, classes and boxes, and nothing for joints."""
    fields = detector_fields(shapes)
    if fields is None or any(name.startswith(("transformer_kpt.", "kpt_embed.")) for name in shapes):
        return None
    return Recognized(fields, "prtr:detector_coco")


def detector_fields(shapes: Shapes) -> dict[str, Any] | None:
    """Fields of a detector; None if there is none."""
    found, classes = backbone_and_stacks(shapes), shapes.get("class_embed.weight", ())
    if found is None or len(classes) != 2 or "bbox_embed.layers.0.weight" not in shapes:
        return None
    number = classes[0] - 1
    found |= {"num_classes": number, "person_class": COCO_PERSON if number == COCO_CLASSES else 0}
    return found | ({"max_people": found["num_queries"]} if found["num_queries"] < DETR.max_people else {})


def backbone_and_stacks(shapes: Shapes) -> dict[str, Any] | None:
    """Fields of the backbone, the transformer and its queries; None where these are not named as in DETR."""
    trunk = {name: shape for name, shape in ((_in_backbone(n), s) for n, s in shapes.items()) if name}
    backbone = recognition.hrnet(trunk) or recognition.resnet(trunk)
    stacks, queries = stack_fields(recognition.under(shapes, "transformer.")), shapes.get("query_embed.weight", ())
    if backbone is None or stacks is None or len(queries) != 2:
        return None
    return backbone | stacks | {"num_queries": queries[0]}


def _in_backbone(name: str) -> str:
    """The name within the backbone; empty outside of it."""
    found = re.match(r"backbone\.(?:0\.)?body\.", name)
    return name[found.end() :] if found else ""


def stack_fields(shapes: Shapes) -> dict[str, Any] | None:
    """Sizes of a transformer; how many heads it has is not told."""
    hidden = shapes.get("encoder.layers.0.linear1.weight", ())
    if len(hidden) != 2:
        return None
    return {
        "hidden_dim": hidden[1],
        "feedforward": hidden[0],
        "encoder_layers": recognition.count(shapes, r"encoder\.layers\.(\d+)\."),
        "decoder_layers": recognition.count(shapes, r"decoder\.layers\.(\d+)\."),
        "pre_norm": "encoder.norm.weight" in shapes,
    }
