"""Finds poses of people in images and videos.

    jaxpose predict WORKDIR image.jpg folder ... --output DIR [--detector WORKDIR | --boxes detections.json]
    jaxpose predict WORKDIR video.mp4 ... --output DIR [--detector WORKDIR] [--smooth]

Of images it writes an overlay of every image to DIR, and DIR/poses.json: a list with one object a person, images in
order of path, the people of an image by falling score:
  file_name    path of the image as it was found
  image_id     id from --annotations, else the last digits in the file's name; null if there are none, or not its own
  category_id  1
  keypoints    x, y, score of each joint, pixels of the image
  score        score of the person
  person_box   x, y, w, h that was looked at, or of the joints where the method finds people by itself
This is the format of COCO results (with two more fields), so COCO tools read it.

Top-down methods need the boxes of people: from a detector's run (--detector) or from a file (--boxes). Without either
each image is taken for one person. A detector's run as WORKDIR draws boxes, and writes DIR/boxes.json instead of
poses.json, with `bbox` (x, y, w, h) for `keypoints` and `person_box`: COCO detections, which --boxes reads.

Videos (files, or with --video folders of frames) are done as by `jaxpose track`, whose help page tells what is written.
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

from jaxpose.cli import command, inputs, track
from jaxpose.cli.files import write_image, write_list
from jaxpose.inference.predictor import Predictor

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 1 if any image or video could not be used."""
    return command.run(_parser(), _run, arguments)


def _parser() -> command.Parser:
    parser = command.Parser("predict", __doc__, fields=True)
    inputs.add_inputs(parser, "images, folders with images in any subfolder, or videos")
    parser.add_argument("--video", action="store_true", help="take each folder for the frames of one video")
    track.add_tracking(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    videos, failed = track.open_videos(options, ("poses", "boxes"))
    written = ["poses.json"] if options.boxes else ["poses.json", "boxes.json"]
    opened = inputs.open_inputs(options, [*written, *track.written(videos)], track.read(videos))
    opened.failed.update(failed)
    done = 0
    if opened.files or videos:
        predictor = inputs.load_predictor(options, options.batch_size)
        done += _predict_images(opened, predictor, options) if opened.files else 0
        done += track.follow_all(videos, predictor, options, opened.failed)
    return opened.report(done)


def _predict_images(opened: inputs.Inputs, predictor: Predictor, options: argparse.Namespace) -> int:
    """Writes what is found in images; returns how many could be used."""
    options.output.mkdir(parents=True, exist_ok=True)
    overlays = {str(f.path): options.output / f.overlay for f in opened.files}
    records: list[dict] = []
    done = 0
    for picture, people in predictor.stream(opened.pictures(), opened.find_boxes):
        write_image(overlays[picture.name], track.draw_people(picture, people, predictor, options))
        place = {"file_name": pathlib.Path(picture.name).as_posix(), "image_id": picture.id}
        records += [place | person for person in people.to_coco()]
        done += 1
    write_list(options.output / ("boxes.json" if predictor.is_detector else "poses.json"), records)
    logger.info("%d people in %d images -> %s", len(records), done, options.output)
    return done
