"""Pictures of the way to the joints, layer by layer of a decoder."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxpose.skeleton import Skeleton
from jaxpose.viz.overlay import DARK, LIMB_COLORS, draw_poses, panel, stroke

CELL = (320, 240)
"""Largest size (width, height) of a cell of a sheet in pixels."""


def draw_layers(
    image: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    places: np.ndarray,
    weights: np.ndarray,
    *,
    skeleton: Skeleton,
    region: np.ndarray,
    grid: tuple[int, int] | None = None,
    joints: Sequence[str] | None = None,
) -> np.ndarray:
    """A sheet with a column for each of L layers: poses in the first row, then a row for the places each joint reads.

    Where a layer moved a joint, a line leads to it from where the layer before had put it.

    Args:
      image: [H, W, 3] uint8 RGB image.
      keypoints: [L, K, 2] joints in pixels of the image; those of a layer that are not finite are left out.
      scores: [K] confidence in [0, 1], shown as opacity of joints and limbs.
      places: [L or 1, K or 1, S, 2] places that are read, in pixels of the image.
      weights: [L, K, S] weights of the places.
      skeleton: skeleton of the joints.
      region: [4] part (x, y, w, h) of the image to show, between borders of pixels.
      grid: size (rows, columns) of the map whose cells the places are, row by row, to draw it as a heat map; None to
        draw places as dots.
      joints: names of the joints that get a row; None for all.

    Returns:
      [H', W', 3] uint8 RGB sheet.

    Raises:
      ValueError: a joint that the skeleton has not, or arrays that do not fit each other.
    """
    layers, count = weights.shape[:2]
    numbers = range(count) if joints is None else [_number(skeleton, name) for name in joints]
    expected = {"keypoints": (layers, count, 2), "scores": (count,)}
    for name, values in {"keypoints": keypoints, "scores": scores}.items():
        if np.shape(values) != expected[name]:
            raise ValueError(f"{name} has shape {np.shape(values)}, expected {expected[name]} as the weights have it")
    picture, to_picture = _cut(image, np.asarray(region, np.float64))
    keypoints = to_picture(keypoints)
    places = np.broadcast_to(to_picture(places), (*weights.shape, 2))
    cells = [_pose(picture, keypoints[: layer + 1], scores, skeleton) for layer in range(layers)]
    captions = [f"layer {layer + 1}" for layer in range(layers)]
    for joint in numbers:
        for layer in range(layers):
            looks = places[layer, joint], weights[layer, joint]
            cell = draw_dots(picture, *looks) if grid is None else draw_heat(picture, *looks, grid)
            color = LIMB_COLORS[skeleton.sides[joint]]
            _draw_trail(cell, keypoints[: layer + 1, joint], color)
            cells.append(cell)
            captions.append(skeleton.joints[joint].replace("_", " "))
    return panel(cells, columns=layers, captions=captions)


def draw_heat(image: np.ndarray, places: np.ndarray, weights: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The image, darker, under a heat map of attention whose strongest cell is brightest.

    Args:
      image: [H, W, 3] uint8 RGB image; not changed.
      places: [S, 2] middles of an upright map's cells in pixels, row by row.
      weights: [S] weights of the cells.
      grid: size (rows, columns) of the map.
    """
    import cv2

    rows, columns = grid
    heat = (weights.reshape(grid) / max(float(weights.max()), 1e-12)).astype(np.float32)
    step = (places[-1] - places[0]) / np.maximum([columns - 1, rows - 1], 1)
    step = np.where(step > 0, step, image.shape[1::-1])
    to_image = np.array([[step[0], 0, places[0, 0]], [0, step[1], places[0, 1]]])
    heat = cv2.warpAffine(
        heat, to_image, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).clip(0, 1)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = (0.1 + 0.7 * heat)[..., None]
    return np.round((1 - opacity) * _dimmed(image) + opacity * colors).astype(np.uint8)


def draw_dots(image: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The image, darker, with a dot at each place that is read; the larger the weight, the clearer and larger.

    Args:
      image: [H, W, 3] uint8 RGB image; not changed.
      places: [S, 2] places in pixels; those outside are not seen.
      weights: [S] weights of the places.
    """
    picture = np.round(_dimmed(image)).astype(np.uint8)
    relative = weights / max(float(weights.max()), 1e-12)
    for number in np.argsort(relative, kind="stable"):
        strength = float(relative[number])
        color = (255, round(90 + 165 * strength), round(40 * strength))
        stroke(picture, places[number], places[number], 3 + 3 * strength, color, 0.15 + 0.8 * strength)
    return picture


def _number(skeleton: Skeleton, joint: str) -> int:
    if joint not in skeleton.joints:
        raise ValueError(f"skeleton {skeleton.name!r} has no joint {joint!r}; it has {', '.join(skeleton.joints)}")
    return skeleton.index(joint)


def _cut(image: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A region in the size of a cell, black outside the image, and the function from pixels of one to the other."""
    import cv2

    scale = float((np.array(CELL) / region[2:]).min())
    size = np.maximum(np.round(region[2:] * scale), 1).astype(int)
    matrix = np.array([[scale, 0, -region[0] * scale - 0.5], [0, scale, -region[1] * scale - 0.5]])
    place = functools.partial(cv2.warpAffine, M=matrix, dsize=tuple(size.tolist()))
    picture = place(image, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    picture[place(np.ones(image.shape[:2], np.uint8), flags=cv2.INTER_NEAREST) == 0] = 0
    return picture, lambda points: np.asarray(points, np.float64) * scale + matrix[:, 2]


def _pose(picture: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The last of some layers' poses, with lines from its joints' places in the layer before."""
    moved = np.round(_dimmed(picture, 0.75)).astype(np.uint8)
    for joint in range(keypoints.shape[1]):
        _draw_trail(moved, keypoints[-2:, joint], (255, 255, 255), dot=False)
    drawn = draw_poses(moved, keypoints[-1:], scores[None], skeleton=skeleton, threshold=0.0)
    return _shrunk(drawn, picture.shape[:2])


def _draw_trail(canvas: np.ndarray, points: np.ndarray, color: tuple[int, int, int], dot: bool = True) -> None:
    """Lines through the places [n, 2] that a joint went through, and a dot at the last."""
    for start, end in zip(points[:-1], points[1:], strict=True):
        if np.isfinite([start, end]).all():
            stroke(canvas, start, end, 1.2, (255, 255, 255), 0.9)
    if dot and np.isfinite(points[-1]).all():
        stroke(canvas, points[-1], points[-1], 10, DARK, 0.85)
        stroke(canvas, points[-1], points[-1], 7, color, 1.0)


def _dimmed(image: np.ndarray, light: float = 0.6) -> np.ndarray:
    """[H, W, 3] float, half as colourful and darker."""
    grey = image.mean(-1, keepdims=True)
    return light * (0.5 * image + 0.5 * grey)


def _shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] of a picture that was enlarged to be drawn on."""
    import cv2

    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
