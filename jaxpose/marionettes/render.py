"""An analytic rasteriser: rounded cones, ellipsoids and boxes into a depth buffer, then one shading pass.

Every solid is a unit shape under an affine map, so squashed chests, feet and skulls cost no more than round limbs.

- Ellipsoid: the unit sphere.
- Cone: the hull of two spheres, radius `near` at the local origin and `far` at (0, length, 0); with `cut` the far end
  is open, as a sleeve or a skirt is.
- Box: the cube [-1, 1]^3.

A ray x(t) = o + t d meets the swept spheres of a cone where min over s of |x - s L e_y|^2 - (near + s (far - near))^2
is zero. The minimum over s is a square completed, which leaves one quadratic in t.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from jaxpose.marionettes.exact import dot, transform

ELLIPSOID, CONE, BOX = 0, 1, 2
NOBODY = -1  # person of scenery and clutter


@dataclasses.dataclass(frozen=True)
class Solids:
    """P solids in one frame. Local coordinates u of a point p are given by p = centre + axes @ u."""

    axes: np.ndarray  # [P, 3, 3], columns are the scaled local axes, mutually orthogonal
    centre: np.ndarray  # [P, 3] mm
    length: np.ndarray  # [P] local units; 0 unless a cone
    near: np.ndarray  # [P] radius at the local origin
    far: np.ndarray  # [P] radius at the far end
    cut: np.ndarray  # [P] bool, the far end is open
    kind: np.ndarray  # [P] ELLIPSOID, CONE or BOX
    material: np.ndarray  # [P] row of the material table
    person: np.ndarray  # [P] or NOBODY
    part: np.ndarray  # [P] number of the body segment, -1 for things
    rest_axes: np.ndarray  # [P, 3, 3] axes and
    rest_centre: np.ndarray  # [P, 3] centre at rest, mm: patterns are cut there, so they run on from solid to solid

    def __len__(self) -> int:
        return len(self.length)

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> Solids:
        """The same solids in the frame x' = rotation @ x + translation."""
        axes = np.stack([transform(rotation, self.axes[..., k]) for k in range(3)], axis=-1)
        return dataclasses.replace(self, axes=axes, centre=transform(rotation, self.centre) + translation)

    def taken(self, index: np.ndarray) -> Solids:
        """The solids at these positions."""
        return Solids(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def joined(groups: list[Solids]) -> Solids:
    """All solids of several groups, in order."""
    return Solids(*(np.concatenate([getattr(g, f.name) for g in groups]) for f in dataclasses.fields(Solids)))


class Rays(NamedTuple):
    """A grid of rays: column x and row y give the ray o + t d, and t is the depth z.

    Perspective rays start at the origin with d = (x, y, 1); parallel rays start at (x, y, 0) with d = (0, 0, 1).
    """

    columns: np.ndarray  # [W] float32
    rows: np.ndarray  # [H] float32
    perspective: bool


class Buffers(NamedTuple):
    """Nearest depth [H, W] (mm, inf where nothing is) and the solid seen there [H, W] (-1 where nothing is)."""

    depth: np.ndarray
    owner: np.ndarray


def inverse(solids: Solids) -> np.ndarray:
    """Maps [P, 3, 3] from frame vectors to local ones; the axes are orthogonal, so it is a scaled transpose."""
    size = dot(np.swapaxes(solids.axes, 1, 2), np.swapaxes(solids.axes, 1, 2))
    return np.swapaxes(solids.axes, 1, 2) / size[..., None]


def _reach(solids: Solids, rays: Rays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds of every solid in ray coordinates, [P, 2] low and high, and its nearest depth [P]."""
    row = np.sqrt(dot(solids.axes, solids.axes))
    box = (np.abs(solids.axes[..., 0]) + np.abs(solids.axes[..., 1])) + np.abs(solids.axes[..., 2])
    is_box = (solids.kind == BOX)[:, None]
    low, high, nearest = None, None, None
    for along, radius in ((0.0, solids.near), (1.0, solids.far)):
        centre = solids.centre + solids.axes[..., 1] * (along * solids.length)[:, None]
        half = np.where(is_box, box, row * radius[:, None])
        front, back = centre[:, 2:] - half[:, 2:], centre[:, 2:] + half[:, 2:]
        a, b = centre[:, :2] - half[:, :2], centre[:, :2] + half[:, :2]
        if rays.perspective:
            front = np.maximum(front, 1.0)
            back = np.maximum(back, 1.0)
            a = a / np.where(a < 0.0, front, back)
            b = b / np.where(b > 0.0, front, back)
        low = a if low is None else np.minimum(low, a)
        high = b if high is None else np.maximum(high, b)
        nearest = front[:, 0] if nearest is None else np.minimum(nearest, front[:, 0])
    return low, high, nearest


def _sphere(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """First root of a t^2 + 2 b t + c, at which the ray enters; NaN where it misses."""
    return (-b - np.sqrt(b * b - a * c)) / a


def _slant(length: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Length of a cone's flank between the circles where it touches its end spheres."""
    growth = far - near
    return np.sqrt(np.maximum(length * length - growth * growth, 1e-6 * length * length))


def _meet_cone(o: list, d: list, length: float, near: float, far: float, slant: float, cut: bool) -> np.ndarray:
    """Entry of local rays o + t d into a cone; NaN where they miss."""
    growth = far - near
    dd = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    od = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    oo = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - near * near
    u = o[1] * (length / slant) + near * growth / slant
    v = d[1] * (length / slant)
    body = _sphere(dd - v * v, od - u * v, oo - u * u)
    along = u + v * body
    body = np.where((along >= 0.0) & (along <= slant), body, np.float32(np.nan))
    first = np.fmin(body, _sphere(dd, od, oo))
    if cut:
        return first
    shifted = oo - (2.0 * length) * o[1] + (length * length + near * near - far * far)
    return np.fmin(first, _sphere(dd, od - length * d[1], shifted))


def _meet_box(o: list, d: list) -> np.ndarray:
    """Entry of local rays into the cube [-1, 1]^3; NaN where they miss."""
    enter, leave = [], []
    for k in range(3):
        across = 1.0 / np.where(np.abs(d[k]) < 1e-12, np.float32(1e-12), d[k])
        middle, half = -o[k] * across, np.abs(across)
        enter.append(middle - half)
        leave.append(middle + half)
    last, first = functools.reduce(np.maximum, enter), functools.reduce(np.minimum, leave)
    return np.where(last < first, last, np.float32(np.nan))


def _meet(kind: int, cut: bool, o: list, d: list, size: tuple) -> np.ndarray:
    """The t at which local rays o + t d enter a solid of `size` (length, near, far, slant); NaN where they miss."""
    if kind == CONE:
        length, near, far, slant = size
        return _meet_cone(o, d, length, near, far, slant, cut)
    if kind == BOX:
        return _meet_box(o, d)
    dd = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    od = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    return _sphere(dd, od, o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0)


def _local_rays(m: list, mc: list, x: np.ndarray, y: np.ndarray, start: float, perspective: bool) -> tuple[list, list]:
    """Origins (at depth `start`) and directions of a grid of rays in the frame of one solid, three [h, w] each."""
    if perspective:
        d = [(m[k][0] * x + m[k][2]) + m[k][1] * y for k in range(3)]
        return [d[k] * start - mc[k] for k in range(3)], d
    o = [(m[k][0] * x + (m[k][2] * start - mc[k])) + m[k][1] * y for k in range(3)]
    return o, [np.float32(m[k][2]) for k in range(3)]


def rasterise(solids: Solids, rays: Rays) -> Buffers:
    """The nearest solid on every ray. Each solid only touches the rectangle that bounds it.

    Args:
      solids: solids in the frame of the rays (the camera's, in mm).
      rays: grid of rays.

    Returns:
      Depth and owner buffers of the grid's size.
    """
    shape = (len(rays.rows), len(rays.columns))
    depth = np.full(shape, np.inf, np.float32)
    owner = np.full(shape, -1, np.int32)
    low, high, nearest = _reach(solids, rays)
    left, right = np.searchsorted(rays.columns, low[:, 0]), np.searchsorted(rays.columns, high[:, 0], "right")
    top, bottom = np.searchsorted(rays.rows, low[:, 1]), np.searchsorted(rays.rows, high[:, 1], "right")
    drawn = (left < right) & (top < bottom) & ((nearest > 1.0) | (not rays.perspective))
    to_local = inverse(solids)
    matrix, offset = to_local.tolist(), transform(to_local, solids.centre).tolist()
    starts, kinds, cuts = solids.centre[:, 2].tolist(), solids.kind.tolist(), solids.cut.tolist()
    slant = _slant(solids.length, solids.near, solids.far)
    sizes = np.stack([solids.length, solids.near, solids.far, slant], axis=1).tolist()
    with np.errstate(all="ignore"):
        for i in np.flatnonzero(drawn).tolist():
            rows, columns = slice(top[i], bottom[i]), slice(left[i], right[i])
            x, y = rays.columns[None, columns], rays.rows[rows, None]
            o, d = _local_rays(matrix[i], offset[i], x, y, starts[i], rays.perspective)
            t = _meet(kinds[i], cuts[i], o, d, sizes[i]) + np.float32(starts[i])
            closer = t < depth[rows, columns]
            np.copyto(depth[rows, columns], t, where=closer)
            np.copyto(owner[rows, columns], np.int32(i), where=closer)
    return Buffers(depth, owner)


def entry_depths(solids: Solids, points: np.ndarray) -> np.ndarray:
    """The depths at which the camera's rays through points enter every solid.

    Args:
      solids: P solids in the camera's frame.
      points: [N, 3] points in front of the camera, in mm.

    Returns:
      [N, P] depths z of the first entry, inf where the ray misses the solid.
    """
    out = np.full((len(points), len(solids)), np.inf)
    to_local = inverse(solids)
    ray = points / points[:, 2:]
    slant = _slant(solids.length, solids.near, solids.far)
    with np.errstate(all="ignore"):
        for kind, cut in ((ELLIPSOID, False), (CONE, False), (CONE, True), (BOX, False)):
            i = np.flatnonzero((solids.kind == kind) & (solids.cut == cut))
            d = transform(to_local[i], ray[:, None, :])
            o = transform(to_local[i], ray[:, None, :] * solids.centre[i, 2:] - solids.centre[i])
            size = (solids.length[i], solids.near[i], solids.far[i], slant[i])
            t = _meet(kind, cut, [o[..., k] for k in range(3)], [d[..., k] for k in range(3)], size)
            out[:, i] = np.where(np.isnan(t), np.inf, t + solids.centre[i, 2])
    return out


class Surface(NamedTuple):
    """Visible samples in a flat list: place, solid and surface of each."""

    index: np.ndarray  # [N] flat position in the grid of rays
    solid: np.ndarray  # [N] position in the solids
    point: np.ndarray  # [3, N] in the frame of the rays, mm
    normal: np.ndarray  # [3, N] unit, towards the outside
    local: np.ndarray  # [3, N] local coordinates


def surface(solids: Solids, buffers: Buffers, rays: Rays) -> Surface:
    """Points, normals and local coordinates of all samples that show a solid."""
    index = np.flatnonzero(buffers.owner.ravel() >= 0)
    i = buffers.owner.ravel()[index]
    z = buffers.depth.ravel()[index]
    width = len(rays.columns)
    x, y = rays.columns[index % width] * z, rays.rows[index // width] * z
    to_local = inverse(solids).astype(np.float32)
    centre = solids.centre.astype(np.float32)
    px, py, pz = x - centre[i, 0], y - centre[i, 1], z - centre[i, 2]
    m = [[np.take(to_local[:, r, c], i) for c in range(3)] for r in range(3)]
    local = [(m[r][0] * px + m[r][1] * py) + m[r][2] * pz for r in range(3)]
    nx, ny, nz = _local_normal(solids, i, local)
    normal = [(m[0][c] * nx + m[1][c] * ny) + m[2][c] * nz for c in range(3)]
    scale = 1.0 / np.sqrt((normal[0] * normal[0] + normal[1] * normal[1]) + normal[2] * normal[2] + np.float32(1e-20))
    return Surface(index, i, np.stack([x, y, z]), np.stack(normal) * scale, np.stack(local))


def _local_normal(solids: Solids, i: np.ndarray, local: list) -> list:
    """Direction of the surface normal in local coordinates: away from the nearest sphere of the sweep."""
    length, near, far = (np.take(a.astype(np.float32), i) for a in (solids.length, solids.near, solids.far))
    growth = far - near
    slant = np.maximum(length * length - growth * growth, np.float32(1e-6))
    along = np.clip((length * local[1] + near * growth) / slant, np.float32(0.0), np.float32(1.0))
    normal = [local[0], local[1] - along * length, local[2]]
    boxes = np.flatnonzero(np.take(solids.kind, i) == BOX)
    if boxes.size:
        size = [np.abs(local[k][boxes]) for k in range(3)]
        face = (size[1] > size[0]).astype(np.int32)
        face = np.where(size[2] > np.maximum(size[0], size[1]), 2, face)
        for k in range(3):
            normal[k][boxes] = np.where(face == k, np.sign(local[k][boxes]), np.float32(0.0))
    return normal
