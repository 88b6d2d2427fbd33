"""Draws where each decoder layer of a transformer looks, and how it moves the joints.

    jaxpose layers WORKDIR image.jpg folder ... --output DIR [--detector WORKDIR | --boxes FILE]
        [--joints left_wrist,nose] [--people 2]

For the best people of every image it writes a sheet to DIR with a column for each layer: the pose after the layer, and
below it, for each joint, where the joint's query looks: a heatmap over the cells that it attends to, or with deformable
attention the places that it reads. A line leads to a joint from its place after earlier layers. Networks with heads on
the last layer only have no pose for earlier layers.
"""

import argparse
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxpose.cli import command, inputs
from jaxpose.cli.files import write_image
from jaxpose.errors import DataError, StorageError
from jaxpose.inference.predictor import Predictor
from jaxpose.inference.requests import Request, stack
from jaxpose.types import LayerViews
from jaxpose.viz.layers import draw_layers

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 1 if any image could not be used."""
    return command.run(_parser(), _run, arguments)


def _parser() -> command.Parser:
    parser = command.Parser("layers", __doc__, fields=True)
    inputs.add_inputs(parser)
    add = parser.add_argument
    add("--joints", type=lambda text: text.split(","), help="names of joints, separated by commas (default: all)")
    add("--people", type=command.positive, default=2, help="most people of an image (default %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    opened = inputs.open_inputs(options, ())
    numbers = range(1, options.people + 1)
    inputs.protect_inputs(options, opened.files, [_sheet_name(f.overlay, n) for f in opened.files for n in numbers])
    done = sheets = 0
    if opened.files:
        predictor = inputs.load_predictor(options, options.people)
        known = predictor.skeleton.joints
        if unknown := sorted(set(options.joints or ()) - set(known)):
            raise DataError(f"--joints: the run has no joints {unknown}; it has {', '.join(known)}")
        show = functools.partial(draw_layers, skeleton=predictor.skeleton, joints=options.joints)
        overlays = {str(f.path): f.overlay for f in opened.files}
        requests = predictor.requests(opened.pictures(), opened.find_boxes, failed=opened.fail)
        watched = jax.jit(predictor.method.layer_views)
        for request in requests:
            overlay = overlays[request.picture.name]
            try:
                people = views(predictor, watched, request, options.people, options.box_threshold)
                for number, (canvas, view) in enumerate(people, start=1):
                    write_image(options.output / _sheet_name(overlay, number), sheet(show, canvas, view))
                    sheets += 1
            except (DataError, StorageError) as error:
                opened.fail(request.picture, error)
                continue
            done += 1
    logger.info("%d sheets of %d images -> %s", sheets, done, options.output)
    return opened.report(done)


def _sheet_name(overlay: pathlib.PurePath, number: int) -> pathlib.PurePath:
    """The name of the sheet of a picture's person, of whom the first is 1."""
    return overlay.with_stem(f"{overlay.stem}_{number}")


def views(
    predictor: Predictor, watched: Callable, request: Request, people: int, threshold: float
) -> Iterator[tuple[np.ndarray, LayerViews]]:
    """How the best people of a picture were found, each with the canvas [H, W, 3] uint8 that they were found on.

    Args:
      predictor: predictor of the run.
      watched: `layer_views` of its method, compiled.
      request: picture and, for a method that takes them, boxes.
      people: greatest number of people.
      threshold: least probability of people that the method itself finds.
    """
    best = np.argsort(-request.scores, kind="stable")[:people]
    chosen = dataclasses.replace(request, boxes=request.boxes[best], scores=request.scores[best])
    model_inputs = list(predictor.preprocess(chosen))
    if not model_inputs:
        return
    batch = stack(model_inputs, people if predictor.takes_boxes else 1)
    found = jax.device_get(watched(predictor.variables, {"source": batch}))
    if predictor.takes_boxes:
        yield from ((each.fields["image"], found.of(row)) for row, each in enumerate(model_inputs))
        return
    for row in np.argsort(-found.person_score, kind="stable")[:people]:
        if found.person_score[row] >= threshold:
            yield model_inputs[0].fields["image"], found.of(row)


def sheet(show: Callable, canvas: np.ndarray, person: LayerViews) -> np.ndarray:
    """The picture of one person; `show` is `draw_layers` for the run's joints."""
    return show(
        canvas,
        person.keypoints,
        person.scores,
        person.places,
        person.weights,
        region=person.regions,
        grid=person.grid,
    )
