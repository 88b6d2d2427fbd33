"""Finds, follows and lifts drawn people in a short film: a look at what jaxpose does, with nothing downloaded.

    jaxpose demo --output demo

It draws a film of marionettes, procedural people, and runs the commands that it prints. Their networks are small, were
trained on such people on two CPU cores, and come with the package. In the folder then lie:
  marionettes.mp4             the film
  found/marionettes.mp4       the film with the people that were found and followed
  found/marionettes.json      their joints, frame by frame
  lifted/marionettes_ID.mp4   each person in 3D, from two sides
  lifted/marionettes_3d.json  their joints in 3D

They know no photographs: `jaxpose zoo` lists weights of published networks, which do.
"""

import argparse
import logging
import pathlib
import shlex
from collections.abc import Sequence

from jaxpose.cli import command, lift, predict
from jaxpose.cli.files import make_folder
from jaxpose.files.whole import whole
from jaxpose.marionettes.config import MarionettesConfig
from jaxpose.marionettes.scenes import FRAME_RATE, picture
from jaxpose.viz.animation import write_animation

logger = logging.getLogger(__name__)

CLIP = 4
"""Number of a clip in which people walk in and out and before each other."""
COMMANDS = (
    "predict marionettes-dcpose {film} --detector=marionettes-detector --box-threshold=0.5 --config.evaluate.oks=0.5"
    " --smooth --output={folder}/found",
    "lift marionettes-anatomy3d {folder}/found/marionettes.json --video={film} --output={folder}/lifted",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("demo", __doc__)
    parser.add_argument("--output", type=pathlib.Path, default="demo", help="folder to write to (default %(default)s)")
    frames = "frames of the film, 15 a second (default %(default)s)"
    parser.add_argument("--frames", type=command.positive, default=45, help=frames)
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> int:
    folder, film = options.output, options.output / "marionettes.mp4"
    make_folder(folder)
    logger.info("drawing %d frames -> %s", options.frames, film)
    draw(film, options.frames)
    for text in COMMANDS:
        name, *arguments = (word.format(film=film, folder=folder) for word in text.split())
        logger.info("jaxpose %s %s", name, shlex.join(arguments))
        if status := {"predict": predict, "lift": lift}[name].main(arguments):
            return status
    logger.info("people followed: %s; in 3D: %s", folder / "found" / film.name, folder / "lifted")
    return 0


def draw(path: pathlib.Path, frames: int) -> None:
    """Writes a film of marionettes.

    Args:
      path: path of the file, .mp4 or .gif.
      frames: number of frames, `FRAME_RATE` a second.

    Raises:
      StorageError: it cannot be written.
    """
    clips = MarionettesConfig("clip", train=0, validation=CLIP + 1, width=320, height=240, frames=frames, people=(1, 2))
    renderings = picture(clips, "validation", CLIP)
    assert isinstance(renderings, list)
    with whole(path) as unfinished:
        write_animation(unfinished, (rendering.image for rendering in renderings), FRAME_RATE)
