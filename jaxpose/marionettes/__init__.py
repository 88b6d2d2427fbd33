"""Marionettes: procedural people with exact joints, for training without any download.

    config = MarionettesConfig(scene="crowd", look="street", width=320, height=240, people=(2, 6))
    folder = prepare(config, "~/data")          # TFDS records and columnar annotations, written once
    example = picture(config, "train", 0)       # or one picture at a time

`jaxpose marionettes --scene=crowd --output=sheet.png` draws a sheet of them.
"""

from typing import TYPE_CHECKING, Any

from jaxpose.marionettes.body import JOINTS
from jaxpose.marionettes.config import GENERATOR_VERSION, MarionettesConfig
from jaxpose.marionettes.scenes import picture
from jaxpose.marionettes.sequences import Sequence, sequence
from jaxpose.marionettes.shots import Rendering

if TYPE_CHECKING:
    from jaxpose.marionettes.builder import prepare

__all__ = [
    "GENERATOR_VERSION",
    "JOINTS",
    "MarionettesConfig",
    "Rendering",
    "Sequence",
    "picture",
    "prepare",
    "sequence",
]


def __getattr__(name: str) -> Any:
    if name == "prepare":  # brings TFDS and OpenCV along
        from jaxpose.marionettes.builder import prepare

        return prepare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
