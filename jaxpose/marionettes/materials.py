"""Materials: a table of colours and patterns, and the colour of every visible sample."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxpose.marionettes.render import Solids, Surface

PLAIN, RINGS, STRIPES, CHECKS, EMBLEM, BUTTONS, FACE = range(7)
Color = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Material:
    """A pattern of two colours (0..255 RGB).

    Patterns are cut in the rest pose, whose origin for clothes is the middle of the breast. `period` is the length of
    one repeat in mm, or the radius of an EMBLEM; `gloss` is the strength of the highlight. FACE paints eyes, brows and
    mouth on skin `color` with iris `accent`.
    """

    color: Color
    accent: Color = (0.0, 0.0, 0.0)
    pattern: int = PLAIN
    period: float = 1.0
    gloss: float = 0.0


def _stripe(x: np.ndarray, period: np.ndarray | np.floating) -> np.ndarray:
    phase = x / period
    return (phase - np.floor(phase)) < np.float32(0.5)


def _accented(pattern: np.ndarray, period: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """[N] bool, True where the accent colour shows, for samples with local coordinates in mm."""
    rings, stripes = _stripe(y, period), _stripe(x, period)
    front = z > 0.0
    across = np.abs(x)
    emblem = front & (x * x + y * y < period * period)
    button = front & (across < np.float32(9.0)) & _stripe(y, np.float32(70.0)) | front & (across < np.float32(4.0))
    return np.select(
        [pattern == RINGS, pattern == STRIPES, pattern == CHECKS, pattern == EMBLEM],
        [rings, stripes, rings ^ stripes, emblem],
        button & (pattern == BUTTONS),
    )


def _ellipse(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
    """Negative inside the ellipse at the origin."""
    x, y = x * np.float32(1.0 / rx), y * np.float32(1.0 / ry)
    return x * x + y * y - np.float32(1.0)


def _paint_face(color: np.ndarray, accent: np.ndarray, u: np.ndarray) -> None:
    """Paints eyes, brows, cheeks and mouth on a unit sphere whose front is +z; changes `color` [N, 3]."""
    front = u[2] > 0.0
    x, y = np.abs(u[0]), u[1]
    eye_x = x - np.float32(0.36)
    cheek = front & (_ellipse(x - np.float32(0.48), y + np.float32(0.28), 0.24, 0.18) < 0.0)
    color[cheek] = color[cheek] * np.float32(0.93) + np.array([16.0, 2.0, 2.0], np.float32)
    mouth = front & (_ellipse(x, y + np.float32(0.52) - np.float32(0.25) * x * x, 0.34, 0.085) < 0.0)
    color[mouth] = color[mouth] * np.float32(0.45) + np.array([78.0, 14.0, 22.0], np.float32)
    brow = front & (_ellipse(eye_x, y - np.float32(0.36) + np.float32(0.6) * eye_x * eye_x, 0.24, 0.055) < 0.0)
    color[brow] = color[brow] * np.float32(0.35)
    white = front & (_ellipse(eye_x, y - np.float32(0.10), 0.20, 0.12) < 0.0)
    color[white] = np.array([236.0, 234.0, 230.0], np.float32)
    iris = front & (_ellipse(eye_x, y - np.float32(0.10), 0.11, 0.115) < 0.0)
    color[iris] = accent[iris]


def _at_rest(local: np.ndarray, solids: Solids, i: np.ndarray) -> list:
    """Places in the rest pose in mm, three [N], at which patterns are cut."""
    axes, centre = solids.rest_axes.astype(np.float32), solids.rest_centre.astype(np.float32)
    return [
        ((axes[i, k, 0] * local[0] + axes[i, k, 1] * local[1]) + axes[i, k, 2] * local[2]) + centre[i, k]
        for k in range(3)
    ]


def albedo(surface: Surface, solids: Solids, materials: list[Material]) -> tuple[np.ndarray, np.ndarray]:
    """Colour [N, 3] (0..255) and gloss [N] of the visible samples, before light."""
    row = solids.material.astype(np.int32)[surface.solid]
    table = np.array([m.color for m in materials], np.float32)
    accents = np.array([m.accent for m in materials], np.float32)
    patterns = np.array([m.pattern for m in materials], np.int32)
    periods = np.array([m.period for m in materials], np.float32)
    color = table[row]
    gloss = np.array([m.gloss for m in materials], np.float32)[row]
    i = np.flatnonzero((patterns[row] != PLAIN) & (patterns[row] != FACE))
    if i.size:
        rest = _at_rest(surface.local[:, i], solids, surface.solid[i])
        r = row[i]
        hit = i[_accented(patterns[r], periods[r], *rest)]
        color[hit] = accents[row[hit]]
    i = np.flatnonzero(patterns[row] == FACE)
    if i.size:
        face = color[i]
        _paint_face(face, accents[row[i]], surface.local[:, i])
        color[i] = face
    return color, gloss
