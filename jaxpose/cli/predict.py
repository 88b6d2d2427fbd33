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
  overlay      name of the overlay in DIR, where it is not the name of the image
This is the format of COCO results (with more fields), so COCO tools read it.

Top-down methods need the boxes of people: from a detector's run (--detector) or from a file (--boxes). Without either
each image is taken for one person. A detector's run as WORKDIR draws boxes, and writes DIR/boxes.json instead of
poses.json, with `bbox` (x, y, w, h) for `keypoints` and `person_box`: COCO detections, which --boxes reads.

An image that cannot be used is left out and named at the end. A command that was stopped goes on where it was with
--resume: what is done lies in DIR/poses.partial.jsonl (or boxes.partial.jsonl) until everything is.

Videos (files, or with --video folders of frames) are done as by `jaxpose track`, whose help page tells what is written.
"""

import argparse
import logging
from collections.abc import Sequence

from jaxpose.cli import command, inputs, track
from jaxpose.cli.files import make_folder, write_image, write_list
from jaxpose.cli.partial import FILES, Partial, open_partial, stamp
from jaxpose.errors import DataError, StorageError
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
    written = [*FILES, "poses.json"] if options.boxes else [*FILES, "poses.json", "boxes.json"]
    opened = inputs.open_inputs(options, [*written, *track.written(videos)], track.read(videos))
    opened.failed.update(failed)
    done = 0
    if opened.files or videos:
        predictor = inputs.load_predictor(options, options.batch_size)
        make_folder(options.output)
        partial = open_partial(predictor, options)
        if opened.files:
            done += _predict_images(opened, predictor, options, partial)
        done += track.follow_all(videos, predictor, options, opened.failed, partial)
        partial.remove()
    return opened.report(done)


def _predict_images(opened: inputs.Inputs, predictor: Predictor, options: argparse.Namespace, partial: Partial) -> int:
    """Writes what is found in images; returns how many could be used."""
    files = {str(f.path): f for f in opened.files}
    places = {name: _place(opened, f) for name, f in files.items() if f.path.is_file()}
    kept = {
        f.path
        for name, f in files.items()
        if name in places
        and places[name].items() <= partial.done.get(name, {}).items()
        and (options.output / f.overlay).is_file()
    }
    done = {str(path) for path in kept}
    for picture, people in predictor.stream(opened.pictures(kept), opened.find_boxes, failed=opened.fail):
        file = files[picture.name]
        try:
            write_image(options.output / file.overlay, track.draw_people(picture, people, predictor, options))
        except (DataError, StorageError) as error:
            opened.fail(picture, error)
            continue
        partial.add(places[picture.name] | {"people": [_of_file(file, picture.id) | p for p in people.to_coco()]})
        done.add(picture.name)
    records = [person for name in files if name in done for person in partial.done[name]["people"]]
    write_list(options.output / ("boxes.json" if predictor.is_detector else "poses.json"), records)
    logger.info("%d people in %d images -> %s", len(records), len(done), options.output)
    return len(done)


def _place(opened: inputs.Inputs, file: inputs.File) -> dict:
    """What must be as it was for results of a file to hold still."""
    fields = {"name": str(file.path), "stamp": stamp(file.path), "image_id": opened.ids[file.path]}
    return fields | {"overlay": file.overlay.as_posix()}


def _of_file(file: inputs.File, image_id: int | None) -> dict:
    """The fields of records that tell the file, and the overlay where that has another name."""
    fields = {"file_name": file.path.as_posix(), "image_id": image_id}
    return fields if file.overlay.name == file.path.name else fields | {"overlay": file.overlay.as_posix()}
