"""The scenes of pictures: `single`, `crowd` and `clip`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxpose.marionettes import looks
from jaxpose.marionettes.camera import Camera, look_at
from jaxpose.marionettes.config import SPLITS, MarionettesConfig
from jaxpose.marionettes.exact import Random, sincos
from jaxpose.marionettes.motion import CLIP_WEIGHTS, STILL_WEIGHTS, TWO_PI
from jaxpose.marionettes.shots import SHUTTER, Rendering, Shot, film, take
from jaxpose.marionettes.staging import NOW, FilmSet, cast, frame_person, random_heading

FRAME_RATE = 15.0  # of clips, Hz
ATTEMPTS = 20


def _spots(scene: FilmSet) -> np.ndarray:
    """Floor points [N, 3] that the surroundings must leave free."""
    return np.stack([a.root[m] for a in scene.actors for m in (0, -1)])


def single(config: MarionettesConfig, rng: Random) -> Shot:
    """One main person; now and then a bystander, and something in front."""
    scene = FilmSet(NOW)
    scene.add(rng, cast(rng, rng.weighted(STILL_WEIGHTS), random_heading(rng), NOW, np.zeros(3)))
    camera = frame_person(rng, scene.actors[0].joints(0), config.width, config.height, truncate=0.15)
    if rng.chance(0.12):
        spot = np.array([rng.choice((-1.0, 1.0)) * rng.uniform(500.0, 1400.0), 0.0, -rng.uniform(500.0, 1100.0)])
        scene.add(rng, cast(rng, rng.weighted(STILL_WEIGHTS), random_heading(rng), NOW, spot))
    stage = looks.make_stage(config.look, rng, 0.0, _spots(scene))
    if config.look == "street":
        scene.clutter(rng, camera, rng.integer(1, 6))
    if rng.chance(config.occlusion):
        scene.occlude(rng, camera, scene.actors[0].joints(0))
    return Shot(scene, stage, lambda moment: camera)


def _wide_camera(rng: Random, config: MarionettesConfig) -> Camera:
    """A camera at the origin's edge that looks along -z over an open floor."""
    focal = rng.uniform(0.85, 1.25) * max(config.width, 1.2 * config.height)
    eye = np.array([0.0, rng.uniform(1000.0, 2300.0), 0.0])
    ahead = np.array([0.0, 0.5 * float(eye[1]) + 350.0, -5000.0])
    centre = (0.5 * (config.width - 1), 0.5 * (config.height - 1))
    return look_at(eye, ahead, focal, centre, 1.5 * float(rng.bell(1)[0]))


def _free_spot(rng: Random, camera: Camera, width: int, taken: list, depths: tuple[float, float]) -> np.ndarray:
    """A floor spot [3] in view that is little covered by those already taken; notes it in `taken`."""
    tries = []
    for _ in range(8):
        u = rng.uniform(0.0, 1.0)
        depth = depths[0] * depths[1] / (depths[1] + (depths[0] - depths[1]) * u)  # even in size rather than in depth
        column = rng.uniform(0.06, 0.94) * width
        tall = camera.focal * 1650.0 / depth
        cover = 0.0
        for other_column, other_tall in taken:
            overlap = 0.19 * (tall + other_tall) - abs(column - other_column)
            cover += max(overlap, 0.0) / min(tall, other_tall)
        tries.append((cover, depth, column, tall))
    _, depth, column, tall = min(tries, key=lambda each: each[0])
    taken.append((column, tall))
    return np.array([(column - camera.centre[0]) / camera.focal * depth, 0.0, -depth])


def _group(config: MarionettesConfig, rng: Random, camera: Camera, scene: FilmSet, depths: tuple[float, float]) -> None:
    """Adds as many people as the configuration asks for, spread over the view."""
    moving = len(scene.times) > 1
    taken: list[tuple[float, float]] = []
    for _ in range(rng.integer(config.people[0], config.people[1] + 1)):
        spot = _free_spot(rng, camera, config.width, taken, depths)
        action = rng.weighted(CLIP_WEIGHTS if moving else STILL_WEIGHTS)
        turn = rng.uniform(-35.0, 35.0) if moving else 0.0
        scene.add(rng, cast(rng, action, random_heading(rng), scene.times, spot, turn))


def crowd(config: MarionettesConfig, rng: Random) -> Shot:
    """Several people, from those who fill the picture to those far away."""
    scene = FilmSet(NOW)
    camera = _wide_camera(rng, config)
    _group(config, rng, camera, scene, (2600.0, 10500.0))
    stage = looks.make_stage(config.look, rng, 0.0, _spots(scene))
    if config.look == "street":
        scene.clutter(rng, camera, rng.integer(2, 8))
    if rng.chance(config.occlusion):
        actor = rng.choice(scene.actors)
        scene.occlude(rng, camera, actor.joints(0))
    return Shot(scene, stage, lambda moment: camera)


def clip(config: MarionettesConfig, rng: Random) -> Shot:
    """People in motion before a moving camera; something or someone may pass in front."""
    frame = np.repeat(np.arange(config.frames), len(SHUTTER))
    times = (frame + np.tile(np.array(SHUTTER), config.frames)) / FRAME_RATE
    scene = FilmSet(times)
    first = _wide_camera(rng, config)
    _group(config, rng, first, scene, (2700.0, 6500.0))
    if rng.chance(config.occlusion):
        _pass_by(rng, scene, first)
    stage = looks.make_stage(config.look, rng, 0.0, _spots(scene))
    if config.look == "street":
        scene.clutter(rng, first, rng.integer(2, 8))
    return Shot(scene, stage, _hand_held(rng, first, times))


def _pass_by(rng: Random, scene: FilmSet, camera: Camera) -> None:
    """A walker or a sliding thing that crosses before one of the actors at the middle moment."""
    actor = rng.choice(scene.actors)
    way = rng.choice((-1.0, 1.0))
    if rng.chance(0.5):
        spot = actor.spot + (camera.position - actor.spot) * rng.uniform(0.2, 0.4) * np.array([1.0, 0.0, 1.0])
        scene.add(rng, cast(rng, "walk", way * rng.uniform(75.0, 105.0), scene.times, spot))
    else:
        velocity = np.array([way * rng.uniform(400.0, 1600.0), 0.0, 0.0])
        scene.occlude(rng, camera, actor.joints(len(scene.times) // 2), velocity)


def _hand_held(rng: Random, first: Camera, times: np.ndarray) -> Callable[[int], Camera]:
    """A camera that drifts and trembles, as a function of the moment."""
    drift = rng.array(-1.0, 1.0, 3) * np.array([350.0, 60.0, 200.0])
    pan = rng.array(-1.0, 1.0, 3) * np.array([450.0, 60.0, 0.0])
    tremble = rng.array(0.0, 14.0, 2)
    pace, phase = rng.array(0.6, 2.2, 2), rng.array(0.0, TWO_PI, 2)
    eye, ahead, middle = first.position, first.rotation[2] * 4000.0, float(times[len(times) // 2])

    def camera(moment: int) -> Camera:
        t = float(times[moment]) - middle
        wave = sincos(phase + pace * (TWO_PI * t))[0] * tremble
        position = eye + drift * t
        target = eye + ahead + pan * t + np.array([wave[0], wave[1], 0.0])
        return look_at(position, target, first.focal, first.centre)

    return camera


def picture(config: MarionettesConfig, split: str, index: int) -> Rendering | list[Rendering]:
    """Picture number `index` of a split, or all frames of clip number `index`.

    A pure function of its arguments, bit-identical on every machine.

    Args:
      config: description of the data set; any scene but "sequence".
      split: "train" or "validation".
      index: number of the picture or clip in the split, from 0.

    Returns:
      A `Rendering`, or a list of them if the scene is a clip.

    Raises:
      IndexError: there is no such picture.
      ValueError: the scene is `sequence`, which has no pictures.
    """
    if not 0 <= index < config.count(split):
        raise IndexError(f"marionettes {split}: found index {index}, expected 0 to {config.count(split) - 1}")
    if config.scene == "sequence":
        raise ValueError("MarionettesConfig.scene: found 'sequence', which has no pictures; call `sequence` instead")
    for attempt in range(ATTEMPTS):
        rng = Random(config.seed, SPLITS.index(split), index, attempt)
        if config.scene == "clip":
            frames = film(clip(config, rng), config, rng)
            if int((~frames[len(frames) // 2].crowd).sum()) >= config.people[0]:
                return frames
        else:
            still = take(single(config, rng) if config.scene == "single" else crowd(config, rng), config, rng)
            if still is not None and 0 in still.track_id and len(still.box) >= config.people[0]:
                return still
    raise RuntimeError(
        f"marionettes {split} {index}: {ATTEMPTS} draws did not show {config.people[0]} people in a picture of "
        f"{config.width} x {config.height}; make it larger or ask for fewer people"
    )
