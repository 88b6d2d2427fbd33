"""Data sets that live outside the library: found by a dotted path, with nothing changed in it."""

import importlib

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from jaxpose import config as configs
from jaxpose import methods
from jaxpose.data import build, sources
from jaxpose.data.examples.sequences import SequenceSource, open_sequences
from jaxpose.data.sources import open_source
from jaxpose.errors import ConfigError

BIRDS = '''
"""Pictures of single birds, whose joints are those of people."""

import cv2
import numpy as np

from jaxpose.data.annotations import Annotations
from jaxpose.data.sources import Source
from jaxpose.skeleton import COCO

WIDTH, HEIGHT = 64, 80


def labels(count):
    """One bird a picture."""
    rng = np.random.default_rng(count)
    number = np.arange(count)
    return Annotations(
        skeleton=COCO,
        image_id=number + 1,
        file_name=np.array([f"bird{i}.png" for i in number]),
        width=np.full(count, WIDTH, np.int32),
        height=np.full(count, HEIGHT, np.int32),
        person_image=number.astype(np.int32),
        person_id=number + 1,
        box=np.tile(np.float32([4, 4, 50, 70]), (count, 1)),
        keypoints=rng.uniform(10, 50, (count, COCO.num_joints, 2)).astype(np.float32),
        visibility=np.full((count, COCO.num_joints), 2, np.uint8),
        area=np.full(count, 3000, np.float32),
        crowd=np.zeros(count, bool),
        track_id=np.full(count, -1),
    )


def read(i):
    return cv2.imencode(".png", np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8))[1].tobytes()


def open_split(data, split, *, progress=True):
    return Source(f"birds ({split})", labels(data.birds[split]), read)


class Birds:
    """The same, without the library's class."""

    def __init__(self, data, split, *, progress=True):
        self.name = f"birds ({split})"
        self.annotations = labels(data.birds[split])

    def read(self, i):
        return read(i)


def open_nothing(data, split, *, progress=True):
    return []
'''

FLIGHTS = '''
"""A bird that stays where it is, as 2D keypoints with 3D joints."""

import numpy as np

from jaxpose.data.examples.sequences import Camera, SequenceSource, Video
from jaxpose.skeleton import H36M

CAMERA = Camera("north", (64, 64), np.float32([2, 2, 0, 0, 0, 0, 0, 0, 0]), np.float32([1, 0, 0, 0]), np.zeros(3))


def open_sequences(data, split, *, progress=True):
    joints = np.random.default_rng(0).normal(size=(9, 17, 3)) + [0, 0, 5]
    video = Video.of_joints("bird", "Sitting", CAMERA, np.zeros((9, 17, 3)), joints, root=0)
    return SequenceSource(f"flights ({split})", H36M, 50.0, (video,))
'''


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """Name of a package that is no part of the library."""
    name = f"mylab_{tmp_path.name}"  # imported once, so that every test has its own
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "birds.py").write_text(BIRDS)
    (folder / "flights.py").write_text(FLIGHTS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def config_of(folder, source: str, method: str = "heatmap") -> ConfigDict:
    config = tiny.config(folder, method)
    config.data.source = source
    config.data.birds = ConfigDict({"train": 5, "validation": 3})
    return config


@pytest.mark.parametrize("path", ["birds", "birds.open_split", "birds.Birds"])
@pytest.mark.parametrize("name", ["heatmap", "dekr"])
def test_a_source_outside_the_library_gives_examples(tmp_path, mylab, path, name):
    """A module, a function and a class that is no `Source`; to train on and to evaluate, as crops and as images."""
    config = config_of(tmp_path, f"{mylab}.{path}", name)
    method = methods.create(config.method)
    examples = build.train_examples(config, method)["source"]
    assert len(examples) == 5
    assert examples.names(np.arange(2)) == ["bird0.png", "bird1.png"]
    spec = method.spec(1)["source"]
    example = examples.load(3, np.random.default_rng(0))
    assert {field: example[field].shape for field in spec} == {field: v.shape[1:] for field, v in spec.items()}
    assert len(build.evaluation_examples(config, method)) == 3
    batch = next(build.evaluation_stream(config, build.evaluation_examples(config, method)))["source"]
    assert batch["valid"].sum() == 3


def test_sequences_outside_the_library(tmp_path, mylab):
    config = config_of(tmp_path, f"{mylab}.flights", "anatomy3d")
    method = methods.create(config.method)
    examples = build.train_examples(config, method)["source"]
    assert len(examples) == 2 * 9
    assert examples.load(4, np.random.default_rng(0))["window"].shape == (method.receptive_field, 17, 3)
    found = open_sequences(config.data, "validation")
    assert isinstance(found, SequenceSource)
    assert found.name == "flights (validation)"


class TestWhatIsWrong:
    def test_a_module_without_the_function(self, tmp_path, mylab):
        config = config_of(tmp_path, f"{mylab}.flights")
        with pytest.raises(ConfigError, match=r"flights', which has no images .*that have are coco, folder"):
            open_source(config.data, "train")
        config = config_of(tmp_path, f"{mylab}.birds")
        with pytest.raises(ConfigError, match=r"birds', which has no sequences .*no function 'open_sequences'"):
            open_sequences(config.data, "train")

    def test_something_else_than_a_source(self, tmp_path, mylab):
        config = config_of(tmp_path, f"{mylab}.birds.open_nothing")
        with pytest.raises(ConfigError, match=r"birds\.open_nothing', which opens a list; expected .*sources\.Source"):
            open_source(config.data, "train")
        with pytest.raises(ConfigError, match=r"which opens a list; expected .*SequenceSource"):
            open_sequences(config.data, "train")

    def test_nothing_of_that_name(self, tmp_path, mylab):
        config = config_of(tmp_path, f"{mylab}.birds.Bees")
        with pytest.raises(ConfigError, match=r"config.data.source is '.*Bees', but '.*\.birds' has no 'Bees'"):
            open_source(config.data, "train")

    def test_joints_that_the_data_set_lacks(self, tmp_path, mylab):
        config = config_of(tmp_path, f"{mylab}.birds.Birds")
        config.data.skeleton = "h36m"
        with pytest.raises(ConfigError, match=r"config.data.skeleton is 'h36m', but birds \(train\) is annotated with"):
            open_source(config.data, "train")


def test_every_module_of_the_library_is_a_source():
    """Helpers live elsewhere, so that an unknown name is answered with data sets only."""
    for name in configs.names(sources.__name__):
        module = importlib.import_module(f"{sources.__name__}.{name}")
        assert {"open_split", "open_sequences"} & set(vars(module)), name
