"""A contact sheet: jaxpose marionettes --scene=crowd --look=street --output=sheet.png."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cv2
import numpy as np

from jaxpose.marionettes.config import SCENES, SPLITS, MarionettesConfig
from jaxpose.marionettes.looks import LOOKS
from jaxpose.marionettes.picture import Picture
from jaxpose.marionettes.scenes import picture
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


def sheet(pictures: Sequence[Picture], columns: int, zoom: int, skeleton: bool) -> np.ndarray:
    """Pictures side by side, [H, W, 3] uint8 RGB."""
    tiles = []
    for p in pictures:
        tile = cv2.resize(p.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        if skeleton:
            overlay(tile, p.joints_2d, p.box, zoom)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="jaxpose marionettes", description="Draws a sheet of pictures.")
    parser.add_argument("--scene", choices=[s for s in SCENES if s != "sequence"], default="single")
    parser.add_argument("--look", choices=LOOKS, default="studio")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--first", type=int, default=0, help="first picture or clip")
    parser.add_argument("--count", type=int, default=24, help="number of pictures, or of clips")
    parser.add_argument("--columns", type=int, default=6, help="pictures in a row; a clip fills rows of its own")
    parser.add_argument("--size", type=int, nargs=2, default=None, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=6, help="frames of a clip")
    parser.add_argument("--people", type=int, nargs=2, default=(2, 6), metavar=("LEAST", "MOST"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--skeleton", action="store_true", help="draw boxes and joints")
    parser.add_argument("--output", required=True, help="an image file")
    args = parser.parse_args()
    width, height = args.size or ((160, 160) if args.scene == "single" else (320, 240))
    config = MarionettesConfig(
        scene=args.scene,
        look=args.look,
        train=args.first + args.count,
        validation=args.first + args.count,
        width=width,
        height=height,
        frames=args.frames if args.scene == "clip" else 1,
        people=(1, 1) if args.scene == "single" else tuple(args.people),
        seed=args.seed,
    )
    pictures: list[Picture] = []
    for index in range(args.first, args.first + args.count):
        made = picture(config, args.split, index)
        pictures.extend(made if isinstance(made, list) else [made])
    image = sheet(pictures, args.columns, args.zoom, args.skeleton)
    if not cv2.imwrite(args.output, image[..., ::-1]):
        raise OSError(
            f"{args.output}: could not write the sheet; is the folder there, does the name end in .png or .jpg?"
        )


if __name__ == "__main__":
    main()
