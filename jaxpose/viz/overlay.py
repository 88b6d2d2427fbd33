"""Poses drawn on images, and sheets of such images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxpose.skeleton import Skeleton

LIMB_COLORS = {"left": (255, 138, 36), "right": (48, 152, 255), "center": (92, 214, 116)}
"""RGB of a limb by the person's own side."""
PERSON_COLORS = (
    (255, 255, 255), (255, 221, 87), (240, 110, 190), (120, 232, 232), (180, 140, 255), (250, 112, 98), (186, 232, 96),
)  # fmt: skip
"""RGB of a person's joints, box and label, so that neighbours differ."""
DARK = (18, 20, 26)
MIN_SIDE, MAX_SIDE = 480, 1920


@dataclasses.dataclass(frozen=True)
class _Style:
    """Sizes in pixels of the picture, for one person."""

    limb: float
    joint: float
    rim: float


def drawing_scale(height: int, width: int) -> float:
    """The factor, 1 or more, by which an image is enlarged for drawing: until its shorter side has 480 pixels."""
    return max(1.0, min(MIN_SIDE / min(height, width), MAX_SIDE / max(height, width)))


def draw_poses(
    image: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    person_score: np.ndarray | None = None,
    *,
    skeleton: Skeleton,
    threshold: float = 0.3,
    boxes: np.ndarray | None = None,
    track_id: np.ndarray | None = None,
) -> np.ndarray:
    """The image with people drawn on it: limbs by side (left orange, right blue), joints and labels by person.

    Confidence is opacity. A small image is enlarged by `drawing_scale` first, so that lines are crisp.

    Args:
      image: [H, W, 3] uint8 RGB image; not changed.
      keypoints: [N, K, 2] joints in pixels of the image.
      scores: [N, K] confidence in [0, 1]; joints below `threshold`, and limbs that lead to them, are left out, and so
        is a joint that scores 0.
      person_score: [N] scores to write beside each person, or None. Better people are drawn over worse ones.
      skeleton: skeleton of the joints, whose limbs are drawn.
      threshold: least score of joints that are drawn.
      boxes: [N, 4] boxes (x, y, w, h) to draw, in pixels of the image, or None.
      track_id: [N] numbers of people in a video, or None: people with the same number from frame to frame keep their
        colour, and the number is written beside the score. Negative for people without a number.

    Returns:
      [round(H * scale), round(W * scale), 3] uint8 RGB image.

    Raises:
      ValueError: arrays that do not fit each other or the skeleton.
    """
    keypoints, scores = np.asarray(keypoints, np.float64), np.asarray(scores, np.float64)
    count = len(keypoints)
    _check(image, keypoints, scores, person_score, skeleton, boxes, track_id)
    number = np.arange(count) if track_id is None else np.asarray(track_id)
    colors = [PERSON_COLORS[n % len(PERSON_COLORS)] for n in number.tolist()]
    canvas, scale = _enlarged(image)
    points = (keypoints + 0.5) * scale - 0.5
    shown = (scores >= threshold) & (scores > 0) & np.isfinite(points).all(-1)
    rank = np.zeros(count) if person_score is None else np.asarray(person_score, np.float64)
    for person in np.argsort(rank, kind="stable"):
        color = colors[person]
        style = _style(points[person], shown[person], canvas.shape)
        if boxes is not None:
            _draw_box(canvas, np.asarray(boxes[person], np.float64) * scale, color)
        _draw_person(canvas, points[person], scores[person], shown[person], skeleton, style, color)
    if person_score is not None:
        names = ["" if track_id is None or n < 0 else f"#{n} " for n in number.tolist()]
        texts = [f"{name}{score:.2f}" for name, score in zip(names, rank, strict=True)]
        _draw_labels(canvas, points, shown, texts, colors, boxes, scale)
    return canvas


def draw_boxes(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None = None) -> np.ndarray:
    """The image, enlarged as by `draw_poses`, with a box around each person.

    Args:
      image: [H, W, 3] uint8 RGB image; not changed.
      boxes: [N, 4] boxes (x, y, w, h) in pixels of the image.
      scores: [N] scores to write beside each box, or None. Better boxes are drawn over worse ones.

    Returns:
      [round(H * scale), round(W * scale), 3] uint8 RGB image.

    Raises:
      ValueError: arrays that do not fit each other.
    """
    boxes = np.asarray(boxes, np.float64)
    _check_arrays(image, {"boxes": (boxes, (len(boxes), 4)), "scores": (scores, (len(boxes),))}, "")
    canvas, scale = _enlarged(image)
    rank = np.zeros(len(boxes)) if scores is None else np.asarray(scores, np.float64)
    for number in np.argsort(rank, kind="stable"):
        _draw_box(canvas, boxes[number] * scale, PERSON_COLORS[number % len(PERSON_COLORS)])
    if scores is not None:
        colors = [PERSON_COLORS[n % len(PERSON_COLORS)] for n in range(len(boxes))]
        _draw_labels(canvas, None, None, [f"{score:.2f}" for score in rank], colors, boxes, scale)
    return canvas


def panel(
    images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None, gap: int = 8
) -> np.ndarray:
    """A sheet of images, row by row; for truth beside prediction, take them in turn and an even number of columns.

    Args:
      images: images [H, W, 3] uint8 RGB; smaller ones are centred in the cell of the largest.
      columns: number of images in a row.
      captions: line of text above each image.
      gap: distance between images in pixels.

    Returns:
      [H', W', 3] uint8 RGB sheet.

    Raises:
      ValueError: there is no image, or captions do not fit.
    """
    if not images or columns < 1:
        raise ValueError(f"a panel needs at least one image and column, got {len(images)} and {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_height, cell_width = np.max([image.shape[:2] for image in images], axis=0)
    header = 0 if captions is None else 26
    sheet = np.empty((rows * (cell_height + header + gap) + gap, columns * (cell_width + gap) + gap, 3), np.uint8)
    sheet[:] = (28, 30, 36)
    for number, image in enumerate(images):
        top = gap + (number // columns) * (cell_height + header + gap)
        left = gap + (number % columns) * (cell_width + gap)
        if captions is not None:
            _write(sheet, captions[number], (left + 2, top + header - 9), 0.5, (228, 230, 236))
        height, width = image.shape[:2]
        y, x = top + header + (cell_height - height) // 2, left + (cell_width - width) // 2
        sheet[y : y + height, x : x + width] = image
    return sheet


def _check(image, keypoints, scores, person_score, skeleton, boxes, track_id) -> None:
    count, joints = len(keypoints), skeleton.num_joints
    arrays = {
        "keypoints": (keypoints, (count, joints, 2)),
        "scores": (scores, (count, joints)),
        "person_score": (person_score, (count,)),
        "boxes": (boxes, (count, 4)),
        "track_id": (track_id, (count,)),
    }
    _check_arrays(image, arrays, f" for {count} people with the joints of {skeleton.name!r}")


def _check_arrays(image, arrays: dict[str, tuple[np.ndarray | None, tuple[int, ...]]], why: str) -> None:
    """Raises ValueError unless the image is one, and {name: (array, shape)} have their shapes."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype}{list(image.shape)}, expected uint8 [H, W, 3]")
    for name, (values, expected) in arrays.items():
        if values is not None and np.shape(values) != expected:
            raise ValueError(f"{name} has shape {np.shape(values)}, expected {expected}{why}")


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, float]:
    import cv2

    height, width = image.shape[:2]
    scale = drawing_scale(height, width)
    if scale == 1:
        return image.copy(), scale
    size = (round(width * scale), round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), scale


def _style(points: np.ndarray, shown: np.ndarray, shape: tuple[int, ...]) -> _Style:
    """Lines as thick as the person is large, between 1/300 and 1/60 of the picture."""
    side = min(shape[:2])
    extent = np.ptp(points[shown], axis=0).max() if shown.sum() > 1 else side / 4
    limb = float(np.clip(0.022 * extent, max(1.8, side / 300), max(2.5, side / 60)))
    return _Style(limb=limb, joint=0.66 * limb + 0.5, rim=0.15 * limb + 0.7)


def _draw_person(canvas, points, scores, shown, skeleton: Skeleton, style: _Style, color) -> None:
    """A dark halo around everything, then limbs, then joints; finer where joints are close together, as in faces."""
    limbs = [(a, b) for a, b in skeleton.limb_indices if shown[a] and shown[b]]
    opacity = {limb: _opacity(min(scores[limb[0]], scores[limb[1]])) for limb in limbs}
    width = {(a, b): min(style.limb, 1.5 + 0.2 * float(np.linalg.norm(points[a] - points[b]))) for a, b in limbs}
    for a, b in limbs:
        stroke(canvas, points[a], points[b], width[a, b] + 2 * style.rim, DARK, 0.75 * opacity[a, b])
    for a, b in limbs:
        stroke(canvas, points[a], points[b], width[a, b], LIMB_COLORS[limb_side(skeleton, (a, b))], opacity[a, b])
    joints = np.flatnonzero(shown)
    radius = style.joint * np.clip(0.36 * _nearest(points[joints]) / style.joint, 0.6, 1)
    for joint, r in zip(joints, radius, strict=True):
        stroke(canvas, points[joint], points[joint], 2 * (r + style.rim), DARK, 0.85 * _opacity(scores[joint]))
        stroke(canvas, points[joint], points[joint], 2 * r, color, _opacity(scores[joint]))


def _nearest(points: np.ndarray) -> np.ndarray:
    """[n] distances of n points to the nearest other one; infinite for a single point."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.where(np.eye(len(points), dtype=bool), np.inf, distance).min(axis=1, initial=np.inf)


def _opacity(score: float) -> float:
    return 0.35 + 0.65 * float(np.clip(score, 0, 1))


def limb_side(skeleton: Skeleton, limb: tuple[int, int]) -> str:
    """The side of a limb: a key of `LIMB_COLORS`."""
    sides = {skeleton.sides[joint] for joint in limb} - {"center"}
    return sides.pop() if len(sides) == 1 else "center"


def stroke(canvas, start, end, width: float, color, opacity: float) -> None:
    """A line with round ends, or a dot where both are one point. Positions are sub-pixel, edges one pixel soft."""
    limits = np.array(canvas.shape[1::-1])
    reach = width / 2 + 1
    low = np.clip(np.floor(np.minimum(start, end) - reach), 0, limits).astype(int)
    high = np.clip(np.ceil(np.maximum(start, end) + reach) + 1, 0, limits).astype(int)
    if (high <= low).any():
        return
    region = canvas[low[1] : high[1], low[0] : high[0]]
    x, y = np.arange(low[0], high[0])[None, :] - start[0], np.arange(low[1], high[1])[:, None] - start[1]
    dx, dy = np.subtract(end, start)
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    distance = np.hypot(x - along * dx, y - along * dy)
    alpha = opacity * np.clip(width / 2 + 0.5 - distance, 0, 1)[..., None]
    region[:] = np.round(region + alpha * (np.array(color) - region.astype(np.float32)))


def _draw_box(canvas, box: np.ndarray, color) -> None:
    corners = box[:2] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * box[2:]
    line = max(1.4, min(canvas.shape[:2]) / 360)
    for width, paint, opacity in ((line + 2, DARK, 0.5), (line, color, 0.9)):
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            stroke(canvas, start, end, width, paint, opacity)


def _draw_labels(canvas, points, shown, texts: Sequence[str], colors, boxes, scale: float) -> None:
    """A text of each person on a small plate above its head (or at its box's corner)."""
    size = max(0.38, min(canvas.shape[:2]) / 1300)
    for person, text in enumerate(texts):
        if boxes is not None:
            anchor = np.asarray(boxes[person][:2]) * scale
        elif shown[person].any():
            visible = points[person][shown[person]]
            top = visible[np.argmin(visible[:, 1])]
            anchor = top - [0, 0.1 * np.ptp(visible[:, 1]) + 12 * size]
        else:
            continue
        _plate(canvas, text, anchor, size, colors[person])


def _plate(canvas, text: str, anchor: np.ndarray, size: float, color) -> None:
    import cv2

    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, size, 1)
    pad = round(8 * size)
    limits = np.array(canvas.shape[1::-1]) - [width + 2 * pad, height + base + pad]
    x, y = np.clip(anchor - [width / 2 + pad, height + pad], 0, np.maximum(limits, 0)).round().astype(int)
    region = canvas[y : y + height + 2 * pad, x : x + width + 2 * pad]
    region[:] = np.round(0.25 * region + 0.75 * np.array(DARK))
    _write(canvas, text, (x + pad, y + pad + height), size, color)


def _write(canvas, text: str, origin: tuple[int, int], size: float, color) -> None:
    import cv2

    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_DUPLEX, size, color, 1, cv2.LINE_AA)
