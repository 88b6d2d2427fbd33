"""Small pictures of every kind, drawn once."""

import functools

import pytest

from jaxpose.marionettes import MarionettesConfig, picture

CONFIGS = {
    "single": {"scene": "single", "width": 96, "height": 96},
    "crowd": {"scene": "crowd", "width": 160, "height": 120, "people": (2, 4)},
    "clip": {"scene": "clip", "width": 128, "height": 96, "people": (1, 2), "frames": 3, "occlusion": 1.0},
}


@functools.cache
def drawn(scene: str, look: str, count: int):
    """(configuration, pictures of the training split); a clip's frames follow one another."""
    config = MarionettesConfig(look=look, train=count, validation=2, **CONFIGS[scene])
    pictures = []
    for index in range(count):
        made = picture(config, "train", index)
        pictures.extend(made if isinstance(made, list) else [made])
    return config, pictures


@pytest.fixture(params=["single", "crowd", "clip"])
def scene(request):
    return request.param


@pytest.fixture(params=["studio", "street"])
def look(request):
    return request.param


@pytest.fixture
def shots(scene, look):
    return drawn(scene, look, 2 if scene == "clip" else 6)


@pytest.fixture
def clips():
    return drawn("clip", "studio", 2)
