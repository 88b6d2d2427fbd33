"""Film sets: actors with their performance, things with their paths, and the camera that frames them."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxpose.marionettes import looks
from jaxpose.marionettes.body import ANGLE, Shape, Skeleton3D, pose_body, random_shape
from jaxpose.marionettes.camera import Camera, look_at, orbit
from jaxpose.marionettes.exact import Random, rot_y
from jaxpose.marionettes.figure import Figure, dress, place
from jaxpose.marionettes.materials import Material
from jaxpose.marionettes.motion import GAITS, random_motion, stand_on_floor
from jaxpose.marionettes.render import Solids

GROUND = np.array([1.0, 0.0, 1.0])  # drops the height of a point or direction
NOW = np.zeros(1)


@dataclasses.dataclass(frozen=True)
class Actor:
    """A person in a scene, posed at T moments."""

    shape: Shape
    figure: Figure
    action: str
    body: Skeleton3D
    root: np.ndarray  # [T, 3] pelvis in the world, mm
    heading: float  # degrees about y at the start; 0 faces +z, where the camera is

    def joints(self, moment: int) -> np.ndarray:
        """World joints [25, 3] in mm."""
        return self.body.joints[moment] + self.root[moment]

    @property
    def spot(self) -> np.ndarray:
        """The floor [3] under the pelvis at the middle moment."""
        return self.root[len(self.root) // 2] * GROUND


def perform(
    rng: Random, shape: Shape, action: str, heading: float, times: np.ndarray, spot: np.ndarray, turn: float = 0.0
) -> tuple[Skeleton3D, np.ndarray]:
    """An action of one person at `times` [T] (seconds).

    Args:
      rng: stream to draw from.
      shape: proportions of the person.
      action: name of the action, one of motion.ACTIONS and motion.GAITS.
      heading: direction at time 0 in degrees about y.
      times: [T] moments in seconds, increasing; a single one makes a still.
      spot: [3] place on the floor below the pelvis at the middle moment, in mm.
      turn: change of heading in degrees a second.

    Returns:
      The posed body and the path [T, 3] of its pelvis in the world.
    """
    still = len(times) == 1
    motion = random_motion(rng, shape, action, 1 if still else 2 + int(float(times[-1] - times[0]) / 0.5))
    if still and action in GAITS:
        times = np.array([rng.uniform(0.0, 2.0)])
    pose = motion.angles(times)
    pose[:, ANGLE["yaw"]] += heading + turn * times
    body = pose_body(shape, pose)
    root = stand_on_floor(shape, body)
    root += (spot - root[len(times) // 2]) * GROUND
    return body, root


def cast(rng: Random, action: str, heading: float, times: np.ndarray, spot: np.ndarray, turn: float = 0.0) -> Actor:
    """A new person, dressed, who performs an action; see `perform`."""
    shape = random_shape(rng)
    body, root = perform(rng, shape, action, heading, times, spot, turn)
    return Actor(shape, dress(shape, rng), action, body, root, heading)


def random_heading(rng: Random) -> float:
    """A direction in degrees: mostly towards the camera, often sideways, sometimes away."""
    return rng.uniform(-75.0, 75.0) if rng.chance(0.6) else rng.uniform(-180.0, 180.0)


def _stool(actor: Actor) -> tuple:
    """A block under someone who sits."""
    root, shape = actor.root[0], actor.shape
    half_height = 0.5 * max(float(root[1]) - shape.pelvis_half[1] * 0.9, 60.0)
    turn = rot_y(actor.heading)
    centre = root * GROUND + turn[:, 2] * (-0.15 * shape.pelvis_half[1]) + np.array([0.0, half_height, 0.0])
    half = np.array([1.15 * shape.pelvis_half[0], half_height, shape.pelvis_half[0]])
    return looks.block(centre, half, turn)


class FilmSet:
    """Actors, things and their materials, at T moments."""

    def __init__(self, times: np.ndarray) -> None:
        self.times = times
        self.actors: list[Actor] = []
        self.materials: list[Material] = []
        self._first_material: list[int] = []
        self._things: list[tuple] = []
        self._velocity: list[np.ndarray] = []

    def add(self, rng: Random, actor: Actor) -> None:
        """An actor, with a stool if sitting."""
        self._first_material.append(len(self.materials))
        self.actors.append(actor)
        self.materials.extend(actor.figure.materials)
        if actor.action == "sit":
            self.put(rng, _stool(actor))

    def put(self, rng: Random, thing: tuple, velocity: np.ndarray | None = None) -> None:
        """A thing, which moves at `velocity` (mm a second) and is where it was made at the middle moment."""
        self._things.append((*thing, len(self.materials)))
        self._velocity.append(np.zeros(3) if velocity is None else velocity)
        self.materials.append(looks.thing_material(rng))

    def people(self, moment: int) -> list[Solids]:
        """The solids of every actor in the world."""
        return [
            place(a.figure, a.body, moment, a.root[moment], number, self._first_material[number])
            for number, a in enumerate(self.actors)
        ]

    def things(self, moment: int) -> Solids:
        """The solids of all things in the world."""
        rest = looks.stacked(self._things)
        elapsed = float(self.times[moment] - self.times[len(self.times) // 2])
        return dataclasses.replace(rest, centre=rest.centre + np.array(self._velocity).reshape(-1, 3) * elapsed)

    def clutter(self, rng: Random, camera: Camera, count: int) -> None:
        """Things behind and beside the first actor."""
        ahead, side = camera.rotation[2] * GROUND, camera.rotation[0] * GROUND
        for _ in range(count):
            spot = self.actors[0].spot + ahead * rng.uniform(450.0, 2200.0) + side * rng.uniform(-1700.0, 1700.0)
            self.put(rng, looks.thing(rng, spot))

    def occlude(self, rng: Random, camera: Camera, joints: np.ndarray, velocity: np.ndarray | None = None) -> None:
        """A box or a pole between the camera and one of the `joints` [25, 3] (world)."""
        target = joints[rng.integer(5, 17)]
        place = target + (camera.position - target) * rng.uniform(0.12, 0.3)
        turn = rot_y(rng.uniform(-40.0, 40.0))
        if rng.chance(0.5):
            half = np.array([rng.uniform(120.0, 380.0), rng.uniform(125.0, 375.0), rng.uniform(40.0, 160.0)])
            place[1] = half[1]
        else:
            half = np.array([rng.uniform(35.0, 90.0), rng.uniform(120.0, 900.0), rng.uniform(30.0, 90.0)])
        self.put(rng, looks.block(place, half, turn), velocity)


def frame_person(rng: Random, joints: np.ndarray, width: int, height: int, truncate: float) -> Camera:
    """A camera that shows joints [25, 3] (world) at 50 to 92 % of the picture's height.

    With probability `truncate` it comes closer, so that the border cuts the person.
    """
    low, high = joints.min(axis=0), joints.max(axis=0)
    target = 0.5 * (low + high)
    elevation = rng.uniform(-5.0, 20.0) if rng.chance(0.85) else rng.uniform(20.0, 45.0)
    position = orbit(target, rng.uniform(-15.0, 15.0), elevation, rng.uniform(2300.0, 6500.0))
    position[1] = max(float(position[1]), 150.0)
    roll = 3.0 * float(rng.bell(1)[0])
    trial = look_at(position, target, 1.0, (0.0, 0.0), roll)
    flat = trial.to_pixels(trial.to_camera(joints))
    extent = (flat.max(axis=0) - flat.min(axis=0)) * np.array([1.15, 1.10])
    size = np.array([float(width), float(height)])
    focal = min(rng.uniform(0.50, 0.92) * height / float(extent[1]), 0.92 * width / float(extent[0]))
    slack = 0.45 * np.maximum(size - focal * extent, 0.0)
    if rng.chance(truncate):
        focal *= rng.uniform(1.25, 2.0)
        slack = np.maximum(0.45 * (size - focal * extent), 0.5 * (focal * extent - size))
    shift = (rng.array(-1.0, 1.0, 2) * slack) * (float(trial.to_camera(target)[2]) / focal)
    target = target + trial.rotation[0] * shift[0] + trial.rotation[1] * shift[1]
    return look_at(position, target, focal, (0.5 * (width - 1), 0.5 * (height - 1)), roll)
