"""The two looks of one world: `studio` (plain backdrop, soft light, clean) and `street` (textured, lit, cluttered)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxpose.marionettes.camera import Camera
from jaxpose.marionettes.exact import DEGREE, Random, dot, rot_y, sincos, smoothstep, transform, unit
from jaxpose.marionettes.figure import NEUTRAL, vivid
from jaxpose.marionettes.materials import CHECKS, PLAIN, RINGS, STRIPES, Material
from jaxpose.marionettes.render import BOX, CONE, NOBODY, Rays, Solids, Surface

LOOKS = ("studio", "street")
SMOOTH, TILES, BRICKS, PLANKS = range(4)
_FAR = np.float32(60000.0)  # mm, where the world ends


@dataclasses.dataclass(frozen=True)
class Light:
    """A key light, an ambient dome and the light that the floor throws back; colours relative to white = 1."""

    direction: np.ndarray  # [3] unit, world, towards the light
    key: np.ndarray  # [3]
    sky: np.ndarray  # [3]
    bounce: np.ndarray  # [3]
    shadow: float  # 0 no cast shadows, 1 black ones (before ambient light)


@dataclasses.dataclass(frozen=True)
class Texture:
    """A flat surface: two colours, a pattern with a period in mm, and blotches of noise."""

    color: np.ndarray  # [3]
    joint: np.ndarray  # [3] colour of the lines between tiles
    pattern: int
    period: float
    blotch: float


@dataclasses.dataclass(frozen=True)
class Finish:
    """Traces of the camera in the picture: exposure gain per channel, blur in passes, noise in grey levels."""

    gain: np.ndarray  # [3]
    blur: int
    noise: float
    vignette: float


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything around the people: light, floor, wall and camera finish."""

    light: Light
    floor: Texture
    wall: Texture
    top: np.ndarray  # [3] colour high up: the wall fades into it, or the sky
    wall_normal: np.ndarray  # [3] horizontal, world
    wall_offset: float  # the wall is {x : x . wall_normal = wall_offset}
    wall_height: float
    seamless: bool  # a studio sweep: floor and wall melt into each other
    lattice: np.ndarray  # [32, 32] noise in [-1, 1]
    finish: Finish


def _color(rng: Random, low: float, high: float, tint: float) -> np.ndarray:
    grey = rng.uniform(low, high)
    return grey * (1.0 + tint * (rng.array(-1.0, 1.0, 3)))


def _texture(rng: Random, color: np.ndarray, pattern: int, blotch: float) -> Texture:
    joint = color * rng.uniform(0.55, 1.25)
    return Texture(color, joint, pattern, rng.uniform(180.0, 700.0), blotch)


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    sin_a, cos_a = sincos(azimuth * DEGREE)
    sin_e, cos_e = sincos(elevation * DEGREE)
    return unit(np.array([float(sin_a * cos_e), float(sin_e), float(cos_a * cos_e)]))


def _behind(normal: np.ndarray, spots: np.ndarray) -> float:
    """Offset of the plane with this normal that just leaves all floor spots [N, 3] on its front side."""
    return float((spots[:, 0] * normal[0] + spots[:, 2] * normal[2]).min())


def studio(rng: Random, camera_azimuth: float, spots: np.ndarray) -> Stage:
    """A seamless backdrop in one colour, a soft key light from the camera's side, no noise."""
    color = _color(rng, 120.0, 225.0, 0.10)
    light = Light(
        direction=_direction(camera_azimuth + rng.uniform(-60.0, 60.0), rng.uniform(35.0, 60.0)),
        key=np.full(3, rng.uniform(0.55, 0.68)),
        sky=np.full(3, 0.56),
        bounce=np.full(3, 0.36),
        shadow=0.55,
    )
    floor = _texture(rng, color * rng.uniform(0.86, 0.98), SMOOTH, 0.0)
    wall = _texture(rng, color, SMOOTH, 0.0)
    finish = Finish(np.ones(3), 0, 0.0, 0.0)
    top = color * rng.uniform(0.78, 1.08)
    normal = _direction(camera_azimuth, 0.0)
    return Stage(
        light, floor, wall, top, normal, _behind(normal, spots) - 2500.0, 1e9, True, np.zeros((32, 32)), finish
    )


def street(rng: Random, camera_azimuth: float, spots: np.ndarray) -> Stage:
    """Textured floor and wall, sky or ceiling, light of any direction and tint, blur, noise and vignette."""
    tint = rng.array(-0.12, 0.12, 3)
    strength = rng.uniform(0.45, 1.0)
    light = Light(
        direction=_direction(camera_azimuth + rng.uniform(-170.0, 170.0), rng.uniform(20.0, 75.0)),
        key=strength * (1.0 + tint),
        sky=rng.uniform(0.36, 0.55) * (1.0 - 0.8 * tint),
        bounce=rng.uniform(0.2, 0.36) * (1.0 + rng.array(-0.15, 0.15, 3)),
        shadow=rng.uniform(0.6, 1.0),
    )
    floor = _texture(rng, _color(rng, 70.0, 190.0, 0.16), rng.choice((SMOOTH, TILES, PLANKS)), rng.uniform(0.05, 0.2))
    cover = rng.choice((SMOOTH, TILES, BRICKS, PLANKS))
    wall = _texture(rng, _color(rng, 60.0, 210.0, 0.24), cover, rng.uniform(0.05, 0.22))
    sky = np.array([150.0, 185.0, 220.0]) if rng.chance(0.6) else np.array([205.0, 208.0, 212.0])
    finish = Finish(
        gain=rng.uniform(0.88, 1.18) * (1.0 + rng.array(-0.07, 0.07, 3)),
        blur=rng.weighted({0: 0.5, 1: 0.3, 2: 0.2}),
        noise=rng.uniform(1.5, 8.0),
        vignette=rng.uniform(0.0, 0.35),
    )
    normal = _direction(camera_azimuth + rng.uniform(-35.0, 35.0), 0.0)
    return Stage(
        light, floor, wall, sky * rng.uniform(0.8, 1.1), normal, _behind(normal, spots) - rng.uniform(1300.0, 5000.0),
        rng.uniform(1400.0, 6000.0), False, rng.array(-1.0, 1.0, 32, 32), finish,
    )  # fmt: skip


def make_stage(look: str, rng: Random, camera_azimuth: float, spots: np.ndarray) -> Stage:
    """Surroundings of people at floor `spots` [N, 3] (world mm), seen from the side `camera_azimuth` (degrees)."""
    return studio(rng, camera_azimuth, spots) if look == "studio" else street(rng, camera_azimuth, spots)


def _blotches(lattice: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Value noise in [-1, 1]: two octaves of a bilinear lattice that repeats every 32 cells."""
    table = lattice.astype(np.float32).ravel()
    total = np.zeros_like(u)
    for scale, weight in ((1.0, 0.65), (3.7, 0.35)):
        a, b = u * np.float32(scale), v * np.float32(scale)
        i, j = np.floor(a), np.floor(b)
        fa, fb = a - i, b - j
        i0, j0 = (i.astype(np.int32) & 31) << 5, j.astype(np.int32) & 31
        i1, j1 = (i0 + 32) & 1023, (j0 + 1) & 31
        corner = [np.take(table, k) for k in (i0 + j0, i1 + j0, i0 + j1, i1 + j1)]
        top = corner[0] + (corner[1] - corner[0]) * fa
        low = corner[2] + (corner[3] - corner[2]) * fa
        total += (top + (low - top) * fb) * np.float32(weight)
    return total


class _Planes(NamedTuple):
    """Ends of rays on floor or wall, each [h, w]."""

    point: np.ndarray  # [3, h, w] in the camera frame, mm
    floor: np.ndarray  # share of floor in the pixel; the rest is wall
    sky: np.ndarray  # share of what is above the wall
    u: np.ndarray  # coordinates on floor or wall, mm
    v: np.ndarray


def _meet_planes(stage: Stage, camera: Camera, rays: Rays) -> _Planes:
    """Intersects rays with floor and wall; edges between them are one pixel soft."""
    r = camera.rotation.astype(np.float32)
    x, y = rays.columns[None, :], rays.rows[:, None]
    ray = [(r[0, k] * x + r[2, k]) + r[1, k] * y for k in range(3)]
    eye = camera.position
    n = stage.wall_normal.astype(np.float32)
    gap = np.float32(stage.wall_offset - float(dot(stage.wall_normal, eye)))
    with np.errstate(all="ignore"):
        to_floor = np.where(ray[1] < -1e-4, np.float32(-eye[1]) / ray[1], _FAR)
        to_wall = gap / (ray[0] * n[0] + ray[2] * n[2])
    to_wall = np.where((to_wall > 0) & (to_wall < _FAR), to_wall, _FAR)
    depth = np.minimum(to_floor, to_wall)
    place = [np.float32(eye[k]) + ray[k] * depth for k in range(3)]
    rise = np.float32(eye[1]) + ray[1] * to_wall  # height at which the ray meets the wall's plane
    if stage.seamless:
        away = place[0] * n[0] + place[2] * n[2] - np.float32(stage.wall_offset)
        floor = np.where(rise < 0, smoothstep(away * np.float32(1.0 / 1600.0)), np.float32(0.0))
        sky = smoothstep(rise * np.float32(1.0 / 3200.0))
    else:
        pixel = to_wall * np.float32(1.0 / camera.focal)
        floor = np.clip(np.float32(0.5) - rise / pixel, np.float32(0.0), np.float32(1.0))
        sky = np.clip(
            np.float32(0.5) + (rise - np.float32(stage.wall_height)) / pixel, np.float32(0.0), np.float32(1.0)
        )
    below = rise < 0
    u = np.where(below, place[0], place[0] * n[2] - place[2] * n[0])
    point = np.stack([x * depth, y * depth, depth])
    return _Planes(point, floor, sky, u, np.where(below, place[2], place[1]))


def _joints(texture: Texture, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """True on the joints between tiles, bricks or planks."""
    if texture.pattern == SMOOTH:
        return np.zeros(u.shape, bool)
    tall = texture.period if texture.pattern == TILES else 0.45 * texture.period
    long = 6.0 * texture.period if texture.pattern == PLANKS else texture.period
    row = v * np.float32(1.0 / tall)
    shelf = np.floor(row)
    column = u * np.float32(1.0 / long)
    if texture.pattern != TILES:
        column = column + shelf * np.float32(0.5)
    return (column - np.floor(column) < np.float32(14.0 / long)) | (row - shelf < np.float32(14.0 / tall))


class Backdrop(NamedTuple):
    """The empty scene at one sample a pixel."""

    color: np.ndarray  # [h, w, 3] before cast shadows
    point: np.ndarray  # [3, h, w] where rays end, camera frame, mm
    takes_shadow: np.ndarray  # [h, w] 0 to 1


def backdrop(stage: Stage, camera: Camera, rays: Rays) -> Backdrop:
    """The empty stage as a grid of rays sees it."""
    planes = _meet_planes(stage, camera, rays)
    floor, wall = stage.floor, stage.wall
    below = planes.floor >= 0.5
    color = planes.floor[..., None] * (floor.color - wall.color).astype(np.float32) + wall.color.astype(np.float32)
    if not stage.seamless:
        fade = np.float32(1.0) / (np.float32(1.0) + planes.point[2] * np.float32(1.0 / 9000.0))
        for texture, mask in ((floor, below), (wall, ~below)):
            line = _joints(texture, planes.u, planes.v) & mask
            color[line] += fade[line][:, None] * (texture.joint - texture.color).astype(np.float32)
        cell = np.float32(1.0 / 330.0)
        depth = np.where(below, np.float32(floor.blotch), np.float32(wall.blotch))
        color *= (1 + depth * _blotches(stage.lattice, planes.u * cell, planes.v * cell))[..., None]
    color += planes.sky[..., None] * (stage.top.astype(np.float32) - color)
    return Backdrop(color, planes.point, planes.floor if stage.seamless else np.float32(1.0) - planes.sky)


def illuminate(
    surface: Surface, color: np.ndarray, gloss: np.ndarray, light: Light, camera: Camera, lit: np.ndarray
) -> np.ndarray:
    """Lambert shading with a dome of ambient light and a soft highlight.

    Args:
      surface: visible samples in the camera's frame.
      color: [N, 3] albedo, 0..255.
      gloss: [N] strength of the highlight.
      light: lights in the world.
      camera: camera into whose frame the light is turned.
      lit: [N] share of the key light that arrives, 0 in full shadow.

    Returns:
      [N, 3] colours, 0..255 and above.
    """
    to_light = transform(camera.rotation, light.direction).astype(np.float32)
    up = camera.rotation[:, 1].astype(np.float32)
    n, p = surface.normal, surface.point
    toward = (n[0] * to_light[0] + n[1] * to_light[1]) + n[2] * to_light[2]
    direct = np.maximum(toward * np.float32(0.85) + np.float32(0.15), np.float32(0.0)) * lit
    dome = ((n[0] * up[0] + n[1] * up[1]) + n[2] * up[2]) * np.float32(0.5) + np.float32(0.5)
    away = -1.0 / np.sqrt((p[0] * p[0] + p[1] * p[1]) + p[2] * p[2])
    facing = np.clip(((n[0] * p[0] + n[1] * p[1]) + n[2] * p[2]) * away, np.float32(0.0), np.float32(1.0))
    shade = np.float32(0.72) + np.float32(0.28) * facing
    half = [to_light[k] + p[k] * away for k in range(3)]
    size = np.sqrt((half[0] * half[0] + half[1] * half[1]) + half[2] * half[2] + np.float32(1e-6))
    shine = np.maximum(((n[0] * half[0] + n[1] * half[1]) + n[2] * half[2]) / size, np.float32(0.0))
    for _ in range(4):
        shine = shine * shine
    shine = shine * gloss * lit * np.float32(255.0)
    out = np.empty_like(color)
    for c in range(3):
        key, sky, bounce = float(light.key[c]), float(light.sky[c]), float(light.bounce[c])
        out[:, c] = color[:, c] * ((direct * key + dome * (sky - bounce) + bounce) * shade) + shine * key
    return out


def _blurred(picture: np.ndarray) -> np.ndarray:
    """The binomial filter 1-2-1 down the columns of [H, W, 3]; the border repeats."""
    padded = np.concatenate([picture[:1], picture, picture[-1:]])
    return (padded[:-2] + padded[2:]) * np.float32(0.25) + picture * np.float32(0.5)


def develop(picture: np.ndarray, finish: Finish, rng: Random) -> np.ndarray:
    """Exposure, vignette, blur and sensor noise; float [H, W, 3] in, uint8 out."""
    height, width = picture.shape[:2]
    picture = picture * finish.gain.astype(np.float32)
    if finish.vignette:
        x = (np.arange(width, dtype=np.float32) * np.float32(2.0 / width) - 1)[None, :]
        y = (np.arange(height, dtype=np.float32) * np.float32(2.0 / height) - 1)[:, None]
        picture = picture * (1 - np.float32(0.5 * finish.vignette) * (x * x + y * y))[..., None]
    for _ in range(finish.blur):
        picture = _blurred(_blurred(picture).swapaxes(0, 1)).swapaxes(0, 1)
    if finish.noise:
        u = rng.generator.random((2, height, width, 3), dtype=np.float32)
        picture = picture + (u[0] + u[1] - np.float32(1.0)) * np.float32(finish.noise * 2.4)
    return np.rint(np.clip(picture, np.float32(0.0), np.float32(255.0))).astype(np.uint8)


def thing_material(rng: Random) -> Material:
    """The material of a thing that is no person."""
    color = vivid(rng) if rng.chance(0.5) else rng.choice(NEUTRAL)
    pattern = rng.weighted({PLAIN: 0.6, RINGS: 0.15, STRIPES: 0.12, CHECKS: 0.13})
    return Material(color, vivid(rng), pattern, rng.uniform(60.0, 260.0), rng.uniform(0.0, 0.2))


def thing(rng: Random, spot: np.ndarray) -> tuple:
    """A box, a post or a ball standing on the floor at `spot`; a row for `stacked` but for the material."""
    kind = rng.weighted({"box": 0.6, "post": 0.3, "ball": 0.1})
    turn = rot_y(rng.uniform(0.0, 90.0))
    if kind == "box":
        half = np.array([rng.uniform(90.0, 420.0), rng.uniform(120.0, 700.0), rng.uniform(90.0, 420.0)])
        return block(spot + np.array([0.0, half[1], 0.0]), half, turn)
    radius = rng.uniform(25.0, 110.0) if kind == "post" else rng.uniform(100.0, 260.0)
    length = rng.uniform(700.0, 2300.0) if kind == "post" else 1.0
    return turn, spot + np.array([0.0, radius, 0.0]), (length, radius, radius * rng.uniform(0.6, 1.0)), CONE


def block(centre: np.ndarray, half: np.ndarray, turn: np.ndarray) -> tuple:
    """A box with these half sizes (mm); a row for `stacked` but for the material."""
    return turn * half, centre, (0.0, 1.0, 1.0), BOX


def stacked(rows: list[tuple]) -> Solids:
    """Solids of nobody from rows (axes, centre, (length, near, far), kind, material)."""
    sizes = np.array([row[2] for row in rows], np.float64).reshape(-1, 3)
    axes = np.array([row[0] for row in rows], np.float64).reshape(-1, 3, 3)
    columns = np.swapaxes(axes, 1, 2)
    count = len(rows)
    return Solids(
        axes=axes,
        centre=np.array([row[1] for row in rows], np.float64).reshape(-1, 3),
        length=sizes[:, 0],
        near=sizes[:, 1],
        far=sizes[:, 2],
        cut=np.zeros(count, bool),
        kind=np.array([row[3] for row in rows], np.int64),
        material=np.array([row[4] for row in rows], np.int64),
        person=np.full(count, NOBODY),
        part=np.full(count, -1),
        rest_axes=np.eye(3) * np.sqrt(dot(columns, columns))[:, None, :],
        rest_centre=np.zeros((count, 3)),
    )
