"""The page of a network on the Hugging Face hub, made from nothing but its file."""

import json
from typing import Any

import jax
import numpy as np

from jaxpose.methods.base import Method
from jaxpose.methods.bottom_up import CanvasInput, DetectionInput
from jaxpose.methods.lifting import SequenceInput
from jaxpose.methods.top_down import CropInput
from jaxpose.zoo.weights_file import Content

DRAWN_PEOPLE = "It learned from marionettes, which are drawn people, and **is not for photographs**."


def model_card(content: Content, repository: str, licence: str = "") -> str:
    """The text of README.md in a repository: front matter for the hub, then what people read.

    Args:
      content: what the repository's file of weights holds.
      repository: name of the repository, "ORG/NAME".
      licence: the licence's identifier on the hub, such as "apache-2.0"; empty where none is given.
    """
    parts = [_front_matter(content, licence), f"# {repository.partition('/')[2]}", _introduction(content)]
    parts += [_table(("", ""), _facts(content)), _scores(content), _use(content, repository)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(content: Content, licence: str) -> str:
    about, name = content.about, content.config.method.name
    fields: dict[str, Any] = {
        "library_name": "jaxpose",
        "pipeline_tag": "keypoint-detection",
        "tags": ["jaxpose", "jax", "human-pose-estimation", name],
        "license": licence,
        "datasets": [about.data] if about.data.isidentifier() and not about.is_drawn else [],
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items() if value)
    return "\n".join(["---", *lines, "---"])


def _introduction(content: Content) -> str:
    does = "finds poses of people" if content.method.finds_poses else "finds boxes of people"
    if isinstance(content.method, SequenceInput):
        does = "lifts the 2D joints of people in videos to 3D"
    text = f"A network that {does}, for [jaxpose](https://github.com/jaxpose/jaxpose)."
    return f"{text} {DRAWN_PEOPLE}" if content.about.is_drawn else text


def _facts(content: Content) -> list[tuple[str, str]]:
    method, about = content.method, content.about
    joints = method.joints
    named = f"`{joints.name}`, {joints.num_joints} joints"
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(content.variables["params"]))
    steps = "" if about.step is None else f", {about.step:,} steps"
    facts = {
        "Method": f"`{content.config.method.name}`",
        "Input": _input(method),
        "Skeleton": f"{named}: {', '.join(joints.joints)}" if method.finds_poses else "",
        "Parameters": f"{count / 1e6:.2f} million",
        "Learned from": f"{about.data}{steps}" if about.data else "",
        "Exported from": f"`{about.source}`" if about.source else "",
        "Written by": f"jaxpose {about.version}",
    }
    return [(name, text) for name, text in facts.items() if text]


def _input(method: Method) -> str:
    """What the network looks at, and how large that is."""
    size = ""
    if isinstance(method, CropInput):
        size = f", {method.input_size[0]} × {method.input_size[1]} pixels (width × height)"
    elif isinstance(method, CanvasInput):
        size = f", its short side {method.input_size} pixels"
    elif isinstance(method, DetectionInput):
        size = f", its short side {method.short_side} pixels, its long side at most {method.long_side}"
    elif isinstance(method, SequenceInput):
        size = f", {method.receptive_field} frames for each pose"
    return f"{method.input_kind}{size}"


def _scores(content: Content) -> str:
    if not content.about.scores:
        return "## Scores\n\nThe file holds none."
    rows = [(name, f"{value:.4g}") for name, value in content.about.scores.items()]
    return f"## Scores\n\nMeasured by its author on their validation data.\n\n{_table(('Metric', 'Value'), rows)}"


def _use(content: Content, repository: str) -> str:
    address, lifts = f"hf://{repository}", isinstance(content.method, SequenceInput)
    if lifts:
        use = f"jaxpose lift {address} poses.json --video=video.mp4 --output=out"
    else:
        boxes = " --boxes=detections.json" if content.method.takes_boxes else ""
        image = "drawing.png" if content.about.is_drawn else "photo.jpg"
        use = f"jaxpose predict {address} {image}{boxes} --output=out"
    data = "" if content.about.is_drawn else " --config.data.dir=DATA"
    commands = ["pip install 'jaxpose[hub]'", use, f"jaxpose evaluate {address}{data}"]
    python = "" if lifts else f'`jaxpose.load("{address}")` opens it in Python. '
    start = f"{python}A training starts from it by `--config.init_from={address}`."
    return "\n".join(["## Use", "", "```bash", *commands, "```", "", start])


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---|---|", *lines[1:]])
