"""The description of a data set of marionettes, from which every picture follows."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from jaxpose.errors import ConfigError
from jaxpose.marionettes.looks import LOOKS

GENERATOR_VERSION = "1.0.0"  # raise whenever the same configuration would give other bytes
SCENES = ("single", "crowd", "clip", "sequence")
SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class MarionettesConfig:
    """A data set of procedural people.

    Attributes:
      scene: `single` (one main person a picture), `crowd` (several people of very different size), `clip` (moving
        pictures with track ids) or `sequence` (no pictures: 2D joints with detector noise, 3D joints, camera).
      look: `studio` (plain backdrop, soft light) or `street` (textured, lit from anywhere, blurred, noisy, cluttered).
      train: number of pictures, clips or sequences in the training split.
      validation: number of them in the validation split, with other people, poses and surroundings.
      width: width of a picture in pixels.
      height: height of a picture in pixels.
      frames: number of frames of a clip or a sequence; 1 for pictures.
      people: least and greatest number of people in a crowd, or in the middle of a clip, passers-by not counted.
      occlusion: probability that something stands (or passes) in front of the people.
      seed: seed of all that is random.
    """

    scene: str = "single"
    look: str = "studio"
    train: int = 3000
    validation: int = 400
    width: int = 160
    height: int = 160
    frames: int = 1
    people: tuple[int, int] = (1, 1)
    occlusion: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "people", tuple(self.people))
        checks = (
            ("scene", self.scene in SCENES, f"one of {', '.join(SCENES)}"),
            ("look", self.look in LOOKS, f"one of {', '.join(LOOKS)}"),
            ("train", self.train >= 0, "0 or more"),
            ("validation", self.validation >= 0, "0 or more"),
            ("width", 32 <= self.width <= 4096, "32 to 4096"),
            ("height", 32 <= self.height <= 4096, "32 to 4096"),
            ("frames", self.frames >= 1, "1 or more"),
            ("frames", self.frames == 1 or self.scene in ("clip", "sequence"), f"1 for scene={self.scene!r}"),
            ("people", len(self.people) == 2 and 1 <= self.people[0] <= self.people[1], "(least, greatest), from 1"),
            ("people", self.people == (1, 1) or self.scene in ("crowd", "clip"), f"(1, 1) for scene={self.scene!r}"),
            ("occlusion", 0.0 <= self.occlusion <= 1.0, "a probability"),
            ("seed", 0 <= self.seed < 2**32, "0 to 2**32 - 1"),
        )
        for field, good, expected in checks:
            if not good:
                raise ConfigError(f"MarionettesConfig.{field}: found {getattr(self, field)!r}, expected {expected}")

    def count(self, split: str) -> int:
        """Number of pictures, clips or sequences in a split."""
        if split not in SPLITS:
            raise ConfigError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
        return self.train if split == "train" else self.validation

    def fingerprint(self) -> str:
        """A short digest of every field and of the generator's version: equal digests, equal bytes."""
        fields = {"version": GENERATOR_VERSION, **dataclasses.asdict(self)}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
