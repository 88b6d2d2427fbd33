"""The clothed figure of one person: solids that hang on segments of the body, and their materials."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxpose.marionettes import materials
from jaxpose.marionettes.body import ANGLES, SEGMENT, Shape, Skeleton3D, pose_body
from jaxpose.marionettes.exact import Random, cross, product, transform, unit
from jaxpose.marionettes.materials import Color, Material
from jaxpose.marionettes.render import CONE, ELLIPSOID, Solids

Vector = tuple[float, float, float]

SKIN: tuple[Color, ...] = (
    *((241.0, 200.0, 174.0), (230.0, 182.0, 150.0), (214.0, 160.0, 124.0), (190.0, 134.0, 98.0)),
    *((150.0, 100.0, 70.0), (112.0, 74.0, 52.0), (84.0, 56.0, 42.0)),
)
HAIR: tuple[Color, ...] = (
    *((38.0, 30.0, 28.0), (62.0, 44.0, 32.0), (96.0, 66.0, 40.0), (142.0, 100.0, 56.0), (206.0, 172.0, 110.0)),
    *((150.0, 74.0, 40.0), (168.0, 166.0, 164.0), (28.0, 26.0, 30.0)),
)
IRIS: tuple[Color, ...] = ((52.0, 34.0, 24.0), (40.0, 60.0, 86.0), (46.0, 66.0, 44.0), (30.0, 24.0, 22.0))
NEUTRAL: tuple[Color, ...] = (
    *((36.0, 38.0, 44.0), (70.0, 74.0, 82.0), (128.0, 128.0, 126.0), (188.0, 184.0, 176.0), (232.0, 230.0, 224.0)),
    *((44.0, 56.0, 88.0), (62.0, 84.0, 122.0), (96.0, 80.0, 62.0), (158.0, 140.0, 112.0), (74.0, 82.0, 60.0)),
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """P solids at rest, each in the frame of its segment, and the materials that they name."""

    segment: np.ndarray  # [P]
    axes: np.ndarray  # [P, 3, 3]
    centre: np.ndarray  # [P, 3]
    sizes: np.ndarray  # [P, 3] length, near, far
    cut: np.ndarray  # [P]
    kind: np.ndarray  # [P]
    material: np.ndarray  # [P]
    rest_centre: np.ndarray  # [P, 3] in the rest pose, from the middle of the breast
    materials: tuple[Material, ...]


def vivid(rng: Random) -> Color:
    """A random clothing colour: any hue, moderate to strong saturation."""
    hue, saturation, value = rng.uniform(0.0, 6.0), rng.uniform(0.25, 0.85), rng.uniform(70.0, 235.0)
    channel = []
    for shift in (0.0, 4.0, 2.0):
        h = (hue + shift) % 6.0
        weight = min(max(min(h, 4.0 - h), 0.0), 1.0) if h < 4.0 else 0.0
        channel.append(value * (1.0 - saturation * (1.0 - weight)))
    return (channel[0], channel[1], channel[2])


def cloth_color(rng: Random) -> Color:
    """A clothing colour, vivid or neutral."""
    return vivid(rng) if rng.chance(0.6) else rng.choice(NEUTRAL)


class _Tailor:
    """The solids of one figure while it is put together; lengths in mm."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.rows: list[tuple] = []
        self.materials: list[Material] = []

    def material(self, material: Material) -> int:
        self.materials.append(material)
        return len(self.materials) - 1

    def cone(
        self,
        segment: str,
        start: Vector,
        end: Vector,
        near: float,
        far: float,
        material: int,
        squash: tuple[float, float] = (1.0, 1.0),
        cut: bool = False,
    ) -> None:
        """A rounded cone between two points of a segment's frame; `squash` scales it sideways and in depth."""
        a, b = np.array(start), np.array(end)
        along = b - a
        length = float(np.sqrt((along[0] * along[0] + along[1] * along[1]) + along[2] * along[2]))
        y = along / length
        x = np.array([1.0, 0.0, 0.0]) if abs(y[0]) < 0.9 else np.array([0.0, 0.0, 1.0])
        z = unit(cross(x, y))
        x = cross(y, z)
        axes = np.stack([x * squash[0], y, z * squash[1]], axis=-1)
        self.rows.append((SEGMENT[segment], axes, a, (length, near, far), cut, CONE, material))

    def ellipsoid(self, segment: str, centre: Vector, radii: Vector, material: int) -> None:
        """An ellipsoid along the axes of a segment's frame."""
        axes = np.diag(np.array(radii))
        self.rows.append((SEGMENT[segment], axes, np.array(centre), (0.0, 1.0, 1.0), False, ELLIPSOID, material))

    def figure(self) -> Figure:
        arrays = [np.array(column) for column in zip(*self.rows, strict=True)]
        origin = pose_body(self.shape, np.zeros((1, len(ANGLES)))).origin[0]
        breast = origin[SEGMENT["thorax"]] + np.array([0.0, 0.45 * self.shape.chest, 0.0])
        rest_centre = arrays[2] + origin[arrays[0]] - breast
        return Figure(*arrays, rest_centre=rest_centre, materials=tuple(self.materials))


def _head(t: _Tailor, rng: Random, skin: Color) -> None:
    width, tall, deep = t.shape.head
    centre = 0.62 * tall
    hair_color = rng.choice(HAIR)
    hair = t.material(Material(hair_color, gloss=0.25))
    plain = t.material(Material(skin, gloss=0.12))
    face = t.material(Material(skin, rng.choice(IRIS), materials.FACE, gloss=0.12))
    t.ellipsoid("head", (0.0, centre, 0.0), (width, tall, deep), face)
    jaw = (0.78 * width, 0.56 * tall, 0.74 * deep)
    t.ellipsoid("head", (0.0, centre - 0.42 * tall, 0.16 * deep), jaw, plain)
    bridge, tip = (0.0, centre + 0.05 * tall, 0.93 * deep), (0.0, centre - 0.16 * tall, 1.08 * deep)
    t.cone("head", bridge, tip, 0.09 * width, 0.19 * width, plain)
    for side in (1.0, -1.0):
        ear = (0.14 * width, 0.24 * tall, 0.17 * deep)
        t.ellipsoid("head", (side * width, centre - 0.02 * tall, -0.04 * deep), ear, plain)
    nape, chin = (0.0, -0.2 * t.shape.neck, 0.0), (0.0, 1.1 * t.shape.neck, 4.0)
    t.cone("neck", nape, chin, 0.74 * width, 0.66 * width, plain)
    _hair(t, rng, hair, centre)


def _hair(t: _Tailor, rng: Random, hair: int, centre: float) -> None:
    width, tall, deep = t.shape.head
    style = rng.weighted({"short": 0.4, "long": 0.2, "bun": 0.1, "tail": 0.08, "bald": 0.07, "cap": 0.15})
    if style == "bald":
        return
    lift = rng.uniform(0.10, 0.16)
    back = rng.uniform(0.15, 0.24)
    size = (1.05 * width, 1.0 * tall, 1.02 * deep)
    t.ellipsoid("head", (0.0, centre + lift * tall, -back * deep), size, hair)
    if style == "long":
        long = rng.uniform(1.3, 2.3)
        low = (0.0, centre - long * tall, -0.62 * deep)
        t.cone("head", (0.0, centre + 0.2 * tall, -0.42 * deep), low, 0.84 * width, 0.62 * width, hair, (1.12, 0.55))
    elif style == "bun":
        t.ellipsoid("head", (0.0, centre + 0.75 * tall, -0.95 * deep), (0.42 * width, 0.3 * tall, 0.4 * deep), hair)
    elif style == "tail":
        low = (0.0, centre - 1.2 * tall, -1.35 * deep)
        t.cone("head", (0.0, centre + 0.3 * tall, -1.15 * deep), low, 0.3 * width, 0.14 * width, hair)
    elif style == "cap":
        cap = t.material(Material(cloth_color(rng), gloss=0.05))
        t.ellipsoid("head", (0.0, centre + 0.42 * tall, -0.05 * deep), (1.08 * width, 0.64 * tall, 1.08 * deep), cap)
        brim = (0.0, centre + 0.48 * tall, 0.95 * deep)
        t.ellipsoid("head", brim, (0.85 * width, 0.07 * tall, 0.75 * deep), cap)


def _trunk(t: _Tailor, shirt: int, bare: int) -> None:
    """Belly, chest, shoulders; `bare` covers the top of the shoulders of a sleeveless shirt."""
    s = t.shape
    chest_w, chest_d = s.chest_half
    waist_w, waist_d = s.waist_half
    top = s.chest - 0.80 * chest_w
    flat = (1.0, chest_d / chest_w)
    t.cone("thorax", (0.0, 0.1 * s.chest, 0.0), (0.0, top, 0.0), 0.94 * waist_w, chest_w, shirt, flat)
    low = 0.5 * (waist_w + 0.9 * s.pelvis_half[0])
    flat = (1.0, waist_d / waist_w)
    t.cone("spine", (0.0, 0.42 * s.belly, 0.0), (0.0, s.belly, 0.0), low, waist_w, shirt, flat)
    for side in (1.0, -1.0):
        shoulder = (side * 0.96 * s.shoulder_half, s.chest - 0.014 * s.height, 0.0)
        neck = (0.0, s.chest + 0.85 * s.neck_base, -10.0)
        t.cone("thorax", neck, shoulder, 0.92 * s.arm_radii[0], 0.86 * s.arm_radii[0], bare)
        if s.bust:
            place = (side * 0.46 * chest_w, 0.62 * s.chest, 0.72 * chest_d)
            t.ellipsoid("thorax", place, (s.bust, 1.05 * s.bust, 0.95 * s.bust), shirt)
        else:
            place = (side * 0.44 * chest_w, 0.72 * s.chest, 0.55 * chest_d)
            t.ellipsoid("thorax", place, (0.5 * chest_w, 0.34 * chest_w, 0.52 * chest_d), shirt)


def _arms(t: _Tailor, shirt: int, skin: int, glove: int, sleeve: float) -> None:
    """Arms and hands; `sleeve` 0 is sleeveless, 0.5 covers half the upper arm, 2 reaches the wrist."""
    s = t.shape
    shoulder, elbow, wrist = s.arm_radii
    for side, sign in (("left", 1.0), ("right", -1.0)):
        upper = shirt if sleeve >= 1.0 else skin
        lower = shirt if sleeve >= 2.0 else skin
        loose = 6.0 if sleeve >= 1.0 else 0.0
        deltoid = shirt if sleeve > 0.0 else skin
        t.cone(f"{side}_upper_arm", (0.0, 0.0, 0.0), (0.0, -s.upper_arm, 0.0), shoulder + loose, elbow + loose, upper)
        muscle = (1.06 * shoulder, 1.5 * shoulder, 1.08 * shoulder)
        t.ellipsoid(f"{side}_upper_arm", (0.0, -0.16 * s.upper_arm, 0.0), muscle, deltoid)
        if 0.0 < sleeve < 1.0:
            end = (0.0, -sleeve * s.upper_arm, 0.0)
            t.cone(f"{side}_upper_arm", (0.0, 0.0, 0.0), end, shoulder + 4.0, shoulder + 9.0, shirt, cut=True)
        mid = (0.0, -0.3 * s.forearm, 0.0)
        loose = 7.0 if sleeve >= 2.0 else 0.0
        t.cone(f"{side}_forearm", (0.0, 0.0, 0.0), mid, elbow * 0.96 + loose, elbow * 1.04 + loose, lower)
        t.cone(f"{side}_forearm", mid, (0.0, -s.forearm, 0.0), elbow * 1.04 + loose, wrist + loose, lower)
        _hand(t, f"{side}_hand", sign, glove)


def _hand(t: _Tailor, segment: str, sign: float, skin: int) -> None:
    """A palm, a block of fingers and a thumb that points forward when the arm hangs."""
    hand, wrist = t.shape.hand, t.shape.arm_radii[2]
    t.ellipsoid(segment, (0.0, -0.26 * hand, 0.0), (0.62 * wrist, 0.34 * hand, 0.24 * hand), skin)
    tip = (-sign * 0.10 * hand, -0.88 * hand, 0.02 * hand)
    t.cone(segment, (0.0, -0.42 * hand, 0.0), tip, 0.19 * hand, 0.12 * hand, skin, (0.55, 1.0))
    thumb = (-sign * 0.06 * hand, -0.48 * hand, 0.36 * hand)
    t.cone(segment, (0.0, -0.14 * hand, 0.13 * hand), thumb, 0.085 * hand, 0.065 * hand, skin)


def _legs(t: _Tailor, cloth: int, skin: int, cover: float) -> None:
    """Hips and legs; `cover` is the share of the thigh that shorts hide, 2 makes trousers."""
    s = t.shape
    hip, knee, ankle = s.leg_radii
    width, depth = s.pelvis_half
    inner = width - 0.86 * depth
    t.cone("pelvis", (-inner, 4.0, -8.0), (inner, 4.0, -8.0), 0.86 * depth, 0.86 * depth, cloth)
    t.ellipsoid("pelvis", (0.0, 0.2 * s.belly, -4.0), (0.94 * width, 0.5 * s.belly, 0.96 * depth), cloth)
    for side in ("left", "right"):
        upper = cloth if cover >= 1.0 else skin
        lower = cloth if cover >= 2.0 else skin
        loose = 6.0 if cover >= 1.0 else 0.0
        t.cone(f"{side}_thigh", (0.0, 0.0, 0.0), (0.0, -s.thigh, 0.0), hip + loose, knee + loose, upper)
        if cover < 1.0:
            end = (0.0, -cover * s.thigh, 0.0)
            t.cone(f"{side}_thigh", (0.0, 0.0, 0.0), end, hip + 8.0, 0.5 * (hip + knee) + 26.0, cloth, cut=True)
        calf = (0.0, -0.3 * s.shin, -6.0)
        loose = 8.0 if cover >= 2.0 else 0.0
        t.cone(f"{side}_shin", (0.0, 0.0, 0.0), calf, 0.96 * knee + loose, 1.02 * knee + loose, lower)
        t.cone(f"{side}_shin", calf, (0.0, -s.shin, 0.0), 1.02 * knee + loose, ankle + 1.4 * loose, lower)


def _shoes(t: _Tailor, shoe: int, sole: int) -> None:
    s = t.shape
    low = -s.ankle_height
    for side in ("left_foot", "right_foot"):
        r = 0.5 * s.ankle_height
        ball = (0.0, low + 0.62 * r, 0.74 * s.foot)
        t.cone(side, (0.0, low + r, -0.12 * s.foot), ball, 1.05 * r, 0.72 * r, shoe, (1.12, 1.0))
        t.cone(side, (0.0, -0.1 * r, 0.0), (0.0, low + r, 0.02 * s.foot), 1.02 * s.leg_radii[2], 0.95 * r, shoe)
        flat = (0.0, low + 0.24 * r, 0.32 * s.foot)
        t.ellipsoid(side, flat, (1.25 * r, 0.3 * r, 0.68 * s.foot), sole)


def _shirt_material(rng: Random, shape: Shape) -> Material:
    color, accent = cloth_color(rng), cloth_color(rng)
    pattern = rng.weighted(
        {
            materials.PLAIN: 0.36,
            materials.RINGS: 0.18,
            materials.STRIPES: 0.08,
            materials.CHECKS: 0.10,
            materials.EMBLEM: 0.16,
            materials.BUTTONS: 0.12,
        }
    )
    period = rng.uniform(0.2, 0.32) * shape.chest if pattern == materials.EMBLEM else rng.uniform(50.0, 120.0)
    return Material(color, accent, pattern, period, gloss=0.02)


def dress(shape: Shape, rng: Random) -> Figure:
    """The solids of one person on the segments of the body, with random skin, hair and clothes."""
    t = _Tailor(shape)
    skin_color = rng.choice(SKIN)
    skin = t.material(Material(skin_color, gloss=0.10))
    shirt = t.material(_shirt_material(rng, shape))
    sleeve = rng.weighted({0.0: 0.14, 0.45: 0.24, 0.7: 0.22, 2.0: 0.4})
    legs = t.material(Material(cloth_color(rng), gloss=0.02))
    shoe_color = cloth_color(rng)
    sole = t.material(Material((228.0, 226.0, 222.0) if rng.chance(0.6) else (30.0, 30.0, 32.0)))
    _head(t, rng, skin_color)
    _trunk(t, shirt, skin if sleeve == 0.0 else shirt)
    _arms(t, shirt, skin, skin, sleeve)
    bottom = rng.weighted({"trousers": 0.56, "shorts": 0.26, "skirt": 0.18 if shape.bust else 0.03})
    if bottom == "skirt":
        _legs(t, legs, skin, 0.4)
        long = rng.uniform(0.55, 1.05) * shape.thigh
        width, depth = shape.pelvis_half
        flare = rng.uniform(1.1, 1.45)
        t.cone("skirt", (0.0, 20.0, 0.0), (0.0, -long, 0.0), 1.02 * width, flare * width, legs, (1.0, 0.88), cut=True)
    else:
        _legs(t, legs, skin, 2.0 if bottom == "trousers" else rng.uniform(0.5, 0.85))
    hem = rng.uniform(-0.02, 0.16) * shape.thigh
    width, depth = shape.pelvis_half
    flat = (1.0, 1.06 * depth / width)
    waist = 0.5 * (shape.waist_half[0] + 0.9 * width) + 2.0
    t.cone("pelvis", (0.0, 0.45 * shape.belly, 0.0), (0.0, -hem, -4.0), waist, 1.08 * width, shirt, flat, cut=True)
    _shoes(t, t.material(Material(shoe_color, gloss=0.2)), sole)
    return t.figure()


def place(figure: Figure, body: Skeleton3D, frame: int, root: np.ndarray, person: int, first_material: int) -> Solids:
    """The figure's solids in the world, posed as in one frame, with the pelvis at `root` (mm)."""
    rotation = body.rotation[frame, figure.segment]
    axes = product(rotation, figure.axes)
    centre = body.origin[frame, figure.segment] + transform(rotation, figure.centre) + root
    count = len(figure.segment)
    return Solids(
        axes=axes,
        centre=centre,
        length=figure.sizes[:, 0],
        near=figure.sizes[:, 1],
        far=figure.sizes[:, 2],
        cut=figure.cut,
        kind=figure.kind,
        material=figure.material + first_material,
        person=np.full(count, person),
        part=figure.segment,
        rest_axes=figure.axes,
        rest_centre=figure.rest_centre,
    )
