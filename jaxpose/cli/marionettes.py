"""Draws a sheet of the built-in synthetic people.

    jaxpose marionettes --scene=crowd --look=street --output=sheet.png

Pictures are those of a data set of marionettes with the same options; a clip fills rows of its own.
"""

import argparse
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from jaxpose.cli import command
from jaxpose.cli.files import write_image
from jaxpose.marionettes.config import SCENES, SPLITS, MarionettesConfig
from jaxpose.marionettes.looks import LOOKS
from jaxpose.marionettes.scenes import picture
from jaxpose.marionettes.shots import Rendering
from jaxpose.skeleton import MARIONETTE


def _color(joint: str) -> tuple[int, int, int]:
    return (255, 150, 30) if "left" in joint else (40, 170, 255) if "right" in joint else (120, 235, 90)


def overlay(image: np.ndarray, joints_2d: np.ndarray, box: np.ndarray, zoom: int) -> None:
    """Draws boxes and joints on an enlarged picture: filled if seen, open if hidden, left orange, right blue."""
    for x, y, w, h in (box * zoom).round().astype(int).tolist():
        cv2.rectangle(image, (x, y), (x + w, y + h), (250, 250, 250), 1)
    for joints in joints_2d:
        at = np.clip(np.rint((joints[:, :2] + 0.5) * zoom - 0.5), -9999, 9999).astype(int).tolist()
        for i, j in MARIONETTE.limb_indices:
            if joints[i, 2] and joints[j, 2]:
                cv2.line(image, at[i], at[j], _color(MARIONETTE.joints[j]), 1, cv2.LINE_AA)
        for i, name in enumerate(MARIONETTE.joints):
            if joints[i, 2]:
                cv2.circle(image, at[i], zoom, _color(name), -1 if joints[i, 2] == 2 else 1, cv2.LINE_AA)


def sheet(pictures: Sequence[Rendering], columns: int, zoom: int, skeleton: bool) -> np.ndarray:
    """Pictures side by side, [H, W, 3] uint8 RGB."""
    tiles = []
    for p in pictures:
        tile = cv2.resize(p.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        if skeleton:
            overlay(tile, p.joints_2d, p.box, zoom)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = command.Parser("marionettes", __doc__)
    add = parser.add_argument
    add("--scene", choices=[s for s in SCENES if s != "sequence"], default="single", help="(default %(default)s)")
    add("--look", choices=LOOKS, default="studio", help="(default %(default)s)")
    add("--split", choices=SPLITS, default="train", help="(default %(default)s)")
    add("--first", type=command.count, default=0, help="number of the first picture or clip (default %(default)s)")
    add("--count", type=command.positive, default=24, help="number of pictures, or of clips (default %(default)s)")
    add("--columns", type=command.positive, default=6, help="pictures in a row (default %(default)s)")
    add("--size", type=command.positive, nargs=2, metavar=("WIDTH", "HEIGHT"), help="size of a picture in pixels")
    add("--frames", type=command.positive, default=6, help="frames of a clip (default %(default)s)")
    add("--people", type=command.positive, nargs=2, default=(2, 6), metavar=("LEAST", "MOST"), help="people in a crowd")
    add("--seed", type=command.count, default=0, help="seed of the data set (default %(default)s)")
    add(
        "--zoom",
        type=command.positive,
        default=2,
        help="scale of pictures on the sheet (default %(default)s)",
    )
    add("--skeleton", action="store_true", help="draw boxes and joints")
    add("--output", type=pathlib.Path, required=True, help="image file to write")
    return command.run(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    pictures: list[Rendering] = []
    for index in range(options.first, options.first + options.count):
        made = picture(_config(options), options.split, index)
        pictures.extend(made if isinstance(made, list) else [made])
    write_image(options.output, sheet(pictures, options.columns, options.zoom, options.skeleton))


def _config(options: argparse.Namespace) -> MarionettesConfig:
    single = options.scene == "single"
    width, height = options.size or ((160, 160) if single else (320, 240))
    least, most = (1, 1) if single else options.people
    return MarionettesConfig(
        scene=options.scene,
        look=options.look,
        train=options.first + options.count,
        validation=options.first + options.count,
        width=width,
        height=height,
        frames=options.frames if options.scene == "clip" else 1,
        people=(least, most),
        seed=options.seed,
    )
