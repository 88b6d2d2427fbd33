"""Pictures taken of a scene: light, shadows, anti-aliasing, and the annotations that go with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxpose.marionettes import looks
from jaxpose.marionettes.camera import Camera
from jaxpose.marionettes.config import MarionettesConfig
from jaxpose.marionettes.exact import Random, cross, transform, unit
from jaxpose.marionettes.materials import Material, albedo
from jaxpose.marionettes.render import Buffers, Rays, Solids, joined, rasterise, surface
from jaxpose.marionettes.staging import FilmSet
from jaxpose.marionettes.visibility import labelled, seen

LEAST_JOINTS = 3  # joints inside the picture without which a person is not annotated
LEAST_AREA = 24.0  # visible pixels without which a person is not annotated
SAMPLES = 2  # rays a pixel, along each side
SHUTTER = (-0.1875, -0.0625, 0.0, 0.0625, 0.1875)  # moments of one exposure in frames: half a frame long
EXPOSED = (0, 1, 3, 4)  # those that reach the film
JITTER = ((-0.25, -0.25), (0.25, 0.25), (-0.25, 0.25), (0.25, -0.25))  # their ray positions within a pixel


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A rendered picture, or frame of a clip, and its N people.

    Attributes:
      image: [H, W, 3] uint8 RGB picture.
      box: [N, 4] float32 boxes (x, y, w, h) in pixels, tight around the visible part, as annotators draw them.
      joints_2d: [N, 25, 3] float32 exact joints (x, y) in pixels, also outside the picture, and visibility 2 (seen), 1
        (hidden) or 0 (outside the picture).
      joints_3d: [N, 25, 3] float32 joints in mm in the camera's frame.
      area: [N] float32 number of visible pixels.
      track_id: [N] int64 number of the person throughout a clip.
      crowd: [N] bool, True for people who are drawn but too small or too far outside to be labelled (clips only); all
        their visibilities are 0.
      intrinsics: [3, 3] float32 matrix of the camera in pixels.
      rotation: [3, 3] float32 rotation from the world to the camera.
      translation: [3] float32 mm, from the world to the camera.
    """

    image: np.ndarray
    box: np.ndarray
    joints_2d: np.ndarray
    joints_3d: np.ndarray
    area: np.ndarray
    track_id: np.ndarray
    crowd: np.ndarray
    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


class Shot(NamedTuple):
    """A scene, its surroundings and the camera before it, of which a picture or a clip is taken."""

    scene: FilmSet
    stage: looks.Stage
    camera: Callable[[int], Camera]  # of the moment


class ShadowMap(NamedTuple):
    """Depth along the light over a grid that covers all solids."""

    frame: np.ndarray  # [3, 3] camera frame -> light frame, z runs with the light
    origin: tuple[float, float]
    texel: float  # mm
    depth: np.ndarray


def shadow_map(solids: Solids, to_light: np.ndarray, resolution: int = 128) -> ShadowMap:
    """The solids as the light sees them; `to_light` is a unit vector in the camera frame."""
    z = -to_light
    x = unit(cross(np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0]), z))
    frame = np.stack([x, cross(z, x), z])
    turned = solids.moved(frame, np.zeros(3))
    low, high = turned.centre[:, :2].min(axis=0) - 300.0, turned.centre[:, :2].max(axis=0) + 300.0
    texel = float(np.max(high - low)) / resolution
    steps = (np.arange(resolution) + 0.5) * texel
    rays = Rays((low[0] + steps).astype(np.float32), (low[1] + steps).astype(np.float32), False)
    return ShadowMap(frame, (float(low[0]), float(low[1])), texel, rasterise(turned, rays).depth)


def lit(shadows: ShadowMap, point: np.ndarray, bias: float, spread: float) -> np.ndarray:
    """Share of the key light at points [3, ...] of the camera frame: the mean of nine looks `spread` mm around."""
    f = shadows.frame.astype(np.float32)
    q = [(f[k, 0] * point[0] + f[k, 1] * point[1]) + f[k, 2] * point[2] for k in range(3)]
    inverse = np.float32(1.0 / shadows.texel)
    u, v = (q[0] - np.float32(shadows.origin[0])) * inverse, (q[1] - np.float32(shadows.origin[1])) * inverse
    depth = np.pad(shadows.depth, 1, constant_values=np.inf).ravel()
    size = shadows.depth.shape[0]
    reach = np.float32(spread / shadows.texel)
    near = q[2] - np.float32(bias)
    total = np.zeros(near.shape, np.int32)
    for du, dv in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)):
        i = np.clip(u + np.float32(du) * reach + 1, 0, size + 1).astype(np.int32)
        j = np.clip(v + np.float32(dv) * reach + 1, 0, size + 1).astype(np.int32)
        total += depth[j * (size + 2) + i] > near
    return total.astype(np.float32) * np.float32(1.0 / 9.0)


def paint(
    solids: Solids, materials: list[Material], stage: looks.Stage, camera: Camera, size: tuple[int, int],
    samples: int, shift: tuple[float, float] = (0.0, 0.0),
) -> tuple[np.ndarray, Buffers]:  # fmt: skip
    """Renders solids (camera frame) before the stage; returns float colours [H, W, 3] and the sample buffers."""
    width, height = size
    rays = camera.rays(width, height, samples, shift)
    buffers = rasterise(solids, rays)
    shadows = shadow_map(solids, transform(camera.rotation, stage.light.direction))
    strength = np.float32(stage.light.shadow)
    empty = looks.backdrop(stage, camera, camera.rays(width, height, 1, shift))
    dark = (1 - lit(shadows, empty.point, 25.0, 55.0)) * empty.takes_shadow.astype(np.float32) * strength
    share = stage.light.key / (stage.light.key + stage.light.sky)
    ground = empty.color * (1 - dark[..., None] * share.astype(np.float32))
    canvas = np.repeat(np.repeat(ground, samples, axis=0), samples, axis=1).reshape(-1, 3)
    spots = surface(solids, buffers, rays)
    color, gloss = albedo(spots, solids, materials)
    reached = 1 - strength * (1 - lit(shadows, spots.point + spots.normal * np.float32(12.0), 24.0, 16.0))
    canvas[spots.index] = looks.illuminate(spots, color, gloss, stage.light, camera, reached)
    canvas = np.minimum(canvas, np.float32(255.0)).reshape(height, samples, width, samples, 3)
    if samples == 1:
        return canvas[:, 0, :, 0], buffers
    rows = canvas[:, 0] + canvas[:, 1]
    return (rows[:, :, 0] + rows[:, :, 1]) * np.float32(0.25), buffers


class Outline(NamedTuple):
    """Visible box (x, y, w, h) and area of one person, in pixels; None where nothing is visible."""

    box: tuple[float, float, float, float]
    area: float


def outlines(buffers: Buffers, solids: Solids, people: int, samples: int) -> list[Outline | None]:
    """The visible silhouette of every person, measured on the sample grid."""
    person = np.concatenate([solids.person, [-1]])[buffers.owner]
    out: list[Outline | None] = []
    for number in range(people):
        mask = person == number
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if not len(columns):
            out.append(None)
            continue
        left, right = columns[0] / samples, (columns[-1] + 1) / samples
        top, bottom = rows[0] / samples, (rows[-1] + 1) / samples
        out.append(Outline((left, top, right - left, bottom - top), int(mask.sum()) / (samples * samples)))
    return out


def _joints(scene: FilmSet, moment: int, solids: Solids, camera: Camera, size: tuple[int, int]) -> tuple:
    """Projected joints with visibility [N, 25, 3] and camera-frame joints [N, 25, 3] of all actors."""
    joints = camera.to_camera(np.stack([actor.joints(moment) for actor in scene.actors]))
    visible = seen(joints, solids, [actor.shape for actor in scene.actors])
    return labelled(camera.to_pixels(joints), visible, *size), joints


def _annotated(outline: Outline | None, joints_2d: np.ndarray) -> bool:
    """True if enough of a person shows to be worth an annotation."""
    return outline is not None and outline.area >= LEAST_AREA and int((joints_2d[:17, 2] > 0).sum()) >= LEAST_JOINTS


def _rendering(
    image: np.ndarray, people: list[int], crowd: list[bool], outline: list, joints_2d: np.ndarray,
    joints_3d: np.ndarray, camera: Camera,
) -> Rendering:  # fmt: skip
    """A picture with the annotations of some of the actors."""
    flat = joints_2d[people]
    flat[..., 2] *= ~np.array(crowd, bool)[:, None]
    return Rendering(
        image=image,
        box=np.array([outline[i].box for i in people], np.float32).reshape(-1, 4),
        joints_2d=flat.astype(np.float32),
        joints_3d=joints_3d[people].astype(np.float32),
        area=np.array([outline[i].area for i in people], np.float32),
        track_id=np.array(people, np.int64),
        crowd=np.array(crowd, bool),
        intrinsics=camera.intrinsics.astype(np.float32),
        rotation=camera.rotation.astype(np.float32),
        translation=camera.translation.astype(np.float32),
    )


def take(shot: Shot, config: MarionettesConfig, rng: Random) -> Rendering | None:
    """A still picture. People who would be left without annotation (too small, too far outside) are not drawn.

    None if that is everybody.
    """
    camera, size = shot.camera(0), (config.width, config.height)
    people, things = shot.scene.people(0), shot.scene.things(0)
    drawn = list(range(len(people)))
    while drawn:
        solids = joined([*(people[i] for i in drawn), things]).moved(camera.rotation, camera.translation)
        color, buffers = paint(solids, shot.scene.materials, shot.stage, camera, size, SAMPLES)
        outline = outlines(buffers, solids, len(people), SAMPLES)
        joints_2d, joints_3d = _joints(shot.scene, 0, solids, camera, size)
        kept = [i for i in drawn if _annotated(outline[i], joints_2d[i])]
        if kept == drawn:
            image = looks.develop(color, shot.stage.finish, rng)
            return _rendering(image, drawn, [False] * len(drawn), outline, joints_2d, joints_3d, camera)
        drawn = kept
    return None


def film(shot: Shot, config: MarionettesConfig, rng: Random) -> list[Rendering]:
    """The frames of a clip with motion blur.

    Each is the mean of pictures taken while the shutter is open, whose sample positions differ, so that the same
    average smooths edges. Annotations hold for the middle of the exposure.
    """
    return [_frame(shot, frame, config, rng) for frame in range(config.frames)]


def _frame(shot: Shot, frame: int, config: MarionettesConfig, rng: Random) -> Rendering:
    size, scene = (config.width, config.height), shot.scene
    total = np.zeros((config.height, config.width, 3), np.float32)
    for k, shift in zip(EXPOSED, JITTER, strict=True):
        moment = frame * len(SHUTTER) + k
        camera = shot.camera(moment)
        solids = joined([*scene.people(moment), scene.things(moment)]).moved(camera.rotation, camera.translation)
        total += paint(solids, scene.materials, shot.stage, camera, size, 1, shift)[0]
    moment = frame * len(SHUTTER) + SHUTTER.index(0.0)
    camera = shot.camera(moment)
    solids = joined([*scene.people(moment), scene.things(moment)]).moved(camera.rotation, camera.translation)
    buffers = rasterise(solids, camera.rays(*size, 1))
    outline = outlines(buffers, solids, len(scene.actors), 1)
    joints_2d, joints_3d = _joints(scene, moment, solids, camera, size)
    people = [i for i, line in enumerate(outline) if line is not None]
    crowd = [not _annotated(outline[i], joints_2d[i]) for i in people]
    image = looks.develop(total * np.float32(1.0 / len(EXPOSED)), shot.stage.finish, rng)
    return _rendering(image, people, crowd, outline, joints_2d, joints_3d, camera)
