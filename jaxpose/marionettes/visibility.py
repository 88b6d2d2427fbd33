"""The visibility of joints: rays from the camera to the joints, against every solid of the scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpose.marionettes.body import JOINTS, SEGMENT, SEGMENTS, Shape
from jaxpose.marionettes.render import Solids, entry_depths

_HOME = {
    "nose": ("head",),
    "eye": ("head",),
    "ear": ("head",),
    "shoulder": ("thorax", "neck", "{}_upper_arm"),
    "elbow": ("{}_upper_arm", "{}_forearm"),
    "wrist": ("{}_forearm", "{}_hand"),
    "hip": ("pelvis", "spine", "{}_thigh", "skirt"),
    "knee": ("{}_thigh", "{}_shin", "skirt"),
    "ankle": ("{}_shin", "{}_foot"),
    "toe": ("{}_foot",),
    "pelvis": ("pelvis", "spine", "left_thigh", "right_thigh", "skirt"),
    "spine": ("pelvis", "spine", "thorax"),
    "thorax": ("thorax", "spine", "neck"),
    "neck": ("neck", "thorax", "head"),
    "head": ("head",),
    "head_top": ("head",),
}


def _home_parts() -> np.ndarray:
    """[25, S] bool, True if a segment carries the flesh around a joint."""
    table = np.zeros((len(JOINTS), len(SEGMENTS)), bool)
    for j, joint in enumerate(JOINTS):
        side, _, rest = joint.partition("_")
        name = rest if side in ("left", "right") else joint
        for part in _HOME[name]:
            table[j, SEGMENT[part.format(side)]] = True
    return table


HOME = _home_parts()


def flesh(shape: Shape) -> np.ndarray:
    """[25] thickness in mm of the body's own flesh and clothing through which a joint still counts as seen."""
    shoulder, elbow, wrist = shape.arm_radii
    hip, knee, ankle = shape.leg_radii
    depth = shape.head[2]
    thickness = {
        **{"nose": 0.35 * depth, "eye": 0.25 * depth, "ear": 0.35 * depth},
        **{"head": 1.6 * depth, "head_top": 0.9 * depth, "neck": 1.2 * shape.chest_half[1]},
        **{"shoulder": 2.6 * shoulder, "elbow": 2.2 * elbow + 8.0, "wrist": 2.6 * wrist + 8.0},
        **{"hip": 1.9 * hip + 30.0, "knee": 2.0 * knee + 30.0, "ankle": 2.4 * ankle + 12.0},
        **{"toe": shape.ankle_height, "pelvis": 1.7 * shape.pelvis_half[1]},
        **{"spine": 1.7 * shape.waist_half[1], "thorax": 1.9 * shape.chest_half[1]},
    }
    names = [joint.removeprefix("left_").removeprefix("right_") for joint in JOINTS]
    return np.array([thickness[name] for name in names])


def seen(joints: np.ndarray, solids: Solids, shapes: Sequence[Shape]) -> np.ndarray:
    """[N, 25] bool, True for joints that the camera sees.

    A joint lies inside its limb, so its own segments may stand in front of it as far as `flesh` allows; anything else
    in front of it hides it: other limbs, other people, things.

    Args:
      joints: [N, 25, 3] joints of persons 0 to N - 1 in the camera's frame, in mm, in front of the camera.
      solids: solids of the scene in the camera's frame.
      shapes: proportions of the N persons.
    """
    allowance = np.stack([flesh(shape) for shape in shapes])
    entry = entry_depths(solids, joints.reshape(-1, 3)).reshape(*joints.shape[:2], len(solids))
    own = solids.person[None, :] == np.arange(len(shapes))[:, None]
    home = HOME[:, np.maximum(solids.part, 0)] & (solids.part >= 0)
    slack = np.where(own[:, None, :] & home[None], allowance[:, :, None], 4.0)
    return ~np.any(entry < joints[..., 2:] - slack, axis=-1)


def labelled(pixels: np.ndarray, visible: np.ndarray, width: int, height: int) -> np.ndarray:
    """Joints (x, y, v) [..., 3]: v is 2 if seen, 1 if hidden, 0 outside a picture of width x height."""
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x >= -0.5) & (y >= -0.5) & (x < width - 0.5) & (y < height - 0.5)
    v = np.where(inside, np.where(visible, 2.0, 1.0), 0.0)
    return np.concatenate([pixels, v[..., None]], axis=-1)
