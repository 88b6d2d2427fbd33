"""Pictures of what every decoder layer of PRTR looks at, and of how it moves the joints.

    jaxpose layers WORKDIR image.jpg folder ... --output DIR [--detector WORKDIR | --boxes FILE]
        [--joints left_wrist,nose] [--people 2]

For the best people of every image it writes a sheet to DIR with a column for each layer: the pose after the layer, and
below it, for each joint, where the joint's query looks: a heat map over the cells that it attends to, or for the
deformable form the places that it reads. A line leads to a joint from where earlier layers had put it. The sequential
form has heads on its last layer only, so that earlier layers have no pose.
"""

import argparse
import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxpose.cli import predict
from jaxpose.errors import DataError
from jaxpose.inference.predictor import Job, Predictor, stack
from jaxpose.types import LayerViews
from jaxpose.viz.layers import draw_layers

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 1 if any image could not be used."""
    return predict.run_command(_run, _parser().parse_args(arguments), logger, predict.logger)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxpose layers", description="Shows what every decoder layer of PRTR looks at."
    )
    predict.add_inputs(parser)
    parser.add_argument("--joints", type=lambda text: text.split(","), help="names, with commas between (default: all)")
    parser.add_argument("--people", type=predict.positive, default=2, help="at most, of an image (default %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> int:
    inputs = predict.open_inputs(options, ())
    done = sheets = 0
    if inputs.files:
        predictor = predict.load_predictor(options, options.people)
        known = predictor.skeleton.joints
        if unknown := sorted(set(options.joints or ()) - set(known)):
            raise DataError(f"--joints: the run has no joints {unknown}; it has {', '.join(known)}")
        show = functools.partial(draw_layers, skeleton=predictor.skeleton, joints=options.joints)
        overlays = {str(f.path): options.output / f.overlay for f in inputs.files}
        pictures = predictor.jobs(inputs.pictures(), inputs.find_boxes)
        watched = jax.jit(predictor.method.layer_views)
        for job in pictures:
            people = views(predictor, watched, job, options.people, options.box_threshold)
            for number, (canvas, view) in enumerate(people, start=1):
                overlay = overlays[job.picture.name]
                predict.write_image(overlay.with_stem(f"{overlay.stem}_{number}"), sheet(show, canvas, view))
                sheets += 1
            done += 1
    logger.info("%d sheets of %d images -> %s", sheets, done, options.output)
    return inputs.report(done)


def views(
    predictor: Predictor, watched: Callable, job: Job, people: int, threshold: float
) -> Iterator[tuple[np.ndarray, LayerViews]]:
    """How the best people of a picture were found, each with the canvas [H, W, 3] uint8 that they were found on.

    Args:
      predictor: of the run.
      watched: `layer_views` of its method, compiled.
      job: a picture and, for a method that takes them, boxes.
      people: at most so many.
      threshold: people that the method itself finds with less probability are left out.
    """
    best = np.argsort(-job.scores, kind="stable")[:people]
    looks = list(predictor.looks(dataclasses.replace(job, boxes=job.boxes[best], scores=job.scores[best])))
    if not looks:
        return
    batch = stack(looks, people if predictor.takes_boxes else 1)
    found = jax.device_get(watched(predictor.variables, {"source": batch}))
    if predictor.takes_boxes:
        yield from ((look.fields["image"], found.of(row)) for row, look in enumerate(looks))
        return
    for row in np.argsort(-found.person_score, kind="stable")[:people]:
        if found.person_score[row] >= threshold:
            yield looks[0].fields["image"], found.of(row)


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


if __name__ == "__main__":
    sys.exit(main())
